//! `sync(2)` and its like: they reach the backing filesystem and never lanefs. What they made durable
//! must not be rolled back, whatever older bytes of the same pages a log remembers.
//!
//! Bare XFS keeps nothing after a `syncfs` that finds no metadata to commit: it forces its log, and
//! with nothing in it no flush reaches the device (Linux 6.18, `xfs_fs_sync_fs`; seen in 51 of 403
//! images). So the program changes a file of its own beside the tree first, as any busy machine does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::bytes::{Edit, Layout, check};
use super::contents::bytes;
use super::{Place, Workload};
use crate::powercut::notes::{Notes, Promised};
use crate::random::Random;

const FILES: u32 = 6;
const FILE_BYTES: u64 = 48 << 10;
const STEPS: u64 = 420;
/// Changed behind the mount, so that there is something to commit.
const STAMP: &str = "stamp";

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Without a sync.
    Write(u32, Edit),
    /// With fdatasync.
    Synced(u32, Edit),
    /// `syncfs` of the backing filesystem.
    Everything,
}

/// One program with several files; notes name a file where others name an actor.
struct Syncfs {
    seed: u64,
    steps: Vec<Step>,
}

/// Writes here and there, with a sync of one file now and then and of everything more rarely.
pub fn syncfs(seed: u64) -> Box<dyn Workload> {
    let mut random = Random::new(seed);
    let steps = (0..STEPS).map(|_| {
        let file = random.below(FILES as usize) as u32;
        let offset = 4096 * random.below(12) as u64 + random.below(2) as u64 * 777;
        let edit = match random.below(12) {
            0 => Edit::Truncate { length: offset },
            1 => Edit::Punch { offset, length: 1 + random.below(6000) as u64 },
            _ => Edit::Write { offset, length: 1 + random.below(9000) as u64 },
        };
        match random.below(12) {
            0 => Step::Everything,
            1..6 => Step::Synced(file, edit),
            _ => Step::Write(file, edit),
        }
    });
    Box::new(Syncfs { seed, steps: steps.collect() })
}

impl Syncfs {
    fn path(root: &Path, file: u32) -> PathBuf {
        root.join(format!("synced-{file}"))
    }

    fn make(&self, file: &File, actor: u32, step: u64, edit: Edit) -> io::Result<()> {
        match edit {
            Edit::Write { offset, length } => {
                file.write_all_at(&bytes(self.seed, actor, step, offset, length), offset)
            }
            edit => super::ranges::change(file, edit),
        }
    }
}

impl Workload for Syncfs {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        (0..FILES).try_for_each(|file| {
            std::fs::write(Self::path(root, file), bytes(self.seed, file, 0, 0, FILE_BYTES))
        })
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        let open =
            |file| OpenOptions::new().read(true).write(true).open(Self::path(&place.root, file));
        let files = (0..FILES).map(open).collect::<io::Result<Vec<_>>>()?;
        let backing = File::open(&place.backing)?;
        for (number, step) in (1..).zip(&self.steps) {
            match *step {
                Step::Write(actor, edit) => notes.unacked(actor, number, || {
                    self.make(&files[actor as usize], actor, number, edit)
                })?,
                Step::Synced(actor, edit) => notes.acked(actor, number, || {
                    let file = &files[actor as usize];
                    self.make(file, actor, number, edit)?;
                    file.sync_data()
                })?,
                Step::Everything => notes.acked_for(0..FILES, number, || {
                    std::fs::write(place.backing.join(STAMP), number.to_string())?;
                    Ok::<_, io::Error>(rustix::fs::syncfs(&backing)?)
                })?,
            }
        }
        Ok(())
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        let all = self.steps.iter().map(|step| format!("{step:?}"));
        if actor < FILES { all.collect() } else { Vec::new() }
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        // One program: what the last of its files had begun, the whole program had.
        let begun = (0..FILES).map(|file| promised.of(file).begun).max().unwrap_or(0);
        for file in 0..FILES {
            let acked = promised.of(file).acked;
            let (mut base, mut later) = (Layout::default(), Vec::new());
            base.apply(0, Edit::Write { offset: 0, length: FILE_BYTES });
            for (number, step) in (1..=begun).zip(&self.steps) {
                match *step {
                    Step::Write(actor, edit) | Step::Synced(actor, edit) if actor == file => {
                        if number <= acked {
                            base.apply(number, edit);
                        } else {
                            later.push((number, edit));
                        }
                    }
                    _ => {}
                }
            }
            let path = Self::path(root, file);
            let found = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            check(&found, (self.seed, file), &base, &later)
                .map_err(|error| format!("synced-{file}, acknowledged step {acked}: {error}"))?;
        }
        Ok(())
    }
}
