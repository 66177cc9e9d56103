//! `lanefs umount`.

use std::path::{Path, PathBuf};

use nix::mount::MntFlags;

use super::UmountArgs;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::{kernel, mounts};

pub(super) fn run(args: &UmountArgs) -> Result<(), Failure> {
    if args.dead {
        return clean_up_if_dead(&args.mount_point);
    }
    let mount = find(&args.mount_point)?;
    match control::ask(&mount, &Request::Unmount { lazy: args.lazy })? {
        Some(Response::Unmounted) => Ok(()),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => clean_up(&mount, args.lazy),
    }
}

fn clean_up_if_dead(path: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let is_ours = |mount: &mounts::MountEntry| mount.filesystem == mounts::FILESYSTEM_TYPE;
    match mounts::at(&absolute(path)).map_err(failed)?.filter(is_ours) {
        Some(mount) if control::ask(&mount, &Request::Status)?.is_none() => clean_up(&mount, false),
        _ => Ok(()),
    }
}

/// Ends a mount without asking its daemon, which then makes durable what it has: programs on the
/// mount get errors. For a mount that does not answer.
pub(crate) fn cut_off(path: &Path) -> Result<(), Failure> {
    let mount = find(path)?;
    let detach = MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
    nix::mount::umount2(&mount.mount_point, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW)
        .or_else(|_| nix::mount::umount2(&mount.mount_point, detach))
        .map_err(|error| Failure::new(format!("cannot cut {} off: {error}", path.display())))
}

/// The lanefs mount at a path.
pub(crate) fn find(path: &Path) -> Result<mounts::MountEntry, Failure> {
    let place = absolute(path);
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    match mounts::at(&place).map_err(failed)? {
        Some(mount) if mount.filesystem == mounts::FILESYSTEM_TYPE => Ok(mount),
        Some(mount) => Err(Failure::new(format!(
            "{} is mounted, but as {}: use umount(8) for it",
            path.display(),
            mount.filesystem
        ))),
        None => Err(Failure::new(format!(
            "nothing is mounted at {}: `lanefs status` lists the lanefs mounts",
            path.display()
        ))),
    }
}

/// The absolute path without asking the mount itself, which may be dead: only
/// the directory that holds it is resolved.
fn absolute(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

/// Unmounts for a daemon that is gone. What programs synced is in the backing
/// directory; what they did not is there too unless the machine stops.
fn clean_up(mount: &mounts::MountEntry, lazy: bool) -> Result<(), Failure> {
    let shown = mount.mount_point.display();
    let ended = match kernel::unmount(&mount.mount_point, lazy) {
        // Nobody can do anything useful with the files of a dead mount.
        Err(nix::Error::EBUSY) => kernel::unmount(&mount.mount_point, true),
        other => other,
    };
    ended
        .map_err(|error| Failure::new(format!("cannot unmount the dead mount {shown}: {error}")))?;
    control::remove_leftover(mount);
    eprintln!("lanefs: {shown} had no daemon any more; unmounted");
    Ok(())
}
