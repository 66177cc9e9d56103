//! Parallel syncs through io_uring.
//!
//! `IORING_OP_FSYNC` always runs on a kernel worker thread of the submitting
//! task; the number of workers for regular files is bounded by four times the
//! processors unless raised, which would cut a large group into rounds.

use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::{LinuxBacking, target_fd};
use crate::error::{Errno, Result};
use crate::platform::SyncTarget;
use crate::types::SyncKind;

/// Syncs in flight at once; a larger group goes in rounds.
const RING_ENTRIES: u32 = 128;

/// One io_uring instance for syncs.
pub(super) struct SyncRing {
    ring: IoUring,
}

impl SyncRing {
    pub(super) fn new() -> std::io::Result<Self> {
        let ring = IoUring::new(RING_ENTRIES)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Fsync::CODE) {
            return Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self { ring })
    }

    /// Syncs all targets; results in their order.
    pub(super) fn sync_all(&mut self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(targets.len());
        for round in targets.chunks(RING_ENTRIES as usize) {
            results.extend(self.sync_round(round));
        }
        results
    }

    fn sync_round(&mut self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        // The bound belongs to the submitting task: each leader raises its own.
        let mut workers_max = [RING_ENTRIES, 0];
        let _ = self.ring.submitter().register_iowq_max_workers(&mut workers_max);
        for (index, target) in targets.iter().enumerate() {
            let fd = types::Fd(target_fd(target).as_raw_fd());
            let mut sync = opcode::Fsync::new(fd);
            if matches!(target, SyncTarget::File(_, SyncKind::Data)) {
                sync = sync.flags(types::FsyncFlags::DATASYNC);
            }
            let entry = sync.build().user_data(index as u64);
            // SAFETY: the entry refers to no memory, only to a descriptor that
            // `targets` keeps open until this function has seen its completion.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("a round has no more targets than the ring has entries");
        }
        self.collect(targets.len())
    }

    /// Waits for all completions of a round; never returns with one in flight,
    /// since descriptors may be closed and numbers reused afterwards.
    fn collect(&mut self, count: usize) -> Vec<Result<()>> {
        let mut results = vec![Err(Errno::IO); count];
        let mut missing = count;
        while missing > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    // Interrupted, or short of memory for the moment.
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    // The descriptor of the ring is ours and valid: no other error
                    // leaves entries that were neither submitted nor completed.
                    _ => panic!("io_uring_enter failed: {error}"),
                },
            }
            for completion in self.ring.completion() {
                let result = completion.result();
                let index = completion.user_data() as usize;
                results[index] = if result < 0 { Err(Errno::from_raw(-result)) } else { Ok(()) };
                missing -= 1;
            }
        }
        results
    }
}
