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
    is_finished: bool,
}

impl<'a, B: Backing> InPlace<'a, B> {
    /// Nothing is on its way yet; with `is_finished` (a planted bug) it never will be.
    pub(super) fn new(
        group: &'a [SyncRequest<B>],
        results: &'a mut [Result<()>],
        is_finished: bool,
    ) -> Self {
        Self { group, results, is_finished }
    }

    /// Has them written.
    pub(super) fn start(&self, backing: &B, files: &[GroupFile<B>]) {
        // One file that has nothing for the log: finishing does it all, at once.
        if self.is_finished || matches!(files, [one] if one.file.is_committed(one.attr.size)) {
            return;
        }
        let mut started = HashSet::new();
        for file in self.group.iter().filter_map(open_file) {
            if started.insert(Arc::as_ptr(file)) {
                // An error is not lost: waiting reports it.
                let _ = backing.start_write_back(file);
            }
        }
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

    /// Waits for them. Each open file is told its own error, whoever asks first.
    pub(super) fn finish(&mut self, backing: &B) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let mut outcomes: HashMap<*const B::File, Result<()>> = HashMap::new();
        for (request, result) in self.group.iter().zip(self.results.iter_mut()) {
            let Some(file) = open_file(request) else { continue };
            let outcome = outcomes.entry(Arc::as_ptr(file));
            let placed = *outcome.or_insert_with(|| backing.finish_write_back(file));
            if placed.is_err() {
                request.file.iter().for_each(|tracked| tracked.lose());
            }
            *result = result.and(placed);
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
