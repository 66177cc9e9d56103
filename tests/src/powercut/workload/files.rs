//! Programs that change what is in a file: databases, logs, downloads.
//!
//! One kind of actor serves them all. They differ in what they do to their file and in how they make
//! it durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::contents::{SECTOR_BYTES, sectors};
use super::history::{Change, FileHistory, Window};
use super::{Place, Workload, run_actors};
use crate::mapping::store_elsewhere;
use crate::powercut::notes::{Notes, Promised};
use crate::random::Random;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// Mapped files have this length from the start.
const MAPPED_SECTORS: u64 = 256;
/// Large files do not grow beyond about this.
const LARGE_SECTORS_MAX: usize = 12_000;

/// How a step becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// By itself not at all.
    None,
    Fsync,
    Fdatasync,
    /// Written through a descriptor opened with these flags.
    Opened(i32),
    /// Stored through a mapping, then msync.
    Msync,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    change: Change,
    durability: Durability,
}

/// Actors with a file each.
struct FileWorkload {
    seed: u64,
    actors: Vec<Vec<Step>>,
    /// Files start with this many sectors, written by step 0.
    start_sectors: u64,
}

/// Appends of 4 KiB, each followed by fdatasync.
pub fn append(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 4, 0, 300, |_, length| Step {
        change: Change::Write { first: length, count: 8 },
        durability: Durability::Fdatasync,
    })
}

/// Overwrites of pages of a database file, each followed by fdatasync.
pub fn overwrite(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 4, 512, 300, |random, _| Step {
        change: Change::Write { first: 8 * random.below(64) as u64, count: 8 },
        durability: Durability::Fdatasync,
    })
}

/// Truncations and holes between writes, each followed by fsync.
pub fn truncate(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, 64, 350, |random, length| {
        let change = match random.below(4) {
            0 => Change::Truncate { sectors: random.below(200) as u64 },
            1 => {
                let (first, count) = range(random, length.max(8));
                Change::Punch { first, count }
            }
            _ => {
                let (first, count) = range(random, 200);
                Change::Write { first, count }
            }
        };
        Step { change, durability: Durability::Fsync }
    })
}

/// Writes through descriptors opened with O_SYNC or O_DSYNC.
pub fn osync(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, 64, 350, |random, length| {
        let first = if random.below(2) == 0 { length } else { random.below(64) as u64 };
        let flags = if random.below(2) == 0 { libc::O_SYNC } else { libc::O_DSYNC };
        let count = 1 + random.below(16) as u64;
        Step { change: Change::Write { first, count }, durability: Durability::Opened(flags) }
    })
}

/// Stores through a shared mapping, each followed by msync.
pub fn mmap(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, MAPPED_SECTORS, 300, |random, _| {
        let (first, count) = range(random, MAPPED_SECTORS);
        let count = count.min(MAPPED_SECTORS - first);
        Step { change: Change::Write { first, count }, durability: Durability::Msync }
    })
}

/// Everything, as fsx does it, with a sync now and then. (No O_SYNC writes here: they make their own
/// bytes durable and not what was written before without a sync.)
pub fn fsx(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, 64, 1500, |random, length| {
        let (first, count) = range(random, 300);
        let change = match random.below(10) {
            0 => Change::Truncate { sectors: random.below(300) as u64 },
            1 => Change::Punch { first, count },
            2 => Change::Write { first: length, count },
            _ => Change::Write { first, count },
        };
        let durability = match random.below(8) {
            0 => Durability::Fsync,
            1 => Durability::Fdatasync,
            _ => Durability::None,
        };
        Step { change, durability }
    })
}

/// Files that are cut in the middle of a block and grow again, by parts that reach the disk in any
/// order, seldom by a sync of their own.
pub fn cuts(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, 64, 900, |random, length| {
        let (first, count) = range(random, 120);
        let change = match random.below(10) {
            0..3 => Change::Truncate { sectors: random.below(40) as u64 },
            3..6 => Change::Punch { first, count },
            6 => Change::Write { first: length, count },
            _ => Change::Write { first, count },
        };
        let durability = match random.below(12) {
            0 => Durability::Fsync,
            1 => Durability::Fdatasync,
            _ => Durability::None,
        };
        Step { change, durability }
    })
}

/// Files that grow by megabytes, between small changes, theirs and of others: large ones are written ahead
/// of the group that makes them durable.
pub fn large(seed: u64) -> Box<dyn Workload> {
    FileWorkload::boxed(seed, 3, 64, 100, |random, length| {
        let end = usize::try_from(length).expect("files are small");
        let change = match random.below(8) {
            0 if end > LARGE_SECTORS_MAX => Change::Truncate { sectors: random.below(end) as u64 },
            0..3 => {
                let first = if end < LARGE_SECTORS_MAX { end } else { random.below(end) };
                Change::Write { first: first as u64, count: 2500 + random.below(3000) as u64 }
            }
            3 => Change::Write { first: length, count: 1 + random.below(20) as u64 },
            _ => Change::Write { first: random.below(end.max(1)) as u64, count: 8 },
        };
        let durability = match random.below(4) {
            0 => Durability::None,
            1 => Durability::Fsync,
            _ => Durability::Fdatasync,
        };
        Step { change, durability }
    })
}

fn range(random: &mut Random, below: u64) -> (u64, u64) {
    let below = usize::try_from(below).expect("files are small");
    (random.below(below) as u64, 1 + random.below(24) as u64)
}

impl FileWorkload {
    fn boxed(
        seed: u64,
        actors: u32,
        start_sectors: u64,
        count: u64,
        draw: impl Fn(&mut Random, u64) -> Step,
    ) -> Box<dyn Workload> {
        let steps_of = |actor: u32| {
            let mut random = Random::new(seed ^ u64::from(actor) << 32);
            let mut history = start(start_sectors);
            let mut steps = Vec::new();
            for number in 1..=count {
                let step = draw(&mut random, history.length());
                history.apply(number, step.change);
                steps.push(step);
            }
            steps
        };
        let actors = (0..actors).map(steps_of).collect();
        Box::new(FileWorkload { seed, actors, start_sectors })
    }

    fn path(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("file-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let path = Self::path(root, actor);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let number = u32::try_from(actor).expect("few actors");
        for (index, step) in self.actors[actor].iter().enumerate() {
            let step_number = index as u64 + 1;
            let run = || self.run_step(&path, &file, number, step_number, *step);
            match step.durability {
                Durability::None => notes.unacked(number, step_number, run)?,
                Durability::Fsync => notes.covering(number, step_number, run)?,
                _ => notes.acked(number, step_number, run)?,
            }
        }
        Ok(())
    }

    fn run_step(
        &self,
        path: &Path,
        file: &File,
        actor: u32,
        number: u64,
        step: Step,
    ) -> io::Result<()> {
        let bytes = |first, count| sectors(self.seed, actor, number, first, count);
        match (step.change, step.durability) {
            (Change::Write { first, count }, Durability::Msync) => {
                let length = usize::try_from(MAPPED_SECTORS * SECTOR).expect("it is small");
                let offset = usize::try_from(first * SECTOR).expect("it is small");
                store_elsewhere(path, length, offset, &bytes(first, count))?;
            }
            (Change::Write { first, count }, Durability::Opened(flags)) => {
                let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
                file.write_all_at(&bytes(first, count), first * SECTOR)?;
            }
            (Change::Write { first, count }, _) => {
                file.write_all_at(&bytes(first, count), first * SECTOR)?;
            }
            (Change::Truncate { sectors }, _) => file.set_len(sectors * SECTOR)?,
            (Change::Punch { first, count }, _) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, mode, first * SECTOR, count * SECTOR)?;
            }
        }
        match step.durability {
            Durability::Fsync => file.sync_all(),
            Durability::Fdatasync => file.sync_data(),
            Durability::None | Durability::Opened(_) | Durability::Msync => Ok(()),
        }
    }
}

/// A file as `prepare` leaves it.
fn start(sectors: u64) -> FileHistory {
    let mut history = FileHistory::new();
    if sectors > 0 {
        history.apply(0, Change::Write { first: 0, count: sectors });
    }
    history
}

impl Workload for FileWorkload {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        for actor in 0..self.actors.len() {
            let number = u32::try_from(actor).expect("few actors");
            let bytes = sectors(self.seed, number, 0, 0, self.start_sectors);
            std::fs::write(Self::path(root, actor), bytes)?;
        }
        Ok(())
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        run_actors(self.actors.len(), |actor| self.run_actor(&place.root, actor, notes))
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        super::in_words(&self.actors, actor)
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        for (actor, steps) in self.actors.iter().enumerate() {
            let number = u32::try_from(actor).expect("few actors");
            let progress = promised.of(number);
            let mut history = start(self.start_sectors);
            for (index, step) in
                steps.iter().enumerate().take_while(|(i, _)| (*i as u64) < progress.begun)
            {
                history.apply(index as u64 + 1, step.change);
            }
            let path = Self::path(root, actor);
            let bytes =
                std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            // The zeros of a cut may be lost with that.
            let covered = if promised.was_refused() { progress.acked } else { progress.covered };
            let window = Window { synced: progress.acked, covered, begun: progress.begun };
            history.check(&bytes, (self.seed, number), window).map_err(|error| {
                format!("file-{actor}, acknowledged step {}: {error}", progress.acked)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::powercut::snapshot::Snapshot;

    /// On a failing disk the zeros of a cut may be what could not be written: who was told so is promised
    /// only what he has synced since. Nobody else: not after a daemon's death, and not of a sync of one's own.
    #[test]
    fn bytes_that_were_cut_off_may_come_back_only_to_who_was_told_of_an_error() {
        let changes = [Change::Truncate { sectors: 3 }, Change::Write { first: 8, count: 1 }];
        let steps = changes.map(|change| Step { change, durability: Durability::None });
        let workload = FileWorkload { seed: 4, actors: vec![steps.to_vec()], start_sectors: 8 };
        let place = tempfile::tempdir().expect("scratch directory");
        workload.prepare(place.path()).expect("a file");
        let path = FileWorkload::path(place.path(), 0);
        let file = OpenOptions::new().write(true).open(&path).expect("it is there");
        file.write_all_at(&sectors(4, 0, 2, 8, 1), 8 * SECTOR).expect("room for it");

        let promised = |acked: u64, covered: u64| {
            let actors = json!([[0, acked, 2, covered]]);
            Promised::from_json(&actors).expect("promises").under_log(true)
        };
        let seen = || [(String::new(), Arc::new(Snapshot::take(place.path()).expect("files")))];
        let check = |promised: Promised| workload.check(place.path(), &promised);
        assert_eq!(check(promised(0, 0)), Ok(()), "nothing was promised");
        assert!(check(promised(0, 2)).is_err(), "sectors 3 to 7 were cut off, and others synced");
        assert!(check(promised(0, 2).or_left(seen())).is_err(), "only the daemon has died");
        assert!(check(promised(0, 2).perhaps_refused(true)).is_err(), "others were told");
        let told = |acked| promised(acked, 2).or_left(seen()).perhaps_refused(true);
        assert_eq!(check(told(0)), Ok(()));
        assert!(check(told(2)).is_err(), "it has synced the cut since");
    }
}
