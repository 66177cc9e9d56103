//! Programs that write ranges of files with odd ends: holes, allocations, the same pages again and
//! again, and every way around the lanes at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};

use super::bytes::{Edit, Layout, check};
use super::contents::bytes;
use super::{Place, Workload, run_actors};
use crate::mapping::store_elsewhere;
use crate::powercut::notes::{Notes, Promised};
use crate::random::Random;

/// Unit of direct I/O.
const BLOCK: u64 = 4096;

/// How a step becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By itself not at all.
    Not,
    Fsync,
    Fdatasync,
    /// Stored through a mapping, then msync of all of it.
    Msync,
    /// The write itself, with these flags of pwritev2.
    Flags(ReadWriteFlags),
    /// The write itself, through a descriptor opened with O_DSYNC.
    OpenDsync,
    /// Written past the cache (whole blocks), then fdatasync.
    Direct,
}

/// One step: edits, the last of which `how` makes durable with all that is older.
#[derive(Clone, Debug)]
struct Action {
    edits: Vec<Edit>,
    how: How,
    /// A truncation to nothing is done by opening with O_TRUNC.
    reopen: bool,
}

impl Action {
    fn new(edits: Vec<Edit>, how: How) -> Self {
        Action { edits, how, reopen: false }
    }
}

/// Actors with a file each.
struct RangeWorkload {
    seed: u64,
    start_bytes: u64,
    actors: Vec<Vec<Action>>,
}

/// Sparse files: writes beyond the end, allocations, holes, zeros, truncation both ways.
pub fn holes(seed: u64) -> Box<dyn Workload> {
    RangeWorkload::boxed(seed, 3, 20_000, 260, |random, layout| {
        let mut layout = layout.clone();
        let edits = (0..1 + random.below(3)).map(|_| {
            let edit = draw_hole(random, layout.length());
            layout.apply(1, edit);
            edit
        });
        let edits = edits.collect();
        let how = match random.below(20) {
            0..3 => How::Not,
            3..6 => How::Fsync,
            _ => How::Fdatasync,
        };
        Action::new(edits, how)
    })
}

fn draw_hole(random: &mut Random, file: u64) -> Edit {
    const LENGTH_MAX: u64 = 400_000;
    let below = |random: &mut Random, limit: u64| random.below(limit as usize) as u64;
    // Often whole blocks: other code than odd ends.
    let aligned = random.below(3) == 0;
    let fit = |value: u64| if aligned { value.next_multiple_of(BLOCK) } else { value };
    let offset = fit(below(random, file.max(1) + 3000)).min(LENGTH_MAX);
    let length = fit(1 + below(random, 30_000));
    let keep_size = random.below(2) == 0;
    match random.below(20) {
        0..4 => {
            // Beyond the end, which leaves a hole.
            let gap = fit(1 + below(random, 40_000));
            Edit::Write { offset: (file + gap).min(LENGTH_MAX), length }
        }
        4..7 => Edit::Punch { offset, length },
        7..9 => Edit::Zero { offset, length, keep_size },
        9..12 => Edit::Allocate { offset, length, keep_size },
        12..15 => Edit::Truncate { length: below(random, LENGTH_MAX.min(2 * file + 5000)) },
        _ => Edit::Write { offset, length },
    }
}

/// Files in very many parts, block by block with holes between them: their parts are written anew, their
/// holes filled and made. More parts than a log keeps account of.
pub fn sparse(seed: u64) -> Box<dyn Workload> {
    const PARTS: u64 = 180;
    RangeWorkload::boxed(seed, 2, BLOCK, 240, |random, layout| {
        let block = |number: u64| BLOCK * number;
        if layout.length() < block(PARTS) {
            let part = |number| Edit::Write { offset: block(2 * number), length: BLOCK };
            return Action::new((1..=PARTS).map(part).collect(), How::Fsync);
        }
        let offset = block(random.below(2 * PARTS as usize) as u64);
        let edit = match random.below(20) {
            0..3 => Edit::Write { offset: layout.length(), length: 1 + random.below(5000) as u64 },
            3 => Edit::Punch { offset, length: BLOCK },
            4 => Edit::Truncate { length: layout.length() - random.below(6000) as u64 },
            5 | 6 => Edit::Write { offset: offset + 500, length: BLOCK },
            _ => Edit::Write { offset, length: BLOCK },
        };
        let how = match random.below(20) {
            0..3 => How::Not,
            3..6 => How::Fsync,
            _ => How::Fdatasync,
        };
        Action::new(vec![edit], how)
    })
}

/// The same few pages again and again: what a log keeps of them, and for how long, must never matter.
pub fn rewrite(seed: u64) -> Box<dyn Workload> {
    const START_BYTES: u64 = 64 << 10;
    const LENGTH_MAX: u64 = 256 << 10;
    RangeWorkload::boxed(seed, 3, START_BYTES, 700, |random, layout| {
        let page = BLOCK * random.below(8) as u64;
        let edit = match random.below(20) {
            0..3 => {
                let offset = page + random.below(BLOCK as usize) as u64;
                Edit::Write { offset, length: 1 + random.below(600) as u64 }
            }
            3..5 => Edit::Write { offset: page, length: 32 << 10 },
            5 | 6 if layout.length() < LENGTH_MAX => {
                Edit::Write { offset: layout.length(), length: BLOCK }
            }
            5 => Edit::Truncate { length: START_BYTES },
            _ => Edit::Write { offset: page, length: BLOCK },
        };
        let how = if random.below(5) == 0 { How::Fsync } else { How::Fdatasync };
        Action::new(vec![edit], how)
    })
}

/// Cut to nothing and written anew, then fsync: a program that saves without a temporary file.
pub fn rewrite_truncate(seed: u64) -> Box<dyn Workload> {
    RangeWorkload::boxed(seed, 3, 9_000, 220, |random, _| {
        let length_max = if random.below(8) == 0 { 300_000 } else { 20_000 };
        let length = 1 + random.below(length_max) as u64;
        let middle = random.below(length as usize) as u64;
        let edits = vec![
            Edit::Truncate { length: 0 },
            Edit::Write { offset: 0, length: middle },
            Edit::Write { offset: middle, length: length - middle },
        ];
        let how = if random.below(4) == 0 { How::Fdatasync } else { How::Fsync };
        Action { edits, how, reopen: random.below(2) == 0 }
    })
}

/// Every way to make a write durable, mixed on the same pages: most of them never come to the lanes,
/// and what they made durable must not be rolled back by what the lanes remember.
pub fn bypass(seed: u64) -> Box<dyn Workload> {
    const FILE_BYTES: u64 = 96 << 10;
    RangeWorkload::boxed(seed, 3, FILE_BYTES, 330, |random, _| {
        let how = match random.below(10) {
            0..3 => How::Fdatasync,
            3 => How::Fsync,
            4 | 5 => How::Msync,
            6 => How::Flags(ReadWriteFlags::DSYNC),
            7 => How::Flags(ReadWriteFlags::SYNC),
            8 => How::OpenDsync,
            _ => How::Direct,
        };
        let page = BLOCK * random.below(6) as u64;
        let aligned = how == How::Direct || random.below(2) == 0;
        let (skip, length) = if aligned {
            (0, BLOCK * (1 + random.below(2) as u64))
        } else {
            (random.below(4000) as u64, 1 + random.below(5000) as u64)
        };
        let mut edits = vec![Edit::Write { offset: page + skip, length }];
        // What was written before without a sync belongs to the next one of the whole file.
        let whole = matches!(how, How::Fsync | How::Fdatasync | How::Msync);
        if whole && random.below(3) == 0 {
            let offset = BLOCK * random.below(12) as u64;
            edits.insert(0, Edit::Write { offset, length: 1 + random.below(9000) as u64 });
        }
        Action::new(edits, how)
    })
}

impl RangeWorkload {
    fn boxed(
        seed: u64,
        actors: u32,
        start_bytes: u64,
        count: u64,
        draw: impl Fn(&mut Random, &Layout) -> Action,
    ) -> Box<dyn Workload> {
        let actions_of = |actor: u32| {
            let mut random = Random::new(seed ^ u64::from(actor) << 36);
            let mut layout = start(start_bytes);
            let actions = (1..=count).map(|step| {
                let action = draw(&mut random, &layout);
                action.edits.iter().for_each(|edit| layout.apply(step, *edit));
                action
            });
            actions.collect()
        };
        let actors = (0..actors).map(actions_of).collect();
        Box::new(RangeWorkload { seed, start_bytes, actors })
    }

    fn path(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("ranges-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let path = Self::path(root, actor);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let number = u32::try_from(actor).expect("few actors");
        for (step, action) in (1..).zip(&self.actors[actor]) {
            let run = || action.run(&path, &file, (self.seed, number, step));
            match action.how {
                How::Not => notes.unacked(number, step, run)?,
                How::Fsync => notes.covering(number, step, run)?,
                _ => notes.acked(number, step, run)?,
            }
        }
        Ok(())
    }
}

impl Action {
    fn run(&self, path: &Path, file: &File, who: (u64, u32, u64)) -> io::Result<()> {
        let (last, before) = self.edits.split_last().expect("never empty");
        for edit in before {
            self.make(path, file, *edit, who)?;
        }
        match (self.how, *last) {
            (How::Not | How::Fsync | How::Fdatasync, edit) => self.make(path, file, edit, who)?,
            (how, Edit::Write { offset, length }) => {
                let content = bytes(who.0, who.1, who.2, offset, length);
                write_durably(path, file, how, offset, &content)?;
            }
            (how, edit) => unreachable!("{how:?} is for writes, not for {edit:?}"),
        }
        match self.how {
            How::Fsync => file.sync_all(),
            How::Fdatasync => file.sync_data(),
            _ => Ok(()),
        }
    }

    fn make(
        &self,
        path: &Path,
        file: &File,
        edit: Edit,
        (seed, actor, step): (u64, u32, u64),
    ) -> io::Result<()> {
        match edit {
            Edit::Write { offset, length } => {
                file.write_all_at(&bytes(seed, actor, step, offset, length), offset)
            }
            Edit::Truncate { length: 0 } if self.reopen => {
                OpenOptions::new().write(true).truncate(true).open(path).map(drop)
            }
            edit => change(file, edit),
        }
    }
}

/// Makes an edit that writes nothing.
pub(super) fn change(file: &File, edit: Edit) -> io::Result<()> {
    let keep = |yes| if yes { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
    let (mode, offset, length) = match edit {
        Edit::Write { .. } => unreachable!("its bytes are not known here"),
        Edit::Truncate { length } => return file.set_len(length),
        Edit::Punch { offset, length } => {
            (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
        }
        Edit::Zero { offset, length, keep_size } => {
            (FallocateFlags::ZERO_RANGE | keep(keep_size), offset, length)
        }
        Edit::Allocate { offset, length, keep_size } => (keep(keep_size), offset, length),
    };
    Ok(fallocate(file, mode, offset, length)?)
}

fn write_durably(
    path: &Path,
    file: &File,
    how: How,
    offset: u64,
    content: &[u8],
) -> io::Result<()> {
    match how {
        How::Msync => {
            let length = usize::try_from(file.metadata()?.len()).expect("files are small");
            let offset = usize::try_from(offset).expect("files are small");
            store_elsewhere(path, length, offset, content)
        }
        How::Flags(flags) => write_with(file, flags, offset, content),
        How::OpenDsync => {
            let file = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(path)?;
            file.write_all_at(content, offset)
        }
        How::Direct => {
            // Room for a beginning at a block's boundary.
            let mut memory = vec![0; content.len() + BLOCK as usize];
            let start = memory.as_ptr().align_offset(BLOCK as usize);
            memory[start..start + content.len()].copy_from_slice(content);
            let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
            direct.write_all_at(&memory[start..start + content.len()], offset)?;
            file.sync_data()
        }
        How::Not | How::Fsync | How::Fdatasync => unreachable!("synced by the caller"),
    }
}

fn write_with(
    file: impl AsFd,
    flags: ReadWriteFlags,
    offset: u64,
    content: &[u8],
) -> io::Result<()> {
    let mut done = 0;
    while done < content.len() {
        let parts = [IoSlice::new(&content[done..])];
        match pwritev2(&file, &parts, offset + done as u64, flags)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// A file as `prepare` leaves it.
fn start(length: u64) -> Layout {
    let mut layout = Layout::default();
    layout.apply(0, Edit::Write { offset: 0, length });
    layout
}

impl Workload for RangeWorkload {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        (0..self.actors.len()).try_for_each(|actor| {
            let number = u32::try_from(actor).expect("few actors");
            let content = bytes(self.seed, number, 0, 0, self.start_bytes);
            std::fs::write(Self::path(root, actor), content)
        })
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        run_actors(self.actors.len(), |actor| self.run_actor(&place.root, actor, notes))
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        super::in_words(&self.actors, actor)
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        for (actor, actions) in self.actors.iter().enumerate() {
            let number = u32::try_from(actor).expect("few actors");
            let progress = promised.of(number);
            let (mut base, mut later) = (start(self.start_bytes), Vec::new());
            for (step, action) in (1..=progress.begun).zip(actions) {
                for edit in &action.edits {
                    if step <= progress.acked {
                        base.apply(step, *edit);
                    } else {
                        later.push((step, *edit));
                    }
                }
            }
            let path = Self::path(root, actor);
            let found = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            check(&found, (self.seed, number), &base, &later).map_err(|error| {
                format!("ranges-{actor}, acknowledged step {}: {error}", progress.acked)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // On any filesystem: after each step the file is what the model says.
    fn agrees(make: fn(u64) -> Box<dyn Workload>, steps: u64) {
        let place = tempfile::tempdir_in("/tmp").expect("scratch directory");
        let workload = make(3);
        workload.prepare(place.path()).expect("files");
        let promised = |acked: u64| {
            let actors: Vec<_> =
                (0..3).map(|actor| serde_json::json!([actor, acked, acked])).collect();
            Promised::from_json(&serde_json::json!(actors)).expect("promises")
        };
        assert_eq!(workload.check(place.path(), &promised(0)), Ok(()));
        let root = place.path().to_path_buf();
        let there = Place { backing: root.clone(), root };
        workload.run(&there, &Notes::without_disk()).expect("all steps");
        assert_eq!(workload.check(place.path(), &promised(steps)), Ok(()));
        assert!(workload.check(place.path(), &promised(steps - 1)).is_err(), "it must notice");
    }

    #[test]
    fn the_model_of_each_workload_is_that_of_the_kernel() {
        agrees(holes, 260);
        agrees(sparse, 240);
        agrees(rewrite, 700);
        agrees(rewrite_truncate, 220);
        agrees(bypass, 330);
    }
}
