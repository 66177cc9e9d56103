//! Rewriting a file in place, all or nothing: from the truncation to the close.
//!
//! [`super::undo`] tells how it is done and why it holds. Here is what a rewrite goes
//! through:
//!
//! | step | what happens |
//! | --- | --- |
//! | before the truncation | the old content is copied, nobody waits for it but the program |
//! | at the truncation, in the stream | the copy gets its number; the record says "rewritten" |
//! | closed, synced, renamed, or open for too long | the new content is written in place, the copy goes |
//! | the next group | has a record of the file's content, whatever that needs: recovery takes it for the end of the rewrite |
//!
//! Programs may make a file durable without our knowing where the kernel writes it by
//! itself (`msync(2)`, `RWF_DSYNC` under passthrough). Then an old copy must not come
//! back, so a file with such a writer is not protected, and one that gets such a writer
//! is protected no longer. The front-end says which they are ([`Tracked::unseen`]).

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::Log;
use super::tracked::{Before, Tracked};
use super::undo::Copy;
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::platform::{Backing, ObjectKey};
use crate::types::{Attr, FileKind};

/// A file that stays open is protected for so long: as long as the kernel may keep
/// written data back by default (`dirty_expire_centisecs`). After a power cut it has
/// what was written, as on any filesystem; a program's log file, emptied at its start
/// weeks ago, must not come back as it was before.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// What became of truncations to nothing of files that held something.
#[derive(Debug, Default)]
pub(super) struct RewriteCounts {
    protected: AtomicU64,
    too_large: AtomicU64,
    unseen: AtomicU64,
    failed: AtomicU64,
    stayed_open: AtomicU64,
}

/// Files cut to nothing and written anew, for `lanefs status`.
#[derive(Debug, Clone, Serialize)]
pub struct RewriteStatus {
    /// Rewrites that are all or nothing over a power cut.
    pub protected: u64,
    /// Not protected: the old content was longer than the limit.
    pub too_large: u64,
    /// Not protected, or no longer: another open file of it is written by the kernel
    /// without our knowing.
    pub unseen: u64,
    /// Not protected: no room for the copy, an error, or changed while it was copied.
    pub failed: u64,
    /// Protected no longer: open for longer than 30 seconds.
    pub stayed_open: u64,
    /// Longest old content that is copied, in bytes.
    pub bytes_max: u64,
}

/// A truncation to nothing that is about to be applied, with a copy of the content.
pub(crate) struct Rewrite<B: Backing> {
    file: Arc<Tracked<B>>,
    reader: Arc<B::File>,
    copy: Copy,
}

impl<B: Backing> Log<B> {
    /// Copies what a file holds that is about to be cut to nothing, by who has done so
    /// before in operation `cut_at`, if not 0; `None` if nothing is to be kept, or nothing
    /// can be.
    pub(crate) fn begin_rewrite(
        &self,
        key: &ObjectKey,
        object: &B::Object,
        attr: &Attr,
        cut_at: Lsn,
    ) -> Option<Rewrite<B>> {
        let counts = &self.rewrites;
        if attr.kind != FileKind::Regular || attr.size == 0 || self.config.bugs.no_undo {
            return None;
        }
        if attr.size > self.rewrite_bytes_max() {
            counts.too_large.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let file = self.track(key);
        // Who starts over has written nothing whole: the copy stays that of what was there
        // before.
        if file.is_rewriting_since(cut_at, self.config.rewrite_kept) {
            return None;
        }
        if file.has_unseen_writers() {
            counts.unseen.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let copied = self.reader(&file, object).and_then(|reader| {
            let copy = self.home.undo.copy(&*self.backing, &reader)?;
            Ok(Rewrite { file: Arc::clone(&file), reader, copy })
        });
        copied
            .inspect_err(|error| {
                tracing::debug!(%error, "no copy of a file that is about to be rewritten");
                counts.failed.fetch_add(1, Ordering::Relaxed);
            })
            .ok()
    }

    /// Longest file that is copied when it is cut to nothing, in bytes.
    pub(crate) const fn rewrite_bytes_max(&self) -> u64 {
        self.config.rewrite_bytes_max
    }

    /// Makes the copy that of truncation `lsn`, which comes next; gives its name. `None`
    /// if the file was changed since.
    pub(crate) fn claim_rewrite(&self, rewrite: &Rewrite<B>, lsn: Lsn) -> Option<OsString> {
        let is_same = self
            .backing
            .file_attr(&rewrite.reader)
            .is_ok_and(|attr| rewrite.copy.of.matches(&attr));
        let key = rewrite.file.key();
        let claimed = is_same
            .then(|| self.home.undo.claim(&*self.backing, &rewrite.copy, lsn, key).ok())
            .flatten();
        if claimed.is_none() {
            self.rewrites.failed.fetch_add(1, Ordering::Relaxed);
            self.home.undo.discard(&*self.backing, &rewrite.copy);
        }
        claimed
    }

    /// The truncation has failed.
    pub(crate) fn cancel_rewrite(&self, claimed: &OsString) {
        if let Err(error) = self.home.undo.remove(&*self.backing, claimed) {
            // It would be put back after a power cut, over what was written since.
            self.give_up(&format!("an unused copy of a file cannot be removed: {error}"));
        }
    }

    /// The truncation was applied.
    pub(crate) fn rewriting(&self, rewrite: &Rewrite<B>, lsn: Lsn, claimed: OsString) {
        self.rewrites.protected.fetch_add(1, Ordering::Relaxed);
        let (earlier, is_unseen) = rewrite.file.rewriting(lsn, claimed);
        // Of a program that never closes the file, and has written it whole since.
        if let Some(earlier) = earlier {
            self.cancel_rewrite(&earlier);
        }
        if is_unseen {
            self.leave_rewrite(&rewrite.file);
        }
        // `truncate(2)` of many files that nobody opens must not keep a descriptor for each.
        rewrite.file.spare_reader();
    }

    /// A sync of what a file held `before` makes that durable now, though it was cut again
    /// since: a copy of something older must not come back.
    pub(crate) fn overtaken(&self, file: &Tracked<B>, before: &Before) -> Result<()> {
        let Some((lsn, copy)) = file.end_older_rewrite(before) else { return Ok(()) };
        self.rewrites.failed.fetch_add(1, Ordering::Relaxed);
        let removed = self.home.undo.remove(&*self.backing, &copy);
        removed.inspect_err(|_| file.resume_rewrite(lsn, copy))
    }

    /// What a file holds was written in place, all that was there `before`: if that ends
    /// a rewrite, its copy goes.
    ///
    /// # Errors
    /// Something of it could not be written earlier; or the copy cannot be removed. The file must not
    /// count as durable.
    pub(crate) fn rewritten(&self, file: &Tracked<B>, before: &Before) -> Result<()> {
        if file.is_rewriting() && !file.is_whole(before) {
            return Err(Errno::IO);
        }
        let Some((lsn, copy)) = file.end_rewrite(before) else { return Ok(()) };
        let removed = self.home.undo.remove(&*self.backing, &copy);
        removed.inspect_err(|_| file.resume_rewrite(lsn, copy))
    }

    /// A file has lost its last name, or gets a writer whose writes nobody sees: its
    /// copy goes, whatever the file holds.
    pub(super) fn leave_rewrite(&self, file: &Tracked<B>) {
        if let Some(copy) = file.leave_rewrite() {
            self.cancel_rewrite(&copy);
        }
    }

    /// Notes that writes of one open file of this do not come to us from now on, or
    /// do again.
    pub(crate) fn set_unseen(&self, file: &Arc<Tracked<B>>, object: &B::Object, unseen: bool) {
        if file.set_unseen(unseen) {
            self.rewrites.unseen.fetch_add(1, Ordering::Relaxed);
            // What cannot be written stays as it was: the copy is kept.
            let _ = self.join(file, object);
        }
    }

    /// Ends rewrites of files that stay open.
    pub(super) fn settle_old_rewrites(&self) {
        let (ended, _) = self.settle_rewrites(OPEN_MAX);
        self.rewrites.stayed_open.fetch_add(ended, Ordering::Relaxed);
    }

    /// Ends rewrites that have lasted for so long; says how many, and whether those were all.
    pub(super) fn settle_rewrites(&self, age: Duration) -> (u64, Result<()>) {
        let (mut ended, mut result) = (0, Ok(()));
        for file in self.files.all() {
            if !file.rewrite_is_older_than(age) {
                continue;
            }
            let settled = match self.backing.by_key(file.key()) {
                // What cannot be written stays as it was: the copy is kept.
                Ok(found) => self.join(&file, &found.object),
                // Without a name it comes back in no way.
                Err(_) => {
                    self.leave_rewrite(&file);
                    Ok(())
                }
            };
            ended += u64::from(settled.is_ok());
            result = result.and(settled);
        }
        (ended, result)
    }

    /// Whether any file is protected.
    pub(crate) fn has_rewrites(&self) -> bool {
        self.files.all().iter().any(|file| file.is_rewriting())
    }

    /// What became of rewrites so far; waits for nobody.
    pub fn rewrite_status(&self) -> RewriteStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RewriteStatus {
            protected: count(&self.rewrites.protected),
            too_large: count(&self.rewrites.too_large),
            unseen: count(&self.rewrites.unseen),
            failed: count(&self.rewrites.failed),
            stayed_open: count(&self.rewrites.stayed_open),
            bytes_max: self.rewrite_bytes_max(),
        }
    }
}
