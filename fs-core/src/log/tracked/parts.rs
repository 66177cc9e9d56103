//! Files in very many parts, with holes between them: without the log.
//!
//! Nobody tells us when a page comes into a hole. So each sync of a file asks the kernel what is in
//! each of its holes, a microsecond for each: with some thousands of them that takes longer
//! than the flush that the log saves. (Seen: 2.4 ms for 3,000 holes, 25 ms for 20,000, where the bare
//! filesystem took 0.1.) Beyond [`LogConfig::file_parts_max`](crate::log::LogConfig) the file is
//! synced where it is: alone as its program asked, with others by a journal commit for all.

use std::ops::Range;

use super::Tracked;
use crate::platform::Backing;

/// Syncs after which such a file is looked at again: its holes may have been filled. The look
/// takes as long as some hundred of the questions that it may spare.
const LOOK_INTERVAL_SYNCS: u32 = 256;

impl<B: Backing> Tracked<B> {
    /// The bytes of which a commit that is about to begin should be asked whether it covers them; `None`
    /// if they are in too many parts to be of use.
    pub(crate) fn to_settle(&self, parts_max: usize) -> Option<Range<u64>> {
        let mut state = self.lock();
        if state.committed.len() > parts_max {
            state.syncs_in_parts = state.syncs_in_parts.wrapping_add(1);
            if !state.syncs_in_parts.is_multiple_of(LOOK_INTERVAL_SYNCS) {
                return None;
            }
        }
        Some(state.committed.first_missing()..u64::MAX)
    }
}
