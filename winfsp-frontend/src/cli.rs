//! The commands. Their arguments are in the crate `commands`, shared with Linux; here is what they
//! do on Windows.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use commands::arguments::{
    self, CommonMountArgs, ConfigArgs, ConfigCommand, DemoArgs, EXIT_CODES, ProbeArgs, RecoverArgs,
    SetArgs, StatusArgs, UmountArgs,
};
use commands::failure::Failure;
use commands::protocol::{Request, Response, set_request};
use commands::table::{print, row, table};
use commands::{bench, config, config_check, recovery};
use fs_core::batch::{Files, FilesConfig};
use fs_core::log::probe;
use fs_core::platform::windows::{BackingOptions, WindowsBacking};
use fs_core::platform::{Backing, LogStore};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use crate::control;
use crate::mount::{Mount, MountOptions, MountPlan, OPTIONS_HELP};

/// Size of the file that `probe` writes and removes again.
const PROBE_BYTES: u64 = 8 << 20;
const PROBE_TIME_MAX: Duration = Duration::from_millis(500);

/// `lanefs --version`: WinFsp's licence asks for the attribution.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nWinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos\n",
    "https://github.com/winfsp/winfsp"
);

/// Mount a directory so that every program on it gets transparent group commit.
#[derive(Debug, Parser)]
#[command(name = "lanefs", version = VERSION, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount BACKING at MOUNTPOINT: a drive (X:), or a directory that does not exist yet.
    Mount(MountArgs),
    /// What every platform has.
    #[command(flatten)]
    Common(arguments::Command),
    /// Show what lanefs does: writers that replace files by themselves and through lanefs.
    #[command(after_help = format!("{DEMO_TEXT}\n\n{EXIT_CODES}"))]
    Demo(DemoArgs),
}

/// Arguments of `lanefs mount`.
#[derive(Debug, Args)]
#[command(after_help = format!("{OPTIONS_HELP}\n\n{MOUNT_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct MountArgs {
    /// What every platform has.
    #[command(flatten)]
    pub common: CommonMountArgs,
}

const MOUNT_EXAMPLES: &str = "\
Examples:
  lanefs mount C:\\data X:                serve as drive X: until Ctrl-C
  lanefs mount C:\\data C:\\mnt\\data       as a directory, which must not exist yet
  lanefs mount C:\\data X: -o durability=close

Ctrl-C and `lanefs umount` make everything durable, unmount and exit 0.
Mounting needs WinFsp (https://winfsp.dev).";

const DEMO_TEXT: &str = "\
The demo works in a scratch directory of the temporary directory, or in DIR: writers replace
files by themselves (write, flush, rename), then through lanefs's library, which shares
flushes; then every acknowledged file is verified. For the same on a mount: mount, then
`lanefs bench` in both places. Nothing is left behind.";

/// Runs the command of the process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lanefs: {failure}");
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What it failed with, with the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Mount(args) => Mount::start(plan(&args.common)?)?.serve(),
        Command::Common(command) => run_common(command),
        Command::Demo(args) => demo(&args),
    }
}

fn run_common(command: arguments::Command) -> Result<(), Failure> {
    use arguments::Command;
    match command {
        Command::Umount(args) => umount(&args),
        Command::Status(args) => status(&args),
        Command::Set(args) => set(&args),
        Command::Config(ConfigArgs { command: ConfigCommand::Check(args) }) => {
            config_check::check(&args, usual_file())
        }
        Command::Recover(args) => recover(&args, true),
        Command::Check(args) => recover(&args, false),
        Command::Probe(args) => probe_directory(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// Where settings of mounts are if nobody says otherwise.
fn usual_file() -> Option<PathBuf> {
    std::env::var_os("ProgramData").map(|all| PathBuf::from(all).join("lanefs").join("lanefs.toml"))
}

fn plan(args: &CommonMountArgs) -> Result<MountPlan, Failure> {
    let mut options = MountOptions::default();
    for words in &args.options {
        options.apply(words)?;
    }
    if let Some(mode) = &args.durability {
        options.durability.durability = Some(commands::values::durability(mode)?);
    }
    if let Some(interval) = &args.commit_interval {
        options.durability.commit_interval = Some(config::commit_interval(interval)?);
    }
    let backing = args.backing.canonicalize().map_err(|error| {
        Failure::usage(format!("cannot find {}: {error}", args.backing.display()))
    })?;
    let mount_point = place(&args.mount_point)?;
    // WinFsp makes the directory itself, and removes it with the mount.
    if !is_drive(&mount_point) && mount_point.exists() {
        return Err(Failure::usage(format!(
            "{} exists: name a directory that does not exist yet, or a drive like X:",
            mount_point.display()
        )));
    }
    let (file, config) = config::load(args.config.as_deref(), usual_file())?;
    let settings = config::settle(options.durability, file, &config, &mount_point)?;
    Ok(MountPlan { backing, mount_point, settings, options })
}

fn is_drive(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let text = text.trim_end_matches('\\').as_bytes();
    text.len() == 2 && text[0].is_ascii_alphabetic() && text[1] == b':'
}

/// A mount point as it is kept: a drive as it is, a directory from the root.
fn place(path: &Path) -> Result<PathBuf, Failure> {
    if is_drive(path) {
        return Ok(PathBuf::from(path.to_string_lossy().trim_end_matches('\\')));
    }
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))
}

fn ask(path: &Path, request: &Request) -> Result<Response, Failure> {
    match control::ask(&control::pipe_name(&place(path)?), request)? {
        Response::Failed { message } => Err(Failure::new(message)),
        other => Ok(other),
    }
}

fn other_answer() -> Failure {
    Failure::new("the mount answered something else")
}

fn umount(args: &UmountArgs) -> Result<(), Failure> {
    // WinFsp takes a volume away with its process: nothing is ever left to be cleaned up.
    if args.dead {
        return Ok(());
    }
    match ask(&args.mount_point, &Request::Unmount { lazy: args.lazy })? {
        Response::Unmounted => Ok(()),
        _ => Err(other_answer()),
    }
}

fn set(args: &SetArgs) -> Result<(), Failure> {
    match ask(&args.mount_point, &set_request(&args.settings)?)? {
        Response::Set { durability, commit_interval } => {
            print(&format!("durability={durability} commit-interval={commit_interval}\n"))
        }
        _ => Err(other_answer()),
    }
}

fn status(args: &StatusArgs) -> Result<(), Failure> {
    let request = || if args.durability { Request::AtRisk } else { Request::Status };
    let of = |pipe: &str| match control::ask(pipe, &request())? {
        Response::Status { status } => Ok(status),
        Response::AtRisk { at_risk } => Ok(at_risk),
        Response::Failed { message } => Err(Failure::new(message)),
        _ => Err(other_answer()),
    };
    let shown = |status: &Value| {
        if args.durability {
            format!("{}\n", serde_json::to_string_pretty(status).expect("plain data"))
        } else {
            commands::status::shown(status)
        }
    };
    if let Some(path) = &args.mount_point {
        let status = of(&control::pipe_name(&place(path)?))?;
        return print(&if args.json { format!("{status}\n") } else { shown(&status) });
    }
    let mut reports = Vec::new();
    for pipe in control::all()? {
        // One mount that cannot be asked must not hide the others.
        match of(&pipe) {
            Ok(status) => reports.push(status),
            Err(failure) => eprintln!("lanefs: {failure}"),
        }
    }
    print(&if args.json {
        format!("{}\n", Value::Array(reports))
    } else if reports.is_empty() {
        "No lanefs mount to show. Make one: lanefs mount BACKING X:\n".to_owned()
    } else {
        reports.iter().map(shown).collect::<Vec<_>>().join("\n")
    })
}

fn open(dir: &Path) -> Result<WindowsBacking, Failure> {
    WindowsBacking::open(dir, BackingOptions::default())
        .map_err(|error| Failure::new(error.to_string()))
}

/// A directory can have a log only from elsewhere (a disk that was written on Linux has other file
/// ids), or from a test; what there is, is said.
fn recover(args: &RecoverArgs, does: bool) -> Result<(), Failure> {
    if args.log.is_some() {
        return Err(Failure::usage("--log: on Windows a log is not kept elsewhere"));
    }
    let backing = open(&args.backing)?;
    let failed = |error: fs_core::log::OpenLogError| {
        Failure::new(format!("{}: {error}", args.backing.display()))
    };
    let report = if does {
        fs_core::log::recovery::recover(&backing, None, &mut |_| {}).map_err(failed)?
    } else {
        fs_core::log::recovery::check(&backing, None).map_err(failed)?
    };
    recovery::show(args, report.as_ref(), does)
}

fn probe_directory(args: &ProbeArgs) -> Result<(), Failure> {
    let shown = args.dir.display();
    let backing = open(&args.dir)?;
    let measure = || {
        let root = backing.root()?.object;
        let name = format!(".lanefs-probe-{}", std::process::id());
        let name = OsStr::new(&name);
        let store = backing.make_log(&root, name, PROBE_BYTES, &mut |_| {})?;
        let figures = probe::measure(&store, 0..store.bytes(), PROBE_TIME_MAX);
        drop(store);
        backing.unlink(&root, name)?;
        figures
    };
    let figures =
        measure().map_err(|error| Failure::new(format!("cannot measure {shown}: {error}")))?;
    let reason = backing.log_obstacle().unwrap_or_default();
    let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    if args.json {
        let json = json!({
            "directory": args.dir,
            "filesystem": backing.filesystem_name(),
            "flush_us": us(figures.flush),
            "flush_us_p99": us(figures.flush_p99),
            "write_4k_us": us(figures.write_4k),
            "bandwidth_bytes_per_s": figures.bandwidth_bytes_per_s.round(),
            "fence": "backing",
            "reason": reason,
        });
        return print(&format!("{json}\n"));
    }
    let flush = format!("{} us (p99 {} us)", us(figures.flush), us(figures.flush_p99));
    let rows = table(&[
        row([&"filesystem", &backing.filesystem_name()]),
        row([&"flush", &flush]),
        row([&"write of 4 KiB", &format!("{} us", us(figures.write_4k))]),
        row([&"bandwidth", &format!("{:.0} MB/s", figures.bandwidth_bytes_per_s / 1e6)]),
    ]);
    print(&format!("{rows}\nfence=auto would choose: backing, because {reason}.\n"))
}

/// What writers of one kind did.
struct Turn {
    replaces: u64,
    elapsed: Duration,
    /// The last number that each writer was told was durable.
    last: Vec<u64>,
}

/// Lets writers replace their file, each in a directory of its own, until time is up.
fn turn(
    args: &DemoArgs,
    write: &(dyn Fn(u16, u64) -> Result<(), Failure> + Sync),
) -> Result<Turn, Failure> {
    let start = Instant::now();
    let end = start + Duration::from_secs(u64::from(args.seconds));
    let results: Vec<Result<u64, Failure>> = std::thread::scope(|scope| {
        let writer = |number: u16| {
            scope.spawn(move || {
                let mut round = 0;
                while round == 0 || Instant::now() < end {
                    write(number, round + 1)?;
                    round += 1;
                }
                Ok(round)
            })
        };
        let writers: Vec<_> = (0..args.writers).map(writer).collect();
        let panicked = |_| Err(Failure::new("a writer panicked"));
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(panicked)).collect()
    });
    let elapsed = start.elapsed();
    let last = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Turn { replaces: last.iter().sum(), elapsed, last })
}

fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("the demo failed: {error}"));
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.map_err(failed)?;
    let (bare, through) = (scratch.path().join("bare"), scratch.path().join("lanefs"));
    for place in [&bare, &through] {
        for writer in 0..args.writers {
            std::fs::create_dir_all(place.join(writer.to_string())).map_err(failed)?;
        }
    }
    let content = |number: u64| format!("{number:04096}");
    let by_itself = turn(args, &|writer, number| {
        use std::io::Write;
        let dir = bare.join(writer.to_string());
        let mut file = std::fs::File::create(dir.join("new")).map_err(failed)?;
        file.write_all(content(number).as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        drop(file);
        std::fs::rename(dir.join("new"), dir.join("file")).map_err(failed)
    })?;
    let files = Files::open(&through, FilesConfig::default())
        .map_err(|error| Failure::new(error.to_string()))?;
    let by_lanefs = turn(args, &|writer, number| {
        let written = files.write(format!("{writer}/file"), content(number));
        written.map_err(|error| Failure::new(error.to_string()))
    })?;
    let status = files.status();
    files.close(Duration::from_secs(60)).map_err(|error| Failure::new(error.to_string()))?;
    for (place, turn) in [(&bare, &by_itself), (&through, &by_lanefs)] {
        for (writer, &number) in turn.last.iter().enumerate() {
            let path = place.join(writer.to_string()).join("file");
            let found = std::fs::read_to_string(&path).map_err(failed)?;
            if found != content(number) {
                return Err(Failure::new(format!("{} is not as written", path.display())));
            }
        }
    }
    let rate = |turn: &Turn| turn.replaces as f64 / turn.elapsed.as_secs_f64();
    let lanes = &status.engine.lanes;
    let verified = by_itself.last.len() + by_lanefs.last.len();
    if args.json {
        let json = json!({
            "writers": args.writers,
            "seconds": args.seconds,
            "bare_replaces_per_s": rate(&by_itself),
            "lanefs_replaces_per_s": rate(&by_lanefs),
            "sync_requests": lanes.sync_requests,
            "groups": lanes.groups,
            "files_verified": verified,
            "no_log": status.no_log,
        });
        return print(&format!("{json}\n"));
    }
    let rows = table(&[
        row([&"", &"bare", &"lanefs"]),
        row([
            &"replaces/s",
            &format!("{:.0}", rate(&by_itself)),
            &format!("{:.0}", rate(&by_lanefs)),
        ]),
        row([&"sync requests, groups", &"", &format!("{}, {}", lanes.sync_requests, lanes.groups)]),
    ]);
    print(&format!(
        "{} writers replace their file. Bare: write, flush, rename; the rename need not survive a \
         power cut. Through lanefs everything does.\n{rows}\nVerified: {verified} files, none \
         lost. No log is kept: {}.\n",
        args.writers,
        status.no_log.as_deref().unwrap_or("-")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::command().render_version().contains(crate::ATTRIBUTION));
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in ["mount", "umount", "status", "recover", "check", "demo", "probe", "bench"] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }

    #[test]
    fn mount_points_are_drives_or_directories() {
        assert!(is_drive(Path::new("X:")) && is_drive(Path::new("x:\\")));
        assert!(!is_drive(Path::new(r"C:\x")) && !is_drive(Path::new("1:")));
        assert_eq!(place(Path::new("X:\\")).expect("a drive"), PathBuf::from("X:"));
    }
}
