//! Fences on Windows: one FlushFileBuffers for each file and directory of a group, in parallel.
//!
//! In parallel, because each waits for the device's cache: flushes that are under way together can
//! share one. There is no call that makes several files durable at once: a flush of the volume's own
//! handle would, and needs an administrator.

use std::os::windows::io::OwnedHandle;

use super::{Dir, WindowsBacking, nt};
use crate::error::{Errno, Result};
use crate::platform::{FenceMethod, Fencer, SyncTarget};

/// Most flushes under way at once.
const THREADS_MAX: usize = 16;

/// Makes groups durable.
#[derive(Debug)]
pub struct WindowsFencer(());

impl WindowsFencer {
    pub(super) const fn new() -> Self {
        Self(())
    }
}

impl Fencer<WindowsBacking> for WindowsFencer {
    fn supports(&self, method: FenceMethod) -> bool {
        method == FenceMethod::Parallel
    }

    fn run(&self, _method: FenceMethod, targets: &[SyncTarget<WindowsBacking>]) -> Vec<Result<()>> {
        if let [only] = targets {
            return vec![sync(only)];
        }
        let piece = targets.len().div_ceil(THREADS_MAX).max(1);
        std::thread::scope(|scope| {
            let mut pieces = targets.chunks(piece);
            // This thread takes the first one.
            let first = pieces.next().unwrap_or_default();
            let others: Vec<_> = pieces
                .map(|piece| {
                    let thread = std::thread::Builder::new().name("lanefs-sync".into());
                    (piece, thread.spawn_scoped(scope, move || sync_all(piece)))
                })
                .collect();
            let mut results = sync_all(first);
            for (piece, thread) in others {
                results.extend(match thread {
                    Ok(thread) => {
                        thread.join().unwrap_or_else(|_| vec![Err(Errno::IO); piece.len()])
                    }
                    // No thread to be had: one after another is slow, and right.
                    Err(_) => sync_all(piece),
                });
            }
            results
        })
    }

    fn commit(&self) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn mechanism(&self) -> &'static str {
        "FlushFileBuffers by threads"
    }
}

fn sync_all(targets: &[SyncTarget<WindowsBacking>]) -> Vec<Result<()>> {
    targets.iter().map(sync).collect()
}

fn sync(target: &SyncTarget<WindowsBacking>) -> Result<()> {
    match target {
        SyncTarget::File(file, _) => flush_file(file),
        SyncTarget::Dir(dir) => flush_dir(dir),
    }
}

/// A file that was opened for reading cannot be flushed through its handle (`ACCESS_DENIED`), and
/// others may have written it: it is opened once more.
fn flush_file(file: &OwnedHandle) -> Result<()> {
    match nt::flush(file) {
        Err(Errno::ACCES) => {
            let opening = nt::Opening::existing(super::WRITE);
            nt::flush(&nt::open(file, nt::Which::Itself, opening)?.0)
        }
        other => other,
    }
}

/// Makes a directory's names durable.
pub(super) fn flush_dir(dir: &Dir) -> Result<()> {
    nt::flush(dir.handle())
}
