//! lanefs itself: what `docs/semantics.md` promises to a program on a mount.

use super::builder::{Append, Builder, SetSize, closed, data_of, rewrites};
use super::{Model, Rules, Steps, SyncPoint, Tears};
use crate::crash::trace::Operation;
use crate::types::{FileKind, SyncKind};

/// A lanefs mount with a log: a sync makes durable everything that was done to names
/// before it, anywhere, and the bytes of its own file; a rename over a file is all or
/// nothing, and so is a file that is cut to nothing and written anew until it is closed.
#[derive(Debug, Clone, Copy)]
pub struct LanefsFsync;

/// The same with the durability `close`: the end of a written file, and each change of
/// names, are syncs too.
#[derive(Debug, Clone, Copy)]
pub struct LanefsClose;

fn rules(log: &Steps<'_>) -> Rules {
    let rewrites = rewrites(log);
    let (append, set_size) = (Append::Split, SetSize::AtOnce);
    let mut builder = Builder::with_rewrites(log, append, set_size, &rewrites);
    builder.chain(Builder::is_metadata, Builder::is_append);
    builder.rename_needs_bytes();
    builder.close_after_cut_needs_bytes();
    builder.finish()
}

fn cover(log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
    let is_overwrite_only =
        sync.kind == SyncKind::Data && super::builder::last_needed_change(log, sync).is_none();
    let mut covered = data_of(log, rules, sync.ino, sync.at);
    if !is_overwrite_only {
        let metadata = |atom: &u32| super::builder::is_metadata(log, rules, *atom);
        covered.extend((0..rules.end(sync.at)).filter(metadata));
    }
    closed(rules, covered)
}

impl Model for LanefsFsync {
    fn name(&self) -> &'static str {
        "lanefs"
    }

    fn about(&self) -> &'static str {
        "a lanefs mount: a sync keeps its file and every name before it"
    }

    fn source(&self) -> &'static str {
        "docs/semantics.md, docs/durability.md"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        rules(log)
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        cover(log, rules, sync)
    }

    fn tears(&self) -> Tears {
        Tears::Sectors
    }
}

impl Model for LanefsClose {
    fn name(&self) -> &'static str {
        "lanefs-close"
    }

    fn about(&self) -> &'static str {
        "a lanefs mount with durability=close: closing a file and changing names sync, too"
    }

    fn source(&self) -> &'static str {
        "docs/semantics.md, docs/durability.md"
    }

    fn rules(&self, log: &Steps<'_>) -> Rules {
        rules(log)
    }

    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
        cover(log, rules, sync)
    }

    fn implied_syncs(&self, log: &Steps<'_>) -> Vec<SyncPoint> {
        let operations = log.trace.operations.iter().enumerate();
        operations
            .filter_map(|(number, recorded)| {
                let at = number + 1;
                let sync = |ino| SyncPoint { at, from: at + 1, ino, kind: SyncKind::Full };
                match &recorded.operation {
                    Operation::Close { ino } => Some(sync(*ino)),
                    // Of directories: that covers names, and no bytes.
                    Operation::Rename { to, .. } => Some(sync(to.dir)),
                    Operation::Link { at, .. } | Operation::Remove { at, .. } => Some(sync(at.dir)),
                    // A file is durable when it is closed.
                    Operation::Create { at, made, .. } if made.kind != FileKind::Regular => {
                        Some(sync(at.dir))
                    }
                    _ => None,
                }
            })
            .collect()
    }
}
