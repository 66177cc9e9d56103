//! A simulated disk with a journaling filesystem on it, in memory.
//!
//! [`SimBacking`] is a [`Backing`] like any other: engine, lanes and fences run
//! on it unchanged. What it adds is the power cut: [`SimBacking::crash`] gives
//! the filesystem as it could be found after the power failed at this moment, as
//! often as wanted, each time another one for another seed. Nothing depends on a
//! clock, on threads or on the machine: one thread and the same seeds give the
//! same run.
//!
//! What may be lost is set by the [`DurabilityModel`]. Bugs can be planted
//! ([`SimOptions::lie_one_in`], [`SimOptions::drop_dir_syncs`]) to show that a
//! test can fail, syncs can fail ([`SimBacking::fail_sync`]), and others can act
//! while a fence runs ([`SimBacking::on_fence`]).
//!
//! How it works. Metadata is an image of all inodes, changed by small changes;
//! an operation is one journal entry of changes. There are two images: what
//! readers see, and what is durable; the journal leads from one to the other.
//! Data is in blocks, each with the versions that it has had since its last
//! sync. A crash applies part of the journal to the durable image and picks a
//! version of every block.
//!
//! What is not simulated: permission checks (they are made above the backing),
//! ACLs, access times, full disks, quotas, pages that leave memory after a
//! failed write-back, `fallocate` modes that move data, reading of devices,
//! pipes and sockets.
//!
//! | part | what is in it |
//! | --- | --- |
//! | `model` | what survives, and the settings |
//! | `image` | inodes and directories, and the changes of them |
//! | `blocks` | blocks and their versions |
//! | `state` | the running filesystem: journal, users, numbers, clock |
//! | `names`, `attr`, `data` | the operations |
//! | `sync` | write-back, commits, failures |
//! | `crash` | what a power cut leaves |
//! | `handles`, `fence` | open files and directories; the fencer |

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::attr::Changer;
use self::image::{Content, Id, PAGE_BYTES};
use self::names::Birth;
use self::state::{NAME_BYTES_MAX, State, raw};
use super::{Backing, Found, ObjectKey, OpenMode, RenameMode, Seek};
use crate::error::{Errno, Result};
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr};

mod attr;
mod blocks;
mod crash;
mod data;
mod fence;
mod handles;
mod image;
mod log;
mod model;
mod names;
mod random;
mod state;
mod sync;

pub use self::fence::{FenceHook, FencePoint, SimFencer};
pub use self::handles::{SimDir, SimFile, SimObject};
pub use self::log::SimLog;
pub use self::model::{DurabilityModel, STALE_BYTE, SimOptions};
pub use self::random::Random;

/// One disk with one filesystem.
struct Disk {
    state: Mutex<State>,
    hook: Mutex<Option<FenceHook>>,
}

impl Disk {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), hook: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory of a simulated filesystem and everything below it. A clone is
/// the same directory of the same filesystem.
#[derive(Clone)]
pub struct SimBacking {
    disk: Arc<Disk>,
    root: Id,
}

/// What happened on a simulated disk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimFigures {
    /// Syncs that reached the disk: each file's, each directory's, each commit
    /// for a group, and each of everything.
    pub syncs: u64,
    /// Syncs that were answered without being done.
    pub lies: u64,
    /// Journal entries that are durable.
    pub committed_ops: u64,
    /// Journal entries that a power cut may lose.
    pub pending_ops: u64,
}

impl SimBacking {
    /// An empty filesystem, whose root directory belongs to root.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        Self { disk: Disk::new(State::new(options, 0, 0)), root: Id::ROOT }
    }

    /// A directory of the same filesystem as a backing of its own.
    ///
    /// # Errors
    /// `ENOTDIR`, or `ESTALE` if it is gone.
    pub fn subtree(&self, directory: &SimObject) -> Result<Self> {
        self.disk.state().directory(directory.id)?;
        Ok(Self { disk: Arc::clone(&self.disk), root: directory.id })
    }

    /// The filesystem as a power cut at this moment could leave it, repaired and
    /// mounted: a filesystem of its own, with the same handles and settings and
    /// no open files. This one is left alone. The same seed at the same moment
    /// gives the same result.
    ///
    /// The backing that is returned is the root of the filesystem.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self { disk: Disk::new(self.disk.state().crash(seed)), root: Id::ROOT }
    }

    /// Has the `nth` sync from now on fail with `EIO` (1: the next). Its dirty
    /// pages count as clean afterwards, without being on disk, and every file
    /// that is open reports the error once, as on Linux. 0 takes the plan back.
    pub fn fail_sync(&self, nth: u64) {
        self.disk.state().fail_sync_in = Some(nth).filter(|&nth| nth > 0);
    }

    /// The journal fails for good: changes are refused with `EROFS`, syncs with
    /// `EIO`; what is durable stays.
    pub fn abort_journal(&self) {
        self.disk.state().aborted = true;
    }

    /// Has `hook` called within every fence: there a test can crash the disk, or
    /// bring more requests to the lanes. It must not drop the last reference to
    /// its own backing.
    pub fn on_fence(&self, hook: Option<FenceHook>) {
        *self.disk.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// The key of an object, as [`Found::key`] had it.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn key_of(&self, object: &SimObject) -> Result<ObjectKey> {
        self.disk.state().key(object.id)
    }

    /// The object with this key, as `open_by_handle_at(2)` would find it.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        let state = self.disk.state();
        let id = state.by_key(key)?;
        self.found(&state, id)
    }

    /// What happened so far.
    #[must_use]
    pub fn figures(&self) -> SimFigures {
        let state = self.disk.state();
        SimFigures {
            syncs: state.syncs,
            lies: state.lies,
            committed_ops: state.committed,
            pending_ops: state.end() - state.committed,
        }
    }

    fn found(&self, state: &State, id: Id) -> Result<Found<Self>> {
        let (key, attr) = (state.key(id)?, state.node(id)?.attr());
        Ok(Found { key, object: SimObject::new(&self.disk, id), attr })
    }

    /// Whether an inode can be opened so.
    fn check_open(state: &State, id: Id, mode: OpenMode) -> Result<()> {
        match state.node(id)?.kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory if mode.write || mode.truncate => Err(raw(libc::EISDIR)),
            FileKind::Directory => Ok(()),
            FileKind::Symlink => Err(raw(libc::ELOOP)),
            _ => Err(raw(libc::ENXIO)),
        }
    }
}

/// What a mode asks for, less what the umask forbids.
const fn masked(mode: NewMode) -> u16 {
    (mode.mode & 0o7777 & !(mode.umask & 0o777)) as u16
}

impl Backing for SimBacking {
    type Object = SimObject;
    type File = SimFile;
    type Dir = SimDir;
    type Fencer = SimFencer;
    type Log = SimLog;

    fn root(&self) -> Result<Found<Self>> {
        self.found(&self.disk.state(), self.root)
    }

    fn lookup(&self, dir: &SimObject, name: &OsStr) -> Result<Found<Self>> {
        let state = self.disk.state();
        let id = state.existing(dir.id, name)?;
        self.found(&state, id)
    }

    fn pin(&self, object: &SimObject) -> Result<()> {
        object.pin()
    }

    fn unpin(&self, object: &SimObject) {
        object.unpin();
    }

    fn kind_at(&self, dir: &SimObject, name: &OsStr) -> Result<FileKind> {
        let state = self.disk.state();
        Ok(state.node(state.existing(dir.id, name)?)?.kind)
    }

    fn attr(&self, object: &SimObject) -> Result<Attr> {
        Ok(self.disk.state().node(object.id)?.attr())
    }

    fn set_attr(
        &self,
        caller: Caller,
        object: &SimObject,
        file: Option<&SimFile>,
        change: &SetAttr,
    ) -> Result<Attr> {
        self.disk.state().set_attr(caller, object.id, file, change)
    }

    fn read_link(&self, object: &SimObject) -> Result<Vec<u8>> {
        self.disk.state().read_link(object.id)
    }

    fn make_node(
        &self,
        caller: Caller,
        dir: &SimObject,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Found<Self>> {
        let kind = match mode.mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFDIR => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        };
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let content = match kind {
            FileKind::Regular => Content::File(std::collections::BTreeMap::new()),
            _ => Content::Nothing,
        };
        let device = if is_device { device } else { (0, 0) };
        let birth = Birth { kind, perm: masked(mode), device, content };
        let mut state = self.disk.state();
        let id = state.make(caller, dir.id, name, birth)?;
        self.found(&state, id)
    }

    fn make_dir(
        &self,
        caller: Caller,
        dir: &SimObject,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Found<Self>> {
        let mut state = self.disk.state();
        let id = state.make_dir(caller, dir.id, name, masked(mode))?;
        self.found(&state, id)
    }

    fn make_symlink(
        &self,
        caller: Caller,
        dir: &SimObject,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Found<Self>> {
        let mut state = self.disk.state();
        let id = state.make_symlink(caller, dir.id, name, target)?;
        self.found(&state, id)
    }

    fn link(&self, object: &SimObject, dir: &SimObject, name: &OsStr) -> Result<Found<Self>> {
        let mut state = self.disk.state();
        state.link(object.id, dir.id, name)?;
        self.found(&state, object.id)
    }

    fn unlink(&self, dir: &SimObject, name: &OsStr) -> Result<()> {
        self.disk.state().unlink(dir.id, name)
    }

    fn remove_dir(&self, dir: &SimObject, name: &OsStr) -> Result<()> {
        self.disk.state().remove_dir(dir.id, name)
    }

    fn rename(
        &self,
        source: (&SimObject, &OsStr),
        target: (&SimObject, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.disk.state().rename((source.0.id, source.1), (target.0.id, target.1), mode)
    }

    fn open(&self, caller: Caller, object: &SimObject, mode: OpenMode) -> Result<SimFile> {
        let mut state = self.disk.state();
        Self::check_open(&state, object.id, mode)?;
        if mode.truncate {
            state.set_size(Changer::new(caller), object.id, 0)?;
        }
        drop(state);
        Ok(SimFile::new(&self.disk, object.id, mode))
    }

    fn create(
        &self,
        caller: Caller,
        dir: &SimObject,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Found<Self>, SimFile, bool)> {
        let new = NewMode { mode: new.mode & 0o7777 | libc::S_IFREG, ..new };
        match self.make_node(caller, dir, name, new, (0, 0)) {
            Ok(found) => {
                let file = SimFile::new(&self.disk, found.object.id, mode);
                Ok((found, file, true))
            }
            Err(Errno::EXIST) if !exclusive => {
                let found = self.lookup(dir, name)?;
                let file = self.open(caller, &found.object, mode)?;
                Ok((found, file, false))
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, file: &SimFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.disk.state().read(file.readable()?, buffer, offset)
    }

    fn write(
        &self,
        caller: Caller,
        file: &SimFile,
        data: &[u8],
        offset: u64,
        keep_suid: bool,
    ) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let changer = Changer { keeps_bits: keep_suid, gid: caller.gid };
        self.disk.state().write(changer, file.writable()?, data, offset)
    }

    fn allocate(
        &self,
        caller: Caller,
        file: &SimFile,
        mode: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        self.disk.state().allocate(Changer::new(caller), file, mode, (offset, bytes))
    }

    fn seek(&self, file: &SimFile, offset: u64, what: Seek) -> Result<u64> {
        self.disk.state().seek(file.id(), offset, what)
    }

    fn copy_range(
        &self,
        caller: Caller,
        source: (&SimFile, u64),
        target: (&SimFile, u64),
        bytes: u64,
    ) -> Result<u64> {
        let (from, to) = (source.0.readable()?, target.0.writable()?);
        self.disk.state().copy_range(Changer::new(caller), (from, source.1), (to, target.1), bytes)
    }

    fn open_dir(&self, object: &SimObject) -> Result<SimDir> {
        let state = self.disk.state();
        if state.node(object.id)?.kind == FileKind::Symlink {
            return Err(raw(libc::ELOOP));
        }
        state.directory(object.id)?;
        drop(state);
        Ok(SimDir::new(&self.disk, object.id))
    }

    fn read_dir(
        &self,
        dir: &SimDir,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let mut offset = offset;
        loop {
            // A copy, so that `visit` may use the backing.
            let entries = self.disk.state().entries_after(dir.id(), offset)?;
            let Some(last) = entries.last() else { return Ok(()) };
            offset = last.next_offset;
            for entry in entries {
                if !visit(entry) {
                    return Ok(());
                }
            }
        }
    }

    fn xattr(&self, object: &SimObject, name: &OsStr) -> Result<Vec<u8>> {
        self.disk.state().xattr(object.id, name)
    }

    fn xattr_names(&self, object: &SimObject) -> Result<Vec<u8>> {
        self.disk.state().xattr_names(object.id)
    }

    fn set_xattr(
        &self,
        _caller: Caller,
        object: &SimObject,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.disk.state().set_xattr(object.id, name, value, flags)
    }

    fn remove_xattr(&self, object: &SimObject, name: &OsStr) -> Result<()> {
        self.disk.state().remove_xattr(object.id, name)
    }

    fn fencer(&self) -> SimFencer {
        SimFencer { disk: Arc::clone(&self.disk) }
    }

    fn filesystem_id(&self) -> u64 {
        Arc::as_ptr(&self.disk).addr() as u64
    }

    fn stats(&self) -> Result<FsStats> {
        Ok(FsStats {
            blocks: 1 << 30,
            blocks_free: 1 << 30,
            blocks_available: 1 << 30,
            files: 1 << 30,
            files_free: 1 << 30,
            block_bytes: PAGE_BYTES as u32,
            fragment_bytes: PAGE_BYTES as u32,
            name_bytes_max: NAME_BYTES_MAX as u32,
        })
    }

    fn sync_all(&self) -> Result<()> {
        self.disk.state().sync_all()
    }

    fn log_obstacle(&self) -> Option<String> {
        Some("not built yet".to_owned())
    }

    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        let state = self.disk.state();
        let id = state.by_key(key)?;
        self.found(&state, id)
    }

    fn file_attr(&self, file: &SimFile) -> Result<Attr> {
        Ok(self.disk.state().node(file.id())?.attr())
    }

    fn start_write_back(&self, file: &SimFile) -> Result<()> {
        let _ = file;
        Err(Errno::NOSYS)
    }

    fn finish_write_back(&self, file: &SimFile) -> Result<()> {
        let _ = file;
        Err(Errno::NOSYS)
    }

    fn settled(&self, file: &SimFile) -> Result<Vec<std::ops::Range<u64>>> {
        let _ = file;
        Err(Errno::NOSYS)
    }

    fn set_marker(&self, file: &SimFile, lsn: u64) -> Result<()> {
        let _ = (file, lsn);
        Err(Errno::NOSYS)
    }

    fn marker(&self, file: &SimFile) -> Result<u64> {
        let _ = file;
        Err(Errno::NOSYS)
    }

    fn flush_device(&self, file: &SimFile) -> Result<()> {
        let _ = file;
        Err(Errno::NOSYS)
    }

    fn boot_id(&self) -> [u8; 16] {
        [0; 16]
    }

    fn make_log(
        &self,
        dir: &SimObject,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SimLog> {
        let _ = (dir, name, bytes, progress);
        Err(Errno::NOSYS)
    }

    fn open_log(&self, dir: &SimObject, name: &OsStr) -> Result<SimLog> {
        let _ = (dir, name);
        Err(Errno::NOSYS)
    }
}
