//! How a group becomes durable.
//!
//! | fence | how | promise |
//! | --- | --- | --- |
//! | [`BackingFence`] | the backing files themselves are synced: one journal commit for the whole group where the journal keeps its order, else each file in parallel, or the whole filesystem, whichever has been cheaper lately ([`choice`]) | what the backing filesystem promises |
//! | [`log::LogFence`] | data in place, metadata and what has no durable place yet into the log, one flush for both | more: everything done earlier on the engine |
//!
//! With both, every error reaches the request that it concerns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::ahead::Ahead;
use self::choice::MethodChoice;
use crate::engine::Lsn;
use crate::error::Result;
use crate::log::tracked::Tracked;
use crate::platform::{Backing, FenceMethod, Fencer, SyncTarget};

pub mod ahead;
pub mod choice;
pub mod log;

/// One request to make something durable.
pub struct SyncRequest<B: Backing> {
    /// What its program asked for; `None`: everything done so far on the engine.
    pub target: Option<SyncTarget<B>>,
    /// What is known of the file, if a log is kept.
    pub file: Option<Arc<Tracked<B>>>,
    /// An open file of the program through which the log may read, too; else it opens
    /// one of its own.
    pub reader: Option<Arc<B::File>>,
    /// With a log: all that is asked for, if it is what was done up to this operation.
    pub through: Option<Lsn>,
    /// Others sync the same file or directory, too. The kernel keeps it locked until this
    /// is answered, so that to wait for them is to wait in vain.
    pub keeps_others_out: bool,
    /// For writing a file in place before others have to wait for it.
    pub ahead: Option<Arc<Ahead<B>>>,
}

impl<B: Backing> SyncRequest<B> {
    /// Asks for everything done so far on the engine.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            target: None,
            file: None,
            reader: None,
            through: None,
            keeps_others_out: false,
            ahead: None,
        }
    }

    /// Whether a group is likely to take long for this one alone.
    pub(crate) fn takes_long(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.takes_long())
    }

    /// Does, without making anything durable, what a group would have to wait for.
    pub(crate) fn write_ahead(&self) {
        let Some(Err(error)) = self.ahead.as_ref().map(|ahead| ahead.write()) else { return };
        tracing::debug!(%error, "a file could not be written ahead of its group");
        // What the kernel could not write counts as clean from now on.
        self.file.iter().for_each(|file| file.lose());
    }
}

impl<B: Backing> Clone for SyncRequest<B> {
    fn clone(&self) -> Self {
        Self {
            target: self.target.clone(),
            file: self.file.clone(),
            reader: self.reader.clone(),
            through: self.through,
            keeps_others_out: self.keeps_others_out,
            ahead: self.ahead.clone(),
        }
    }
}

impl<B: Backing> From<SyncTarget<B>> for SyncRequest<B> {
    fn from(target: SyncTarget<B>) -> Self {
        Self { target: Some(target), ..Self::everything() }
    }
}

/// Makes groups durable.
pub trait GroupFence<B: Backing>: Send + Sync {
    /// Makes everything durable that the requests of a group ask for. One
    /// failed request does not hide the others' results.
    fn run(&self, group: &[SyncRequest<B>]) -> FenceOutcome;
    /// Whether an earlier group has made durable what is asked for, so that there is
    /// nothing to wait for.
    fn is_durable(&self, _request: &SyncRequest<B>) -> bool {
        false
    }
    /// Whether it can make everything durable that was done, without being told of what.
    fn commits_everything(&self) -> bool {
        true
    }
    /// Name of the mechanism, for status output.
    fn mechanism(&self) -> &'static str;
}

/// How a group became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In the backing directory.
    Backing(FenceMethod),
    /// One write to the log and one flush.
    Log,
    /// All data had its place already: one flush.
    Flush,
    /// It was durable already.
    Nothing,
}

/// What one fence did.
pub struct FenceOutcome {
    /// One result for each request, in order.
    pub results: Vec<Result<()>>,
    /// How it was done.
    pub way: Way,
    /// How long it took.
    pub service: Duration,
}

/// Makes groups durable in the backing directory.
pub struct BackingFence<B: Backing> {
    fencer: B::Fencer,
    choice: Mutex<MethodChoice>,
}

impl<B: Backing> BackingFence<B> {
    /// A fence that uses `fencer`.
    pub fn new(fencer: B::Fencer) -> Self {
        let able = |method| fencer.supports(method);
        let choice = MethodChoice::new(able(FenceMethod::SharedCommit), able(FenceMethod::WholeFs));
        Self { fencer, choice: Mutex::new(choice) }
    }

    /// Makes all targets durable by the method that has been cheapest lately.
    fn run_targets(&self, targets: &[SyncTarget<B>]) -> FenceOutcome {
        let method = self.lock().choose(targets.len());
        let outcome = self.run_by(method, targets);
        self.lock().observe(method, targets.len(), outcome.service);
        outcome
    }

    /// Makes all targets durable, each by itself, at the same time.
    pub(crate) fn run_each(&self, targets: &[SyncTarget<B>]) -> FenceOutcome {
        self.run_by(FenceMethod::Parallel, targets)
    }

    fn run_by(&self, method: FenceMethod, targets: &[SyncTarget<B>]) -> FenceOutcome {
        let start = Instant::now();
        let mut results = self.fencer.run(method, targets);
        let service = start.elapsed();
        tell_all_of_a_file(targets, &mut results);
        FenceOutcome { results, way: Way::Backing(method), service }
    }

    /// Whether metadata survives in the order in which it was changed.
    pub fn keeps_order(&self) -> bool {
        self.fencer.supports(FenceMethod::SharedCommit)
    }

    /// One journal commit: everything that was changed on the filesystem before
    /// is durable then, except data that has not been written back.
    ///
    /// # Errors
    /// The filesystem's, or that it has no such journal.
    pub fn commit(&self) -> Result<()> {
        self.fencer.commit()
    }

    /// Whether [`Self::commit`] takes one flush.
    pub(crate) fn commits_with_one_flush(&self) -> bool {
        self.fencer.commits_with_one_flush()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MethodChoice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backing> GroupFence<B> for BackingFence<B> {
    fn run(&self, group: &[SyncRequest<B>]) -> FenceOutcome {
        let targets: Vec<_> = group.iter().filter_map(|request| request.target.clone()).collect();
        let mut outcome = self.run_targets(&targets);
        if targets.len() < group.len() {
            // Who asked for no target of his own asked for everything.
            let everything = self.commit();
            let mut results = outcome.results.into_iter();
            let result = |request: &SyncRequest<B>| match request.target {
                Some(_) => results.next().unwrap_or(Err(crate::error::Errno::IO)),
                None => everything,
            };
            outcome.results = group.iter().map(result).collect();
        }
        outcome
    }

    fn commits_everything(&self) -> bool {
        self.fencer.supports(FenceMethod::SharedCommit)
    }

    fn mechanism(&self) -> &'static str {
        self.fencer.mechanism()
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
