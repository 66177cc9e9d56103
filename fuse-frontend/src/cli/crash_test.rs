//! `lanefs crash-test`: what a power cut does to a program's files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use fs_core::crash::artefact::{Artefact, Witness};
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::model::{self, Model};
use fs_core::crash::plan::Budget;
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::Trace;
use fs_core::crash::words::Names;
use indicatif::{ProgressBar, ProgressStyle};

use self::output::{Files, Output};
use crate::crash::campaign::{self, CampaignPlan, Report, default_workers};
use crate::crash::check::{CheckPlan, Limits};
use crate::crash::lab::Lab;
use crate::crash::nested::{self, Nested};
use crate::crash::record::{RecordJob, record};
use crate::failure::{EXIT_USAGE, Failure};

mod baseline;
mod html;
mod json;
mod junit;
mod output;
mod replay;
mod sarif;
mod selftest;
mod text;

/// Exit code: something was found.
const EXIT_FOUND: u8 = 1;
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
    /// skip it, else it is bad. $LANEFS_ACK is a file with what APP had printed by then. `auto`: each
    /// file as it was at a quiet moment; SQLite, LMDB and git by their own programs.
    #[arg(long, value_name = "CMD", required = true)]
    pub check: Option<String>,
    /// The directory under test [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A file in DIR through which APP tells what it has done, each write an acknowledgement.
    #[arg(long, value_name = "FILE")]
    pub ack: Option<PathBuf>,
    /// Keep what APP has made: copy it back to DIR.
    #[arg(long)]
    pub keep: bool,
    /// Write the recording and its findings to this file, for `replay` and `show`.
    #[arg(long, value_name = "NAME.crash")]
    pub out: Option<PathBuf>,
    /// How much, and how it is told.
    #[command(flatten)]
    pub campaign: CampaignArgs,
    /// The program to record, and its arguments.
    #[arg(last = true, value_name = "APP", required = true)]
    pub app: Vec<std::ffi::OsString>,
}

/// How much shall be done, and how it is told.
#[derive(Debug, Clone, Args)]
pub struct CampaignArgs {
    /// What may be lost: names of models, comma-separated, or `all`; `crash-test models` lists them.
    #[arg(long, value_name = "MODELS", default_value = "ext4,xfs,btrfs")]
    pub model: String,
    /// Most states for each model.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub max_states: usize,
    /// Seconds of checking, after which no more states are begun.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub time: u64,
    /// Seconds for one check.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u64,
    /// Largest file that a checker may write, in MiB: it is in memory.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub file_max: u64,
    /// Memory of each process of a checker, in MiB of address space [default: no limit].
    #[arg(long, value_name = "MIB")]
    pub memory_max: Option<u64>,
    /// Checks at a time [default: one for each processor].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// 2: also crashes while the checker recovers, for 16 states that it takes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub depth: u8,
    /// Where chance begins; the same seed gives the same states.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Checkers see the machine's network; without it each has a loopback of its own, all ports free.
    #[arg(long)]
    pub network: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write the report as JUnit XML, too.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the report as SARIF, too.
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
    /// Write the report as a page with a timeline, too.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Findings that are listed in this file do not count.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Write what was found to the baseline, and exit 0.
    #[arg(long, requires = "baseline")]
    pub update_baseline: bool,
}

/// The other commands of the lab.
#[derive(Debug, Subcommand)]
pub enum CrashCommand {
    /// Check a recording again, or one of its findings: NAME.crash#2. Runs no program but the checker.
    Replay(ReplayArgs),
    /// List the operations of a recording; of NAME.crash#2, what a finding keeps and loses.
    Show(ShowArgs),
    /// Say which crash of a recording leaves a directory as DIR is, if its model allows one.
    Explain(ExplainArgs),
    /// List the models.
    Models,
    /// Plant a missing fsync and find it: shows that the lab works on this machine.
    Selftest,
}

/// Arguments of `lanefs crash-test replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording, with or without the number of a finding.
    #[arg(value_name = "NAME.crash[#N]")]
    pub recording: PathBuf,
    /// Another checker than the one in the recording.
    #[arg(long, value_name = "CMD")]
    pub check: Option<String>,
    /// Lay the finding's state out in this new directory, and check nothing.
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// How much, and how it is told.
    #[command(flatten)]
    pub campaign: CampaignArgs,
}

/// Arguments of `lanefs crash-test show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The recording, with or without the number of a finding.
    #[arg(value_name = "NAME.crash[#N]")]
    pub recording: PathBuf,
}

/// Arguments of `lanefs crash-test explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The recording.
    #[arg(value_name = "NAME.crash")]
    pub recording: PathBuf,
    /// The directory as a crash left it.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The model.
    #[arg(long, value_name = "MODEL", default_value = "ext4")]
    pub model: String,
    /// The crash came after this many acknowledgements, and before two more [default: at any time].
    #[arg(long, value_name = "N")]
    pub told: Option<u32>,
    /// Most crashes looked at for each moment.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_crashes: usize,
}

const HELP: &str = "\
Examples:
  lanefs crash-test --check 'gzip -t f.gz || test -s f' -- gzip f
  lanefs crash-test --model all --out app.crash --check ./check.sh -- ./app --import data
  lanefs crash-test replay app.crash#1

APP runs on a private copy of DIR in memory, at DIR's own path; DIR is not changed.
Exit codes: 0 nothing found; 1 findings; 2 the command was used wrongly; 3 it could not be run.";

/// Runs the command; the exit code says whether something was found.
pub(super) fn run(args: &CrashTestArgs) -> Result<(), Failure> {
    let done = match &args.command {
        Some(CrashCommand::Models) => super::table::print(&text::models()).map(|()| false),
        Some(CrashCommand::Replay(args)) => replay::run(args),
        Some(CrashCommand::Show(args)) => replay::show(args).map(|()| false),
        Some(CrashCommand::Explain(args)) => replay::explain(args),
        Some(CrashCommand::Selftest) => selftest::run().map(|()| false),
        None => test(args),
    };
    match done {
        Ok(false) => Ok(()),
        // Told by the exit code, not as an error.
        Ok(true) => Err(Failure { exit_code: EXIT_FOUND, message: String::new() }),
        Err(failure) if failure.exit_code == EXIT_USAGE => Err(failure),
        Err(failure) => Err(Failure { exit_code: EXIT_NOT_RUN, ..failure }),
    }
}

/// Records and checks; true if something was found.
fn test(args: &CrashTestArgs) -> Result<bool, Failure> {
    let models = models(&args.campaign.model)?;
    let (directory, working_directory) = directories(args.dir.as_deref())?;
    let out = args.out.as_ref().map(|out| absolute(out)).transpose()?;
    let files = Files::new(&args.campaign)?;
    let lab = Lab::enter()?;
    let job = RecordJob {
        command: args.app.clone(),
        directory: directory.clone(),
        working_directory: working_directory.clone(),
        told: args.ack.as_ref().map(|told| directory.join(told)),
        environment: Vec::new(),
    };
    let recording = record(&lab, &job)?;
    if args.keep {
        recording.keep(&directory)?;
    }
    let check = args.check.clone().unwrap_or_default();
    let plan = args.campaign.plan(models, check, directory, working_directory);
    let report = run_campaign(&lab, &recording.trace, &plan)?;
    let nested = args.campaign.nested(&lab, &recording.trace, &plan, &report)?;
    let saved = out.as_ref().map(|out| save(out, &recording.trace, &plan, &report)).transpose()?;
    let output = Output {
        trace: &recording.trace,
        plan: &plan,
        report: &report,
        difference: recording.difference.as_deref(),
        program: (!recording.status.success()).then(|| recording.status.to_string()),
        saved: saved.as_deref(),
        known: files.known()?,
        nested,
    };
    output.tell(&files, args.campaign.json)
}

impl CampaignArgs {
    fn plan(
        &self,
        models: Vec<&'static dyn Model>,
        command: String,
        directory: PathBuf,
        working_directory: PathBuf,
    ) -> CampaignPlan {
        let workers = self.workers.unwrap_or_else(default_workers).max(1);
        let timeout = Duration::from_secs(self.timeout.max(1));
        CampaignPlan {
            models,
            check: CheckPlan {
                command,
                directory,
                working_directory,
                workers,
                timeout,
                limits: Limits { file_mib: self.file_max, memory_mib: self.memory_max },
                shares_network: self.network,
            },
            budget: Budget { states_max: self.max_states, seed: self.seed, ..Budget::default() },
            time_max: Duration::from_secs(self.time),
            told: None,
        }
    }
}

impl CampaignArgs {
    /// Crashes during recovery, if they are asked for.
    fn nested(
        &self,
        lab: &Lab,
        trace: &Trace,
        plan: &CampaignPlan,
        report: &Report,
    ) -> Result<Vec<Nested>, Failure> {
        if self.depth < 2 || plan.check.command == "auto" {
            return Ok(Vec::new());
        }
        nested::run(lab, trace, plan, &report.taken, &mut |_, _, _| {})
    }
}

fn run_campaign(lab: &Lab, trace: &Trace, plan: &CampaignPlan) -> Result<Report, Failure> {
    let style = ProgressStyle::with_template("  {spinner} {msg:10} {bar:30} {pos}/{len}");
    let bar = ProgressBar::new(0).with_style(style.expect("the template is constant and valid"));
    let report = campaign::run(lab, trace, plan, &mut |what, done, whole| {
        bar.set_message(what.to_owned());
        bar.set_length(whole as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    report
}

/// Writes the artefact; gives its path for people.
fn save(
    out: &Path,
    trace: &Trace,
    plan: &CampaignPlan,
    report: &Report,
) -> Result<String, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let names = Names::new(trace);
    let findings = report.findings.iter().map(|finding| {
        let (law, crash) = &finding.witness;
        let law = Law::new(plan.models[*law], &subject.log);
        let sentence = finding.sentence(trace, &names);
        Witness::new(&law, crash, finding.told, finding.class, sentence)
    });
    let artefact = Artefact {
        trace: trace.clone(),
        check: plan.check.command.clone(),
        working_directory: plan.check.working_directory.as_os_str().as_bytes().to_vec(),
        findings: findings.collect(),
    };
    std::fs::write(out, artefact.to_bytes()).map_err(|error| {
        Failure::new(format!("cannot write {}: {error}; name another --out", out.display()))
    })?;
    Ok(out.display().to_string())
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
    let current = current_directory()?;
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

fn current_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::usage(format!("there is no current directory: {error}")))
}

/// A path that means the same when mounts have changed below us.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(current_directory()?.join(path))
}
