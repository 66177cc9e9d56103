//! Finding the objects that the log names on this disk.
//!
//! | the log's object | is found by |
//! | --- | --- |
//! | was there at the first marker | its handle |
//! | was made later | a name that it has now ([`Names`]) |
//! | is being exchanged, or leaves a whiteout | a note of its handle here |
//!
//! The third, because a power cut in between leaves names that do not tell whether it
//! was done; any other operation shows by a name that is there or not.

use std::collections::HashMap;
use std::rc::Rc;

use super::names::{Name, Names};
use crate::error::{Errno, Result};
use crate::platform::{Backing, Found, ObjectKey, os_name};
use crate::types::FileKind;

/// An object that is there.
pub(super) struct Known<B: Backing> {
    /// Its key on this disk, without the device.
    pub(super) key: ObjectKey,
    pub(super) object: B::Object,
}

/// So many are kept: each costs a descriptor, as long as the platform has room for it.
const KNOWN_MAX: usize = 1024;

/// The objects of this disk that the log names.
pub(super) struct Objects<'a, B: Backing> {
    backing: &'a B,
    pub(super) names: Names<'a>,
    /// Key in the log -> key on this disk, as an interrupted recovery has noted.
    noted: HashMap<ObjectKey, ObjectKey>,
    /// By key in the log. What may have lost its last name is not in here: whoever
    /// keeps it open keeps its inode.
    known: HashMap<ObjectKey, Rc<Known<B>>>,
}

impl<'a, B: Backing> Objects<'a, B> {
    pub(super) fn new(backing: &'a B, noted: HashMap<ObjectKey, ObjectKey>) -> Self {
        Self { backing, names: Names::default(), noted, known: HashMap::new() }
    }

    /// The object that the log knows by this key; `None` if it is gone.
    pub(super) fn find(&mut self, key: &ObjectKey) -> Result<Option<Rc<Known<B>>>> {
        // Up to a directory that is known, then down again; a tree may be deep.
        let mut path: Vec<(ObjectKey, Name<'a>)> = Vec::new();
        let mut at = *key;
        let mut found = loop {
            if let Some(known) = self.known.get(&at) {
                break Some(Rc::clone(known));
            }
            match (self.noted.get(&at), self.names.made(&at)) {
                (None, Some(made)) => {
                    let Some(name) = made.name() else { return Ok(None) };
                    path.push((at, name));
                    at = *name.dir;
                }
                (here, _) => {
                    let found = gone(self.backing.by_key(here.unwrap_or(&at)))?;
                    break found.map(|found| self.learn(&at, found));
                }
            }
        };
        while let Some((key, name)) = path.pop() {
            let Some(dir) = found else { return Ok(None) };
            let there = self.identify(&dir.object, name.name, &key)?;
            found = there.map(|there| self.learn(&key, there));
        }
        Ok(found)
    }

    /// As [`Self::find`], for operations that need it.
    pub(super) fn get(&mut self, key: &ObjectKey) -> Result<Rc<Known<B>>> {
        self.find(key)?.ok_or(Errno::STALE)
    }

    /// Whether a name stands for an object that the log knows by this key.
    pub(super) fn stands_for(
        &self,
        dir: &B::Object,
        name: Name<'_>,
        key: &ObjectKey,
    ) -> Result<bool> {
        if !self.noted.contains_key(key)
            && let Some(made) = self.names.made(key)
        {
            match made.has(name) {
                None => return Ok(false),
                // Nobody else is at work here.
                Some(true) => return Ok(true),
                Some(false) => {}
            }
        }
        Ok(self.identify(dir, name.name, key)?.is_some())
    }

    /// What is at a name, if it can be the object that the log knows by this key.
    pub(super) fn identify(
        &self,
        dir: &B::Object,
        name: &[u8],
        key: &ObjectKey,
    ) -> Result<Option<Found<B>>> {
        let found = gone(self.backing.lookup(dir, os_name(name)))?;
        let is_it = |found: &Found<B>| match (self.noted.get(key), self.names.made(key)) {
            (Some(here), _) => found.key.portable() == *here,
            (None, None) => found.key.portable() == *key,
            // What was made behind the first marker is not there under its handle. That
            // handle may be another object's: XFS counts an inode's generation up when
            // it frees it, so what recovery makes can get the very handle that the lost
            // object had (`xfs_ifree`, Linux 6.18).
            (None, Some(made)) => found.attr.kind == made.kind,
        };
        Ok(found.filter(is_it))
    }

    /// Keeps an object that was found or made.
    pub(super) fn learn(&mut self, in_log: &ObjectKey, found: Found<B>) -> Rc<Known<B>> {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let known = Rc::new(Known { key: found.key.portable(), object: found.object });
        self.known.insert(*in_log, Rc::clone(&known));
        known
    }

    /// Lets go of an object that is about to lose a name: it may be the last.
    pub(super) fn let_go(&mut self, in_log: &ObjectKey) {
        self.known.remove(in_log);
    }

    /// Takes back what was noted, when names tell again.
    pub(super) fn forget_note(&mut self, in_log: &ObjectKey) {
        self.noted.remove(in_log);
    }
}

/// `None` where nothing is.
fn gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Kind bits of a mode, as `mknod(2)` has them.
pub(super) const fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Socket => 0o140_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Regular => 0o100_000,
    }
}
