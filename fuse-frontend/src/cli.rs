//! The command line: definitions here, each command in its own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::mount::options::OPTIONS_HELP;

mod demo;
mod mount;
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
    /// Show a mount's engine, lanes and requests; all mounts without MOUNTPOINT.
    Status(StatusArgs),
    /// Show what lanefs does: writers on a scratch mount and without it, verified.
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
}

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

/// Arguments of `lanefs status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mount point; all lanefs mounts if left out.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Print JSON: one object, or with no MOUNTPOINT an array of them.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lanefs demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the scratch directories are made [default: the system's temporary directory].
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

/// Runs a command.
///
/// # Errors
/// What it failed with, with the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}
