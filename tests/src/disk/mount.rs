//! A filesystem mounted at no place in particular.
//!
//! It has no mount point: it is reached through a descriptor of this process, and is unmounted when
//! that is closed. So it cannot be left behind, and tests do not see each other's.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// A mounted filesystem; dropped, it is unmounted.
pub struct DiskMount {
    path: PathBuf,
    _mount: OwnedFd,
}

impl DiskMount {
    pub(super) fn new(device: &Path, filesystem: &str, options: &str) -> io::Result<Self> {
        let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let mount = configure_and_mount(&context, device, options).map_err(|error| {
            let (device, said) = (device.display(), messages(&context));
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("mount {filesystem} on {device}: {error}{said}"))
        })?;
        // With the process number, and not `self`: programs that we start shall find it too.
        let path = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
        Ok(DiskMount { path: path.into(), _mount: mount })
    }

    /// The root of the filesystem. Valid in every process as long as this object lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
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
