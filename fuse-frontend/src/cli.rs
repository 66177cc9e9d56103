//! The command line: definitions here, each command in its own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::mount::options::OPTIONS_HELP;

mod at_risk;
mod config;
pub mod crash_test;
mod demo;
mod log;
mod mount;
mod probe;
mod recover;
mod restart;
mod set;
mod status;
mod table;
mod umount;

/// Exit codes, shown below every help text.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it failed, standard error says why and what helps; \
2 the command was used wrongly, nothing was tried.";

/// Mount a directory so that every program on it gets transparent group commit.
#[derive(Debug, Parser)]
#[command(name = "lanefs", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount BACKING at MOUNTPOINT.
    Mount(MountArgs),
    /// Make everything durable, unmount, end the daemon. Cleans up after a dead daemon too.
    Umount(UmountArgs),
    /// Replace a mount's daemon by this program, or another, without unmounting.
    Restart(RestartArgs),
    /// Show a mount's engine, lanes and requests; all mounts without MOUNTPOINT.
    Status(StatusArgs),
    /// Change a running mount: what is durable when.
    Set(SetArgs),
    /// Check the file with settings of mounts.
    Config(ConfigArgs),
    /// Bring a directory up to date after a power cut, without mounting it.
    Recover(RecoverArgs),
    /// Say what `recover` would do; change nothing.
    Check(RecoverArgs),
    /// Measure a directory's device and say which fence lanefs would choose.
    Probe(ProbeArgs),
    /// Make a log outside of the backing directory.
    Log(LogArgs),
    /// Find out what a power cut does to a program's files.
    CrashTest(Box<crash_test::CrashTestArgs>),
    /// Show what lanefs does: writers on a scratch mount and without it, a power cut, all verified.
    Demo(DemoArgs),
}

/// Arguments of `lanefs mount`.
#[derive(Debug, Args)]
#[command(after_help = format!("{OPTIONS_HELP}\n\n{MOUNT_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct MountArgs {
    /// Directory that holds the files.
    pub backing: PathBuf,
    /// Where they shall appear; may be BACKING itself.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Mount options, comma-separated; listed below.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Return when the mount answers and serve in the background.
    #[arg(long)]
    pub daemon: bool,
    /// What is durable when a call returns: fsync, close, always, or relaxed:MS; same as
    /// -o durability=MODE.
    #[arg(long, value_name = "MODE")]
    pub durability: Option<String>,
    /// Commit what was applied about so often although nobody asks: 1s, 500ms, 0 for never;
    /// same as -o commit_interval=TIME.
    #[arg(long, value_name = "TIME")]
    pub commit_interval: Option<String>,
    /// Settings of mounts [default: /etc/lanefs.toml; without root ~/.config/lanefs.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep the log in this file or on this device, made by `lanefs log format`; same as -o log=PATH.
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// Size of a log in BACKING/.lanefs, from 4M; same as -o log_size=SIZE.
    #[arg(long, value_name = "SIZE")]
    pub log_size: Option<String>,
}

/// Arguments of `lanefs set`.
#[derive(Debug, Args)]
#[command(after_help = format!("{SET_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct SetArgs {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// durability=MODE, commit-interval=TIME.
    #[arg(value_name = "SETTING=VALUE", required = true)]
    pub settings: Vec<String>,
}

const SET_EXAMPLES: &str = "\
Examples:
  lanefs set /mnt/data durability=close
  lanefs set /mnt/data durability=relaxed:100 commit-interval=500ms

Names and attributes follow at once, files from their next opening on. Rules of lanefs.toml
stay. The change ends with the mount.";

/// Arguments of `lanefs config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with the file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the file is in order, and what applies to paths, and why.
    Check(ConfigCheckArgs),
}

/// Arguments of `lanefs config check`.
#[derive(Debug, Args)]
#[command(after_help = format!("{CONFIG_TEXT}\n\n{EXIT_CODES}"))]
pub struct ConfigCheckArgs {
    /// The file [default: as for `lanefs mount`].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say what applies to these; all mount points in the file if left out.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

const CONFIG_TEXT: &str = "\
The file, /etc/lanefs.toml (without root ~/.config/lanefs.toml), or LANEFS_CONFIG, or --config:

  durability = \"fsync\"             # of every mount
  commit-interval = \"1s\"

  [[mount]]
  path = \"/mnt/data\"              # of the mount at this place
  durability = \"close\"

  [[mount.rule]]                   # of a part of it; the last rule that matches wins
  path = \"mail/**\"                # a glob below the mount point; a directory means all below
  durability = \"always\"

A flag of `lanefs mount` wins over LANEFS_DURABILITY and LANEFS_COMMIT_INTERVAL, these over the
file, and in it [[mount]] over the top. Rules hold whatever the mount's mode is.";

/// Arguments of `lanefs recover` and `lanefs check`.
#[derive(Debug, Args)]
#[command(after_help = format!("{RECOVER_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct RecoverArgs {
    /// Directory that holds the files.
    pub backing: PathBuf,
    /// The log, if it lies outside of BACKING.
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const RECOVER_EXAMPLES: &str = "\
Examples:
  lanefs check /srv/data       what would be done
  lanefs recover /srv/data     do it; safe to interrupt and to repeat

A mount does the same before it answers.";

/// Arguments of `lanefs probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// A directory on the filesystem to be measured; needs 8 MiB for a moment.
    pub dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lanefs log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LogCommand,
}

/// What can be done with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Make an empty log in a new file or on a block device. A device that carries anything is refused.
    Format(FormatArgs),
}

/// Arguments of `lanefs log format`.
#[derive(Debug, Args)]
#[command(after_help = format!("{FORMAT_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct FormatArgs {
    /// A block device, or a file to be made.
    pub path: PathBuf,
    /// Size of the log, from 4M [default: 64M for a file, all of a device].
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// Overwrite what the device carries. It is lost.
    #[arg(long)]
    pub force: bool,
}

const FORMAT_EXAMPLES: &str = "\
Examples:
  lanefs log format /dev/nvme0n1p3
  lanefs log format /fast/data.log --size 256M
  lanefs mount /srv/data /mnt/data --log /dev/nvme0n1p3";

const MOUNT_EXAMPLES: &str = "\
Examples:
  lanefs mount /srv/data /mnt/data             serve until Ctrl-C
  lanefs mount /srv/data /srv/data --daemon    over itself, in the background
  lanefs mount /srv/data /mnt/data -o allow_other,noatime

SIGINT, SIGTERM and `lanefs umount` make everything durable, unmount and exit 0.
With --daemon, exit code 0 says that the mount answers.
RUST_LOG=debug shows more of what happens.";

/// Arguments of `lanefs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Detach even while programs have files open; their next use of them fails.
    #[arg(long)]
    pub lazy: bool,
}

/// Arguments of `lanefs restart`.
#[derive(Debug, Args)]
#[command(after_help = format!("{RESTART_TEXT}\n\n{EXIT_CODES}"))]
pub struct RestartArgs {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// The program that goes on [default: this one].
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const RESTART_TEXT: &str = "\
Programs on the mount see a pause, no error: open files, locks and mappings stay. The process
keeps its number and its arguments. A program that cannot go on is refused before anything
is changed. SIGUSR2 does the same, with the program that lies where the daemon's own did.

Needs Linux 6.9 and transport=classic; `lanefs status` says if a mount cannot.

Examples:
  lanefs restart /mnt/data
  lanefs restart /mnt/data --binary /opt/lanefs-0.2/bin/lanefs";

/// Arguments of `lanefs status`.
#[derive(Debug, Args)]
#[command(after_help = format!("{STATUS_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct StatusArgs {
    /// The mount point; all lanefs mounts if left out. With --durability any path on a mount.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Say what a power cut now would lose: files and bytes that are not durable, and how old.
    #[arg(long)]
    pub durability: bool,
    /// Print JSON: one object, or with no MOUNTPOINT an array of them.
    #[arg(long)]
    pub json: bool,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  lanefs status
  lanefs status /mnt/data --json
  lanefs status --durability /mnt/data/mail";

/// Arguments of `lanefs demo`.
#[derive(Debug, Args)]
#[command(after_help = format!("{DEMO_TEXT}\n\n{EXIT_CODES}"))]
pub struct DemoArgs {
    /// Make the scratch directories here, and cut no power [default: see below].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Writers that replace their file in a loop, 1 to 256.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub writers: u16,
    /// Seconds for each of the two runs, 1 to 600.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub seconds: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

const DEMO_TEXT: &str = "\
As root and without --dir, the demo works on a scratch disk: ext4 in a sparse
image file of 512 MiB (64 more for each further second) in the system's
temporary directory, or in /var/tmp if that one is in memory. In the end it cuts
the disk's power while the writers write, recovers, and verifies every
acknowledged file. This needs the programs mkfs.ext4 and losetup.

Otherwise it works in a scratch directory of the temporary directory, or in DIR.
Nothing is left behind, unless something is lost: then the image is kept.";

/// Runs a command.
///
/// # Errors
/// What it failed with, with the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Status(args) if args.durability => at_risk::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Config(ConfigArgs { command: ConfigCommand::Check(args) }) => config::check(&args),
        Command::Recover(args) => recover::recover(&args),
        Command::Check(args) => recover::check(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Log(LogArgs { command: LogCommand::Format(args) }) => log::format(&args),
        Command::CrashTest(args) => crash_test::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Whether this program could go on in place of a daemon that was started so.
///
/// # Errors
/// Why it could not.
pub fn could_resume(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Mount(args) => mount::could_resume(args),
        _ => Err(Failure::usage("only `lanefs mount` can go on with a mount")),
    }
}
