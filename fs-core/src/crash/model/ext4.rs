//! ext4 as it is mounted by default: ordered data, delayed allocation.
//!
//! Names, attributes and lengths that are set (truncate, fallocate) go to the running
//! transaction at once. Bytes behind the end of a file get a place, and the file its
//! length, when they are written back: in a later transaction than all that was done
//! before. Within a block that has a place already the length may come before the bytes:
//! such a tail reads as zeros (Ferrite's prefix-append). So do bytes that are not written yet
//! in a file whose length is set: seen on Linux 6.18 by the soundness test.

use super::builder::{Append, Builder, SetSize, journal_cover};
use super::{Model, Rules, Steps, SyncPoint};

/// ext4 with the heuristics that save programs which do not sync: replacing a file by
/// rename, and closing a file that was cut to nothing, take the bytes along
/// (`auto_da_alloc`).
#[derive(Debug, Clone, Copy)]
pub struct Ext4;

/// ext4 where those start to write the bytes and do not wait for them.
#[derive(Debug, Clone, Copy)]
pub struct Ext4Strict;

pub(super) fn delayed<'a, 'b>(
    log: &'b Steps<'a>,
    append: Append,
    set_size: SetSize,
) -> Builder<'a, 'b> {
    let mut builder = Builder::new(log, append, set_size);
    builder.chain(Builder::is_metadata, Builder::is_append);
    builder
}

impl Model for Ext4 {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn about(&self) -> &'static str {
        "ordered names, delayed bytes; rename over a file takes its bytes along"
    }

    fn source(&self) -> &'static str {
        "ALICE (OSDI'14), section 4.4; Ferrite (ASPLOS'16), figure 3; fs/ext4: ext4_alloc_da_blocks"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = delayed(log, Append::SplitInBlock, SetSize::AtOnce);
        builder.rename_needs_bytes();
        builder.close_after_cut_needs_bytes();
        builder.finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }
}

impl Model for Ext4Strict {
    fn name(&self) -> &'static str {
        "ext4-strict"
    }

    fn about(&self) -> &'static str {
        "ordered names, delayed bytes; rename over a file may come before its bytes"
    }

    fn source(&self) -> &'static str {
        "Ferrite (ASPLOS'16), ARVR on ext4: write-back is started, not waited for"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        delayed(log, Append::SplitInBlock, SetSize::AtOnce).finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }
}
