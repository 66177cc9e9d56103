//! What the log says, boiled down: operations in order, and for each file the
//! content that is valid at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::{KEEP_SIZE, in_order, new_length, taken_by};
use crate::engine::Lsn;
use crate::log::format::LogContents;
use crate::log::marks::Mark;
use crate::log::ranges::RangeSet;
use crate::log::record::Change;
use crate::platform::ObjectKey;
use crate::types::Time;

/// Everything that recovery works from. Changes nothing.
pub(super) struct Plan<'a> {
    contents: &'a LogContents,
    /// The marker that the first attempt of this recovery found.
    pub(super) first_marker: Lsn,
    /// Operations, oldest first.
    pub(super) changes: Vec<(Lsn, &'a Change)>,
    /// Content, by file.
    pub(super) files: Vec<(ObjectKey, Overlay)>,
}

/// The content of one file that is valid at the end of the log.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// First byte -> the byte after the last, and where the bytes are.
    pieces: BTreeMap<u64, (u64, Place)>,
    /// Where blocks that are there say nothing: an operation that recovery redoes
    /// has taken what was there before, and the log has what came after; or the log has the end
    /// of a rewrite, or what takes the place of another file.
    pub(super) forced: RangeSet,
    /// Length that the file has at least, by the last record of it.
    pub(super) size: Option<u64>,
    /// Time of change at the last record.
    pub(super) mtime: Option<Time>,
}

/// Bytes in a group.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: usize,
    at: usize,
}

impl<'a> Plan<'a> {
    /// `first_marker` is what the first attempt of this recovery found. `copied` are files of which
    /// the disk has a copy from before a rewrite, and the number of its truncation: that the rewrite
    /// has ended was not kept, so content in the log is newer than what the disk has of it. All of it
    /// counts, since a part of the new content would be neither old nor new.
    pub(super) fn new(
        contents: &'a LogContents,
        marks: &'a [Mark],
        first_marker: Lsn,
        copied: &HashMap<ObjectKey, Lsn>,
    ) -> Self {
        let mut changes = Vec::new();
        let rewrites = Rewrites::without_end(contents);
        // Files that take another's name by an operation that the disk has not kept. No journal
        // commit came after it, so nothing that is younger than their content in the log is durable.
        let mut replacing = HashSet::new();
        let mut files: HashMap<ObjectKey, Overlay> = HashMap::new();
        for (lsn, change, group) in in_order(contents, marks) {
            if lsn > first_marker && rewrites.holds_back(lsn, change) {
                continue;
            }
            match change {
                Change::Data { object, size, mtime, parts } => {
                    let overlay = files.entry(*object).or_default();
                    overlay.remove(*size..u64::MAX);
                    overlay.size = Some(*size);
                    overlay.mtime = Some(*mtime);
                    let ends_rewrite = copied.get(object).is_some_and(|&begun| lsn > begun);
                    let is_whole = ends_rewrite || replacing.contains(object);
                    for part in parts {
                        let place = Place { group: group.unwrap_or(0), at: part.at as usize };
                        let bytes = u64::from(part.bytes);
                        overlay.put(part.offset, bytes, place);
                        if is_whole {
                            overlay.forced.insert(part.offset..part.offset + bytes);
                        }
                    }
                    continue;
                }
                Change::Expire { object } => {
                    files.remove(object);
                    continue;
                }
                Change::Checkpoint { .. } => continue,
                Change::Rename { object, displaced: Some(_), .. } if lsn > first_marker => {
                    replacing.insert(*object);
                }
                Change::Rewrite { object } | Change::Resize { object, .. } => {
                    let size = new_length(change);
                    let overlay = files.entry(*object).or_default();
                    overlay.take(size..u64::MAX, lsn > first_marker);
                    // Of an operation that was kept the disk has the length, or a later
                    // one: a file that has no content here may be cut without a mark.
                    overlay.size = if lsn > first_marker {
                        Some(size)
                    } else {
                        overlay.size.map(|old| old.min(size))
                    };
                }
                Change::Allocate { object, mode, offset, bytes } => {
                    let overlay = files.entry(*object).or_default();
                    if let Some(range) = taken_by(change) {
                        overlay.take(range, lsn > first_marker);
                    }
                    if mode & KEEP_SIZE == 0 && lsn > first_marker {
                        let end = offset.saturating_add(*bytes);
                        overlay.size = Some(overlay.size.map_or(end, |size| size.max(end)));
                    }
                }
                _ => {}
            }
            changes.push((lsn, change));
        }
        let mut files: Vec<_> =
            files.into_iter().filter(|(_, o)| o.size.is_some() || !o.pieces.is_empty()).collect();
        // The same order each time: an interrupted recovery is easier to follow.
        files.sort_by_key(|(key, _)| key.ino);
        Self { contents, first_marker, changes, files }
    }

    /// How many operations the backing filesystem has not kept.
    pub(super) fn to_redo(&self, marker: Lsn) -> u64 {
        self.changes.iter().filter(|(lsn, _)| *lsn > marker).count() as u64
    }

    /// Pieces of a file's content with their bytes.
    pub(super) fn pieces<'b>(
        &'b self,
        overlay: &'b Overlay,
    ) -> impl Iterator<Item = (Range<u64>, &'b [u8])> {
        overlay.pieces.iter().map(|(&start, &(end, place))| {
            let bytes = &self.contents.groups[place.group].bytes;
            (start..end, &bytes[place.at..place.at + (end - start) as usize])
        })
    }
}

/// Rewrites of which the log has the truncation and no content after it, by file.
struct Rewrites(HashMap<ObjectKey, Lsn>);

impl Rewrites {
    fn without_end(contents: &LogContents) -> Self {
        let mut begun = HashMap::new();
        for record in contents.groups.iter().flat_map(|group| &group.records) {
            match &record.change {
                Change::Rewrite { object } => {
                    begun.entry(*object).or_insert(record.lsn);
                }
                Change::Data { object, .. } | Change::Expire { object } => {
                    begun.remove(object);
                }
                _ => {}
            }
        }
        Self(begun)
    }

    /// Whether an operation that the disk has not kept must not be carried out: the
    /// file keeps what it held before.
    fn holds_back(&self, lsn: Lsn, change: &Change) -> bool {
        let (Change::Rewrite { object }
        | Change::Resize { object, .. }
        | Change::Allocate { object, .. }) = change
        else {
            return false;
        };
        self.0.get(object).is_some_and(|&begun| lsn >= begun)
    }
}

impl Overlay {
    fn put(&mut self, offset: u64, bytes: u64, place: Place) {
        self.remove(offset..offset + bytes);
        if bytes > 0 {
            self.pieces.insert(offset, (offset + bytes, place));
        }
    }

    /// An operation takes a range; `redone` if recovery carries it out.
    fn take(&mut self, range: Range<u64>, redone: bool) {
        if redone {
            self.forced.insert(range.clone());
        }
        self.remove(range);
    }

    fn remove(&mut self, range: Range<u64>) {
        while let Some((&start, &(end, place))) = self.pieces.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.pieces.remove(&start);
            if start < range.start {
                self.pieces.insert(start, (range.start, place));
            }
            if end > range.end {
                let skipped = (range.end - start) as usize;
                let rest = Place { at: place.at + skipped, ..place };
                self.pieces.insert(range.end, (end, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 64;

    proptest! {
        /// An overlay holds, for each byte, the latest bytes put there and not
        /// removed since.
        #[test]
        fn an_overlay_behaves_like_bytes(
            steps in proptest::collection::vec((0..3_u8, 0..BYTES, 0..BYTES), 1..40),
        ) {
            let mut overlay = Overlay::default();
            let mut model = vec![None; BYTES as usize];
            for (step, (kind, a, b)) in steps.into_iter().enumerate() {
                let range = a.min(b)..a.max(b);
                let bytes = range.start as usize..range.end as usize;
                if kind == 0 {
                    overlay.remove(range);
                    model[bytes].fill(None);
                } else {
                    let at = 1000 * step;
                    overlay.put(range.start, range.end - range.start, Place { group: 0, at });
                    for (index, byte) in model[bytes].iter_mut().enumerate() {
                        *byte = Some(at + index);
                    }
                }
                let mut found = vec![None; BYTES as usize];
                for (&start, &(end, place)) in &overlay.pieces {
                    for byte in start..end {
                        prop_assert_eq!(found[byte as usize], None);
                        found[byte as usize] = Some(place.at + (byte - start) as usize);
                    }
                }
                prop_assert_eq!(&found, &model);
            }
        }
    }
}
