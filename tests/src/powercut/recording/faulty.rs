//! The disk fails while the workload runs.
//!
//! What returned success must be kept, what returned an error promises nothing. The first part runs
//! into the fault, the second one begins while it may still last, the third one after it is over:
//! the mount may answer errors then, but what it does not, it must keep.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

use super::killed::look_at;
use super::{Events, Run, Stage, Subject, Trees};
use crate::disk::{Fault, file_extents};
use crate::powercut::daemon::Daemon;
use crate::powercut::notes::Notes;
use crate::powercut::snapshot::LANEFS_HOME;
use crate::powercut::workload::Parts;
use crate::random::Random;

/// The fault comes after at most so many steps.
const STEPS_MAX: usize = 400;
const POLL: Duration = Duration::from_micros(150);
const MIB: u64 = 1 << 20;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Once(Fault),
    For(Fault, Duration),
    /// The filesystem has this much room left, and more after the second part.
    Full {
        room_bytes: u64,
    },
}

/// One kind after the other, so that a few recordings see all of them.
fn draw(random: &mut Random, round: u64, has_log: bool) -> Trouble {
    let nth = 1 + random.below(6) as u64;
    let time = Duration::from_millis(1 + random.below(60) as u64);
    match round % 9 {
        0 => Trouble::Once(Fault::WriteError(nth)),
        1 => Trouble::Once(Fault::FlushError(nth)),
        2 if has_log => Trouble::Once(Fault::WatchedWriteError(nth)),
        3 => Trouble::Once(Fault::UnwatchedWriteError(nth)),
        4 => Trouble::For(Fault::AllWritesFail, time),
        5 => Trouble::For(Fault::AllFlushesFail, time),
        6 => Trouble::Once(Fault::NoSpace),
        7 => Trouble::Once(Fault::Stuck(5 * time)),
        _ => Trouble::Full { room_bytes: random.below(4 << 20) as u64 },
    }
}

pub fn run(
    stage: &Stage,
    subject: &Subject,
    workload: &Parts,
    notes: &Notes<'_>,
    Run { seed, round, .. }: Run,
) -> Result<Events, String> {
    let mut random = Random::new(seed ^ 0xfa17);
    let daemon = match subject {
        Subject::Bare => None,
        Subject::Lanefs { options } => Some(Daemon::mount(&stage.tree, options)?),
    };
    let root = daemon.as_ref().map_or(&*stage.tree, Daemon::path);
    let log = log_extents(&stage.tree).map_err(|error| format!("where is the log: {error}"))?;
    let trouble = draw(&mut random, round, !log.is_empty());
    stage.disk.watch(log);
    let mut events = Events { story: vec![format!("{trouble:?}")], ..Events::default() };
    let ballast = stage.mounted.path().join("ballast");
    if let Trouble::Full { room_bytes } = trouble {
        fill(&ballast, room_bytes).map_err(|error| format!("filling the disk: {error}"))?;
    }
    let struck_at = stage.disk.position();
    let mut left = Trees::new();
    for part in 0..workload.count() {
        if part == 2 {
            relieve(stage, &ballast);
        }
        let (place, began_at) = (stage.place(root), stage.disk.position());
        let outcome = match (part, trouble) {
            (0, Trouble::Once(fault)) => strike(stage, notes, &mut random, (fault, None), || {
                workload.run(part, &place, notes)
            }),
            (0, Trouble::For(fault, time)) => {
                strike(stage, notes, &mut random, (fault, Some(time)), || {
                    workload.run(part, &place, notes)
                })
            }
            _ => workload.run(part, &place, notes),
        };
        // A program that was told that its write failed has left its file as it is now.
        if outcome.is_err()
            && let Ok(seen) = look_at(root, part)
        {
            left.push(seen);
            events.refused = true;
            events.left.push((began_at, left.clone()));
        }
        events.parts_failed += usize::from(outcome.is_err());
        events.story.push(match outcome {
            Ok(()) => format!("part {part} went well"),
            Err(error) => format!("part {part}: {error}"),
        });
    }
    if let Some(count) = daemon.as_ref().map(without_copy).filter(|count| *count > 0) {
        events.without_copy = true;
        events.story.push(format!("{count} rewrites had no copy"));
    }
    events.hot.push(struck_at.0..=stage.disk.position().0);
    stage.disk.clear_faults();
    // It may say that it could not make everything durable; it may not claim that it did. What was
    // acknowledged before is demanded from the disk as it is then.
    if let Some(Err(error)) = daemon.map(Daemon::unmount) {
        events.story.push(format!("unmounting: {error}"));
    }
    Ok(events)
}

/// Files that were rewritten without a copy of what they held, because none could be made: that is
/// counted, and they are not promised to be whole.
fn without_copy(daemon: &Daemon) -> u64 {
    let status = daemon.status().unwrap_or_default();
    status["engine"]["log"]["rewrites"]["failed"].as_u64().unwrap_or_default()
}

/// Runs a part; the fault comes in the middle of it, or at its end.
fn strike(
    stage: &Stage,
    notes: &Notes<'_>,
    random: &mut Random,
    (fault, time): (Fault, Option<Duration>),
    run: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let (until, ended) = (notes.count() + random.below(STEPS_MAX), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while notes.count() < until && !ended.load(Ordering::Relaxed) {
                thread::sleep(POLL);
            }
            stage.disk.inject(fault);
            if let Some(time) = time {
                thread::sleep(time);
                stage.disk.clear_faults();
            }
        });
        let outcome = run();
        ended.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Whatever it was is over.
fn relieve(stage: &Stage, ballast: &Path) {
    stage.disk.clear_faults();
    // The filesystem may have given up by now, and that is fine too. Durable, because it is done
    // behind the mount: a power cut that brought it back would leave recovery without room.
    let _ = fs::remove_file(ballast).and_then(|()| File::open(stage.mounted.path())?.sync_all());
}

/// Leaves so much room on the filesystem, for root.
fn fill(ballast: &Path, room_bytes: u64) -> io::Result<()> {
    let file = File::create(ballast)?;
    let stat = rustix::fs::fstatvfs(&file)?;
    let free_bytes = stat.f_bfree * stat.f_frsize;
    let mut length = 0;
    for step in [64 * MIB, MIB, MIB / 16] {
        while length + step + room_bytes < free_bytes {
            match fallocate(&file, FallocateFlags::empty(), length, step) {
                Ok(()) => length += step,
                // Some of what is free is not to be had.
                Err(rustix::io::Errno::NOSPC) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    file.sync_all()
}

/// Where on the disk the files of lanefs lie; nothing without a log.
fn log_extents(tree: &Path) -> io::Result<Vec<Range<u64>>> {
    let mut extents = Vec::new();
    let Ok(entries) = fs::read_dir(tree.join(LANEFS_HOME)) else { return Ok(extents) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            extents.extend(file_extents(&File::open(entry.path())?)?);
        }
    }
    Ok(extents)
}
