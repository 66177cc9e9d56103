//! The daemon is killed at a random moment while the kernel lives, and the directory mounted again.
//!
//! The page cache is newer than anything that is durable: nothing that a program could see when the
//! daemon died may be gone or changed after the next mount, synced or not. That mount syncs
//! everything, so after it a power cut may not take it either. Then it goes on in another directory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Events, Run, Stage, Trees};
use crate::powercut::daemon::Daemon;
use crate::powercut::notes::Notes;
use crate::powercut::snapshot::Snapshot;
use crate::powercut::workload::Parts;
use crate::random::Random;

/// The daemon is killed after at most so many steps of a part (or when the part ends).
const STEPS_MAX: usize = 500;
/// And at most so much later, so that it may be in the middle of anything.
const DELAY_MAX_US: usize = 3000;
const POLL: Duration = Duration::from_micros(150);

pub fn run(
    stage: &Stage,
    options: &str,
    workload: &Parts,
    notes: &Notes<'_>,
    Run { seed, .. }: Run,
) -> Result<Events, String> {
    let mut random = Random::new(seed ^ 0x6b69_6c6c);
    let mut events = Events::default();
    let mut daemon = Daemon::mount(&stage.tree, options)?;
    let last = workload.count() - 1;
    for part in 0..=last {
        if part == last {
            let place = stage.place(daemon.path());
            let outcome = workload.run(part, &place, notes);
            outcome.map_err(|error| format!("the part after the kills failed: {error}"))?;
            break;
        }
        let outcome = run_and_kill(&daemon, stage, workload, part, notes, &mut random);
        let killed_at = stage.disk.position();
        events.parts_failed += usize::from(outcome.is_err());
        events.story.push(match outcome {
            Ok(()) => format!("part {part} ended before the daemon was killed"),
            Err(error) => format!("part {part} was killed: {error}"),
        });
        daemon.bury()?;
        let before = look(&stage.tree, part)?;
        match Daemon::mount(&stage.tree, options) {
            Ok(again) => daemon = again,
            Err(error) => {
                events.live_losses.push(format!("no mount after a kill: {error}"));
                return Ok(events);
            }
        }
        let mounted_at = stage.disk.position();
        for (whose, root) in [("the mount", daemon.path()), ("the directory", &stage.tree)] {
            let after = look(root, part)?;
            let differences = compare(&before, &after);
            let told = differences.map(|what| format!("after a kill {whose} shows: {what}"));
            events.live_losses.extend(told);
        }
        events.left.push((killed_at, before.clone()));
        events.exact.push((mounted_at, before));
        events.hot.push(killed_at.0..=mounted_at.0 + 8);
    }
    let parts = look(daemon.path(), last)?;
    daemon.unmount()?;
    events.last_exact = parts;
    Ok(events)
}

/// Every part up to this one.
fn look(root: &Path, last: usize) -> Result<Trees, String> {
    (0..=last).map(|part| look_at(root, part)).collect()
}

/// A part as the mount shows it.
pub(super) fn look_at(root: &Path, part: usize) -> Result<(String, Arc<Snapshot>), String> {
    let directory = Parts::directory(part);
    let snapshot = Snapshot::take(&root.join(&directory));
    let snapshot = snapshot.map_err(|error| format!("looking at {directory}: {error}"))?;
    Ok((directory, Arc::new(snapshot)))
}

fn compare(before: &Trees, after: &Trees) -> impl Iterator<Item = String> {
    let pairs = before.iter().zip(after);
    pairs.filter_map(|((directory, before), (_, after))| {
        before.difference(after).map(|what| format!("{directory}: {what}"))
    })
}

/// Runs a part until it ends or the daemon dies under it.
fn run_and_kill(
    daemon: &Daemon,
    stage: &Stage,
    workload: &Parts,
    part: usize,
    notes: &Notes<'_>,
    random: &mut Random,
) -> std::io::Result<()> {
    let kill = daemon.killer();
    // Early moments are worth more: nothing is in the log yet, or one group.
    let limit = 1 + random.below(STEPS_MAX);
    let steps = random.below(limit);
    let delay = Duration::from_micros(random.below(DELAY_MAX_US) as u64);
    let (until, ended) = (notes.count() + steps, AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while notes.count() < until && !ended.load(Ordering::Relaxed) {
                thread::sleep(POLL);
            }
            thread::sleep(delay);
            kill();
        });
        let outcome = workload.run(part, &stage.place(daemon.path()), notes);
        ended.store(true, Ordering::Relaxed);
        outcome
    })
}
