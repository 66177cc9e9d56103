//! Which inodes the kernel reads and writes by itself.
//!
//! With FUSE passthrough (Linux 6.9) an open file of the mount is backed by a
//! file of the backing directory, and its reads, writes and mappings run at
//! native speed without reaching us. Kernel rules kept here: all opens of an
//! inode share one backing id, and while an inode is open one way it cannot be
//! opened the other (the kernel answers EIO).

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_core::engine::{NodeId, Tree};
use fs_core::types::SyncKind;
use serde::{Deserialize, Serialize};

use super::Served;
use super::backing::Backing;
use super::reply::Channel;
use super::wire::fopen;

const SHARDS: usize = 16;
/// Set-user-id and set-group-id.
const SETID_BITS: u32 = 0o6000;

/// The open inodes and the way of each.
pub(super) struct Passthrough {
    channel: Arc<Channel>,
    enabled: AtomicBool,
    shards: [Mutex<HashMap<NodeId, OpenInode>>; SHARDS],
}

struct OpenInode {
    opens: usize,
    /// `None`: requests come to us.
    backing: Option<Arc<Backing>>,
}

/// What a kernel was told of its passthrough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassthroughRecord {
    enabled: bool,
    /// Node, opens, and the backing id if the kernel has one.
    inodes: Vec<(u64, usize, Option<u32>)>,
}

impl Passthrough {
    pub(super) fn new(channel: Arc<Channel>, enabled: bool) -> Self {
        Self {
            channel,
            enabled: AtomicBool::new(enabled),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(super) fn disable(&self, reason: &str) {
        if self.enabled.swap(false, Ordering::Relaxed) {
            tracing::info!(reason, "no passthrough; reads and writes come through lanefs");
        }
    }

    /// Notes one more open of an inode and says which way it goes: with `plain` through
    /// us, if nobody has it open otherwise. `perm` are its permission bits.
    pub(super) fn open<B: Served>(
        &self,
        tree: &Tree<B>,
        id: NodeId,
        plain: bool,
        perm: impl FnOnce() -> Option<u16>,
    ) -> Option<Arc<Backing>> {
        let mut inodes = self.shard(id);
        if let Some(open) = inodes.get_mut(&id) {
            open.opens += 1;
            return open.backing.clone();
        }
        // The kernel writes passthrough files with our credentials, whoever
        // the writer is, and so cannot judge who may keep these bits.
        let allowed = || !plain && perm().is_none_or(|perm| u32::from(perm) & SETID_BITS == 0);
        let backing = if self.is_enabled() && allowed() { self.register(tree, id) } else { None };
        inodes.insert(id, OpenInode { opens: 1, backing: backing.clone() });
        backing
    }

    fn register<B: Served>(&self, tree: &Tree<B>, id: NodeId) -> Option<Arc<Backing>> {
        let fd = tree.with_object(id, B::passthrough_fd).ok()?.ok()?;
        match Backing::register(&self.channel, fd.as_fd()) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(error) => {
                // No privilege (EPERM), or the backing is stacked too deep
                // (ELOOP): it will not be otherwise for the next file.
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ELOOP)) {
                    self.disable(&error.to_string());
                }
                None
            }
        }
    }

    pub(super) fn record(&self) -> PassthroughRecord {
        let mut inodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            inodes.extend(shard.iter().map(|(id, open)| {
                (id.0, open.opens, open.backing.as_ref().map(|backing| backing.number()))
            }));
        }
        PassthroughRecord { enabled: self.is_enabled(), inodes }
    }

    pub(super) fn resume(&self, record: &PassthroughRecord) {
        self.enabled.store(record.enabled, Ordering::Relaxed);
        for &(id, opens, number) in &record.inodes {
            let backing = number.map(|number| Arc::new(Backing::resume(&self.channel, number)));
            self.shard(NodeId(id)).insert(NodeId(id), OpenInode { opens, backing });
        }
    }

    /// How a write that has come to us must be made durable before it is
    /// answered, if it must.
    ///
    /// For a file under direct I/O the kernel sends the WRITE and nothing after
    /// it: O_SYNC is left to whoever answers (`fuse_direct_write_iter`, Linux
    /// 6.18). Under its page cache it sends an FSYNC itself.
    pub(super) fn sync_after_write(&self, id: NodeId, flags: i32) -> Option<SyncKind> {
        if flags & libc::O_DSYNC == 0 {
            return None;
        }
        let direct = self.shard(id).get(&id).is_some_and(|open| open.backing.is_some());
        let full = flags & libc::O_SYNC == libc::O_SYNC;
        direct.then_some(if full { SyncKind::Full } else { SyncKind::Data })
    }

    /// Notes that an open of an inode has ended.
    pub(super) fn release(&self, id: NodeId) {
        let mut inodes = self.shard(id);
        if let Some(open) = inodes.get_mut(&id) {
            open.opens -= 1;
            if open.opens == 0 {
                inodes.remove(&id);
            }
        }
    }

    fn shard(&self, id: NodeId) -> MutexGuard<'_, HashMap<NodeId, OpenInode>> {
        let shard = (id.0 % SHARDS as u64) as usize;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that hold at most so much and are opened to be written only come to us.
const REWRITTEN_BYTES_MAX: u64 = 256 << 10;

/// What an open says about rewriting the file, which the engine protects as long as it
/// sees the writes: see `Tree::leave_unseen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rewriting {
    /// Nothing.
    No,
    /// Its writes can all be seen under direct I/O: who opens a file only to write it
    /// cannot map it.
    Seen,
    /// It may be mapped, and a mapping of a passthrough file is not seen.
    Mappable,
}

/// How a file that holds `bytes` is opened, or one that is being rewritten: programs that
/// open a small one to write it from its beginning (`sort -o`, say) may cut it later.
pub(super) fn rewriting(flags: i32, bytes: u64, under_way: bool) -> Rewriting {
    let truncates = flags & libc::O_TRUNC != 0;
    match flags & libc::O_ACCMODE {
        libc::O_WRONLY if under_way => Rewriting::Seen,
        _ if bytes == 0 => Rewriting::No,
        libc::O_RDWR if truncates => Rewriting::Mappable,
        libc::O_WRONLY if truncates => Rewriting::Seen,
        libc::O_WRONLY if flags & libc::O_APPEND == 0 && bytes <= REWRITTEN_BYTES_MAX => {
            Rewriting::Seen
        }
        _ => Rewriting::No,
    }
}

/// Flags for a passthrough open with these flags of `open(2)`.
///
/// Files opened for synchronous writes, and those whose writes must be `seen`, get direct
/// I/O on top: their writes then come to us, coherent with other passthrough opens of the
/// inode, and each is answered when a group has made it durable, if that was asked for.
/// `close` needs no FLUSH unless it is to wait until the file is durable: there is nothing
/// between the kernel and the backing file.
pub(super) fn open_flags(flags: i32, seen: bool, asks_at_close: bool) -> u32 {
    let mut reply = if asks_at_close { 0 } else { fopen::NOFLUSH };
    // O_SYNC contains O_DSYNC.
    if seen || flags & libc::O_DSYNC != 0 {
        reply |= fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_rewrite_a_file_is_told_by_its_open() {
        let (write, both) = (libc::O_WRONLY, libc::O_RDWR);
        let cases = [
            (libc::O_RDONLY, 100, Rewriting::No),
            (write | libc::O_TRUNC, 0, Rewriting::No),
            (write | libc::O_TRUNC, 5 << 20, Rewriting::Seen),
            (both | libc::O_TRUNC, 100, Rewriting::Mappable),
            (both, 100, Rewriting::No),
            (write, 100, Rewriting::Seen),
            (write, 5 << 20, Rewriting::No),
            (write | libc::O_APPEND, 100, Rewriting::No),
        ];
        for (flags, bytes, expected) in cases {
            assert_eq!(rewriting(flags, bytes, false), expected, "flags {flags:o}, {bytes} bytes");
        }
        assert_eq!(rewriting(write | libc::O_APPEND, 0, true), Rewriting::Seen);
        assert_eq!(rewriting(both, 0, true), Rewriting::No, "it may be mapped");
    }
}
