//! The FUSE side of a mount: each handler decodes, makes one call into
//! `fs_core`, and encodes.
//!
//! What is special about our kernel is kept in the parts:
//! - [`reply`]: replies that fuser 0.18 cannot express (node number and inode
//!   number apart) are written to the device here;
//! - [`passthrough`]: which inodes the kernel reads and writes by itself;
//! - [`convert`]: our plain values and fuser's.
//!
//! Locks (`flock`, `fcntl`) are deliberately not handled: without the handlers
//! the kernel keeps them for all users of the mount, and fuser 0.18 cannot tell
//! the two kinds apart.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs_core::engine::{DirId, FileId, NodeId, Tree};
use fs_core::error::Errno;
use fs_core::platform::linux::LinuxBacking;
use fs_core::platform::{OpenMode, Seek};
use fs_core::types::{NewMode, SetAttr, SyncKind};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use self::convert::{caller, errno, file_attr, file_type, node, rename_mode, time};
pub use self::counters::{Counters, Op};
use self::passthrough::{Backing, Passthrough};
use self::reply::{Channel, CreatedReply, PlusBuffer};

mod convert;
mod counters;
mod init;
mod passthrough;
pub mod reply;

/// What a mount's FUSE side needs to know.
#[derive(Debug, Clone, Copy)]
pub struct SkinOptions {
    /// How long the kernel may use attributes without asking.
    pub attr_timeout: Duration,
    /// How long the kernel may use a name (or its absence) without asking.
    pub entry_timeout: Duration,
    /// Let the kernel read and write backing files by itself where it can.
    pub passthrough: bool,
    /// Leave POSIX ACLs and permission checks to the kernel.
    pub default_permissions: bool,
}

/// The FUSE side of one mount.
pub struct Skin {
    tree: Arc<Tree<LinuxBacking>>,
    channel: Arc<Channel>,
    counters: Arc<Counters>,
    passthrough: Arc<Passthrough>,
    options: SkinOptions,
}

impl Skin {
    /// A FUSE side for `tree` that writes its own replies to `channel`.
    #[must_use]
    pub fn new(
        tree: Arc<Tree<LinuxBacking>>,
        channel: Arc<Channel>,
        counters: Arc<Counters>,
        options: SkinOptions,
    ) -> Self {
        let passthrough = Arc::new(Passthrough::new(options.passthrough));
        Self { tree, channel, counters, passthrough, options }
    }

    /// Whether the kernel does I/O by itself; known after the mount's first request.
    #[must_use]
    pub fn passthrough_state(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let passthrough = Arc::clone(&self.passthrough);
        Arc::new(move || passthrough.is_enabled())
    }

    /// Counts a request and runs its handler. A panic fails this request (its
    /// reply, dropped unsent, answers EIO) and not the worker that runs it.
    fn handle(&self, op: Op, handler: impl FnOnce()) {
        self.counters.count(op);
        if catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!(request = op.name(), "a handler panicked; the request gets EIO");
        }
    }

    fn entry(
        &self,
        request: &Request,
        reply: ReplyEntry,
        result: fs_core::error::Result<fs_core::engine::Entry>,
    ) {
        match result {
            Ok(entry) => {
                let sent = self.channel.entry(request.unique(), &entry, &self.options);
                // A reply that the kernel did not take (the caller was killed)
                // holds no reference.
                if !sent {
                    self.tree.forget(entry.id, 1);
                }
                reply::answered(reply);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn empty(reply: ReplyEmpty, result: fs_core::error::Result<()>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Attributes or an error, for getattr and setattr.
    fn attr(&self, reply: ReplyAttr, result: fs_core::error::Result<fs_core::types::Attr>) {
        match result {
            Ok(attr) => reply.attr(&self.options.attr_timeout, &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// How the engine shall open a file for these flags of `open(2)`.
fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        no_atime: flags & libc::O_NOATIME != 0,
    }
}

impl Filesystem for Skin {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        init::negotiate(config, &self.options, self.tree.backing(), &self.passthrough);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.handle(Op::Lookup, || match self.tree.lookup(node(parent), name) {
            Err(Errno::NOENT) => {
                self.channel.no_entry(req.unique(), &self.options);
                reply::answered(reply);
            }
            result => self.entry(req, reply, result),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.handle(Op::Forget, || self.tree.forget(node(ino), nlookup));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.handle(Op::GetAttr, || self.attr(reply, self.tree.attr(node(ino))));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.handle(Op::SetAttr, || {
            let perm = mode.map(|mode| mode & 0o7777);
            let (atime, mtime) = (atime.map(time), mtime.map(time));
            let change = SetAttr { perm, uid, gid, size, atime, mtime };
            let file = fh.map(|fh| FileId(fh.0));
            self.attr(reply, self.tree.set_attr(caller(req), node(ino), file, &change));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.handle(Op::ReadLink, || match self.tree.read_link(node(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.handle(Op::MkNod, || {
            let (new, device) = (NewMode { mode, umask }, convert::device(rdev));
            let result = self.tree.make_node(caller(req), node(parent), name, new, device);
            self.entry(req, reply, result);
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.handle(Op::MkDir, || {
            let new = NewMode { mode, umask };
            self.entry(req, reply, self.tree.make_dir(caller(req), node(parent), name, new));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle(Op::Unlink, || Self::empty(reply, self.tree.unlink(node(parent), name)));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle(Op::RmDir, || Self::empty(reply, self.tree.remove_dir(node(parent), name)));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.handle(Op::Symlink, || {
            let target = target.as_os_str();
            let result = self.tree.make_symlink(caller(req), node(parent), link_name, target);
            self.entry(req, reply, result);
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Rename, || {
            let (source, target) = ((node(parent), name), (node(newparent), newname));
            let result = rename_mode(flags).and_then(|mode| self.tree.rename(source, target, mode));
            Self::empty(reply, result);
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.handle(Op::Link, || {
            self.entry(req, reply, self.tree.link(node(ino), node(newparent), newname));
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.handle(Op::Open, || {
            let (id, mode) = (node(ino), open_mode(flags.0));
            let perm = || self.tree.attr(id).ok().map(|attr| attr.perm);
            let register = |fd: BorrowedFd<'_>| Backing::for_open(&reply, fd);
            let way = self.passthrough.open(&self.tree, id, perm, register);
            match self.tree.open(caller(req), id, mode, way.is_some()) {
                Ok(file) => match way {
                    Some(backing) => {
                        let flags = passthrough::open_flags(flags.0);
                        reply.opened_passthrough(FileHandle(file.0), flags, &backing.id);
                    }
                    None => reply.opened(FileHandle(file.0), FopenFlags::empty()),
                },
                Err(error) => {
                    self.passthrough.release(id);
                    reply.error(errno(error));
                }
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.handle(Op::Create, || {
            let (new, exclusive) = (NewMode { mode, umask }, flags & libc::O_EXCL != 0);
            let open = open_mode(flags);
            let made = self.tree.create(caller(req), node(parent), name, new, open, exclusive);
            let (entry, file) = match made {
                Ok(made) => made,
                Err(error) => return reply.error(errno(error)),
            };
            let register = |fd: BorrowedFd<'_>| Backing::for_create(&reply, fd);
            let perm = || Some(entry.attr.perm);
            let way = self.passthrough.open(&self.tree, entry.id, perm, register);
            let (flags, backing) = match &way {
                Some(way) => (passthrough::open_flags(flags), Some(&**way)),
                None => (FopenFlags::empty(), None),
            };
            let created = CreatedReply { entry: &entry, file, flags, backing };
            if !self.channel.created(req.unique(), &created, &self.options) {
                self.tree.release(file);
                self.passthrough.release(entry.id);
                self.tree.forget(entry.id, 1);
            }
            reply::answered(reply);
        });
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.handle(Op::Read, || {
            reply::with_buffer(size as usize, |buffer| {
                match self.tree.read(caller(req), FileId(fh.0), buffer, offset) {
                    Ok(bytes) => reply.data(&buffer[..bytes]),
                    Err(error) => reply.error(errno(error)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.handle(Op::Write, || {
            let file = FileId(fh.0);
            let keep_suid = !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            let written = match self.tree.write(caller(req), file, data, offset, keep_suid) {
                Ok(bytes) => bytes as u32,
                Err(error) => return reply.error(errno(error)),
            };
            let Some(kind) = self.passthrough.sync_after_write(node(ino), flags.0) else {
                return reply.written(written);
            };
            let done = move |result: fs_core::error::Result<()>| match result {
                Ok(()) => reply.written(written),
                Err(error) => reply.error(errno(error)),
            };
            self.tree.sync_file(caller(req), file, kind, Box::new(done));
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Flush, || reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Release, || {
            self.tree.release(FileId(fh.0));
            self.passthrough.release(node(ino));
            reply.ok();
        });
    }

    fn fsync(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Fsync, || {
            let kind = if datasync { SyncKind::Data } else { SyncKind::Full };
            let done = Box::new(move |result| Self::empty(reply, result));
            self.tree.sync_file(caller(req), FileId(fh.0), kind, done);
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.handle(Op::OpenDir, || match self.tree.open_dir(node(ino)) {
            Ok(dir) => reply.opened(FileHandle(dir.0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.handle(Op::ReadDir, || {
            let result = self.tree.read_dir(DirId(fh.0), offset, &mut |entry| {
                let kind = file_type(entry.kind);
                !reply.add(INodeNo(entry.ino), entry.next_offset, kind, &entry.name)
            });
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.handle(Op::ReadDirPlus, || {
            let dir = DirId(fh.0);
            let mut buffer = PlusBuffer::new(req.unique(), &self.options);
            let result = self.tree.read_dir(dir, offset, &mut |entry| {
                if !PlusBuffer::has_room(&mut reply, &entry) {
                    return false;
                }
                buffer.push(&entry, || self.tree.lookup_in(dir, &entry.name).ok());
                true
            });
            match result {
                Ok(()) => {
                    if !self.channel.plus(&buffer) {
                        buffer.nodes().for_each(|id| self.tree.forget(id, 1));
                    }
                    drop(reply);
                }
                Err(error) => {
                    buffer.nodes().for_each(|id| self.tree.forget(id, 1));
                    reply.error(errno(error));
                }
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::ReleaseDir, || {
            self.tree.release_dir(DirId(fh.0));
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::FsyncDir, || {
            let done = Box::new(move |result| Self::empty(reply, result));
            self.tree.sync_dir(caller(req), DirId(fh.0), done);
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.handle(Op::StatFs, || match self.tree.stats() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_bytes,
                s.name_bytes_max,
                s.fragment_bytes,
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::SetXattr, || {
            let flags = flags.cast_unsigned();
            let result = self.tree.set_xattr(caller(req), node(ino), name, value, flags);
            Self::empty(reply, result);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.handle(Op::GetXattr, || {
            convert::reply_xattr(reply, size, self.tree.xattr(node(ino), name));
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.handle(Op::ListXattr, || {
            convert::reply_xattr(reply, size, self.tree.xattr_names(caller(req), node(ino)));
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle(Op::RemoveXattr, || {
            Self::empty(reply, self.tree.remove_xattr(node(ino), name));
        });
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Only asked without `default_permissions`, when the mount belongs to
        // its owner alone; ENOSYS once means "allowed" for good (fuse_access).
        self.handle(Op::Access, || reply.error(fuser::Errno::ENOSYS));
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Fallocate, || {
            let (file, mode) = (FileId(fh.0), mode.cast_unsigned());
            Self::empty(reply, self.tree.allocate(caller(req), file, mode, offset, length));
        });
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.handle(Op::Lseek, || {
            let what = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return reply.error(fuser::Errno::EINVAL),
            };
            match self.tree.seek(caller(req), FileId(fh.0), offset.cast_unsigned(), what) {
                Ok(found) => reply.offset(found.cast_signed()),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.handle(Op::CopyFileRange, || {
            let (source, target) = ((FileId(fh_in.0), offset_in), (FileId(fh_out.0), offset_out));
            let len = len.min(reply::COPY_BYTES_MAX);
            match self.tree.copy_range(caller(req), source, target, len) {
                Ok(bytes) => reply.written(bytes as u32),
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}

/// The root's number is the same on both sides.
const _: () = assert!(NodeId::ROOT.0 == INodeNo::ROOT.0);
