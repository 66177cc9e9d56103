//! Who is alone waits for nobody, and pays the way to the daemon and nothing else.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::row::{Requirement, Row, Unit};
use super::{Gate, Lab};
use crate::contest::{Bench, Contest, End, Outcome, Session, Timing, Workload, median};
use crate::filesystem::Filesystem;

const FLUSH_TIME: Duration = Duration::from_millis(2);
/// Held or not: below it is the time of reading the clock twice.
const HOLD_US_MAX: f64 = 1.0;
const HELD: [Workload; 3] = [Workload::Append, Workload::Replace, Workload::Overwrite];
/// Round trips an overwrite may cost on top.
const ROUND_TRIPS_MAX: f64 = 2.0;
/// Measured after each pair of slices.
const ROUND_TRIPS: usize = 60;

pub(super) fn steps(seconds: f64) -> u64 {
    2 * u64::from(timing(seconds).slices) * HELD.len() as u64
}

fn timing(seconds: f64) -> Timing {
    Timing::new(seconds, FLUSH_TIME)
}

pub(super) fn measure(lab: &mut Lab<'_>) -> Result<(), End> {
    let bench = Bench::in_memory(Filesystem::Ext4, Filesystem::Ext4);
    let bench = bench.map_err(|error| error.to_string())?;
    for workload in HELD {
        lab.watch.check()?;
        lab.watch.progress.set_message(format!("lone: {workload}"));
        let contest =
            Contest { workload, threads: 1, flush_time: FLUSH_TIME, timing: timing(lab.seconds) };
        let mut round_trips_us = Vec::new();
        let mut session = Session::new(&bench, contest, &lab.options)?;
        for _ in 0..contest.timing.slices {
            session.pair(lab.watch)?;
            let measured = round_trips(session.mounted().path());
            round_trips_us.extend(measured.map_err(|error| format!("a round trip: {error}"))?);
        }
        let outcome = session.finish()?;
        lab.show(&hold(workload, &outcome))?;
        if workload == Workload::Overwrite {
            overwrite(lab, &outcome, median(round_trips_us.into_iter()))?;
        }
    }
    Ok(())
}

fn hold(workload: Workload, outcome: &Outcome) -> Row {
    let row = Row {
        lanefs: outcome.status["engine"]["lanes"]["hold_us_p99"].as_f64(),
        ..row(outcome, format!("{workload}, 1 thread, 2 ms: group held, p99"))
    };
    row.judged(Some(Requirement::LanefsMax(HOLD_US_MAX)))
}

fn overwrite(lab: &mut Lab<'_>, outcome: &Outcome, round_trip_us: f64) -> Result<(), End> {
    let trip = row(outcome, "a round trip to the daemon, p50");
    lab.show(&Row { lanefs: Some(round_trip_us), ..trip })?;
    let times = Row {
        unit: Unit::P50Us,
        bare: Some(outcome.bare.percentile_us(50)),
        lanefs: Some(outcome.lanefs.percentile_us(50)),
        ratio: Some(outcome.p50_ratio()),
        ops_ratio: Some(outcome.ops_ratio()),
        ..row(outcome, "overwrite, 1 thread, 2 ms")
    };
    lab.show(&times)?;
    let extra = Row {
        lanefs: Some(outcome.p50_extra_us()),
        ..row(outcome, "overwrite: what lanefs adds, at most 2 trips")
    };
    lab.show(&extra.judged(Some(Requirement::LanefsMax(ROUND_TRIPS_MAX * round_trip_us))))
}

fn row(outcome: &Outcome, case: impl Into<String>) -> Row {
    Row::note(Gate::Lone, case).of(&outcome.status)
}

// Of a request that the daemon answers from memory: the fsync of a directory that is durable. With
// the rhythm of a writer that waits for the disk: a processor that has slept wakes slower.
fn round_trips(mount: &Path) -> io::Result<Vec<f64>> {
    let directory = File::open(mount)?;
    directory.sync_all()?;
    let trip = |_| {
        std::thread::sleep(FLUSH_TIME);
        let start = Instant::now();
        directory.sync_all()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    (0..ROUND_TRIPS).map(trip).collect()
}
