//! What runs before the power goes, and what it was promised.
//!
//! Every workload is made from a seed alone: the check knows each step without having been there.
//! A check judges conservatively: what a step under way at the cut may have left is accepted, what an
//! acknowledged step did is demanded.

use std::io;
use std::path::Path;

use super::notes::{Notes, Promised};

mod contents;
mod files;
mod history;
mod many;
mod names;
mod sqlite;
mod tree;

/// Something that runs on a filesystem.
pub trait Workload: Send + Sync {
    /// Makes what it starts from, below `root`; durable before anything is counted.
    ///
    /// # Errors
    /// The filesystem's.
    fn prepare(&self, root: &Path) -> io::Result<()>;

    /// Runs all steps.
    ///
    /// # Errors
    /// The filesystem's: nothing may fail before the power does.
    fn run(&self, root: &Path, notes: &Notes<'_>) -> io::Result<()>;

    /// Judges what is left below `root`.
    ///
    /// # Errors
    /// What was promised and is not there.
    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String>;
}

/// Runs all actors at the same time; the first error is the outcome.
fn run_actors(count: usize, run: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|actor| scope.spawn(move || run(actor))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no actor panics"))
    })
}

/// A workload's name and maker; the maker takes a seed.
type Entry = (&'static str, fn(u64) -> Box<dyn Workload>);

/// All workloads.
pub const WORKLOADS: &[Entry] = &[
    ("append", files::append),
    ("overwrite", files::overwrite),
    ("replace", names::replace),
    ("maildir", names::maildir),
    ("names", names::mixed),
    ("truncate", files::truncate),
    ("osync", files::osync),
    ("mmap", files::mmap),
    ("sqlite-delete", sqlite::delete),
    ("sqlite-wal", sqlite::wal),
    ("many", many::many),
    ("fsx", files::fsx),
];

/// The workload of this name.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn by_name(name: &str, seed: u64) -> Result<Box<dyn Workload>, String> {
    match WORKLOADS.iter().find(|(known, _)| *known == name) {
        Some((_, make)) => Ok(make(seed)),
        None => {
            let names: Vec<_> = WORKLOADS.iter().map(|(name, _)| *name).collect();
            Err(format!("no workload `{name}`: there are {}", names.join(", ")))
        }
    }
}
