//! Syncs that are noted.

use std::sync::Arc;

use super::tape::Tape;
use super::{Backing, FenceMethod, Fencer, Recorder, SyncTarget};
use crate::crash::trace::Operation;
use crate::error::Result;
use crate::types::SyncKind;

/// Syncs, and notes each that succeeded.
pub struct RecordingFencer<B: Backing> {
    pub(super) inner: B::Fencer,
    pub(super) tape: Arc<Tape>,
}

impl<B: Backing> Fencer<Recorder<B>> for RecordingFencer<B> {
    fn supports(&self, method: FenceMethod) -> bool {
        method == FenceMethod::Parallel
    }

    fn run(&self, method: FenceMethod, targets: &[SyncTarget<Recorder<B>>]) -> Vec<Result<()>> {
        let inner: Vec<_> = targets
            .iter()
            .map(|target| match target {
                SyncTarget::File(file, kind) => SyncTarget::File(Arc::clone(&file.inner), *kind),
                SyncTarget::Dir(dir) => SyncTarget::Dir(Arc::clone(&dir.inner)),
            })
            .collect();
        // Nothing is done meanwhile that the sync might cover or not.
        let mut tape = self.tape.lock();
        let results = self.inner.run(method, &inner);
        for (target, result) in targets.iter().zip(&results) {
            let (ino, kind, thread) = match target {
                SyncTarget::File(file, kind) => (file.id.ino, *kind, file.thread),
                SyncTarget::Dir(dir) => (dir.ino, SyncKind::Full, dir.thread),
            };
            if let (Some(ino), Ok(())) = (ino, result) {
                tape.note(thread, Operation::Sync { ino, kind });
            }
        }
        results
    }

    fn commit(&self) -> Result<()> {
        self.inner.commit()
    }

    fn mechanism(&self) -> &'static str {
        self.inner.mechanism()
    }
}
