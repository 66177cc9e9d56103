//! The classic transport: fuser reads requests from `/dev/fuse` and calls these
//! handlers, each of which decodes, makes one call, and encodes.
//!
//! On the ring, too, fuser's session makes the handshake and brings what the kernel
//! sends by `/dev/fuse` in any case: FORGET, BATCH_FORGET, INTERRUPT.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fs_core::engine::{Deed, DirId, Entry, FileId, NodeId};
use fs_core::error::Result;
use fs_core::platform::linux::LinuxBacking;
use fs_core::platform::record::acting;
use fs_core::types::{Attr, Caller, NewMode, SetAttr, SyncKind};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};

use super::apart::Apart;
use super::convert::{
    self, attributes_set, caller, errno, file_attr, file_type, node, rename_mode, time,
};
use super::gate::Visitor;
use super::init::{self, Agreement};
use super::wire::Body;
use super::{Fitted, Op, Opened, Served, Skin, Write, fit, reply};

/// fuser's view of a [`Skin`].
pub struct Classic<B: Served = LinuxBacking> {
    skin: Arc<Skin<B>>,
    agreement: Arc<Agreement>,
    apart: Apart,
}

impl<B: Served> Classic<B> {
    /// What comes of the handshake is noted in `agreement`.
    #[must_use]
    pub fn new(skin: Arc<Skin<B>>, agreement: Arc<Agreement>) -> Self {
        Self { skin, agreement, apart: Apart::default() }
    }

    /// Counts a request and runs its handler.
    fn handle(&self, op: Op, handler: impl FnOnce()) {
        let visitor = if op == Op::Forget { Visitor::Forget } else { Visitor::Plain };
        self.handle_as(visitor, op, handler);
    }

    /// As [`Self::handle`], for what may cut a file to nothing.
    fn handle_cutting(&self, cuts: bool, op: Op, handler: impl FnOnce()) {
        self.handle_as(if cuts { Visitor::Cuts } else { Visitor::Plain }, op, handler);
    }

    fn handle_as(&self, visitor: Visitor, op: Op, handler: impl FnOnce()) {
        let _passage = self.skin.gate.enter(visitor);
        self.skin.count(op);
        fenced(op, handler);
    }

    /// Goes on with a request of which nothing was done yet, on a thread of its own. So it passes the
    /// gate again.
    fn go_on_apart<W: FnOnce(&Arc<Skin<B>>) + Send + 'static>(
        &self,
        visitor: Visitor,
        op: Op,
        handler: W,
    ) {
        let skin = Arc::clone(&self.skin);
        let carry = move |handler: W| {
            let _passage = skin.gate.enter_apart(visitor);
            fenced(op, || handler(&skin));
        };
        if let Some(handler) = self.apart.run(handler, carry) {
            handler(&self.skin);
        }
    }

    /// Goes on here, or apart if it takes long.
    fn go_on<W: FnOnce(&Arc<Skin<B>>) + Send + 'static>(
        &self,
        takes_long: bool,
        visitor: Visitor,
        op: Op,
        handler: W,
    ) {
        if takes_long {
            self.go_on_apart(visitor, op, handler);
        } else {
            handler(&self.skin);
        }
    }

    /// As [`Self::handle`], for operations that carry no caller: a recorder asks.
    fn handle_for(&self, request: &Request, op: Op, handler: impl FnOnce()) {
        self.handle(op, || acting(caller(request), handler));
    }

    fn entry(skin: &Skin<B>, unique: RequestId, reply: ReplyEntry, entry: &Entry) {
        let body = Body::entry(entry, &skin.options);
        // A reply that the kernel did not take (the caller was killed)
        // holds no reference.
        if !skin.channel.send(unique, &body) {
            skin.tree.forget(entry.id, 1);
        }
        reply::answered(reply);
    }

    /// A new name, when it is as durable as is promised.
    fn made(&self, req: &Request, reply: ReplyEntry, deed: &Deed<'_>, result: Result<Entry>) {
        let entry = match result {
            Ok(entry) => entry,
            Err(error) => return reply.error(errno(error)),
        };
        let (skin, unique) = (Arc::clone(&self.skin), req.unique());
        self.skin.settle(caller(req), deed, move |settled| match settled {
            Ok(()) => Self::entry(&skin, unique, reply, &entry),
            Err(error) => {
                skin.tree.forget(entry.id, 1);
                reply.error(errno(error));
            }
        });
    }

    /// Nothing but that it is done, when it is as durable as is promised.
    fn done(&self, req: &Request, reply: ReplyEmpty, deed: &Deed<'_>, result: Result<()>) {
        Self::settled(&self.skin, caller(req), reply, deed, result);
    }

    fn settled(
        skin: &Arc<Skin<B>>,
        caller: Caller,
        reply: ReplyEmpty,
        deed: &Deed<'_>,
        result: Result<()>,
    ) {
        match result {
            Ok(()) => skin.settle(caller, deed, move |result| Self::empty(reply, result)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// An open file, and its name if it was made with it, when it is as durable as is promised.
    fn opened(
        skin: &Arc<Skin<B>>,
        caller: Caller,
        id: NodeId,
        opened: Opened,
        body: Body,
        answer: impl FnOnce(&Skin<B>, Result<&Body>) -> bool + Send + 'static,
    ) {
        let its = Arc::clone(skin);
        let file = opened.file;
        skin.settle(caller, &Deed::Opened(file), move |settled| {
            let skin = its;
            if !answer(&skin, settled.map(|()| &body)) {
                skin.release(id, file);
            }
            drop(opened);
        });
    }

    /// Sends a body of our own, or an error by fuser's reply; whether the kernel took the body.
    fn send<R>(
        skin: &Skin<B>,
        (unique, reply): (RequestId, R),
        body: Result<&Body>,
        refuse: impl FnOnce(R, fuser::Errno),
    ) -> bool {
        match body {
            Ok(body) => {
                let sent = skin.channel.send(unique, body);
                reply::answered(reply);
                sent
            }
            Err(error) => {
                refuse(reply, errno(error));
                false
            }
        }
    }

    fn empty(reply: ReplyEmpty, result: Result<()>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Attributes or an error, for getattr and setattr.
    fn attr(skin: &Skin<B>, reply: ReplyAttr, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.attr(&skin.options.attr_timeout, &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
        match result.and_then(|value| fit(value, size)) {
            Ok(Fitted::Size(bytes)) => reply.size(bytes),
            Ok(Fitted::Bytes(value)) => reply.data(&value),
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// A panic fails this request (its reply, dropped unsent, answers EIO) and not its thread.
fn fenced(op: Op, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        tracing::error!(request = op.name(), "a handler panicked; the request gets EIO");
    }
}

impl<B: Served> Filesystem for Classic<B> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        init::negotiate(config, &self.skin, &self.agreement);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.handle(Op::Lookup, || match self.skin.lookup(node(parent), name) {
            Ok(Some(entry)) => Self::entry(&self.skin, req.unique(), reply, &entry),
            Ok(None) => {
                let _ = self.skin.channel.send(req.unique(), &Body::no_entry(&self.skin.options));
                reply::answered(reply);
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.handle(Op::Forget, || self.skin.tree.forget(node(ino), nlookup));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.handle(Op::GetAttr, || Self::attr(&self.skin, reply, self.skin.tree.attr(node(ino))));
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
        let cuts = size == Some(0);
        self.handle_cutting(cuts, Op::SetAttr, || {
            let perm = mode.map(|mode| mode & 0o7777);
            let (atime, mtime) = (atime.map(time), mtime.map(time));
            let change = SetAttr { perm, uid, gid, size, atime, mtime };
            let (id, file) = (node(ino), fh.map(|fh| FileId(fh.0)));
            let caller = caller(req);
            let set = move |skin: &Arc<Skin<B>>| {
                let attr = match skin.tree.set_attr(caller, id, file, &change) {
                    Ok(attr) => attr,
                    Err(error) => return reply.error(errno(error)),
                };
                let (its, deed) = (Arc::clone(skin), attributes_set(id, file, &change));
                skin.settle(caller, &deed, move |settled| {
                    Self::attr(&its, reply, settled.map(|()| attr));
                });
            };
            let takes_long = cuts && self.skin.tree.cut_takes_long(id);
            self.go_on(takes_long, Visitor::Cuts, Op::SetAttr, set);
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.handle(Op::ReadLink, || match self.skin.tree.read_link(node(ino)) {
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
            let result = self.skin.tree.make_node(caller(req), node(parent), name, new, device);
            self.made(req, reply, &Deed::Name(node(parent), name), result);
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
            let result = self.skin.tree.make_dir(caller(req), node(parent), name, new);
            self.made(req, reply, &Deed::Name(node(parent), name), result);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle_for(req, Op::Unlink, || {
            let result = self.skin.tree.unlink(node(parent), name);
            self.done(req, reply, &Deed::Name(node(parent), name), result);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle_for(req, Op::RmDir, || {
            let result = self.skin.tree.remove_dir(node(parent), name);
            self.done(req, reply, &Deed::Name(node(parent), name), result);
        });
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
            let result = self.skin.tree.make_symlink(caller(req), node(parent), link_name, target);
            self.made(req, reply, &Deed::Name(node(parent), link_name), result);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.handle_for(req, Op::Rename, || {
            let (source, target) = ((node(parent), name), (node(newparent), newname));
            let mode = rename_mode(flags.bits());
            let quick = mode.and_then(|mode| self.skin.tree.rename_if_quick(source, target, mode));
            if let (Ok(mode), Ok(false)) = (mode, quick) {
                let (caller, names) = (caller(req), (name.to_owned(), newname.to_owned()));
                return self.go_on_apart(Visitor::Plain, Op::Rename, move |skin| {
                    let (source, target) = ((source.0, &*names.0), (target.0, &*names.1));
                    let result = acting(caller, || skin.tree.rename(source, target, mode));
                    Self::settled(skin, caller, reply, &Deed::Moved(source, target), result);
                });
            }
            self.done(req, reply, &Deed::Moved(source, target), quick.map(drop));
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
        self.handle_for(req, Op::Link, || {
            let result = self.skin.tree.link(node(ino), node(newparent), newname);
            self.made(req, reply, &Deed::Name(node(newparent), newname), result);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let cuts = flags.0 & libc::O_TRUNC != 0;
        self.handle_cutting(cuts, Op::Open, || {
            let (id, caller, unique) = (node(ino), caller(req), req.unique());
            let open = move |skin: &Arc<Skin<B>>| {
                let opened = match skin.open(caller, id, flags.0) {
                    Ok(opened) => opened,
                    Err(error) => return reply.error(errno(error)),
                };
                let body = Body::opened(&opened);
                Self::opened(skin, caller, id, opened, body, move |skin, body| {
                    Self::send(skin, (unique, reply), body, ReplyOpen::error)
                });
            };
            let takes_long = cuts && self.skin.tree.cut_takes_long(id);
            self.go_on(takes_long, Visitor::Cuts, Op::Open, open);
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
        self.handle_cutting(flags & libc::O_TRUNC != 0, Op::Create, || {
            let (new, unique) = (NewMode { mode, umask }, req.unique());
            let created = self.skin.create(caller(req), node(parent), name, new, flags);
            let (entry, opened) = match created {
                Ok(created) => created,
                Err(error) => return reply.error(errno(error)),
            };
            let body = Body::created(&entry, &opened, &self.skin.options);
            let skin = &self.skin;
            Self::opened(skin, caller(req), entry.id, opened, body, move |skin, body| {
                let sent = Self::send(skin, (unique, reply), body, ReplyCreate::error);
                if !sent {
                    skin.tree.forget(entry.id, 1);
                }
                sent
            });
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
                match self.skin.tree.read(caller(req), FileId(fh.0), buffer, offset) {
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
            let write = Write { file, offset, data, keep_suid, flags: flags.0 };
            let written = match self.skin.write(caller(req), node(ino), &write) {
                Ok(written) => written,
                Err(error) => return reply.error(errno(error)),
            };
            let Some(kind) = written.sync else { return reply.written(written.bytes) };
            let done = move |result: Result<()>| match result {
                Ok(()) => reply.written(written.bytes),
                Err(error) => reply.error(errno(error)),
            };
            let done = self.skin.watched(caller(req), node(ino), Box::new(done));
            self.skin.tree.sync_file(caller(req), file, kind, done);
        });
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Flush, || self.done(req, reply, &Deed::Closed(FileId(fh.0)), Ok(())));
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
            let (id, file) = (node(ino), FileId(fh.0));
            let release = move |skin: &Arc<Skin<B>>| {
                skin.release(id, file);
                reply.ok();
            };
            let takes_long = self.skin.tree.release_takes_long(file);
            self.go_on(takes_long, Visitor::Plain, Op::Release, release);
        });
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::Fsync, || {
            let kind = if datasync { SyncKind::Data } else { SyncKind::Full };
            let done = Box::new(move |result| Self::empty(reply, result));
            let done = self.skin.watched(caller(req), node(ino), done);
            self.skin.tree.sync_file(caller(req), FileId(fh.0), kind, done);
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.handle_for(req, Op::OpenDir, || match self.skin.tree.open_dir(node(ino)) {
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
            let result = self.skin.tree.read_dir(DirId(fh.0), offset, &mut |entry| {
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
            let mut has_room = |_: &_, entry: &_| reply::has_room(&mut reply, entry);
            match self.skin.list(DirId(fh.0), offset, &mut has_room) {
                Ok(listing) => {
                    if !self.skin.channel.send(req.unique(), &listing.body) {
                        self.skin.forget_all(&listing);
                    }
                    drop(reply);
                }
                Err(error) => reply.error(errno(error)),
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
            self.skin.tree.release_dir(DirId(fh.0));
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Op::FsyncDir, || {
            let done = Box::new(move |result| Self::empty(reply, result));
            let done = self.skin.watched(caller(req), node(ino), done);
            self.skin.tree.sync_dir(caller(req), DirId(fh.0), done);
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.handle(Op::StatFs, || match self.skin.tree.stats() {
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
            let result = self.skin.tree.set_xattr(caller(req), node(ino), name, value, flags);
            self.done(req, reply, &Deed::Attributes(node(ino)), result);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.handle(Op::GetXattr, || {
            Self::xattr(reply, size, self.skin.tree.xattr(node(ino), name));
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.handle(Op::ListXattr, || {
            Self::xattr(reply, size, self.skin.tree.xattr_names(caller(req), node(ino)));
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.handle_for(req, Op::RemoveXattr, || {
            let result = self.skin.tree.remove_xattr(node(ino), name);
            self.done(req, reply, &Deed::Attributes(node(ino)), result);
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
            let result = self.skin.tree.allocate(caller(req), file, mode, offset, length);
            self.done(req, reply, &Deed::Content(file), result);
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
            let (file, offset) = (FileId(fh.0), offset.cast_unsigned());
            match self.skin.seek(caller(req), file, offset, whence) {
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
            let bytes = match self.skin.copy_range(caller(req), source, target, len) {
                Ok(bytes) => bytes,
                Err(error) => return reply.error(errno(error)),
            };
            self.skin.settle(caller(req), &Deed::Content(target.0), move |settled| match settled {
                Ok(()) => reply.written(bytes),
                Err(error) => reply.error(errno(error)),
            });
        });
    }
}

/// The root's number is the same on both sides.
const _: () = assert!(NodeId::ROOT.0 == INodeNo::ROOT.0);
