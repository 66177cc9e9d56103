//! A file's part in being rewritten all or nothing; see [`crate::log::rewrites`].

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::{Before, Rewriting, Tracked};
use crate::engine::Lsn;
use crate::platform::Backing;

impl<B: Backing> Tracked<B> {
    /// Whether there is a copy of what the file held before.
    pub(crate) fn is_rewriting(&self) -> bool {
        self.lock().rewrite.as_ref().is_some_and(|rewrite| rewrite.copy.is_some())
    }

    /// Whether a record or a commit has yet to say that a rewrite has ended.
    pub(crate) fn is_rewrite_open(&self) -> bool {
        self.lock().rewrite.is_some()
    }

    /// Whether there is a copy, and has been for so long.
    pub(crate) fn rewrite_is_older_than(&self, age: Duration) -> bool {
        let state = self.lock();
        let copied = state.rewrite.as_ref().filter(|rewrite| rewrite.copy.is_some());
        copied.is_some_and(|rewrite| rewrite.since.elapsed() >= age)
    }

    /// Whether who has cut the file last, in operation `cut_at`, is rewriting it, and has
    /// not been for so long.
    pub(crate) fn is_rewriting_since(&self, cut_at: Lsn, age: Duration) -> bool {
        let state = self.lock();
        let copied = state.rewrite.as_ref().filter(|rewrite| rewrite.copy.is_some());
        copied.is_some_and(|rewrite| rewrite.cut_at == cut_at && rewrite.since.elapsed() < age)
    }

    /// Truncation `lsn` was applied, with a copy. Gives the copy of an earlier one that
    /// has not ended, and whether there are writers whose writes nobody sees.
    pub(crate) fn rewriting(&self, lsn: Lsn, copy: OsString) -> (Option<OsString>, bool) {
        let mut state = self.lock();
        let rewrite = Rewriting { lsn, cut_at: lsn, copy: Some(copy), since: Instant::now() };
        let earlier = state.rewrite.replace(rewrite);
        (earlier.and_then(|earlier| earlier.copy), state.unseen > 0)
    }

    /// What was there `before` is in place: takes the copy, unless the file
    /// was cut again since. The rewrite goes on until a record or a commit says so durably.
    pub(crate) fn end_rewrite(&self, before: &Before) -> Option<(Lsn, OsString)> {
        let mut state = self.lock();
        let begun = state.rewrite.as_mut().filter(|rewrite| rewrite.cut_at <= before.cut_at);
        begun.and_then(|rewrite| Some((rewrite.lsn, rewrite.copy.take()?)))
    }

    /// Takes the copy if it is of something older than what was there `before`, and the
    /// file was cut again since.
    pub(crate) fn end_older_rewrite(&self, before: &Before) -> Option<(Lsn, OsString)> {
        let mut state = self.lock();
        let older =
            |rewrite: &&mut Rewriting| (rewrite.lsn..rewrite.cut_at).contains(&before.cut_at);
        let rewrite = state.rewrite.as_mut().filter(older);
        rewrite.and_then(|rewrite| Some((rewrite.lsn, rewrite.copy.take()?)))
    }

    /// Takes [`Self::end_rewrite`] back.
    pub(crate) fn resume_rewrite(&self, lsn: Lsn, copy: OsString) {
        let mut state = self.lock();
        let same = state.rewrite.as_mut().filter(|rewrite| rewrite.lsn == lsn);
        if let Some(rewrite) = same {
            rewrite.copy = Some(copy);
        }
    }

    /// Takes the copy, whatever the file holds.
    pub(crate) fn leave_rewrite(&self) -> Option<OsString> {
        self.lock().rewrite.as_mut().and_then(|rewrite| rewrite.copy.take())
    }

    /// Whether a rewrite has begun since.
    pub(crate) fn rewrite_began_after(&self, before: &Before) -> bool {
        let state = self.lock();
        state.rewrite.as_ref().is_some_and(|rewrite| rewrite.cut_at > before.cut_at)
    }

    /// Whether there are writers whose writes do not come to us.
    pub(crate) fn has_unseen_writers(&self) -> bool {
        self.lock().unseen > 0
    }

    /// One such writer more, or less; says whether a rewrite must end for it.
    pub(crate) fn set_unseen(&self, unseen: bool) -> bool {
        let mut state = self.lock();
        if unseen {
            state.unseen += 1;
        } else {
            state.unseen -= 1;
        }
        unseen && state.rewrite.as_ref().is_some_and(|rewrite| rewrite.copy.is_some())
    }

    /// Whether the new content is whole when an opening ends through which operation
    /// `cut_at` has cut the file: nobody has cut it again to write it, or nobody else can.
    pub(crate) fn ends_with_closing(&self, cut_at: Lsn) -> bool {
        let state = self.lock();
        let is_last = state.rewrite.as_ref().is_none_or(|rewrite| rewrite.cut_at <= cut_at);
        state.writers <= 1 || (cut_at > 0 && is_last)
    }
}
