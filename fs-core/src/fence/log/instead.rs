//! What makes a group durable instead of the log, or after it.

use std::ops::Range;
use std::sync::Arc;

use super::in_place::InPlace;
use super::{Content, GroupFile, LogFence, note_failures};
use crate::engine::Lsn;
use crate::error::Result;
use crate::fence::{FenceOutcome, Way};
use crate::log::{Tail, Writer};
use crate::platform::{Backing, FenceMethod, SyncTarget};

impl<B: Backing> LogFence<B> {
    /// Whether a group may, and had better, be synced file by file: the log need not say anything
    /// besides its files, nor of them.
    pub(super) fn may_sync_each(
        &self,
        files: &[GroupFile<B>],
        content: Content,
        tail: &Tail<B>,
    ) -> bool {
        let is_better = match content {
            Content::TooMuch => files.len() == 1,
            Content::InParts => files.len() == 1 || !self.fence.commits_with_one_flush(),
            Content::InLog | Content::Changed => false,
        };
        is_better && tail.is_empty() && !files.iter().any(|file| file.file.is_rewrite_open())
    }

    /// Files of which nothing has to be in the log are synced each as its program asked, all at
    /// the same time. That commits the journal if the blocks or the length of one need it, and is one flush if not.
    pub(super) fn sync_each(
        &self,
        files: &mut [GroupFile<B>],
        in_place: &mut InPlace<'_, B>,
    ) -> Way {
        let settled: Vec<_> = files.iter().map(|file| self.settled(file)).collect();
        let target = |file: &GroupFile<B>| {
            SyncTarget::File(Arc::clone(&file.reader), in_place.kind(&file.file))
        };
        let targets: Vec<_> = files.iter().map(target).collect();
        let FenceOutcome { results, way, .. } = self.fence.run_each(&targets);
        for ((file, result), settled) in files.iter_mut().zip(results).zip(settled) {
            if let Err(error) = result {
                file.has_failed = true;
                in_place.failed(&file.file, error);
            }
            if !file.has_failed {
                file.file.committed(settled, &file.before);
            }
        }
        way
    }

    /// What a commit that begins now makes known to the journal.
    fn settled(&self, file: &GroupFile<B>) -> Option<Vec<Range<u64>>> {
        self.backing.settled(&file.reader, file.file.to_settle()?).ok()
    }

    /// A journal commit instead of the log: all data of the group is in place already. Where it makes
    /// free what the log has, or nothing can rely on the log any more, the data of others is put in place, too.
    pub(super) fn commit(
        &self,
        files: &[GroupFile<B>],
        writer: &mut Writer<B::Log>,
        through: Lsn,
        is_full: bool,
    ) -> Result<Way> {
        let frees = is_full || self.log.failure().is_some();
        let placed = if frees { self.log.place_waiting() } else { Ok(()) };
        let settled: Vec<_> = files.iter().map(|file| self.settled(file)).collect();
        self.fence.commit()?;
        for (file, settled) in files.iter().zip(settled).filter(|(file, _)| !file.has_failed) {
            file.file.committed(settled, &file.before);
        }
        self.log.committed(writer, through, is_full, placed.is_ok());
        Ok(Way::Backing(FenceMethod::SharedCommit))
    }

    /// Of files that were cut since the group was put together, pages may have gone before they were
    /// in place: the cut becomes durable instead. The rest of the group is durable already.
    pub(super) fn commit_cut(
        &self,
        files: &mut [GroupFile<B>],
        in_place: &mut InPlace<'_, B>,
        writer: &mut Writer<B::Log>,
        through: Lsn,
        way: Way,
    ) -> Way {
        let is_cut = |file: &&GroupFile<B>| file.file.is_cut_since(file.lsn);
        if !files.iter().any(|file| is_cut(&file)) {
            return way;
        }
        in_place.finish_left(&*self.backing, None);
        note_failures(files, in_place);
        let files = &*files;
        let cut = files.iter().filter(is_cut);
        self.commit(files, writer, through, false).unwrap_or_else(|error| {
            cut.for_each(|file| in_place.failed(&file.file, error));
            way
        })
    }
}
