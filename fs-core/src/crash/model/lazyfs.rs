//! LazyFS: what is not fsynced is lost, and names are never lost.

use super::builder::{Append, Builder, SetSize, closed, data_of, is_metadata};
use super::{Model, Rules, Steps, SyncPoint};
use crate::crash::trace::Ino;
use crate::types::SyncKind;

/// What LazyFS injects with `clear-cache`: bytes that were not fsynced are gone, all else
/// is there at once. For comparison with tests that use it.
#[derive(Debug, Clone, Copy)]
pub struct LazyFs;

impl Model for LazyFs {
    fn name(&self) -> &'static str {
        "lazyfs"
    }

    fn about(&self) -> &'static str {
        "names at once; bytes that were not fsynced may be lost"
    }

    fn source(&self) -> &'static str {
        "LazyFS (VLDB'24): clear-cache; it has no handler for fsync of directories"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = Builder::new(log, Append::Whole, SetSize::AfterBytes);
        builder.chain(Builder::is_metadata, |_, _| false);
        builder.finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        let mut covered = data_of(log, rules, sync.ino, sync.at);
        covered.extend((0..rules.end(sync.at)).filter(|atom| is_metadata(log, rules, *atom)));
        closed(rules, covered)
    }

    /// Each change of a name is durable at once; the root stands for no bytes.
    fn implied_syncs(&self, log: &Steps<'_>) -> Vec<SyncPoint> {
        let changes = log.trace.operations.iter().enumerate();
        let changes = changes.filter(|(_, recorded)| recorded.operation.changes());
        let sync =
            |(at, _)| SyncPoint { at: at + 1, from: at + 1, ino: Ino::ROOT, kind: SyncKind::Full };
        changes.map(sync).collect()
    }
}
