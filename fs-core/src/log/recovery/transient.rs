//! Objects that come and go within what is redone: nobody will see them.
//!
//! Programs replace files by making new ones and renaming them, again and again.
//! Redoing that would make each file that is gone at the end. So recovery leaves these
//! out: after each operation the disk has what it should have then, without them. That
//! is one state for each operation, as before, so that an interrupted recovery goes on
//! from its marker; and what is left out follows from the log and the first marker
//! alone, so that every attempt leaves out the same.
//!
//! A transient object is a file or a symbolic link, not a directory (others would be in
//! it) and not a device (a rename may make it by itself: a whiteout). It takes no part in
//! an exchange, and leaves no whiteout: these are more than the loss of an old name.

use std::collections::HashSet;

use super::names::Names;
use crate::engine::Lsn;
use crate::log::record::Change;
use crate::platform::ObjectKey;
use crate::types::FileKind;

/// The operation behind the first marker may have been kept, without its marker. It has
/// two records that change names at most (a whiteout's rename and making), so what it
/// made is in one of the first two.
const PERHAPS_KEPT: usize = 2;

/// What recovery has to do for one operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The operation itself.
    AsItIs,
    /// What is left of it: a transient object would replace one that is there.
    Instead(Box<Change>),
    /// Nothing.
    Nothing,
}

/// The transient objects of a plan, by key in the log.
#[derive(Debug, Default)]
pub(super) struct Transient<'a> {
    objects: HashSet<&'a ObjectKey>,
}

impl<'a> Transient<'a> {
    pub(super) fn new(changes: &[(Lsn, &'a Change)], first_marker: Lsn) -> Self {
        let (mut names, mut objects) = (Names::default(), HashSet::new());
        let (mut exempt, mut named) = (HashSet::new(), 0);
        for &(_, change) in changes.iter().filter(|&&(lsn, _)| lsn > first_marker) {
            names.follow(change, false);
            match change {
                Change::Make { object, kind, .. } => {
                    named += 1;
                    let counts = matches!(kind, FileKind::Regular | FileKind::Symlink);
                    if counts && named > PERHAPS_KEPT {
                        objects.insert(object);
                    }
                }
                Change::Rename { object, displaced, exchange, whiteout, .. } => {
                    named += 1;
                    if *exchange || *whiteout {
                        exempt.insert(object);
                        exempt.extend(displaced);
                    }
                }
                Change::Link { .. } | Change::Remove { .. } => named += 1,
                _ => {}
            }
        }
        let is_gone = |object: &ObjectKey| names.made(object).is_some_and(|m| m.name().is_none());
        objects.retain(|object| is_gone(object) && !exempt.contains(object));
        Self { objects }
    }

    /// What is left of an operation when these are left out.
    pub(super) fn step(&self, change: &Change) -> Step {
        let (Change::Make { object, .. }
        | Change::Link { object, .. }
        | Change::Remove { object, .. }
        | Change::Rename { object, .. }
        | Change::Attrs { object, .. }
        | Change::Resize { object, .. }
        | Change::Rewrite { object }
        | Change::Allocate { object, .. }
        | Change::SetXattr { object, .. }
        | Change::RemoveXattr { object, .. }) = change
        else {
            return Step::AsItIs;
        };
        if !self.objects.contains(object) {
            return Step::AsItIs;
        }
        match change {
            Change::Rename { to_dir, to, displaced: Some(displaced), .. }
                if !self.objects.contains(displaced) =>
            {
                let (dir, name, object) = (*to_dir, to.clone(), *displaced);
                Step::Instead(Box::new(Change::Remove { dir, name, object, is_dir: false }))
            }
            _ => Step::Nothing,
        }
    }
}
