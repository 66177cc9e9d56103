//! `lanefs crash-test`: what a power cut does to a program's files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use fs_core::crash::model::{self, Model};
use fs_core::crash::plan::Budget;
use indicatif::{ProgressBar, ProgressStyle};

use crate::crash::campaign::{self, CampaignPlan, default_workers};
use crate::crash::check::CheckPlan;
use crate::crash::lab::Lab;
use crate::crash::record::{RecordJob, record};
use crate::failure::{EXIT_USAGE, Failure};

mod text;

/// Exit code: the lab could not do its work.
const EXIT_NOT_RUN: u8 = 3;

/// Arguments of `lanefs crash-test`.
#[derive(Debug, Args)]
#[command(
    after_help = HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct CrashTestArgs {
    /// Something else than to record and check.
    #[command(subcommand)]
    pub command: Option<CrashCommand>,
    /// Run by `sh -c` in each crash state, in the directory's own place: exit 0 if it is good, 77 to
    /// skip it, else it is bad. $LANEFS_ACK is a file with what APP had printed by then.
    #[arg(long, value_name = "CMD", required = true)]
    pub check: Option<String>,
    /// The directory under test [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What may be lost: filesystems, comma-separated; `all`; see below.
    #[arg(long, value_name = "MODELS", default_value = "ext4,xfs,btrfs")]
    pub model: String,
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// A file in DIR through which APP tells what it has done, each write an acknowledgement.
    #[arg(long, value_name = "FILE")]
    pub ack: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The program to record, and its arguments.
    #[arg(last = true, value_name = "APP", required = true)]
    pub app: Vec<std::ffi::OsString>,
}

/// How much shall be done.
#[derive(Debug, Clone, Args)]
pub struct BudgetArgs {
    /// Most states for each model.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub max_states: usize,
    /// Seconds of checking, after which no more states are begun.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub time: u64,
    /// Seconds for one check.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u64,
    /// Checks at a time [default: one for each processor].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Where chance begins; the same seed gives the same states.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// The other commands of the lab.
#[derive(Debug, Subcommand)]
pub enum CrashCommand {
    /// List the models.
    Models,
}

const HELP: &str = "\
Examples:
  lanefs crash-test --check 'gzip -t f.gz || test -s f' -- gzip f
  lanefs crash-test --model all --check ./check.sh -- ./app --import data

APP runs on a private copy of DIR in memory, at DIR's own path; DIR is not changed.
Exit codes: 0 nothing found; 1 findings; 2 the command was used wrongly; 3 it could not be run.";

/// Runs the command; the exit code says whether something was found.
pub(super) fn run(args: &CrashTestArgs) -> Result<(), Failure> {
    match &args.command {
        Some(CrashCommand::Models) => super::table::print(&text::models()),
        None => test(args).map_err(|failure| match failure.exit_code {
            EXIT_USAGE => failure,
            // 1 means findings, and those are no failure of ours.
            _ if failure.message.is_empty() => failure,
            _ => Failure { exit_code: EXIT_NOT_RUN, ..failure },
        }),
    }
}

fn test(args: &CrashTestArgs) -> Result<(), Failure> {
    let check = args.check.clone().unwrap_or_default();
    let models = models(&args.model)?;
    let (directory, working_directory) = directories(args.dir.as_deref())?;
    let lab = Lab::enter()?;
    let told = args.ack.as_ref().map(|told| directory.join(told));
    let job = RecordJob {
        command: args.app.clone(),
        directory: directory.clone(),
        working_directory: working_directory.clone(),
        told,
    };
    let recording = record(&lab, &job)?;
    let plan = CampaignPlan {
        models,
        check: CheckPlan {
            command: check,
            directory,
            working_directory,
            workers: args.budget.workers.unwrap_or_else(default_workers).max(1),
            timeout: Duration::from_secs(args.budget.timeout.max(1)),
        },
        budget: Budget {
            states_max: args.budget.max_states,
            seed: args.budget.seed,
            ..Budget::default()
        },
        time_max: Duration::from_secs(args.budget.time),
    };
    let bar = progress_bar();
    let report = campaign::run(&lab, &recording.trace, &plan, &mut |what, done, whole| {
        bar.set_message(what.to_owned());
        bar.set_length(whole as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    super::table::print(&text::report(&recording, &plan, &report))?;
    // Found something: told by the exit code, not as an error.
    if report.findings.is_empty() && report.refuses.is_none() {
        Ok(())
    } else {
        Err(Failure { exit_code: 1, message: String::new() })
    }
}

fn models(names: &str) -> Result<Vec<&'static dyn Model>, Failure> {
    if names == "all" {
        return Ok(model::all());
    }
    names
        .split(',')
        .map(|name| {
            model::by_name(name.trim()).ok_or_else(|| {
                let known: Vec<_> = model::all().iter().map(|model| model.name()).collect();
                Failure::usage(format!("no model {name}: there are {}", known.join(", ")))
            })
        })
        .collect()
}

/// The directory under test, and where in it programs start.
fn directories(asked: Option<&Path>) -> Result<(PathBuf, PathBuf), Failure> {
    let current = std::env::current_dir()
        .map_err(|error| Failure::usage(format!("there is no current directory: {error}")))?;
    let directory = asked.unwrap_or(&current);
    let directory = directory.canonicalize().map_err(|error| {
        Failure::usage(format!("{}: {error}; name a directory that exists", directory.display()))
    })?;
    if !directory.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", directory.display())));
    }
    if directory == Path::new("/") {
        return Err(Failure::usage("the root directory cannot be tested: name one below it"));
    }
    let start = if current.starts_with(&directory) { current } else { directory.clone() };
    Ok((directory, start))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("  {spinner} {msg:10} {bar:30} {pos}/{len}");
    ProgressBar::new(0).with_style(style.expect("the template is constant and valid"))
}
