//! Crash images, served, recovered and judged, several at once.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::cuts::Cuts;
use super::filesystem::Filesystem;
use super::notes::Promised;
use super::recording::Recording;
use super::workload::Workload;
use crate::disk::{CrashImage, Disk, DiskOptions, Image};
use crate::run;

const PATIENCE: Duration = Duration::from_secs(10);

/// A promise that a crash image does not keep.
pub struct Loss {
    /// The image.
    pub cut: CrashImage,
    /// What it must hold.
    pub promised: Promised,
    /// What it does not.
    pub what: String,
}

/// What came of the images of one recording.
#[derive(Default)]
pub struct Verdict {
    /// Images judged.
    pub images: u64,
    /// Of them, unlike all others.
    pub distinct: u64,
    /// Those that lost something.
    pub losses: Vec<Loss>,
    /// Those that could not be mounted, with the reason of the first.
    pub refused: u64,
    /// Why the first was refused.
    pub refusal: Option<String>,
}

/// Judges `count` images of a recording; `progress` is called after each, `stop` ends it early.
pub fn judge(
    recording: &Recording,
    filesystem: Filesystem,
    workload: &dyn Workload,
    cuts: Cuts<'_>,
    count: u64,
    stop: &AtomicBool,
    progress: &(dyn Fn() + Sync),
) -> Result<Verdict, String> {
    let shared = Mutex::new((cuts, 0_u64, HashSet::new(), Verdict::default()));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<(), String> {
        let mut bench = Bench::new(filesystem)?;
        loop {
            let cut = {
                let (cuts, drawn, seen, verdict) = &mut *lock();
                if *drawn == count || stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                *drawn += 1;
                let cut = cuts.next().expect("the supply has no end");
                verdict.distinct += u64::from(seen.insert(cut.image.hash()));
                cut
            };
            let promised = recording.history.at(cut.position);
            let outcome = bench.judge(&cut.image, workload, &promised)?;
            let (_, _, _, verdict) = &mut *lock();
            verdict.images += 1;
            match outcome {
                Outcome::Kept => {}
                Outcome::Lost(what) => verdict.losses.push(Loss { cut, promised, what }),
                Outcome::Refused(reason) => {
                    verdict.refused += 1;
                    verdict.refusal.get_or_insert(reason);
                }
            }
            progress();
        }
    };
    let threads = filesystem.benches_max();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no judge panics"))
    })?;
    Ok(shared.into_inner().unwrap_or_else(PoisonError::into_inner).3)
}

/// What one image came to.
pub enum Outcome {
    /// Every promise holds.
    Kept,
    /// One does not.
    Lost(String),
    /// The filesystem cannot be mounted any more.
    Refused(String),
}

/// A disk that serves one image after the other.
pub struct Bench {
    filesystem: Filesystem,
    disk: Disk,
}

impl Bench {
    /// A bench for images of this filesystem.
    ///
    /// # Errors
    /// No disk is to be had.
    pub fn new(filesystem: Filesystem) -> Result<Self, String> {
        let options = DiskOptions::new(filesystem.size_mib()).unrecorded();
        let disk = Disk::new(options).map_err(|error| format!("cannot make a disk: {error}"))?;
        Ok(Bench { filesystem, disk })
    }

    /// Serves an image, lets the filesystem recover, and judges what is there.
    ///
    /// # Errors
    /// The bench itself failed.
    pub fn judge(
        &mut self,
        image: &Image,
        workload: &dyn Workload,
        promised: &Promised,
    ) -> Result<Outcome, String> {
        self.disk.load(image.clone()).map_err(|error| format!("loading an image: {error}"))?;
        let name = self.filesystem.kernel_name();
        // The unmount before this mount may not be quite over: the device is busy for a moment.
        let mounted =
            run::poll(PATIENCE, || match self.disk.mount(name, self.filesystem.image_options()) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
                outcome => Some(outcome),
            });
        let mounted = match mounted {
            Some(Ok(mounted)) => mounted,
            Some(Err(error)) => return Ok(Outcome::Refused(error.to_string())),
            None => return Err(format!("{} stays busy", self.disk.path().display())),
        };
        let tree = mounted.path().join("tree");
        let outcome = check(&tree, workload, promised);
        drop(mounted);
        Ok(outcome)
    }
}

fn check(tree: &Path, workload: &dyn Workload, promised: &Promised) -> Outcome {
    match workload.check(tree, promised) {
        Ok(()) => Outcome::Kept,
        Err(what) => Outcome::Lost(what),
    }
}
