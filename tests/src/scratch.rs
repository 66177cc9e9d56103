//! A private directory for one test, and cleaning up after tests that were killed.
//!
//! `Drop` does not run when a test process is killed, and what stays behind then (mounts, loop
//! devices, images of a gigabyte) disturbs everything after. So each directory holds a lock file that
//! its owner keeps locked; a directory whose lock is free has no owner, and the first test that
//! comes along takes it apart.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::{leftovers, run, workspace};

/// How directories of these tests begin; also how leftovers are known.
pub const PREFIX: &str = "lanefs-tests-";
const LOCK_FILE: &str = "owner.lock";
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(20);

/// A directory that is removed with everything in it, mounts included.
pub struct Scratch {
    // `None` only while dropping.
    directory: Option<TempDir>,
    _owner: File,
}

impl Scratch {
    /// A new directory on a disk that has `room_mib` to spare (`/tmp`, else cargo's target folder).
    #[track_caller]
    pub fn new(room_mib: u64) -> Self {
        let target = workspace::target();
        let bases = [PathBuf::from("/tmp"), target];
        let base = bases.iter().find(|base| has_room(base, room_mib));
        let base = base.unwrap_or_else(|| panic!("no {room_mib} MiB free in any of {bases:?}"));
        Self::new_in(base)
    }

    /// A new directory in `base`.
    #[track_caller]
    pub fn new_in(base: &Path) -> Self {
        remove_ownerless(base);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base);
        let directory = directory.expect("a temporary directory");
        // Tests work as other users too.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
        // Locked first, named after: under its name it is never seen unlocked while we live.
        let unnamed = directory.path().join("new.lock");
        let owner = File::create(&unnamed).expect("a lock file");
        owner.lock().expect("a lock nobody else wants");
        fs::rename(&unnamed, directory.path().join(LOCK_FILE)).expect("a name for the lock");
        Scratch { directory: Some(directory), _owner: owner }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("there until dropped").path()
    }

    /// A new, empty subdirectory that every user may enter.
    pub fn subdirectory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let directory = self.directory.take().expect("dropped once");
        // Never walk into something still mounted: it may hang, and it hides what was forgotten.
        let mounts = leftovers::mounts_below(directory.path());
        if mounts.is_empty() {
            let path = directory.path().to_path_buf();
            if let Err(error) = directory.close() {
                eprintln!("cannot remove {}: {error}", path.display());
            }
        } else {
            eprintln!("still mounted, so left in place: {mounts:?}");
            let _ = directory.keep();
        }
    }
}

/// Unmounts `mount_point`: tries again while it is busy, and at last detaches it. False when it had
/// to be detached.
pub fn unmount_patiently(mount_point: &Path, patience: Duration) -> bool {
    let clean = run::poll(patience, || unmount(mount_point, UnmountFlags::empty()).ok()).is_some();
    if !clean {
        // A mount that is not there any more fails both ways, and that is fine.
        return unmount(mount_point, UnmountFlags::DETACH).is_err();
    }
    true
}

/// Takes apart what killed test runs left in `base`.
fn remove_ownerless(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(PREFIX)
    });
    // The locks are held to the end: nobody else sets about the same directories.
    let ownerless = directories.filter_map(|path| {
        let lock = File::open(path.join(LOCK_FILE)).ok()?;
        lock.try_lock().ok()?;
        Some((path, lock))
    });
    let ownerless: Vec<_> = ownerless.collect();
    for (path, _) in &ownerless {
        eprintln!("removing {}, left by a test run that was killed", path.display());
        // lanefs before what it stands on, which is busy until then.
        let mounts = leftovers::mounts_below(path);
        for mount_point in mounts.iter().filter(|at| leftovers::is_lanefs(at)) {
            unmount_patiently(mount_point, UNMOUNT_DEADLINE);
        }
    }
    for (path, _) in &ownerless {
        take_apart(path);
    }
}

fn take_apart(directory: &Path) {
    for mount_point in leftovers::mounts_below(directory).iter().rev() {
        unmount_patiently(mount_point, UNMOUNT_DEADLINE);
    }
    for device in leftovers::loop_devices_below(directory) {
        let _ = run::run(Command::new("losetup").arg("-d").arg(device), UNMOUNT_DEADLINE);
    }
    if leftovers::mounts_below(directory).is_empty() {
        let _ = fs::remove_dir_all(directory);
    }
}

/// True when `directory` lies on a filesystem with `room_mib` to spare and some more.
pub fn has_room(directory: &Path, room_mib: u64) -> bool {
    let stat = rustix::fs::statvfs(directory);
    stat.is_ok_and(|stat| stat.f_bavail * stat.f_frsize / (1 << 20) >= room_mib + 512)
}
