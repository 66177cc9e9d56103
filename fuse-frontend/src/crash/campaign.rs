//! One campaign: plan the states of a trace, have them checked, judge what was refused.

use std::collections::HashMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use fs_core::crash::judge::{Failed, Finding, Judge, useless_syncs};
use fs_core::crash::law::{Crash, Law, Subject};
use fs_core::crash::model::Model;
use fs_core::crash::plan::{self, Budget, Plan};
use fs_core::crash::state::{Blocks, State};
use fs_core::crash::trace::{Operation, Trace};

use super::check::{CheckJob, CheckPlan, Checked, Checkers, Outcome};
use super::lab::Lab;
use super::oracle::Oracle;
use crate::failure::Failure;

/// What a campaign shall do.
pub struct CampaignPlan {
    /// The models.
    pub models: Vec<&'static dyn Model>,
    /// How states are checked.
    pub check: CheckPlan,
    /// How many.
    pub budget: Budget,
    /// Time for checks, after which no more states are begun.
    pub time_max: Duration,
    /// What had been told, whatever the trace says: for a trace that is a recovery.
    pub told: Option<[Vec<u8>; 3]>,
}

/// What came of a campaign.
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// For each model: states, and of these refused.
    pub models: Vec<ModelReport>,
    /// States checked, asked again included.
    pub checks: usize,
    /// States that a checker would not judge (exit 77).
    pub skipped: usize,
    /// States planned.
    pub planned: usize,
    /// Crashes thought of, for all models.
    pub crashes: usize,
    /// How long planning took.
    pub planning: Duration,
    /// How long checking and judging took.
    pub checking: Duration,
    /// Why there are not more states.
    pub cut_short: Option<String>,
    /// Recorded syncs without which nothing more could be lost: numbers of operations.
    pub useless: Vec<usize>,
    /// Recorded syncs.
    pub syncs: usize,
    /// Files that `--check auto` has programs for, and these.
    pub asked: Vec<String>,
    /// Some states that the checker took: law, crash, acknowledgements.
    pub taken: Vec<(usize, Crash, u32)>,
    /// The checker refuses the tree before anything was done, or after all was done and
    /// nothing lost: then it may be the checker that is wrong.
    pub refuses: Option<&'static str>,
}

/// A model's part of a report.
pub struct ModelReport {
    /// Its name.
    pub name: &'static str,
    /// States that it allows and that were checked.
    pub states: usize,
    /// Of these refused.
    pub refused: usize,
}

/// States that a campaign remembers of those that the checker took.
const TAKEN_MAX: usize = 16;

/// Workers if nobody says how many: each waits for a process most of the time.
#[must_use]
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get).max(2)
}

/// Told by a campaign while it runs: what it does, how far it is, and how far it goes.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// Runs a campaign.
///
/// # Errors
/// States cannot be laid out, or the checker not be run.
pub fn run(
    lab: &Lab,
    trace: &Trace,
    plan: &CampaignPlan,
    progress: &mut Progress<'_>,
) -> Result<Report, Failure> {
    let start = Instant::now();
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let laws: Vec<Law<'_>> =
        plan.models.iter().map(|model| Law::new(*model, &subject.log)).collect();
    let planned = plan::plan(&subject, &laws, &mut blocks, plan.budget);
    let planning = start.elapsed();
    let oracle = (plan.check.command == "auto").then(|| Oracle::new(&subject, &mut blocks));
    let blocks = RwLock::new(blocks);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let checkers =
            Checkers::start(scope, lab, &plan.check, oracle.as_ref(), &subject.log, &blocks)?;
        let deadline = start + plan.time_max;
        let mut session = Session {
            subject: &subject,
            laws: &laws,
            blocks: &blocks,
            checkers,
            known: HashMap::new(),
            fixed: plan.told.as_ref(),
            // Judging asks again: as long as checking may take.
            deadline: deadline + plan.time_max,
            checks: 0,
            skipped: 0,
            failure: None,
        };
        let refused = session.check_all(&planned, deadline, progress)?;
        let mut report = session.judge(plan, &planned, &refused, progress)?;
        report.planning = planning;
        report.asked = oracle.as_ref().map(|oracle| oracle.asked.clone()).unwrap_or_default();
        report.checking = start.elapsed();
        Ok(report)
    })
}

/// Where a campaign shows its states: the directory that was recorded.
#[must_use]
pub fn directory_of(trace: &Trace) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(&trace.directory))
}

struct Session<'s, 'a> {
    subject: &'s Subject<'a>,
    laws: &'s [Law<'static>],
    blocks: &'s RwLock<Blocks>,
    checkers: Checkers<'s>,
    /// Verdicts by tree and acknowledgements.
    known: HashMap<(u64, u32), Checked>,
    /// What had been told, whatever the trace says.
    fixed: Option<&'s [Vec<u8>; 3]>,
    /// No more is asked after it.
    deadline: Instant,
    checks: usize,
    skipped: usize,
    failure: Option<Failure>,
}

impl Session<'_, '_> {
    /// Checks all planned states; gives the numbers of those refused.
    fn check_all(
        &mut self,
        plan: &Plan,
        deadline: Instant,
        progress: &mut Progress<'_>,
    ) -> Result<Checks, Failure> {
        let mut checks = Checks { verdicts: vec![None; plan.states.len()], out_of_time: false };
        for (id, planned) in plan.states.iter().enumerate() {
            if Instant::now() > deadline {
                checks.out_of_time = true;
                break;
            }
            let (law, crash, _) = &planned.crashes[0];
            let state = self.state(*law, crash);
            let told = self.told(planned.told);
            self.checkers.submit(CheckJob { id, state, told })?;
            while let Some(checked) = self.checkers.try_next_verdict()? {
                checks.note(checked);
            }
            progress("checking", id + 1, plan.states.len());
        }
        while let Some(checked) = self.checkers.next_verdict()? {
            checks.note(checked);
        }
        for (planned, verdict) in plan.states.iter().zip(&checks.verdicts) {
            if let Some(verdict) = verdict {
                self.checks += 1;
                self.skipped += usize::from(verdict.outcome == Outcome::Skip);
                self.known.insert((planned.key, planned.told), verdict.clone());
            }
        }
        Ok(checks)
    }

    fn judge(
        mut self,
        plan: &CampaignPlan,
        planned: &Plan,
        checks: &Checks,
        progress: &mut Progress<'_>,
    ) -> Result<Report, Failure> {
        let mut models: Vec<ModelReport> = plan
            .models
            .iter()
            .map(|model| ModelReport { name: model.name(), states: 0, refused: 0 })
            .collect();
        let mut failed = Vec::new();
        for (state, verdict) in planned.states.iter().zip(&checks.verdicts) {
            let Some(verdict) = verdict else { continue };
            let is_refused = matches!(verdict.outcome, Outcome::Bad | Outcome::Timeout);
            for (law, crash, _) in &state.crashes {
                models[*law].states += 1;
                models[*law].refused += usize::from(is_refused);
                if is_refused {
                    let said = said(verdict);
                    failed.push(Failed { law: *law, crash: crash.clone(), said });
                }
            }
        }
        let is_good = |verdict: &Option<Checked>| {
            verdict.as_ref().is_some_and(|v| v.outcome == Outcome::Good)
        };
        let good = planned.states.iter().zip(&checks.verdicts).filter(|(_, v)| is_good(v));
        let good: Vec<_> = good.map(|(state, _)| state).collect();
        // Evenly over all: those at the beginning are alike.
        let step = good.len().div_ceil(TAKEN_MAX).max(1);
        let taken = good.into_iter().step_by(step).map(|state| {
            let (law, crash, _) = &state.crashes[0];
            (*law, crash.clone(), state.told)
        });
        let taken: Vec<_> = taken.collect();
        progress("judging", 0, failed.len());
        let refuses = if failed.is_empty() { None } else { self.refuses()? };
        let findings = if refuses == Some("before") {
            Vec::new()
        } else {
            let judge = Judge::new(self.subject, self.laws, self.blocks, plan.budget.seed);
            judge.judge(failed, &mut |state, key, told| self.ask(state, key, told))
        };
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let cut_short = match (planned.cut_short, checks.out_of_time) {
            _ if Instant::now() > self.deadline => {
                Some("--time: not all bad states were explained".to_owned())
            }
            (_, true) => Some("--time".to_owned()),
            (reason, _) => reason.map(str::to_owned),
        };
        let operations = &self.subject.log.trace.operations;
        let syncs = operations
            .iter()
            .filter(|recorded| matches!(recorded.operation, Operation::Sync { .. }))
            .count();
        Ok(Report {
            findings,
            models,
            checks: self.checks,
            skipped: self.skipped,
            planned: planned.states.len(),
            crashes: planned.crashes.iter().sum(),
            planning: Duration::ZERO,
            checking: Duration::ZERO,
            cut_short,
            useless: useless_syncs(self.subject, self.laws),
            syncs,
            asked: Vec::new(),
            taken,
            refuses,
        })
    }

    /// Whether the checker refuses what no crash has touched.
    fn refuses(&mut self) -> Result<Option<&'static str>, Failure> {
        let end = self.subject.log.trace.operations.len();
        for (at, when) in [(0, "before"), (end, "after")] {
            let crash = Crash { at, kept: self.laws[0].prefix(at), torn: None };
            let state = self.state(0, &crash);
            let key = {
                let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
                state.key(&self.subject.log, &mut blocks)
            };
            let refused = self.ask(&state, key, self.subject.told(at));
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if refused == Some(true) {
                return Ok(Some(when));
            }
        }
        Ok(None)
    }

    /// A verdict, known or asked for.
    fn ask(&mut self, state: &State, key: u64, told: u32) -> Option<bool> {
        let is_refused =
            |checked: &Checked| matches!(checked.outcome, Outcome::Bad | Outcome::Timeout);
        if let Some(known) = self.known.get(&(key, told)) {
            return Some(is_refused(known));
        }
        if Instant::now() > self.deadline {
            return None;
        }
        self.checks += 1;
        let job = CheckJob { id: usize::MAX, state: state.clone(), told: self.told(told) };
        let checked = self.checkers.submit(job).and_then(|()| self.checkers.next_verdict());
        match checked {
            Ok(Some(checked)) => {
                let refused = is_refused(&checked);
                self.known.insert((key, told), checked);
                Some(refused)
            }
            Ok(None) => None,
            Err(failure) => {
                self.failure = Some(failure);
                None
            }
        }
    }

    fn state(&self, law: usize, crash: &Crash) -> State {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        self.laws[law].state(self.subject, &mut blocks, crash)
    }

    /// What had been told by the first `told` acknowledgements, by stream.
    fn told(&self, told: u32) -> [Vec<u8>; 3] {
        self.fixed.cloned().unwrap_or_else(|| told_by(self.subject.log.trace, told))
    }
}

/// What the first `told` acknowledgements say: standard output, standard error, and the
/// file of `--ack`.
#[must_use]
pub fn told_by(trace: &Trace, told: u32) -> [Vec<u8>; 3] {
    let mut streams = [Vec::new(), Vec::new(), Vec::new()];
    let acks = trace.operations.iter().filter_map(|recorded| match recorded.operation {
        Operation::Ack { stream, data } => Some((stream, data)),
        _ => None,
    });
    for (stream, data) in acks.take(told as usize) {
        let place = usize::from(stream.clamp(1, 3)) - 1;
        streams[place].extend_from_slice(trace.blobs.get(data));
    }
    streams
}

fn said(checked: &Checked) -> String {
    let last = checked.output.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => format!("{} ({})", line.trim(), checked.ended),
        None => checked.ended.clone(),
    }
}

struct Checks {
    verdicts: Vec<Option<Checked>>,
    out_of_time: bool,
}

impl Checks {
    fn note(&mut self, checked: Checked) {
        let id = checked.id;
        self.verdicts[id] = Some(checked);
    }
}
