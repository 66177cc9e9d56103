//! XFS: names in order, lengths after the bytes.

use super::builder::{Append, SetSize, journal_cover};
use super::ext4::delayed;
use super::{Model, Rules, Steps, SyncPoint};

/// XFS: strictly ordered metadata, delayed allocation, and a length that grows when the
/// bytes are on the disk (`xfs_end_io`). A rename promises nothing about bytes.
#[derive(Debug, Clone, Copy)]
pub struct Xfs;

impl Model for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn about(&self) -> &'static str {
        "ordered names, delayed bytes before their length; rename takes nothing along"
    }

    fn source(&self) -> &'static str {
        "Ferrite (ASPLOS'16), table 2 (ARVR, ACVR, no PA); fs/xfs: xfs_end_io, \"strictly ordered metadata\""
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        delayed(log, Append::BytesFirst, SetSize::AfterBytes).finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }
}
