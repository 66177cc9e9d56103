//! Everything in order: what a program sees that is merely killed, or on a journal of
//! data and metadata alike.

use super::builder::{Append, Builder, SetSize, closed};
use super::{Model, Rules, Steps, SyncPoint, Tears};

/// Sequential crash consistency: a crash leaves a prefix of what was done.
#[derive(Debug, Clone, Copy)]
pub struct Seq;

impl Model for Seq {
    fn name(&self) -> &'static str {
        "seq"
    }

    fn about(&self) -> &'static str {
        "everything survives in order: ext3 and ext4 with data=journal"
    }

    fn source(&self) -> &'static str {
        "sequential crash consistency of Ferrite (ASPLOS'16), section 3"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = Builder::new(log, Append::Whole, SetSize::AfterBytes);
        builder.chain(|_, _| true, |_, _| true);
        builder.finish()
    }

    fn cover(&self, _log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        closed(rules, (0..rules.end(sync.at)).collect())
    }

    fn tears(&self) -> Tears {
        Tears::Never
    }
}
