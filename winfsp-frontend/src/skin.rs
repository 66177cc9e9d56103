//! WinFsp's callbacks: each decodes, makes a call or two into the engine, and encodes.
//!
//! - Names come as whole paths; [`path`] goes from the root to the object, whose node is held as
//!   long as it is open.
//! - WinFsp takes the answer of a flush only from the callback itself: the dispatcher's thread waits.
//!   It never leads a group (`mount.rs` gives that to a thread of its own), so that it waits for no
//!   more than its own flush.
//! - Who may do what is decided by WinFsp's driver, from the security descriptors that it gets here.
//!   Share modes, byte-range locks and oplocks are the driver's too.
//! - Streams besides the main one are refused: their names are not valid ones.
//!
//! Not generic over the backing: attributes, security and reparse points are those of
//! [`fs_core::platform::windows`].

use std::ffi::{OsStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs_core::engine::{Deed, FileId, Tree};
use fs_core::error::{Errno, Result as EngineResult};
use fs_core::platform::windows::native::to_status;
use fs_core::platform::windows::{ATTRIBUTES, REPARSE, SECURITY, SECURITY_PARTS, WindowsBacking};
use fs_core::platform::{OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind};
use windows_sys::Win32::Foundation as nt;
use windows_sys::Win32::Storage::FileSystem as fs;
use winfsp::filesystem::{
    DirInfo, DirMarker, FileInfo, FileSecurity, FileSystemContext, ModificationDescriptor,
    OpenFileInfo, VolumeInfo, WideNameInfo,
};
use winfsp::{FspError, Result, U16CStr};

use self::counters::{Counters, Request};
use self::listing::Listing;
use self::path::{Held, Place};

mod attributes;
pub mod counters;
mod info;
mod listing;
mod path;
pub mod pattern;
#[cfg(test)]
mod tests;

/// The tree that is served.
pub type MountedTree = Tree<WindowsBacking>;

/// `FILE_DIRECTORY_FILE` (ntifs.h).
const DIRECTORY_FILE: u32 = 1;
/// Longest that a flush waits for its group: a disk that takes longer has failed.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(600);
/// Appends to one file are one after another; files share so many locks.
const APPEND_LOCKS: usize = 64;

/// What WinFsp calls.
pub struct Skin {
    tree: Arc<MountedTree>,
    counters: Arc<Counters>,
    label: String,
    appends: [Mutex<()>; APPEND_LOCKS],
}

/// An object that a program has open.
pub struct Open {
    node: Held,
    is_dir: bool,
    /// Its content; `None` for a directory, an open without a right to the content, and after the
    /// last handle was closed for removal.
    file: Mutex<Option<FileId>>,
    writes: bool,
    listing: Mutex<Option<Arc<Listing>>>,
    /// Something was written through it.
    wrote: AtomicBool,
}

/// An engine's error as WinFsp gives it on.
pub(crate) fn failed(error: Errno) -> FspError {
    FspError::NTSTATUS(to_status(error))
}

/// An answer that the engine has nothing to do with.
const fn status(status: nt::NTSTATUS) -> FspError {
    FspError::NTSTATUS(status)
}

/// The thread that asks, for the lane's predictions: WinFsp does not say which program it is.
fn caller() -> Caller {
    // SAFETY: reads a number of this thread.
    let thread = unsafe { windows_sys::Win32::System::Threading::GetCurrentThreadId() };
    Caller { uid: 0, gid: 0, thread }
}

impl Skin {
    /// Serves a tree under a volume's label.
    #[must_use]
    pub fn new(tree: Arc<MountedTree>, counters: Arc<Counters>, label: String) -> Self {
        Self { tree, counters, label, appends: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Waits until what a deed owes is durable.
    fn settle(&self, deed: &Deed<'_>) -> Result<()> {
        let owed = self.tree.owed(caller(), deed).map_err(failed)?;
        if owed.is_nothing() {
            return Ok(());
        }
        self.wait(|done| owed.settle(done))
    }

    /// Waits for an answer that the lanes give.
    fn wait(&self, ask: impl FnOnce(Box<dyn FnOnce(EngineResult<()>) + Send>)) -> Result<()> {
        let (sender, answer) = channel();
        ask(Box::new(move |result| {
            let _ = sender.send(result);
        }));
        let result = answer.recv_timeout(FLUSH_TIME_MAX);
        result.unwrap_or(Err(Errno::IO)).map_err(failed)
    }

    fn find(&self, file_name: &U16CStr) -> Result<Held> {
        path::find(&self.tree, file_name).map_err(|error| error.0)
    }

    fn place(&self, file_name: &U16CStr) -> Result<Place> {
        path::place(&self.tree, file_name).map_err(|error| error.0)
    }

    fn info(&self, open: &Open, info: &mut FileInfo) -> Result<()> {
        info::fill(&self.tree, open.node.id(), info).map_err(failed)
    }

    /// The open content.
    fn file(&self, open: &Open) -> Result<FileId> {
        let refusal =
            if open.is_dir { nt::STATUS_INVALID_DEVICE_REQUEST } else { nt::STATUS_ACCESS_DENIED };
        (*open.lock_file()).ok_or(status(refusal))
    }

    fn set_xattr(&self, node: &Held, name: &str, value: &[u8]) -> EngineResult<()> {
        self.tree.set_xattr(caller(), node.id(), OsStr::new(name), value, 0)
    }

    /// Gives a new object what was asked for with it.
    fn dress(
        &self,
        node: &Held,
        attributes: u32,
        security: Option<&[u8]>,
        extra: Option<(&[u8], bool)>,
    ) -> EngineResult<()> {
        if let Some(descriptor) = security {
            self.set_xattr(node, SECURITY, descriptor)?;
        }
        match extra {
            Some((point, true)) => self.set_xattr(node, REPARSE, point)?,
            Some((list, false)) => self.set_attributes(node, list)?,
            None => {}
        }
        // Last: it may make the file read-only.
        if attributes & !(fs::FILE_ATTRIBUTE_NORMAL | fs::FILE_ATTRIBUTE_DIRECTORY) != 0 {
            self.set_xattr(node, ATTRIBUTES, &attributes.to_le_bytes())?;
        }
        Ok(())
    }

    /// Sets the extended attributes in a list; an empty value removes one.
    fn set_attributes(&self, node: &Held, list: &[u8]) -> EngineResult<()> {
        for (name, value) in attributes::parse(list)? {
            if attributes::is_reserved(&name) {
                return Err(Errno::INVAL);
            }
            if value.is_empty() {
                match self.tree.remove_xattr(node.id(), OsStr::new(&name)) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(error) => return Err(error),
                }
            } else {
                self.set_xattr(node, &name, &value)?;
            }
        }
        Ok(())
    }

    fn append_lock(&self, open: &Open) -> MutexGuard<'_, ()> {
        let lock = &self.appends[open.node.id().0 as usize % APPEND_LOCKS];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn truncate(&self, open: &Open, bytes: u64) -> Result<()> {
        let file = self.file(open)?;
        let change = SetAttr { size: Some(bytes), ..SetAttr::default() };
        let set = self.tree.set_attr(caller(), open.node.id(), Some(file), &change);
        set.map_err(failed)?;
        open.wrote.store(true, Ordering::Relaxed);
        self.settle(&Deed::Content(file))
    }

    fn size(&self, open: &Open) -> Result<u64> {
        Ok(self.tree.attr(open.node.id()).map_err(failed)?.size)
    }

    /// Takes the name away that an object was opened by.
    fn remove(&self, open: &Open, file_name: &U16CStr) -> Result<()> {
        let place = self.place(file_name)?;
        let (dir, name) = (place.dir.id(), &*place.name);
        let removed =
            if open.is_dir { self.tree.remove_dir(dir, name) } else { self.tree.unlink(dir, name) };
        removed.map_err(failed)?;
        self.settle(&Deed::Name(dir, name))
    }

    fn listing(&self, open: &Open, begins: bool) -> Result<Arc<Listing>> {
        let mut listing = open.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if begins || listing.is_none() {
            let is_root = open.node.is_root();
            let read = Listing::read(&self.tree, open.node.id(), is_root).map_err(failed)?;
            *listing = Some(Arc::new(read));
        }
        Ok(Arc::clone(listing.as_ref().expect("it was just read")))
    }

    fn dir_info(&self, open: &Open, name: &OsStr, entry: &mut DirInfo) -> EngineResult<()> {
        entry.reset();
        entry.set_name(name).map_err(|_| Errno::NAMETOOLONG)?;
        if name == "." || name == ".." {
            // The driver takes the rest of the parent from its own.
            return info::fill(&self.tree, open.node.id(), entry.file_info_mut());
        }
        let node = Held::lookup(&self.tree, open.node.id(), name)?;
        info::fill(&self.tree, node.id(), entry.file_info_mut())
    }
}

impl Open {
    fn new(node: Held, is_dir: bool, file: Option<FileId>, writes: bool) -> Self {
        Self {
            node,
            is_dir,
            file: Mutex::new(file),
            writes,
            listing: Mutex::default(),
            wrote: AtomicBool::new(false),
        }
    }

    fn lock_file(&self) -> MutexGuard<'_, Option<FileId>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of the content an access right needs; `None`: nothing.
const fn mode_of(access: u32) -> Option<OpenMode> {
    const READS: u32 = fs::FILE_READ_DATA | fs::FILE_EXECUTE;
    const WRITES: u32 = fs::FILE_WRITE_DATA | fs::FILE_APPEND_DATA;
    let write = access & WRITES != 0;
    if access & (READS | WRITES) == 0 {
        return None;
    }
    // A mapping of a file that is open for writing reads it.
    Some(OpenMode { read: true, write, truncate: false, no_atime: false })
}

/// Bytes that WinFsp has as `c_void`.
fn bytes(given: &[c_void]) -> &[u8] {
    // SAFETY: `c_void` has the size and alignment of a byte, and WinFsp gives initialised memory.
    unsafe { std::slice::from_raw_parts(given.as_ptr().cast(), given.len()) }
}

/// Copies a value where WinFsp wants it; how long it is, whether or not it fits.
fn give(value: &[u8], room: Option<&mut [c_void]>) -> Result<u64> {
    if let Some(room) = room {
        if room.len() < value.len() {
            return Err(status(nt::STATUS_BUFFER_OVERFLOW));
        }
        // SAFETY: the destination is writable, long enough, and not part of `value`.
        unsafe {
            std::ptr::copy_nonoverlapping(value.as_ptr(), room.as_mut_ptr().cast(), value.len());
        }
    }
    Ok(value.len() as u64)
}

impl FileSystemContext for Skin {
    type FileContext = Open;

    fn get_security_by_name(
        &self,
        file_name: &U16CStr,
        security_descriptor: Option<&mut [c_void]>,
        reparse_point_resolver: impl FnOnce(&U16CStr) -> Option<FileSecurity>,
    ) -> Result<FileSecurity> {
        self.counters.count(Request::Lookup);
        // A link on the way is for the driver to follow.
        if let Some(security) = reparse_point_resolver(file_name) {
            return Ok(security);
        }
        let node = self.find(file_name)?;
        let attributes = info::attributes(&self.tree, node.id()).map_err(failed)?;
        let descriptor = self.tree.xattr(node.id(), OsStr::new(SECURITY)).map_err(failed)?;
        let sz_security_descriptor = give(&descriptor, security_descriptor)?;
        Ok(FileSecurity { reparse: false, sz_security_descriptor, attributes })
    }

    fn open(
        &self,
        file_name: &U16CStr,
        _create_options: u32,
        granted_access: u32,
        file_info: &mut OpenFileInfo,
    ) -> Result<Open> {
        self.counters.count(Request::Open);
        let node = self.find(file_name)?;
        let open = self.open_node(node, granted_access)?;
        self.info(&open, file_info.as_mut())?;
        Ok(open)
    }

    fn close(&self, open: Open) {
        self.counters.count(Request::Close);
        if let Some(file) = open.lock_file().take() {
            self.tree.release(file);
        }
    }

    fn create(
        &self,
        file_name: &U16CStr,
        create_options: u32,
        granted_access: u32,
        file_attributes: u32,
        security_descriptor: Option<&[c_void]>,
        _allocation_size: u64,
        extra_buffer: Option<&[u8]>,
        extra_buffer_is_reparse_point: bool,
        file_info: &mut OpenFileInfo,
    ) -> Result<Open> {
        self.counters.count(Request::Create);
        let place = self.place(file_name)?;
        let (dir, name) = (place.dir.id(), &*place.name);
        let is_dir = create_options & DIRECTORY_FILE != 0;
        let open = if is_dir {
            let mode = NewMode { mode: 0o777, umask: 0 };
            let entry = self.tree.make_dir(caller(), dir, name, mode).map_err(failed)?;
            Open::new(Held::new(&self.tree, entry.id), true, None, false)
        } else {
            let mode = NewMode { mode: 0o666, umask: 0 };
            let wanted = mode_of(granted_access);
            let reads = OpenMode { read: true, write: true, truncate: false, no_atime: false };
            let made = self.tree.create(caller(), dir, name, mode, reads, true);
            let (entry, file) = made.map_err(failed)?;
            let writes = wanted.is_some_and(|mode| mode.write);
            Open::new(Held::new(&self.tree, entry.id), false, Some(file), writes)
        };
        let extra = extra_buffer.map(|extra| (extra, extra_buffer_is_reparse_point));
        let dressed =
            self.dress(&open.node, file_attributes, security_descriptor.map(bytes), extra);
        if let Err(error) = dressed {
            // What could not be made as it was asked for is not there.
            let _ = self.remove(&open, file_name);
            self.close(open);
            return Err(failed(error));
        }
        let made = *open.lock_file();
        if let Some(file) = made {
            self.settle(&Deed::Opened(file))?;
        }
        self.settle(&Deed::Name(dir, name))?;
        self.info(&open, file_info.as_mut())?;
        Ok(open)
    }

    fn cleanup(&self, open: &Open, file_name: Option<&U16CStr>, flags: u32) {
        const DELETE: u32 = winfsp::constants::FspCleanupFlags::FspCleanupDelete as u32;
        self.counters.count(Request::Cleanup);
        if flags & DELETE == 0 {
            let closed = *open.lock_file();
            if let Some(file) = closed.filter(|_| open.wrote.load(Ordering::Relaxed)) {
                // Nobody hears an error here; the engine has counted it.
                if let Err(error) = self.settle(&Deed::Closed(file)) {
                    tracing::warn!(%error, "what was closed could not be made durable");
                }
            }
            return;
        }
        let Some(file_name) = file_name else { return };
        // Its own handle would keep the name where the filesystem has no POSIX semantics.
        if let Some(file) = open.lock_file().take() {
            self.tree.release(file);
        }
        if let Err(error) = self.remove(open, file_name) {
            tracing::warn!(%error, "a file that was to be deleted is still there");
        }
    }

    fn flush(&self, open: Option<&Open>, file_info: &mut FileInfo) -> Result<()> {
        self.counters.count(Request::Flush);
        let Some(open) = open else {
            // Of the volume: everything.
            return self.tree.engine().flush(FLUSH_TIME_MAX).map_err(failed);
        };
        let file = *open.lock_file();
        if let Some(file) = file {
            self.wait(|done| self.tree.sync_file(caller(), file, SyncKind::Full, done))?;
        } else if open.is_dir {
            let dir = self.tree.open_dir(open.node.id()).map_err(failed)?;
            let synced = self.wait(|done| self.tree.sync_dir(caller(), dir, done));
            self.tree.release_dir(dir);
            synced?;
        }
        self.info(open, file_info)
    }

    fn get_file_info(&self, open: &Open, file_info: &mut FileInfo) -> Result<()> {
        self.counters.count(Request::GetInfo);
        self.info(open, file_info)
    }

    fn get_security(&self, open: &Open, security_descriptor: Option<&mut [c_void]>) -> Result<u64> {
        self.counters.count(Request::GetSecurity);
        let descriptor = self.tree.xattr(open.node.id(), OsStr::new(SECURITY)).map_err(failed)?;
        give(&descriptor, security_descriptor)
    }

    fn set_security(
        &self,
        open: &Open,
        security_information: u32,
        modification_descriptor: ModificationDescriptor,
    ) -> Result<()> {
        self.counters.count(Request::SetSecurity);
        let descriptor = info::descriptor(&modification_descriptor).map_err(failed)?;
        self.set_security_parts(open, security_information, &descriptor)
    }

    fn overwrite(
        &self,
        open: &Open,
        file_attributes: u32,
        replace_file_attributes: bool,
        _allocation_size: u64,
        extra_buffer: Option<&[u8]>,
        file_info: &mut FileInfo,
    ) -> Result<()> {
        self.counters.count(Request::Overwrite);
        self.truncate(open, 0)?;
        let node = &open.node;
        // An overwritten file has the extended attributes that come with it, and no others.
        let names = self.tree.xattr_names(caller(), node.id()).map_err(failed)?;
        for name in attributes::names(&names) {
            let removed = self.tree.remove_xattr(node.id(), OsStr::new(name));
            removed
                .or_else(|error| if error == Errno::NODATA { Ok(()) } else { Err(error) })
                .map_err(failed)?;
        }
        if let Some(list) = extra_buffer {
            self.set_attributes(node, list).map_err(failed)?;
        }
        let before = info::attributes(&self.tree, node.id()).map_err(failed)?;
        let kept = if replace_file_attributes { 0 } else { before };
        let attributes = file_attributes | kept | fs::FILE_ATTRIBUTE_ARCHIVE;
        self.set_xattr(node, ATTRIBUTES, &attributes.to_le_bytes()).map_err(failed)?;
        self.settle(&Deed::Attributes(node.id()))?;
        self.info(open, file_info)
    }

    fn read_directory(
        &self,
        open: &Open,
        pattern: Option<&U16CStr>,
        marker: DirMarker<'_>,
        buffer: &mut [u8],
    ) -> Result<u32> {
        self.counters.count(Request::ReadDirectory);
        let begins = marker.is_none();
        let listing = self.listing(open, begins)?;
        let pattern = pattern.map(|pattern| pattern.as_slice().to_vec());
        let mut cursor = 0;
        // On the heap: a dispatcher's stack is small.
        let mut entry = Box::new(DirInfo::<255>::new());
        for name in listing.after(marker.inner()) {
            if pattern.as_ref().is_some_and(|pattern| !pattern::matches(pattern, name)) {
                continue;
            }
            match self.dir_info(open, name, &mut entry) {
                Ok(()) => {}
                // It has gone since it was listed.
                Err(Errno::NOENT | Errno::STALE) => continue,
                Err(error) => return Err(failed(error)),
            }
            if !entry.append_to_buffer(buffer, &mut cursor) {
                return Ok(cursor);
            }
        }
        DirInfo::<255>::finalize_buffer(buffer, &mut cursor);
        Ok(cursor)
    }

    fn rename(
        &self,
        open: &Open,
        file_name: &U16CStr,
        new_file_name: &U16CStr,
        replace_if_exists: bool,
    ) -> Result<()> {
        self.counters.count(Request::Rename);
        let (from, to) = (self.place(file_name)?, self.place(new_file_name)?);
        let mode = RenameMode { no_replace: !replace_if_exists, ..RenameMode::default() };
        let (source, target) = ((from.dir.id(), &*from.name), (to.dir.id(), &*to.name));
        self.tree.rename(source, target, mode).map_err(failed)?;
        let _ = open;
        self.settle(&Deed::Moved(source, target))
    }

    fn set_basic_info(
        &self,
        open: &Open,
        file_attributes: u32,
        creation_time: u64,
        last_access_time: u64,
        last_write_time: u64,
        last_change_time: u64,
        file_info: &mut FileInfo,
    ) -> Result<()> {
        self.counters.count(Request::SetInfo);
        let node = &open.node;
        if file_attributes != fs::INVALID_FILE_ATTRIBUTES {
            let attributes = file_attributes & !fs::FILE_ATTRIBUTE_DIRECTORY;
            self.set_xattr(node, ATTRIBUTES, &attributes.to_le_bytes()).map_err(failed)?;
        }
        // In the order of the attribute: creation, writing, access, change.
        let times = [creation_time, last_write_time, last_access_time, last_change_time];
        if times != [0; 4] {
            let value: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
            let name = fs_core::platform::windows::TIMES;
            self.set_xattr(node, name, &value).map_err(failed)?;
        }
        self.settle(&Deed::Attributes(node.id()))?;
        self.info(open, file_info)
    }

    fn set_delete(&self, open: &Open, file_name: &U16CStr, delete_file: bool) -> Result<()> {
        self.counters.count(Request::SetInfo);
        if !delete_file {
            return Ok(());
        }
        if open.node.is_root() {
            return Err(status(nt::STATUS_CANNOT_DELETE));
        }
        let attributes = info::attributes(&self.tree, open.node.id()).map_err(failed)?;
        if attributes & fs::FILE_ATTRIBUTE_READONLY != 0 {
            return Err(status(nt::STATUS_CANNOT_DELETE));
        }
        let _ = file_name;
        let is_empty = !open.is_dir || self.listing(open, true)?.has_only_dots();
        if is_empty { Ok(()) } else { Err(status(nt::STATUS_DIRECTORY_NOT_EMPTY)) }
    }

    fn set_file_size(
        &self,
        open: &Open,
        new_size: u64,
        set_allocation_size: bool,
        file_info: &mut FileInfo,
    ) -> Result<()> {
        self.counters.count(Request::SetInfo);
        // Room for less than the file has cuts it; room for more is made when it is written.
        if !set_allocation_size || new_size < self.size(open)? {
            self.truncate(open, new_size)?;
        }
        self.info(open, file_info)
    }

    fn read(&self, open: &Open, buffer: &mut [u8], offset: u64) -> Result<u32> {
        self.counters.count(Request::Read);
        let file = self.file(open)?;
        let read = self.tree.read(caller(), file, buffer, offset).map_err(failed)?;
        if read == 0 && !buffer.is_empty() {
            return Err(status(nt::STATUS_END_OF_FILE));
        }
        Ok(read as u32)
    }

    fn write(
        &self,
        open: &Open,
        buffer: &[u8],
        offset: u64,
        write_to_eof: bool,
        constrained_io: bool,
        file_info: &mut FileInfo,
    ) -> Result<u32> {
        self.counters.count(Request::Write);
        let file = self.file(open)?;
        if !open.writes {
            return Err(status(nt::STATUS_ACCESS_DENIED));
        }
        let appending = write_to_eof.then(|| self.append_lock(open));
        let offset = if write_to_eof { self.size(open)? } else { offset };
        let mut data = buffer;
        if constrained_io {
            // Paging: the length stays as it is.
            let room = self.size(open)?.saturating_sub(offset);
            data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        }
        let written = if data.is_empty() {
            0
        } else {
            self.tree.write(caller(), file, data, offset, true).map_err(failed)?
        };
        drop(appending);
        open.wrote.store(true, Ordering::Relaxed);
        self.settle(&Deed::Content(file))?;
        self.info(open, file_info)?;
        Ok(written as u32)
    }

    fn get_dir_info_by_name(
        &self,
        open: &Open,
        file_name: &U16CStr,
        out_dir_info: &mut DirInfo,
    ) -> Result<()> {
        self.counters.count(Request::Lookup);
        let name = path::name(file_name.as_slice()).map_err(|error| error.0)?;
        self.dir_info(open, &name, out_dir_info).map_err(failed)
    }

    fn get_volume_info(&self, out_volume_info: &mut VolumeInfo) -> Result<()> {
        self.counters.count(Request::VolumeInfo);
        let stats = self.tree.stats().map_err(failed)?;
        let unit = u64::from(stats.fragment_bytes);
        out_volume_info.total_size = stats.blocks.saturating_mul(unit);
        out_volume_info.free_size = stats.blocks_available.saturating_mul(unit);
        out_volume_info.set_volume_label(&self.label);
        Ok(())
    }

    fn get_reparse_point_by_name(
        &self,
        file_name: &U16CStr,
        _is_directory: bool,
        buffer: &mut [u8],
    ) -> Result<u64> {
        self.counters.count(Request::Reparse);
        let node = self.find(file_name)?;
        self.reparse_point(&node, buffer)
    }

    fn get_reparse_point(
        &self,
        open: &Open,
        _file_name: &U16CStr,
        buffer: &mut [u8],
    ) -> Result<u64> {
        self.counters.count(Request::Reparse);
        self.reparse_point(&open.node, buffer)
    }

    fn set_reparse_point(&self, open: &Open, _file_name: &U16CStr, buffer: &[u8]) -> Result<()> {
        self.counters.count(Request::Reparse);
        self.set_xattr(&open.node, REPARSE, buffer).map_err(failed)?;
        self.settle(&Deed::Attributes(open.node.id()))
    }

    fn delete_reparse_point(
        &self,
        open: &Open,
        _file_name: &U16CStr,
        _buffer: &[u8],
    ) -> Result<()> {
        self.counters.count(Request::Reparse);
        self.tree.remove_xattr(open.node.id(), OsStr::new(REPARSE)).map_err(failed)?;
        self.settle(&Deed::Attributes(open.node.id()))
    }

    fn get_extended_attributes(&self, open: &Open, buffer: &mut [u8]) -> Result<u32> {
        self.counters.count(Request::Attributes);
        let node = open.node.id();
        let names = self.tree.xattr_names(caller(), node).map_err(failed)?;
        let mut list = attributes::Builder::default();
        for name in attributes::names(&names) {
            match self.tree.xattr(node, OsStr::new(name)) {
                Ok(value) => list.add(name, &value).map_err(failed)?,
                Err(Errno::NODATA) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let list = list.finish();
        let room = buffer.get_mut(..list.len()).ok_or(status(nt::STATUS_BUFFER_OVERFLOW))?;
        room.copy_from_slice(&list);
        Ok(list.len() as u32)
    }

    fn set_extended_attributes(
        &self,
        open: &Open,
        buffer: &[u8],
        file_info: &mut FileInfo,
    ) -> Result<()> {
        self.counters.count(Request::Attributes);
        self.set_attributes(&open.node, buffer).map_err(failed)?;
        self.settle(&Deed::Attributes(open.node.id()))?;
        self.info(open, file_info)
    }
}

impl Skin {
    fn open_node(&self, node: Held, granted_access: u32) -> Result<Open> {
        let attributes = info::attributes(&self.tree, node.id()).map_err(failed)?;
        let is_dir = attributes & fs::FILE_ATTRIBUTE_DIRECTORY != 0;
        let Some(mode) = mode_of(granted_access).filter(|_| !is_dir) else {
            return Ok(Open::new(node, is_dir, None, false));
        };
        let file = self.tree.open(caller(), node.id(), mode, true).map_err(failed)?;
        Ok(Open::new(node, false, Some(file), mode.write))
    }

    /// Sets parts of a security descriptor: those that `SECURITY_INFORMATION` names.
    pub(crate) fn set_security_parts(
        &self,
        open: &Open,
        parts: u32,
        descriptor: &[u8],
    ) -> Result<()> {
        let name = format!("{SECURITY_PARTS}{parts:x}");
        self.set_xattr(&open.node, &name, descriptor).map_err(failed)?;
        self.settle(&Deed::Attributes(open.node.id()))
    }

    fn reparse_point(&self, node: &Held, buffer: &mut [u8]) -> Result<u64> {
        let point = match self.tree.xattr(node.id(), OsStr::new(REPARSE)) {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return Err(status(nt::STATUS_NOT_A_REPARSE_POINT));
            }
            other => other.map_err(failed)?,
        };
        // Asked without room: whether there is one.
        if !buffer.is_empty() {
            let room = buffer.get_mut(..point.len()).ok_or(status(nt::STATUS_BUFFER_TOO_SMALL))?;
            room.copy_from_slice(&point);
        }
        Ok(point.len() as u64)
    }
}
