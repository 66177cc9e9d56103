//! What a mount owes for an operation before it answers: the durability mode of the place.
//!
//! An operation is applied first, as always. Then the front-end asks what is [`Owed`] for
//! it and answers when that is settled: at once in the mode `fsync`, and wherever what was
//! done is durable already. What is owed rides with the sync requests of all programs.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{FileId, OpenDir, OpenFile, Tree};
use crate::durability::{Durability, Policy};
use crate::engine::FileAtRisk;
use crate::engine::committer::{LateError, Writers};
use crate::engine::nodes::{Node, NodeId};
use crate::error::Result;
use crate::fence::SyncRequest;
use crate::lane::Completion;
use crate::log::{OURSELVES, READ};
use crate::platform::{Backing, ObjectKey, SyncTarget};
use crate::types::{Attr, Caller, FileKind, SyncKind, Time};

/// What an operation did.
#[derive(Debug, Clone, Copy)]
pub enum Deed<'a> {
    /// Made, removed or linked a name.
    Name(NodeId, &'a OsStr),
    /// Moved a name, or swapped two.
    Moved((NodeId, &'a OsStr), (NodeId, &'a OsStr)),
    /// Set attributes.
    Attributes(NodeId),
    /// Set the length of a file that the caller has not open.
    Cut(NodeId),
    /// Opened a file, and perhaps made or cut it.
    Opened(FileId),
    /// Changed content through an open file.
    Content(FileId),
    /// One of the descriptors of an open file was closed.
    Closed(FileId),
}

/// What is to be made durable before an operation is answered.
#[must_use = "the operation may be answered only when this is settled"]
pub struct Owed<B: Backing>(Option<Box<Debt<B>>>);

struct Debt<B: Backing> {
    tree: Arc<Tree<B>>,
    caller: Caller,
    requests: Vec<(SyncRequest<B>, Option<DirNote<B>>)>,
}

/// A directory without a log, and its state that a sync from now on covers.
struct DirNote<B: Backing> {
    node: Arc<Node<B>>,
    covered: super::DirState,
}

/// A file's state, by which a change of it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    ctime: Time,
    mtime: Time,
    size: u64,
}

impl From<&Attr> for Stamp {
    fn from(attr: &Attr) -> Self {
        Self { ctime: attr.ctime, mtime: attr.mtime, size: attr.size }
    }
}

impl<B: Backing> Owed<B> {
    const NOTHING: Self = Self(None);

    fn one(tree: &Arc<Tree<B>>, caller: Caller, request: SyncRequest<B>) -> Self {
        let tree = Arc::clone(tree);
        Self(Some(Box::new(Debt { tree, caller, requests: vec![(request, None)] })))
    }

    /// Whether the operation may be answered now.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Calls `done` when all of it is durable, or with the error that kept it from that.
    pub fn settle(self, done: impl FnOnce(Result<()>) + Send + 'static) {
        let Some(debt) = self.0 else { return done(Ok(())) };
        let Debt { tree, caller, requests } = *debt;
        let writer = u64::from(caller.thread);
        let share = shares(requests.len(), Box::new(done));
        for ((request, note), done) in requests.into_iter().zip(share) {
            if request.target.is_none() && !tree.engine.lanes.commits_everything() {
                // Attributes of what cannot be opened, where no journal keeps its order.
                done(tree.backing.sync_all());
                continue;
            }
            let done = move |result: Result<()>| {
                if let (Ok(()), Some(note)) = (result, note) {
                    note.node.made_durable(note.covered);
                }
                done(result);
            };
            tree.engine.lanes.submit(writer, request, Box::new(done));
        }
    }
}

/// As many completions as there are requests; the last one that is called calls `done`, with
/// the first error.
fn shares(count: usize, done: Completion) -> Vec<Completion> {
    if count == 1 {
        return vec![done];
    }
    let joint = Arc::new(Mutex::new((count, Ok(()), Some(done))));
    let share = |_| {
        let joint = Arc::clone(&joint);
        let share: Completion = Box::new(move |result| {
            let mut state = joint.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 -= 1;
            state.1 = state.1.and(result);
            let all = state.1;
            let done = if state.0 == 0 { state.2.take() } else { None };
            drop(state);
            if let Some(done) = done {
                done(all);
            }
        });
        share
    };
    (0..count).map(share).collect()
}

impl<B: Backing> Tree<B> {
    /// Says which mode holds where, from now on; files that are open keep theirs. What was
    /// looked up before the first policy that has rules has the strongest mode of all of
    /// them until it is looked up again: nobody has noted where it is.
    pub fn set_policy(&self, policy: Policy) {
        if !policy.rules().is_empty() {
            self.tracks_places.store(true, Ordering::Release);
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Which mode holds where.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The mode that an open file was given when it was opened.
    pub fn durability(&self, file: FileId) -> Durability {
        self.files.get(file.0).map_or_else(|_| Durability::default(), |open| open.durability)
    }

    /// Whether a close of this file waits until it is durable.
    pub fn asks_at_close(&self, file: FileId) -> bool {
        self.files.get(file.0).is_ok_and(|open| open.asks_at_close())
    }

    /// What is owed for an operation that has just been carried out.
    ///
    /// # Errors
    /// Nothing can be said, and so no durability be promised: the operation fails.
    pub fn owed(self: &Arc<Self>, caller: Caller, deed: &Deed<'_>) -> Result<Owed<B>> {
        match *deed {
            Deed::Name(dir, name) => {
                let dir = self.nodes.get(dir)?;
                let mode = self.mode_at(&dir, name);
                self.owed_names(caller, mode, &[&dir])
            }
            Deed::Moved((from, old), (to, new)) => {
                let (from, to) = (self.nodes.get(from)?, self.nodes.get(to)?);
                let mode = self.mode_at(&from, old).stronger(self.mode_at(&to, new));
                if from.id == to.id {
                    return self.owed_names(caller, mode, &[&from]);
                }
                self.owed_names(caller, mode, &[&from, &to])
            }
            Deed::Attributes(node) => {
                let node = self.nodes.get(node)?;
                if !self.mode_of(&node).for_everything() {
                    return Ok(Owed::NOTHING);
                }
                self.owed_object(caller, &node)
            }
            Deed::Cut(node) => {
                let node = self.nodes.get(node)?;
                // There is no close to come.
                if !self.mode_of(&node).at_close() {
                    return Ok(Owed::NOTHING);
                }
                self.owed_cut(caller, &node)
            }
            Deed::Opened(file) | Deed::Content(file) => {
                let open = self.files.get(file.0)?;
                let changes = open.is_new || matches!(deed, Deed::Content(_));
                if !changes || !open.durability.for_everything() {
                    return Ok(Owed::NOTHING);
                }
                let request = self.sync_request(caller, file, SyncKind::Full)?;
                Ok(Owed::one(self, caller, request))
            }
            Deed::Closed(file) => self.owed_at_close(caller, file),
        }
    }

    fn owed_names(
        self: &Arc<Self>,
        caller: Caller,
        mode: Durability,
        dirs: &[&Arc<Node<B>>],
    ) -> Result<Owed<B>> {
        if !mode.for_names() {
            return Ok(Owed::NOTHING);
        }
        if self.engine.log.is_some() {
            return Ok(self.owed_operations(caller, dirs));
        }
        let mut requests = Vec::with_capacity(dirs.len());
        for &node in dirs {
            let dir = Arc::new(self.backing.open_dir(&node.object)?);
            let open = OpenDir::new(Arc::clone(node), Arc::clone(&dir));
            let covered = self.dir_state(&open)?;
            if node.is_durable(covered) {
                self.engine.lanes.count_skipped();
                continue;
            }
            let keeps_others_out = node.synced_by(caller);
            let target = Some(SyncTarget::Dir(dir));
            let request = SyncRequest { target, keeps_others_out, ..SyncRequest::everything() };
            requests.push((request, Some(DirNote { node: Arc::clone(node), covered })));
        }
        if requests.is_empty() {
            return Ok(Owed::NOTHING);
        }
        let tree = Arc::clone(self);
        Ok(Owed(Some(Box::new(Debt { tree, caller, requests }))))
    }

    /// With a log: the last operations that changed these objects.
    fn owed_operations(self: &Arc<Self>, caller: Caller, nodes: &[&Arc<Node<B>>]) -> Owed<B> {
        let through = nodes.iter().map(|node| node.last_change()).max();
        let mut keeps_others_out = false;
        for node in nodes {
            keeps_others_out |= node.synced_by(caller);
        }
        let log = self.engine.log.as_ref();
        if let (Some(log), Some(through)) = (log, through)
            && log.is_durable_through(through)
        {
            self.engine.lanes.count_skipped();
            return Owed::NOTHING;
        }
        let request = SyncRequest { through, keeps_others_out, ..SyncRequest::everything() };
        Owed::one(self, caller, request)
    }

    /// Attributes of an object, its length included.
    fn owed_object(self: &Arc<Self>, caller: Caller, node: &Arc<Node<B>>) -> Result<Owed<B>> {
        if self.engine.log.is_some() {
            return Ok(self.owed_operations(caller, &[node]));
        }
        let target = match self.backing.attr(&node.object)?.kind {
            FileKind::Regular => {
                let file = self.backing.open(OURSELVES, &node.object, READ)?;
                Some(SyncTarget::File(Arc::new(file), SyncKind::Full))
            }
            FileKind::Directory => {
                Some(SyncTarget::Dir(Arc::new(self.backing.open_dir(&node.object)?)))
            }
            // Nothing that could be synced by itself.
            _ => None,
        };
        Ok(Owed::one(self, caller, SyncRequest { target, ..SyncRequest::everything() }))
    }

    /// A truncation by name. Cut to nothing, the file may be protected: what it held comes
    /// back after a power cut until a sync of it has ended that.
    fn owed_cut(self: &Arc<Self>, caller: Caller, node: &Arc<Node<B>>) -> Result<Owed<B>> {
        let tracked = self.engine.log.as_ref().map(|log| (log, log.track(&node.key())));
        let Some((log, tracked)) = tracked.filter(|(_, tracked)| tracked.is_rewriting()) else {
            return self.owed_object(caller, node);
        };
        let file = log.reader(&tracked, &node.object)?;
        let target = Some(SyncTarget::File(Arc::clone(&file), SyncKind::Full));
        let (file, reader) = (Some(tracked), Some(file));
        let request = SyncRequest { target, file, reader, ..SyncRequest::everything() };
        Ok(Owed::one(self, caller, request))
    }

    fn owed_at_close(self: &Arc<Self>, caller: Caller, file: FileId) -> Result<Owed<B>> {
        let open = self.files.get(file.0)?;
        if let Some(file) = open.file.get() {
            self.backing.descriptor_closed(file);
        }
        if !open.asks_at_close() {
            return Ok(Owed::NOTHING);
        }
        if let Some(backing_file) = open.file.get() {
            let attr = self.backing.file_attr(backing_file)?;
            if self.is_settled(&open, &attr) || self.is_about_to_be_written(&open, &attr) {
                self.engine.lanes.count_skipped();
                return Ok(Owed::NOTHING);
            }
        }
        let request = self.sync_request(caller, file, SyncKind::Full)?;
        Ok(Owed::one(self, caller, request))
    }

    /// Whether a close of this file has nothing to make durable: nobody can find it any
    /// more, it is as it was when it was opened, or as a durable group has found it.
    fn is_settled(&self, open: &OpenFile<B>, attr: &Attr) -> bool {
        if attr.nlink == 0 {
            return true;
        }
        let is_as_opened = open.stamp.is_some_and(|stamp| stamp == Stamp::from(attr));
        let is_synced = || match (&self.engine.log, &open.tracked) {
            (Some(log), Some(tracked)) => log.is_synced(tracked, attr),
            _ => false,
        };
        is_as_opened || is_synced()
    }

    /// A shell that redirects a command to a file cuts it, copies the descriptor, and closes
    /// the first one: what the file held before must not be given up for that. Only if the
    /// opening itself has cut it, and once for each opening; if that was its last close, `release_settles` sees to it.
    fn is_about_to_be_written(&self, open: &OpenFile<B>, attr: &Attr) -> bool {
        let rewriting = open.tracked.as_ref().is_some_and(|file| file.is_rewriting());
        let is_cut = rewriting && open.is_new && attr.size == 0;
        is_cut && !open.closed_empty.swap(true, Ordering::AcqRel)
    }

    /// An open file has ended whose first close was not waited for.
    pub(super) fn release_settles(&self, open: &OpenFile<B>) {
        if open.closed_empty.load(Ordering::Acquire) {
            self.engine.lanes.submit(0, SyncRequest::everything(), Box::new(|_| {}));
        }
    }

    // ---- the mode `relaxed` ----

    /// How late a sync of this directory may be.
    pub(super) fn dir_delay(&self, open: &OpenDir<B>) -> Option<Duration> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        if policy.rules().is_empty() {
            return policy.default_mode().delay();
        }
        drop(policy);
        self.mode_of(&open.node).delay()
    }

    /// Sees to it that a directory will be durable; gives the error of the time before.
    pub(super) fn sync_dir_later(&self, open: &OpenDir<B>, delay: Duration) -> Result<()> {
        let target = Some(SyncTarget::Dir(Arc::clone(&open.dir)));
        let request = SyncRequest { target, ..SyncRequest::everything() };
        self.sync_later(request, delay, &open.late_error)
    }

    pub(super) fn sync_later(
        &self,
        request: SyncRequest<B>,
        delay: Duration,
        late_error: &LateError,
    ) -> Result<()> {
        let error = late_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let engine = &self.engine;
        engine.committer.later(request, delay, Arc::clone(late_error), &engine.this);
        error.map_or(Ok(()), Err)
    }

    /// Whether files are open for writing, and whether any was written since the last look.
    pub(in crate::engine) fn look_at_writers(&self) -> Writers {
        let wrote = self.wrote.swap(false, Ordering::SeqCst);
        let mut writers = Writers { are_open: false, wrote };
        for open in self.files.all(|open| open.mode.write) {
            writers.are_open = true;
            let attr = open.file.get().and_then(|file| self.backing.file_attr(file).ok());
            let now = attr.map(|attr| Stamp::from(&attr));
            let mut looked = open.looked.lock().unwrap_or_else(PoisonError::into_inner);
            writers.wrote |= std::mem::replace(&mut *looked, now) != now || now.is_none();
        }
        writers
    }

    /// Files that are open for writing with content that is not written back.
    pub(in crate::engine) fn writers_at_risk(&self) -> Vec<FileAtRisk> {
        let at_risk = |open: &Arc<OpenFile<B>>| {
            let file = open.file.get()?;
            let attr = self.backing.file_attr(file).ok().filter(|attr| attr.nlink > 0)?;
            let bytes = self.backing.unwritten_bytes(file).ok().filter(|bytes| *bytes > 0)?;
            Some(FileAtRisk { ino: attr.ino, bytes, age_s: None, is_open: true })
        };
        let mut files: Vec<_> =
            self.files.all(|open| open.mode.write).iter().filter_map(at_risk).collect();
        // Once, however often it is open.
        files.sort_unstable_by_key(|file| file.ino);
        files.dedup_by_key(|file| file.ino);
        files
    }

    // ---- which mode holds ----

    /// The mode of an open file, and its state by which `owed_at_close` sees whether it was
    /// written: none if it was just made, or if times are not exact.
    pub(super) fn opening(&self, open: &mut OpenFile<B>, is_new: bool) {
        open.durability = self.mode_of(&open.node);
        open.is_new = is_new;
        if open.mode.write {
            // Nobody tells when the kernel writes it.
            self.engine.unsynced();
        }
        if open.durability.at_close()
            && !is_new
            && self.backing.has_exact_times()
            && let Some(file) = open.file.get()
        {
            open.stamp = self.backing.file_attr(file).ok().map(|attr| Stamp::from(&attr));
        }
    }

    /// The mode of an object that is known by some name.
    pub(super) fn mode_of(&self, node: &Node<B>) -> Durability {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        if policy.rules().is_empty() {
            return policy.default_mode();
        }
        let policy = Arc::clone(&policy);
        mode_by(&policy, self.path_of(node))
    }

    fn mode_at(&self, dir: &Node<B>, name: &OsStr) -> Durability {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        if policy.rules().is_empty() {
            return policy.default_mode();
        }
        let policy = Arc::clone(&policy);
        mode_by(&policy, self.path_of(dir).map(|dir| dir.join(name)))
    }

    /// Where an object was last found, below the root; `None` if that is not known of it or of
    /// a directory above it.
    fn path_of(&self, node: &Node<B>) -> Option<PathBuf> {
        /// As deep as paths go: `PATH_MAX` bytes of one-letter names.
        const DEPTH_MAX: usize = 2048;
        let mut names: Vec<OsString> = Vec::new();
        let mut at = node.id;
        let mut place = node.place();
        while at != NodeId::ROOT {
            let (dir, name) = place.filter(|_| names.len() < DEPTH_MAX)?;
            names.push(name);
            at = dir;
            place = self.nodes.get(dir).ok().and_then(|dir| dir.place());
        }
        Some(names.iter().rev().collect())
    }

    /// Notes where an object was found, if rules want to know.
    pub(super) fn found_at(&self, node: &Node<B>, dir: &Node<B>, name: &OsStr) {
        if self.tracks_places.load(Ordering::Acquire) && name != "." && name != ".." {
            node.set_place(dir.id, name);
        }
    }

    /// As [`Self::found_at`], for an object that has just been moved there.
    pub(super) fn moved_to(&self, dir: &Node<B>, name: &OsStr) {
        if !self.tracks_places.load(Ordering::Acquire) {
            return;
        }
        let key: Option<ObjectKey> = self.backing.lookup(&dir.object, name).ok().map(|f| f.key);
        if let Some(node) = key.and_then(|key| self.nodes.find(&key)) {
            node.set_place(dir.id, name);
        }
    }
}

/// The mode at a path. Where that is unknown more is promised than need be, never less.
fn mode_by(policy: &Policy, path: Option<PathBuf>) -> Durability {
    path.map_or_else(|| policy.strongest(), |path| policy.applied(&path).durability)
}

impl<B: Backing> OpenFile<B> {
    fn asks_at_close(&self) -> bool {
        self.durability.at_close() && (self.mode.write || self.is_new)
    }
}
