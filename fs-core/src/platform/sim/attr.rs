//! Attributes and extended attributes.

use std::ffi::OsStr;
use std::sync::Arc;

use super::handles::SimFile;
use super::image::{Attrs, Change, Content, Id};
use super::state::State;
use crate::error::{Errno, Result};
use crate::types::{Attr, Caller, FileKind, SetAttr, SetTime, Time};

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o0010;
const XATTR_BYTES_MAX: usize = 65_536;
const XATTR_NAME_BYTES_MAX: usize = 255;
const XATTR_CREATE: u32 = 1;
const NANOS_PER_SEC: u64 = 1_000_000_000;
const XATTR_REPLACE: u32 = 2;

/// Who changes a file, as far as set-user-id bits are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changer {
    /// Has `CAP_FSETID`.
    pub(super) keeps_bits: bool,
    pub(super) gid: u32,
}

impl Changer {
    /// As the Linux backing judges it: the superuser has the capability.
    pub(super) const fn new(caller: Caller) -> Self {
        Self { keeps_bits: caller.uid == 0, gid: caller.gid }
    }

    /// The permission bits that a change of content leaves of a file's.
    pub(super) const fn leaves(self, attrs: &Attrs) -> u16 {
        if self.keeps_bits { attrs.perm } else { attrs.perm & !SETUID & !self.setgid_lost(attrs) }
    }

    /// Set-group-id if a change takes it away (`setattr_should_drop_sgid`).
    const fn setgid_lost(self, attrs: &Attrs) -> u16 {
        let may_keep = self.keeps_bits || self.gid == attrs.gid;
        if attrs.perm & GROUP_EXECUTE != 0 || !may_keep { SETGID } else { 0 }
    }
}

impl State {
    /// Changes attributes in the order of the Linux backing: permission, owner,
    /// length (of the open file if there is one), times. An error leaves the
    /// earlier parts done.
    pub(super) fn set_attr(
        &mut self,
        caller: Caller,
        id: Id,
        file: Option<&SimFile>,
        change: &SetAttr,
    ) -> Result<Attr> {
        let changer = Changer::new(caller);
        let kind = self.node(id)?.kind;
        self.writable()?;
        if let Some(perm) = change.perm {
            if kind == FileKind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            let now = self.now();
            self.touch(id, now, |attrs| attrs.perm = (perm & 0o7777) as u16);
            self.end_op();
        }
        if change.uid.is_some() || change.gid.is_some() {
            let now = self.now();
            self.touch(id, now, |attrs| {
                if kind != FileKind::Directory {
                    attrs.perm &= !SETUID & !changer.setgid_lost(attrs);
                }
                attrs.uid = change.uid.unwrap_or(attrs.uid);
                attrs.gid = change.gid.unwrap_or(attrs.gid);
            });
            self.end_op();
        }
        if let Some(size) = change.size {
            let cut = match file {
                Some(file) => file.writable().map_err(|_| Errno::INVAL)?,
                None => id,
            };
            self.set_size(changer, cut, size)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let now = self.now();
            let time = |set: Option<SetTime>, old: Time| match set {
                None => old,
                Some(SetTime::Now) => now,
                Some(SetTime::At(time)) => time,
            };
            self.touch(id, now, |attrs| {
                attrs.atime = time(change.atime, attrs.atime);
                attrs.mtime = time(change.mtime, attrs.mtime);
            });
            self.end_op();
        }
        Ok(self.node(id)?.attr())
    }

    /// Puts a number into the time of a file's last change: seconds and
    /// nanoseconds of it as one number.
    pub(super) fn set_marker(&mut self, id: Id, lsn: u64) -> Result<()> {
        self.node(id)?;
        self.writable()?;
        let now = self.now();
        let secs = (lsn / NANOS_PER_SEC) as i64;
        let mtime = Time { secs, nanos: (lsn % NANOS_PER_SEC) as u32 };
        self.touch(id, now, |attrs| attrs.mtime = mtime);
        self.end_op();
        Ok(())
    }

    /// What [`Self::set_marker`] has put there.
    pub(super) fn marker(&self, id: Id) -> Result<u64> {
        let Time { secs, nanos } = self.attrs(id)?.mtime;
        let secs = u64::try_from(secs).map_err(|_| Errno::RANGE)?;
        let whole = secs.checked_mul(NANOS_PER_SEC).ok_or(Errno::RANGE)?;
        whole.checked_add(nanos.into()).ok_or(Errno::RANGE)
    }

    /// Target of a symbolic link.
    pub(super) fn read_link(&self, id: Id) -> Result<Vec<u8>> {
        match &self.node(id)?.content {
            Content::Symlink(target) => Ok(target.to_vec()),
            // What readlinkat(2) says of a descriptor with an empty path.
            _ => Err(Errno::NOENT),
        }
    }

    /// Value of an extended attribute.
    pub(super) fn xattr(&self, id: Id, name: &OsStr) -> Result<Vec<u8>> {
        let missing = Errno::NODATA;
        self.check_xattr(id, name, missing)?;
        Ok(self.node(id)?.xattrs.get(name).ok_or(missing)?.to_vec())
    }

    /// All names, each ended by a zero byte.
    pub(super) fn xattr_names(&self, id: Id) -> Result<Vec<u8>> {
        let names = self.node(id)?.xattrs.keys();
        Ok(names.flat_map(|name| name.as_encoded_bytes().iter().copied().chain([0])).collect())
    }

    /// Sets an extended attribute.
    pub(super) fn set_xattr(
        &mut self,
        id: Id,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        if flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
            return Err(Errno::INVAL);
        }
        if value.len() > XATTR_BYTES_MAX {
            return Err(Errno::TOOBIG);
        }
        self.check_xattr(id, name, Errno::PERM)?;
        let is_there = self.node(id)?.xattrs.contains_key(name);
        // With both flags the name cannot be right.
        if flags & XATTR_REPLACE != 0 && !is_there {
            return Err(Errno::NODATA);
        }
        if flags & XATTR_CREATE != 0 && is_there {
            return Err(Errno::EXIST);
        }
        let same = self.node(id)?.xattrs.get(name).is_some_and(|old| **old == *value);
        // ext4 leaves the inode alone then, its times included.
        if same { Ok(()) } else { self.change_xattr(id, name, Some(value)) }
    }

    /// Removes an extended attribute.
    pub(super) fn remove_xattr(&mut self, id: Id, name: &OsStr) -> Result<()> {
        self.check_xattr(id, name, Errno::PERM)?;
        if !self.node(id)?.xattrs.contains_key(name) {
            return Err(Errno::NODATA);
        }
        self.change_xattr(id, name, None)
    }

    fn change_xattr(&mut self, id: Id, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        self.writable()?;
        let now = self.now();
        let value = value.map(Arc::from);
        self.change(Change::Xattr { id, name: Arc::from(name), value });
        self.touch(id, now, |_| {});
        self.end_op();
        Ok(())
    }

    /// Which names are allowed: `user.` on files and directories, `trusted.`
    /// and `security.` on everything. There are no ACLs.
    fn check_xattr(&self, id: Id, name: &OsStr, not_for_this_kind: Errno) -> Result<()> {
        let kind = self.node(id)?.kind;
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes.len() > XATTR_NAME_BYTES_MAX {
            return Err(Errno::RANGE);
        }
        let has = |prefix: &[u8]| bytes.starts_with(prefix);
        if !has(b"user.") && !has(b"trusted.") && !has(b"security.") {
            return Err(Errno::OPNOTSUPP);
        }
        let fits = matches!(kind, FileKind::Regular | FileKind::Directory) || !has(b"user.");
        if !fits {
            return Err(not_for_this_kind);
        }
        if bytes.ends_with(b".") && bytes.iter().filter(|&&byte| byte == b'.').count() == 1 {
            return Err(Errno::INVAL);
        }
        Ok(())
    }
}
