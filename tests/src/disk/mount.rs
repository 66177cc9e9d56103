//! A filesystem mounted on a disk, best at no place in particular.
//!
//! Without a mount point it is reached through a descriptor of this process, and unmounted when that
//! is closed: it cannot be left behind, and tests do not see each other's. Programs that resolve
//! links on their own (SQLite, whatever calls `realpath`, lanefs) need a mount point.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::scratch::unmount_patiently;

const BUSY_PATIENCE: Duration = Duration::from_secs(15);

/// A mounted filesystem; dropped, it is unmounted.
pub struct DiskMount {
    path: PathBuf,
    // `None`: mounted at `path`.
    nowhere: Option<OwnedFd>,
}

impl DiskMount {
    pub(super) fn nowhere(device: &Path, filesystem: &str, options: &str) -> io::Result<Self> {
        let mount = detached(device, filesystem, options)?;
        // With the process number, and not `self`: programs that we start shall find it too.
        let path = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
        Ok(DiskMount { path: path.into(), nowhere: Some(mount) })
    }

    pub(super) fn at(
        mount_point: &Path,
        device: &Path,
        filesystem: &str,
        options: &str,
    ) -> io::Result<Self> {
        let mount = detached(device, filesystem, options)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, mount_point, flags)?;
        Ok(DiskMount { path: mount_point.to_path_buf(), nowhere: None })
    }

    /// The root of the filesystem. Valid in every process as long as this object lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DiskMount {
    fn drop(&mut self) {
        if self.nowhere.take().is_none() && !unmount_patiently(&self.path, BUSY_PATIENCE) {
            eprintln!("{} stayed busy and was detached", self.path.display());
        }
    }
}

fn detached(device: &Path, filesystem: &str, options: &str) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure_and_mount(&context, device, options).map_err(|error| {
        let (device, said) = (device.display(), messages(&context));
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("mount {filesystem} on {device}: {error}{said}"))
    })
}

fn configure_and_mount(
    context: &OwnedFd,
    device: &Path,
    options: &str,
) -> rustix::io::Result<OwnedFd> {
    let context = context.as_fd();
    rustix::mount::fsconfig_set_string(context, "source", device)?;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(context, option)?,
        }
    }
    rustix::mount::fsconfig_create(context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(context, flags, MountAttrFlags::empty())
}

// What the filesystem said while it was configured: one message a read.
fn messages(context: &OwnedFd) -> String {
    let Ok(context) = context.try_clone() else { return String::new() };
    let mut file = std::fs::File::from(context);
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = file.read(&mut buffer) {
        text.push_str("; ");
        text.push_str(String::from_utf8_lossy(&buffer[..count]).trim_end());
    }
    text
}
