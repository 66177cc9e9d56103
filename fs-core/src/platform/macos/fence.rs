//! Fences on macOS: `fsync(2)` for each file and directory of a group, one `F_FULLFSYNC` for all.
//!
//! `fsync` has everything written to the device; `F_FULLFSYNC` does the same for its file and then
//! has the device flush its cache (fcntl(2)): all that the device had been given before is durable
//! by it, whichever file it was of.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::MacBacking;
use crate::error::{Errno, Result};
use crate::platform::{FenceMethod, Fencer, SyncTarget};

/// Makes groups durable.
#[derive(Debug)]
pub struct MacFencer(());

impl MacFencer {
    pub(super) const fn new() -> Self {
        Self(())
    }
}

fn target_fd(target: &SyncTarget<MacBacking>) -> BorrowedFd<'_> {
    match target {
        SyncTarget::File(file, _) => file.as_fd(),
        SyncTarget::Dir(dir) => dir.as_fd(),
    }
}

impl Fencer<MacBacking> for MacFencer {
    fn supports(&self, method: FenceMethod) -> bool {
        method == FenceMethod::Parallel
    }

    fn run(&self, _method: FenceMethod, targets: &[SyncTarget<MacBacking>]) -> Vec<Result<()>> {
        let Some((last, others)) = targets.split_last() else { return Vec::new() };
        let mut results: Vec<Result<()>> =
            others.iter().map(|target| sync(target_fd(target))).collect();
        // The last one's own sync, and the flush for everybody.
        let flushed = full_sync(target_fd(last));
        if let Err(error) = flushed {
            results.iter_mut().for_each(|result| *result = result.and(Err(error)));
        }
        results.push(flushed);
        results
    }

    fn commit(&self) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn mechanism(&self) -> &'static str {
        "fsync each, F_FULLFSYNC once"
    }
}

fn sync(fd: BorrowedFd<'_>) -> Result<()> {
    loop {
        match rustix::fs::fsync(fd) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The file's data and metadata, and the device's cache.
pub(super) fn full_sync(fd: BorrowedFd<'_>) -> Result<()> {
    control(fd, libc::F_FULLFSYNC)
}

/// Everything written before comes to the medium before anything written after. Where the
/// filesystem has no barriers, the full flush.
pub(super) fn barrier(fd: BorrowedFd<'_>) -> Result<()> {
    match control(fd, libc::F_BARRIERFSYNC) {
        Err(Errno::OPNOTSUPP | Errno::INVAL) => full_sync(fd),
        other => other,
    }
}

fn control(fd: BorrowedFd<'_>, command: libc::c_int) -> Result<()> {
    loop {
        // SAFETY: an open descriptor, and a command without an argument.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command) } != -1 {
            return Ok(());
        }
        let error = Errno::from(std::io::Error::last_os_error());
        if error.raw() != libc::EINTR {
            return Err(error);
        }
    }
}
