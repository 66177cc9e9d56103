//! btrfs: whole transactions, and a log of fsynced files ahead of the last one.

use super::builder::{
    Append, Builder, SetSize, content_of, data_of, is_directory, names_in, names_of,
};
use super::posix::parent;
use super::{Model, Rules, Steps, SyncPoint, Tears};
use crate::crash::trace::{Ino, Operation};
use crate::types::SyncKind;

/// btrfs: a crash leaves one transaction, of everything whose bytes were written by then,
/// and on top of it what was fsynced since (the log tree). So what was fsynced may be
/// ahead of what was done before it elsewhere. Blocks are copied on write: old or new.
#[derive(Debug, Clone, Copy)]
pub struct Btrfs;

/// A sync that keeps one object ahead of everything else: its bytes, its names and the
/// directories on the way to it; of a directory its names, and what they stand for
/// without bytes.
pub(super) fn logged(log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
    let mut covered = if is_directory(log, sync.ino) {
        names_in(log, rules, sync.ino, sync.at)
    } else if sync.kind == SyncKind::Full {
        content_of(log, rules, sync.ino, sync.at)
    } else {
        data_of(log, rules, sync.ino, sync.at)
    };
    names_on_the_way(log, rules, sync.ino, sync.at, &mut covered);
    names_logged(log, rules, sync.at, &mut covered);
    // What a kept change of a name came after in the same place is settled by it.
    let mut all = covered.clone();
    for &atom in &covered {
        let operation = rules.atoms[atom as usize].operation as usize;
        if let Operation::Rename { to, from, .. } = &log.trace.operations[operation].operation {
            for place in [to, from] {
                all.extend(names_at(log, rules, place, operation));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Names of an object and of the directories that it is in.
fn names_on_the_way(log: &Steps<'_>, rules: &Rules, ino: Ino, before: usize, names: &mut Vec<u32>) {
    let mut next = Some(ino);
    for _ in 0..log.trace.inodes() {
        let Some(ino) = next.filter(|ino| *ino != Ino::ROOT) else { break };
        names.extend(names_of(log, rules, ino, before));
        next = parent(log, ino, before);
    }
}

/// New names of files that had been fsynced before: those are written to the log at once,
/// with new directories on the way, and durable with the next sync of anything
/// (`btrfs_log_new_name`). Holds while no transaction ends between, which happens every
/// 30 seconds.
fn names_logged(log: &Steps<'_>, rules: &Rules, before: usize, names: &mut Vec<u32>) {
    let mut synced = Vec::new();
    for (number, recorded) in log.trace.operations[..before].iter().enumerate() {
        match recorded.operation {
            Operation::Sync { ino, .. } => synced.push(ino),
            Operation::Link { ino, .. } | Operation::Rename { ino, .. }
                if synced.contains(&ino) =>
            {
                names_on_the_way(log, rules, ino, number + 1, names);
            }
            _ => {}
        }
    }
}

fn names_at(
    log: &Steps<'_>,
    rules: &Rules,
    place: &crate::crash::trace::Place,
    before: usize,
) -> Vec<u32> {
    let Some(name) = log.find_name(&place.name) else { return Vec::new() };
    names_in(log, rules, place.dir, before)
        .into_iter()
        .filter(|atom| {
            rules.atoms[*atom as usize].steps.iter().any(|step| {
                use crate::crash::steps::Change;
                match log.steps[*step as usize].change {
                    Change::Enter { dir, name: of, .. } | Change::Leave { dir, name: of } => {
                        dir == place.dir && of == name
                    }
                    _ => false,
                }
            })
        })
        .collect()
}

impl Model for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn about(&self) -> &'static str {
        "whole transactions; fsynced files ahead of them; blocks old or new"
    }

    fn source(&self) -> &'static str {
        "ALICE (OSDI'14), section 4.4; Ferrite (ASPLOS'16), table 2 (ACVR, no ARVR); fs/btrfs/tree-log.c"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        let mut builder = Builder::new(log, Append::Whole, SetSize::AfterBytes);
        // Overwrites get a new place too, in a transaction after what was before.
        builder.chain(Builder::is_metadata, Builder::has_data);
        builder.rename_needs_bytes();
        builder.finish()
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        logged(log, rules, sync)
    }

    fn tears(&self) -> Tears {
        Tears::Never
    }
}
