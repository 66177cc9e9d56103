//! Who really uses a mount, by the kernel's account.
//!
//! Engines count users by themselves, and lose count when they are killed at the wrong moment:
//! a volume would be "in use" for ever. The kernel knows better. A container has the mount in
//! a mount namespace of its own, at a place of its own.
//!
//! A copy at the *same* place in another namespace says nothing: services with a namespace of
//! their own get one of every mount that the machine makes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use nix::mount::MntFlags;

use crate::mount::mounts::{self, MountEntry};

/// A place where somebody has a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// A process that sees it there.
    pub pid: u32,
    /// The place, as this process sees it.
    pub place: PathBuf,
}

/// The first use of the mount with this device number (`major:minor`) other than at
/// `mount_point` itself.
///
/// # Errors
/// /proc cannot be read.
pub fn of_device(device: &str, mount_point: &Path) -> std::io::Result<Option<Use>> {
    let mut namespaces = HashSet::new();
    for process in std::fs::read_dir("/proc")? {
        let process = process?;
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        // A process that has just ended, or a zombie, has none.
        let Ok(namespace) = std::fs::read_link(process.path().join("ns/mnt")) else { continue };
        if !namespaces.insert(namespace) {
            continue;
        }
        let Ok(table) = std::fs::read(process.path().join("mountinfo")) else { continue };
        if let Some(place) = foreign_place(&mounts::parse(&table), device, mount_point) {
            return Ok(Some(Use { pid, place }));
        }
    }
    Ok(None)
}

/// Whether processes have files or directories open in a mount of our own namespace. Asked with
/// MNT_EXPIRE, which takes nothing away that is asked about for the first time.
#[must_use]
pub fn is_busy(mount_point: &Path) -> bool {
    let flags = MntFlags::MNT_EXPIRE | MntFlags::UMOUNT_NOFOLLOW;
    nix::mount::umount2(mount_point, flags) == Err(nix::Error::EBUSY)
}

fn foreign_place(table: &[MountEntry], device: &str, mount_point: &Path) -> Option<PathBuf> {
    let elsewhere =
        |mount: &&MountEntry| mount.device == device && mount.mount_point != mount_point;
    table.iter().find(elsewhere).map(|mount| mount.mount_point.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_place_is_a_use() {
        let table = mounts::parse(
            b"1 1 0:7 / /root/mounts/a rw - fuse.lanefs /root/volumes/a rw\n\
              2 1 0:8 / /root/mounts/b rw - fuse.lanefs /root/volumes/b rw\n\
              3 1 0:8 / /data rw - fuse.lanefs /root/volumes/b rw\n",
        );
        let place = |device, mount_point| foreign_place(&table, device, Path::new(mount_point));
        assert_eq!(place("0:7", "/root/mounts/a"), None);
        assert_eq!(place("0:8", "/root/mounts/b"), Some(PathBuf::from("/data")));
        assert_eq!(place("0:9", "/root/mounts/c"), None);
    }

    #[test]
    fn the_machine_itself_can_be_asked() {
        let proc = mounts::at(Path::new("/proc")).unwrap().unwrap();
        assert!(of_device(&proc.device, Path::new("/nowhere")).unwrap().is_some());
        assert_eq!(of_device("9999:9999", Path::new("/nowhere")).unwrap(), None);
    }
}
