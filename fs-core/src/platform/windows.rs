//! Windows: a backing directory through the native system calls.
//!
//! Objects are known by file id, and opened by it for each operation: a handle that stays open
//! keeps the directories above from being renamed (NTFS refuses that), so none is kept but those
//! that programs have. An object that loses its last name is [pinned](Backing::pin) by a handle.
//!
//! What is promised on NTFS, and by whom:
//!
//! - Content: `FlushFileBuffers` writes a file's data and metadata and has the device flush its
//!   cache (its documentation). [`fence`] runs one for each file of a group, in parallel.
//! - Names: a flush of the directory's own handle. Microsoft documents neither that a file's flush
//!   covers its name nor in which order changes of names survive; `$LogFile` is said to be
//!   written in order ("NTFS log"), but no page promises it. So no log is kept
//!   ([`WindowsBacking::log_obstacle`] says why), and every directory is flushed itself.
//! - Replacing: rename with `FILE_RENAME_POSIX_SEMANTICS`, which puts the new file in the old one's
//!   place in one change, even if somebody has the old one open; where that is not to be had (FAT,
//!   before Windows 10 1709) the older `FileRenameInformation` with replace. Not
//!   ReplaceFile: it is several changes, and documents states in which neither name is there. Not
//!   MoveFileEx with write-through: it waits for each rename, where a group waits once, for all.
//!
//! Modes, owners and ids of users have no meaning here: what Windows has instead goes
//! through under names of extended attributes ([`xattr`]).

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::ops::Range;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, GetLastError};
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::Threading::CreateMutexW;

pub use self::directory::Dir;
pub use self::fence::WindowsFencer;
pub use self::log::WindowsLog;
use self::nt::{Opening, Which};
pub use self::object::Object;
pub use self::xattr::{ATTRIBUTES, REPARSE, SECURITY, SECURITY_PARTS, TIMES};
use super::{Backing, Found, ObjectKey, OpenMode, RenameMode, Seek};
use crate::error::{Errno, Result};
use crate::types::{
    Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, type_bits::S_IFMT,
    type_bits::S_IFREG,
};

mod attr;
mod direct;
mod directory;
mod fence;
mod log;
mod nt;
mod object;
mod xattr;

pub use super::native;
pub use super::open_error::OpenError;

/// Reading and changing whatever a file handle is for; deleting is asked for where it is done.
const READ: u32 = fs::FILE_READ_DATA | fs::FILE_READ_ATTRIBUTES | fs::FILE_READ_EA;
const WRITE: u32 = fs::FILE_WRITE_DATA | fs::FILE_WRITE_ATTRIBUTES | fs::FILE_WRITE_EA;

/// How long is waited for others to close a file that is to be replaced, where that matters.
const RENAME_PAUSES: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
];

/// How to open a backing directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackingOptions {
    /// Refuse every change.
    pub read_only: bool,
}

/// A directory of a filesystem of Windows.
pub struct WindowsBacking {
    root: Arc<OwnedHandle>,
    options: BackingOptions,
    /// Serial number of the volume.
    volume: u64,
    filesystem: String,
    /// A mutex of the system that exists as long as somebody serves the directory.
    lock: Mutex<Option<OwnedHandle>>,
    boot: OnceLock<[u8; 16]>,
    /// Objects that were changed and not flushed by [`Backing::sync_all`] since.
    changed: Mutex<HashSet<[u8; 16]>>,
    /// Objects that were pinned, to be found by id.
    pinned: Mutex<HashMap<[u8; 16], Weak<Object>>>,
}

impl WindowsBacking {
    /// Opens `path` and takes the lock on it, which ends with the value, or with the process.
    /// It is a named mutex: it locks other processes of this machine out, and nobody else.
    ///
    /// # Errors
    /// See [`OpenError`]; each names its cause and the remedy.
    pub fn open(path: &Path, options: BackingOptions) -> std::result::Result<Self, OpenError> {
        use std::os::windows::fs::OpenOptionsExt;
        let io = |source: Errno| OpenError::Io { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::Missing(path.to_owned()),
            _ => io(error.into()),
        })?;
        if !found.is_dir() {
            return Err(OpenError::NotADirectory(path.to_owned()));
        }
        let root = std::fs::OpenOptions::new()
            .access_mode(fs::FILE_LIST_DIRECTORY | fs::FILE_TRAVERSE | fs::FILE_READ_ATTRIBUTES)
            .share_mode(fs::FILE_SHARE_READ | fs::FILE_SHARE_WRITE | fs::FILE_SHARE_DELETE)
            .custom_flags(fs::FILE_FLAG_BACKUP_SEMANTICS)
            .open(path)
            .map_err(|error| io(error.into()))?;
        let root = Arc::new(OwnedHandle::from(root));
        let (id, volume) = object::identity(&root).map_err(io)?;
        let lock = take_lock(volume, &id).map_err(io)?;
        let lock = lock.ok_or_else(|| OpenError::Locked(path.to_owned()))?;
        let filesystem = attr::filesystem_name(&root).unwrap_or_else(|_| "unknown".to_owned());
        let (lock, boot) = (Mutex::new(Some(lock)), OnceLock::new());
        let (changed, pinned) = (Mutex::default(), Mutex::default());
        Ok(Self { root, options, volume, filesystem, lock, boot, changed, pinned })
    }

    /// Opens `path` for a program that uses the engine as a library.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as_library(path: &Path) -> std::result::Result<Self, OpenError> {
        Self::open(path, BackingOptions::default())
    }

    /// The process itself as a caller. Its rights are its token's; ids mean nothing here.
    #[must_use]
    pub const fn own_caller(&self) -> Caller {
        Caller { uid: 0, gid: 0, thread: 0 }
    }

    /// Lets another process serve the directory, before this value is dropped.
    pub fn release_lock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Name of the backing filesystem, for people: `NTFS`, `ReFS` ...
    #[must_use]
    pub fn filesystem_name(&self) -> &str {
        &self.filesystem
    }

    fn opened(&self, object: &Arc<Object>, access: u32) -> Result<OwnedHandle> {
        object.open(&self.root, Opening::existing(access))
    }

    fn found(&self, handle: &OwnedHandle) -> Result<Found<Self>> {
        let (id, volume) = object::identity(handle)?;
        if volume != self.volume {
            return Err(Errno::XDEV);
        }
        let attr = attr::read(handle, &id)?;
        Ok(Found { key: object::key(&id, 0), object: Arc::new(Object::new(id)), attr })
    }

    /// To be called before these objects are changed.
    fn changes<const N: usize>(&self, objects: [&[u8; 16]; N]) -> Result<()> {
        if self.options.read_only {
            return Err(Errno::ROFS);
        }
        self.lock_changed().extend(objects);
        Ok(())
    }

    fn lock_changed(&self) -> MutexGuard<'_, HashSet<[u8; 16]>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes an object, whatever it is; one that is gone needs it no more.
    fn flush_object(&self, id: &[u8; 16]) -> Result<()> {
        let object = Object::new(*id);
        let flushed = object.open(&self.root, Opening::existing(fs::FILE_WRITE_DATA));
        match flushed.and_then(|handle| nt::flush(&handle)) {
            Err(Errno::STALE | Errno::NOENT) => Ok(()),
            // Its content was flushed when it became so.
            Err(Errno::ACCES) if self.is_read_only(&object) => Ok(()),
            other => other,
        }
    }

    fn is_read_only(&self, object: &Object) -> bool {
        let handle = object.open(&self.root, Opening::existing(fs::FILE_READ_ATTRIBUTES));
        handle.is_ok_and(|handle| attr::is_read_only(&handle))
    }

    /// A file that is about to become read-only cannot be flushed any more: a flush needs the right
    /// to write.
    fn flush_before_read_only(&self, object: &Object) -> Result<()> {
        if self.is_read_only(object) { Ok(()) } else { self.flush_object(object.id()) }
    }

    /// Opens a name in a directory; the handle, and whether it was made.
    fn at(&self, dir: &Arc<Object>, name: &OsStr, opening: Opening) -> Result<(OwnedHandle, bool)> {
        let dir = self.opened(dir, fs::FILE_TRAVERSE)?;
        let (handle, done) = nt::open(&dir, Which::Name(name), opening)?;
        Ok((handle, done == nt::FILE_CREATED))
    }

    fn remove(&self, dir: &Arc<Object>, name: &OsStr, kind: u32) -> Result<()> {
        self.changes([dir.id()])?;
        let access = fs::DELETE | fs::FILE_READ_ATTRIBUTES;
        let opening = Opening { options: kind, ..Opening::existing(access) };
        let (handle, _) = self.at(dir, name, opening)?;
        // The name is gone when this returns, even if somebody has the file open.
        let flags = wdk::FILE_DISPOSITION_DELETE
            | wdk::FILE_DISPOSITION_POSIX_SEMANTICS
            | wdk::FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE;
        match nt::set(&handle, wdk::FileDispositionInformationEx, &flags.to_ne_bytes()) {
            // Not every filesystem has these flags. The name goes with the last handle then, and
            // ours shall not be the last.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                nt::set(&handle, wdk::FileDispositionInformation, &[1])?;
                self.let_go_of(&handle);
                Ok(())
            }
            other => other,
        }
    }

    fn lock_pinned(&self) -> MutexGuard<'_, HashMap<[u8; 16], Weak<Object>>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the handle by which we keep what has this name. True if there was one.
    fn let_go(&self, dir: &OwnedHandle, name: &OsStr) -> bool {
        let opening = Opening::existing(fs::FILE_READ_ATTRIBUTES);
        let found = nt::open(dir, Which::Name(name), opening);
        found.is_ok_and(|(file, _)| self.let_go_of(&file))
    }

    fn let_go_of(&self, file: &OwnedHandle) -> bool {
        let Ok((id, _)) = object::identity(file) else { return false };
        let kept = self.lock_pinned().remove(&id).and_then(|object| object.upgrade());
        kept.inspect(|object| object.unpin()).is_some()
    }

    /// Opens a file for itself, as a mode says.
    fn open_file(&self, object: &Arc<Object>, mode: OpenMode) -> Result<File> {
        if mode.write || mode.truncate {
            self.changes([object.id()])?;
        }
        let options = wdk::FILE_NON_DIRECTORY_FILE;
        let handle =
            object.open(&self.root, Opening { options, ..Opening::existing(rights(mode)) })?;
        if mode.truncate {
            attr::set_length(&handle, 0)?;
        }
        Ok(File { handle, id: *object.id() })
    }
}

/// An open file.
pub struct File {
    handle: OwnedHandle,
    id: [u8; 16],
}

impl std::ops::Deref for File {
    type Target = OwnedHandle;

    fn deref(&self) -> &OwnedHandle {
        &self.handle
    }
}

const fn rights(mode: OpenMode) -> u32 {
    // A flush needs the right to write, and the log reads what is written.
    let write = if mode.write || mode.truncate { WRITE } else { 0 };
    let read = if mode.read { READ } else { fs::FILE_READ_ATTRIBUTES };
    write | read
}

/// Takes the lock of a directory; `None` if somebody has it.
fn take_lock(volume: u64, id: &[u8; 16]) -> Result<Option<OwnedHandle>> {
    let id = u128::from_le_bytes(*id);
    let name = format!("Global\\lanefs-{volume:016x}-{id:032x}\0");
    let name: Vec<u16> = name.encode_utf16().collect();
    // SAFETY: the name ends in a zero, and the other arguments may be null.
    let handle = unsafe { CreateMutexW(std::ptr::null(), 0, name.as_ptr()) };
    // SAFETY: reads a number of this thread.
    let error = unsafe { GetLastError() };
    if handle.is_null() {
        // Somebody else's, whom we may not even ask.
        let error = Errno::from(std::io::Error::from_raw_os_error(error.cast_signed()));
        return if error == Errno::ACCES { Ok(None) } else { Err(error) };
    }
    // SAFETY: the call gave us a new handle.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    Ok((error != ERROR_ALREADY_EXISTS).then_some(handle))
}

impl Backing for WindowsBacking {
    type Object = Arc<Object>;
    type File = File;
    type Dir = Dir;
    type Fencer = WindowsFencer;
    type Log = WindowsLog;

    fn root(&self) -> Result<Found<Self>> {
        self.found(&self.root)
    }

    fn lookup(&self, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        let opening = Opening::existing(fs::FILE_READ_ATTRIBUTES);
        self.found(&self.at(dir, name, opening)?.0)
    }

    fn pin(&self, object: &Self::Object) -> Result<()> {
        object.pin(self.opened(object, READ)?);
        self.lock_pinned().insert(*object.id(), Arc::downgrade(object));
        Ok(())
    }

    fn unpin(&self, object: &Self::Object) {
        object.unpin();
        self.lock_pinned().remove(object.id());
    }

    fn kind_at(&self, dir: &Self::Object, name: &OsStr) -> Result<FileKind> {
        attr::kind(&self.at(dir, name, Opening::existing(fs::FILE_READ_ATTRIBUTES))?.0)
    }

    fn attr(&self, object: &Self::Object) -> Result<Attr> {
        attr::read(&self.opened(object, fs::FILE_READ_ATTRIBUTES)?, object.id())
    }

    fn set_attr(
        &self,
        _caller: Caller,
        object: &Self::Object,
        file: Option<&Self::File>,
        change: &SetAttr,
    ) -> Result<Attr> {
        self.changes([object.id()])?;
        if [change.uid, change.gid].into_iter().flatten().any(|id| id != 0) {
            return Err(Errno::PERM);
        }
        if let Some(size) = change.size {
            match file {
                Some(file) => attr::set_length(file, size)?,
                None => attr::set_length(&self.opened(object, fs::FILE_WRITE_DATA)?, size)?,
            }
        }
        if change.perm.is_some_and(|perm| perm & 0o222 == 0) {
            self.flush_before_read_only(object)?;
        }
        let access = fs::FILE_READ_ATTRIBUTES | fs::FILE_WRITE_ATTRIBUTES;
        let handle = self.opened(object, access)?;
        attr::set(&handle, change)?;
        attr::read(&handle, object.id())
    }

    fn read_link(&self, object: &Self::Object) -> Result<Vec<u8>> {
        attr::read_link(&self.opened(object, fs::FILE_READ_ATTRIBUTES)?)
    }

    fn make_node(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
        _device: (u32, u32),
    ) -> Result<Found<Self>> {
        self.changes([dir.id()])?;
        if !matches!(mode.mode & S_IFMT, 0 | S_IFREG) {
            return Err(Errno::OPNOTSUPP);
        }
        let options = wdk::FILE_NON_DIRECTORY_FILE;
        let disposition = wdk::FILE_CREATE;
        let opening = Opening { options, disposition, ..Opening::existing(READ) };
        self.found(&self.at(dir, name, opening)?.0)
    }

    fn make_dir(
        &self,
        _caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        _mode: NewMode,
    ) -> Result<Found<Self>> {
        self.changes([dir.id()])?;
        let (options, disposition) = (wdk::FILE_DIRECTORY_FILE, wdk::FILE_CREATE);
        let opening =
            Opening { options, disposition, ..Opening::existing(fs::FILE_READ_ATTRIBUTES) };
        self.found(&self.at(dir, name, opening)?.0)
    }

    fn make_symlink(
        &self,
        _caller: Caller,
        _dir: &Self::Object,
        _name: &OsStr,
        _target: &OsStr,
    ) -> Result<Found<Self>> {
        // A symbolic link of Windows is a file with a reparse point: see `xattr`.
        Err(Errno::OPNOTSUPP)
    }

    fn link(&self, object: &Self::Object, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>> {
        self.changes([object.id(), dir.id()])?;
        let file = self.opened(object, fs::FILE_WRITE_ATTRIBUTES | fs::FILE_READ_ATTRIBUTES)?;
        let target = self.opened(dir, fs::FILE_TRAVERSE | fs::FILE_ADD_FILE)?;
        nt::set_name(&file, wdk::FileLinkInformation, 0, &target, name)?;
        self.found(&file)
    }

    fn unlink(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        self.remove(dir, name, wdk::FILE_NON_DIRECTORY_FILE)
    }

    fn remove_dir(&self, dir: &Self::Object, name: &OsStr) -> Result<()> {
        self.remove(dir, name, wdk::FILE_DIRECTORY_FILE)
    }

    fn rename(
        &self,
        source: (&Self::Object, &OsStr),
        target: (&Self::Object, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.changes([source.0.id(), target.0.id()])?;
        if mode.exchange || mode.whiteout {
            return Err(Errno::INVAL);
        }
        let opening = Opening::existing(fs::DELETE | fs::FILE_READ_ATTRIBUTES);
        let (handle, _) = self.at(source.0, source.1, opening)?;
        let dir = self.opened(target.0, fs::FILE_TRAVERSE)?;
        let replace = if mode.no_replace { 0 } else { wdk::FILE_RENAME_REPLACE_IF_EXISTS };
        let flags =
            replace | wdk::FILE_RENAME_POSIX_SEMANTICS | wdk::FILE_RENAME_IGNORE_READONLY_ATTRIBUTE;
        let rename =
            || match nt::set_name(&handle, wdk::FileRenameInformationEx, flags, &dir, target.1) {
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    nt::set_name(&handle, wdk::FileRenameInformation, replace, &dir, target.1)
                }
                other => other,
            };
        // Without POSIX semantics what is open cannot be replaced, be it by ourselves.
        let mut renamed = rename();
        if replace != 0 && renamed == Err(Errno::ACCES) && self.let_go(&dir, target.1) {
            renamed = rename();
        }
        // A scanner has it open for a moment, or a flush that has just answered.
        for pause in RENAME_PAUSES {
            if replace == 0 || renamed != Err(Errno::ACCES) {
                break;
            }
            std::thread::sleep(pause);
            renamed = rename();
        }
        renamed
    }

    fn open(&self, _caller: Caller, object: &Self::Object, mode: OpenMode) -> Result<Self::File> {
        self.open_file(object, mode)
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
        self.changes([dir.id()])?;
        let opening = Opening {
            access: rights(mode),
            disposition: if exclusive { wdk::FILE_CREATE } else { wdk::FILE_OPEN_IF },
            options: wdk::FILE_NON_DIRECTORY_FILE,
            attributes: attr::attributes_of_mode(new.mode),
        };
        let (handle, made) = self.at(dir, name, opening)?;
        if mode.truncate && !made {
            attr::set_length(&handle, 0)?;
        }
        let found = self.found(&handle)?;
        let id = *found.object.id();
        self.changes([&id])?;
        Ok((found, File { handle, id }, made))
    }

    fn read(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> Result<usize> {
        nt::read(file, buffer, offset)
    }

    fn write(
        &self,
        _caller: Caller,
        file: &Self::File,
        data: &[u8],
        offset: u64,
        _keep_suid: bool,
    ) -> Result<usize> {
        self.changes([&file.id])?;
        nt::write(file, data, offset)
    }

    fn write_direct(&self, file: &Self::File, data: &[u8], offset: u64) -> Result<usize> {
        self.changes([&file.id])?;
        direct::write(file, data, offset)
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
        self.changes([&file.id])?;
        if end > attr::length(file)? { attr::set_length(file, end) } else { Ok(()) }
    }

    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64> {
        let length = attr::length(file)?;
        if offset >= length {
            return Err(Errno::NXIO);
        }
        match what {
            Seek::Data => attr::allocated(file, offset..length)?
                .first()
                .map(|range| range.start.max(offset))
                .ok_or(Errno::NXIO),
            Seek::Hole => {
                let mut at = offset;
                for range in attr::allocated(file, offset..length)? {
                    if range.start > at {
                        break;
                    }
                    at = range.end;
                }
                Ok(at.min(length))
            }
        }
    }

    fn copy_range(
        &self,
        caller: Caller,
        source: (&Self::File, u64),
        target: (&Self::File, u64),
        bytes: u64,
    ) -> Result<u64> {
        /// No system call copies between handles; a megabyte at a time is read and written.
        const COPY_BYTES: u64 = 1 << 20;
        let mut buffer = vec![0; bytes.min(COPY_BYTES) as usize];
        let read = nt::read(source.0, &mut buffer, source.1)?;
        Ok(self.write(caller, target.0, &buffer[..read], target.1, false)? as u64)
    }

    fn open_dir(&self, object: &Self::Object) -> Result<Self::Dir> {
        // A flush needs the right to change it.
        let all = fs::FILE_LIST_DIRECTORY | fs::FILE_READ_ATTRIBUTES | fs::FILE_TRAVERSE;
        let options = wdk::FILE_DIRECTORY_FILE;
        let opening = |access| Opening { options, ..Opening::existing(access) };
        let handle = match object.open(&self.root, opening(all | fs::FILE_ADD_FILE)) {
            // Somebody may list it and not change it: then there is nothing of his to flush.
            Err(Errno::ACCES | Errno::ROFS) => object.open(&self.root, opening(all))?,
            other => other?,
        };
        Ok(Dir::new(handle))
    }

    fn read_dir(
        &self,
        dir: &Self::Dir,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        dir.read(offset, visit)
    }

    fn xattr(&self, object: &Self::Object, name: &OsStr) -> Result<Vec<u8>> {
        xattr::get(&|access| self.opened(object, access), name)
    }

    fn xattr_names(&self, object: &Self::Object) -> Result<Vec<u8>> {
        xattr::names(&|access| self.opened(object, access))
    }

    fn set_xattr(
        &self,
        _caller: Caller,
        object: &Self::Object,
        name: &OsStr,
        value: &[u8],
        _flags: u32,
    ) -> Result<()> {
        self.changes([object.id()])?;
        if xattr::makes_read_only(name, value) {
            self.flush_before_read_only(object)?;
        }
        xattr::set(&|access| self.opened(object, access), name, value)
    }

    fn remove_xattr(&self, object: &Self::Object, name: &OsStr) -> Result<()> {
        self.changes([object.id()])?;
        xattr::remove(&|access| self.opened(object, access), name)
    }

    fn fencer(&self) -> Self::Fencer {
        WindowsFencer::new()
    }

    fn filesystem_id(&self) -> u64 {
        self.volume
    }

    fn stats(&self) -> Result<FsStats> {
        attr::filesystem_stats(&self.root)
    }

    /// Flushing the volume's own handle needs an administrator: instead every object is flushed
    /// that was changed through this value since the last time. The first error is told, and what
    /// could not be flushed is tried again by the next call.
    fn sync_all(&self) -> Result<()> {
        let changed = std::mem::take(&mut *self.lock_changed());
        let mut outcome = Ok(());
        for id in changed {
            if let Err(error) = self.flush_object(&id) {
                self.lock_changed().insert(id);
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    fn log_obstacle(&self) -> Option<String> {
        Some(format!(
            "{}: its documentation does not say in which order changes of names survive a power \
             cut, which recovery relies on, and it was not proven here",
            self.filesystem
        ))
    }

    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        let id = object::id_of(key)?;
        let opening = Opening::existing(fs::FILE_READ_ATTRIBUTES);
        let gone = |error| match error {
            // NTFS says so of an id whose sequence number is an old one.
            Errno::INVAL | Errno::NOENT => Errno::STALE,
            other => other,
        };
        let handle = nt::open(&self.root, Which::Id(&id), opening).map_err(gone)?.0;
        let found = self.found(&handle)?;
        if found.attr.nlink == 0 { Err(Errno::STALE) } else { Ok(found) }
    }

    fn file_attr(&self, file: &Self::File) -> Result<Attr> {
        attr::read(file, &file.id)
    }

    /// Windows has no call for it.
    fn start_write_back(&self, _file: &Self::File) -> Result<()> {
        Ok(())
    }

    /// A flush: no other call waits for a file's data.
    fn finish_write_back(&self, file: &Self::File) -> Result<()> {
        nt::flush(file)
    }

    fn settled(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        let length = attr::length(file)?;
        attr::allocated(file, within.start.min(length)..within.end.min(length))
    }

    fn set_marker(&self, file: &Self::File, lsn: u64) -> Result<()> {
        attr::set_marker(file, lsn)
    }

    fn marker(&self, file: &Self::File) -> Result<u64> {
        attr::marker(file)
    }

    fn flush_device(&self, file: &Self::File) -> Result<()> {
        nt::flush(file)
    }

    /// Windows has no number of a boot that survives the process: a random one for each opening
    /// makes every start look like one after a power cut, which only costs a replay.
    fn boot_id(&self) -> [u8; 16] {
        *self.boot.get_or_init(|| {
            let half = |number: u8| RandomState::new().hash_one(number).to_le_bytes();
            let mut id = [0; 16];
            id[..8].copy_from_slice(&half(0));
            id[8..].copy_from_slice(&half(1));
            id
        })
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
        self.changes([dir.id()])?;
        let parent = self.opened(dir, fs::FILE_TRAVERSE | fs::FILE_ADD_FILE)?;
        let log = WindowsLog::make(&parent, name, bytes, progress)?;
        fence::flush_dir(&self.open_dir(dir)?)?;
        Ok(log)
    }

    fn open_log(&self, dir: &Self::Object, name: &OsStr) -> Result<Self::Log> {
        WindowsLog::open(&self.opened(dir, fs::FILE_TRAVERSE)?, name)
    }
}

impl std::fmt::Debug for WindowsBacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WindowsBacking({} {:?})", self.filesystem, self.root.as_raw_handle())
    }
}
