//! ext3, and ext4 without delayed allocation: lengths are in the journal like names.

use super::builder::{Append, Builder, SetSize, journal_cover};
use super::{Model, Rules, Steps, SyncPoint};

/// `data=ordered`: bytes are on the disk before the commit that has their length.
#[derive(Debug, Clone, Copy)]
pub struct Ext3Ordered;

/// `data=writeback`: the commit does not care for bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ext3Writeback;

impl Model for Ext3Ordered {
    fn name(&self) -> &'static str {
        "ext3-ordered"
    }

    fn about(&self) -> &'static str {
        "names, lengths and bytes behind them in order; overwrites before the next commit"
    }

    fn source(&self) -> &'static str {
        "ALICE (OSDI'14), table 1 and section 4.4; ext4 with -o nodelalloc"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = Builder::new(log, Append::Whole, SetSize::AfterBytes);
        let is_chained = |b: &Builder<'_, '_>, atom| b.is_metadata(atom) || b.is_append(atom);
        builder.chain(is_chained, |_, _| false);
        builder.finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }
}

impl Model for Ext3Writeback {
    fn name(&self) -> &'static str {
        "ext3-writeback"
    }

    fn about(&self) -> &'static str {
        "names and lengths in order, bytes when it pleases: a longer file may end in garbage"
    }

    fn source(&self) -> &'static str {
        "ALICE (OSDI'14), table 1; ext4 with -o data=writeback,nodelalloc"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = Builder::new(log, Append::Split, SetSize::AfterBytes);
        builder.chain(|b, atom| !b.has_data(atom), |_, _| false);
        builder.finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }

    fn tears(&self) -> super::Tears {
        super::Tears::Anyhow
    }
}
