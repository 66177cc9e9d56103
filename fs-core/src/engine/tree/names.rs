//! Names: finding, making, removing and moving them.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::describe::{self, made, nothing};
use super::{Entry, Tree};
use crate::engine::DirId;
use crate::engine::nodes::{Node, NodeId};
use crate::error::{Errno, Result};
use crate::fence::ahead::AHEAD_BYTES_MIN;
use crate::log::tracked::Tracked;
use crate::platform::{Backing, Found, ObjectKey, RenameMode};
use crate::types::{Caller, FileKind, NewMode};

impl<B: Backing> Tree<B> {
    /// Finds a name.
    pub fn lookup(&self, dir: NodeId, name: &OsStr) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        self.check_name(&dir, name, Errno::NOENT)?;
        Ok(self.enter(self.backing.lookup(&dir.object, name)?, &dir, name).1)
    }

    /// Finds a name in an open directory.
    pub fn lookup_in(&self, dir: DirId, name: &OsStr) -> Result<Entry> {
        let dir = self.dirs.get(dir.0)?;
        self.check_name(&dir.node, name, Errno::NOENT)?;
        Ok(self.enter(self.backing.lookup(&dir.node.object, name)?, &dir.node, name).1)
    }

    /// Gives references back.
    pub fn forget(&self, id: NodeId, count: u64) {
        self.nodes.forget(id, count);
    }

    /// Makes a file, pipe, socket or device node.
    pub fn make_node(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Entry> {
        self.make(dir, name, OsStr::new(""), |dir| {
            self.backing.make_node(caller, dir, name, mode, device)
        })
    }

    /// Makes a directory.
    pub fn make_dir(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Entry> {
        self.make(dir, name, OsStr::new(""), |dir| self.backing.make_dir(caller, dir, name, mode))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry> {
        self.make(dir, name, target, |dir| self.backing.make_symlink(caller, dir, name, target))
    }

    fn make(
        &self,
        dir: NodeId,
        name: &OsStr,
        target: &OsStr,
        make: impl FnOnce(&B::Object) -> Result<Found<B>>,
    ) -> Result<Entry> {
        let dir = self.nodes.get(dir)?;
        self.check_name(&dir, name, Errno::PERM)?;
        let found = self.change(
            &[&dir],
            nothing,
            || make(&dir.object),
            |_, _, found, changes| changes.push(made(dir.key(), name, found, target)),
        )?;
        Ok(self.enter(found, &dir, name).1)
    }

    /// Gives a node one more name.
    pub fn link(&self, id: NodeId, dir: NodeId, name: &OsStr) -> Result<Entry> {
        let (node, dir) = (self.nodes.get(id)?, self.nodes.get(dir)?);
        self.check_name(&dir, name, Errno::PERM)?;
        let found = self.change(
            &[&dir, &node],
            nothing,
            || self.backing.link(&node.object, &dir.object, name),
            |_, _, _, changes| changes.push(describe::linked(node.key(), dir.key(), name)),
        )?;
        Ok(self.enter(found, &dir, name).1)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, dir: NodeId, name: &OsStr) -> Result<()> {
        self.remove(dir, name, false, |dir| self.backing.unlink(dir, name))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, dir: NodeId, name: &OsStr) -> Result<()> {
        self.remove(dir, name, true, |dir| self.backing.remove_dir(dir, name))
    }

    fn remove(
        &self,
        dir: NodeId,
        name: &OsStr,
        is_dir: bool,
        remove: impl FnOnce(&B::Object) -> Result<()>,
    ) -> Result<()> {
        let dir = self.nodes.get(dir)?;
        self.check_name(&dir, name, Errno::NOENT)?;
        let victim = self.change(
            &[&dir],
            nothing,
            || {
                let victim = self.victim(&dir, name)?;
                self.keeping(victim.as_ref(), || remove(&dir.object))?;
                Ok(victim)
            },
            |_, _, victim, changes| {
                changes
                    .extend(victim.as_ref().map(|v| describe::removed(dir.key(), name, v, is_dir)));
            },
        )?;
        self.forget_removed(victim.as_ref());
        Ok(())
    }

    /// Moves a name.
    pub fn rename(
        &self,
        source: (NodeId, &OsStr),
        target: (NodeId, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.rename_within(source, target, mode, Some(u64::MAX)).map(drop)
    }

    /// As [`Self::rename`], but does nothing and returns false where that would wait for
    /// the disk: when a file replaces another that was not made durable.
    pub fn rename_without_waiting(
        &self,
        source: (NodeId, &OsStr),
        target: (NodeId, &OsStr),
        mode: RenameMode,
    ) -> Result<bool> {
        self.rename_within(source, target, mode, None)
    }

    /// As [`Self::rename`], but does nothing and returns false where that would wait for
    /// much of a file to be written.
    pub fn rename_if_quick(
        &self,
        source: (NodeId, &OsStr),
        target: (NodeId, &OsStr),
        mode: RenameMode,
    ) -> Result<bool> {
        self.rename_within(source, target, mode, Some(AHEAD_BYTES_MIN))
    }

    /// Does nothing and returns false where it would wait for a longer file; `None`: for any.
    fn rename_within(
        &self,
        source: (NodeId, &OsStr),
        target: (NodeId, &OsStr),
        mode: RenameMode,
        waits_bytes_max: Option<u64>,
    ) -> Result<bool> {
        let (from, to) = (self.nodes.get(source.0)?, self.nodes.get(target.0)?);
        self.check_name(&from, source.1, Errno::NOENT)?;
        self.check_name(&to, target.1, Errno::PERM)?;
        let moves_dir = |dir: &Node<B>, name| {
            self.backing.kind_at(&dir.object, name) == Ok(FileKind::Directory)
        };
        // With a log no directory's own state is asked.
        let dir_moved = self.engine.log.is_none()
            && (moves_dir(&from, source.1) || (mode.exchange && moves_dir(&to, target.1)));
        let mut joined = None;
        let (renamed, lsn) = loop {
            let mut unready = None;
            let renamed = self.change_numbered(
                &[&from, &to],
                nothing,
                || {
                    let moved = self.found_for_log(&from, source.1)?;
                    let displaced = self.victim(&to, target.1)?;
                    if let Some(file) = self.unready(moved.as_ref(), displaced.as_ref(), joined) {
                        unready = moved.map(|moved| (file, moved));
                        // Seen by nobody: it is made ready, and tried again.
                        return Err(Errno::IO);
                    }
                    let rename = || {
                        let (source, target) = ((&from.object, source.1), (&to.object, target.1));
                        self.backing.rename(source, target, mode)
                    };
                    if mode.exchange || mode.no_replace {
                        rename()?;
                    } else {
                        self.keeping(displaced.as_ref(), rename)?;
                    }
                    // An object of its own, which later operations name.
                    let whiteout = mode.whiteout.then(|| self.found_for_log(&from, source.1));
                    Ok((moved, displaced, whiteout.and_then(Result::ok).flatten()))
                },
                |_, _, (moved, displaced, whiteout), changes| {
                    // Two names of one object: nothing was done (`vfs_rename`).
                    if let (Some(moved), Some(displaced)) = (moved, displaced)
                        && moved.key == displaced.key
                    {
                        return;
                    }
                    let names = ((from.key(), source.1), (to.key(), target.1));
                    let displaced = displaced.as_ref().map(|found| found.key);
                    let renamed =
                        |moved: &Found<B>| describe::renamed(names, moved.key, displaced, mode);
                    changes.extend(moved.as_ref().map(renamed));
                    let left =
                        whiteout.as_ref().filter(|left| left.attr.kind == FileKind::CharDevice);
                    let made = |left| made(from.key(), source.1, left, OsStr::new(""));
                    changes.extend(left.map(made));
                },
            );
            let (Some(log), Some((file, found))) = (&self.engine.log, unready) else {
                break renamed?;
            };
            if waits_bytes_max.is_none_or(|max| found.attr.size > max) {
                return Ok(false);
            }
            // On a disk that fails the old file stays, and who renames is told.
            log.join(&file, &found.object)?;
            joined = Some(found.key);
        };
        if dir_moved {
            self.engine.dir_moved.fetch_max(lsn, Ordering::AcqRel);
        }
        self.moved_to(&to, target.1);
        if mode.exchange {
            self.moved_to(&from, source.1);
        }
        // Of two names of one object none was removed.
        let is_same = |found: &Found<B>| renamed.0.as_ref().is_some_and(|m| m.key == found.key);
        if !mode.exchange {
            self.forget_removed(renamed.1.as_ref().filter(|found| !is_same(found)));
        }
        Ok(true)
    }

    // ---- within ----

    /// What a name stands for that is about to be removed. Without a log only a
    /// wish: the name must be removable even if no descriptor is to be had.
    pub(super) fn victim(&self, dir: &Node<B>, name: &OsStr) -> Result<Option<Found<B>>> {
        match self.backing.lookup(&dir.object, name) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) if self.engine.log.is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// What a name stands for, if the log wants to know.
    fn found_for_log(&self, dir: &Node<B>, name: &OsStr) -> Result<Option<Found<B>>> {
        if self.engine.log.is_none() {
            return Ok(None);
        }
        self.backing.lookup(&dir.object, name).map(Some)
    }

    /// Runs an operation that removes a name. If that is the last name of an
    /// object that the kernel knows, the object stays usable until it is forgotten.
    pub(super) fn keeping(
        &self,
        victim: Option<&Found<B>>,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let victim = victim.filter(|found| loses_last_name(found));
        let Some(victim) = victim.and_then(|found| self.nodes.find(&found.key)) else {
            return remove();
        };
        // Without a descriptor to spare the name must still be removable.
        let _ = self.backing.pin(&victim.object);
        remove().inspect_err(|_| self.backing.unpin(&victim.object))
    }

    /// The log needs to know no more of a file that has lost its last name.
    pub(super) fn forget_removed(&self, victim: Option<&Found<B>>) {
        if let (Some(log), Some(victim)) = (&self.engine.log, victim)
            && loses_last_name(victim)
        {
            log.removed(&victim.key);
        }
    }

    /// A rename over a file is all or nothing in a power cut, also if nobody asks
    /// for a sync: what replaces it is written in place first, and its content is
    /// made durable together with its name. Gives the file for which that is to be
    /// done yet, because it was neither synced nor is it `joined`.
    fn unready(
        &self,
        moved: Option<&Found<B>>,
        displaced: Option<&Found<B>>,
        joined: Option<ObjectKey>,
    ) -> Option<Arc<Tracked<B>>> {
        let (log, moved) = (self.engine.log.as_ref()?, moved?);
        if displaced?.attr.kind != FileKind::Regular || joined == Some(moved.key) {
            return None;
        }
        log.files.find(&moved.key).filter(|file| !log.is_synced(file, &moved.attr))
    }
}

fn loses_last_name<B: Backing>(found: &Found<B>) -> bool {
    found.attr.nlink <= 1 || found.attr.kind == FileKind::Directory
}
