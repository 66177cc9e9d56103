//! What was promised of one file's bytes.
//!
//! H is the content at the last sync that succeeded, and every content since. Some
//! contents came from operations of the stream: what sets the length, punches, or
//! replaces another file by rename. If operation k was the last that is found:
//!
//! - the length is between the shortest and the longest of those contents of H that
//!   came since the last operation up to k that set it, and before the first one
//!   after k;
//! - each sector of 512 bytes is that of one of H; bytes that an operation up to k
//!   has taken, of one since;
//! - if the file has replaced another by an operation up to k, everything is of a
//!   content since, except what was overwritten in place.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// A content, and the stream's last operation when it came.
type Content = Arc<Vec<u8>>;

/// What an operation of the stream did to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It took these bytes, and set the length if so.
    Cut { range: Range<usize>, sets_length: bool },
    /// It put the file in place of another.
    Replaced,
}

#[derive(Debug, Clone)]
struct Event {
    operation: usize,
    /// Content right after it.
    index: usize,
    effect: Effect,
}

/// Facts about one file.
#[derive(Debug, Default)]
pub struct FileFacts {
    /// The promised content first, then all later ones.
    history: VecDeque<Content>,
    /// How many contents came before `history`.
    past: usize,
    events: Vec<Event>,
    /// Where cuts that were promised began and ended: when recovery carries one out
    /// again, a sector may get two contents there.
    borders: Vec<usize>,
    /// A sync has failed: anything may be there.
    pub failed: bool,
}

impl FileFacts {
    pub fn new(content: Vec<u8>) -> Self {
        Self { history: VecDeque::from([Arc::new(content)]), ..Self::default() }
    }

    pub fn now(&self) -> &Content {
        self.history.back().expect("a file has a content")
    }

    /// Number of the content that the file has now.
    pub fn index(&self) -> usize {
        self.past + self.history.len() - 1
    }

    pub fn write(&mut self, content: Vec<u8>) {
        self.history.push_back(Arc::new(content));
    }

    /// An operation of the stream did this, after the content was set.
    pub fn note(&mut self, operation: usize, effect: Effect) {
        self.events.push(Event { operation, index: self.index(), effect });
    }

    /// This content is durable.
    pub fn kept(&mut self, index: usize) {
        let done = index.saturating_sub(self.past);
        self.history.drain(..done);
        self.past += done;
        let past = self.past;
        for event in self.events.extract_if(.., |event| event.index <= past) {
            if let Effect::Cut { range, .. } = event.effect {
                self.borders.extend([range.start, range.end]);
            }
        }
    }

    /// What is wrong with a content found after a crash that has kept the
    /// operations up to `last`.
    pub fn check(&self, found: &[u8], last: usize) -> Result<(), String> {
        if self.failed {
            return Ok(());
        }
        let (kept, lost): (Vec<&Event>, Vec<&Event>) =
            self.events.iter().partition(|event| event.operation <= last);
        let sets = |event: &&&Event| matches!(event.effect, Effect::Cut { sets_length: true, .. });
        let replaced = |event: &&&Event| event.effect == Effect::Replaced;
        let at = |event: Option<&&Event>| event.map(|event| event.index - self.past);
        let whole_from = at(kept.iter().rfind(replaced)).unwrap_or(0);
        let from = at(kept.iter().rfind(sets)).unwrap_or(0).max(whole_from);
        let to = at(lost.iter().find(sets)).unwrap_or(self.history.len()).max(from + 1);
        let lengths = || self.history.range(from..to).map(|content| content.len());
        let (shortest, longest) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
        if found.len() < shortest || found.len() > longest {
            let bytes = found.len();
            return Err(format!("it has {bytes} bytes, not {shortest} to {longest}"));
        }
        if *found == ***self.now() {
            return Ok(());
        }
        let mut hint = self.history.len() - 1;
        for offset in (0..found.len()).step_by(SECTOR_BYTES) {
            let end = found.len().min(offset + SECTOR_BYTES);
            self.check_sector(offset, &found[offset..end], whole_from, &kept, &mut hint)?;
        }
        Ok(())
    }

    fn check_sector(
        &self,
        offset: usize,
        sector: &[u8],
        whole_from: usize,
        kept: &[&Event],
        hint: &mut usize,
    ) -> Result<(), String> {
        let range = offset..offset + sector.len();
        let mut borders = vec![range.start, range.end];
        let mut from = whole_from;
        for event in kept {
            let Effect::Cut { range: cut, .. } = &event.effect else { continue };
            if cut.start < range.end && range.start < cut.end {
                borders.extend([cut.start.max(range.start), cut.end.min(range.end)]);
                from = from.max(event.index - self.past);
            }
        }
        if (*hint >= from && shows(&self.history[*hint], offset, sector))
            || self.is_one_of(offset, sector, from, hint)
        {
            return Ok(());
        }
        // Where the file once ended, the disk may have ended too: what is behind was
        // lost with the length, and comes back as zeros with an operation that sets it.
        let ends = self.history.iter().map(|content| content.len());
        let ends = ends.chain(self.borders.iter().copied());
        borders.extend(ends.filter(|end| range.contains(end)));
        // Parts of it were taken or cut off: each part by itself.
        borders.sort_unstable();
        borders.dedup();
        for pair in borders.windows(2) {
            let part = &sector[pair[0] - offset..pair[1] - offset];
            let taken = kept.iter().filter(|event| {
                matches!(&event.effect, Effect::Cut { range, .. }
                    if range.start < pair[1] && pair[0] < range.end)
            });
            let cut = taken.map(|event| event.index - self.past).max().unwrap_or(0);
            let from = cut.max(whole_from);
            if !self.is_one_of(pair[0], part, from, hint)
                && !self.is_overwritten(pair[0], part, cut..from)
            {
                return Err(self.loss(pair[0], part, from));
            }
        }
        Ok(())
    }

    fn is_one_of(&self, offset: usize, part: &[u8], from: usize, hint: &mut usize) -> bool {
        let found = (from..self.history.len())
            .rev()
            .find(|&index| shows(&self.history[index], offset, part));
        *hint = found.unwrap_or(*hint);
        found.is_some()
    }

    /// Whether it is of an earlier content that had something there already. What was
    /// written over that is in place, and is as durable there as the disk likes: a
    /// filesystem without a log promises no more when a file replaces another.
    fn is_overwritten(&self, offset: usize, part: &[u8], contents: Range<usize>) -> bool {
        let page = offset / PAGE_BYTES * PAGE_BYTES;
        let mut earlier = self.history.range(contents);
        earlier.any(|content| content.len() > page && shows(content, offset, part))
    }

    fn loss(&self, offset: usize, part: &[u8], from: usize) -> String {
        let look = |content: &[u8]| {
            let there = content.get(offset..).unwrap_or_default();
            runs(&there[..there.len().min(part.len())])
        };
        let known: Vec<String> = self.history.range(from..).map(|c| look(c)).collect();
        let before: Vec<String> = self.history.range(..from).map(|c| look(c)).collect();
        format!(
            "at {offset}: {} is in none of the {} contents {known:?}; earlier: {before:?}",
            runs(part),
            known.len()
        )
    }
}

/// Bytes in runs: a byte's number, and how many of it.
fn runs(bytes: &[u8]) -> String {
    let runs = bytes.chunk_by(|one, other| one == other);
    runs.map(|run| format!("{}x{} ", run[0], run.len())).collect()
}

/// Whether a content, with zeros after its end, shows this at an offset.
fn shows(content: &[u8], offset: usize, part: &[u8]) -> bool {
    let there = content.get(offset..).unwrap_or_default();
    let both = there.len().min(part.len());
    there[..both] == part[..both] && part[both..].iter().all(|&byte| byte == 0)
}
