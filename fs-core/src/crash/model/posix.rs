//! What POSIX promises, which is next to nothing.

use super::builder::{
    Append, Builder, SetSize, closed, content_of, is_directory, names_in, names_of,
};
use super::{Model, Rules, Steps, SyncPoint, Tears};
use crate::crash::trace::{Ino, Operation};

/// The least that a filesystem could promise: ALICE's default model.
#[derive(Debug, Clone, Copy)]
pub struct PosixMin;

/// As [`PosixMin`], but an fsynced file is found again.
#[derive(Debug, Clone, Copy)]
pub struct PosixFlush;

fn rules(log: &Steps<'_>) -> Rules {
    Builder::new(log, Append::Split, SetSize::AfterBytes).finish()
}

fn cover(log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
    if is_directory(log, sync.ino) {
        return closed(rules, names_in(log, rules, sync.ino, sync.at));
    }
    closed(rules, content_of(log, rules, sync.ino, sync.at))
}

impl Model for PosixMin {
    fn name(&self) -> &'static str {
        "posix-min"
    }

    fn about(&self) -> &'static str {
        "no order at all; fsync keeps a file's bytes, not its name"
    }

    fn source(&self) -> &'static str {
        "default model of ALICE (OSDI'14), section 3.1, with the order of the page cache"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        rules(log)
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        cover(log, rules, sync)
    }

    fn tears(&self) -> Tears {
        Tears::Anyhow
    }
}

impl Model for PosixFlush {
    fn name(&self) -> &'static str {
        "posix-flush"
    }

    fn about(&self) -> &'static str {
        "no order at all; fsync keeps a file's bytes and the path to it"
    }

    fn source(&self) -> &'static str {
        "ALICE (OSDI'14), \"safe file flush\""
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        rules(log)
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        let mut covered = cover(log, rules, sync);
        let mut next = Some(sync.ino);
        // Up to the directory under test; a trace may claim that directories hold each other.
        for _ in 0..log.trace.inodes() {
            let Some(ino) = next.filter(|ino| *ino != Ino::ROOT) else { break };
            covered.extend(names_of(log, rules, ino, sync.at));
            next = parent(log, ino, sync.at);
        }
        closed(rules, covered)
    }

    fn tears(&self) -> Tears {
        Tears::Anyhow
    }
}

/// The directory that holds the name given last.
pub(super) fn parent(log: &Steps<'_>, ino: Ino, before: usize) -> Option<Ino> {
    let given = log.trace.operations[..before].iter().rev().find_map(|recorded| {
        match &recorded.operation {
            Operation::Create { at, ino: of, .. } | Operation::Link { at, ino: of }
                if *of == ino =>
            {
                Some(at.dir)
            }
            Operation::Rename { to, ino: of, .. } if *of == ino => Some(to.dir),
            Operation::Rename { from, replaced: Some(of), exchange: true, .. } if *of == ino => {
                Some(from.dir)
            }
            _ => None,
        }
    });
    let initial = log.trace.initial.names.iter();
    given.or_else(|| initial.rev().find(|(_, of)| *of == ino).map(|(at, _)| at.dir))
}
