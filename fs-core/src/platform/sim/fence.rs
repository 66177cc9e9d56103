//! Fences on the simulated disk, honest or not.

use std::sync::Arc;

use super::{Disk, SimBacking};
use crate::error::Result;
use crate::platform::{FenceMethod, Fencer, SyncTarget, WHOLE_FILE};

/// A moment within a fence at which others may act, see [`SimBacking::on_fence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePoint {
    /// A group of so many targets arrived; nothing is synced yet.
    Begin(usize),
    /// The target with this number is about to be synced.
    Target(usize),
    /// The data of all targets is written; one commit for all is next. Or
    /// somebody asks for a commit.
    Commit,
    /// All targets are synced; nobody is answered yet.
    End,
    /// A file's data is about to be written out for a log.
    WriteBack,
    /// Blocks of a log are about to be written.
    LogWrite,
    /// The log is about to be flushed.
    LogFlush,
    /// The log is flushed; nobody is told yet.
    LogDurable,
}

/// Called at each [`FencePoint`], by the thread that carries the group.
pub type FenceHook = Arc<dyn Fn(FencePoint) + Send + Sync>;

/// Makes groups durable on one simulated disk: target after target in an order
/// that the seed chooses, or the whole filesystem at once now and then.
pub struct SimFencer {
    pub(super) disk: Arc<Disk>,
}

impl SimFencer {
    fn at(&self, point: FencePoint) {
        self.disk.at(point);
    }

    /// The order in which targets are synced.
    fn order(&self, targets: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..targets).collect();
        let mut state = self.disk.state();
        for left in (1..targets).rev() {
            let other = state.random.index(left + 1);
            order.swap(left, other);
        }
        order
    }

    fn whole_fs(&self) -> bool {
        let mut state = self.disk.state();
        state.options.whole_fs_one_in.is_some_and(|n| state.random.one_in(n))
    }

    /// Whether a target's sync is answered without being done.
    fn lies_about(&self, target: &SyncTarget<SimBacking>) -> bool {
        let mut state = self.disk.state();
        let drops = state.options.drop_dir_syncs && matches!(target, SyncTarget::Dir(_));
        let lies = state.options.lie_one_in.is_some_and(|n| state.random.one_in(n));
        state.lies += u64::from(drops || lies);
        drops || lies
    }

    fn sync_one(&self, target: &SyncTarget<SimBacking>) -> Result<()> {
        if self.lies_about(target) {
            return Ok(());
        }
        match target {
            SyncTarget::File(file, kind) => file.sync(*kind),
            SyncTarget::Dir(dir) => self.disk.state().sync_dir(dir.id()),
        }
    }

    fn run_each(&self, targets: &[SyncTarget<SimBacking>]) -> Vec<Result<()>> {
        let mut results = vec![Ok(()); targets.len()];
        for index in self.order(targets.len()) {
            self.at(FencePoint::Target(index));
            results[index] = self.sync_one(&targets[index]);
        }
        results
    }

    /// As the Linux fencer: the data of all files, then one commit for all.
    fn run_shared(&self, targets: &[SyncTarget<SimBacking>]) -> Vec<Result<()>> {
        let mut results = vec![Ok(()); targets.len()];
        let mut lies = 0;
        for index in self.order(targets.len()) {
            self.at(FencePoint::Target(index));
            let target = &targets[index];
            match target {
                target if self.lies_about(target) => lies += 1,
                SyncTarget::File(file, _) => results[index] = file.write_out(&WHOLE_FILE),
                SyncTarget::Dir(_) => {}
            }
        }
        self.at(FencePoint::Commit);
        // A group of lies only commits nothing; else the truthful ones do.
        if lies == targets.len() || self.disk.state().commit_marker().is_ok() {
            return results;
        }
        let synced = self.run_each(targets);
        results.into_iter().zip(synced).map(|(first, second)| first.and(second)).collect()
    }

    /// One sync of everything; then each file tells the errors that it has not
    /// told yet.
    fn run_whole(&self, targets: &[SyncTarget<SimBacking>]) -> Vec<Result<()>> {
        if self.disk.state().sync_all().is_err() {
            return self.run_each(targets);
        }
        let told = |target: &SyncTarget<SimBacking>| match target {
            SyncTarget::File(file, _) => file.pending_error(),
            SyncTarget::Dir(_) => Ok(()),
        };
        targets.iter().map(told).collect()
    }
}

impl Fencer<SimBacking> for SimFencer {
    /// Never the whole filesystem: between that and parallel syncs the engine
    /// chooses by the clock. See [`super::SimOptions::whole_fs_one_in`].
    fn supports(&self, method: FenceMethod) -> bool {
        match method {
            FenceMethod::Parallel => true,
            FenceMethod::SharedCommit => self.disk.state().options.shared_commit,
            FenceMethod::WholeFs => false,
        }
    }

    fn run(&self, method: FenceMethod, targets: &[SyncTarget<SimBacking>]) -> Vec<Result<()>> {
        self.at(FencePoint::Begin(targets.len()));
        let results = match method {
            _ if self.whole_fs() => self.run_whole(targets),
            FenceMethod::SharedCommit => self.run_shared(targets),
            _ => self.run_each(targets),
        };
        self.at(FencePoint::End);
        results
    }

    fn commit(&self) -> Result<()> {
        self.at(FencePoint::Commit);
        let mut state = self.disk.state();
        if state.options.lie_one_in.is_some_and(|n| state.random.one_in(n)) {
            state.lies += 1;
            return Ok(());
        }
        state.commit_marker()
    }

    fn mechanism(&self) -> &'static str {
        "simulator"
    }
}
