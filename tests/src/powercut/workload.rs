//! What runs before the power goes, and what it was promised.
//!
//! Every workload is made from a seed alone: the check knows each step without having been there.
//! A check judges conservatively: what a step under way at the cut may have left is accepted, what an
//! acknowledged step did is demanded.

use std::io;
use std::path::{Path, PathBuf};

use super::notes::{Notes, Promised};

mod bytes;
mod contents;
mod files;
mod history;
mod legacy;
mod many;
mod names;
mod order;
mod parts;
mod ranges;
mod sqlite;
mod syncfs;
mod tree;
mod unsynced;

pub use self::parts::Parts;

/// Where a workload runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// What programs see.
    pub root: PathBuf,
    /// The same directory without lanefs; the same path when there is none.
    pub backing: PathBuf,
}

impl Place {
    /// A directory in it.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Place { root: self.root.join(name), backing: self.backing.join(name) }
    }
}

/// Something that runs on a filesystem.
pub trait Workload: Send + Sync {
    /// Makes what it starts from, below `root`; durable before anything is counted.
    ///
    /// # Errors
    /// The filesystem's.
    fn prepare(&self, root: &Path) -> io::Result<()>;

    /// Runs all steps; an actor whose step fails does no more.
    ///
    /// # Errors
    /// The filesystem's: nothing may fail before the power does, unless something was made to fail.
    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()>;

    /// Judges what is left below `root`.
    ///
    /// # Errors
    /// What was promised and is not there.
    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String>;

    /// The steps of an actor in words, for whoever looks into a loss; none if there is no such actor.
    fn steps(&self, _actor: u32) -> Vec<String> {
        Vec::new()
    }
}

fn in_words<T: std::fmt::Debug>(actors: &[Vec<T>], actor: u32) -> Vec<String> {
    let steps = actors.get(actor as usize).map(Vec::as_slice).unwrap_or_default();
    steps.iter().map(|step| format!("{step:?}")).collect()
}

/// Runs all actors at the same time; the first error is the outcome.
fn run_actors(count: usize, run: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|actor| scope.spawn(move || run(actor))).collect();
        // All of them are waited for before the first error counts.
        let outcomes: Vec<_> =
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        outcomes.into_iter().try_for_each(|outcome| outcome.expect("no actor panics"))
    })
}

/// A workload's name and how it is made.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Only a log keeps what it is promised.
    pub needs_log: bool,
    make: fn(u64) -> Box<dyn Workload>,
}

const fn any(name: &'static str, make: fn(u64) -> Box<dyn Workload>) -> Entry {
    Entry { name, needs_log: false, make }
}

const fn log_only(name: &'static str, make: fn(u64) -> Box<dyn Workload>) -> Entry {
    Entry { name, needs_log: true, make }
}

/// All workloads.
pub const WORKLOADS: &[Entry] = &[
    any("append", files::append),
    any("overwrite", files::overwrite),
    any("replace", names::replace),
    any("maildir", names::maildir),
    any("names", names::mixed),
    any("truncate", files::truncate),
    any("osync", files::osync),
    any("mmap", files::mmap),
    any("sqlite-delete", sqlite::delete),
    any("sqlite-wal", sqlite::wal),
    any("many", many::many),
    any("fsx", files::fsx),
    any("cuts", files::cuts),
    any("large", files::large),
    any("holes", ranges::holes),
    any("sparse", ranges::sparse),
    any("rewrite", ranges::rewrite),
    any("rewrite-truncate", ranges::rewrite_truncate),
    any("bypass", ranges::bypass),
    any("syncfs", syncfs::syncfs),
    log_only("order", order::single),
    log_only("order-threads", order::threads),
    log_only("replace-unsynced", unsynced::replace),
    log_only("legacy-rename", legacy::rename),
    any("legacy-closed", legacy::closed),
    log_only("legacy-rewrite", legacy::rewrite),
];

/// The workload of this name.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn by_name(name: &str, seed: u64) -> Result<Box<dyn Workload>, String> {
    match WORKLOADS.iter().find(|entry| entry.name == name) {
        Some(entry) => Ok((entry.make)(seed)),
        None => {
            let names: Vec<_> = WORKLOADS.iter().map(|entry| entry.name).collect();
            Err(format!("no workload `{name}`: there are {}", names.join(", ")))
        }
    }
}
