//! `lanefs fault`: failures on purpose, on a mount made with `-o faults`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use commands::arguments::EXIT_CODES;
use commands::protocol::FaultRequest;
use fs_core::faults::{FaultKind, FaultReport, FaultRule, Lose, Pages, PowerCut};

use super::table::{print, row, table};
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::preflight;

const EXAMPLES: &str = "\
Examples:
  lanefs mount /srv/data /mnt/data -o faults --daemon
  lanefs fault /mnt/data fail fsync --path '*.db' --nth 3 --error EIO --pages xfs
  lanefs fault /mnt/data fail write --process postgres --error ENOSPC --times 0
  lanefs fault /mnt/data fail rename --path config.json --power
  lanefs fault /mnt/data schedule faults.toml
  lanefs fault /mnt/data crash /tmp/after --lose some --seed 7
  lanefs fault /mnt/data crash --swap

Rules count operations from the moment when they are added: the same operations in the same order
meet the same failures. docs/faults.md has the schedule's format.";

/// Arguments of `lanefs fault`.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct FaultArgs {
    /// A mount made with `-o faults`.
    pub mount_point: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: FaultCommand,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Make operations fail, late, torn, or the last ones.
    Fail(Box<FailArgs>),
    /// Add the rules of a file: tables `[[fault]]`.
    Schedule {
        /// A TOML file.
        file: PathBuf,
    },
    /// Show the rules and what they have met.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a rule, or all.
    Clear {
        /// Its number.
        id: Option<u64>,
    },
    /// Let the page cache forget what failed syncs have left in it.
    Forget,
    /// The power fails now.
    Crash(CrashArgs),
}

/// Arguments of `lanefs fault MOUNTPOINT fail`.
#[derive(Debug, Args)]
pub struct FailArgs {
    /// What fails.
    pub operation: Operation,
    /// Only on paths that match this glob below the mount point; without `/`, names.
    #[arg(long, value_name = "GLOB")]
    pub path: Option<String>,
    /// Only by this process: its number, or its name as ps(1) shows it.
    #[arg(long, value_name = "PROCESS")]
    pub process: Option<String>,
    /// The first that fails, of those that match.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nth: u64,
    /// How many fail; 0: all from then on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub times: u64,
    /// The error: EIO, ENOSPC, EDQUOT, EROFS, EACCES or EINTR.
    #[arg(long)]
    pub error: Option<String>,
    /// What a failed fsync leaves in the page cache [default: ext4].
    #[arg(long, requires = "error")]
    pub pages: Option<PagesChoice>,
    /// So late, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub delay: Option<u64>,
    /// Only so many bytes of the write reach the disk, then the power fails.
    #[arg(long, value_name = "BYTES")]
    pub torn: Option<u64>,
    /// The power fails instead of the operation.
    #[arg(long)]
    pub power: bool,
    /// How.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// What fails.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Operation {
    /// A read that no cache answers.
    Read,
    /// A write.
    Write,
    /// fsync, fdatasync or msync of a file.
    Fsync,
    /// fsync of a directory.
    FsyncDir,
    /// Opening what is there.
    Open,
    /// A new file, directory or link.
    Create,
    /// A rename; its old or new name matches.
    Rename,
    /// unlink, rmdir.
    Remove,
    /// truncate, and opening with O_TRUNC.
    Truncate,
}

/// What a failed fsync leaves in the page cache.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum PagesChoice {
    /// Everything, to be written by the next sync.
    Kept,
    /// The new bytes are read, and never written.
    Ext4,
    /// The same.
    Xfs,
    /// The file is as it was when it was last durable.
    Btrfs,
}

/// How the power fails.
#[derive(Debug, Args)]
pub struct CutArgs {
    /// What of the unsynced operations is lost.
    #[arg(long, value_name = "WHAT", default_value = "all")]
    pub lose: LoseChoice,
    /// Where chance begins, for `--lose some`.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The persistence model, as in `lanefs crash-test --model` [default: ext4].
    #[arg(long)]
    pub model: Option<String>,
}

/// What of the unsynced operations is lost.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum LoseChoice {
    /// All that the model allows.
    All,
    /// Some, drawn by the seed.
    Some,
    /// None.
    None,
}

/// Arguments of `lanefs fault MOUNTPOINT crash`.
#[derive(Debug, Args)]
pub struct CrashArgs {
    /// A new directory for what is left; the mount goes on.
    #[arg(required_unless_present = "swap", conflicts_with = "swap")]
    pub directory: Option<PathBuf>,
    /// End the mount as a power failure would, and leave that in the backing directory.
    #[arg(long)]
    pub swap: bool,
    /// How.
    #[command(flatten)]
    pub cut: CutArgs,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    fault: Vec<FaultRule>,
}

pub(super) fn run(args: &FaultArgs) -> Result<(), Failure> {
    let (about, is_json) = match &args.command {
        FaultCommand::Fail(fail) => (FaultRequest::Add { rules: vec![fail.rule()] }, false),
        FaultCommand::Schedule { file } => (FaultRequest::Add { rules: schedule(file)? }, false),
        FaultCommand::List { json } => (FaultRequest::List, *json),
        FaultCommand::Clear { id } => (FaultRequest::Clear { id: *id }, false),
        FaultCommand::Forget => (FaultRequest::Forget, false),
        FaultCommand::Crash(crash) => (crash.request()?, false),
    };
    let mount = find(&args.mount_point)?;
    match control::ask(&mount, &Request::Fault { about })? {
        Some(Response::Faults { faults }) if is_json => {
            print(&format!("{}\n", serde_json::json!(faults)))
        }
        Some(Response::Faults { faults }) => print(&shown(&faults)),
        Some(Response::Forgotten { bytes }) => {
            print(&format!("{bytes} bytes read as before the failed sync again\n"))
        }
        Some(Response::Crashed { operations, directory }) => print(&format!(
            "the power failed after {operations} operations; what is left is in {}\n",
            directory.display()
        )),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => Err(preflight::dead_mount(&mount.mount_point)),
    }
}

fn schedule(file: &Path) -> Result<Vec<FaultRule>, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::usage(format!("the schedule {} cannot be used: {what}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let schedule: Schedule = toml::from_str(&text).map_err(|error| wrong(&error))?;
    Ok(schedule.fault)
}

fn shown(faults: &[FaultReport]) -> String {
    if faults.is_empty() {
        return "No rules. Add one: lanefs fault MOUNTPOINT fail OPERATION --error EIO\n"
            .to_owned();
    }
    let mut rows = vec![row([&"rule", &"number", &"matched", &"struck"])];
    let line = |report: &FaultReport| row([&report.rule, &report.id, &report.seen, &report.struck]);
    rows.extend(faults.iter().map(line));
    table(&rows)
}

impl FailArgs {
    fn rule(&self) -> FaultRule {
        let Self { path, process, nth, times, error, delay, torn, power, cut, .. } = self;
        FaultRule {
            operation: self.operation.into(),
            path: path.clone(),
            process: process.clone(),
            nth: *nth,
            times: *times,
            error: error.clone(),
            pages: self.pages.map(Into::into),
            delay_ms: *delay,
            torn_bytes: *torn,
            crash: power.then(|| cut.cut()),
        }
    }
}

impl CutArgs {
    fn cut(&self) -> PowerCut {
        let lose = match self.lose {
            LoseChoice::All => Lose::All,
            LoseChoice::Some => Lose::Some,
            LoseChoice::None => Lose::None,
        };
        PowerCut { lose, seed: self.seed, model: self.model.clone() }
    }
}

impl CrashArgs {
    fn request(&self) -> Result<FaultRequest, Failure> {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path)
                .map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))
        };
        let to = self.directory.as_ref().map(absolute).transpose()?;
        Ok(FaultRequest::Crash { cut: self.cut.cut(), to })
    }
}

impl From<Operation> for FaultKind {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::Fsync => Self::Fsync,
            Operation::FsyncDir => Self::FsyncDir,
            Operation::Open => Self::Open,
            Operation::Create => Self::Create,
            Operation::Rename => Self::Rename,
            Operation::Remove => Self::Remove,
            Operation::Truncate => Self::Truncate,
        }
    }
}

impl From<PagesChoice> for Pages {
    fn from(pages: PagesChoice) -> Self {
        match pages {
            PagesChoice::Kept => Self::Kept,
            PagesChoice::Ext4 => Self::Ext4,
            PagesChoice::Xfs => Self::Xfs,
            PagesChoice::Btrfs => Self::Btrfs,
        }
    }
}
