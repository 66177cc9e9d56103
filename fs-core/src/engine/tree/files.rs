//! Open files: reading, writing, making durable.

use std::cell::Cell;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::describe::{self, made, nothing};
use super::{Entry, FileId, OpenFile, Tree};
use crate::durability::Durability;
use crate::engine::Lsn;
use crate::engine::committer::LateError;
use crate::engine::nodes::{Node, NodeId};
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::fence::ahead::{AHEAD_BYTES_MIN, Ahead};
use crate::lane::Completion;
use crate::log::Log;
use crate::log::record::Change;
use crate::log::tracked::Tracked;
use crate::platform::{Backing, OpenMode, Seek, SyncTarget};
use crate::types::{Caller, NewMode, SetAttr, SyncKind};

/// Modes of `fallocate(2)` that take bytes from a file: `FALLOC_FL_PUNCH_HOLE`,
/// `FALLOC_FL_ZERO_RANGE`.
const TAKES_RANGE: u32 = 0x02 | 0x10;
/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 0x01;
/// Those that move all bytes behind: `FALLOC_FL_COLLAPSE_RANGE`, `FALLOC_FL_INSERT_RANGE`.
const MOVES_REST: u32 = 0x08 | 0x20;
/// Set-user-id and set-group-id.
const SETID_BITS: u16 = 0o6000;

impl<B: Backing> Tree<B> {
    /// Opens a file. With `lazy`, a file that is only read is not opened before
    /// something needs it (passthrough readers never do).
    pub fn open(&self, caller: Caller, id: NodeId, mode: OpenMode, lazy: bool) -> Result<FileId> {
        let node = self.nodes.get(id)?;
        let open = |mode: OpenMode| {
            let node = Arc::clone(&node);
            let open = OpenFile::new(node, mode, OnceLock::new());
            if mode.truncate {
                self.open_cut(caller, &open)?;
            } else if !lazy || mode.write {
                self.file_of(caller, &open)?;
            }
            Ok(open)
        };
        let mut open = self.with_reading(mode, open)?;
        if mode.write {
            open.tracked = self.track_open(&open, false);
        }
        self.opening(&mut open, mode.truncate);
        Ok(FileId(self.files.insert(open)))
    }

    /// Opens for writing what the log may read, too, where that is allowed.
    fn with_reading<T>(&self, mode: OpenMode, open: impl Fn(OpenMode) -> Result<T>) -> Result<T> {
        if self.engine.log.is_none() || !mode.write || mode.read {
            return open(mode);
        }
        match open(OpenMode { read: true, no_atime: true, ..mode }) {
            Err(Errno::PERM | Errno::ACCES) => open(mode),
            opened => opened,
        }
    }

    /// Opens a file and cuts it to nothing.
    fn open_cut(&self, caller: Caller, open: &OpenFile<B>) -> Result<()> {
        let opening = || self.file_of(caller, open);
        let (_, lsn) = self.resize(&open.node, (0, 0), opening, |_, _| {})?;
        open.cut_at.store(lsn, Ordering::Relaxed);
        Ok(())
    }

    /// Sets a file's length by `operation`, for who has cut it to nothing in operation
    /// `cut_at` before, if not 0; `describe` tells what else was changed. A file that is
    /// cut to nothing keeps a copy of what it held, until it has been written anew.
    pub(super) fn resize<T>(
        &self,
        node: &Arc<Node<B>>,
        (size, cut_at): (u64, Lsn),
        operation: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&T, &mut Vec<Change>),
    ) -> Result<(T, Lsn)> {
        let key = node.key();
        let rewrite = match &self.engine.log {
            Some(log) if size == 0 => {
                let attr = self.backing.attr(&node.object)?;
                log.begin_rewrite(&key, &node.object, &attr, cut_at)
            }
            _ => None,
        };
        let claimed = Cell::new(None);
        let prepare = |log: &Log<B>, lsn| {
            // The copy first: recovery carries out a mark that stands alone.
            let name = rewrite.as_ref().and_then(|rewrite| log.claim_rewrite(rewrite, lsn));
            let mark = log.mark(lsn, &key, size, describe::resized(key, size));
            if let (Err(_), Some(name)) = (&mark, &name) {
                log.cancel_rewrite(name);
            }
            claimed.set(name);
            mark
        };
        let resize = || {
            operation().inspect_err(|_| {
                if let (Some(log), Some(name)) = (&self.engine.log, claimed.take()) {
                    log.cancel_rewrite(&name);
                }
            })
        };
        let resized_at = Cell::new(0);
        let result = self.change(&[node], prepare, resize, |log, lsn, value, changes| {
            resized_at.set(lsn);
            log.resized(&key, size, lsn);
            match (&rewrite, claimed.take()) {
                (Some(rewrite), Some(name)) => {
                    log.rewriting(rewrite, lsn, name);
                    changes.push(Change::Rewrite { object: key });
                }
                _ => changes.push(describe::resized(key, size)),
            }
            describe(value, changes);
        });
        if let (Some(log), Some(_)) = (&self.engine.log, &rewrite) {
            log.watch_rewrites();
        }
        Ok((result?, resized_at.get()))
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
        self.check_name(&dir, name, Errno::PERM)?;
        // Cutting an existing file is an operation of its own.
        let uncut = OpenMode { truncate: false, ..mode };
        let create = |mode: OpenMode| {
            let made = self.backing.create(caller, &dir.object, name, new, mode, exclusive)?;
            Ok((made, mode))
        };
        let created = self.change(
            &[&dir],
            nothing,
            || self.with_reading(uncut, create),
            |_, _, ((found, _, is_new), _), changes| {
                changes.extend(is_new.then(|| made(dir.key(), name, found, OsStr::new(""))));
            },
        )?;
        let ((found, file, is_new), opened) = created;
        let (node, mut entry) = self.enter(found, &dir, name);
        let file = OnceLock::from(Arc::new(file));
        let mut open = OpenFile::new(node, opened, file);
        if mode.write {
            open.tracked = self.track_open(&open, is_new);
        }
        self.opening(&mut open, is_new || mode.truncate);
        let id = self.files.insert(open);
        if mode.truncate && !is_new {
            let cut = SetAttr { size: Some(0), ..SetAttr::default() };
            let result = self.set_attr(caller, entry.id, Some(FileId(id)), &cut);
            entry.attr = result.inspect_err(|_| {
                self.release(FileId(id));
                self.forget(entry.id, 1);
            })?;
        }
        Ok((entry, FileId(id)))
    }

    pub(super) fn track_open(&self, open: &OpenFile<B>, is_new: bool) -> Option<Arc<Tracked<B>>> {
        let log = self.engine.log.as_ref()?;
        let file = open.file.get()?;
        Some(log.opened(&open.node.key(), file, is_new))
    }

    pub(super) fn backing_file(&self, caller: Caller, file: FileId) -> Result<Arc<B::File>> {
        self.file_of(caller, &*self.files.get(file.0)?)
    }

    /// Runs `call` with the backing object of a node.
    pub fn with_object<T>(&self, id: NodeId, call: impl FnOnce(&B, &B::Object) -> T) -> Result<T> {
        Ok(call(&self.backing, &self.nodes.get(id)?.object))
    }

    /// Whether cutting a file to nothing takes long: a copy of much is made and written first.
    pub fn cut_takes_long(&self, id: NodeId) -> bool {
        let Some(log) = &self.engine.log else { return false };
        let attr = self.nodes.get(id).and_then(|node| self.backing.attr(&node.object));
        attr.is_ok_and(|attr| (AHEAD_BYTES_MIN + 1..=log.rewrite_bytes_max()).contains(&attr.size))
    }

    /// Whether closing the file waits for the disk: one that was cut to nothing and
    /// written again is written in place then.
    pub fn release_may_wait(&self, file: FileId) -> bool {
        let open = self.files.get(file.0);
        open.is_ok_and(|open| {
            let emptied = open.tracked.as_ref().is_some_and(|file| file.is_emptied());
            emptied || open.closed_empty.load(Ordering::Acquire)
        })
    }

    /// Whether it waits for much to be written.
    pub fn release_takes_long(&self, file: FileId) -> bool {
        self.release_may_wait(file)
            && self.files.get(file.0).is_ok_and(|open| {
                open.file.get().is_some_and(|file| self.backing.known_bytes(file) > AHEAD_BYTES_MIN)
            })
    }

    /// Closes a file.
    pub fn release(&self, file: FileId) {
        let Some(open) = self.files.remove(file.0) else { return };
        if let (Some(log), Some(tracked)) = (&self.engine.log, &open.tracked)
            && let Some(file) = open.file.get()
        {
            if open.unseen.load(Ordering::Relaxed) {
                log.set_unseen(tracked, &open.node.object, false);
            }
            log.closed(tracked, &open.node.object, file, open.cut_at.load(Ordering::Relaxed));
        }
        self.release_settles(&open);
        if open.mode.write {
            self.wrote.store(true, Ordering::SeqCst);
            self.engine.unsynced();
        }
    }

    /// Notes that the front-end leaves an open file's writes to the kernel, which may
    /// make them durable without our knowing: what the file held before it was cut must
    /// not come back any more. To be called before the program can write.
    pub fn leave_unseen(&self, file: FileId) {
        let Ok(open) = self.files.get(file.0) else { return };
        if let (Some(log), Some(tracked)) = (&self.engine.log, &open.tracked)
            && !open.unseen.swap(true, Ordering::Relaxed)
        {
            log.set_unseen(tracked, &open.node.object, true);
        }
    }

    /// Whether a file is being rewritten all or nothing, which ends when the writes of an
    /// open file of it are left to the kernel ([`Self::leave_unseen`]).
    pub fn is_being_rewritten(&self, id: NodeId) -> bool {
        let (Some(log), Ok(node)) = (&self.engine.log, self.nodes.get(id)) else { return false };
        log.files.find(&node.key()).is_some_and(|file| file.is_rewriting())
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
        let open = self.files.get(file.0)?;
        let file = self.file_of(caller, &open)?;
        let write = || self.backing.write(caller, &*file, data, offset, keep_suid);
        if keep_suid { write() } else { self.taking_setid(&open.node, &file, write) }
    }

    /// Runs a change of content that takes set-user-id and set-group-id bits from the
    /// file. With a log that is an operation: recovery must not give back, to a content
    /// that a stranger wrote, a right that an earlier operation gave.
    fn taking_setid<T>(
        &self,
        node: &Arc<Node<B>>,
        file: &B::File,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.logs_setid(file)? {
            return change();
        }
        self.change(&[node], nothing, change, |_, _, _, changes| {
            changes.extend(self.perm_now(node, file));
        })
    }

    /// Whether it is for the log if the file loses such bits. Asks the open file: one
    /// without a name may be found in no other way.
    fn logs_setid(&self, file: &B::File) -> Result<bool> {
        let logs = self.engine.log.is_some();
        Ok(logs && self.backing.file_attr(file)?.perm & SETID_BITS != 0)
    }

    fn perm_now(&self, node: &Node<B>, file: &B::File) -> Option<Change> {
        let perm = Some(self.backing.file_attr(file).ok()?.perm);
        let object = node.key();
        Some(Change::Attrs { object, perm, uid: None, gid: None, atime: None, mtime: None })
    }

    /// Writes the front of `data` past the page cache, as far as that goes:
    /// [`Backing::write_direct`]. For a file that nobody else knows yet.
    pub fn write_direct(
        &self,
        caller: Caller,
        file: FileId,
        data: &[u8],
        offset: u64,
    ) -> Result<usize> {
        self.backing.write_direct(&*self.backing_file(caller, file)?, data, offset)
    }

    /// Starts to write a file's dirty pages to where they belong. Errors are told by
    /// [`Self::write_back`].
    pub fn start_write_back(&self, caller: Caller, file: FileId) {
        if let Ok(file) = self.backing_file(caller, file) {
            let _ = self.backing.start_write_back(&*file);
        }
    }

    /// Writes a file's dirty pages to where they belong and waits; not durable by that.
    /// Tells a failed write-back.
    pub fn write_back(&self, caller: Caller, file: FileId) -> Result<()> {
        self.backing.finish_write_back(&*self.backing_file(caller, file)?)
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
        let open = self.files.get(file.0)?;
        let file = self.file_of(caller, &open)?;
        let object = open.node.key();
        let taken = if mode & MOVES_REST != 0 {
            Some(offset..u64::MAX)
        } else {
            (mode & TAKES_RANGE != 0).then(|| offset..offset.saturating_add(bytes))
        };
        let change = Change::Allocate { object, mode, offset, bytes };
        let mark = change.clone();
        let logs_setid = self.logs_setid(&file)?;
        self.change(
            &[&open.node],
            |log, lsn| match &taken {
                Some(range) => log.mark(lsn, &object, range.start, mark),
                None => Ok(None),
            },
            || self.backing.allocate(caller, &*file, mode, offset, bytes),
            |log, lsn, (), changes| {
                // A new length is an operation too: no record of an earlier one may show it.
                let extended = offset.saturating_add(bytes);
                let extended = (mode & KEEP_SIZE == 0).then_some(extended..extended);
                if let Some(range) = taken.as_ref().or(extended.as_ref()) {
                    log.replaced(&object, range, lsn);
                }
                changes.push(change);
                changes.extend(if logs_setid { self.perm_now(&open.node, &file) } else { None });
            },
        )
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
        let (from, to) = (self.files.get(source.0.0)?, self.files.get(target.0.0)?);
        let (read, written) = (self.file_of(caller, &from)?, self.file_of(caller, &to)?);
        if let Some(log) = self.engine.log.as_ref().filter(|_| self.backing.may_share_blocks()) {
            // Both may share blocks from now on, and a write to either gets a new place.
            log.shared(&from.node.key());
            log.shared(&to.node.key());
        }
        self.taking_setid(&to.node, &written, || {
            self.backing.copy_range(caller, (&*read, source.1), (&*written, target.1), bytes)
        })
    }

    /// Makes a file durable, then calls `done`; never waits for another group.
    pub fn sync_file(&self, caller: Caller, file: FileId, kind: SyncKind, done: Completion) {
        let delay = self.durability(file).delay();
        let kind = if delay.is_some() { SyncKind::Full } else { kind };
        let request = self.sync_request(caller, file, kind).and_then(|request| {
            let asked = request.target.as_ref();
            asked.map_or(Ok(()), |target| self.backing.asked_to_sync(caller, target))?;
            Ok(request)
        });
        if let (Ok(request), Some(delay), Ok(open)) = (&request, delay, self.files.get(file.0)) {
            let request = SyncRequest::clone(request);
            return done(self.sync_later(request, delay, &open.late_error));
        }
        match request {
            Ok(request) => self.engine.lanes.submit(u64::from(caller.thread), request, done),
            Err(error) => done(Err(error)),
        }
    }

    pub(super) fn sync_request(
        &self,
        caller: Caller,
        file: FileId,
        kind: SyncKind,
    ) -> Result<SyncRequest<B>> {
        let open = self.files.get(file.0)?;
        let file = self.file_of(caller, &open)?;
        // Reading through it must not change when programs see it read.
        let readable = open.mode.read && open.mode.write && open.mode.no_atime;
        let reader = readable.then(|| Arc::clone(&file));
        let tracked = match &self.engine.log {
            Some(log) => Some(tracked(log, &open, reader.is_none())?),
            None => None,
        };
        let bytes = self.backing.known_bytes(&file);
        let ahead = Ahead::new(&self.backing, open.node.key(), &open.node.pace, bytes);
        let target = Some(SyncTarget::File(file, kind));
        let (ahead, keeps_others_out) = (Some(Arc::new(ahead)), open.node.synced_by(caller));
        Ok(SyncRequest { target, file: tracked, reader, through: None, keeps_others_out, ahead })
    }

    pub(super) fn file_of(&self, caller: Caller, open: &OpenFile<B>) -> Result<Arc<B::File>> {
        if let Some(file) = open.file.get() {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.backing.open(caller, &open.node.object, open.mode)?);
        // Two threads may open at once; one of the two files is kept.
        Ok(Arc::clone(open.file.get_or_init(|| file)))
    }
}

impl<B: Backing> OpenFile<B> {
    pub(super) fn new(node: Arc<Node<B>>, mode: OpenMode, file: OnceLock<Arc<B::File>>) -> Self {
        Self {
            node,
            mode,
            tracked: None,
            file,
            cut_at: AtomicU64::new(0),
            unseen: AtomicBool::new(false),
            durability: Durability::default(),
            is_new: false,
            closed_empty: AtomicBool::new(false),
            stamp: None,
            late_error: LateError::default(),
            looked: Mutex::default(),
        }
    }
}

/// What the log knows of an open file, with a file of its own if it shall read that.
fn tracked<B: Backing>(
    log: &Log<B>,
    open: &OpenFile<B>,
    shall_read: bool,
) -> Result<Arc<Tracked<B>>> {
    let node: &Node<B> = &open.node;
    let tracked = match &open.tracked {
        Some(tracked) => Arc::clone(tracked),
        None => log.track(&node.key()),
    };
    if shall_read {
        log.reader(&tracked, &node.object)?;
    }
    Ok(tracked)
}
