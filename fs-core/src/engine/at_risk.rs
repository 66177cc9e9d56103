//! What a power cut now would lose.
//!
//! An upper bound: what a group that is under way will have made durable counts as well, and so
//! does what the backing filesystem has made durable by itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;

use super::Engine;
use crate::error::{Errno, Result};
use crate::log::Log;
use crate::log::tracked::Tracked;
use crate::platform::Backing;

/// What is applied and not durable.
#[derive(Debug, Default, Clone, Serialize)]
pub struct AtRisk {
    /// Changes of names and attributes. Without a log: since the last commit that nobody asked
    /// for, whatever was synced meanwhile.
    pub operations: u64,
    /// How long ago the first of them was made, in seconds; without a log that is not known.
    pub operations_age_s: Option<f64>,
    /// Files with content that is not durable. Without a log: those that are open for writing.
    pub files: Vec<FileAtRisk>,
}

/// A file with content that is not durable.
#[derive(Debug, Clone, Serialize)]
pub struct FileAtRisk {
    /// Its inode number.
    pub ino: u64,
    /// So much of it at most, in whole pages. 0: its length or times only.
    pub bytes: u64,
    /// When it was durable last, or opened first, in seconds ago: nothing of it that is at risk
    /// is older. Without a log that is not known.
    pub age_s: Option<f64>,
    /// A program has it open for writing.
    pub is_open: bool,
}

impl<B: Backing> Engine<B> {
    /// What a power cut now would lose, at most.
    pub fn at_risk(&self) -> AtRisk {
        let Some(log) = &self.log else { return self.at_risk_plainly() };
        let (operations, age) = log.lock_stream().waiting();
        let files = log.files.all();
        let unsettled = files.iter().filter(|file| !file.is_settled());
        // A file that cannot be looked at is no reason not to tell of the others.
        let files = unsettled.filter_map(|file| log.file_at_risk(file).ok().flatten()).collect();
        AtRisk { operations, operations_age_s: age.map(|age| age.as_secs_f64()), files }
    }

    fn at_risk_plainly(&self) -> AtRisk {
        let committed = self.committer.lock().plain.lsn();
        // Nobody has looked yet: the mount began with everything durable.
        let operations = self.stream.load(Ordering::SeqCst).saturating_sub(committed.max(1));
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trees: Vec<_> = trees.iter().filter_map(Weak::upgrade).collect();
        let files = trees.iter().flat_map(|tree| tree.writers_at_risk()).collect();
        AtRisk { operations, operations_age_s: None, files }
    }
}

impl<B: Backing> Log<B> {
    fn file_at_risk(&self, file: &Arc<Tracked<B>>) -> Result<Option<FileAtRisk>> {
        let found = match self.backing().by_key(file.key()) {
            Err(Errno::STALE) => return Ok(None),
            found => found?,
        };
        if found.attr.nlink == 0 || self.is_synced(file, &found.attr) {
            return Ok(None);
        }
        let reader = self.reader(file, &found.object)?;
        let unwritten = self.backing().unwritten_bytes(&reader)?;
        // Who asks waits for every hole of it.
        let need = file.need((self.backing(), &reader), found.attr.size, None)?;
        drop(reader);
        file.spare_reader();
        let (age, is_open): (Duration, bool) = file.durable_age();
        Ok(Some(FileAtRisk {
            ino: found.attr.ino,
            bytes: unwritten.max(need.new_bytes),
            age_s: Some(age.as_secs_f64()),
            is_open,
        }))
    }
}
