//! One look of the committer: what is not durable, and what of it is committed now.
//!
//! There are two looks in an interval, and what is younger than half of one is left alone: it
//! is committed at the next look, or by the sync of a program that syncs by itself, whose groups
//! are not disturbed so. Names and attributes are committed whole. Of content, what two looks have
//! found small: a look that writes back a large stream again and again would cost it its speed, and
//! the device its bandwidth. Such a file is left alone for [`LOOKS_MAX`] looks.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError, Weak};

use crate::engine::{Engine, Lsn};
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::fence::ahead::Ahead;
use crate::log::Log;
use crate::log::tracked::Tracked;
use crate::platform::Backing;

/// Looks after which a file with much unwritten content is committed, too.
const LOOKS_MAX: u32 = 2 * 5;
/// Unwritten content of a file that is committed at the [`SMALL_LOOKS_MIN`]th look.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Looks that find a file small before it is committed: a large stream has just begun when
/// the first one comes, now and then.
const SMALL_LOOKS_MIN: u32 = 2;
/// Files that are committed one by one; with more everything is synced.
const FILES_MAX: usize = 256;

/// What a look has done.
pub(super) struct Looked {
    /// There was something to commit.
    pub(super) committed: bool,
    /// Something is left, or may come without being told of.
    pub(super) comes_back: bool,
}

/// What the last look without a log has found.
#[derive(Debug, Default)]
pub(in crate::engine) struct PlainState {
    lsn: Lsn,
    /// Looks since everything was synced, with something new.
    looks: u32,
}

impl PlainState {
    /// The last operation that was committed.
    pub(in crate::engine) const fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl<B: Backing> Engine<B> {
    /// Commits what was applied and is not durable.
    pub(super) fn commit_applied(&self) -> Result<Looked> {
        match &self.log {
            Some(log) => self.commit_by_log(log),
            None => self.commit_plainly(),
        }
    }

    /// Whether there is anything that a look would have to care for.
    pub(super) fn has_unsynced(&self) -> bool {
        match &self.log {
            Some(log) => !log.is_all_durable() || log.files.all().iter().any(|f| !f.is_settled()),
            None => {
                let lsn = self.stream.load(Ordering::SeqCst);
                let names = self.committer.lock().plain.lsn != lsn;
                let writers = self.look_at_writers();
                names || writers.are_open || writers.wrote
            }
        }
    }

    fn commit_by_log(&self, log: &Arc<Log<B>>) -> Result<Looked> {
        let age_min = self.committer.look_interval().unwrap_or_default();
        let mut now = Vec::new();
        let mut comes_back = false;
        for file in log.files.all() {
            if file.is_settled() {
                continue;
            }
            if file.is_rewriting() || file.durable_age().0 < age_min {
                // Of a rewrite a half must not be made durable: it ends with its close.
                comes_back = true;
                continue;
            }
            let look = match log.look(&file) {
                Ok(look) => look,
                Err(error) => {
                    tracing::warn!(%error, "a written file cannot be looked at");
                    comes_back = true;
                    continue;
                }
            };
            comes_back |= look.is_open;
            if look.looks == 0 {
                continue;
            }
            let is_small = look.looks >= SMALL_LOOKS_MIN && look.unwritten_bytes <= SMALL_BYTES_MAX;
            if look.looks >= LOOKS_MAX || is_small {
                now.push(file);
            } else {
                comes_back = true;
            }
        }
        let names_are_due = log.lock_stream().waiting().1.is_none_or(|age| age >= age_min);
        let committed = !now.is_empty() || (names_are_due && !log.is_all_durable());
        comes_back |= !committed && !log.is_all_durable();
        if now.len() > FILES_MAX && log.has_rewrites() {
            // A sync of everything would end these.
            comes_back = true;
            now.truncate(FILES_MAX);
        }
        now.iter().for_each(|file| file.commits());
        if now.len() > FILES_MAX {
            log.sync_all_of(&now)?;
        } else {
            log.join_all(&now);
        }
        if committed && !log.is_all_durable() {
            self.commit_and_wait()?;
        }
        Ok(Looked { committed, comes_back })
    }

    /// Without a log: names by one journal commit where there is one; content, and names
    /// elsewhere, by a sync of the whole filesystem, which is made less often.
    fn commit_plainly(&self) -> Result<Looked> {
        let writers = self.look_at_writers();
        let lsn = self.stream.load(Ordering::SeqCst);
        let (has_names, is_due) = {
            let mut state = self.committer.lock();
            let has_names = std::mem::replace(&mut state.plain.lsn, lsn) != lsn;
            let is_new = has_names || writers.wrote || state.plain.looks > 0;
            state.plain.looks += u32::from(is_new);
            (has_names, state.plain.looks >= LOOKS_MAX)
        };
        if is_due {
            self.sync_backing()?;
            self.committer.lock().plain.looks = 0;
        } else if has_names && self.lanes.commits_everything() {
            self.commit_and_wait()?;
        }
        let left = self.committer.lock().plain.looks > 0;
        Ok(Looked { committed: is_due || has_names, comes_back: left || writers.are_open })
    }

    /// Makes everything on the backing filesystem durable, ours or not.
    pub(in crate::engine) fn sync_backing(&self) -> Result<()> {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One filesystem: syncing it once syncs every tree.
        match trees.iter().find_map(Weak::upgrade) {
            Some(tree) => tree.backing().sync_all(),
            None => Ok(()),
        }
    }

    fn look_at_writers(&self) -> Writers {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trees = trees.iter().filter_map(Weak::upgrade);
        trees.fold(Writers::default(), |all, tree| {
            let writers = tree.look_at_writers();
            let (are_open, wrote) = (all.are_open || writers.are_open, all.wrote || writers.wrote);
            Writers { are_open, wrote }
        })
    }

    fn commit_and_wait(&self) -> Result<()> {
        let (sender, answer) = channel();
        let done = move |result| {
            let _ = sender.send(result);
        };
        self.lanes.submit(0, SyncRequest::everything(), Box::new(done));
        answer.recv().unwrap_or(Err(Errno::IO))
    }
}

/// Files that are or were open for writing, without a log.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::engine) struct Writers {
    pub(in crate::engine) are_open: bool,
    /// Something was written since the last look, or may have been.
    pub(in crate::engine) wrote: bool,
}

/// What a look has found of a file.
struct FileLook {
    /// Looks since it was durable, this one included; 0: it is.
    looks: u32,
    /// Content that has not been written to where it belongs.
    unwritten_bytes: u64,
    /// Programs may write it.
    is_open: bool,
}

impl<B: Backing> Log<B> {
    /// Looks at a file.
    fn look(&self, file: &Arc<Tracked<B>>) -> Result<FileLook> {
        let found = match self.backing().by_key(file.key()) {
            Err(Errno::STALE) => None,
            found => Some(found?),
        };
        let Some(object) = found.filter(|found| found.attr.nlink > 0) else {
            return Ok(FileLook { looks: 0, unwritten_bytes: 0, is_open: file.is_gone() });
        };
        let (looks, is_open) = file.look(&object.attr, self.backing().has_exact_times());
        let mut unwritten_bytes = 0;
        if looks > 0 {
            let reader = self.reader(file, &object.object)?;
            unwritten_bytes = self.backing().unwritten_bytes(&reader).unwrap_or(u64::MAX);
            drop(reader);
            // An open file that is removed would keep its blocks.
            file.spare_reader();
        }
        Ok(FileLook { looks, unwritten_bytes, is_open })
    }

    /// Has the next group make the content of these files durable.
    fn join_all(&self, files: &[Arc<Tracked<B>>]) {
        for file in files {
            // Of a file that was written anew joining looks how much of it waits.
            if let Some(reader) = file.open_reader().filter(|_| !file.has_lost()) {
                // All at once; joining waits for each.
                let _ = self.backing().start_write_back(&reader);
            }
        }
        for file in files {
            match self.backing().by_key(file.key()) {
                Err(Errno::STALE) => {}
                Err(error) => tracing::warn!(%error, "a written file cannot be found again"),
                Ok(found) => {
                    self.write_ahead(file, found.attr.size);
                    // It warns; and whoever syncs the file is told as well.
                    let _ = self.join(file, &found.object);
                }
            }
        }
    }

    /// Writes a large file before it joins: what programs write meanwhile would be left to the
    /// group, and others would wait for it.
    fn write_ahead(&self, file: &Tracked<B>, bytes: u64) {
        let ahead = Ahead::new(self.backing(), *file.key(), &Arc::default(), bytes);
        if ahead.takes_long() && ahead.write().is_err() {
            file.lose();
        }
    }

    /// Makes everything durable, and so these files.
    fn sync_all_of(&self, files: &[Arc<Tracked<B>>]) -> Result<()> {
        let before = |file: &Arc<Tracked<B>>| {
            let attr = || self.backing().by_key(file.key()).map(|found| found.attr);
            Some((Arc::clone(file), file.before(attr).ok()?))
        };
        let befores: Vec<_> = files.iter().filter_map(before).collect();
        self.finish(false)?;
        for (file, before) in &befores {
            file.committed(None, before);
            file.spare_reader();
        }
        Ok(())
    }
}
