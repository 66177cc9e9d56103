//! Operations on names. Checks come in the order in which Linux makes them, so
//! that the errors are the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use super::image::{Attrs, Change, Content, DOT_COOKIE, DOT_DOT_COOKIE, Directory, Id, Node};
use super::state::LINKS_MAX;
use super::state::State;
use crate::error::{Errno, Result};
use crate::platform::RenameMode;
use crate::types::{Caller, DirEntry, FileKind, Time};

/// What a new inode starts with.
pub(super) struct Birth {
    pub(super) kind: FileKind,
    pub(super) perm: u16,
    pub(super) device: (u32, u32),
    pub(super) content: Content,
}

const SETGID: u16 = 0o2000;
const SYMLINK_BYTES_MAX: usize = 4095;
/// Entries that one step of reading a directory looks at.
const ENTRIES_PER_STEP: usize = 128;

impl State {
    // ---- reading ----

    /// Some entries after a cookie, "." and ".." first; none at the end.
    pub(super) fn entries_after(&self, id: Id, cookie: u64) -> Result<Vec<DirEntry>> {
        let directory = self.directory(id)?;
        if self.attrs(id)?.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let entry = |name: &OsStr, target: Id, cookie| {
            let node = self.live.get(target);
            DirEntry {
                name: name.to_owned(),
                ino: node.map_or(0, |node| node.ino),
                kind: node.map(|node| node.kind),
                next_offset: cookie,
            }
        };
        let dots = [(".", id, DOT_COOKIE), ("..", directory.parent, DOT_DOT_COOKIE)];
        let dots = dots.into_iter().filter(|dot| dot.2 > cookie);
        let dots = dots.map(|(name, id, cookie)| entry(OsStr::new(name), id, cookie));
        let rest = directory.after(cookie.max(DOT_DOT_COOKIE));
        let rest = rest.map(|(name, slot)| entry(name, slot.target, slot.cookie));
        Ok(dots.chain(rest).take(ENTRIES_PER_STEP).collect())
    }

    // ---- making ----

    /// Makes an inode with a name.
    pub(super) fn make(
        &mut self,
        caller: Caller,
        dir: Id,
        name: &OsStr,
        birth: Birth,
    ) -> Result<Id> {
        self.check_new_name(dir, name)?;
        if birth.kind == FileKind::Directory && self.attrs(dir)?.nlink >= LINKS_MAX {
            return Err(Errno::MLINK);
        }
        let now = self.now();
        let id = self.give_birth(caller, dir, birth, now)?;
        self.set_entry(dir, name, Some(id), now);
        if self.directory(id).is_ok() {
            self.touch(dir, now, |attrs| attrs.nlink += 1);
        }
        self.end_op();
        Ok(id)
    }

    /// Makes a directory.
    pub(super) fn make_dir(
        &mut self,
        caller: Caller,
        dir: Id,
        name: &OsStr,
        perm: u16,
    ) -> Result<Id> {
        let inherited = self.attrs(dir)?.perm & SETGID;
        let content = Content::Directory(Directory::new(dir));
        let birth = Birth {
            kind: FileKind::Directory,
            perm: perm & 0o1777 | inherited,
            device: (0, 0),
            content,
        };
        self.make(caller, dir, name, birth)
    }

    /// Makes a symbolic link.
    pub(super) fn make_symlink(
        &mut self,
        caller: Caller,
        dir: Id,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Id> {
        let target = target.as_encoded_bytes();
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let content = Content::Symlink(Arc::from(target));
        let birth = Birth { kind: FileKind::Symlink, perm: 0o777, device: (0, 0), content };
        self.make(caller, dir, name, birth)
    }

    /// A new name must be good and free.
    fn check_new_name(&self, dir: Id, name: &OsStr) -> Result<()> {
        let taken = self.find_to_change(dir, name)?;
        if taken.is_some() {
            return Err(Errno::EXIST);
        }
        self.writable()
    }

    fn give_birth(&mut self, caller: Caller, dir: Id, birth: Birth, now: Time) -> Result<Id> {
        let parent = self.attrs(dir)?;
        let (id, ino) = (self.new_id(), self.new_ino());
        let size = match &birth.content {
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let is_dir = birth.kind == FileKind::Directory;
        let attrs = Attrs {
            perm: birth.perm & 0o7777,
            uid: caller.uid,
            gid: if parent.perm & SETGID == 0 { caller.gid } else { parent.gid },
            nlink: if is_dir { 2 } else { 1 },
            size,
            cuts: 0,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let node = Node {
            ino,
            // Never the same for two inodes of one number.
            generation: id.0,
            kind: birth.kind,
            device: birth.device,
            attrs,
            xattrs: BTreeMap::new(),
            content: birth.content,
        };
        self.by_ino.insert(ino, id);
        self.change(Change::Born(id, Arc::new(node)));
        Ok(id)
    }

    /// One more name for an inode.
    pub(super) fn link(&mut self, id: Id, dir: Id, name: &OsStr) -> Result<()> {
        let taken = self.find_to_change(dir, name)?;
        if taken.is_some() {
            return Err(Errno::EXIST);
        }
        let node = self.node(id)?;
        if node.kind == FileKind::Directory {
            return Err(Errno::PERM);
        }
        match node.attrs.nlink {
            0 => return Err(Errno::NOENT),
            LINKS_MAX.. => return Err(Errno::MLINK),
            _ => {}
        }
        self.writable()?;
        let now = self.now();
        self.touch(id, now, |attrs| attrs.nlink += 1);
        self.set_entry(dir, name, Some(id), now);
        self.end_op();
        Ok(())
    }

    // ---- removing ----

    /// Removes a name that is not a directory's.
    pub(super) fn unlink(&mut self, dir: Id, name: &OsStr) -> Result<()> {
        let id = self.find_to_change(dir, name)?.ok_or(Errno::NOENT)?;
        if self.node(id)?.kind == FileKind::Directory {
            return Err(Errno::ISDIR);
        }
        self.writable()?;
        let now = self.now();
        self.set_entry(dir, name, None, now);
        self.touch(id, now, |attrs| attrs.nlink -= 1);
        self.end_op();
        self.free_if_unused(id);
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&mut self, dir: Id, name: &OsStr) -> Result<()> {
        let id = self.find_to_change(dir, name)?.ok_or(Errno::NOENT)?;
        if !self.directory(id)?.by_name.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.writable()?;
        let now = self.now();
        self.set_entry(dir, name, None, now);
        self.touch(dir, now, |attrs| attrs.nlink -= 1);
        self.touch(id, now, |attrs| attrs.nlink = 0);
        self.end_op();
        self.free_if_unused(id);
        Ok(())
    }

    // ---- moving ----

    /// Moves a name, as `renameat2(2)`.
    pub(super) fn rename(
        &mut self,
        from: (Id, &OsStr),
        to: (Id, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        if mode.exchange && (mode.no_replace || mode.whiteout) {
            return Err(Errno::INVAL);
        }
        let (moved, victim) = self.check_rename(from, to, mode)?;
        if victim == Some(moved) {
            return Ok(());
        }
        self.writable()?;
        match victim {
            Some(other) if mode.exchange => {
                let now = self.now();
                self.exchange((from, moved), (to, other), now);
                self.end_op();
            }
            victim => {
                if victim.is_some() && self.options.model.flushes_on_replace() {
                    self.allocate_dirty(moved);
                }
                self.move_name((from, moved), (to, victim), mode);
                victim.into_iter().for_each(|id| self.free_if_unused(id));
            }
        }
        Ok(())
    }

    /// What is moved, and what has the target's name.
    fn check_rename(
        &self,
        from: (Id, &OsStr),
        to: (Id, &OsStr),
        mode: RenameMode,
    ) -> Result<(Id, Option<Id>)> {
        self.directory(from.0).and(self.directory(to.0))?;
        let moved = self.find_to_change(from.0, from.1)?.ok_or(Errno::NOENT)?;
        let victim = self.find_to_change(to.0, to.1)?;
        if mode.no_replace && victim.is_some() {
            return Err(Errno::EXIST);
        }
        if mode.exchange && victim.is_none() {
            return Err(Errno::NOENT);
        }
        if self.is_within(to.0, moved) {
            return Err(Errno::INVAL);
        }
        if victim.is_some_and(|victim| self.is_within(from.0, victim)) {
            // The target holds the source somewhere below it.
            return Err(if mode.exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        let is_dir = |id| self.directory(id).is_ok();
        match victim {
            Some(victim) if victim == moved || mode.exchange => {}
            Some(victim) => match (is_dir(moved), is_dir(victim)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.directory(victim)?.by_name.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                _ => {}
            },
            None if is_dir(moved) && from.0 != to.0 && self.attrs(to.0)?.nlink >= LINKS_MAX => {
                return Err(Errno::MLINK);
            }
            None => {}
        }
        Ok((moved, victim))
    }

    /// Whether `dir` is `above` or somewhere below it.
    fn is_within(&self, dir: Id, above: Id) -> bool {
        let mut dir = dir;
        loop {
            if dir == above {
                return true;
            }
            match self.directory(dir) {
                Ok(directory) if directory.parent != dir => dir = directory.parent,
                _ => return false,
            }
        }
    }

    fn exchange(&mut self, one: ((Id, &OsStr), Id), other: ((Id, &OsStr), Id), now: Time) {
        let ((one_at, one), (other_at, other)) = (one, other);
        self.set_entry(other_at.0, other_at.1, Some(one), now);
        self.set_entry(one_at.0, one_at.1, Some(other), now);
        self.reparent(one, one_at.0, other_at.0, now);
        self.reparent(other, other_at.0, one_at.0, now);
    }

    fn move_name(
        &mut self,
        from: ((Id, &OsStr), Id),
        to: ((Id, &OsStr), Option<Id>),
        mode: RenameMode,
    ) {
        let (((from_dir, from_name), moved), ((to_dir, to_name), victim)) = (from, to);
        let now = self.now();
        self.set_entry(to_dir, to_name, Some(moved), now);
        let whiteout = mode.whiteout.then(|| self.whiteout(from_dir, now));
        self.set_entry(from_dir, from_name, whiteout.flatten(), now);
        if let Some(victim) = victim {
            let was_dir = self.directory(victim).is_ok();
            self.touch(victim, now, |attrs| {
                attrs.nlink = if was_dir { 0 } else { attrs.nlink - 1 };
            });
            if was_dir {
                self.touch(to_dir, now, |attrs| attrs.nlink -= 1);
            }
        }
        self.reparent(moved, from_dir, to_dir, now);
        self.end_op();
    }

    /// A moved inode has changed; a moved directory has another parent too.
    fn reparent(&mut self, moved: Id, from: Id, to: Id, now: Time) {
        self.touch(moved, now, |_| {});
        if from == to || self.directory(moved).is_err() {
            return;
        }
        self.change(Change::Parent(moved, to));
        self.touch(from, now, |attrs| attrs.nlink -= 1);
        self.touch(to, now, |attrs| attrs.nlink += 1);
    }

    fn whiteout(&mut self, dir: Id, now: Time) -> Option<Id> {
        let nobody_special = Caller { uid: 0, gid: 0, thread: 0 };
        let birth = Birth {
            kind: FileKind::CharDevice,
            perm: 0,
            device: (0, 0),
            content: Content::Nothing,
        };
        self.give_birth(nobody_special, dir, birth, now).ok()
    }
}
