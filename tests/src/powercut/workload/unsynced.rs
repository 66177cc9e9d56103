//! Programs that replace files by renaming a new one over the old one, and never sync.
//!
//! With a log each file must hold the old content or the new one, whole; and a sync of anything
//! covers the replacements before it: no version older than that may come back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::contents::{SECTOR_BYTES, sectors};
use super::{Place, Workload, run_actors};
use crate::powercut::notes::{Notes, Progress, Promised};
use crate::random::Random;

const FILES: usize = 10;
const ANCHOR: &str = "anchor";

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Of one of the files, with so many sectors.
    Replace { file: usize, sectors: u64 },
    /// One more sector for the anchor, and fsync.
    Sync { first: u64 },
}

/// Actors with a directory each.
struct Unsynced {
    seed: u64,
    actors: Vec<Vec<Step>>,
}

/// Replaces without fsync, and now and then an fsync of another file.
pub fn replace(seed: u64) -> Box<dyn Workload> {
    let steps_of = |actor: u32| {
        let mut random = Random::new(seed ^ u64::from(actor) << 46);
        let mut anchor_sectors = 0;
        let steps = (0..360).map(|_| {
            if random.below(12) == 0 {
                anchor_sectors += 1;
                return Step::Sync { first: anchor_sectors - 1 };
            }
            let sectors_max = if random.below(25) == 0 { 1500 } else { 40 };
            let sectors = 1 + random.below(sectors_max) as u64;
            Step::Replace { file: random.below(FILES), sectors }
        });
        steps.collect()
    };
    Box::new(Unsynced { seed, actors: (0..2).map(steps_of).collect() })
}

fn name(file: usize) -> String {
    format!("file-{file}")
}

fn temporary(file: usize, step: u64) -> String {
    format!("file-{file}.{step}.tmp")
}

impl Unsynced {
    fn place(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("actor-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let number = u32::try_from(actor).expect("few actors");
        let place = Self::place(root, actor);
        for (number_of_step, step) in (1..).zip(&self.actors[actor]) {
            let bytes = |first, count| sectors(self.seed, number, number_of_step, first, count);
            match *step {
                Step::Replace { file, sectors } => notes.unacked(number, number_of_step, || {
                    let temporary = place.join(temporary(file, number_of_step));
                    // In two pieces: a half must not be seen either.
                    let content = bytes(0, sectors);
                    let (one, other) = content.split_at(content.len() / 2);
                    let mut new = File::create_new(&temporary)?;
                    new.write_all(one)?;
                    new.write_all(other)?;
                    drop(new);
                    fs::rename(&temporary, place.join(name(file)))
                })?,
                Step::Sync { first } => notes.covering(number, number_of_step, || {
                    let anchor = OpenOptions::new().write(true).open(place.join(ANCHOR))?;
                    anchor.write_all_at(&bytes(first, 1), first * SECTOR_BYTES as u64)?;
                    anchor.sync_all()
                })?,
            }
        }
        Ok(())
    }

    /// Every version that a file had: step and length in sectors.
    fn versions(steps: &[Step], file: usize) -> impl Iterator<Item = (u64, u64)> {
        let made = (1..).zip(steps).filter_map(move |(number, step)| match *step {
            Step::Replace { file: other, sectors } if other == file => Some((number, sectors)),
            _ => None,
        });
        std::iter::once((0, start_sectors(file))).chain(made)
    }

    fn check_file(
        &self,
        place: &Path,
        (actor, file): (u32, usize),
        steps: &[Step],
        progress: Progress,
    ) -> Result<(), String> {
        let found = fs::read(place.join(name(file))).map_err(|error| error.to_string())?;
        let is = |(step, count): (u64, u64)| {
            found.len() as u64 == count * SECTOR_BYTES as u64
                && found == sectors(self.seed, actor, step, 0, count)
        };
        let versions: Vec<_> = Self::versions(steps, file).collect();
        let begun = versions.partition_point(|(step, _)| *step <= progress.begun);
        let found_version = versions[..begun].iter().rev().copied().find(|version| is(*version));
        let covered = versions.iter().rev().find(|(step, _)| *step <= progress.covered);
        let (covered, _) = covered.expect("version 0 is");
        match found_version {
            Some((step, _)) if step >= *covered => Ok(()),
            Some((step, _)) => Err(format!("it is of step {step}, and step {covered} is covered")),
            None => Err(format!(
                "{} bytes, {}zeros, are no version whole; {:?}",
                found.len(),
                if found.iter().all(|byte| *byte == 0) { "all " } else { "not only " },
                versions.iter().filter(|(step, _)| step >= covered).take(5).collect::<Vec<_>>()
            )),
        }
    }
}

fn start_sectors(file: usize) -> u64 {
    2 + file as u64
}

impl Workload for Unsynced {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        for (actor, number) in (0..self.actors.len()).zip(0..) {
            let place = Self::place(root, actor);
            fs::create_dir(&place)?;
            fs::write(place.join(ANCHOR), "")?;
            for file in 0..FILES {
                let content = sectors(self.seed, number, 0, 0, start_sectors(file));
                fs::write(place.join(name(file)), content)?;
            }
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
        for (actor, steps) in (0..).zip(&self.actors) {
            let progress = promised.of(actor);
            let place = Self::place(root, actor as usize);
            for file in 0..FILES {
                self.check_file(&place, (actor, file), steps, progress)
                    .map_err(|error| format!("actor-{actor}, file-{file}: {error}"))?;
            }
            let covered = (1..=progress.covered).zip(steps);
            let left = covered.filter_map(|(number, step)| match *step {
                Step::Replace { file, .. } => Some(temporary(file, number)),
                Step::Sync { .. } => None,
            });
            if let Some(left) = left.into_iter().find(|name| place.join(name).exists()) {
                return Err(format!("actor-{actor}: {left} was renamed, and that is covered"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_or_new_and_nothing_else() {
        let place = tempfile::tempdir().expect("scratch directory");
        let root = place.path().to_path_buf();
        let workload = replace(4);
        workload.prepare(&root).expect("files");
        let there = Place { backing: root.clone(), root: root.clone() };
        workload.run(&there, &Notes::without_disk()).expect("all steps");
        let promised = |covered: u64, begun: u64| {
            let actors: Vec<_> = (0..2)
                .map(|actor| serde_json::json!([actor, covered.min(begun), begun, covered]))
                .collect();
            let promised = Promised::from_json(&serde_json::json!(actors)).expect("promises");
            promised.under_log(true)
        };
        assert_eq!(workload.check(&root, &promised(360, 360)), Ok(()));
        assert_eq!(workload.check(&root, &promised(0, 360)), Ok(()));
        assert!(workload.check(&root, &promised(0, 300)).is_err(), "it had not begun");
        let file = root.join("actor-1/file-3");
        let content = fs::read(&file).expect("a file");
        fs::write(&file, &content[..content.len() / 2]).expect("scratch");
        let error = workload.check(&root, &promised(0, 360)).unwrap_err();
        assert!(error.contains("no version whole"), "{error}");
        let old = sectors(4, 1, 0, 0, start_sectors(3));
        fs::write(&file, old).expect("scratch");
        assert_eq!(workload.check(&root, &promised(0, 360)), Ok(()));
        let error = workload.check(&root, &promised(360, 360)).unwrap_err();
        assert!(error.contains("it is of step 0"), "{error}");
    }
}
