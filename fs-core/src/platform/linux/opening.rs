//! Opening a backing directory, and what is known of it from then on.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::caller::Privileges;
use super::device_flush::DeviceFlush;
use super::extents::XfsTrees;
use super::object::{self, FdCache};
use super::{FenceMechanism, Inherited, LinuxBacking, OpenError, fence, mount_clone};
use crate::error::Errno;
use crate::types::Caller;

pub(super) const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// How to open a backing directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackingOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Leave access times alone.
    pub no_atime: bool,
    /// Pin every known object by a descriptor even where file handles work;
    /// what an unprivileged daemon must do, here to be tested as root too.
    pub pin_objects: bool,
    /// Most descriptors that are kept open between operations; `None` for a
    /// quarter of the process's limit, 4096 at most.
    pub cached_fds_max: Option<usize>,
    /// How groups are made durable.
    pub mechanism: FenceMechanism,
    /// The threads belong to a program that uses the engine as a library. They keep
    /// their ids, umask and capabilities; the directory is used through the mount by
    /// which it was named, and other filesystems below it are refused (`EXDEV`).
    pub as_library: bool,
}

impl LinuxBacking {
    /// Opens `path` and takes the advisory lock (`flock(2)` on the directory),
    /// which is released when the value is dropped.
    ///
    /// # Errors
    /// See [`OpenError`]; each names its cause and the remedy.
    pub fn open(path: &Path, options: BackingOptions) -> std::result::Result<Self, OpenError> {
        let io = |source: Errno| OpenError::Io { path: path.to_owned(), source };
        if !Path::new("/proc/self/fd").is_dir() {
            return Err(OpenError::NoProc);
        }
        let original = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| match e {
            rustix::io::Errno::NOENT => OpenError::Missing(path.to_owned()),
            rustix::io::Errno::NOTDIR => OpenError::NotADirectory(path.to_owned()),
            other => io(other.into()),
        })?;
        let privileges =
            if options.as_library { Privileges::guest() } else { Privileges::detect() };
        let root = mount_clone::private_root(&original, privileges, options).map_err(io)?;
        Self::on(path, (root, original), privileges, options, None)
    }

    /// The backing directory of the program that this one has replaced, by its descriptors
    /// ([`Self::descriptors`]). The lock goes with them.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn resume(
        path: &Path,
        (root, original): (i32, i32),
        inherited: Inherited,
        options: BackingOptions,
    ) -> std::result::Result<Self, OpenError> {
        let io = |source: Errno| OpenError::Io { path: path.to_owned(), source };
        let doors = (inherited.get(root).map_err(io)?, inherited.get(original).map_err(io)?);
        Self::on(path, doors, Privileges::detect(), options, Some(inherited))
    }

    fn on(
        path: &Path,
        (root, original): (OwnedFd, OwnedFd),
        privileges: Privileges,
        options: BackingOptions,
        inherited: Option<Inherited>,
    ) -> std::result::Result<Self, OpenError> {
        let io = |source: Errno| OpenError::Io { path: path.to_owned(), source };
        rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).map_err(
            |e| match e {
                rustix::io::Errno::WOULDBLOCK => OpenError::Locked(path.to_owned()),
                other => io(other.into()),
            },
        )?;
        let stat = rustix::fs::fstatfs(&root).map_err(|e| io(e.into()))?;
        let device = rustix::fs::fstat(&root).map_err(|e| io(e.into()))?.st_dev;
        let handles = !options.pin_objects && object::handles_work(&root);
        // The type of f_type differs between targets; the bits do not.
        let magic = stat.f_type as u64;
        let is_xfs = magic == fence::XFS_MAGIC;
        let xfs = is_xfs.then(|| XfsTrees::of(root.as_fd())).flatten();
        Ok(Self {
            root: Arc::new(root),
            original,
            cache: FdCache::new(options.cached_fds_max),
            privileges,
            handles,
            options,
            magic,
            xfs,
            device,
            device_flush: DeviceFlush::default(),
            exact_times: OnceLock::new(),
            delays_allocation: OnceLock::new(),
            inherited,
        })
    }

    /// The descriptors by which [`Self::resume`] finds the directory again.
    #[must_use]
    pub fn descriptors(&self) -> (i32, i32) {
        (self.root.as_raw_fd(), self.original.as_raw_fd())
    }

    /// Opens `path` for a program that uses the engine as a library.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as_library(path: &Path) -> std::result::Result<Self, OpenError> {
        Self::open(path, BackingOptions { as_library: true, ..BackingOptions::default() })
    }

    /// The process itself as a caller, for a program that uses the engine as a library.
    #[must_use]
    pub fn own_caller(&self) -> Caller {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Caller { uid: uid.as_raw(), gid: gid.as_raw(), thread: 0 }
    }

    /// Lets another daemon serve the directory, before this value is dropped:
    /// for a daemon that has flushed everything and is about to end.
    pub fn release_lock(&self) {
        if let Err(error) = rustix::fs::flock(&*self.root, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot release the lock on the backing directory");
        }
    }

    /// Name of the backing filesystem's type, for people.
    #[must_use]
    pub fn filesystem_name(&self) -> &'static str {
        match self.magic {
            fence::EXT4_MAGIC => "ext4",
            fence::XFS_MAGIC => "xfs",
            fence::BTRFS_MAGIC => "btrfs",
            0x0102_1994 => "tmpfs",
            fence::FUSE_MAGIC => "fuse",
            OVERLAY_MAGIC => "overlay",
            0x6969 => "nfs",
            0xf2f5_2010 => "f2fs",
            _ => "other",
        }
    }

    /// Whether the backing filesystem is itself stacked on another one
    /// (overlayfs): the kernel counts that for FUSE passthrough.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        self.magic == OVERLAY_MAGIC
    }

    /// Whether objects are known by file handle (else each costs a descriptor).
    #[must_use]
    pub fn uses_handles(&self) -> bool {
        self.handles
    }

    /// Whether created files can be given to the caller (needs root's
    /// capabilities); else they belong to the daemon's user.
    #[must_use]
    pub fn can_impersonate(&self) -> bool {
        self.privileges.full
    }
}
