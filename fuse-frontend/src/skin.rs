//! The FUSE side of a mount: what each request means.
//!
//! Requests come by one of two transports, and each has an adapter that decodes,
//! calls, and encodes: [`classic`] (fuser's trait, reads and writes of `/dev/fuse`)
//! and [`crate::ring`] (FUSE over io_uring). What they call is [`Tree`] itself
//! where that is the whole of a request, and the methods of [`Skin`] here where a
//! request takes more than one call. Nothing of it knows the transport.
//!
//! What is special about our kernel is kept in the parts:
//! - [`wire`]: the kernel's structures in replies;
//! - [`reply`]: replies that the classic adapter writes by itself;
//! - [`passthrough`]: which inodes the kernel reads and writes by itself;
//! - [`backing`]: its numbers for them;
//! - [`convert`]: our plain values and the kernel's and fuser's.
//!
//! Locks (`flock`, `fcntl`) are deliberately not handled: without the handlers
//! the kernel keeps them for all users of the mount, and fuser 0.18 cannot tell
//! the two kinds apart.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_core::engine::{Deed, DirId, Entry, FileId, NodeId, Tree};
use fs_core::error::{Errno, Result};
use fs_core::lane::Completion;
use fs_core::platform::linux::LinuxBacking;
use fs_core::platform::record::Recorder;
use fs_core::platform::{self, Seek};
use fs_core::types::{Caller, DirEntry, NewMode, SyncKind};

use self::backing::Backing;
pub use self::classic::Classic;
use self::convert::open_mode;
pub use self::counters::{Counters, Op};
use self::gate::Gate;
pub use self::init::Agreement;
pub use self::passthrough::PassthroughRecord;
use self::passthrough::{Passthrough, Rewriting};
use self::reply::Channel;
use self::slow::SlowSyncs;
use self::wire::Listing;

pub(crate) mod apart;
mod backing;
mod classic;
pub(crate) mod convert;
mod counters;
pub(crate) mod gate;
mod init;
mod passthrough;
pub mod reply;
mod slow;
pub(crate) mod wire;

/// Most bytes that one copy_file_range reply can report.
const COPY_BYTES_MAX: u64 = 1 << 30;
/// Largest read or write request in bytes (`fs.fuse.max_pages_limit` is 256 pages).
pub const REQUEST_BYTES_MAX: u32 = 1024 * 1024;

/// What a mount's FUSE side needs to know.
#[derive(Debug, Clone, Copy)]
pub struct SkinOptions {
    /// How long the kernel may use attributes without asking.
    pub attr_timeout: Duration,
    /// How long the kernel may use a name (or its absence) without asking.
    pub entry_timeout: Duration,
    /// Let the kernel read and write backing files by itself where it can.
    pub passthrough: bool,
    /// Syncs that take longer are told of and counted; `None`: none are.
    pub slow_sync: Option<Duration>,
    /// Leave POSIX ACLs and permission checks to the kernel.
    pub default_permissions: bool,
}

/// The FUSE side of one mount.
pub struct Skin<B: Served = LinuxBacking> {
    /// What is mounted.
    pub(crate) tree: Arc<Tree<B>>,
    pub(crate) options: SkinOptions,
    channel: Arc<Channel>,
    counters: Arc<Counters>,
    passthrough: Passthrough,
    /// In front of the handlers of the classic transport.
    pub(crate) gate: Gate,
    slow: Arc<SlowSyncs>,
}

/// A file that was opened.
pub(crate) struct Opened {
    pub(crate) file: FileId,
    /// `FOPEN_*`, without passthrough.
    pub(crate) flags: u32,
    /// What the kernel reads and writes by itself, if it does.
    pub(crate) backing: Option<Arc<Backing>>,
}

/// What a write did, and how it must be made durable before it is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) bytes: u32,
    pub(crate) sync: Option<SyncKind>,
}

/// An answer to who asked with a size: the bytes, or, asked with none, how many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fitted {
    Bytes(Vec<u8>),
    Size(u32),
}

/// A backing that this side can serve, and what the kernel may do with it by itself.
pub trait Served: platform::Backing {
    /// An `O_PATH` descriptor of an object, for passthrough; an error if all requests
    /// have to come to us.
    ///
    /// # Errors
    /// See [`LinuxBacking::path_fd`].
    fn passthrough_fd(&self, object: &Self::Object) -> Result<Arc<OwnedFd>>;
    /// Whether it is itself stacked on another filesystem.
    fn is_stacked(&self) -> bool;
}

impl Served for LinuxBacking {
    fn passthrough_fd(&self, object: &Self::Object) -> Result<Arc<OwnedFd>> {
        self.path_fd(object)
    }

    fn is_stacked(&self) -> bool {
        Self::is_stacked(self)
    }
}

/// The recorder has to see every write.
impl Served for Recorder<LinuxBacking> {
    fn passthrough_fd(&self, _object: &Self::Object) -> Result<Arc<OwnedFd>> {
        Err(Errno::OPNOTSUPP)
    }

    fn is_stacked(&self) -> bool {
        self.inner().is_stacked()
    }
}

impl<B: Served> Skin<B> {
    /// A FUSE side for `tree` on the device of `channel`.
    #[must_use]
    pub fn new(
        tree: Arc<Tree<B>>,
        channel: Arc<Channel>,
        counters: Arc<Counters>,
        options: SkinOptions,
    ) -> Self {
        let passthrough = Passthrough::new(Arc::clone(&channel), options.passthrough);
        let slow = Arc::new(SlowSyncs::new(options.slow_sync));
        Self { tree, options, channel, counters, passthrough, gate: Gate::default(), slow }
    }

    /// Whether the kernel does I/O by itself; known after the mount's first request.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        self.passthrough.is_enabled()
    }

    /// Which inodes the kernel reads and writes by itself, for a successor of this program.
    #[must_use]
    pub fn passthrough_record(&self) -> PassthroughRecord {
        self.passthrough.record()
    }

    /// Takes over what a predecessor has agreed with the kernel; before the first request.
    pub fn resume_passthrough(&self, record: &PassthroughRecord) {
        self.passthrough.resume(record);
    }

    /// Sync requests that took longer than `slow_sync`.
    #[must_use]
    pub fn slow_syncs(&self) -> u64 {
        self.slow.count()
    }

    /// Has a sync of a node noted if it takes long.
    pub(crate) fn watched(&self, caller: Caller, id: NodeId, done: Completion) -> Completion {
        if !self.slow.is_on() {
            return done;
        }
        let (slow, tree, begun) = (Arc::clone(&self.slow), Arc::clone(&self.tree), Instant::now());
        Box::new(move |result| {
            // Before the answer: after it the thread may be gone.
            slow.note(caller.thread, begun.elapsed(), || tree.attr(id).ok().map(|attr| attr.ino));
            done(result);
        })
    }

    /// Counts a request.
    pub(crate) fn count(&self, op: Op) {
        self.counters.count(op);
    }

    /// Finds a name; `None` if there is no such name, for the kernel to remember.
    pub(crate) fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Option<Entry>> {
        match self.tree.lookup(parent, name) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    pub(crate) fn open(&self, caller: Caller, id: NodeId, flags: i32) -> Result<Opened> {
        let perm = || self.tree.attr(id).ok().map(|attr| attr.perm);
        let size = || self.tree.attr(id).map_or(0, |attr| attr.size);
        let rewriting = self.rewriting(flags, || (size(), self.tree.is_being_rewritten(id)));
        let plain = rewriting == Rewriting::Mappable;
        let backing = self.passthrough.open(&self.tree, id, plain, perm);
        let opened = self.tree.open(caller, id, open_mode(flags), backing.is_some());
        let file = opened.inspect_err(|_| self.passthrough.release(id))?;
        Ok(self.opened((id, file), flags, rewriting, backing))
    }

    /// What an open says about rewriting a file that holds so many bytes, and may be being
    /// rewritten.
    fn rewriting(&self, flags: i32, held: impl FnOnce() -> (u64, bool)) -> Rewriting {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        if writes && self.tree.engine().log().is_some() {
            let (bytes, under_way) = held();
            passthrough::rewriting(flags, bytes, under_way)
        } else {
            Rewriting::No
        }
    }

    fn opened(
        &self,
        (id, file): (NodeId, FileId),
        flags: i32,
        rewriting: Rewriting,
        backing: Option<Arc<Backing>>,
    ) -> Opened {
        // One that was cut and is not protected is like any other.
        let is_cut = flags & libc::O_TRUNC != 0;
        let seen = rewriting == Rewriting::Seen && (!is_cut || self.tree.is_being_rewritten(id));
        if backing.is_some() && !seen {
            self.tree.leave_unseen(file);
        }
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let all_durable = writes && self.tree.durability(file).for_everything();
        let asks_at_close = self.tree.asks_at_close(file);
        let reply = |_| passthrough::open_flags(flags, seen || all_durable, asks_at_close);
        Opened { file, flags: backing.as_ref().map_or(0, reply), backing }
    }

    /// Calls `answer` when what is owed for an operation is settled.
    pub(crate) fn settle(
        &self,
        caller: Caller,
        deed: &Deed<'_>,
        answer: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        match self.tree.owed(caller, deed) {
            Ok(owed) => owed.settle(answer),
            Err(error) => answer(Err(error)),
        }
    }

    pub(crate) fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &OsStr,
        new: NewMode,
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let exclusive = flags & libc::O_EXCL != 0;
        let (entry, file) =
            self.tree.create(caller, parent, name, new, open_mode(flags), exclusive)?;
        // One that was cut and had held something is not new.
        let rewriting = self.rewriting(flags, || {
            let under_way = self.tree.is_being_rewritten(entry.id);
            (entry.attr.size.max(u64::from(under_way)), under_way)
        });
        let (plain, perm) = (rewriting == Rewriting::Mappable, || Some(entry.attr.perm));
        let backing = self.passthrough.open(&self.tree, entry.id, plain, perm);
        Ok((entry, self.opened((entry.id, file), flags, rewriting, backing)))
    }

    pub(crate) fn release(&self, id: NodeId, file: FileId) {
        self.tree.release(file);
        self.passthrough.release(id);
    }

    pub(crate) fn write(&self, caller: Caller, id: NodeId, write: &Write<'_>) -> Result<Written> {
        let Write { file, offset, data, keep_suid, flags } = *write;
        let bytes = self.tree.write(caller, file, data, offset, keep_suid)? as u32;
        let always = self.tree.durability(file).for_everything();
        let sync = if always { Some(SyncKind::Full) } else { None };
        Ok(Written { bytes, sync: sync.or_else(|| self.passthrough.sync_after_write(id, flags)) })
    }

    pub(crate) fn seek(
        &self,
        caller: Caller,
        file: FileId,
        offset: u64,
        whence: i32,
    ) -> Result<u64> {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(Errno::INVAL),
        };
        self.tree.seek(caller, file, offset, what)
    }

    /// Copies as much as one reply can report.
    pub(crate) fn copy_range(
        &self,
        caller: Caller,
        source: (FileId, u64),
        target: (FileId, u64),
        bytes: u64,
    ) -> Result<u32> {
        let bytes = bytes.min(COPY_BYTES_MAX);
        Ok(self.tree.copy_range(caller, source, target, bytes)? as u32)
    }

    /// Lists a directory with a reference to each entry's node, as long as `has_room`.
    pub(crate) fn list(
        &self,
        dir: DirId,
        offset: u64,
        has_room: &mut dyn FnMut(&Listing, &DirEntry) -> bool,
    ) -> Result<Listing> {
        let mut listing = Listing::default();
        let result = self.tree.read_dir(dir, offset, &mut |entry| {
            if !has_room(&listing, &entry) {
                return false;
            }
            let lookup = || self.tree.lookup_in(dir, &entry.name).ok();
            listing.push(&entry, &self.options, lookup);
            true
        });
        result.inspect_err(|_| self.forget_all(&listing))?;
        Ok(listing)
    }

    /// Gives back what a listing refers to that the kernel did not get.
    pub(crate) fn forget_all(&self, listing: &Listing) {
        listing.nodes.iter().for_each(|id| self.tree.forget(*id, 1));
    }
}

/// A write request.
pub(crate) struct Write<'a> {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
    /// Set-user-id bits stay.
    pub(crate) keep_suid: bool,
    /// Of the open file, as `open(2)` has them.
    pub(crate) flags: i32,
}

/// Fits an extended attribute, or the list of their names, to the size that was asked for.
pub(crate) fn fit(value: Vec<u8>, size: u32) -> Result<Fitted> {
    match value.len() {
        bytes if size == 0 => Ok(Fitted::Size(bytes as u32)),
        bytes if bytes <= size as usize => Ok(Fitted::Bytes(value)),
        _ => Err(Errno::RANGE),
    }
}
