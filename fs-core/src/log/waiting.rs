//! Content that waits for its blocks, written in place before the log is free.
//!
//! `tracked/delayed.rs` tells what that is. A file is looked at until all that waited when its turn
//! came has blocks; what groups add meanwhile is in the log behind what is about to be free.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::marks::OURSELVES;
use super::tracked::{Blocks, Tracked};
use super::{Log, READ};
use crate::error::{Errno, Result};
use crate::platform::Backing;

/// So much is given to the disk at once: a group's flush waits for what is before it.
const BATCH_BYTES: u64 = 1 << 20;
/// Files that are open at once.
const BATCH_FILES_MAX: usize = 64;
/// Times that a file is looked at anew because it was cut meanwhile.
const TRIES_MAX: u32 = 4;

/// Whether anything waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Something may.
    is_any: AtomicBool,
    /// One at a time: who finds that nothing waits may free the log.
    placing: Mutex<()>,
}

impl<B: Backing> Log<B> {
    /// Notes that content was left to the log.
    pub(crate) fn note_waiting(&self) {
        self.waiting.is_any.store(true, Ordering::Release);
    }

    /// Writes all in place that only the log has. Not durable by that: a commit has to follow, before
    /// anything of the log is free.
    ///
    /// # Errors
    /// Some of it cannot be written, or was lost when somebody wrote it: the log must keep what it has. Files
    /// that no longer exist have nothing to write.
    pub(crate) fn place_waiting(&self) -> Result<()> {
        let _one_at_a_time = self.waiting.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.config.bugs.free_delayed || !self.waiting.is_any.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (mut placed, mut batch, mut bytes) = (Ok(()), Vec::new(), 0);
        for file in self.files.all() {
            let Some(waiting) = file.waiting() else { continue };
            batch.push(file);
            bytes += waiting.bytes();
            if bytes >= BATCH_BYTES || batch.len() == BATCH_FILES_MAX {
                placed = placed.and(self.place_all(&std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        placed.and(self.place_all(&batch)).inspect_err(|_| self.note_waiting())
    }

    /// Has them written all at once, then waits for each.
    fn place_all(&self, files: &[Arc<Tracked<B>>]) -> Result<()> {
        let opened = files.iter().map(|file| Ok((file, self.open_again(file)?)));
        let opened: Vec<_> = opened.collect::<Result<_>>()?;
        for (_, reader) in &opened {
            if let Some(reader) = reader {
                // An error is not lost: waiting reports it.
                let _ = self.backing.start_write_back(reader);
            }
        }
        let placed = opened.into_iter().map(|(file, reader)| match reader {
            Some(reader) => self.place(file, &reader),
            None => {
                file.waits_no_more();
                Ok(())
            }
        });
        placed.fold(Ok(()), Result::and)
    }

    /// Opens a file, if it is still there: a program's open file would not hear of an error any more
    /// of which this one is told.
    fn open_again(&self, file: &Tracked<B>) -> Result<Option<B::File>> {
        let found = match self.backing.by_key(file.key()) {
            Err(Errno::STALE) => return Ok(None),
            found => found?,
        };
        if found.attr.nlink == 0 {
            return Ok(None);
        }
        self.backing.open(OURSELVES, &found.object, READ).map(Some)
    }

    fn place(&self, file: &Tracked<B>, reader: &B::File) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let Some(waiting) = file.waiting() else { return Ok(()) };
            let size = self.backing.file_attr(reader)?.size;
            let placed = self.backing.finish_write_back(reader);
            placed.map_err(|error| self.lost(file, error))?;
            let blocks = self.backing.allocated(reader, waiting.span())?.into_iter().collect();
            match file.has_been_placed(&waiting, &blocks, size) {
                Blocks::AreThere => return Ok(()),
                Blocks::AreMissing => return Err(self.lost(file, Errno::IO)),
                Blocks::Unknown => {}
            }
        }
        tracing::info!(inode = file.key().ino, "a file is cut too often to be written in place");
        Err(Errno::BUSY)
    }

    fn lost(&self, file: &Tracked<B>, error: Errno) -> Errno {
        file.lose();
        tracing::error!(
            %error,
            inode = file.key().ino,
            "synced content of a file could not be written in place; the log has it and is kept: \
             mend the cause (a failing disk; or somebody who has cut the file in the backing directory \
             itself), then unmount and mount again"
        );
        error
    }
}
