//! A directory that one mount exports: every operation that a front-end needs,
//! as one call each.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use self::describe::{Prepare, nothing};
use super::committer::LateError;
use super::handles::HandleTable;
use super::nodes::{DirState, Node, NodeId, NodeTable};
use super::{Engine, Lsn};
use crate::durability::{Durability, Policy};
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::lane::Completion;
use crate::log::record::Change;
use crate::log::tracked::Tracked;
use crate::log::{HOME_NAME, Log};
use crate::platform::{Backing, Found, OpenMode, SyncTarget};
use crate::types::{Attr, Caller, DirEntry, FsStats, SetAttr};

mod describe;
mod files;
mod names;
mod promise;
mod resume;
mod together;

use self::promise::Stamp;
pub use self::promise::{Deed, Owed};
pub use self::resume::TreeRecord;
pub use self::together::{NameChange, NamesChanged, SyncOrder};

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
    /// How its backing file is opened: for reading too where the log may use it.
    mode: OpenMode,
    /// What the log knows of the file, if this open may write it.
    tracked: Option<Arc<Tracked<B>>>,
    /// Opened when first needed where that is no later than the first write: a
    /// failed write-back is reported to files that were open when it failed.
    file: OnceLock<Arc<B::File>>,
    /// The operation that cut the file to nothing through it last; 0: none has.
    cut_at: AtomicU64,
    /// Its writes do not come to us.
    unseen: AtomicBool,
    /// What is promised for it.
    durability: Durability,
    /// Made or cut by this opening.
    is_new: bool,
    /// It was closed empty while it was being rewritten.
    closed_empty: AtomicBool,
    /// Its state when it was opened, where that is of use.
    stamp: Option<Stamp>,
    /// Of a sync that was answered at once.
    late_error: LateError,
    /// Its state at the committer's last look, without a log.
    looked: Mutex<Option<Stamp>>,
}

struct OpenDir<B: Backing> {
    node: Arc<Node<B>>,
    dir: Arc<B::Dir>,
    /// Of a sync that was answered at once.
    late_error: LateError,
}

impl<B: Backing> OpenDir<B> {
    fn new(node: Arc<Node<B>>, dir: Arc<B::Dir>) -> Self {
        Self { node, dir, late_error: LateError::default() }
    }
}

/// A directory to be synced, and what notes the result.
type DirOrder<B> = (SyncTarget<B>, Box<dyn FnOnce(Result<()>) -> Result<()> + Send>);

/// One exported directory.
pub struct Tree<B: Backing> {
    engine: Arc<Engine<B>>,
    backing: Arc<B>,
    /// The root of this tree holds the engine's own directory, which is hidden.
    hides_home: bool,
    nodes: NodeTable<B>,
    files: HandleTable<OpenFile<B>>,
    dirs: HandleTable<OpenDir<B>>,
    policy: RwLock<Arc<Policy>>,
    /// Rules need to know where objects are.
    tracks_places: AtomicBool,
    /// A file that was open for writing was closed since the committer's last look.
    wrote: AtomicBool,
    /// Number of the last operation in this tree.
    last_change: AtomicU64,
    /// Syncs of its directories cover what was done in this tree, and need no more.
    is_apart: AtomicBool,
}

impl<B: Backing> Tree<B> {
    pub(super) fn new(engine: Arc<Engine<B>>, backing: Arc<B>) -> Result<Self> {
        let root = backing.root()?;
        // In other trees of the engine the name is one like any other.
        let hides_home = engine.home_parent == Some(root.key)
            && backing.lookup(&root.object, OsStr::new(HOME_NAME)).is_ok();
        Ok(Self {
            engine,
            backing,
            hides_home,
            nodes: NodeTable::new(root),
            files: HandleTable::new(),
            dirs: HandleTable::new(),
            policy: RwLock::default(),
            tracks_places: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            last_change: AtomicU64::new(0),
            is_apart: AtomicBool::new(false),
        })
    }

    /// The engine that this tree belongs to.
    pub fn engine(&self) -> &Arc<Engine<B>> {
        &self.engine
    }

    /// The directory that this tree exports.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Says that programs in this tree do not see the engine's other trees. With a log, the sync
    /// of a directory covers everything that was done before in the engine; from now on, what was
    /// done in this tree, and so is answered at once where a group has made that durable already.
    pub fn set_apart(&self) {
        self.is_apart.store(true, Ordering::Release);
    }

    /// Known nodes, open files and open directories.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.files.len(), self.dirs.len())
    }

    // ---- attributes ----

    /// Attributes of a node.
    pub fn attr(&self, id: NodeId) -> Result<Attr> {
        Ok(self.shown(id, self.backing.attr(&self.nodes.get(id)?.object)?))
    }

    /// The root does not count the engine's own directory among its own (programs
    /// like find(1) conclude from the count how many directories there are).
    fn shown(&self, id: NodeId, attr: Attr) -> Attr {
        let counts_it = self.hides_home && id == NodeId::ROOT && attr.nlink > 2;
        Attr { nlink: attr.nlink - u32::from(counts_it), ..attr }
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
        let Some(size) = change.size else {
            let attr = self.change(
                &[&node],
                nothing,
                || self.backing.set_attr(caller, &node.object, None, change),
                |_, _, attr, changes| changes.extend(describe::attrs(node.key(), change, attr)),
            )?;
            return Ok(self.shown(id, attr));
        };
        let open = file.map(|file| self.files.get(file.0)).transpose()?;
        let open = open.filter(|open| open.mode.write);
        let file = open.as_ref().map(|open| self.file_of(caller, open)).transpose()?;
        let resize = || self.backing.set_attr(caller, &node.object, file.as_deref(), change);
        let cut_at = open.as_ref().map_or(0, |open| open.cut_at.load(Ordering::Relaxed));
        let (attr, lsn) = self.resize(&node, (size, cut_at), resize, |attr, changes| {
            changes.extend(describe::attrs(node.key(), change, attr));
        })?;
        if let Some(open) = open.filter(|_| size == 0) {
            open.cut_at.store(lsn, Ordering::Relaxed);
        }
        Ok(self.shown(id, attr))
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
        self.change(
            &[&node],
            nothing,
            || self.backing.set_xattr(caller, &node.object, name, value, flags),
            |_, _, (), changes| changes.push(describe::xattr_set(node.key(), name, value)),
        )
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, id: NodeId, name: &OsStr) -> Result<()> {
        let node = self.nodes.get(id)?;
        self.change(
            &[&node],
            nothing,
            || self.backing.remove_xattr(&node.object, name),
            |_, _, (), changes| changes.push(describe::xattr_removed(node.key(), name)),
        )
    }

    /// Sizes of the filesystem.
    pub fn stats(&self) -> Result<FsStats> {
        self.backing.stats()
    }

    // ---- directories ----

    /// Opens a directory.
    pub fn open_dir(&self, id: NodeId) -> Result<DirId> {
        let node = self.nodes.get(id)?;
        let dir = Arc::new(self.backing.open_dir(&node.object)?);
        Ok(DirId(self.dirs.insert(OpenDir::new(node, dir))))
    }

    /// Visits entries from `offset` until `visit` returns false or the
    /// directory ends; see [`Backing::read_dir`].
    pub fn read_dir(
        &self,
        dir: DirId,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let open = self.dirs.get(dir.0)?;
        let hides = self.hides_home && open.node.id == NodeId::ROOT;
        let mut visit = |entry: DirEntry| (hides && entry.name == HOME_NAME) || visit(entry);
        self.backing.read_dir(&open.dir, offset, &mut visit)
    }

    /// Closes a directory.
    pub fn release_dir(&self, dir: DirId) {
        self.dirs.remove(dir.0);
    }

    /// Makes a directory durable, then calls `done`: at once if it is durable. With
    /// a log that means everything applied so far; without, that nothing in the
    /// directory changed since it was last made durable.
    pub fn sync_dir(&self, caller: Caller, dir: DirId, done: Completion) {
        let open = match self.dirs.get(dir.0) {
            Ok(open) => open,
            Err(error) => return done(Err(error)),
        };
        let target = SyncTarget::Dir(Arc::clone(&open.dir));
        if let Err(error) = self.backing.asked_to_sync(caller, &target) {
            return done(Err(error));
        }
        if let Some(delay) = self.dir_delay(&open) {
            return done(self.sync_dir_later(&open, delay));
        }
        if let Some(log) = &self.engine.log {
            return self.sync_dir_by_log(log, caller, &open, done);
        }
        match self.dir_order(&open) {
            Err(error) => done(Err(error)),
            Ok(None) => {
                self.engine.lanes.count_skipped();
                done(Ok(()));
            }
            Ok(Some((target, note))) => {
                let noted = Box::new(move |result| done(note(result)));
                self.engine.lanes.submit(u64::from(caller.thread), target, noted);
            }
        }
    }

    // ---- within ----

    fn enter(&self, found: Found<B>, dir: &Node<B>, name: &OsStr) -> (Arc<Node<B>>, Entry) {
        let node = self.nodes.reference(found.key, found.object);
        self.found_at(&node, dir, name);
        let entry = Entry { id: node.id, attr: self.shown(node.id, found.attr) };
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

    /// What is to be synced for a directory, and what notes the result; `None` if it is
    /// durable. Without a log.
    fn dir_order(&self, open: &OpenDir<B>) -> Result<Option<DirOrder<B>>> {
        let covered = self.dir_state(open)?;
        if open.node.is_durable(covered) {
            return Ok(None);
        }
        let node = Arc::clone(&open.node);
        let note = move |result: Result<()>| {
            if result.is_ok() {
                node.made_durable(covered);
            }
            result
        };
        Ok(Some((SyncTarget::Dir(Arc::clone(&open.dir)), Box::new(note))))
    }

    fn sync_dir_by_log(&self, log: &Log<B>, caller: Caller, open: &OpenDir<B>, done: Completion) {
        let own = self.is_apart.load(Ordering::Acquire);
        let own = own.then(|| self.last_change.load(Ordering::Acquire));
        let is_durable =
            own.map_or_else(|| log.is_all_durable(), |own| log.is_durable_through(own));
        if is_durable {
            self.engine.lanes.count_skipped();
            return done(Ok(()));
        }
        // No more is waited for than was done before it came.
        let through = Some(own.unwrap_or_else(|| log.last_lsn()));
        let target = Some(SyncTarget::Dir(Arc::clone(&open.dir)));
        let keeps_others_out = open.node.synced_by(caller);
        let request =
            SyncRequest { target, through, keeps_others_out, ..SyncRequest::everything() };
        self.engine.lanes.submit(u64::from(caller.thread), request, done);
    }

    /// Refuses the name of the engine's own directory.
    fn check_name(&self, dir: &Node<B>, name: &OsStr, refusal: Errno) -> Result<()> {
        let is_home = self.hides_home && dir.id == NodeId::ROOT && name == HOME_NAME;
        if is_home { Err(refusal) } else { Ok(()) }
    }

    /// Applies an operation that changes these objects.
    fn change<T>(
        &self,
        changed: &[&Arc<Node<B>>],
        prepare: impl Prepare<B>,
        operation: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&Log<B>, Lsn, &T, &mut Vec<Change>),
    ) -> Result<T> {
        Ok(self.change_numbered(changed, prepare, operation, describe)?.0)
    }

    /// As [`Self::change`], with the operation's number.
    fn change_numbered<T>(
        &self,
        changed: &[&Arc<Node<B>>],
        prepare: impl Prepare<B>,
        operation: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&Log<B>, Lsn, &T, &mut Vec<Change>),
    ) -> Result<(T, Lsn)> {
        let (value, lsn) = self.engine.apply(prepare, operation, describe)?;
        for node in changed {
            node.change(lsn);
        }
        self.last_change.fetch_max(lsn, Ordering::AcqRel);
        Ok((value, lsn))
    }
}
