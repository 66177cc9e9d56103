//! Extended attributes (POSIX ACLs among them) of objects known by `O_PATH`
//! descriptors, through their names in /proc.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno as Os;

use super::object::proc_path;
use crate::error::Result;

/// Room that serves nearly all values without asking for the size first.
const USUAL_BYTES: usize = 1024;

/// Value of an attribute.
pub(super) fn get(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>> {
    let path = proc_path(fd);
    grow(
        |buffer| rustix::fs::getxattr(&path, name, buffer),
        || rustix::fs::getxattr(&path, name, &mut [][..] as &mut [u8]),
    )
}

/// Names of all attributes, each ended by a zero byte.
pub(super) fn names(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let path = proc_path(fd);
    grow(
        |buffer| rustix::fs::listxattr(&path, buffer),
        || rustix::fs::listxattr(&path, &mut [][..] as &mut [u8]),
    )
}

pub(super) fn set(
    fd: BorrowedFd<'_>,
    name: &OsStr,
    value: &[u8],
    flags: u32,
) -> std::result::Result<(), Os> {
    rustix::fs::setxattr(proc_path(fd), name, value, XattrFlags::from_bits_retain(flags))
}

pub(super) fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    Ok(rustix::fs::removexattr(proc_path(fd), name)?)
}

/// Reads into a buffer of the usual size, then of the size that the kernel
/// names; again if the value grew in between.
fn grow(
    read: impl Fn(&mut [u8]) -> std::result::Result<usize, Os>,
    size: impl Fn() -> std::result::Result<usize, Os>,
) -> Result<Vec<u8>> {
    let mut buffer = vec![0; USUAL_BYTES];
    loop {
        match read(&mut buffer) {
            Ok(bytes) => {
                buffer.truncate(bytes);
                return Ok(buffer);
            }
            Err(Os::RANGE) => {
                let bytes = size()?;
                buffer.resize(bytes.max(buffer.len() + 1), 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
