//! macOS: a backing directory through system calls. Type-checked and linted only: nobody has run it
//! (`macfuse-notes/README.md`).
//!
//! - Objects are known by device and file id, and pinned by a descriptor that neither reads nor
//!   writes (`O_EVTONLY`). They are opened for use by id, under `/.vol/DEVICE/ID` (HFS+, APFS),
//!   so that no name is looked up twice.
//! - `fsync(2)` writes a file's data and metadata to the device, which may keep them in its cache
//!   (its manual page). Durable is what `F_FULLFSYNC` was called for: one for a whole group
//!   ([`fence`]). `F_BARRIERFSYNC` only orders: it serves where content must come before a name.
//! - No log is kept: in which order APFS's changes of names survive is not documented.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps};

pub use self::fence::MacFencer;
pub use self::log::MacLog;
use super::{Backing, Found, HANDLE_BYTES_MAX, ObjectKey, OpenMode, RenameMode, Seek, unix_io};
use crate::error::{Errno, Result};
use crate::types::{
    Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, SetTime, Time, type_bits,
};

mod fence;
mod log;

pub use super::open_error::OpenError;

/// A directory of a filesystem of macOS.
pub struct MacBacking {
    root: Arc<OwnedFd>,
    device: i32,
}

/// An object of the backing filesystem.
pub struct Object {
    /// Keeps the file, and with it the id.
    pin: OwnedFd,
    device: i32,
    id: u64,
}

impl Object {
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = format!("/.vol/{}/{}", self.device, self.id);
        Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// Opens for neither reading nor writing: the object may be unreadable, and a FIFO must not wait.
/// `O_SYMLINK` opens a symbolic link itself.
const PIN: OFlags = OFlags::from_bits_retain(
    (libc::O_EVTONLY | libc::O_SYMLINK | libc::O_NONBLOCK | libc::O_CLOEXEC).cast_unsigned(),
);

impl MacBacking {
    /// Opens `path` and takes the advisory lock (`flock(2)` on the directory), which is released
    /// when the value is dropped.
    ///
    /// # Errors
    /// See [`OpenError`]; each names its cause and the remedy.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let io = |source: Errno| OpenError::Io { path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::NOENT => OpenError::Missing(path.to_owned()),
            rustix::io::Errno::NOTDIR => OpenError::NotADirectory(path.to_owned()),
            other => io(other.into()),
        })?;
        rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            match error {
                rustix::io::Errno::WOULDBLOCK => OpenError::Locked(path.to_owned()),
                other => io(other.into()),
            }
        })?;
        let device = rustix::fs::fstat(&root).map_err(|error| io(error.into()))?.st_dev;
        Ok(Self { root: Arc::new(root), device })
    }

    /// Opens `path` for a program that uses the engine as a library.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as_library(path: &Path) -> std::result::Result<Self, OpenError> {
        Self::open(path)
    }

    /// The process itself as a caller.
    #[must_use]
    pub fn own_caller(&self) -> Caller {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Caller { uid: uid.as_raw(), gid: gid.as_raw(), thread: 0 }
    }

    /// Lets another process serve the directory, before this value is dropped.
    pub fn release_lock(&self) {
        if let Err(error) = rustix::fs::flock(&*self.root, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot release the lock on the backing directory");
        }
    }

    fn found(&self, pin: OwnedFd) -> Result<Found<Self>> {
        let stat = rustix::fs::fstat(&pin)?;
        if stat.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        let dev = u64::from(stat.st_dev.cast_unsigned());
        let key = ObjectKey { dev, ino: stat.st_ino, handle: ([0; HANDLE_BYTES_MAX], 0, 0) };
        let object = Object { pin, device: stat.st_dev, id: stat.st_ino };
        Ok(Found { key, object: Arc::new(object), attr: attr(&stat)? })
    }

    fn lookup_fd(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Found<Self>> {
        self.found(rustix::fs::openat(dir, name, PIN, Mode::empty())?)
    }
}

fn attr(stat: &rustix::fs::Stat) -> Result<Attr> {
    let mode = u32::from(stat.st_mode);
    let time = |secs: i64, nanos: i64| Time { secs, nanos: nanos as u32 };
    let device = stat.st_rdev.cast_unsigned();
    Ok(Attr {
        ino: stat.st_ino,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        kind: kind(mode).ok_or(Errno::IO)?,
        perm: (mode & 0o7777) as u16,
        nlink: u32::from(stat.st_nlink),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev_major: device >> 24,
        rdev_minor: device & 0x00ff_ffff,
        block_bytes: stat.st_blksize.cast_unsigned(),
    })
}

const fn kind(mode: u32) -> Option<FileKind> {
    Some(match mode & type_bits::S_IFMT {
        type_bits::S_IFREG => FileKind::Regular,
        type_bits::S_IFDIR => FileKind::Directory,
        type_bits::S_IFLNK => FileKind::Symlink,
        type_bits::S_IFIFO => FileKind::Fifo,
        type_bits::S_IFSOCK => FileKind::Socket,
        type_bits::S_IFCHR => FileKind::CharDevice,
        type_bits::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    })
}

fn open_flags(mode: OpenMode) -> OFlags {
    let mut flags = match (mode.read, mode.write || mode.truncate) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    flags.set(OFlags::TRUNC, mode.truncate);
    flags
}

/// Permission bits as they are left by the caller's mask; a Mac's default ACLs are inherited
/// whatever it is.
fn masked(mode: NewMode) -> Mode {
    Mode::from_raw_mode((mode.mode & 0o7777 & !mode.umask) as u16)
}

/// An open directory, its listing read whole when it begins: offsets are places in it.
pub struct Dir {
    fd: OwnedFd,
    listing: Mutex<Vec<DirEntry>>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn list(fd: &OwnedFd) -> Result<Vec<DirEntry>> {
    use rustix::fs::FileType;
    let mut listing = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let kind = match entry.file_type() {
            FileType::RegularFile => Some(FileKind::Regular),
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            FileType::Unknown => None,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let next_offset = listing.len() as u64 + 1;
        listing.push(DirEntry { name, ino: entry.ino(), kind, next_offset });
    }
    Ok(listing)
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) },
    }
}

/// Parts of a second that a marker may use: APFS keeps nanoseconds.
const MARKS_PER_SECOND: u64 = 1_000_000_000;

impl Backing for MacBacking {
    type Object = Arc<Object>;
    type File = OwnedFd;
    type Dir = Dir;
    type Fencer = MacFencer;
    type Log = MacLog;

    fn root(&self) -> Result<Found<Self>> {
        self.lookup_fd(self.root.as_fd(), OsStr::new("."))
    }

    fn lookup(&self, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        self.lookup_fd(dir.pin.as_fd(), name)
    }

    /// Objects are always pinned.
    fn pin(&self, _object: &Self::Object) -> Result<()> {
        Ok(())
    }

    fn unpin(&self, _object: &Self::Object) {}

    fn kind_at(&self, dir: &Self::Object, name: &OsStr) -> Result<FileKind> {
        let stat = rustix::fs::statat(&dir.pin, name, AtFlags::SYMLINK_NOFOLLOW)?;
        kind(u32::from(stat.st_mode)).ok_or(Errno::IO)
    }

    fn attr(&self, object: &Self::Object) -> Result<Attr> {
        attr(&rustix::fs::fstat(&object.pin)?)
    }

    fn set_attr(
        &self,
        _caller: Caller,
        object: &Self::Object,
        file: Option<&Self::File>,
        change: &SetAttr,
    ) -> Result<Attr> {
        if let Some(perm) = change.perm {
            rustix::fs::fchmod(&object.pin, Mode::from_raw_mode((perm & 0o7777) as u16))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(rustix::fs::Uid::from_raw);
            let gid = change.gid.map(rustix::fs::Gid::from_raw);
            rustix::fs::fchown(&object.pin, uid, gid)?;
        }
        if let Some(size) = change.size {
            match file {
                Some(file) => rustix::fs::ftruncate(file, size)?,
                None => rustix::fs::ftruncate(object.open(OFlags::WRONLY)?, size)?,
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            rustix::fs::futimens(&object.pin, &times)?;
        }
        self.attr(object)
    }

    fn read_link(&self, object: &Self::Object) -> Result<Vec<u8>> {
        let path = format!("/.vol/{}/{}", object.device, object.id);
        Ok(rustix::fs::readlink(path, Vec::new())?.into_bytes())
    }

    fn make_node(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
        _device: (u32, u32),
    ) -> Result<Found<Self>> {
        // Devices live in devfs only, and there is no mknodat(2) before macOS 13.
        if !matches!(mode.mode & type_bits::S_IFMT, 0 | type_bits::S_IFREG) {
            return Err(Errno::OPNOTSUPP);
        }
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&dir.pin, name, flags, masked(mode))?;
        self.lookup(dir, name)
    }

    fn make_dir(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Found<Self>> {
        rustix::fs::mkdirat(&dir.pin, name, masked(mode))?;
        self.lookup(dir, name)
    }

    fn make_symlink(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Found<Self>> {
        rustix::fs::symlinkat(target, &dir.pin, name)?;
        self.lookup(dir, name)
    }

    fn link(&self, object: &Self::Object, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        let path = format!("/.vol/{}/{}", object.device, object.id);
        rustix::fs::linkat(rustix::fs::CWD, path, &dir.pin, name, AtFlags::empty())?;
        self.lookup(dir, name)
    }

    fn unlink(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        Ok(rustix::fs::unlinkat(&dir.pin, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        Ok(rustix::fs::unlinkat(&dir.pin, name, AtFlags::REMOVEDIR)?)
    }

    fn rename(
        &self,
        source: (&Self::Object, &OsStr),
        target: (&Self::Object, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        if mode.whiteout {
            return Err(Errno::INVAL);
        }
        // `renameatx_np(2)`: RENAME_EXCL and RENAME_SWAP.
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::NOREPLACE, mode.no_replace);
        flags.set(RenameFlags::EXCHANGE, mode.exchange);
        let (from, to) = (&source.0.pin, &target.0.pin);
        if flags.is_empty() {
            return Ok(rustix::fs::renameat(from, source.1, to, target.1)?);
        }
        Ok(rustix::fs::renameat_with(from, source.1, to, target.1, flags)?)
    }

    fn open(&self, _caller: Caller, object: &Self::Object, mode: OpenMode) -> Result<Self::File> {
        object.open(open_flags(mode))
    }

    fn create(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Found<Self>, Self::File, bool)> {
        let flags = open_flags(mode) | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let exclusively = (flags - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(&dir.pin, name, exclusively, masked(new)) {
            Ok(file) => Ok((self.lookup(dir, name)?, file, true)),
            Err(rustix::io::Errno::EXIST) if !exclusive => {
                let file = rustix::fs::openat(&dir.pin, name, flags, Mode::empty())?;
                Ok((self.lookup(dir, name)?, file, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> Result<usize> {
        unix_io::read_full(file, buffer, offset)
    }

    fn write(
        &self,
        _caller: Caller,
        file: &Self::File,
        data: &[u8],
        offset: u64,
        _keep_suid: bool,
    ) -> Result<usize> {
        unix_io::write_full(file, data, offset)
    }

    fn allocate(
        &self,
        _caller: Caller,
        file: &Self::File,
        mode: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        if mode != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let end = offset.checked_add(bytes).ok_or(Errno::FBIG)?;
        let length = rustix::fs::fstat(file)?.st_size.cast_unsigned();
        if end > length { Ok(rustix::fs::ftruncate(file, end)?) } else { Ok(()) }
    }

    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64> {
        // The position is nobody's: all reads and writes name their own.
        let what = match what {
            Seek::Data => libc::SEEK_DATA,
            Seek::Hole => libc::SEEK_HOLE,
        };
        let offset = i64::try_from(offset).map_err(|_| Errno::NXIO)?;
        // SAFETY: an open descriptor and plain numbers.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset, what) };
        u64::try_from(found).map_err(|_| std::io::Error::last_os_error().into())
    }

    fn copy_range(
        &self,
        caller: Caller,
        source: (&Self::File, u64),
        target: (&Self::File, u64),
        bytes: u64,
    ) -> Result<u64> {
        /// No system call copies a part of a file; a megabyte at a time is read and written.
        const COPY_BYTES: u64 = 1 << 20;
        let mut buffer = vec![0; bytes.min(COPY_BYTES) as usize];
        let read = self.read(source.0, &mut buffer, source.1)?;
        Ok(self.write(caller, target.0, &buffer[..read], target.1, false)? as u64)
    }

    fn open_dir(&self, object: &Self::Object) -> Result<Self::Dir> {
        let fd = object.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Dir { fd, listing: Mutex::new(Vec::new()) })
    }

    fn read_dir(
        &self,
        dir: &Self::Dir,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let mut listing = dir.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *listing = list(&dir.fd)?;
        }
        for entry in listing.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if !visit(entry.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn xattr(&self, object: &Self::Object, name: &OsStr) -> Result<Vec<u8>> {
        let length = rustix::fs::fgetxattr(&object.pin, name, &mut [0_u8; 0][..])?;
        let mut value = vec![0; length];
        let length = rustix::fs::fgetxattr(&object.pin, name, &mut value[..])?;
        value.truncate(length);
        Ok(value)
    }

    fn xattr_names(&self, object: &Self::Object) -> Result<Vec<u8>> {
        let length = rustix::fs::flistxattr(&object.pin, &mut [0_u8; 0][..])?;
        let mut names = vec![0; length];
        let length = rustix::fs::flistxattr(&object.pin, &mut names[..])?;
        names.truncate(length);
        Ok(names)
    }

    fn set_xattr(
        &self,
        _caller: Caller,
        object: &Self::Object,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let flags = rustix::fs::XattrFlags::from_bits_retain(flags);
        Ok(rustix::fs::fsetxattr(&object.pin, name, value, flags)?)
    }

    fn remove_xattr(&self, object: &Self::Object, name: &OsStr) -> Result<()> {
        Ok(rustix::fs::fremovexattr(&object.pin, name)?)
    }

    fn fencer(&self) -> Self::Fencer {
        MacFencer::new()
    }

    fn filesystem_id(&self) -> u64 {
        u64::from(self.device.cast_unsigned())
    }

    fn stats(&self) -> Result<FsStats> {
        let stats = rustix::fs::fstatvfs(&*self.root)?;
        Ok(FsStats {
            blocks: stats.f_blocks,
            blocks_free: stats.f_bfree,
            blocks_available: stats.f_bavail,
            files: stats.f_files,
            files_free: stats.f_ffree,
            block_bytes: stats.f_bsize as u32,
            fragment_bytes: stats.f_frsize as u32,
            name_bytes_max: stats.f_namemax as u32,
        })
    }

    /// `sync(2)` starts to write everything and does not wait for the device; `F_FULLFSYNC` then
    /// waits, and has the device flush its cache.
    fn sync_all(&self) -> Result<()> {
        rustix::fs::sync();
        fence::full_sync(self.root.as_fd())
    }

    fn log_obstacle(&self) -> Option<String> {
        Some(
            "the documentation of APFS does not say in which order changes of names survive a \
             power cut, which recovery relies on, and it was not proven here"
                .to_owned(),
        )
    }

    fn by_key(&self, _key: &ObjectKey) -> Result<Found<Self>> {
        // A file id without its generation may be another file's by now.
        Err(Errno::STALE)
    }

    fn may_share_blocks(&self) -> bool {
        true
    }

    fn file_attr(&self, file: &Self::File) -> Result<Attr> {
        attr(&rustix::fs::fstat(file)?)
    }

    /// macOS has no call for it.
    fn start_write_back(&self, _file: &Self::File) -> Result<()> {
        Ok(())
    }

    fn finish_write_back(&self, file: &Self::File) -> Result<()> {
        fence::barrier(file.as_fd())
    }

    fn settled(&self, _file: &Self::File, _within: Range<u64>) -> Result<Vec<Range<u64>>> {
        // APFS writes nothing in place.
        Ok(Vec::new())
    }

    fn set_marker(&self, file: &Self::File, lsn: u64) -> Result<()> {
        let time = Time {
            secs: (lsn / MARKS_PER_SECOND).cast_signed(),
            nanos: (lsn % MARKS_PER_SECOND) as u32,
        };
        let times = Timestamps {
            last_access: timespec(None),
            last_modification: timespec(Some(SetTime::At(time))),
        };
        Ok(rustix::fs::futimens(file, &times)?)
    }

    fn marker(&self, file: &Self::File) -> Result<u64> {
        let time = attr(&rustix::fs::fstat(file)?)?.mtime;
        let number = u64::try_from(time.secs).ok();
        let number = number.and_then(|secs| {
            secs.checked_mul(MARKS_PER_SECOND)?.checked_add(u64::from(time.nanos))
        });
        number.ok_or(Errno::RANGE)
    }

    fn flush_device(&self, file: &Self::File) -> Result<()> {
        fence::full_sync(file.as_fd())
    }

    /// Not the same twice, so that every start looks like one after a power cut; no log is kept.
    fn boot_id(&self) -> [u8; 16] {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap_or_default().as_nanos().to_le_bytes()
    }

    fn mount_id(&self) -> u64 {
        0
    }

    fn make_log(
        &self,
        dir: &Self::Object,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self::Log> {
        let log = MacLog::make(dir.pin.as_fd(), name, bytes, progress)?;
        fence::full_sync(self.open_dir(dir)?.as_fd())?;
        Ok(log)
    }

    fn open_log(&self, dir: &Self::Object, name: &OsStr) -> Result<Self::Log> {
        MacLog::open(dir.pin.as_fd(), name)
    }
}
