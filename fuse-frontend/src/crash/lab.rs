//! Where the lab works: a mount namespace of its own with a scratch directory in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use super::children::Children;
use crate::failure::Failure;

/// The lab's place on this machine.
pub struct Lab {
    scratch: PathBuf,
    made: AtomicUsize,
    children: Arc<Children>,
}

impl Lab {
    /// Enters namespaces of our own and makes the scratch directory. Has to run while the
    /// process has one thread: without root it takes a user namespace.
    ///
    /// # Errors
    /// The system does not allow it; the message says what helps.
    pub fn enter() -> Result<Self, Failure> {
        enter_namespaces()?;
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot make a scratch directory: {error}"))
        };
        let scratch = tempfile::Builder::new().prefix("lanefs-crash-").tempdir().map_err(failed)?;
        let scratch = scratch.keep();
        mount_memory(&scratch)
            .map_err(|error| Failure::new(format!("cannot mount a tmpfs for scratch: {error}")))?;
        let children = Arc::new(Children::default());
        let lab = Self { scratch, made: AtomicUsize::new(0), children };
        lab.children.end_at_signals(lab.scratch.clone())?;
        Ok(lab)
    }

    /// The processes that end with the lab.
    #[must_use]
    pub fn children(&self) -> Arc<Children> {
        Arc::clone(&self.children)
    }

    /// A new directory in memory, gone with the lab.
    ///
    /// # Errors
    /// Memory is full.
    pub fn new_directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.directory(&format!("{name}-{number}"))
    }

    fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path).map_err(|error| {
            Failure::new(format!("cannot make {} in memory: {error}", path.display()))
        })?;
        Ok(path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        take_down(&self.scratch);
    }
}

/// Takes the scratch directory away, whatever is in it.
pub(super) fn take_down(scratch: &Path) {
    let _ = nix::mount::umount2(scratch, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(scratch);
}

/// Mounts an empty filesystem in memory.
pub(super) fn mount_memory(at: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    nix::mount::mount(Some("lanefs-crash"), at, Some("tmpfs"), flags, Some("mode=755"))
}

/// Shows `what` at `at`, too.
pub(super) fn bind(what: &Path, at: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    nix::mount::mount(Some(what), at, none, MsFlags::MS_BIND, none)
}

/// Gives the calling thread a copy of all mounts, which it may change for itself.
pub(super) fn own_mounts() -> nix::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

fn enter_namespaces() -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return own_mounts().map_err(|error| {
            Failure::new(format!(
                "cannot make a mount namespace: {error}; in a container, `--cap-add SYS_ADMIN` helps"
            ))
        });
    }
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let refused = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "cannot make a user namespace: {error}; run as root, or allow it \
             (`sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000`)"
        ))
    };
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|error| refused(&error))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| refused(&error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{user} {user} 1"))?;
    write("gid_map", format!("{group} {group} 1"))?;
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| refused(&error))
}
