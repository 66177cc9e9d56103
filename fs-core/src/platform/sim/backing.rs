//! The door to the simulated disk: each operation takes the disk's lock and runs.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use super::attr::Changer;
use super::fence::FencePoint;
use super::handles::{SimDir, SimFile, SimObject};
use super::image::{Content, Id, PAGE_BYTES};
use super::log::SimLog;
use super::names::Birth;
use super::state::{NAME_BYTES_MAX, State};
use super::{SimBacking, SimFencer};
use crate::error::{Errno, Result};
use crate::platform::{Backing, Found, ObjectKey, OpenMode, RenameMode, Seek, WHOLE_FILE};
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, type_bits};

/// What a mode asks for, less what the umask forbids.
const fn masked(mode: NewMode) -> u16 {
    (mode.mode & 0o7777 & !(mode.umask & 0o777)) as u16
}

/// Whether an inode can be opened so.
fn check_open(state: &State, id: Id, mode: OpenMode) -> Result<()> {
    match state.node(id)?.kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory if mode.write || mode.truncate => Err(Errno::ISDIR),
        FileKind::Directory => Ok(()),
        FileKind::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
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
        let kind = match mode.mode & type_bits::S_IFMT {
            type_bits::S_IFREG => FileKind::Regular,
            type_bits::S_IFIFO => FileKind::Fifo,
            type_bits::S_IFSOCK => FileKind::Socket,
            type_bits::S_IFCHR => FileKind::CharDevice,
            type_bits::S_IFBLK => FileKind::BlockDevice,
            type_bits::S_IFDIR => return Err(Errno::PERM),
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
        check_open(&state, object.id, mode)?;
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
        let new = NewMode { mode: new.mode & 0o7777 | type_bits::S_IFREG, ..new };
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

    /// Whole pages, which are in the device's cache when this returns.
    fn write_direct(&self, file: &SimFile, data: &[u8], offset: u64) -> Result<usize> {
        let page = PAGE_BYTES as usize;
        let whole = data.len() / page * page;
        if whole == 0 || !offset.is_multiple_of(PAGE_BYTES) {
            return Ok(0);
        }
        let changer = Changer { keeps_bits: true, gid: 0 };
        let written = self.disk.state().write(changer, file.writable()?, &data[..whole], offset)?;
        file.write_out(&WHOLE_FILE)?;
        Ok(written)
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
            return Err(Errno::LOOP);
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
        let state = self.disk.state();
        let obstacle = state.options.model.log_obstacle();
        obstacle.filter(|_| !state.options.log_despite_obstacle).map(str::to_owned)
    }

    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        let state = self.disk.state();
        let id = state.by_key(key)?;
        self.found(&state, id)
    }

    fn has_exact_times(&self) -> bool {
        self.disk.state().options.changes_per_tick <= 1
    }

    fn file_attr(&self, file: &SimFile) -> Result<Attr> {
        Ok(self.disk.state().node(file.id())?.attr())
    }

    /// Now and then nothing, else some of the pages: the kernel only begins.
    fn start_write_back(&self, file: &SimFile) -> Result<()> {
        self.disk.state().start_write_back(file.id(), &WHOLE_FILE)
    }

    fn finish_write_back(&self, file: &SimFile) -> Result<()> {
        self.disk.at(FencePoint::WriteBack);
        file.write_out(&WHOLE_FILE)
    }

    fn start_write_back_within(&self, file: &SimFile, within: Range<u64>) -> Result<()> {
        self.disk.state().start_write_back(file.id(), &within)
    }

    fn finish_write_back_within(&self, file: &SimFile, within: Range<u64>) -> Result<()> {
        self.disk.at(FencePoint::WriteBack);
        file.write_out(&within)
    }

    fn delays_allocation(&self) -> bool {
        self.disk.state().options.model.delays_allocation()
    }

    fn delayed(&self, file: &SimFile, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.disk.state().delayed(file.id(), &within)
    }

    fn unwritten_bytes(&self, file: &SimFile) -> Result<u64> {
        Ok(self.disk.state().unwritten_bytes(file.id()))
    }

    fn settled(&self, file: &SimFile, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        let state = self.disk.state();
        state.settled(file.id(), within, state.options.settled_ranges_max)
    }

    fn allocated(&self, file: &SimFile, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.disk.state().settled(file.id(), within, usize::MAX)
    }

    fn set_marker(&self, file: &SimFile, lsn: u64) -> Result<()> {
        self.disk.state().set_marker(file.id(), lsn)
    }

    fn marker(&self, file: &SimFile) -> Result<u64> {
        self.disk.state().marker(file.id())
    }

    fn flush_device(&self, _file: &SimFile) -> Result<()> {
        self.disk.state().flush_device()
    }

    fn boot_id(&self) -> [u8; 16] {
        self.disk.state().boot.to_le_bytes()
    }

    fn mount_id(&self) -> u64 {
        u64::from(self.disk.state().options.tells_mounts)
    }

    fn make_log(
        &self,
        dir: &SimObject,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SimLog> {
        SimLog::make(&self.disk, dir.id, name, bytes, progress)
    }

    fn open_log(&self, dir: &SimObject, name: &OsStr) -> Result<SimLog> {
        SimLog::open(&self.disk, dir.id, name)
    }
}
