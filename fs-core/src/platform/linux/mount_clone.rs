//! A private clone of the backing directory's mount.
//!
//! The clone is attached nowhere: what is mounted over or below the directory
//! later (our own mount over itself, for one) does not change what it shows,
//! and `ro` and `noatime` set on it bind every access that lanefs makes,
//! passthrough included, without touching the original mount.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::BackingOptions;
use super::caller::Privileges;
use crate::error::{Errno, Result};

/// The directory to work on: below a private mount clone where the privilege
/// and the kernel (5.12) allow it, else the directory as it was given.
pub(super) fn private_root(
    original: &OwnedFd,
    privileges: Privileges,
    options: BackingOptions,
) -> Result<OwnedFd> {
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if privileges.full {
        match clone(original, options) {
            Ok(tree) => return Ok(rustix::fs::openat(tree, c".", readable, Mode::empty())?),
            // A mount in another namespace, or locked by one, cannot be cloned.
            Err(error) => {
                tracing::debug!(%error, "no private mount clone; using the mount as it is");
            }
        }
    }
    Ok(rustix::fs::openat(original, c".", readable, Mode::empty())?)
}

fn clone(original: &OwnedFd, options: BackingOptions) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(original, c"", flags)?;
    let mut set = 0;
    if options.read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if options.no_atime {
        set |= libc::MOUNT_ATTR_NOATIME;
    }
    if set != 0 {
        set_attributes(&tree, set)?;
    }
    Ok(tree)
}

fn set_attributes(tree: &OwnedFd, set: u64) -> Result<()> {
    let clear = if set & libc::MOUNT_ATTR_NOATIME != 0 { libc::MOUNT_ATTR__ATIME } else { 0 };
    let attributes =
        libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor is open, the path is a valid empty C string, the
    // structure lives through the call and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(Errno::from(std::io::Error::last_os_error())) }
}
