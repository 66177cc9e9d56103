//! Which bytes of a file a sync has to log, and logging them.

use std::ops::Range;
use std::time::Instant;

use super::{Before, FileState, LivePage, Logged, PAGE_BYTES, Synced, Tracked};
use crate::engine::Lsn;
use crate::error::Result;
use crate::log::PlantedBugs;
use crate::log::format::GroupBuilder;
use crate::log::ranges::RangeSet;
use crate::platform::{Backing, Seek};
use crate::types::Attr;

/// Longest piece that is read at once.
const PIECE_BYTES_MAX: u64 = 256 << 10;

/// Where content is read to, for all files of a group: clean memory for each took a tenth of
/// the comparing.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    fn at_least(&mut self, bytes: usize) -> &mut [u8] {
        if self.0.len() < bytes {
            self.0.resize(bytes, 0);
        }
        &mut self.0[..bytes]
    }
}

/// What a sync of a file needs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// Bytes below the file's end that have no committed block, in pages.
    ranges: Vec<Range<u64>>,
    /// How many of them are not in the log at all.
    pub(crate) new_bytes: u64,
    /// Pages that are, and must be compared.
    pub(crate) live_pages: usize,
    /// The file ends in a hole, and nothing durable tells where.
    length: bool,
    /// It has more holes than can be asked for at each sync: nothing else is known.
    pub(crate) in_many_parts: bool,
}

impl Need {
    /// Whether all of the file is committed.
    pub(crate) fn is_nothing(&self) -> bool {
        self.ranges.is_empty() && !self.length
    }

    /// The bytes below the file's end that have no committed block, in pages.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ranges.iter()
    }

    /// Longest record that can come of it, in bytes.
    pub(crate) fn bytes_max(&self) -> u64 {
        /// Head of a record, and of each page if every other one is logged.
        const HEAD_BYTES: u64 = 256;
        let bytes: u64 = self.ranges.iter().map(|range| range.end - range.start).sum();
        HEAD_BYTES + bytes + bytes / PAGE_BYTES * 16 + 16 * self.ranges.len() as u64
    }
}

/// What was put into a group for a file.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Pages logged.
    pages: Vec<(u64, LivePage)>,
    end: u64,
    /// The length, if there is a record.
    length: Option<u64>,
}

impl Collected {
    /// The bytes logged, page by page.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.pages.iter().map(|(page, entry)| entry.range(*page))
    }
}

impl<B: Backing> Tracked<B> {
    /// Finds out what a sync needs of a file that is `size` long and has been
    /// written back. With `parts_max`: unless it is in more parts.
    pub(crate) fn need(
        &self,
        (backing, reader): (&B, &B::File),
        size: u64,
        parts_max: Option<usize>,
    ) -> Result<Need> {
        let mut state = self.lock();
        if let Some(parts_max) = parts_max {
            state.blocks.in_many_parts |= state.committed.len() > parts_max;
            if state.blocks.in_many_parts {
                return Ok(Need { in_many_parts: true, ..Need::default() });
            }
        }
        let parts_max = parts_max.unwrap_or(usize::MAX);
        let mut need = Need::default();
        for unsettled in state.committed.missing(0..size) {
            let pages = unsettled.start / PAGE_BYTES * PAGE_BYTES
                ..unsettled.end.next_multiple_of(PAGE_BYTES).min(size);
            data_in((backing, reader), pages, parts_max, &mut need.ranges)?;
        }
        need.in_many_parts = need.ranges.len() > parts_max;
        // Who asks for all of them, for a report, changes nothing for syncs.
        state.blocks.in_many_parts |= need.in_many_parts;
        // Rounding to pages may have made neighbours overlap.
        need.ranges.dedup_by(|next, previous| {
            let overlaps = next.start < previous.end;
            if overlaps {
                previous.end = previous.end.max(next.end);
            }
            overlaps
        });
        // A length is told by the last page, if that is not a hole.
        let told = size == 0
            || state.committed.contains(&(size - 1..size))
            || need.ranges.last().is_some_and(|range| range.end == size);
        // The end of a rewrite is told by a record, whatever else there is to tell.
        need.length = state.rewrite.is_some() || (!told && state.durable_size != Some(size));
        for range in &need.ranges {
            let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
            let live = state.live.range(pages).count();
            need.live_pages += live;
            let bytes = range.end - range.start;
            need.new_bytes += bytes.saturating_sub(live as u64 * PAGE_BYTES);
        }
        Ok(need)
    }

    /// Puts what a sync needs into a group, as one record with number `lsn`, which
    /// must have been taken before anything is read here. Nothing is put there if
    /// the log has it all.
    pub(crate) fn collect(
        &self,
        (backing, reader): (&B, &B::File),
        attr: &Attr,
        need: &Need,
        lsn: Lsn,
        (group, memory): (&mut GroupBuilder, &mut Memory),
        bugs: PlantedBugs,
    ) -> Result<Collected> {
        let state = self.lock();
        let mut collected = Collected::default();
        group.begin_data(lsn, &self.key, attr.size, attr.mtime);
        for range in &need.ranges {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + PIECE_BYTES_MAX);
                let piece = memory.at_least((end - start) as usize);
                let read = backing.read(reader, piece, start).inspect_err(|_| {
                    group.cancel_data();
                })?;
                // Shorter if the file was cut meanwhile: what is gone needs no log.
                put(&state, start, &piece[..read], (lsn, bugs), group, &mut collected);
                start = end;
            }
        }
        if collected.pages.is_empty() && !need.length {
            group.cancel_data();
            return Ok(collected);
        }
        group.end_data();
        collected.length = Some(attr.size);
        Ok(collected)
    }

    /// Asks, after everything up to byte `in_place` was written there, which of what was collected, and
    /// of what waits since earlier, has blocks now: a commit that begins later covers those. `before` is the
    /// file before that. What was written after the write-back may have none yet, and a page may be a hole
    /// in part where blocks are smaller.
    pub(crate) fn settle(
        &self,
        (backing, reader): (&B, &B::File),
        before: &Before,
        in_place: u64,
        collected: &mut Collected,
    ) {
        let mut state = self.lock();
        let placed = collected.ranges().take_while(|range| range.start < in_place);
        let waiting = state.waiting_span().filter(|_| in_place == u64::MAX);
        let Some(span) =
            placed.chain(waiting).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        else {
            return;
        };
        let settled: RangeSet =
            backing.settled(reader, span).unwrap_or_default().into_iter().collect();
        let is_uncut = state.cut_at == before.cut_at;
        let written = if is_uncut { before.attr.size } else { 0 };
        for (page, entry) in &mut collected.pages {
            let range = entry.range(*page);
            // Nor is the length in the journal that was reached since.
            entry.placed = range.end <= written && settled.contains(&range);
        }
        if is_uncut {
            state.has_got(&settled);
        }
    }

    /// What was collected at number `lsn` is about to be written: from now on a cut of the
    /// file must leave a mark. False if the file was cut since the number was taken: then
    /// what was collected is a state of the file that the group does not reach, and what
    /// was cut is not in it though it was asked for.
    pub(crate) fn logging(&self, collected: &Collected, lsn: Lsn) -> bool {
        let mut state = self.lock();
        // The record tells the length too.
        if let Some(length) = collected.length {
            let end = collected.end.max(length).max(state.logged.map_or(0, |logged| logged.end));
            state.logged = Some(Logged { lsn, end });
        }
        state.cut_at < lsn
    }

    /// The group with what was collected at number `lsn` is durable, and so is the
    /// file in the state that `attr` describes.
    pub(crate) fn logged(&self, collected: Collected, lsn: Lsn, attr: &Attr) {
        let mut state = self.lock();
        // What was cut after the number was taken takes the record's pages with
        // it at recovery, whatever was written there since.
        if state.cut_at < lsn {
            state.durable_size = collected.length.or(state.durable_size);
            state.live.extend(collected.pages);
            state.synced = Some(Synced::from(attr));
            state.durable_at = Instant::now();
            state.emptied = false;
            // With a copy that is still there, writing in place had failed.
            state.rewrite.take_if(|rewrite| rewrite.copy.is_none());
        }
    }

    /// The file is durable in place, in the state `before` its write-back, by a
    /// journal commit that began later; `settled` was asked in between, if at all. After a cut
    /// in between its length says nothing: it may have grown again, with blocks that were
    /// there and a length that no journal has.
    pub(crate) fn committed(&self, settled: Option<Vec<Range<u64>>>, before: &Before) {
        let mut state = self.lock();
        let attr = &before.attr;
        if state.cut_at == before.cut_at {
            if let Some(settled) = settled {
                let settled = if state.moves { Vec::new() } else { settled };
                for range in settled {
                    state.delayed.remove(&range);
                    state.committed.insert(range.start..range.end.min(attr.size));
                }
                state.blocks.are_unknown = attr.size > 0 && state.committed.is_empty();
            }
            state.durable_size = Some(attr.size);
            let FileState { live, committed, .. } = &mut *state;
            // Live records of what is committed now are of no more use.
            live.retain(|&page, entry| !committed.contains(&entry.range(page)));
            state.synced = Some(Synced::from(attr));
            state.durable_at = Instant::now();
            state.emptied = false;
            state.rewrite.take_if(|rewrite| rewrite.copy.is_none());
        }
    }
}

/// Adds the parts of `range` that are not holes, until there are more than `parts_max`.
fn data_in<B: Backing>(
    (backing, reader): (&B, &B::File),
    range: Range<u64>,
    parts_max: usize,
    found: &mut Vec<Range<u64>>,
) -> Result<()> {
    let mut start = range.start;
    while start < range.end && found.len() <= parts_max {
        // ENXIO: no data from here on.
        let Ok(data) = backing.seek(reader, start, Seek::Data) else { break };
        if data >= range.end {
            break;
        }
        let hole = backing.seek(reader, data, Seek::Hole)?;
        let first = data.max(range.start) / PAGE_BYTES * PAGE_BYTES;
        let end = hole.next_multiple_of(PAGE_BYTES).min(range.end);
        found.push(first..end);
        start = end.max(data + 1);
    }
    Ok(())
}

/// Puts those pages of a piece into the group that the log has not, or has with
/// another content.
fn put<B: Backing>(
    state: &FileState<B>,
    start: u64,
    piece: &[u8],
    (lsn, bugs): (Lsn, PlantedBugs),
    group: &mut GroupBuilder,
    collected: &mut Collected,
) {
    let mut run: Option<Range<usize>> = None;
    let close = |run: &mut Option<Range<usize>>, group: &mut GroupBuilder| {
        if let Some(run) = run.take() {
            let bytes = (run.end - run.start) as u32;
            group.data_part(start + run.start as u64, bytes).copy_from_slice(&piece[run]);
        }
    };
    for (index, content) in piece.chunks(PAGE_BYTES as usize).enumerate() {
        let page = start / PAGE_BYTES + index as u64;
        let (bytes, crc) = (content.len() as u32, crc32c::crc32c(content));
        let entry = LivePage { lsn, bytes, crc, placed: false };
        let known = state.live.get(&page);
        let is_same = |known: &LivePage| {
            known.bytes == entry.bytes && (known.crc == entry.crc || bugs.no_compare)
        };
        if known.is_some_and(is_same) {
            close(&mut run, group);
            continue;
        }
        let at = index * PAGE_BYTES as usize;
        match &mut run {
            Some(run) => run.end = at + content.len(),
            None => run = Some(at..at + content.len()),
        }
        collected.pages.push((page, entry));
        collected.end = collected.end.max(start + (at + content.len()) as u64);
    }
    close(&mut run, group);
}
