//! Content that waits for its blocks, left to the log until the next checkpoint.
//!
//! Filesystems that delay allocation give a new page its block when the page is written out. As long as
//! it has none, nothing of it has left the page cache; and whatever block it gets later, it gets with at
//! least what the page cache holds now. So when such a page has been *read for the log* and is *then*
//! found to wait still, recovery's rule holds for it as it is: there is no block, and the log has the
//! page; or there is one, and it holds at least what was logged. It need not be written in place for the
//! sync: programs that append write one page each time, which costs more than the log's part in it. The
//! next checkpoint writes many at once.
//!
//! What that asks for:
//! - A page that has a block is written in place at the sync as ever. An unwritten extent is one: a write
//!   to it may be under way, with older content.
//! - Until its block is there the log must keep it. So what waits is remembered apart from the live
//!   pages, which a cut of the file drops whole; nothing of the log is free before all of it has been
//!   written, and the blocks have been seen: somebody else may have been told of a write that failed.
//! - A journal commit instead of the log says nothing of what has no block: then all is written first.

use std::ops::Range;

use super::collect::{Collected, Need};
use super::{FileState, PAGE_BYTES, Tracked};
use crate::engine::Lsn;
use crate::log::PlantedBugs;
use crate::log::ranges::RangeSet;
use crate::platform::Backing;

/// So much of one file may wait: what a checkpoint writes must not hold up syncs.
const DELAYED_BYTES_MAX: u64 = 1 << 20;

/// What of a file waits for its blocks.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// Bytes that are durable in the log only.
    bytes: RangeSet,
    /// There were some, and not all has been written in place since. With what a cut takes of them goes
    /// what would have told the journal the file's length (ext4 notes it itself only where a hole reaches
    /// the end, `ext4_update_disksize_before_punch`).
    is_length_left: bool,
    /// Content was found to have blocks where it should have had none: not tried again before the
    /// next checkpoint.
    is_in_vain: bool,
}

/// What waited for its blocks at some time.
pub(crate) struct Waiting {
    bytes: RangeSet,
    /// Last operation that had taken bytes.
    cut_at: Lsn,
}

/// Whether what waited has its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    AreThere,
    AreMissing,
    /// The file was cut meanwhile.
    Unknown,
}

impl Delayed {
    /// Nothing of it waits.
    pub(super) const fn is_nothing(&self) -> bool {
        !self.is_length_left
    }

    /// These bytes are gone, or have blocks that the journal knows.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        self.bytes.remove(range);
    }

    pub(super) fn checkpointed(&mut self) {
        self.is_in_vain = false;
    }
}

impl<B: Backing> FileState<B> {
    /// Of what waits, these blocks are there now.
    pub(super) fn has_got(&mut self, blocks: &RangeSet) {
        let waited = std::mem::take(&mut self.delayed.bytes);
        for range in waited.iter() {
            let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
            for (page, entry) in self.live.range_mut(pages) {
                entry.placed |= blocks.contains(&entry.range(*page));
            }
            blocks.missing(range).into_iter().for_each(|range| self.delayed.bytes.insert(range));
        }
    }

    /// The bytes between the first and the last that wait.
    pub(super) fn waiting_span(&self) -> Option<Range<u64>> {
        self.delayed.bytes.span()
    }
}

impl<B: Backing> Tracked<B> {
    /// From here on a sync may leave content to the log; below it there is, or may be, content with
    /// blocks, which is written in place. `u64::MAX` if that is all.
    pub(crate) fn may_wait_from(&self) -> u64 {
        let state = self.lock();
        let waiting = state.delayed.bytes.bytes();
        // Of a file that is synced for the first time most are closed then, and many renamed over
        // another: ext4 would give it its blocks within the rename.
        let is_first = state.logged.is_none();
        if is_first
            || state.moves
            || state.lost
            || state.rewrite.is_some()
            || state.blocks.in_many_parts
            || state.delayed.is_in_vain
            || waiting >= DELAYED_BYTES_MAX
        {
            return u64::MAX;
        }
        let committed = state.committed.span().map_or(0, |span| span.end);
        let placed = state.live.iter().rev().find(|(_, entry)| entry.placed);
        let placed = placed.map_or(0, |(page, _)| (page + 1) * PAGE_BYTES);
        committed.max(placed).next_multiple_of(PAGE_BYTES)
    }

    /// Leaves what a sync `need`s behind `from`, read for the log at number `lsn`, to the log, if all of
    /// it waits for its blocks. Else false: it has to be written in place.
    pub(crate) fn leave(
        &self,
        (backing, reader): (&B, &B::File),
        (need, from): (&Need, u64),
        collected: &Collected,
        lsn: Lsn,
        bugs: PlantedBugs,
    ) -> bool {
        let mut state = self.lock();
        // What has waited since an earlier record and is the same now has a block with that content,
        // or none.
        let mut asked = RangeSet::default();
        for range in need.ranges().filter(|range| range.end > from) {
            let missing = state.delayed.bytes.missing(range.start.max(from)..range.end);
            missing.into_iter().for_each(|range| asked.insert(range));
        }
        collected
            .ranges()
            .filter(|range| range.start >= from)
            .for_each(|range| asked.insert(range));
        let Some(span) = asked.span() else { return true };
        let waiting = backing.delayed(reader, span).unwrap_or_default();
        let waiting: RangeSet = waiting.into_iter().collect();
        // A cut that comes later takes from what waits here what it takes from the file.
        let waits = state.cut_at < lsn
            && (bugs.leave_placed || asked.iter().all(|range| waiting.contains(&range)));
        if waits {
            state.delayed.is_length_left = true;
            asked.iter().for_each(|range| state.delayed.bytes.insert(range));
        } else {
            state.delayed.is_in_vain = true;
        }
        waits
    }

    /// What waits for its blocks now, if anything does.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        let state = self.lock();
        let bytes = || state.delayed.bytes.clone();
        (!state.delayed.is_nothing()).then(|| Waiting { bytes: bytes(), cut_at: state.cut_at })
    }

    /// It has no name any more: nobody finds it after a power cut.
    pub(crate) fn waits_no_more(&self) {
        self.lock().delayed = Delayed::default();
    }

    /// It was written in place since, and these `blocks` were found then in a file that was `size` long.
    pub(crate) fn has_been_placed(&self, was: &Waiting, blocks: &RangeSet, size: u64) -> Blocks {
        let mut state = self.lock();
        if state.cut_at != was.cut_at {
            return Blocks::Unknown;
        }
        state.has_got(blocks);
        let is_there = |range: Range<u64>| blocks.contains(&(range.start..range.end.min(size)));
        if !was.bytes.iter().all(is_there) {
            return Blocks::AreMissing;
        }
        // A group may have left more meanwhile.
        state.delayed.is_length_left = !state.delayed.bytes.is_empty();
        Blocks::AreThere
    }
}

impl Waiting {
    /// How many bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    /// The bytes between the first and the last.
    pub(crate) fn span(&self) -> Range<u64> {
        self.bytes.span().unwrap_or_default()
    }
}
