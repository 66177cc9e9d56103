//! Linux: a backing directory through system calls.
//!
//! Objects are known by file handle (`name_to_handle_at(2)`), so that knowing a
//! million files costs no file descriptors; without the privilege, or where the
//! filesystem has no handles, each known object is pinned by an `O_PATH`
//! descriptor. With privilege the directory is reached through a private clone
//! of its mount (`open_tree(2)`), which the mount point may then hide, which no
//! later mount below it can change, and whose `ro` and `noatime` are our own.
//!
//! Needs /proc mounted: `chmod`, extended attributes and reopening go through
//! `/proc/self/fd/N`, the only door that takes an `O_PATH` descriptor on every
//! kernel since 6.9.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags};

use self::caller::Privileges;
use self::device_flush::DeviceFlush;
use self::object::{FdCache, ObjectInner};
use super::{Backing, Found, ObjectKey, OpenMode, RenameMode, Seek, unix_io};
use crate::error::{Errno, Result};
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr};

mod attr;
mod boot;
mod caller;
mod carried;
mod device_flush;
mod directory;
mod extents;
mod fence;
mod file;
mod inherited;
mod log;
mod mount_clone;
mod object;
mod opening;
mod ordered;
mod page_cache;
mod quota;
mod xattr;

pub use self::caller::{raise_open_files_limit, running_as_root};
pub use self::directory::Dir;
pub use self::fence::{FenceMechanism, LinuxFencer};
pub use self::inherited::{Inherited, interrupt_thread, keep_over_exec, replace_file};
pub use self::log::{DeviceContent, LinuxLog, LogPathError, inspect_device};
pub use self::opening::BackingOptions;
pub use self::quota::limit_directory;
pub use super::open_error::OpenError;

/// A directory of a mounted Linux filesystem.
pub struct LinuxBacking {
    /// Root of the tree; a real (not `O_PATH`) descriptor, as
    /// `open_by_handle_at(2)` wants for its mount.
    root: Arc<OwnedFd>,
    /// Keeps the filesystem busy under the path it was given by: a mount clone
    /// alone would let `umount` of the backing filesystem appear to succeed.
    original: OwnedFd,
    cache: FdCache,
    privileges: Privileges,
    handles: bool,
    options: BackingOptions,
    magic: u64,
    xfs: Option<extents::XfsTrees>,
    device: u64,
    device_flush: DeviceFlush,
    exact_times: OnceLock<bool>,
    delays_allocation: OnceLock<bool>,
    /// What a predecessor has left and nobody has asked for yet.
    inherited: Option<Inherited>,
}

impl LinuxBacking {
    fn prepare_thread(&self) {
        self.privileges.prepare_thread();
    }

    fn found(&self, fd: OwnedFd) -> Result<Found<Self>> {
        let (attr, device) = attr::stat_fd(fd.as_fd())?;
        if self.options.as_library && device != self.device {
            return Err(Errno::XDEV);
        }
        let (key, inner) = ObjectInner::of(fd, device, attr.ino, self.handles)?;
        let object = Arc::new(inner);
        self.cache.note(&object);
        Ok(Found { key, object, attr })
    }

    /// Whether a change may set the end of a file within a block, on a filesystem that leaves it to
    /// us to write the rest of it.
    fn cuts_a_block(&self, change: &SetAttr) -> bool {
        let within = change.size.is_some_and(|size| !size.is_multiple_of(attr::BLOCK_BYTES_MAX));
        within && self.magic == fence::XFS_MAGIC
    }

    fn fd(&self, object: &Arc<ObjectInner>) -> Result<Arc<OwnedFd>> {
        object.fd(self.root.as_fd(), &self.cache)
    }

    /// Finds what an operation has just put at `name`.
    fn lookup_fd(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Found<Self>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.cache.retry(|| rustix::fs::openat(dir, name, flags, Mode::empty()))?;
        self.found(fd)
    }
}

impl Backing for LinuxBacking {
    type Object = Arc<ObjectInner>;
    type File = OwnedFd;
    type Dir = Dir;
    type Fencer = LinuxFencer;
    type Log = LinuxLog;

    fn root(&self) -> Result<Found<Self>> {
        self.lookup_fd(self.root.as_fd(), OsStr::new("."))
    }

    fn lookup(&self, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        self.lookup_fd(self.fd(dir)?.as_fd(), name)
    }

    fn pin(&self, object: &Self::Object) -> Result<()> {
        object.set_pinned(true);
        // Puts a descriptor into the cache, which keeps it now.
        self.fd(object).map(drop)
    }

    fn unpin(&self, object: &Self::Object) {
        object.set_pinned(false);
    }

    fn kind_at(&self, dir: &Self::Object, name: &OsStr) -> Result<FileKind> {
        let dir = self.fd(dir)?;
        let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        attr::kind(rustix::fs::FileType::from_raw_mode(stat.st_mode)).ok_or(Errno::IO)
    }

    fn attr(&self, object: &Self::Object) -> Result<Attr> {
        Ok(attr::stat_fd(self.fd(object)?.as_fd())?.0)
    }

    fn set_attr(
        &self,
        caller: Caller,
        object: &Self::Object,
        file: Option<&Self::File>,
        change: &SetAttr,
    ) -> Result<Attr> {
        self.prepare_thread();
        let fd = self.fd(object)?;
        let before = self.cuts_a_block(change).then(|| attr::stat_fd(fd.as_fd())).transpose()?;
        attr::set_attr(self.privileges, caller, fd.as_fd(), file, change)?;
        if let (Some((before, _)), Some(size)) = (before, change.size)
            && before.size > size
        {
            attr::write_zeros_at_end(fd.as_fd(), size);
        }
        Ok(attr::stat_fd(fd.as_fd())?.0)
    }

    fn read_link(&self, object: &Self::Object) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(self.fd(object)?, c"", Vec::new())?;
        Ok(target.into_bytes())
    }

    fn make_node(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Found<Self>> {
        let dir = self.fd(dir)?;
        let kind = rustix::fs::FileType::from_raw_mode(mode.mode);
        let device = rustix::fs::makedev(device.0, device.1);
        self.as_caller(caller, mode, || {
            rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(mode.mode), device)
        })?;
        self.lookup_fd(dir.as_fd(), name)
    }

    fn make_dir(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Found<Self>> {
        let dir = self.fd(dir)?;
        self.as_caller(caller, mode, || {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode.mode))
        })?;
        self.lookup_fd(dir.as_fd(), name)
    }

    fn make_symlink(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Found<Self>> {
        let dir = self.fd(dir)?;
        self.as_caller(caller, NewMode { mode: 0, umask: 0 }, || {
            rustix::fs::symlinkat(target, &dir, name)
        })?;
        self.lookup_fd(dir.as_fd(), name)
    }

    fn link(&self, object: &Self::Object, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        let (source, dir) = (self.fd(object)?, self.fd(dir)?);
        match rustix::fs::linkat(&source, c"", &dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the kernel hides the empty path;
            // the magic link in /proc names the same object.
            Err(rustix::io::Errno::NOENT) => {
                let magic = object::proc_path(source.as_fd());
                rustix::fs::linkat(rustix::fs::CWD, magic, &dir, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            other => other?,
        }
        self.lookup_fd(dir.as_fd(), name)
    }

    fn unlink(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        Ok(rustix::fs::unlinkat(self.fd(dir)?, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        Ok(rustix::fs::unlinkat(self.fd(dir)?, name, AtFlags::REMOVEDIR)?)
    }

    fn rename(
        &self,
        source: (&Self::Object, &OsStr),
        target: (&Self::Object, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        use rustix::fs::RenameFlags;
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::NOREPLACE, mode.no_replace);
        flags.set(RenameFlags::EXCHANGE, mode.exchange);
        flags.set(RenameFlags::WHITEOUT, mode.whiteout);
        let (from, to) = (self.fd(source.0)?, self.fd(target.0)?);
        Ok(rustix::fs::renameat_with(from, source.1, to, target.1, flags)?)
    }

    fn open(&self, caller: Caller, object: &Self::Object, mode: OpenMode) -> Result<Self::File> {
        self.prepare_thread();
        let _guard = mode.truncate.then(|| self.privileges.enter_to_change(caller));
        let flags = file::open_flags(mode, self.options);
        let open = |flags| self.cache.retry_errno(|| object.reopen(self.root.as_fd(), flags));
        match open(flags) {
            // O_NOATIME is the owner's right; it is a wish of the mount's, not
            // a reason to refuse the file.
            Err(Errno::PERM) if self.options.no_atime && !mode.no_atime => {
                open(flags - OFlags::NOATIME)
            }
            other => other,
        }
    }

    fn create(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Found<Self>, Self::File, bool)> {
        let dir = self.fd(dir)?;
        let flags = file::open_flags(mode, self.options);
        let made = self.as_caller(caller, new, || {
            let flags = (flags - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL;
            self.cache.retry(|| {
                rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(new.mode & 0o7777))
            })
        });
        match made {
            Ok(file) => {
                let (attr, device) = attr::stat_fd(file.as_fd())?;
                let (key, inner) =
                    ObjectInner::of_file(file.as_fd(), device, attr.ino, self.handles)?;
                Ok((Found { key, object: Arc::new(inner), attr }, file, true))
            }
            // Somebody else was faster, and the caller does not mind.
            Err(Errno::EXIST) if !exclusive => {
                let found = self.lookup_fd(dir.as_fd(), name)?;
                let file = self.open(caller, &found.object, mode)?;
                Ok((found, file, false))
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> Result<usize> {
        unix_io::read_full(file, buffer, offset)
    }

    fn write(
        &self,
        caller: Caller,
        file: &Self::File,
        data: &[u8],
        offset: u64,
        keep_suid: bool,
    ) -> Result<usize> {
        self.prepare_thread();
        let _guard = self.privileges.enter(caller, keep_suid);
        unix_io::write_full(file, data, offset)
    }

    fn write_direct(&self, file: &Self::File, data: &[u8], offset: u64) -> Result<usize> {
        file::write_direct(file, data, offset)
    }

    fn allocate(
        &self,
        caller: Caller,
        file: &Self::File,
        mode: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        self.prepare_thread();
        let _guard = self.privileges.enter_to_change(caller);
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(file, mode, offset, bytes)?)
    }

    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64> {
        let from = match what {
            Seek::Data => rustix::fs::SeekFrom::Data(offset),
            Seek::Hole => rustix::fs::SeekFrom::Hole(offset),
        };
        Ok(rustix::fs::seek(file, from)?)
    }

    fn copy_range(
        &self,
        caller: Caller,
        source: (&Self::File, u64),
        target: (&Self::File, u64),
        bytes: u64,
    ) -> Result<u64> {
        self.prepare_thread();
        let _guard = self.privileges.enter_to_change(caller);
        file::copy_range(source, target, bytes)
    }

    fn open_dir(&self, object: &Self::Object) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = self.cache.retry_errno(|| object.reopen(self.root.as_fd(), flags))?;
        Ok(Dir::new(fd))
    }

    fn read_dir(
        &self,
        dir: &Dir,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        dir.read(offset, visit)
    }

    fn xattr(&self, object: &Self::Object, name: &OsStr) -> Result<Vec<u8>> {
        xattr::get(self.fd(object)?.as_fd(), name)
    }

    fn xattr_names(&self, object: &Self::Object) -> Result<Vec<u8>> {
        xattr::names(self.fd(object)?.as_fd())
    }

    fn set_xattr(
        &self,
        caller: Caller,
        object: &Self::Object,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let fd = self.fd(object)?;
        // Setting an access ACL clears set-group-id unless its owner is in the
        // file's group or may keep it: the backing filesystem judges the caller.
        let keep_setgid = NewMode { mode: if caller.uid == 0 { SETGID } else { 0 }, umask: 0 };
        self.as_caller(caller, keep_setgid, || xattr::set(fd.as_fd(), name, value, flags))
    }

    fn remove_xattr(&self, object: &Self::Object, name: &OsStr) -> Result<()> {
        xattr::remove(self.fd(object)?.as_fd(), name)
    }

    fn fencer(&self) -> LinuxFencer {
        LinuxFencer::new(self.options.mechanism, self.magic, &self.root)
    }

    fn filesystem_id(&self) -> u64 {
        self.device
    }

    fn stats(&self) -> Result<FsStats> {
        attr::filesystem_stats(self.root.as_fd())
    }

    fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.root)?;
        // With no metadata to commit, XFS writes the data and does not flush the
        // device: overwrites may be lost (`xfs_fs_sync_fs` forces the log only,
        // Linux 6.18; 51 of 403 power cuts after a syncfs lost some).
        if self.magic == fence::XFS_MAGIC && !self.options.read_only {
            self.device_flush.flush(self.root.as_fd(), self.root.as_fd())?;
        }
        Ok(())
    }

    fn log_obstacle(&self) -> Option<String> {
        let (root, mechanism) = (self.root.as_fd(), self.options.mechanism);
        ordered::can_keep_log(self.magic, root, self.handles, mechanism).err()
    }

    fn may_share_blocks(&self) -> bool {
        // ext4 copies; XFS shares (`xfs_file_remap_range`), and so do those on which
        // no log is kept.
        self.magic != fence::EXT4_MAGIC
    }

    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        let fd = self.cache.retry_errno(|| object::open_key(self.root.as_fd(), key))?;
        let found = self.found(fd)?;
        // Somebody keeps it open, or it waits to be freed: it has no name any more.
        if found.attr.nlink == 0 { Err(Errno::STALE) } else { Ok(found) }
    }

    fn has_exact_times(&self) -> bool {
        *self.exact_times.get_or_init(|| ordered::has_exact_times(self.root.as_fd()))
    }

    fn file_attr(&self, file: &Self::File) -> Result<Attr> {
        Ok(attr::stat_fd(file.as_fd())?.0)
    }

    fn known_bytes(&self, file: &Self::File) -> u64 {
        attr::known_bytes(file.as_fd())
    }

    fn start_write_back(&self, file: &Self::File) -> Result<()> {
        fence::start_write_back(file.as_fd())
    }

    fn unwritten_bytes(&self, file: &Self::File) -> Result<u64> {
        page_cache::unwritten_bytes(file.as_fd())
    }

    fn finish_write_back(&self, file: &Self::File) -> Result<()> {
        fence::finish_write_back(file.as_fd())
    }

    fn start_write_back_within(&self, file: &Self::File, within: Range<u64>) -> Result<()> {
        fence::start_write_back_within(file.as_fd(), within)
    }

    fn finish_write_back_within(&self, file: &Self::File, within: Range<u64>) -> Result<()> {
        fence::finish_write_back_within(file.as_fd(), within)
    }

    fn delays_allocation(&self) -> bool {
        *self
            .delays_allocation
            .get_or_init(|| ordered::delays_allocation(self.root.as_fd(), self.magic))
    }

    fn delayed(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        extents::delayed(file, self.magic, within)
    }

    fn settled(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        extents::settled(file, self.magic, self.xfs.as_ref(), within)
    }

    fn allocated(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        extents::allocated(file, within)
    }

    fn set_marker(&self, file: &Self::File, lsn: u64) -> Result<()> {
        attr::set_marker(file, lsn)
    }

    fn marker(&self, file: &Self::File) -> Result<u64> {
        attr::marker(file)
    }

    fn flush_device(&self, file: &Self::File) -> Result<()> {
        self.device_flush.flush(self.root.as_fd(), file.as_fd())
    }

    fn boot_id(&self) -> [u8; 16] {
        boot::id()
    }

    fn mount_id(&self) -> u64 {
        boot::mount_id(self.original.as_fd())
    }

    fn make_log(
        &self,
        dir: &Self::Object,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self::Log> {
        self.prepare_thread();
        let parent = self.fd(dir)?;
        let sync_name = || Ok(rustix::fs::fsync(self.open_dir(dir)?.as_fd())?);
        LinuxLog::make(parent.as_fd(), name, bytes, true, sync_name, progress)
    }

    fn open_log(&self, dir: &Self::Object, name: &OsStr) -> Result<Self::Log> {
        let parent = self.fd(dir)?;
        self.cache.retry_errno(|| LinuxLog::open(parent.as_fd(), name, true))
    }
}

impl LinuxBacking {
    /// An `O_PATH` descriptor of an object, for the front-end's passthrough.
    ///
    /// # Errors
    /// The object is gone (`ESTALE`), or descriptors ran out.
    pub fn path_fd(&self, object: &Arc<ObjectInner>) -> Result<Arc<OwnedFd>> {
        // The kernel keeps this thread's credentials for all passthrough I/O.
        self.prepare_thread();
        self.fd(object)
    }
}

const SETGID: u32 = 0o2000;

impl LinuxBacking {
    /// Runs a creating call with the caller's ids and umask. Set-group-id is
    /// kept where it was asked for: the kernel has checked on the mount's side
    /// that the caller may (`mode_strip_sgid`, Linux 6.0 and later).
    fn as_caller<T>(
        &self,
        caller: Caller,
        mode: NewMode,
        call: impl FnOnce() -> std::result::Result<T, rustix::io::Errno>,
    ) -> Result<T> {
        self.prepare_thread();
        let _guard = self.privileges.enter_to_create(caller, mode.umask, mode.mode & SETGID != 0);
        Ok(call()?)
    }
}
