//! The loop device over the disk's file.
//!
//! It is configured to detach itself when it is closed for the last time (autoclear), and we are the
//! ones who keep it open: it goes when we let go of it, also by being killed, as soon as no
//! filesystem uses it any more.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::sys;
use crate::run;

const FREE_DEVICE_PATIENCE: Duration = Duration::from_secs(15);

/// An open loop device over our file.
pub(super) struct Attachment {
    device: File,
    path: PathBuf,
}

impl Attachment {
    pub fn new(file: &File) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        // Several processes may reach for the same free device: the losers try again.
        let attached = run::poll(FREE_DEVICE_PATIENCE, || match attempt(&control, file) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => None,
            outcome => Some(outcome),
        });
        attached.unwrap_or_else(|| Err(io::Error::other("every free loop device was taken")))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True while a filesystem (or anybody else who claims a device for himself) uses it.
    pub fn is_claimed(&self) -> bool {
        let exclusive = OFlags::EXCL.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(exclusive).open(&self.path);
        opened.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
    }

    /// Makes the kernel forget what it cached of the device; true when nothing is left.
    pub fn drop_cache(&self) -> io::Result<bool> {
        sys::drop_cache(&self.device)?;
        Ok(sys::cached_pages(&self.device)? == 0)
    }

    /// Where filesystems on this device are mounted, in the order of mounting.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = table.lines().filter(|line| {
            let source = line.split_once(" - ").and_then(|(_, after)| after.split(' ').nth(1));
            source == self.path.to_str()
        });
        ours.filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
    }
}

fn attempt(control: &File, file: &File) -> io::Result<Attachment> {
    let number = sys::free_loop_device(control)?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = File::options().read(true).write(true).open(&path)?;
    sys::configure_loop(&device, file.as_fd())?;
    Ok(Attachment { device, path })
}
