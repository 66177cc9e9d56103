//! A directory that one mount exports: every operation that a front-end needs,
//! as one call each.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::handles::HandleTable;
use super::nodes::{DirState, Node, NodeId, NodeTable};
use super::{Engine, Lsn};
use crate::error::Result;
use crate::lane::Completion;
use crate::platform::{Backing, Found, OpenMode, RenameMode, Seek, SyncTarget};
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, SyncKind};

/// Number of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub u64);

/// Number of an open directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirId(pub u64);

/// A node that a lookup or a creation found; the front-end holds one reference
/// more to it and gives it back with [`Tree::forget`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The node's number.
    pub id: NodeId,
    /// Its attributes.
    pub attr: Attr,
}

struct OpenFile<B: Backing> {
    node: Arc<Node<B>>,
    mode: OpenMode,
    /// Opened when first needed where that is no later than the first write: a
    /// failed write-back is reported to files that were open when it failed.
    file: OnceLock<Arc<B::File>>,
}

struct OpenDir<B: Backing> {
    node: Arc<Node<B>>,
    dir: Arc<B::Dir>,
}

/// One exported directory.
pub struct Tree<B: Backing> {
    engine: Arc<Engine<B>>,
    backing: Arc<B>,
    nodes: NodeTable<B>,
    files: HandleTable<OpenFile<B>>,
    dirs: HandleTable<OpenDir<B>>,
}

impl<B: Backing> Tree<B> {
    pub(super) fn new(engine: Arc<Engine<B>>, backing: Arc<B>) -> Result<Self> {
        let nodes = NodeTable::new(backing.root()?);
        Ok(Self { engine, backing, nodes, files: HandleTable::new(), dirs: HandleTable::new() })
    }

    /// The engine that this tree belongs to.
    pub fn engine(&self) -> &Arc<Engine<B>> {
        &self.engine
    }

    /// The directory that this tree exports.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Known nodes, open files and open directories.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.files.len(), self.dirs.len())
    }

    // ---- names ----

    /// Finds a name.
    pub fn lookup(&self, dir: NodeId, name: &OsStr) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        Ok(self.enter(self.backing.lookup(&dir.object, name)?).1)
    }

    /// Finds a name in an open directory.
    pub fn lookup_in(&self, dir: DirId, name: &OsStr) -> Result<Entry> {
        let dir = self.dirs.get(dir.0)?;
        Ok(self.enter(self.backing.lookup(&dir.node.object, name)?).1)
    }

    /// Gives references back.
    pub fn forget(&self, id: NodeId, count: u64) {
        self.nodes.forget(id, count);
    }

    /// Makes a file, pipe, socket or device node.
    pub fn make_node(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        let found = self.backing.make_node(caller, &dir.object, name, mode, device)?;
        self.applied(&[&dir]);
        Ok(self.enter(found).1)
    }

    /// Makes a directory.
    pub fn make_dir(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        let found = self.backing.make_dir(caller, &dir.object, name, mode)?;
        self.applied(&[&dir]);
        Ok(self.enter(found).1)
    }

    /// Makes a symbolic link.
    pub fn make_symlink(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        let found = self.backing.make_symlink(caller, &dir.object, name, target)?;
        self.applied(&[&dir]);
        Ok(self.enter(found).1)
    }

    /// Gives a node one more name.
    pub fn link(&self, id: NodeId, dir: NodeId, name: &OsStr) -> Result<Entry> {
        let (node, dir) = (self.nodes.get(id)?, self.nodes.get(dir)?);
        let found = self.backing.link(&node.object, &dir.object, name)?;
        self.applied(&[&dir, &node]);
        Ok(self.enter(found).1)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: NodeId, name: &OsStr) -> Result<()> {
        let dir = self.nodes.get(dir)?;
        self.keeping_victim(&dir, name, || self.backing.unlink(&dir.object, name))?;
        self.applied(&[&dir]);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, dir: NodeId, name: &OsStr) -> Result<()> {
        let dir = self.nodes.get(dir)?;
        self.keeping_victim(&dir, name, || self.backing.remove_dir(&dir.object, name))?;
        self.applied(&[&dir]);
        Ok(())
    }

    /// Moves a name.
    pub fn rename(
        &self,
        source: (NodeId, &OsStr),
        target: (NodeId, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (self.nodes.get(source.0)?, self.nodes.get(target.0)?);
        let moves_dir = |dir: &Node<B>, name| {
            self.backing.kind_at(&dir.object, name) == Ok(FileKind::Directory)
        };
        let dir_moved = moves_dir(&from, source.1) || (mode.exchange && moves_dir(&to, target.1));
        let rename = || self.backing.rename((&from.object, source.1), (&to.object, target.1), mode);
        if mode.exchange || mode.no_replace {
            rename()?;
        } else {
            self.keeping_victim(&to, target.1, rename)?;
        }
        let lsn = self.applied(&[&from, &to]);
        if dir_moved {
            self.engine.dir_moved.fetch_max(lsn, Ordering::AcqRel);
        }
        Ok(())
    }

    // ---- attributes ----

    /// Attributes of a node.
    pub fn attr(&self, id: NodeId) -> Result<Attr> {
        self.backing.attr(&self.nodes.get(id)?.object)
    }

    /// Changes attributes; a truncation goes through `file` if one is given.
    pub fn set_attr(
        &self,
        caller: Caller,
        id: NodeId,
        file: Option<FileId>,
        change: &SetAttr,
    ) -> Result<Attr> {
        let node = self.nodes.get(id)?;
        let file = match file {
            Some(file) if change.size.is_some() => {
                let open = self.files.get(file.0)?;
                open.mode.write.then(|| self.file_of(caller, &open)).transpose()?
            }
            _ => None,
        };
        let attr = self.backing.set_attr(caller, &node.object, file.as_deref(), change)?;
        self.applied(&[&node]);
        Ok(attr)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        self.backing.read_link(&self.nodes.get(id)?.object)
    }

    /// Value of an extended attribute.
    pub fn xattr(&self, id: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        self.backing.xattr(&self.nodes.get(id)?.object, name)
    }

    /// Names of all extended attributes that `caller` may see, each ended by a
    /// zero byte.
    pub fn xattr_names(&self, caller: Caller, id: NodeId) -> Result<Vec<u8>> {
        let names = self.backing.xattr_names(&self.nodes.get(id)?.object)?;
        if caller.uid == 0 {
            return Ok(names);
        }
        // The kernel hides the trusted namespace from the unprivileged; the
        // engine asked with privilege and must do the same.
        let visible = names.split_inclusive(|&byte| byte == 0);
        Ok(visible.filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect())
    }

    /// Sets an extended attribute; `flags` as in `setxattr(2)`.
    pub fn set_xattr(
        &self,
        caller: Caller,
        id: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let node = self.nodes.get(id)?;
        self.backing.set_xattr(caller, &node.object, name, value, flags)?;
        self.applied(&[&node]);
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, id: NodeId, name: &OsStr) -> Result<()> {
        let node = self.nodes.get(id)?;
        self.backing.remove_xattr(&node.object, name)?;
        self.applied(&[&node]);
        Ok(())
    }

    /// Sizes of the filesystem.
    pub fn stats(&self) -> Result<FsStats> {
        self.backing.stats()
    }

    // ---- files ----

    /// Opens a file. With `lazy`, a file that is only read is not opened before
    /// something needs it (passthrough readers never do).
    pub fn open(&self, caller: Caller, id: NodeId, mode: OpenMode, lazy: bool) -> Result<FileId> {
        let node = self.nodes.get(id)?;
        let open = OpenFile { node, mode, file: OnceLock::new() };
        if !lazy || mode.write || mode.truncate {
            self.file_of(caller, &open)?;
        }
        if mode.truncate {
            self.applied(&[&open.node]);
        }
        Ok(FileId(self.files.insert(open)))
    }

    /// Makes a file and opens it; without `exclusive` an existing one is opened.
    pub fn create(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Entry, FileId)> {
        let dir = self.nodes.get(dir)?;
        let (found, file, made) =
            self.backing.create(caller, &dir.object, name, new, mode, exclusive)?;
        let (node, entry) = self.enter(found);
        if made {
            self.applied(&[&dir]);
        } else if mode.truncate {
            self.applied(&[&node]);
        }
        let mode = OpenMode { truncate: false, ..mode };
        let open = OpenFile { node, mode, file: OnceLock::from(Arc::new(file)) };
        Ok((entry, FileId(self.files.insert(open))))
    }

    fn backing_file(&self, caller: Caller, file: FileId) -> Result<Arc<B::File>> {
        self.file_of(caller, &*self.files.get(file.0)?)
    }

    /// Runs `call` with the backing object of a node.
    pub fn with_object<T>(&self, id: NodeId, call: impl FnOnce(&B, &B::Object) -> T) -> Result<T> {
        Ok(call(&self.backing, &self.nodes.get(id)?.object))
    }

    /// Closes a file.
    pub fn release(&self, file: FileId) {
        self.files.remove(file.0);
    }

    /// Reads; short only at the end of the file.
    pub fn read(
        &self,
        caller: Caller,
        file: FileId,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        self.backing.read(&*self.backing_file(caller, file)?, buffer, offset)
    }

    /// Writes; set-user-id bits go unless `keep_suid`.
    pub fn write(
        &self,
        caller: Caller,
        file: FileId,
        data: &[u8],
        offset: u64,
        keep_suid: bool,
    ) -> Result<usize> {
        let file = self.backing_file(caller, file)?;
        self.backing.write(caller, &*file, data, offset, keep_suid)
    }

    /// Allocates, punches, collapses: the modes of `fallocate(2)`.
    pub fn allocate(
        &self,
        caller: Caller,
        file: FileId,
        mode: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let file = self.backing_file(caller, file)?;
        self.backing.allocate(caller, &*file, mode, offset, bytes)
    }

    /// Finds data or a hole.
    pub fn seek(&self, caller: Caller, file: FileId, offset: u64, what: Seek) -> Result<u64> {
        self.backing.seek(&*self.backing_file(caller, file)?, offset, what)
    }

    /// Copies between open files; may copy less than asked for.
    pub fn copy_range(
        &self,
        caller: Caller,
        source: (FileId, u64),
        target: (FileId, u64),
        bytes: u64,
    ) -> Result<u64> {
        let (from, to) =
            (self.backing_file(caller, source.0)?, self.backing_file(caller, target.0)?);
        self.backing.copy_range(caller, (&*from, source.1), (&*to, target.1), bytes)
    }

    /// Makes a file durable, then calls `done`; never waits for another group.
    pub fn sync_file(&self, caller: Caller, file: FileId, kind: SyncKind, done: Completion) {
        match self.backing_file(caller, file) {
            Ok(file) => {
                let writer = u64::from(caller.thread);
                self.engine.lanes.submit(writer, SyncTarget::File(file, kind), done);
            }
            Err(error) => done(Err(error)),
        }
    }

    // ---- directories ----

    /// Opens a directory.
    pub fn open_dir(&self, id: NodeId) -> Result<DirId> {
        let node = self.nodes.get(id)?;
        let dir = Arc::new(self.backing.open_dir(&node.object)?);
        Ok(DirId(self.dirs.insert(OpenDir { node, dir })))
    }

    /// Visits entries from `offset` until `visit` returns false or the
    /// directory ends; see [`Backing::read_dir`].
    pub fn read_dir(
        &self,
        dir: DirId,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        self.backing.read_dir(&self.dirs.get(dir.0)?.dir, offset, visit)
    }

    /// Closes a directory.
    pub fn release_dir(&self, dir: DirId) {
        self.dirs.remove(dir.0);
    }

    /// Makes a directory durable, then calls `done`: at once if nothing in it
    /// changed since it was last made durable.
    pub fn sync_dir(&self, caller: Caller, dir: DirId, done: Completion) {
        let state = self.dirs.get(dir.0).and_then(|open| Ok((self.dir_state(&open)?, open)));
        let (covered, open) = match state {
            Ok(state) => state,
            Err(error) => return done(Err(error)),
        };
        if open.node.is_durable(covered) {
            self.engine.lanes.count_skipped();
            return done(Ok(()));
        }
        let node = Arc::clone(&open.node);
        let target = SyncTarget::Dir(Arc::clone(&open.dir));
        let note = move |result: Result<()>| {
            if result.is_ok() {
                node.made_durable(covered);
            }
            done(result);
        };
        self.engine.lanes.submit(u64::from(caller.thread), target, Box::new(note));
    }

    // ---- within ----

    fn enter(&self, found: Found<B>) -> (Arc<Node<B>>, Entry) {
        let node = self.nodes.reference(found.key, found.object);
        let entry = Entry { id: node.id, attr: found.attr };
        (node, entry)
    }

    /// What a sync of a directory that starts now covers at least. The number is
    /// read first: an operation that is counted in it has been applied, and so
    /// shows in the time that is read next.
    fn dir_state(&self, open: &OpenDir<B>) -> Result<DirState> {
        let moved = self.engine.dir_moved.load(Ordering::Acquire);
        let lsn = open.node.last_change().max(moved);
        Ok(DirState { lsn, ctime: self.backing.attr(&open.node.object)?.ctime })
    }

    /// Runs an operation that removes a name. If that is the last name of an
    /// object that the kernel knows, the object stays usable until it is forgotten.
    fn keeping_victim(
        &self,
        dir: &Node<B>,
        name: &OsStr,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let victim = self.backing.lookup(&dir.object, name).ok().and_then(|found| {
            let last = found.attr.nlink <= 1 || found.attr.kind == FileKind::Directory;
            self.nodes.find(&found.key).filter(|_| last)
        });
        let Some(victim) = victim else { return remove() };
        // Without a descriptor to spare the name must still be removable.
        let _ = self.backing.pin(&victim.object);
        remove().inspect_err(|_| self.backing.unpin(&victim.object))
    }

    /// Numbers an operation that has just been applied to these objects.
    fn applied(&self, changed: &[&Arc<Node<B>>]) -> Lsn {
        let lsn = self.engine.number();
        for node in changed {
            node.change(lsn);
        }
        lsn
    }

    fn file_of(&self, caller: Caller, open: &OpenFile<B>) -> Result<Arc<B::File>> {
        if let Some(file) = open.file.get() {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.backing.open(caller, &open.node.object, open.mode)?);
        // Two threads may open at once; one of the two files is kept.
        Ok(Arc::clone(open.file.get_or_init(|| file)))
    }
}
