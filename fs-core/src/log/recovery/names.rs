//! Where the log says that the objects stand which it saw being made.
//!
//! Such an object has another handle on the disk than in the log. It is found by its
//! name instead: recovery goes through the log in order, so the names on the disk are
//! those after the last operation carried out, and this follows them step by step. An
//! interrupted recovery follows what was carried out before from the log alone.

use std::collections::HashMap;

use crate::log::record::Change;
use crate::platform::ObjectKey;
use crate::types::FileKind;

/// A name in a directory, as the log has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) dir: &'a ObjectKey,
    pub(super) name: &'a [u8],
}

/// An object that the log saw being made.
#[derive(Debug)]
pub(super) struct Made<'a> {
    pub(super) kind: FileKind,
    /// Its names, and whether this attempt has seen that they are there. None: it was
    /// removed.
    names: Vec<(Name<'a>, bool)>,
}

impl<'a> Made<'a> {
    /// One of its names, best one that is known to be there.
    pub(super) fn name(&self) -> Option<Name<'a>> {
        let seen = self.names.iter().find(|(_, is_seen)| *is_seen);
        seen.or(self.names.first()).map(|(name, _)| *name)
    }

    /// Whether this is a name of it; if so, whether that was seen.
    pub(super) fn has(&self, name: Name<'_>) -> Option<bool> {
        self.names.iter().find(|(own, _)| *own == name).map(|(_, is_seen)| *is_seen)
    }
}

/// All objects that are made behind the first marker, up to a point of the log.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    made: HashMap<&'a ObjectKey, Made<'a>>,
}

impl<'a> Names<'a> {
    /// What is known of an object; `None` if it was there before.
    pub(super) fn made(&self, object: &ObjectKey) -> Option<&Made<'a>> {
        self.made.get(object)
    }

    /// Follows an operation that was carried out, in this attempt (`seen`) or earlier.
    pub(super) fn follow(&mut self, change: &'a Change, seen: bool) {
        match change {
            Change::Make { dir, name, object, kind, .. } => {
                let names = vec![(Name { dir, name }, seen)];
                self.made.insert(object, Made { kind: *kind, names });
            }
            Change::Link { object, dir, name } => self.give(object, Name { dir, name }, seen),
            Change::Remove { dir, name, object, .. } => self.take(object, Name { dir, name }),
            Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, .. } => {
                let from = Name { dir: from_dir, name: from };
                let to = Name { dir: to_dir, name: to };
                // Nothing happens between two names of one object.
                if displaced.as_ref() == Some(object) {
                    return;
                }
                if let Some(displaced) = displaced {
                    self.take(displaced, to);
                    if *exchange {
                        self.give(displaced, from, seen);
                    }
                }
                self.take(object, from);
                self.give(object, to, seen);
            }
            _ => {}
        }
    }

    /// Follows an operation that could not be carried out: what it names is gone.
    pub(super) fn lose(&mut self, change: &'a Change) {
        match change {
            Change::Make { object, kind, .. } => {
                self.made.insert(object, Made { kind: *kind, names: Vec::new() });
            }
            Change::Remove { dir, name, object, .. } => self.take(object, Name { dir, name }),
            Change::Rename { from_dir, from, object, .. } => {
                self.take(object, Name { dir: from_dir, name: from });
            }
            _ => {}
        }
    }

    fn give(&mut self, object: &ObjectKey, name: Name<'a>, seen: bool) {
        if let Some(made) = self.made.get_mut(object) {
            made.names.push((name, seen));
        }
    }

    fn take(&mut self, object: &ObjectKey, name: Name<'a>) {
        if let Some(made) = self.made.get_mut(object) {
            made.names.retain(|(own, _)| *own != name);
        }
    }
}
