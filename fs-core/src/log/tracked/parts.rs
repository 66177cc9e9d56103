//! Files in very many parts, with holes between them: without the log.
//!
//! Nobody tells us when a page comes into a hole. So each sync of a file asks the kernel what is in
//! each of its holes, a microsecond for each: with some thousands of them that takes longer
//! than the flush that the log saves. (Seen: 2.4 ms for 3,000 holes, 25 ms for 20,000, where the bare
//! filesystem took 0.1.) Beyond [`LogConfig::file_parts_max`](crate::log::LogConfig) the file is
//! synced where it is, as its program asked, several of them at the same time; among files for which the log is good
//! by a journal commit for all.
//!
//! The same goes for a large file of which it cannot be told what the journal knows: one that shares
//! blocks, and on XFS one with extended attributes in blocks of their own, or with so many extents that the leaves of
//! their tree are not full (`platform/linux/extents.rs`).

use std::ops::Range;

use super::Tracked;
use crate::platform::Backing;

/// Syncs after which such a file is looked at again: its holes may have been filled. The look
/// takes as long as some hundred of the questions that it may spare.
const LOOK_INTERVAL_SYNCS: u32 = 256;

/// What looking at a file's blocks is good for.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// There are too many parts.
    pub(super) in_many_parts: bool,
    /// The last look has found none that the journal is known to know.
    pub(super) are_unknown: bool,
    /// Syncs without a look.
    syncs: u32,
}

impl<B: Backing> Tracked<B> {
    /// The bytes of which the journal is to be asked, before a commit, whether it knows them then; `None`
    /// if that would be in vain.
    pub(crate) fn to_settle(&self) -> Option<Range<u64>> {
        let mut state = self.lock();
        let blocks = &mut state.blocks;
        if blocks.in_many_parts || blocks.are_unknown {
            blocks.syncs += 1;
            if blocks.syncs < LOOK_INTERVAL_SYNCS {
                return None;
            }
            *blocks = Blocks::default();
        }
        Some(state.committed.first_missing()..u64::MAX)
    }
}
