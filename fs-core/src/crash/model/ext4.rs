//! ext4 as it is mounted by default: ordered data, delayed allocation.
//!
//! Names, attributes and lengths that are set (truncate, fallocate) go to the running
//! transaction at once: bytes that are not written yet read as zeros then. Bytes behind the
//! end of a file get a place, and the file its length, when they are written back: in a later
//! transaction than all that was done before. In a block that has a place already the length
//! may come before the bytes (Ferrite's prefix-append).
//!
//! Whether the length in other blocks waits for the bytes depends on a mount option. With
//! `dioread_lock`, the default before Linux 5.6, a commit waits for the bytes that it gives a
//! place ("ordered data"). With `dioread_nolock`, the default since, it does not: the blocks
//! are marked as unwritten until the bytes are there, and read as zeros after a crash. So the
//! heuristics that save programs which do not sync (`auto_da_alloc`: replacing a file by
//! rename, and closing a file that was cut to nothing, start to write the bytes) are as good
//! as the window of some milliseconds until the bytes are there: [`Ext4`] takes them at their
//! word, [`Ext4Strict`] does not. Seen on Linux 6.18 by the soundness test.

use super::builder::{Append, Builder, SetSize, journal_cover};
use super::{Model, Rules, Steps, SyncPoint};

/// ext4 as its documentation has it, and with `dioread_lock` as it is.
#[derive(Debug, Clone, Copy)]
pub struct Ext4;

/// ext4 as it is by default since Linux 5.6: whatever was allocated may read as zeros.
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
        "ordered names, delayed bytes before their length; rename over a file takes them along"
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
        "ordered names, delayed bytes that may read as zeros; rename may come before them"
    }

    fn source(&self) -> &'static str {
        "fs/ext4 of Linux 6.18: mpage_map_and_submit_extent, dioread_nolock; Ferrite's ARVR on ext4"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        delayed(log, Append::Split, SetSize::AtOnce).finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        journal_cover(log, rules, sync)
    }
}
