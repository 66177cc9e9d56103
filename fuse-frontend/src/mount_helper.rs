//! The command under the names that mount(8) and umount(8) look for.
//!
//! `mount -t lanefs`, `mount -t fuse.lanefs` and lines of fstab(5) end in
//! `/sbin/mount.TYPE SOURCE DIR [-sfnv] [-o OPTIONS]`, and `umount DIR` in
//! `/sbin/umount.fuse.lanefs DIR [-flnrv]`. These are links to the command, which looks at the name
//! that it was called by. Without the second link umount(8) would return when the kernel has let
//! go, while the daemon still writes; with it, when everything is durable and the daemon gone.
//!
//! Exit codes are those of mount(8), which passes ours on: 1 wrong use, 32 it failed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Parser;
use commands::arguments;
use fs_core::platform::linux::running_as_root;

use crate::cli::{self, Command, MountArgs, UmountArgs};
use crate::control::Request;
use crate::failure::{EXIT_USAGE, Failure};
use crate::logging::LogFormat;
use crate::mount::{MountOptions, daemon, kernel, mounts};

mod remount;

/// mount(8): incorrect invocation or permissions.
const EXIT_WRONG_USE: u8 = 1;
/// mount(8): mount failure.
const EXIT_MOUNT_FAILED: u8 = 32;

/// What a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `mount.lanefs`, `mount.fuse.lanefs`.
    Mount,
    /// `umount.lanefs`, `umount.fuse.lanefs`.
    Umount,
}

/// Mount a directory with transparent group commit; called by mount(8).
#[derive(Debug, Parser)]
#[command(name = "mount.lanefs", version, after_help = MOUNT_TEXT, max_term_width = 100)]
pub struct MountWords {
    /// Directory that holds the files.
    #[arg(value_name = "BACKING")]
    pub source: PathBuf,
    /// Where they shall appear; may be BACKING itself.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Mount options, comma-separated: those of lanefs-mount(1), and remount.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Leave out options that nobody knows.
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Check everything, mount nothing.
    #[arg(short = 'f')]
    pub fake: bool,
    /// Accepted and without effect: there is no /etc/mtab to write.
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Say what was mounted.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Refused: a daemon serves the namespace that it was started in.
    #[arg(short = 'N', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The type as it was asked for.
    #[arg(short = 't', value_name = "TYPE")]
    pub kind: Option<String>,
}

/// End a lanefs mount; called by umount(8).
#[derive(Debug, Parser)]
#[command(name = "umount.lanefs", version, after_help = UMOUNT_TEXT, max_term_width = 100)]
pub struct UmountWords {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Cut the mount off at once: programs on it get errors, the daemon then makes durable what
    /// it has.
    #[arg(short = 'f')]
    pub force: bool,
    /// Detach even while programs have files open.
    #[arg(short = 'l')]
    pub lazy: bool,
    /// If it cannot be unmounted, remount it read-only.
    #[arg(short = 'r')]
    pub or_read_only: bool,
    /// Accepted and without effect: there is no /etc/mtab to write.
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Say what was unmounted.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Refused: enter the namespace with nsenter(1) instead.
    #[arg(short = 'N', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The type as it was asked for.
    #[arg(short = 't', value_name = "TYPE")]
    pub kind: Option<String>,
}

const MOUNT_TEXT: &str = "\
Examples:
  mount -t lanefs /srv/data /mnt/data
  mount -t fuse.lanefs -o allow_other,durability=close /srv/data /mnt/data
  mount -o remount,ro /mnt/data

A line of /etc/fstab; `lanefs mount --print-fstab` writes it:
  /srv/data /mnt/data fuse.lanefs allow_other,x-systemd.requires-mounts-for=/srv/data 0 0

remount changes ro and rw, nodev and the like, durability= and commit_interval=. Other options
hold from the next mount on. What was mounted read-only stays so until it is unmounted.

Exit codes: 0 done, the mount answers; 1 used wrongly; 32 it failed.";

const UMOUNT_TEXT: &str = "\
When it returns, everything is durable, the log is empty, and the daemon is gone.

Exit codes: 0 done; 1 used wrongly; 32 it failed, for instance because a program uses the mount.";

/// What the name asks for that the program was called by, if it is one of mount(8)'s.
#[must_use]
pub fn called_as(program: Option<&OsString>) -> Option<Helper> {
    match Path::new(program?).file_name()?.to_str()? {
        "mount.lanefs" | "mount.fuse.lanefs" => Some(Helper::Mount),
        "umount.lanefs" | "umount.fuse.lanefs" => Some(Helper::Umount),
        _ => None,
    }
}

/// Does what mount(8) or umount(8) asks for.
///
/// # Errors
/// What it failed with; the exit code is one of mount(8)'s.
pub fn run(helper: Helper) -> Result<(), Failure> {
    let outcome = match helper {
        Helper::Mount => parse::<MountWords>().and_then(|words| mount(&words)),
        Helper::Umount => parse::<UmountWords>().and_then(|words| umount(&words)),
    };
    outcome.map_err(|failure| Failure { exit_code: exit_code(failure.exit_code), ..failure })
}

const fn exit_code(ours: u8) -> u8 {
    if ours == EXIT_USAGE { EXIT_WRONG_USE } else { EXIT_MOUNT_FAILED }
}

/// The words; help and version end the program, mistakes become one line.
fn parse<T: Parser>() -> Result<T, Failure> {
    T::try_parse().map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let text = error.to_string();
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" ");
        let line = line.trim_start_matches("error: ");
        Failure::usage(format!("{line}; `mount.lanefs --help` says how it is called"))
    })
}

fn mount(words: &MountWords) -> Result<(), Failure> {
    refuse_namespace(words.namespace.as_deref())?;
    let options = relevant(&words.options, words.sloppy)?;
    if remount::is_asked_for(&options) {
        return remount::run(&words.mount_point, &options, words.fake);
    }
    if words.fake {
        return cli::check_mount(&mount_args(words, options));
    }
    daemon::start(command_words(words, &options))?;
    note_for_umount(words, &options);
    if words.verbose {
        let (source, mount_point) = (words.source.display(), words.mount_point.display());
        println!("mount.lanefs: {source} mounted on {mount_point}");
    }
    Ok(())
}

/// Whether this program could go on in place of a daemon that was started by mount(8) so.
///
/// # Errors
/// Why it could not.
pub fn could_resume(arguments: &[OsString]) -> Result<(), Failure> {
    let words = MountWords::try_parse_from(arguments);
    let words = words.map_err(|error| Failure::usage(error.to_string()))?;
    let options = relevant(&words.options, words.sloppy)?;
    cli::could_resume(&Command::Mount(mount_args(&words, options)))
}

/// Makes umount(8) look for our helper. It asks the mount by statfs(2) for its type, gets `fuse`
/// like every FUSE mount, and finds `umount.fuse.lanefs` only if /run/mount/utab has the mount, in
/// which mount(8) keeps options that the kernel does not know (util-linux 2.38,
/// `lookup_umount_fs_by_statfs`). mount(8) makes an entry by itself if it was given such options, but
/// leaves one alone that is there when we return: so what we know of them goes into ours. `--fake`
/// writes the table and mounts nothing. Without it umount(8) works, but does not wait for the daemon.
fn note_for_umount(words: &MountWords, options: &[String]) {
    const NOTED: &[&str] = &["_netdev", "user", "users", "owner", "group"];
    let is_noted = |word: &&String| {
        let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
        NOTED.contains(&name)
    };
    let mut noted = vec!["x-lanefs"];
    noted.extend(options.iter().filter(is_noted).map(String::as_str));

    let (Ok(source), Ok(place)) = (words.source.canonicalize(), words.mount_point.canonicalize())
    else {
        return;
    };
    let mut command = std::process::Command::new("mount");
    command.args(["--fake", "--internal-only", "-t", mounts::FILESYSTEM_TYPE, "-o"]);
    command.arg(noted.join(","));
    command.arg(source).arg(place).stdin(Stdio::null()).stdout(Stdio::null());
    if running_as_root() {
        let _ = command.stderr(Stdio::null()).status();
    }
}

/// The daemon is that of `lanefs mount`, to all who look at it.
fn command_words(words: &MountWords, options: &[String]) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["mount", "--daemon"].map(OsString::from).into();
    if !options.is_empty() {
        command.extend([OsString::from("-o"), OsString::from(options.join(","))]);
    }
    let paths = [words.source.as_os_str(), words.mount_point.as_os_str()];
    command.push(OsString::from("--"));
    command.extend(paths.map(OsString::from));
    command
}

fn mount_args(words: &MountWords, options: Vec<String>) -> MountArgs {
    MountArgs {
        common: arguments::CommonMountArgs {
            backing: words.source.clone(),
            mount_point: words.mount_point.clone(),
            options,
            durability: None,
            commit_interval: None,
            config: None,
        },
        daemon: !words.fake,
        print_fstab: false,
        log: None,
        log_size: None,
        metrics: None,
        log_format: LogFormat::default(),
    }
}

/// The options one by one; with `sloppy` those that are understood.
fn relevant(options: &[String], sloppy: bool) -> Result<Vec<String>, Failure> {
    let words = options.iter().flat_map(|words| words.split(',')).filter(|word| !word.is_empty());
    let mut kept = Vec::new();
    for word in words {
        if word != "remount" {
            match MountOptions::default().apply(word) {
                Err(_) if sloppy => continue,
                outcome => outcome?,
            }
        }
        kept.push(word.to_owned());
    }
    Ok(kept)
}

fn umount(words: &UmountWords) -> Result<(), Failure> {
    refuse_namespace(words.namespace.as_deref())?;
    let mount_point = &words.mount_point;
    let ended = if words.force {
        cli::cut_off(mount_point)
    } else if words.lazy {
        detach(mount_point)
    } else {
        let args = UmountArgs { mount_point: mount_point.clone(), lazy: false, dead: false };
        cli::run_command(Command::Common(arguments::Command::Umount(args)))
    };
    match ended {
        Err(failure) if words.or_read_only => {
            eprintln!("umount.lanefs: {failure}; it is read-only now");
            return remount::run(mount_point, &["ro".to_owned()], false);
        }
        other => other?,
    }
    if words.verbose {
        println!("umount.lanefs: {} unmounted", mount_point.display());
    }
    Ok(())
}

/// Makes durable what is there and detaches. Unlike `lanefs umount --lazy`, and as `umount -l` does
/// elsewhere, it does not wait for programs that still have files open; the daemon does, and then
/// makes durable what they wrote.
fn detach(mount_point: &Path) -> Result<(), Failure> {
    let mount = cli::find(mount_point)?;
    // A mount that does not answer is detached all the same.
    if let Err(failure) = remount::ask(&mount, &Request::Flush) {
        eprintln!("umount.lanefs: {failure}");
    }
    let shown = mount_point.display();
    kernel::unmount(&mount.mount_point, true)
        .map_err(|error| Failure::new(format!("cannot detach {shown}: {error}")))
}

fn refuse_namespace(namespace: Option<&str>) -> Result<(), Failure> {
    let Some(namespace) = namespace else { return Ok(()) };
    Err(Failure::usage(format!(
        "-N {namespace}: enter the namespace with `nsenter --mount={namespace}` and mount there; \
         the daemon serves the namespace that it was started in"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_with_and_without_a_directory() {
        let helper = |name: &str| called_as(Some(&OsString::from(name)));
        assert_eq!(helper("/sbin/mount.lanefs"), Some(Helper::Mount));
        assert_eq!(helper("mount.fuse.lanefs"), Some(Helper::Mount));
        assert_eq!(helper("/usr/sbin/umount.fuse.lanefs"), Some(Helper::Umount));
        assert_eq!(helper("umount.lanefs"), Some(Helper::Umount));
        assert_eq!(helper("/usr/bin/lanefs"), None);
        assert_eq!(helper("/mount.lanefs/lanefs"), None);
        assert_eq!(called_as(None), None);
    }

    #[test]
    fn words_come_as_mount_8_passes_them() {
        // util-linux 2.38: paths, then flags, then -o.
        let words = ["mount.lanefs", "/srv/a b", "/mnt", "-s", "-n", "-v", "-o", "ro,user"];
        let words = MountWords::try_parse_from(words).expect("words of mount(8)");
        assert_eq!(words.source, Path::new("/srv/a b"));
        assert!(words.sloppy && words.verbose && !words.fake);
        let words = ["umount.fuse.lanefs", "/mnt", "-l", "-t", "fuse.lanefs"];
        assert!(UmountWords::try_parse_from(words).expect("words of umount(8)").lazy);
    }

    #[test]
    fn sloppy_leaves_out_what_is_unknown_and_nothing_else() {
        let options = ["ro,what_is_this,durability=close".to_owned(), "remount".to_owned()];
        assert!(relevant(&options, false).is_err());
        let kept = relevant(&options, true).expect("sloppy");
        assert_eq!(kept, ["ro", "durability=close", "remount"]);
    }
}
