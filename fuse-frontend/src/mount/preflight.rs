//! Checks before anything is touched: does the command make sense here?

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_core::platform::linux::running_as_root;

use super::{MountPlan, mounts};
use crate::control;
use crate::failure::Failure;
use crate::ring;

/// Resolves the paths as typed into a plan's absolute ones.
///
/// # Errors
/// A path that does not exist, is no directory, or shows a dead mount.
pub fn resolve(backing: &Path, mount_point: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let backing = directory(backing, "backing directory")?;
    let mount_point = directory(mount_point, "mount point")?;
    Ok((backing, mount_point))
}

fn directory(path: &Path, what: &str) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::usage(format!(
            "{what} {shown} does not exist: create it with `mkdir -p {shown}`, or check the path"
        )),
        ErrorKind::NotConnected => dead_mount(path),
        _ => Failure::new(format!("cannot use {what} {shown}: {error}")),
    })?;
    if !metadata.is_dir() {
        return Err(Failure::usage(format!("{what} {shown} is not a directory: name a directory")));
    }
    let absolute = path.canonicalize();
    absolute.map_err(|error| Failure::new(format!("cannot use {what} {shown}: {error}")))
}

/// What to say of a mount point whose daemon is gone.
#[must_use]
pub fn dead_mount(path: &Path) -> Failure {
    let shown = path.display();
    Failure::new(format!(
        "{shown} is a dead mount (its daemon is gone): run `lanefs umount {shown}`, then mount again"
    ))
}

/// Checks a resolved plan.
///
/// # Errors
/// Paths inside each other, a mount point in use, or no FUSE on this machine, or not the
/// FUSE that was asked for.
pub fn check(plan: &MountPlan) -> Result<(), Failure> {
    check_paths(plan)?;
    let over_itself = plan.backing == plan.mount_point;
    check_mount_point(&plan.mount_point, over_itself, plan.options.nonempty)?;
    check_device()?;
    ring::check(plan.options.transport)
}

/// Checks how a plan's directories lie to each other.
///
/// # Errors
/// One is inside the other.
pub fn check_paths(plan: &MountPlan) -> Result<(), Failure> {
    let (backing, mount_point) = (&plan.backing, &plan.mount_point);
    let same = backing == mount_point;
    if !same && mount_point.starts_with(backing) {
        return Err(Failure::usage(format!(
            "mount point {} is inside the backing directory {}: the mount would contain itself; \
             choose a place outside, or mount over the backing directory itself",
            mount_point.display(),
            backing.display()
        )));
    }
    if !same && backing.starts_with(mount_point) {
        return Err(Failure::usage(format!(
            "backing directory {} is inside the mount point {}: the mount would hide it; \
             choose another mount point",
            backing.display(),
            mount_point.display()
        )));
    }
    Ok(())
}

fn check_mount_point(mount_point: &Path, over_itself: bool, nonempty: bool) -> Result<(), Failure> {
    let shown = mount_point.display();
    let failed = |error| Failure::new(format!("cannot look at mount point {shown}: {error}"));
    let mounted = mounts::at(mount_point).map_err(failed)?;
    if over_itself && mounted.as_ref().is_some_and(|mount| mount.filesystem == "autofs") {
        return Err(Failure::usage(format!(
            "{shown} is hidden by an automount point, so it cannot be mounted over itself: leave \
             out x-systemd.automount, or choose another mount point"
        )));
    }
    if let Some(mount) = mounted.filter(|mount| mount.filesystem == mounts::FILESYSTEM_TYPE) {
        // The kernel may still show the root of a dead mount from its cache.
        if matches!(control::ask(&mount, &control::Request::Status), Ok(None)) {
            return Err(dead_mount(mount_point));
        }
        return Err(Failure::new(format!(
            "{shown} is a lanefs mount already: run `lanefs umount {shown}` first"
        )));
    }
    if over_itself || nonempty {
        return Ok(());
    }
    let mut entries = std::fs::read_dir(mount_point).map_err(failed)?;
    if entries.next().is_some() {
        return Err(Failure::usage(format!(
            "mount point {shown} is not empty and its files would be hidden: \
             choose an empty directory, or say `-o nonempty`"
        )));
    }
    Ok(())
}

fn check_device() -> Result<(), Failure> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match device.map_err(|error| (error.kind(), error)) {
        Ok(_) => Ok(()),
        // Without root it is fusermount3 that opens the device.
        Err((ErrorKind::PermissionDenied, _)) if !running_as_root() => Ok(()),
        Err((ErrorKind::NotFound, _)) => Err(Failure::new(
            "there is no /dev/fuse: load the fuse module (`modprobe fuse`), \
             or give the container the device (`--device /dev/fuse`)",
        )),
        Err((ErrorKind::PermissionDenied, _)) => Err(Failure::new(
            "no permission for /dev/fuse: allow the container the device (`--device /dev/fuse`)",
        )),
        Err((_, error)) => Err(Failure::new(format!(
            "cannot open /dev/fuse: {error}; is FUSE part of this kernel?"
        ))),
    }
}
