//! What a group's files have for their own blocks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::GroupFile;
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::log::tracked::Tracked;
use crate::platform::{Backing, SyncTarget};
use crate::types::SyncKind;

/// The dirty pages of a group's files, on their way to where they belong.
pub(super) struct InPlace<'a, B: Backing> {
    group: &'a [SyncRequest<B>],
    results: &'a mut [Result<()>],
    /// Of files whose content is not written from some byte on, that byte.
    left_from: HashMap<*const Tracked<B>, u64>,
    is_finished: bool,
}

impl<'a, B: Backing> InPlace<'a, B> {
    /// Nothing is on its way yet; with `is_finished` (a planted bug) it never will be.
    pub(super) fn new(
        group: &'a [SyncRequest<B>],
        results: &'a mut [Result<()>],
        is_finished: bool,
    ) -> Self {
        Self { group, results, left_from: HashMap::new(), is_finished }
    }

    /// Has them written, but for what is left to the log.
    pub(super) fn start(&mut self, backing: &B, files: &[GroupFile<B>]) {
        if self.is_finished {
            return;
        }
        let left = files.iter().filter(|file| file.left_from < u64::MAX);
        self.left_from = left.map(|file| (Arc::as_ptr(&file.file), file.left_from)).collect();
        // One file that has nothing for the log: finishing does it all, at once.
        if matches!(files, [one] if one.file.is_committed(one.attr.size)) {
            return;
        }
        let mut started = HashSet::new();
        for request in self.group {
            let Some(file) = open_file(request) else { continue };
            if started.insert(Arc::as_ptr(file)) {
                // An error is not lost: waiting reports it.
                let _ = backing.start_write_back_within(file, 0..self.left_from(request));
            }
        }
    }

    fn left_from(&self, request: &SyncRequest<B>) -> u64 {
        let file = request.file.as_ref().map(Arc::as_ptr);
        file.and_then(|file| self.left_from.get(&file).copied()).unwrap_or(u64::MAX)
    }

    /// The most that anybody asks for a file.
    pub(super) fn kind(&self, file: &Arc<Tracked<B>>) -> SyncKind {
        let is_full = self.group.iter().any(|request| {
            let full = matches!(request.target, Some(SyncTarget::File(_, SyncKind::Full)));
            full && asks_for(request, file)
        });
        if is_full { SyncKind::Full } else { SyncKind::Data }
    }

    /// Who asks for a file gets an error.
    pub(super) fn failed(&mut self, file: &Arc<Tracked<B>>, error: Errno) {
        for (request, result) in self.group.iter().zip(self.results.iter_mut()) {
            if asks_for(request, file) {
                *result = result.and(Err(error));
            }
        }
    }

    /// The files for which somebody who asks gets one.
    pub(super) fn failures(&self) -> HashSet<*const Tracked<B>> {
        let asking = self.group.iter().zip(&*self.results);
        let failed = asking.filter(|(_, result)| result.is_err());
        failed.filter_map(|(request, _)| request.file.as_ref().map(Arc::as_ptr)).collect()
    }

    /// Everybody gets an error.
    pub(super) fn all_failed(&mut self, error: Errno) {
        self.results.iter_mut().for_each(|result| *result = result.and(Err(error)));
    }

    /// Waits for what was started.
    pub(super) fn finish(&mut self, backing: &B) {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.write(backing, |_| true);
        }
    }

    /// Writes what was left to the log, and waits for it; of all files, or of `only` one.
    pub(super) fn finish_left(&mut self, backing: &B, only: Option<&Arc<Tracked<B>>>) {
        let mut left = std::mem::take(&mut self.left_from);
        if let Some(only) = only {
            let was_left = left.remove(&Arc::as_ptr(only)).is_some();
            if was_left {
                self.write(backing, |file| Arc::ptr_eq(file, only));
            }
            self.left_from = left;
        } else if !left.is_empty() {
            self.write(backing, |file| left.contains_key(&Arc::as_ptr(file)));
        }
    }

    /// Writes these files up to where they are left, and waits. Each open file is told its own error,
    /// whoever asks first.
    fn write(&mut self, backing: &B, is_meant: impl Fn(&Arc<Tracked<B>>) -> bool) {
        let mut outcomes: HashMap<*const B::File, Result<()>> = HashMap::new();
        for index in 0..self.group.len() {
            let request = &self.group[index];
            let Some(file) = open_file(request) else { continue };
            if !request.file.as_ref().is_none_or(&is_meant) {
                continue;
            }
            let within = 0..self.left_from(request);
            let outcome = outcomes.entry(Arc::as_ptr(file));
            let placed = *outcome.or_insert_with(|| backing.finish_write_back_within(file, within));
            if placed.is_err() {
                request.file.iter().for_each(|tracked| tracked.lose());
            }
            self.results[index] = self.results[index].and(placed);
        }
    }
}

fn asks_for<B: Backing>(request: &SyncRequest<B>, file: &Arc<Tracked<B>>) -> bool {
    request.file.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, file))
}

fn open_file<B: Backing>(request: &SyncRequest<B>) -> Option<&Arc<B::File>> {
    match &request.target {
        Some(SyncTarget::File(file, _)) => Some(file),
        _ => None,
    }
}
