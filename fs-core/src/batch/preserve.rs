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
use crate::types::{Caller, SetAttr};

/// What a new file has until it is given everything else: nobody else may read a secret
/// before its permissions are those of the old file.
pub(super) const BIRTH_MODE: u32 = 0o600;

/// Attributes that are about the very bytes of the old file.
const NOT_KEPT: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// What a file may have got from a default ACL of its directory.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

const SETID_BITS: u16 = 0o6000;

/// What could not be kept, and why.
pub(super) type NotKept = (&'static str, Errno);

/// Gives a new file what the old one has.
pub(super) fn carry_over<B: Backing>(
    tree: &Tree<B>,
    caller: Caller,
    old: &Held<B>,
    new: &Temporary<B>,
) -> std::result::Result<(), NotKept> {
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
