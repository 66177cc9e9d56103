//! The command line: what only Linux has is defined here, the rest in the crate `commands`; each
//! command in its own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use commands::arguments::{self, ConfigArgs, ConfigCommand, EXIT_CODES};
pub use commands::arguments::{DemoArgs, ProbeArgs, RecoverArgs, SetArgs, StatusArgs, UmountArgs};
pub(crate) use commands::table;

pub(crate) use self::mount::check as check_mount;
pub(crate) use self::umount::{cut_off, find};
use crate::failure::Failure;
use crate::logging::LogFormat;
use crate::mount::options::OPTIONS_HELP;

mod at_risk;
pub mod crash_test;
mod demo;
pub mod fault;
mod log;
mod mount;
mod probe;
mod recover;
mod restart;
mod set;
mod status;
mod top;
mod umount;
pub mod volume_plugin;

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
    /// Replace a mount's daemon by this program, or another, without unmounting.
    Restart(RestartArgs),
    /// Show what mounts do, as it changes.
    Top(TopArgs),
    /// What every platform has.
    #[command(flatten)]
    Common(arguments::Command),
    /// Make a log outside of the backing directory.
    Log(LogArgs),
    /// Find out what a power cut does to a program's files.
    CrashTest(Box<crash_test::CrashTestArgs>),
    /// Serve volumes for Docker and Podman: containers share their fsyncs.
    VolumePlugin(volume_plugin::VolumePluginArgs),
    /// Serve the mounts of volumes; started by `volume-plugin`.
    #[command(hide = true)]
    VolumeEngine(volume_plugin::VolumeEngineArgs),
    /// Make operations fail, or the power, on a mount made with `-o faults`.
    Fault(fault::FaultArgs),
    /// Show what lanefs does: writers on a scratch mount and without it, a power cut, all verified.
    #[command(after_help = format!("{DEMO_TEXT}\n\n{EXIT_CODES}"))]
    Demo(DemoArgs),
}

/// Arguments of `lanefs mount`.
#[derive(Debug, Args)]
#[command(after_help = format!("{OPTIONS_HELP}\n\n{MOUNT_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct MountArgs {
    /// What every platform has.
    #[command(flatten)]
    pub common: arguments::CommonMountArgs,
    /// Return when the mount answers and serve in the background.
    #[arg(long)]
    pub daemon: bool,
    /// Print the line of /etc/fstab that says the same, and mount nothing.
    #[arg(long, conflicts_with = "daemon")]
    pub print_fstab: bool,
    /// Keep the log in this file or on this device, made by `lanefs log format`; same as -o log=PATH.
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// Size of a log in BACKING/.lanefs, from 4M; same as -o log_size=SIZE.
    #[arg(long, value_name = "SIZE")]
    pub log_size: Option<String>,
    /// Show metrics for Prometheus at HOST:PORT, :PORT (this machine only) or unix:PATH, as
    /// /metrics.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// How the daemon writes to standard error what happens.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
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
  lanefs mount /srv/data /mnt/data --print-fstab >> /etc/fstab

SIGINT, SIGTERM and `lanefs umount` make everything durable, unmount and exit 0.
With --daemon, exit code 0 says that the mount answers.
RUST_LOG=debug, or later `lanefs set MOUNTPOINT log-level=debug`, shows more of what happens.";

/// Arguments of `lanefs top`.
#[derive(Debug, Args)]
#[command(after_help = format!("{TOP_TEXT}\n\n{EXIT_CODES}"))]
pub struct TopArgs {
    /// The mount point; all lanefs mounts if left out.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Show one interval and end.
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object a line for each mount and interval.
    #[arg(long)]
    pub json: bool,
    /// Length of an interval in milliseconds, 100 to 60000.
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub interval_ms: u64,
}

const TOP_TEXT: &str = "\
Rates are of the interval; fence times since the daemon started; waiting, open and log of now.
Ends with Ctrl-C.

Examples:
  lanefs top
  lanefs top /mnt/data --once --json";

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

const DEMO_TEXT: &str = "\
As root and without --dir, the demo works on a scratch disk: ext4 in a sparse
image file of 512 MiB (64 more for each further second) in the system's
temporary directory, or in /var/tmp if that one is in memory. In the end it cuts
the disk's power while the writers write, recovers, and verifies every
acknowledged file. This needs the programs mkfs.ext4 and losetup.

Otherwise it works in a scratch directory of the temporary directory, or in DIR.
Nothing is left behind, unless something is lost: then the image is kept.";

impl Cli {
    /// How what happens is written down.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Mount(args) => args.log_format,
            _ => LogFormat::default(),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What it failed with, with the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    run_command(cli.command)
}

/// Runs a command.
///
/// # Errors
/// As [`run`].
pub fn run_command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Mount(args) => mount::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Common(command) => run_common(command),
        Command::Log(LogArgs { command: LogCommand::Format(args) }) => log::format(&args),
        Command::CrashTest(args) => crash_test::run(&args),
        Command::VolumePlugin(args) => volume_plugin::run(args),
        Command::VolumeEngine(args) => volume_plugin::run_engine(args),
        Command::Fault(args) => fault::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

fn run_common(command: arguments::Command) -> Result<(), Failure> {
    use arguments::Command;
    match command {
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) if args.durability => at_risk::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Config(ConfigArgs { command: ConfigCommand::Check(args) }) => {
            commands::config_check::check(&args, mount::usual_file())
        }
        Command::Bench(args) => commands::bench::run(&args),
        Command::Recover(args) => recover::recover(&args),
        Command::Check(args) => recover::check(&args),
        Command::Probe(args) => probe::run(&args),
    }
}

/// Whether this program could go on in place of a daemon that was started so.
///
/// # Errors
/// Why it could not.
pub fn could_resume(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Mount(args) => mount::could_resume(args),
        _ => Err(Failure::usage("only `lanefs mount` can go on with a mount")),
    }
}
