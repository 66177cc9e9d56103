//! What the log is told of an operation.

use std::ffi::OsStr;

use crate::engine::Lsn;
use crate::error::Result;
use crate::log::record::Change;
use crate::log::{Log, Mark};
use crate::platform::{Backing, Found, ObjectKey, RenameMode};
use crate::types::{Attr, SetAttr};

/// What runs right before an operation, with its number.
pub(super) trait Prepare<B: Backing>: FnOnce(&Log<B>, Lsn) -> Result<Option<Mark>> {}
impl<B: Backing, F: FnOnce(&Log<B>, Lsn) -> Result<Option<Mark>>> Prepare<B> for F {}

/// Nothing runs before.
pub(super) fn nothing<B: Backing>(_log: &Log<B>, _lsn: Lsn) -> Result<Option<Mark>> {
    Ok(None)
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_encoded_bytes().to_vec()
}

pub(super) fn made<B: Backing>(
    dir: ObjectKey,
    name: &OsStr,
    found: &Found<B>,
    target: &OsStr,
) -> Change {
    Change::Make {
        dir,
        name: bytes(name),
        object: found.key.portable(),
        kind: found.attr.kind,
        perm: found.attr.perm,
        uid: found.attr.uid,
        gid: found.attr.gid,
        device: (found.attr.rdev_major, found.attr.rdev_minor),
        target: bytes(target),
    }
}

pub(super) fn linked(object: ObjectKey, dir: ObjectKey, name: &OsStr) -> Change {
    Change::Link { object, dir, name: bytes(name) }
}

pub(super) fn removed<B: Backing>(
    dir: ObjectKey,
    name: &OsStr,
    victim: &Found<B>,
    is_dir: bool,
) -> Change {
    Change::Remove { dir, name: bytes(name), object: victim.key.portable(), is_dir }
}

/// A directory and a name in it.
type Name<'a> = (ObjectKey, &'a OsStr);

pub(super) fn renamed(
    (from, to): (Name<'_>, Name<'_>),
    moved: ObjectKey,
    displaced: Option<ObjectKey>,
    mode: RenameMode,
) -> Change {
    Change::Rename {
        from_dir: from.0,
        from: bytes(from.1),
        to_dir: to.0,
        to: bytes(to.1),
        object: moved.portable(),
        displaced: displaced.map(ObjectKey::portable),
        exchange: mode.exchange,
        whiteout: mode.whiteout,
    }
}

pub(super) const fn resized(object: ObjectKey, size: u64) -> Change {
    Change::Resize { object, size }
}

/// The attributes besides the length that a change has set, as they are now: a
/// change of one may have changed others.
pub(super) fn attrs(object: ObjectKey, change: &SetAttr, now: &Attr) -> Option<Change> {
    let SetAttr { perm, uid, gid, size, atime, mtime } = *change;
    let owner = uid.is_some() || gid.is_some();
    let any = perm.is_some() || owner || size.is_some() || atime.is_some() || mtime.is_some();
    any.then(|| Change::Attrs {
        object,
        perm: (perm.is_some() || owner || size.is_some()).then_some(now.perm),
        uid: uid.map(|_| now.uid),
        gid: gid.map(|_| now.gid),
        atime: atime.map(|_| now.atime),
        mtime: (mtime.is_some() || size.is_some()).then_some(now.mtime),
    })
}

pub(super) fn xattr_set(object: ObjectKey, name: &OsStr, value: &[u8]) -> Change {
    Change::SetXattr { object, name: bytes(name), value: value.to_vec() }
}

pub(super) fn xattr_removed(object: ObjectKey, name: &OsStr) -> Change {
    Change::RemoveXattr { object, name: bytes(name) }
}
