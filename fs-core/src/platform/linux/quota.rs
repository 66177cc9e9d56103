//! A size limit for a directory: project quotas of ext4 and XFS.
//!
//! The directory gets a project number that everything made in it inherits, and the number gets
//! a limit. `quotactl_fd(2)` (Linux 5.14) takes the directory itself instead of a device's name.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::error::{Errno, Result};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`: `_IOR('X', 31, ..)`, `_IOW('X', 32, ..)`.
const GET_XATTR: libc::c_ulong = 0x801c_581f;
const SET_XATTR: libc::c_ulong = 0x401c_5820;
/// What is made in the directory gets its project.
const PROJECT_INHERIT: u32 = 0x200;
const PROJECT_QUOTA: i32 = 2;
/// Limits are told in blocks of this size, whatever the filesystem's is.
const QUOTA_BLOCK_BYTES: u64 = 1024;

/// Limits what may be stored in an empty directory to about `bytes`, rounded up to 1 KiB.
///
/// # Errors
/// `ESRCH`, `ENOSYS`, `EOPNOTSUPP` or `ENOTTY` where the filesystem keeps no project quotas; `ENOTEMPTY` for
/// a directory with files, which would not count. Nothing is changed then.
pub fn limit_directory(directory: &Path, bytes: u64) -> Result<()> {
    let file = File::open(directory).map_err(Errno::from)?;
    // The number of the directory's inode is nobody else's.
    let stat = rustix::fs::fstat(&file)?;
    let project =
        u32::try_from(stat.st_ino).map_err(|_| Errno::from(rustix::io::Errno::OVERFLOW))?;
    // Fails where no quotas are kept, before anything is changed.
    quota(&file, libc::Q_GETQUOTA, project, &mut no_limit())?;
    if std::fs::read_dir(directory).map_err(Errno::from)?.next().is_some() {
        return Err(rustix::io::Errno::NOTEMPTY.into());
    }
    let mut limit = no_limit();
    limit.dqb_bhardlimit = bytes.div_ceil(QUOTA_BLOCK_BYTES);
    limit.dqb_valid = libc::QIF_BLIMITS;
    quota(&file, libc::Q_SETQUOTA, project, &mut limit)?;
    set_project(&file, project)
}

fn no_limit() -> libc::dqblk {
    // SAFETY: a structure of integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn quota(file: &File, command: i32, project: u32, limit: &mut libc::dqblk) -> Result<()> {
    // SAFETY: the descriptor is open, and `limit` is the structure that both commands take.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            libc::QCMD(command, PROJECT_QUOTA),
            project,
            std::ptr::from_mut(limit),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

fn set_project(file: &File, project: u32) -> Result<()> {
    let mut attributes = FsXattr::default();
    // SAFETY: the descriptor is open, and the structure has the layout and size that the
    // number of the request says.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), GET_XATTR, &raw mut attributes) };
    if got != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    attributes.project = project;
    attributes.flags |= PROJECT_INHERIT;
    // SAFETY: as above; the kernel only reads it.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), SET_XATTR, &raw const attributes) };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_without_project_quotas_says_so_and_is_left_alone() {
        let Ok(place) = tempfile::tempdir_in("/dev/shm") else { return };
        let error = limit_directory(place.path(), 1 << 20).unwrap_err();
        let expected = [libc::ESRCH, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTTY];
        assert!(expected.contains(&error.raw()), "{error}");
    }
}
