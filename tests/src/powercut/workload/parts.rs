//! One workload several times, one after the other, each in a directory of its own: what is needed
//! when something happens in between that ends a run early, such as a fault or a killed daemon.

use std::io;
use std::path::Path;

use super::{Place, Workload, by_name};
use crate::powercut::notes::{Notes, Promised};

/// Actors of different parts have different numbers.
const ACTORS_MAX: u32 = 256;

/// A workload alone in the tree, or parts of the same kind in directories.
pub enum Parts {
    /// Alone.
    Whole(Box<dyn Workload>),
    /// In `part-0`, `part-1` and so on.
    Several(Vec<Box<dyn Workload>>),
}

impl Parts {
    /// The workload of this name: alone for 0 parts.
    ///
    /// # Errors
    /// There is none.
    pub fn new(name: &str, seed: u64, parts: usize) -> Result<Self, String> {
        if parts == 0 {
            return Ok(Parts::Whole(by_name(name, seed)?));
        }
        let parts = (0..).take(parts).map(|number| by_name(name, seed + 100 * number));
        Ok(Parts::Several(parts.collect::<Result<_, _>>()?))
    }

    /// How many directories; 0 for a workload that is alone.
    pub fn count(&self) -> usize {
        match self {
            Parts::Whole(_) => 0,
            Parts::Several(parts) => parts.len(),
        }
    }

    /// The directory of a part.
    pub fn directory(number: usize) -> String {
        format!("part-{number}")
    }

    /// Makes what all parts start from.
    ///
    /// # Errors
    /// The filesystem's.
    pub fn prepare(&self, root: &Path) -> io::Result<()> {
        match self {
            Parts::Whole(workload) => workload.prepare(root),
            Parts::Several(parts) => parts.iter().enumerate().try_for_each(|(number, part)| {
                let directory = root.join(Self::directory(number));
                std::fs::create_dir(&directory)?;
                part.prepare(&directory)
            }),
        }
    }

    /// Runs one part; the only one of a workload that is alone is number 0.
    ///
    /// # Errors
    /// The filesystem's.
    pub fn run(&self, number: usize, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        match self {
            Parts::Whole(workload) => workload.run(place, notes),
            Parts::Several(parts) => {
                let first_actor = ACTORS_MAX * u32::try_from(number).expect("few parts");
                let place = place.below(&Self::directory(number));
                parts[number].run(&place, &notes.shifted(first_actor))
            }
        }
    }

    /// The steps of an actor in words.
    pub fn steps(&self, actor: u32) -> Vec<String> {
        match self {
            Parts::Whole(workload) => workload.steps(actor),
            Parts::Several(parts) => {
                let part = parts.get((actor / ACTORS_MAX) as usize);
                part.map(|part| part.steps(actor % ACTORS_MAX)).unwrap_or_default()
            }
        }
    }

    /// Judges all parts.
    ///
    /// # Errors
    /// What was promised and is not there.
    pub fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        match self {
            Parts::Whole(workload) => workload.check(root, promised),
            Parts::Several(parts) => (0..).zip(parts).try_for_each(|(number, part)| {
                let actors = ACTORS_MAX * number..ACTORS_MAX * (number + 1);
                let directory = Self::directory(number as usize);
                // What was there when the daemon died must be there, no more and no less: a file
                // that was being rewritten is as its program left it.
                if promised.exact.iter().any(|(exact, _)| *exact == directory) {
                    return Ok(());
                }
                part.check(&root.join(&directory), &promised.shifted(actors, &directory))
                    .map_err(|error| format!("{directory}: {error}"))
            }),
        }
    }
}
