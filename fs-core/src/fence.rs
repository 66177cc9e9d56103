//! How a group becomes durable.
//!
//! So far there is one fence, *backing*: the backing files themselves are
//! synced. On a filesystem with an ordered journal one commit covers a whole
//! group; elsewhere each file is synced, in parallel, or the whole filesystem
//! at once, whichever has been cheaper lately ([`choice`]). It promises exactly what the backing filesystem promises, and
//! every error reaches the request that it concerns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::choice::MethodChoice;
use crate::error::Result;
use crate::platform::{Backing, FenceMethod, Fencer, SyncTarget};

pub mod choice;

/// Makes groups durable in the backing directory.
pub struct BackingFence<B: Backing> {
    fencer: B::Fencer,
    choice: Mutex<MethodChoice>,
}

/// What one fence did.
pub struct FenceOutcome {
    /// One result for each target, in order.
    pub results: Vec<Result<()>>,
    /// How it was done.
    pub method: FenceMethod,
    /// How long it took.
    pub service: Duration,
}

impl<B: Backing> BackingFence<B> {
    /// A fence that uses `fencer`.
    pub fn new(fencer: B::Fencer) -> Self {
        let able = |method| fencer.supports(method);
        let choice = MethodChoice::new(able(FenceMethod::SharedCommit), able(FenceMethod::WholeFs));
        Self { fencer, choice: Mutex::new(choice) }
    }

    /// Makes all targets durable.
    pub fn run(&self, targets: &[SyncTarget<B>]) -> FenceOutcome {
        let method = self.lock().choose(targets.len());
        let start = Instant::now();
        let mut results = self.fencer.run(method, targets);
        let service = start.elapsed();
        tell_all_of_a_file(targets, &mut results);
        self.lock().observe(method, targets.len(), service);
        FenceOutcome { results, method, service }
    }

    /// Name of the platform's mechanism, for status output.
    pub fn mechanism(&self) -> &'static str {
        self.fencer.mechanism()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MethodChoice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives every request for one open file the error that any of them met. The
/// kernel tells a failed write-back to an open file once, whichever of its
/// syncs asks first; the others would be told that all is well.
fn tell_all_of_a_file<B: Backing>(targets: &[SyncTarget<B>], results: &mut [Result<()>]) {
    let file = |target: &SyncTarget<B>| match target {
        SyncTarget::File(file, _) => Some(Arc::as_ptr(file)),
        SyncTarget::Dir(_) => None,
    };
    let failed: HashMap<_, _> = targets
        .iter()
        .zip(results.iter())
        .filter_map(|(target, result)| Some((file(target)?, result.err()?)))
        .collect();
    if failed.is_empty() {
        return;
    }
    for (target, result) in targets.iter().zip(results) {
        if let Some(error) = file(target).and_then(|file| failed.get(&file)) {
            *result = Err(*error);
        }
    }
}
