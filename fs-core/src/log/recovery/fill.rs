//! Filling files from the log where they have no block of their own.

use std::borrow::Cow;
use std::ops::Range;

use super::overlay::{Overlay, Plan};
use super::redo::Files;
use super::{KEEP_SIZE, PUNCH_HOLE, RecoveryError, RecoveryReport};
use crate::error::Result;
use crate::log::marks::OURSELVES;
use crate::log::open::Progress;
use crate::log::ranges::RangeSet;
use crate::log::tracked::PAGE_BYTES;
use crate::log::undo::write_all;
use crate::platform::{Backing, OpenMode, WHOLE_FILE};
use crate::types::{SetAttr, SetTime};

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: true };
const READ: OpenMode = OpenMode { write: false, ..READ_WRITE };

/// Fills every file of the plan.
pub(super) fn fill<B: Backing>(
    backing: &B,
    plan: &Plan<'_>,
    over_blocks: bool,
    files: &Files<B>,
    report: &mut RecoveryReport,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<(), RecoveryError> {
    let failed = |source| RecoveryError::Backing { what: "write a file's content", source };
    let (done, all) = (plan.changes.len(), plan.changes.len() + plan.files.len());
    for (index, (key, overlay)) in plan.files.iter().enumerate() {
        let Some(known) = files.get(key) else {
            report.files_gone += 1;
            continue;
        };
        let file = backing.open(OURSELVES, &known.object, READ_WRITE).map_err(failed)?;
        let filled = fill_file(backing, plan, overlay, &known.object, &file, over_blocks);
        let filled = filled.map_err(failed)?;
        report.files_filled += u64::from(filled > 0);
        report.bytes_filled += filled;
        progress(Progress::Recovering((done + index + 1) as u64, all as u64));
    }
    Ok(())
}

/// Counts what [`fill`] would do, as far as it can be told without redoing.
pub(super) fn count<B: Backing>(backing: &B, plan: &Plan<'_>, report: &mut RecoveryReport) {
    for (key, overlay) in &plan.files {
        let file =
            backing.by_key(key).and_then(|found| backing.open(OURSELVES, &found.object, READ));
        let Ok(file) = file else {
            report.files_gone += 1;
            continue;
        };
        let Ok(blocks) = blocks_of(backing, &file) else { continue };
        let bytes: u64 =
            runs(plan, overlay, &blocks).iter().map(|run| run.bytes.len() as u64).sum();
        report.files_filled += u64::from(bytes > 0);
        report.bytes_filled += bytes;
    }
}

fn fill_file<B: Backing>(
    backing: &B,
    plan: &Plan<'_>,
    overlay: &Overlay,
    object: &B::Object,
    file: &B::File,
    over_blocks: bool,
) -> Result<u64> {
    let before = backing.file_attr(file)?.mtime;
    let mut blocks = if over_blocks { RangeSet::default() } else { blocks_of(backing, file)? };
    free_last_page(backing, plan, overlay, file, &mut blocks)?;
    let mut filled = 0;
    for Run { start, bytes } in runs(plan, overlay, &blocks) {
        write_all(backing, file, &bytes, start)?;
        filled += bytes.len() as u64;
    }
    let size = overlay.size.unwrap_or(0);
    let grows = backing.file_attr(file)?.size < size;
    if grows || filled > 0 {
        // Never back: what was written after the record may be there too.
        let mtime = overlay.mtime.map(|mtime| SetTime::At(mtime.max(before)));
        let change = SetAttr { size: grows.then_some(size), mtime, ..SetAttr::default() };
        backing.set_attr(OURSELVES, object, Some(file), &change)?;
    }
    Ok(filled)
}

/// Where the file ends on the disk within a page that the log continues, the page's
/// block cannot be written in place: a power cut might keep the new length and not
/// the bytes, and the next attempt would take the block for content. So the block is
/// given up, and the whole page, which the log has, gets a new one: its bytes are on
/// the disk before the filesystem's journal says so. (What the log has not of such a
/// page, an operation has taken: zeros.)
fn free_last_page<B: Backing>(
    backing: &B,
    plan: &Plan<'_>,
    overlay: &Overlay,
    file: &B::File,
    blocks: &mut RangeSet,
) -> Result<()> {
    let end = backing.file_attr(file)?.size;
    let page = end / PAGE_BYTES * PAGE_BYTES;
    let behind = end..page + PAGE_BYTES;
    let is_behind = |range: Range<u64>| range.start < behind.end && range.end > behind.start;
    let continues = plan.pieces(overlay).any(|(range, _)| is_behind(range));
    if end == page || !continues {
        return Ok(());
    }
    backing.allocate(OURSELVES, file, PUNCH_HOLE | KEEP_SIZE, page, PAGE_BYTES)?;
    blocks.remove(&(page..page + PAGE_BYTES));
    Ok(())
}

/// Bytes that are written at once.
struct Run<'a> {
    start: u64,
    bytes: Cow<'a, [u8]>,
}

/// What is to be written, in order. A page that gets a block gets it whole, with zeros
/// between its pieces, where an operation took what had been: if they were written one
/// after the other, a power cut might leave a block with the first of them, and the next
/// attempt would take it for content.
fn runs<'a>(plan: &'a Plan<'_>, overlay: &'a Overlay, blocks: &RangeSet) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    for (range, content) in plan.pieces(overlay) {
        for part in to_fill(range.clone(), blocks, overlay) {
            let within = |at: u64| (at - range.start) as usize;
            let bytes = &content[within(part.start)..within(part.end)];
            match runs.last_mut() {
                Some(last) if last.shares_new_block(part.start, blocks) => {
                    let joined = last.bytes.to_mut();
                    joined.resize((part.start - last.start) as usize, 0);
                    joined.extend_from_slice(bytes);
                }
                _ => runs.push(Run { start: part.start, bytes: Cow::Borrowed(bytes) }),
            }
        }
    }
    runs
}

impl Run<'_> {
    /// Whether it ends in the page of `next`, with no block in between.
    fn shares_new_block(&self, next: u64, blocks: &RangeSet) -> bool {
        let end = self.start + self.bytes.len() as u64;
        let hole = end..next;
        let is_one_page = (end - 1) / PAGE_BYTES == next / PAGE_BYTES;
        is_one_page && (hole.is_empty() || blocks.missing(hole.clone()) == [hole])
    }
}

/// The bytes below a file's end that have blocks.
fn blocks_of<B: Backing>(backing: &B, file: &B::File) -> Result<RangeSet> {
    let size = backing.file_attr(file)?.size;
    let clip = |range: Range<u64>| range.start..range.end.min(size);
    Ok(backing.allocated(file, WHOLE_FILE)?.into_iter().map(clip).collect())
}

/// The parts of a piece that have no block, or whose block says nothing.
fn to_fill(piece: Range<u64>, blocks: &RangeSet, overlay: &Overlay) -> Vec<Range<u64>> {
    let mut missing: RangeSet = blocks.missing(piece.clone()).into_iter().collect();
    for forced in overlay.forced.iter() {
        let range = forced.start.max(piece.start)..forced.end.min(piece.end);
        if range.start < range.end {
            missing.insert(range);
        }
    }
    missing.iter().collect()
}
