//! Redoing the operations that the backing filesystem did not keep, in order.

use std::collections::HashMap;
use std::rc::Rc;

use super::names::Name;
use super::objects::{Known, Objects, type_bits};
use super::overlay::Plan;
use super::transient::{Step, Transient};
use super::{KEEP_SIZE, RecoveryError, RecoveryReport, new_length};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::log::home::Home;
use crate::log::marks::OURSELVES;
use crate::log::open::Progress;
use crate::log::record::Change;
use crate::platform::{Backing, ObjectKey, OpenMode, RenameMode, os_name};
use crate::types::{Attr, Caller, FileKind, NewMode, SetAttr, SetTime};

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
pub(super) type Files<B> = HashMap<ObjectKey, Rc<Known<B>>>;

struct Redo<'a, B: Backing> {
    backing: &'a B,
    home: &'a Home<B>,
    objects: Objects<'a, B>,
    /// A note that is needed until the marker has moved on.
    note: Option<(ObjectKey, ObjectKey)>,
}

/// Redoes every operation behind `marker`. Gives the files of the plan that are there.
pub(super) fn redo<B: Backing>(
    backing: &B,
    home: &Home<B>,
    plan: &Plan<'_>,
    (marker, noted): (Lsn, HashMap<ObjectKey, ObjectKey>),
    report: &mut RecoveryReport,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Files<B>, RecoveryError> {
    let failed = |source| RecoveryError::Backing { what: "redo an operation", source };
    let mut redo = Redo { backing, home, objects: Objects::new(backing, noted), note: None };
    let transient = Transient::new(&plan.changes, plan.first_marker);
    let last = plan.changes.last().map(|&(lsn, _)| lsn);
    let all = (plan.changes.len() + plan.files.len()) as u64;
    for (index, &(lsn, change)) in plan.changes.iter().enumerate() {
        if lsn > marker {
            let step = transient.step(change);
            match redo.carry_out(change, &step).map_err(failed)? {
                _ if step == Step::Nothing => report.left_out += 1,
                Outcome::Done => report.redone += 1,
                Outcome::Found => report.found_done += 1,
                Outcome::Gone => report.passed_over += 1,
            }
            if step != Step::Nothing || Some(lsn) == last {
                redo.mark(lsn).map_err(failed)?;
            }
        } else if lsn > plan.first_marker {
            redo.objects.names.follow(change, false);
        }
        progress(Progress::Recovering(index as u64 + 1, all));
    }
    let mut files = Files::<B>::new();
    for (key, _) in &plan.files {
        if let Some(found) = redo.objects.find(key).map_err(failed)? {
            files.insert(*key, found);
        }
    }
    Ok(files)
}

impl<'a, B: Backing> Redo<'a, B> {
    /// One operation, or what is left of it.
    fn carry_out(&mut self, change: &'a Change, step: &Step) -> Result<Outcome> {
        let applied = match step {
            Step::AsItIs => self.apply(change),
            Step::Instead(change) => self.apply(change),
            Step::Nothing => Ok(Outcome::Done),
        };
        let outcome = match applied {
            // Something on the way was removed by a later operation; or a batch was about
            // to fail at this one, and nobody has been answered.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::ISDIR) => Outcome::Gone,
            other => other?,
        };
        match outcome {
            Outcome::Gone => self.objects.names.lose(change),
            Outcome::Done | Outcome::Found => self.objects.names.follow(change, true),
        }
        Ok(outcome)
    }

    /// Sets the marker behind an operation.
    fn mark(&mut self, lsn: Lsn) -> Result<()> {
        self.backing.set_marker(&self.home.marker, lsn)?;
        if let Some((in_log, here)) = self.note.take() {
            self.home.marks.forget_note(self.backing, &in_log, &here)?;
            self.objects.forget_note(&in_log);
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change) -> Result<Outcome> {
        match change {
            Change::Make { .. } => self.make(change),
            Change::Link { object, dir, name } => {
                let (object, dir) = (self.objects.get(object)?, self.objects.get(dir)?);
                match self.backing.link(&object.object, &dir.object, os_name(name)) {
                    Ok(_) => Ok(Outcome::Done),
                    Err(Errno::EXIST) => Ok(Outcome::Found),
                    Err(error) => Err(error),
                }
            }
            Change::Remove { .. } => self.remove(change),
            Change::Rename { .. } => self.rename(change),
            Change::Attrs { object, perm, uid, gid, atime, mtime } => {
                let object = self.objects.get(object)?;
                let now = self.backing.attr(&object.object)?;
                let (atime, mtime) = (atime.map(SetTime::At), mtime.map(SetTime::At));
                let perm = perm.map(u32::from);
                let wanted = SetAttr { perm, uid: *uid, gid: *gid, atime, mtime, size: None };
                self.set_attr(&object.object, now, wanted)?;
                Ok(Outcome::Done)
            }
            Change::Rewrite { object } | Change::Resize { object, .. } => {
                let size = new_length(change);
                let object = self.objects.get(object)?;
                // A file is extended when it has been filled: what lies behind its end
                // on the disk must not count as its content.
                if self.backing.attr(&object.object)?.size <= size {
                    return Ok(Outcome::Found);
                }
                let change = SetAttr { size: Some(size), ..SetAttr::default() };
                self.backing.set_attr(OURSELVES, &object.object, None, &change)?;
                Ok(Outcome::Done)
            }
            Change::Allocate { object, mode, offset, bytes } => {
                let object = self.objects.get(object)?;
                let file = self.backing.open(OURSELVES, &object.object, READ_WRITE)?;
                let mode = *mode | KEEP_SIZE;
                self.backing.allocate(OURSELVES, &file, mode, *offset, *bytes)?;
                Ok(Outcome::Done)
            }
            Change::SetXattr { object, name, value } => {
                let object = self.objects.get(object)?;
                self.backing.set_xattr(OURSELVES, &object.object, os_name(name), value, 0)?;
                Ok(Outcome::Done)
            }
            Change::RemoveXattr { object, name } => {
                let object = self.objects.get(object)?;
                match self.backing.remove_xattr(&object.object, os_name(name)) {
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
        let (dir, name) = (self.objects.get(dir)?, os_name(name));
        let (dir, perm) = (&dir.object, u32::from(*perm));
        let mode = NewMode { mode: perm, umask: 0 };
        let caller = Caller { uid: *uid, gid: *gid, ..OURSELVES };
        let made = match kind {
            FileKind::Directory => self.backing.make_dir(caller, dir, name, mode),
            FileKind::Symlink => self.backing.make_symlink(caller, dir, name, os_name(target)),
            _ => {
                let mode = NewMode { mode: perm | type_bits(*kind), ..mode };
                self.backing.make_node(caller, dir, name, mode, *device)
            }
        };
        let (found, outcome) = match made {
            Ok(found) => (found, Outcome::Done),
            // It was kept and the marker after it was not; or an interrupted recovery
            // has made it.
            Err(Errno::EXIST) => (self.backing.lookup(dir, name)?, Outcome::Found),
            Err(error) => return Err(error),
        };
        if found.attr.kind != *kind {
            return Ok(Outcome::Gone);
        }
        // A set-group-id directory, or rights that the umask or an ACL changed.
        if *kind != FileKind::Symlink {
            let (perm, uid, gid) = (Some(perm), Some(*uid), Some(*gid));
            let exact = SetAttr { perm, uid, gid, ..SetAttr::default() };
            self.set_attr(&found.object, found.attr, exact)?;
        }
        self.objects.learn(object, found);
        Ok(outcome)
    }

    fn remove(&mut self, change: &Change) -> Result<Outcome> {
        let Change::Remove { dir, name, object, is_dir } = change else {
            return Ok(Outcome::Found);
        };
        let there = self.objects.get(dir)?;
        if !self.objects.stands_for(&there.object, Name { dir, name }, object)? {
            return Ok(Outcome::Found);
        }
        self.objects.let_go(object);
        if *is_dir {
            self.backing.remove_dir(&there.object, os_name(name))?;
        } else {
            self.backing.unlink(&there.object, os_name(name))?;
        }
        Ok(Outcome::Done)
    }

    fn rename(&mut self, change: &Change) -> Result<Outcome> {
        let Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, whiteout } =
            change
        else {
            return Ok(Outcome::Found);
        };
        let (source, target) = (self.objects.get(from_dir)?, self.objects.get(to_dir)?);
        let (source, target) = (&source.object, &target.object);
        let (old, new) = (Name { dir: from_dir, name: from }, Name { dir: to_dir, name: to });
        if !self.objects.stands_for(source, old, object)? {
            let is_lost = self.objects.names.made(object).is_some_and(|m| m.has(old).is_none());
            let is_done = !is_lost && self.objects.identify(target, to, object)?.is_some();
            return Ok(if is_done { Outcome::Found } else { Outcome::Gone });
        }
        // Two names of one object, or both names where they belong already.
        if let (true, Some(displaced)) = (exchange, displaced)
            && !self.objects.stands_for(target, new, displaced)?
        {
            return Ok(Outcome::Gone);
        }
        if *exchange || *whiteout {
            self.note(object)?;
        }
        if let (false, Some(displaced)) = (exchange, displaced) {
            self.objects.let_go(displaced);
        }
        let mode = RenameMode { no_replace: false, exchange: *exchange, whiteout: *whiteout };
        self.backing.rename((source, os_name(from)), (target, os_name(to)), mode)?;
        Ok(Outcome::Done)
    }

    /// Notes what the log knows an object of this disk by: there is a name at both
    /// places before and after, so names would not tell whether it was carried out.
    fn note(&mut self, in_log: &ObjectKey) -> Result<()> {
        if self.objects.names.made(in_log).is_some() {
            let here = self.objects.get(in_log)?.key;
            self.home.marks.note_renewed(self.backing, in_log, &here)?;
            self.note = Some((*in_log, here));
        }
        Ok(())
    }

    /// Sets attributes that are not `now` what they should be.
    fn set_attr(&self, object: &B::Object, mut now: Attr, wanted: SetAttr) -> Result<()> {
        let owner = SetAttr {
            uid: wanted.uid.filter(|&uid| uid != now.uid),
            gid: wanted.gid.filter(|&gid| gid != now.gid),
            ..SetAttr::default()
        };
        // A new owner takes set-user-id away: owner first.
        if owner != SetAttr::default() {
            now = self.backing.set_attr(OURSELVES, object, None, &owner)?;
        }
        // Nobody can change those of a symbolic link.
        let is_link = now.kind == FileKind::Symlink;
        let rest = SetAttr {
            perm: wanted.perm.filter(|&perm| !is_link && perm != u32::from(now.perm)),
            atime: wanted.atime.filter(|&atime| atime != SetTime::At(now.atime)),
            mtime: wanted.mtime.filter(|&mtime| mtime != SetTime::At(now.mtime)),
            ..SetAttr::default()
        };
        if rest != SetAttr::default() {
            self.backing.set_attr(OURSELVES, object, None, &rest)?;
        }
        Ok(())
    }
}
