//! Runs the contests of a gate.

use std::time::Duration;

use serde_json::Value;

use super::gates::{Figure, Trial, trials};
use super::row::{Row, Setting, Unit};
use super::{Gate, Lab};
use crate::contest::{Bench, Contest, End, Outcome, Record, Session, Timing, Workload, rounded};

/// Fewer groups are no count.
const GROUPS_MIN: u64 = 300;

/// How often the progress bar goes on.
pub(super) fn steps(gate: Gate, seconds: f64) -> u64 {
    let slices = |trial: &Trial| 2 * u64::from(timing(trial, seconds).slices);
    trials(gate).iter().map(slices).sum()
}

/// Runs all contests of a gate, in order.
pub(super) fn run(gate: Gate, lab: &mut Lab<'_>) -> Result<(), End> {
    let trials = trials(gate);
    for together in trials.chunk_by(|one, other| ground(one) == ground(other)) {
        let bench = bench(&together[0].setting).map_err(|error| error.to_string())?;
        for same in together.chunk_by(|one, other| one.setting.workload == other.setting.workload) {
            for trial in same {
                let row = hold(gate, trial, &bench, lab).map_err(|end| end.at(&trial.setting))?;
                lab.show(&row)?;
            }
            bench.clear().map_err(|error| format!("cannot remove files: {error}"))?;
        }
    }
    Ok(())
}

fn hold(gate: Gate, trial: &Trial, bench: &Bench, lab: &Lab<'_>) -> Result<Row, End> {
    lab.watch.check()?;
    lab.watch.progress.set_message(format!("{gate}: {}", trial.setting));
    let Setting { workload, threads, flush_ms, .. } = trial.setting;
    let flush_time = Duration::from_secs_f64(flush_ms.unwrap_or_default() / 1e3);
    let timing = timing(trial, lab.seconds);
    let contest = Contest { workload, threads, flush_time, timing };
    let mut session = Session::new(bench, contest, &lab.options)?;
    for _ in 0..timing.slices {
        session.pair(lab.watch)?;
    }
    while trial.figure == Figure::Flushes && groups(&session.mounted().status()) < GROUPS_MIN {
        session.pair(lab.watch)?;
    }
    let outcome = session.finish()?;
    Ok(row(gate, trial, &outcome))
}

fn groups(status: &Value) -> u64 {
    status["engine"]["lanes"]["groups"].as_u64().expect("`groups` in the status")
}

fn timing(trial: &Trial, seconds: f64) -> Timing {
    let flush_ms = trial.setting.flush_ms.unwrap_or_default();
    match trial.setting.workload {
        // A package takes longer than any slice.
        Workload::Unpack => Timing::one_operation_each(seconds),
        _ => Timing::new(seconds, Duration::from_secs_f64(flush_ms / 1e3)),
    }
}

// What makes trials share their disks.
fn ground(trial: &Trial) -> impl PartialEq {
    let Setting { bare_fs, lanefs_fs, flush_ms, .. } = trial.setting;
    (bare_fs, lanefs_fs, flush_ms.is_none())
}

fn bench(setting: &Setting) -> std::io::Result<Bench> {
    match setting.flush_ms {
        Some(_) => Bench::in_memory(setting.bare_fs, setting.lanefs_fs),
        None => Bench::on_own_disk(setting.bare_fs),
    }
}

fn row(gate: Gate, trial: &Trial, outcome: &Outcome) -> Row {
    let Outcome { bare, lanefs, status } = outcome;
    let flushes = [bare, lanefs].map(Record::flushes_per_op);
    let (unit, [bare, lanefs], ratio) = match trial.figure {
        Figure::Flushes => (Unit::FlushesPerOp, flushes, flushes[0] / flushes[1]),
        Figure::Time => {
            let figures = [bare, lanefs].map(|record| record.percentile_us(50));
            (Unit::P50Us, figures, outcome.p50_ratio())
        }
        Figure::Rate => {
            let figures = [bare, lanefs].map(Record::ops_per_s);
            match trial.setting.workload.unsynced_bytes() {
                None => (Unit::OpsPerS, figures, outcome.ops_ratio()),
                Some(bytes) => {
                    let mib = bytes as f64 / f64::from(1 << 20);
                    (Unit::MibPerS, figures.map(|rate| rate * mib), outcome.ops_ratio())
                }
            }
        }
    };
    let row = Row {
        setting: Some(trial.setting),
        unit,
        bare: Some(bare),
        lanefs: Some(lanefs),
        ratio: Some(ratio),
        ops_ratio: Some(outcome.ops_ratio()),
        flushes_per_op: Some(flushes.map(|flushes| rounded(flushes, 4))),
        ..Row::note(gate, trial.setting.to_string()).of(status)
    };
    row.judged(trial.required)
}
