//! What a new file takes over from the one in whose place it is put.
//!
//! | of the old file | |
//! | --- | --- |
//! | permission bits | kept; set-user-id and set-group-id only for root, as if it were written |
//! | owner, group | kept, or the replace fails |
//! | extended attributes, ACLs, labels | kept, or the replace fails; except those that any write takes away or makes wrong: file capabilities, IMA and EVM |
//! | other names, being a symbolic link | see [`HardLinks`](super::HardLinks) and [`path`](super::path) |
//! | times | new, as after any write |
//! | inode number, inode flags (`chattr`), who has it open | not kept: it is another file |

use std::ffi::OsStr;

use super::path::Held;
use super::temporary::Temporary;
use crate::engine::{NodeId, Tree};
use crate::error::{Errno, Result};
use crate::platform::{Backing, os_name};
use crate::types::{Attr, Caller, SetAttr};

/// What a new file has until it is given everything else: nobody else may read a secret
/// before its permissions are those of the old file.
const SECRET: u32 = 0o600;

/// How a new file is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Birth {
    /// Its permission bits, before the umask.
    pub(super) mode: u32,
    /// Made so, it has all that the old one has; unless the umask took bits away.
    is_complete: bool,
}

impl Birth {
    /// With these permission bits; no old file gives it any.
    pub(super) const fn with(mode: u32) -> Self {
        Self { mode, is_complete: true }
    }

    /// In the place of an old file, in a directory.
    pub(super) fn instead_of<B: Backing>(
        tree: &Tree<B>,
        caller: Caller,
        dir: &Held<B>,
        old: &Held<B>,
    ) -> Self {
        let is_complete = has_permissions_only(tree, caller, dir, old);
        let mode = if is_complete { u32::from(old.attr.perm) } else { SECRET };
        Self { mode, is_complete }
    }
}

/// Whether an old file has nothing but permission bits that a new one in its directory would
/// not have from the start: an owner, attributes, ACLs, set-id bits. This is the common case, and
/// three system calls instead of eight, under no lock.
fn has_permissions_only<B: Backing>(
    tree: &Tree<B>,
    caller: Caller,
    dir: &Held<B>,
    old: &Held<B>,
) -> bool {
    // Whether files get their creator's group or the directory's is the filesystem's choice.
    let is_ours =
        (old.attr.uid, old.attr.gid, dir.attr.gid) == (caller.uid, caller.gid, caller.gid);
    is_ours
        && old.attr.perm & SETID_BITS == 0
        && names(tree, caller, old.id).is_ok_and(|names| names.is_empty())
        && matches!(
            tree.xattr(dir.id, os_name(DEFAULT_ACL)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS)
        )
}

/// Attributes that are about the very bytes of the old file.
const NOT_KEPT: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// What a file may have got from a default ACL of its directory, and that.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

const SETID_BITS: u16 = 0o6000;

/// What could not be kept, and why.
pub(super) type NotKept = (&'static str, Errno);

/// Gives a new file what the old one has and it was not born with.
pub(super) fn carry_over<B: Backing>(
    tree: &Tree<B>,
    caller: Caller,
    old: &Held<B>,
    new: &Temporary<B>,
    birth: Birth,
) -> std::result::Result<(), NotKept> {
    let is_same =
        |new: &Attr, old: &Attr| (new.perm, new.uid, new.gid) == (old.perm, old.uid, old.gid);
    if birth.is_complete && is_same(&new.node.attr, &old.attr) {
        return Ok(());
    }
    keep_owner(tree, caller, old, new).map_err(|error| ("the owner", error))?;
    keep_xattrs(tree, caller, old.id, new.node.id)
        .map_err(|error| ("the extended attributes", error))?;
    let mut perm = old.attr.perm;
    if caller.uid != 0 {
        perm &= !SETID_BITS;
    }
    // Last: a new owner takes bits away, and an ACL sets some.
    let change = SetAttr { perm: Some(u32::from(perm)), ..SetAttr::default() };
    let set = tree.set_attr(caller, new.node.id, None, &change);
    set.map(drop).map_err(|error| ("the mode", error))
}

fn keep_owner<B: Backing>(
    tree: &Tree<B>,
    caller: Caller,
    old: &Held<B>,
    new: &Temporary<B>,
) -> Result<()> {
    let (old, now) = (&old.attr, &new.node.attr);
    let uid = (old.uid != now.uid).then_some(old.uid);
    let gid = (old.gid != now.gid).then_some(old.gid);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let change = SetAttr { uid, gid, ..SetAttr::default() };
    tree.set_attr(caller, new.node.id, None, &change).map(drop)
}

fn keep_xattrs<B: Backing>(tree: &Tree<B>, caller: Caller, old: NodeId, new: NodeId) -> Result<()> {
    let (wanted, given) = (names(tree, caller, old)?, names(tree, caller, new)?);
    let is_wanted = |name: &[u8]| !NOT_KEPT.contains(&name);
    for name in split(&wanted).filter(|name| is_wanted(name)) {
        let os: &OsStr = os_name(name);
        let value = tree.xattr(old, os)?;
        // A label, say, that the directory has given and that may not be set.
        let has_it = split(&given).any(|other| other == name)
            && tree.xattr(new, os).is_ok_and(|other| other == value);
        if !has_it {
            tree.set_xattr(caller, new, os, &value, 0)?;
        }
    }
    if split(&given).any(|name| name == ACCESS_ACL) && !split(&wanted).any(|n| n == ACCESS_ACL) {
        tree.remove_xattr(new, os_name(ACCESS_ACL))?;
    }
    Ok(())
}

/// Names of a file's extended attributes; none where there cannot be any.
fn names<B: Backing>(tree: &Tree<B>, caller: Caller, node: NodeId) -> Result<Vec<u8>> {
    match tree.xattr_names(caller, node) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
        other => other,
    }
}

fn split(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty())
}
