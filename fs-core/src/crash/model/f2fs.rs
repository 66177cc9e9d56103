//! f2fs: checkpoints, and nodes of fsynced files ahead of the last one.

use super::btrfs::logged;
use super::builder::{Append, SetSize, is_directory, journal_cover, names_of};
use super::ext4::delayed;
use super::{Model, Rules, Steps, SyncPoint, Tears};

/// f2fs: a crash leaves a checkpoint and what was fsynced since (roll-forward recovery).
/// The fsync of a new file, or of a directory, writes a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct F2fs;

impl Model for F2fs {
    fn name(&self) -> &'static str {
        "f2fs"
    }

    fn about(&self) -> &'static str {
        "checkpoints; fsynced files ahead of them; a length may come before its bytes"
    }

    fn source(&self) -> &'static str {
        "Ferrite (ASPLOS'16), table 2 (PA, ARVR, ACVR); fs/f2fs: need_do_checkpoint"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        delayed(log, Append::Split, SetSize::AtOnce).finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        let has_new_name = !names_of(log, rules, sync.ino, sync.at).is_empty();
        if is_directory(log, sync.ino) || has_new_name {
            journal_cover(log, rules, sync)
        } else {
            logged(log, rules, sync)
        }
    }

    fn tears(&self) -> Tears {
        Tears::Never
    }
}
