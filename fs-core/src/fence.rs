//! How a group becomes durable.
//!
//! So far there is one fence, *backing*: the backing files themselves are
//! synced. On a filesystem with an ordered journal one commit covers a whole
//! group; elsewhere each file is synced, in parallel, or the whole filesystem
//! at once, whichever has been cheaper lately ([`choice`]). It promises exactly what the backing filesystem promises, and
//! every error reaches the request that it concerns.

use std::sync::{Mutex, PoisonError};
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
        let results = self.fencer.run(method, targets);
        let service = start.elapsed();
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
