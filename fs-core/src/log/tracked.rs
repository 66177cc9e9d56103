//! What is known of a file's way to the disk.
//!
//! When a sync asks for a file, its dirty pages are written in place first. That is
//! all for bytes whose blocks are *committed*: the backing journal, durable, says
//! where they are. The other bytes are in place too, but after a power cut the
//! backing filesystem may not know it: their content goes into the log, and is
//! *live* there until a journal commit that began later has succeeded. (Of those, what
//! the filesystem has not even given a block is not written in place before the next
//! checkpoint: `tracked/delayed.rs`.)
//!
//! So for every byte of a file below its length one of these holds after a sync:
//! its block is committed; or a live record of the log has it; or it is in a hole.
//! Recovery uses a record only where there is no committed block, because a block
//! always holds at least what was logged.
//!
//! Nobody tells us when a page changes: the kernel writes the backing file by
//! itself. A live page is therefore read again at each sync of its file and
//! compared with the checksum of its record. That is exact, and short: the number
//! of live pages is bounded by journal commits, which are made the more often the
//! longer the comparing takes.
//!
//! A file is tracked from its first opening for writing until a journal commit or
//! a sync of everything after its last closing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ranges::RangeSet;
use crate::engine::Lsn;
use crate::error::Result;
use crate::platform::{Backing, ObjectKey};
use crate::types::{Attr, Time};

mod collect;
mod delayed;
mod files;
mod parts;
mod rewriting;

pub(crate) use self::collect::{Collected, Memory, Need};
pub(crate) use self::delayed::Blocks;
pub(crate) use self::files::{Closed, TrackedFiles};

/// Unit in which content is compared and logged.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// One file that programs write.
pub struct Tracked<B: Backing> {
    key: ObjectKey,
    state: Mutex<FileState<B>>,
}

struct FileState<B: Backing> {
    /// Opened when first needed, for the log's own reading and write-back.
    reader: Option<Arc<B::File>>,
    /// Bytes in blocks that the durable journal knows.
    committed: RangeSet,
    /// Pages in live records, by page number.
    live: BTreeMap<u64, LivePage>,
    /// What waits for its blocks.
    delayed: delayed::Delayed,
    /// The length that the last record or journal commit has made durable, where no
    /// operation has set it since.
    durable_size: Option<u64>,
    /// The last record with content of this file, and where that content ends.
    logged: Option<Logged>,
    /// Last operation that took bytes away: a record made for an earlier place
    /// in the stream says nothing about what was written since.
    cut_at: Lsn,
    /// What the last durable group found.
    synced: Option<Synced>,
    /// Openings for writing that have not ended.
    writers: usize,
    /// Openings for writing so far.
    openings: u64,
    /// Cut to nothing by an opening, and not synced since.
    emptied: bool,
    /// Not written since it was last synced, and closed.
    clean: bool,
    /// Some of what was written could not be put in its place, and counts as clean in the page
    /// cache: writing in place succeeds from now on, and does nothing for it.
    lost: bool,
    /// Cut to nothing, with a copy of what it held before.
    rewrite: Option<Rewriting>,
    /// Openings whose writes do not come to us.
    unseen: usize,
    /// Writing may give pages a new place, because blocks are or were shared with
    /// another file: nothing ever counts as committed.
    moves: bool,
    /// Looks of the committer that found it changed since it was durable.
    looks: u32,
    /// Why its blocks are not looked at at each sync.
    blocks: parts::Blocks,
    /// When it was opened or found durable last: what is not durable is no older.
    durable_at: Instant,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LivePage {
    pub(crate) lsn: Lsn,
    /// Bytes of the page below the file's end when it was logged.
    pub(crate) bytes: u32,
    pub(crate) crc: u32,
    /// All of it had blocks when it was logged.
    pub(crate) placed: bool,
}

impl LivePage {
    /// Its bytes in the file, of which it is this page.
    fn range(&self, page: u64) -> Range<u64> {
        let start = page * PAGE_BYTES;
        start..start + u64::from(self.bytes)
    }
}

/// A rewrite that nothing durable has ended.
#[derive(Debug)]
struct Rewriting {
    /// The truncation in front of which the copy was made.
    lsn: Lsn,
    /// The last truncation to nothing.
    cut_at: Lsn,
    /// The copy of what was there before, until it is removed.
    copy: Option<OsString>,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Logged {
    lsn: Lsn,
    end: u64,
}

/// A state of a file, by its times; any change of the file changes them, where
/// the backing filesystem's times are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Synced {
    ctime: Time,
    mtime: Time,
    size: u64,
}

impl Synced {
    /// Whether this is still the file's state.
    pub(crate) fn matches(&self, attr: &Attr) -> bool {
        *self == Self::from(attr)
    }
}

impl From<&Attr> for Synced {
    fn from(attr: &Attr) -> Self {
        Self { ctime: attr.ctime, mtime: attr.mtime, size: attr.size }
    }
}

/// A file before its data is written in place. Whatever changes it after this was taken
/// changes its times again, or is an operation that takes bytes from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) attr: Attr,
    /// Last operation that had taken bytes.
    cut_at: Lsn,
    /// Of a file some of which is lost: all of it has been written anew.
    anew: bool,
}

impl Before {
    /// Tells how much of the file waits for being written in place.
    pub(crate) fn unwritten(&mut self, bytes: u64) {
        self.anew = bytes >= self.attr.size;
    }
}

/// What is known of a file when tracking begins.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) committed: RangeSet,
    pub(crate) moves: bool,
}

impl<B: Backing> Tracked<B> {
    fn new(key: ObjectKey, start: Start) -> Self {
        let Start { committed, moves } = start;
        Self {
            key,
            state: Mutex::new(FileState {
                reader: None,
                committed,
                live: BTreeMap::new(),
                delayed: delayed::Delayed::default(),
                durable_size: None,
                logged: None,
                cut_at: 0,
                synced: None,
                writers: 0,
                openings: 0,
                emptied: false,
                clean: false,
                lost: false,
                rewrite: None,
                unseen: 0,
                moves,
                looks: 0,
                blocks: parts::Blocks::default(),
                durable_at: Instant::now(),
            }),
        }
    }

    /// The file's key.
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Opens the file for the log, if that has not been done.
    pub(crate) fn reader(&self, open: impl FnOnce() -> Result<B::File>) -> Result<Arc<B::File>> {
        let mut state = self.lock();
        if let Some(reader) = &state.reader {
            return Ok(Arc::clone(reader));
        }
        let reader = Arc::new(open()?);
        state.reader = Some(Arc::clone(&reader));
        Ok(reader)
    }

    /// Lets the log read through a file that somebody has open for reading, if it has
    /// none of its own.
    pub(crate) fn lend_reader(&self, reader: &Arc<B::File>) {
        self.lock().reader.get_or_insert_with(|| Arc::clone(reader));
    }

    /// The log's own open file, if it has one.
    pub(crate) fn open_reader(&self) -> Option<Arc<B::File>> {
        self.lock().reader.clone()
    }

    /// Closes the log's own open file, unless programs write the file.
    pub(crate) fn spare_reader(&self) {
        let mut state = self.lock();
        if state.writers == 0 {
            state.reader = None;
        }
    }

    /// Whether content from `offset` on may still be found in the log.
    pub(crate) fn is_logged_from(&self, offset: u64, kept_from: Lsn) -> bool {
        self.lock().logged.is_some_and(|logged| logged.end > offset && logged.lsn > kept_from)
    }

    /// Notes that operation `lsn` set the length to `size`.
    pub(crate) fn resized(&self, size: u64, lsn: Lsn) {
        let mut state = self.lock();
        state.cut_at = lsn;
        let first = size / PAGE_BYTES;
        // The page that `size` is in too: what is beyond `size` in it is zero now.
        state.committed.remove(&(first * PAGE_BYTES..u64::MAX));
        state.live.split_off(&first);
        // Of the page that `size` is in, what is left waits still.
        state.delayed.remove(&(size..u64::MAX));
        state.durable_size = None;
        state.synced = None;
        state.emptied |= size == 0;
        state.lost &= size > 0;
        state.blocks = parts::Blocks::default();
        if let Some(rewrite) = state.rewrite.as_mut().filter(|_| size == 0) {
            rewrite.cut_at = lsn;
        }
    }

    /// Notes that operation `lsn` punched or zeroed a range, or put shared blocks there.
    pub(crate) fn replaced(&self, range: &Range<u64>, lsn: Lsn) {
        let mut state = self.lock();
        state.cut_at = lsn;
        let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        let bytes = pages.start * PAGE_BYTES..pages.end.saturating_mul(PAGE_BYTES);
        state.committed.remove(&bytes);
        state.live.retain(|page, _| !pages.contains(page));
        state.delayed.remove(range);
        state.durable_size = None;
        state.synced = None;
    }

    /// The file may share blocks with another: writing them gives them a new place.
    pub(crate) fn shared(&self) {
        let mut state = self.lock();
        state.moves = true;
        state.committed = RangeSet::default();
        state.synced = None;
    }

    /// Whether the file, cut to nothing by an opening, was not synced since.
    pub(crate) fn is_emptied(&self) -> bool {
        self.lock().emptied
    }

    /// The file as it is now; `attr` asks for its attributes.
    pub(crate) fn before(&self, attr: impl FnOnce() -> Result<Attr>) -> Result<Before> {
        // First: an operation in between shows as one that came later.
        let cut_at = self.lock().cut_at;
        Ok(Before { attr: attr()?, cut_at, anew: false })
    }

    /// Notes that it could not be written in place.
    pub(crate) fn lose(&self) {
        self.lock().lost = true;
    }

    /// Whether something of it was lost that nobody has written anew.
    pub(crate) fn has_lost(&self) -> bool {
        self.lock().lost
    }

    /// Whether writing in place makes it whole: nothing was lost, or all of it was written anew.
    pub(crate) fn is_whole(&self, before: &Before) -> bool {
        before.anew || !self.has_lost()
    }

    /// It is to stand for another file, or for what it held before, and not in part: the next group
    /// has all of it, also what the journal knows in an older version.
    pub(crate) fn joins(&self) {
        self.lock().committed = RangeSet::default();
    }

    /// It was written in place, all that was there `before`.
    pub(crate) fn placed(&self, before: &Before) {
        if before.anew {
            self.lock().lost = false;
        }
    }

    /// Whether a durable group has found the file in exactly this state.
    pub(crate) fn is_synced(&self, attr: &Attr) -> bool {
        self.lock().synced == Some(Synced::from(attr))
    }

    /// Whether it is closed, and durable as it is.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.lock();
        state.writers == 0 && state.clean
    }

    /// Whether an operation behind `lsn` took bytes from it.
    pub(crate) fn is_cut_since(&self, lsn: Lsn) -> bool {
        self.lock().cut_at > lsn
    }

    /// Whether all of it, that long, has blocks that the durable journal knows.
    pub(crate) fn is_committed(&self, size: u64) -> bool {
        self.lock().committed.contains(&(0..size))
    }

    /// How often in a row it was found changed since it was last durable, now included; and
    /// whether programs have it open for writing.
    pub(crate) fn look(&self, attr: &Attr, times_are_exact: bool) -> (u32, bool) {
        let mut state = self.lock();
        let is_durable = times_are_exact && state.synced == Some(Synced::from(attr));
        let is_open = state.writers > 0;
        state.clean |= is_durable && !is_open;
        state.looks = if is_durable { 0 } else { state.looks + 1 };
        (state.looks, is_open)
    }

    /// How long ago it was durable last, or opened first; whether it is open for writing.
    pub(crate) fn durable_age(&self) -> (Duration, bool) {
        let state = self.lock();
        (state.durable_at.elapsed(), state.writers > 0)
    }

    /// Notes that its content is being made durable.
    pub(crate) fn commits(&self) {
        self.lock().looks = 0;
    }

    /// Notes that it has no name any more; whether programs have it open for writing.
    pub(crate) fn is_gone(&self) -> bool {
        let mut state = self.lock();
        state.clean |= state.writers == 0;
        state.writers > 0
    }

    /// A journal commit that began when everything up to `through` was durable in
    /// the log has succeeded.
    pub(crate) fn checkpointed(&self, through: Lsn) {
        let mut state = self.lock();
        let FileState { live, committed, moves, .. } = &mut *state;
        live.retain(|&page, entry| {
            let done = entry.lsn <= through;
            if done && entry.placed && !*moves {
                committed.insert(entry.range(page));
            }
            !done
        });
        state.delayed.checkpointed();
    }

    fn lock(&self) -> MutexGuard<'_, FileState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
