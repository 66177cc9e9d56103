//! Crashes during recovery: what a checker does to a crash state is recorded like any
//! program, and may be cut off like any.
//!
//! A checker that recovers (opens a database, rolls a journal back) writes. If the power
//! fails meanwhile, the next recovery finds a state that no crash of the program itself
//! leaves.

use fs_core::crash::judge::Finding;
use fs_core::crash::law::{Crash, Law, Subject};
use fs_core::crash::plan::Budget;
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::Trace;

use super::campaign::{self, CampaignPlan, told_by};
use super::check::CheckPlan;
use super::lab::Lab;
use super::record::{Begin, RecordJob, record_from};
use crate::failure::Failure;

/// Most states of one recovery.
const STATES_MAX: usize = 300;

/// What a crash during one recovery shows.
pub struct Nested {
    /// The model, by its index in the plan.
    pub model: usize,
    /// The operation of the program before which the first crash came.
    pub at: usize,
    /// What recovery did.
    pub trace: Trace,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// States checked.
    pub checks: usize,
}

/// Records the checker on each of these states and cuts it off, too.
///
/// # Errors
/// As a campaign.
pub fn run(
    lab: &Lab,
    trace: &Trace,
    plan: &CampaignPlan,
    states: &[(usize, Crash, u32)],
    progress: &mut campaign::Progress<'_>,
) -> Result<Vec<Nested>, Failure> {
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let mut nested: Vec<Nested> = Vec::new();
    for (number, (model, crash, told)) in states.iter().enumerate() {
        progress("recovery", number, states.len());
        let law = Law::new(plan.models[*model], &subject.log);
        let state = law.state(&subject, &mut blocks, crash);
        let told = told_by(trace, *told);
        let job = job(lab, &plan.check, &told)?;
        let recording = record_from(lab, &job, &Begin::State(&subject.log, &state, &blocks))?;
        if !recording.trace.operations.iter().any(|recorded| recorded.operation.changes()) {
            continue;
        }
        let inner = CampaignPlan {
            models: vec![plan.models[*model]],
            check: plan.check.clone(),
            budget: Budget { states_max: STATES_MAX, ..plan.budget },
            time_max: plan.time_max,
            told: Some(told),
        };
        let report = campaign::run(lab, &recording.trace, &inner, &mut |_, _, _| {})?;
        nested.push(Nested {
            model: *model,
            at: crash.at,
            trace: recording.trace,
            // Refused without a second crash: a checker that is not the same twice.
            findings: if report.refuses.is_some() { Vec::new() } else { report.findings },
            checks: report.checks,
        });
    }
    Ok(nested)
}

/// The checker as a program to be recorded.
fn job(lab: &Lab, check: &CheckPlan, told: &[Vec<u8>; 3]) -> Result<RecordJob, Failure> {
    let scratch = lab.new_directory("told")?;
    let mut environment = vec![("TMPDIR", scratch.clone())];
    let names = ["LANEFS_ACK", "LANEFS_ACK_STDERR", "LANEFS_ACK_FILE"];
    for (name, told) in names.into_iter().zip(told) {
        let path = scratch.join(name);
        std::fs::write(&path, told)
            .map_err(|error| Failure::new(format!("cannot use scratch: {error}")))?;
        environment.push((name, path));
    }
    Ok(RecordJob {
        command: ["sh", "-c", &check.command].map(Into::into).into(),
        directory: check.directory.clone(),
        working_directory: check.working_directory.clone(),
        told: None,
        environment,
    })
}
