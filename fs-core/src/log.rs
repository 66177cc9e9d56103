//! The commit log: what a group of sync requests leaves behind instead of a
//! journal commit.
//!
//! A journal commit of the backing filesystem costs two device flushes, and
//! concurrent syncs share half of them at best. What a commit adds to data that is
//! in place already is small: names, attributes, lengths, where new blocks belong.
//! The log says that in one write. So a group costs one flush:
//!
//! 1. The dirty pages of the group's files are written in place, and waited for; but not
//!    those that have no block yet, of files that are synced again and again.
//! 2. One *group* goes into the log: every operation since the last one (the
//!    [`stream`]), and of the group's files those bytes whose blocks no durable
//!    journal commit covers ([`tracked`]).
//! 3. One flush makes both durable; then all are answered.
//!
//! In the background a *checkpoint* writes in place what was left out, and makes one
//! journal commit, after which that part of the log is free and those blocks are
//! committed. After a power cut *recovery* redoes what the backing journal did not keep and fills the files where they have
//! no block ([`recovery`]). How far the journal got is told by the *marker*, a file
//! whose time of change is set after each operation, in the same journal.
//!
//! | part | what is in it |
//! | --- | --- |
//! | [`format`], [`record`] | how the log looks on disk |
//! | `writer` | where the next group goes, what is free |
//! | `stream` | operations that wait for a group |
//! | [`tracked`] | per file: which bytes are committed, which are live in the log |
//! | `marks` | what must not be taken from the log any more |
//! | `waiting` | content that only the log has, written in place before the log is free |
//! | `rewrites`, `undo` | files rewritten in place are old or new after a power cut |
//! | `together` | batches that a power cut leaves all or none of |
//! | `home` | the directory `.lanefs` |
//! | `checkpoint` | the background thread |
//! | [`recovery`] | after a power cut |
//!
//! Locks, left before right: writer, stream, tracked file. The stream's lock is held
//! while an operation is applied, so that records stand in the order of application.
//!
//! Why replay never puts old bytes over new ones: a record is used only where the
//! file has no committed block, and a block was written in place, at least as new as
//! the record, before the flush that made the record durable, or has been allocated since, for
//! content that is. Nothing that makes
//! data durable in place (`sync(2)`, `msync(2)`, a write-back by the kernel) can
//! therefore be rolled back.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use self::checkpoint::Checkpointer;
use self::home::Home;
pub(crate) use self::marks::OURSELVES;
use self::probe::ProbeFigures;
use self::ranges::RangeSet;
use self::record::Change;
use self::rewrites::RewriteCounts;
use self::stream::Stream;
use self::tracked::{Before, Start, Tracked, TrackedFiles};
use self::waiting::Waiting;
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::fence::BackingFence;
use crate::platform::{Backing, LogStore, ObjectKey, OpenMode, WHOLE_FILE};
use crate::types::Attr;

mod checkpoint;
pub mod format;
mod home;
mod marks;
mod open;
pub mod probe;
pub mod ranges;
pub mod record;
pub mod recovery;
mod rewrites;
mod stream;
pub(crate) mod together;
pub mod tracked;
mod undo;
mod waiting;
mod writer;

pub use self::home::HOME_NAME;
pub(crate) use self::marks::Mark;
pub use self::open::{
    LogConfig, OpenLogError, PlantedBugs, Progress, format_store, inline_bytes_for,
};
pub use self::rewrites::RewriteStatus;
pub(crate) use self::stream::Tail;
pub(crate) use self::writer::{WriteError, Writer};

/// Records that may wait for a group; then one is written although nobody asks.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// For the log's and the engine's own reading.
pub(crate) const READ: OpenMode =
    OpenMode { read: true, write: false, truncate: false, no_atime: true };

/// The log of one engine.
pub struct Log<B: Backing> {
    backing: Arc<B>,
    fence: Arc<BackingFence<B>>,
    home: Home<B>,
    config: LogConfig,
    pub(crate) files: TrackedFiles<B>,
    stream: Mutex<Stream<B>>,
    pub(crate) writer: Mutex<Writer<B::Log>>,
    checkpointer: Arc<Checkpointer>,
    /// The last number that is durable, by a group or by a commit.
    durable: AtomicU64,
    /// A copy of the writer's, for those who must not wait for it.
    durable_tail: AtomicU64,
    boot_id: [u8; 16],
    uuid: String,
    elsewhere: bool,
    figures: Option<ProbeFigures>,
    inline_bytes_max: u64,
    counts: Counts,
    rewrites: RewriteCounts,
    waiting: Waiting,
    /// Why the log is not used any more.
    failure: Mutex<Option<String>>,
}

/// An operation that was applied.
pub(crate) struct Applied<T> {
    pub(crate) value: T,
    /// Its number.
    pub(crate) lsn: Lsn,
    /// So much waits for a group that one should be written.
    pub(crate) is_overdue: bool,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) groups: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_errors: AtomicU64,
    pub(crate) compared_pages: AtomicU64,
    pub(crate) marks: AtomicU64,
}

/// Figures of a log, for `lanefs status`.
#[derive(Debug, Clone, Serialize)]
pub struct LogStatus {
    /// Length in bytes.
    pub bytes: u64,
    /// Part of it that recovery would have to read, from 0 to 1.
    pub used_ratio: f64,
    /// Groups written.
    pub groups: u64,
    /// Bytes of them.
    pub group_bytes: u64,
    /// Groups that were made durable by a journal commit instead.
    pub commits: u64,
    /// Of them, because the log was full.
    pub full: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub checkpoint_errors: u64,
    /// Files that are tracked.
    pub tracked_files: usize,
    /// Last operation that is durable.
    pub durable_lsn: Lsn,
    /// Pages that were compared with their records.
    pub compared_pages: u64,
    /// Marks made for truncations of logged content.
    pub marks: u64,
    /// Files whose new content beyond this many bytes goes without the log.
    pub inline_bytes_max: u64,
    /// One flush of the log's device at the start, in microseconds, if measured.
    pub flush_us: Option<f64>,
    /// The log lies outside of the backing directory.
    pub elsewhere: bool,
    /// Files cut to nothing and written anew.
    pub rewrites: RewriteStatus,
    /// Why the log is not used any more, if so.
    pub failure: Option<String>,
}

impl<B: Backing> Log<B> {
    /// Applies an operation and takes it into the stream, both or neither.
    ///
    /// `prepare` runs in front of it with the number that it will have, and gives the
    /// mark that it made. `describe` tells what was done, in one change or more; it gets
    /// the number of the first.
    pub(crate) fn apply<T>(
        &self,
        prepare: impl FnOnce(&Self, Lsn) -> Result<Option<Mark>>,
        operation: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&Self, Lsn, &T, &mut Vec<Change>),
    ) -> Result<Applied<T>> {
        let mut stream = self.lock_stream();
        let first = stream.next();
        let mark = prepare(self, first)?;
        let value = operation().inspect_err(|_| self.unmark(mark.as_ref()))?;
        let mut changes = Vec::with_capacity(2);
        describe(self, first, &value, &mut changes);
        changes.into_iter().for_each(|change| stream.push(change));
        let lsn = stream.last();
        self.note_applied(lsn);
        let is_overdue = stream.pending_bytes() > PENDING_BYTES_MAX;
        Ok(Applied { value, lsn, is_overdue })
    }

    /// Notes in the marker that everything up to `lsn` was applied; under the stream's lock.
    fn note_applied(&self, lsn: Lsn) {
        if let Err(error) = self.backing.set_marker(&self.home.marker, lsn) {
            // Without the marker nobody can tell after a power cut what was kept.
            self.give_up(&format!("the marker cannot be set: {error}"));
        }
    }

    /// The last number given out.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.lock_stream().last()
    }

    /// Whether everything applied so far is durable.
    pub(crate) fn is_all_durable(&self) -> bool {
        let stream = self.lock_stream();
        stream.is_empty() && self.is_durable_through(stream.last())
    }

    /// Whether every operation up to this one is durable.
    pub(crate) fn is_durable_through(&self, lsn: Lsn) -> bool {
        self.durable.load(Ordering::Acquire) >= lsn
    }

    // ---- files ----

    /// Notes that a file was opened for writing; `file` is any open file of it.
    pub(crate) fn opened(&self, key: &ObjectKey, file: &B::File, is_new: bool) -> Arc<Tracked<B>> {
        self.files.opened(key, || {
            if is_new {
                return Start::default();
            }
            // What cannot be found out counts as not committed.
            let (committed, size) = self.settled(file).unwrap_or_default();
            let moves = self.backing.may_share_blocks() && committed.is_empty() && size > 0;
            Start { committed, moves }
        })
    }

    /// The bytes below a file's end that have blocks, and where that end is.
    fn settled(&self, file: &B::File) -> Result<(RangeSet, u64)> {
        let size = self.backing.file_attr(file)?.size;
        let clip = |range: Range<u64>| range.start..range.end.min(size);
        let settled = self.backing.settled(file, WHOLE_FILE)?;
        Ok((settled.into_iter().map(clip).filter(|range| !range.is_empty()).collect(), size))
    }

    /// The file's state, for a sync of somebody who has not written it: if it is
    /// not known yet, nothing of it counts as committed.
    pub(crate) fn track(&self, key: &ObjectKey) -> Arc<Tracked<B>> {
        self.files.find(key).unwrap_or_else(|| {
            let file = self.files.opened(key, || Start { moves: false, ..Start::default() });
            self.files.closed(&file, None);
            file
        })
    }

    /// The log's own open file of a tracked one.
    pub(crate) fn reader(&self, file: &Tracked<B>, object: &B::Object) -> Result<Arc<B::File>> {
        file.reader(|| self.backing.open(OURSELVES, object, READ))
    }

    /// Notes that an opening for writing has ended, through which operation `cut_at` has
    /// cut the file to nothing, if that is not 0. A file that was cut so and written again
    /// is made durable with whatever comes next.
    pub(crate) fn closed(
        &self,
        file: &Arc<Tracked<B>>,
        object: &B::Object,
        open: &B::File,
        cut_at: Lsn,
    ) {
        if file.is_emptied() && file.ends_with_closing(cut_at) {
            // Its copy stays: the old content comes back.
            let _ = self.join(file, object);
        }
        let exact = self.backing.has_exact_times();
        let attr = exact.then(|| self.backing.file_attr(open).ok()).flatten();
        self.files.closed(file, attr.as_ref());
        file.spare_reader();
    }

    /// The file as it is before it is written in place.
    pub(crate) fn before(&self, file: &Tracked<B>, reader: &B::File) -> Result<Before> {
        let mut before = file.before(|| self.backing.file_attr(reader))?;
        if file.has_lost() {
            // Where it cannot be told, cutting the file is the only way.
            before.unwritten(self.backing.unwritten_bytes(reader).unwrap_or(0));
        }
        Ok(before)
    }

    /// Whether a durable group has found the file in exactly this state.
    pub(crate) fn is_synced(&self, file: &Tracked<B>, attr: &Attr) -> bool {
        self.backing.has_exact_times() && file.is_synced(attr)
    }

    /// Has the next group make a file's content durable: its name is about to stand
    /// for something that programs rely on. Its data is written in place at once, so
    /// that the backing journal cannot keep the name without it either.
    ///
    /// # Errors
    /// It cannot be written, or could not be before and was not written anew: whatever it is to take
    /// the place of should stay.
    pub(crate) fn join(&self, file: &Arc<Tracked<B>>, object: &B::Object) -> Result<()> {
        let joined = self.reader(file, object).and_then(|reader| {
            let before = self.before(file, &reader)?;
            if !file.is_whole(&before) {
                return Err(Errno::IO);
            }
            if self.is_synced(file, &before.attr) {
                return Ok(());
            }
            let placed = self.backing.finish_write_back(&reader);
            placed.inspect_err(|_| file.lose())?;
            file.placed(&before);
            self.rewritten(file, &before)?;
            file.joins();
            self.lock_stream().join(Arc::clone(file));
            Ok(())
        });
        // The group opens it again: an open file that is replaced before would keep its
        // inode and blocks until then.
        file.spare_reader();
        joined.inspect_err(|error| {
            tracing::warn!(%error, "a file's content cannot be made durable with its name");
        })
    }

    /// Notes that a file has lost its last name, by an operation of the stream.
    pub(crate) fn removed(&self, key: &ObjectKey) {
        // The operation that it joined and the one that removed it are in one group, or
        // it is too late, and the fence sees that it has no name.
        self.lock_stream().leave(&key.portable());
        if let Some(file) = self.files.find(key) {
            self.leave_rewrite(&file);
        }
        self.files.removed(key);
    }

    /// Notes that operation `lsn` set a file's length.
    pub(crate) fn resized(&self, key: &ObjectKey, size: u64, lsn: Lsn) {
        if let Some(file) = self.files.find(key) {
            file.resized(size, lsn);
        }
    }

    /// Notes that operation `lsn` took a range from a file.
    pub(crate) fn replaced(&self, key: &ObjectKey, range: &Range<u64>, lsn: Lsn) {
        if let Some(file) = self.files.find(key) {
            file.replaced(range, lsn);
        }
    }

    /// Notes that a file may share blocks with another now.
    pub(crate) fn shared(&self, key: &ObjectKey) {
        if let Some(file) = self.files.find(key) {
            file.shared();
        }
    }

    /// Makes a mark if content of the file from `offset` on may be in the log; gives it.
    pub(crate) fn mark(
        &self,
        lsn: Lsn,
        key: &ObjectKey,
        offset: u64,
        change: Change,
    ) -> Result<Option<Mark>> {
        let Some(file) = self.files.find(key) else { return Ok(None) };
        let kept_from = self.durable_tail.load(Ordering::Acquire);
        if self.config.bugs.no_marks || !file.is_logged_from(offset, kept_from) {
            return Ok(None);
        }
        self.counts.marks.fetch_add(1, Ordering::Relaxed);
        let mark = Mark { lsn, change };
        self.home.marks.make(&*self.backing, &mark)?;
        Ok(Some(mark))
    }

    /// Takes back the mark of an operation that has failed: recovery would carry it out,
    /// and another operation gets its number.
    fn unmark(&self, mark: Option<&Mark>) {
        let Some(mark) = mark else { return };
        if let Err(error) = self.home.marks.remove(&*self.backing, mark) {
            self.give_up(&format!("a mark cannot be removed: {error}"));
        }
    }

    pub(crate) const fn backing(&self) -> &Arc<B> {
        &self.backing
    }

    // ---- for the fence ----

    pub(crate) const fn bugs(&self) -> PlantedBugs {
        self.config.bugs
    }

    pub(crate) const fn inline_bytes_max(&self) -> u64 {
        self.inline_bytes_max
    }

    pub(crate) const fn file_parts_max(&self) -> usize {
        self.config.file_parts_max
    }

    pub(crate) const fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    /// Flushes the device of the backing filesystem.
    pub(crate) fn flush_device(&self) -> Result<()> {
        self.backing.flush_device(&self.home.marker)
    }

    pub(crate) fn count_compared(&self, pages: usize) {
        self.counts.compared_pages.fetch_add(pages as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_group(&self, bytes: u64) {
        self.counts.groups.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A journal commit has made everything up to `through` durable. If the log is
    /// full, that is a checkpoint, provided that all it has was `placed`.
    pub(crate) fn committed(
        &self,
        writer: &mut Writer<B::Log>,
        through: Lsn,
        is_full: bool,
        placed: bool,
    ) {
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.counts.full.fetch_add(u64::from(is_full), Ordering::Relaxed);
        if !is_full || !placed {
            return;
        }
        self.files.all().iter().for_each(|file| file.checkpointed(through));
        let freed = writer.checkpointed(writer.last_lsn()).and_then(|()| writer.flush());
        if let Err(error) = freed {
            self.give_up(&device_error(error));
        }
        self.note_tail(writer);
    }

    // ---- the end ----

    /// Everything is durable in the backing directory, up to `last`, and the log is
    /// empty; with `clean` it also ends here.
    ///
    /// # Errors
    /// The filesystem's or the log's. A file that is being rewritten cannot be written in place: all
    /// else is durable, and its copy stays for recovery.
    pub(crate) fn finish(&self, clean: bool) -> Result<()> {
        let (_, settled) = self.settle_rewrites(Duration::ZERO);
        let last = self.lock_stream().last();
        let files = self.files.all();
        let closed = self.files.closed_files();
        let placed = self.place_waiting();
        self.backing.sync_all()?;
        // Else all but what the log has is durable, and the log is kept.
        placed?;
        files.iter().for_each(|file| file.checkpointed(last));
        if self.failure().is_some() {
            // Whatever is in the log is in the backing directory too.
            return settled;
        }
        let mut writer = self.lock_writer();
        writer.finish(last, clean)?;
        self.note_tail(&writer);
        let freed = writer.durable_tail_lsn();
        drop(writer);
        self.files.forget_closed(&closed, true, freed);
        self.home.marks.remove_through(&*self.backing, freed)?;
        settled?;
        if clean {
            self.home.set_readme(&*self.backing, false)?;
            if self.elsewhere {
                self.home.note_log_elsewhere(&*self.backing, &self.uuid, false)?;
            }
        }
        Ok(())
    }

    /// Stops the background thread; waits for it.
    pub(crate) fn stop(&self, deadline: Duration) {
        self.checkpointer.stop(deadline);
    }

    /// What the log's device was measured to take.
    #[must_use]
    pub const fn figures(&self) -> Option<&ProbeFigures> {
        self.figures.as_ref()
    }

    /// Figures since the start.
    pub fn status(&self) -> LogStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (bytes, used_ratio) = {
            let writer = self.lock_writer();
            (writer.store().bytes(), writer.used_ratio())
        };
        LogStatus {
            bytes,
            used_ratio,
            groups: count(&self.counts.groups),
            group_bytes: count(&self.counts.bytes),
            commits: count(&self.counts.commits),
            full: count(&self.counts.full),
            checkpoints: count(&self.counts.checkpoints),
            checkpoint_errors: count(&self.counts.checkpoint_errors),
            tracked_files: self.files.len(),
            durable_lsn: count(&self.durable),
            compared_pages: count(&self.counts.compared_pages),
            marks: count(&self.counts.marks),
            inline_bytes_max: self.inline_bytes_max,
            flush_us: self.figures.map(|figures| figures.flush.as_secs_f64() * 1e6),
            elsewhere: self.elsewhere,
            rewrites: self.rewrite_status(),
            failure: self.failure(),
        }
    }

    /// Why the log is not used any more, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses the log no more: from now on every group is a journal commit. What is
    /// in the log stays there, and stays true.
    pub(crate) fn give_up(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(reason, "the log is not used any more; syncing the backing directory");
            *failure = Some(reason.to_owned());
        }
    }

    pub(crate) fn lock_stream(&self) -> MutexGuard<'_, Stream<B>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_writer(&self) -> MutexGuard<'_, Writer<B::Log>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_durable(&self, lsn: Lsn) {
        self.durable.fetch_max(lsn, Ordering::AcqRel);
    }

    /// Takes over what the writer knows of the durable tail.
    pub(crate) fn note_tail(&self, writer: &Writer<B::Log>) {
        self.durable_tail.fetch_max(writer.durable_tail_lsn(), Ordering::AcqRel);
    }
}

/// An error of the log's device, in words.
pub(crate) fn device_error(error: Errno) -> String {
    format!("the log's device failed: {error}")
}
