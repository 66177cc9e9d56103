//! Redoing the operations that the backing filesystem did not keep, in order.

use std::collections::{HashMap, HashSet};

use super::overlay::Plan;
use super::{KEEP_SIZE, RecoveryError, RecoveryReport};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::log::home::Home;
use crate::log::marks::OURSELVES;
use crate::log::open::Progress;
use crate::log::record::Change;
use crate::platform::{Backing, Found, ObjectKey, OpenMode, RenameMode, os_name};
use crate::types::{FileKind, NewMode, SetAttr, SetTime};

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: true };

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was carried out.
    Done,
    /// It was there already.
    Found,
    /// What it needs is gone: something later, which the disk has, removed it.
    Gone,
}

/// The files that the log has content of, by the key under which it knows them.
pub(super) type Objects<B> = HashMap<ObjectKey, <B as Backing>::Object>;

struct Redo<'a, B: Backing> {
    backing: &'a B,
    home: &'a Home<B>,
    /// Key in the log -> key on this disk, of what this recovery, or one that was
    /// interrupted, has made anew. Names do not tell: an operation may have been
    /// carried out whose marker was not kept, and after an exchange they would be wrong.
    here: HashMap<ObjectKey, ObjectKey>,
    /// All that is made behind the first marker, up to this point of the log.
    made: HashSet<ObjectKey>,
    /// What the first attempt found: what was made later was made anew.
    first_marker: Lsn,
}

/// Redoes every operation behind `marker`. Gives the files of the plan that are there.
pub(super) fn redo<B: Backing>(
    backing: &B,
    home: &Home<B>,
    plan: &Plan<'_>,
    (marker, here): (Lsn, HashMap<ObjectKey, ObjectKey>),
    report: &mut RecoveryReport,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Objects<B>, RecoveryError> {
    let failed = |source| RecoveryError::Backing { what: "redo an operation", source };
    let first_marker = plan.first_marker;
    let mut redo = Redo { backing, home, here, made: HashSet::new(), first_marker };
    let all = (plan.changes.len() + plan.files.len()) as u64;
    for (index, &(lsn, change)) in plan.changes.iter().enumerate() {
        if lsn > marker {
            match redo.apply(change).map_err(failed)? {
                Outcome::Done => report.redone += 1,
                Outcome::Found => report.found_done += 1,
                Outcome::Gone => report.passed_over += 1,
            }
            backing.set_marker(&home.marker, lsn).map_err(failed)?;
        }
        redo.follow(lsn, change);
        progress(Progress::Recovering(index as u64 + 1, all));
    }
    let mut objects = Objects::<B>::new();
    for (key, _) in &plan.files {
        if let Some(found) = redo.find(key).map_err(failed)? {
            objects.insert(*key, found.object);
        }
    }
    Ok(objects)
}

impl<B: Backing> Redo<'_, B> {
    fn apply(&mut self, change: &Change) -> Result<Outcome> {
        let outcome = self.try_apply(change);
        match outcome {
            // Something on the way was removed by a later operation; or a batch was about
            // to fail at this one, and nobody has been answered.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::ISDIR) => Ok(Outcome::Gone),
            other => other,
        }
    }

    fn try_apply(&mut self, change: &Change) -> Result<Outcome> {
        match change {
            Change::Make { .. } => self.make(change),
            Change::Link { object, dir, name } => {
                let (object, dir) = (self.object(object)?, self.object(dir)?);
                match self.backing.link(&object.object, &dir.object, os_name(name)) {
                    Ok(_) => Ok(Outcome::Done),
                    Err(Errno::EXIST) => Ok(Outcome::Found),
                    Err(error) => Err(error),
                }
            }
            Change::Remove { dir, name, object, is_dir } => {
                let dir = self.object(dir)?.object;
                if !self.stands_for(&dir, name, object)? {
                    return Ok(Outcome::Found);
                }
                if *is_dir {
                    self.backing.remove_dir(&dir, os_name(name))?;
                } else {
                    self.backing.unlink(&dir, os_name(name))?;
                }
                Ok(Outcome::Done)
            }
            Change::Rename { .. } => self.rename(change),
            Change::Attrs { object, perm, uid, gid, atime, mtime } => {
                let Found { object, attr, .. } = self.object(object)?;
                // Nobody can change those of a symbolic link.
                let perm = perm.filter(|_| attr.kind != FileKind::Symlink);
                // A new owner takes set-user-id away: owner first.
                let owner = SetAttr { uid: *uid, gid: *gid, ..SetAttr::default() };
                let rest = SetAttr {
                    perm: perm.map(u32::from),
                    atime: atime.map(SetTime::At),
                    mtime: mtime.map(SetTime::At),
                    ..SetAttr::default()
                };
                self.backing.set_attr(OURSELVES, &object, None, &owner)?;
                self.backing.set_attr(OURSELVES, &object, None, &rest)?;
                Ok(Outcome::Done)
            }
            Change::Resize { object, size } => {
                let found = self.object(object)?;
                // A file is extended when it has been filled: what lies behind its end
                // on the disk must not count as its content.
                if found.attr.size <= *size {
                    return Ok(Outcome::Found);
                }
                let change = SetAttr { size: Some(*size), ..SetAttr::default() };
                self.backing.set_attr(OURSELVES, &found.object, None, &change)?;
                Ok(Outcome::Done)
            }
            Change::Allocate { object, mode, offset, bytes } => {
                let object = self.object(object)?.object;
                let file = self.backing.open(OURSELVES, &object, READ_WRITE)?;
                let mode = *mode | KEEP_SIZE;
                self.backing.allocate(OURSELVES, &file, mode, *offset, *bytes)?;
                Ok(Outcome::Done)
            }
            Change::SetXattr { object, name, value } => {
                let object = self.object(object)?.object;
                self.backing.set_xattr(OURSELVES, &object, os_name(name), value, 0)?;
                Ok(Outcome::Done)
            }
            Change::RemoveXattr { object, name } => {
                let object = self.object(object)?.object;
                match self.backing.remove_xattr(&object, os_name(name)) {
                    Err(Errno::NODATA) => Ok(Outcome::Found),
                    other => other.map(|()| Outcome::Done),
                }
            }
            Change::Data { .. } | Change::Expire { .. } | Change::Checkpoint { .. } => {
                Ok(Outcome::Found)
            }
        }
    }

    fn make(&mut self, change: &Change) -> Result<Outcome> {
        let Change::Make { dir, name, object, kind, perm, uid, gid, device, target } = change
        else {
            return Ok(Outcome::Found);
        };
        let (dir, name) = (self.object(dir)?.object, os_name(name));
        let mode = NewMode { mode: u32::from(*perm), umask: 0 };
        let caller = crate::types::Caller { uid: *uid, gid: *gid, ..OURSELVES };
        let made = match kind {
            FileKind::Directory => self.backing.make_dir(caller, &dir, name, mode),
            FileKind::Symlink => self.backing.make_symlink(caller, &dir, name, os_name(target)),
            _ => {
                let mode = NewMode { mode: mode.mode | type_bits(*kind), ..mode };
                self.backing.make_node(caller, &dir, name, mode, *device)
            }
        };
        let (found, outcome) = match made {
            Ok(found) => (found, Outcome::Done),
            // It was kept and the marker after it was not; or an interrupted recovery
            // has made it.
            Err(Errno::EXIST) => (self.backing.lookup(&dir, name)?, Outcome::Found),
            Err(error) => return Err(error),
        };
        // A set-group-id directory, or rights that the umask or an ACL changed.
        if *kind != FileKind::Symlink {
            let exact = SetAttr { perm: Some(u32::from(*perm)), ..SetAttr::default() };
            let owned = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
            self.backing.set_attr(OURSELVES, &found.object, None, &owned)?;
            self.backing.set_attr(OURSELVES, &found.object, None, &exact)?;
        }
        self.note(object, &found.key)?;
        Ok(outcome)
    }

    fn rename(&mut self, change: &Change) -> Result<Outcome> {
        let Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, whiteout } =
            change
        else {
            return Ok(Outcome::Found);
        };
        let (source, target) = (self.object(from_dir)?.object, self.object(to_dir)?.object);
        if !self.stands_for(&source, from, object)? {
            let done = self.stands_for(&target, to, object)?;
            return Ok(if done { Outcome::Found } else { Outcome::Gone });
        }
        // Two names of one object, or both names where they belong already.
        if let (true, Some(displaced)) = (exchange, displaced)
            && !self.stands_for(&target, to, displaced)?
        {
            return Ok(Outcome::Gone);
        }
        let mode = RenameMode { no_replace: false, exchange: *exchange, whiteout: *whiteout };
        self.backing.rename((&source, os_name(from)), (&target, os_name(to)), mode)?;
        Ok(Outcome::Done)
    }

    /// Whether a name stands for an object that the log knows by this key.
    fn stands_for(&mut self, dir: &B::Object, name: &[u8], key: &ObjectKey) -> Result<bool> {
        let Some(wanted) = self.find(key)? else { return Ok(false) };
        let found = gone(self.backing.lookup(dir, os_name(name)))?;
        Ok(found.is_some_and(|found| found.key.portable() == wanted.key.portable()))
    }

    /// The object that the log knows by this key.
    fn object(&mut self, key: &ObjectKey) -> Result<Found<B>> {
        self.find(key)?.ok_or(Errno::STALE)
    }

    /// As [`Self::object`], `None` if it is gone.
    fn find(&mut self, key: &ObjectKey) -> Result<Option<Found<B>>> {
        if let Some(here) = self.here.get(key) {
            return gone(self.backing.by_key(here));
        }
        // What was made behind the first marker is not there under its handle. That
        // handle may be another object's: XFS counts an inode's generation up when it
        // frees it, so what recovery makes can get the very handle that the lost
        // object had (`xfs_ifree`, Linux 6.18).
        if self.made.contains(key) { Ok(None) } else { gone(self.backing.by_key(key)) }
    }

    /// Notes what the log knows an object of this disk by, before the marker moves on.
    fn note(&mut self, in_log: &ObjectKey, here: &ObjectKey) -> Result<()> {
        self.here.insert(*in_log, here.portable());
        self.home.marks.note_renewed(self.backing, in_log, here)
    }

    /// Keeps what the log saw being made.
    fn follow(&mut self, lsn: Lsn, change: &Change) {
        if let Change::Make { object, .. } = change
            && lsn > self.first_marker
        {
            self.made.insert(*object);
        }
    }
}

fn gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

const fn type_bits(kind: FileKind) -> u32 {
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
