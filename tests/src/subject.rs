//! What a test works on: lanefs over a fresh ext4, or, for comparison, that ext4 alone.
//!
//! On one filesystem lie two directories: `tree`, which lanefs mounts, and `plain`, which it does
//! not. Tests that compare do the same in both. With `LANEFS_TEST_SUBJECT=bare` there is no lanefs
//! and [`Subject::path`] is `tree` itself: what fails then is not lanefs' fault.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::loopfs::LoopFs;
use crate::mounted::{DEFAULT_OPTIONS, Mounted};

/// True when the tests run without lanefs.
pub fn is_bare() -> bool {
    std::env::var_os("LANEFS_TEST_SUBJECT").is_some_and(|value| value == "bare")
}

/// A directory to test in, and what it lies on.
pub struct Subject {
    tree: PathBuf,
    plain: PathBuf,
    // The mount goes before the filesystem below it: fields are dropped in this order.
    mounted: Option<Mounted>,
    filesystem: LoopFs,
}

impl Subject {
    /// lanefs with the default options of the tests over a fresh ext4.
    #[track_caller]
    pub fn ext4(size_mib: u64) -> Self {
        Self::over(LoopFs::ext4(size_mib), |tree| Mounted::new(tree, DEFAULT_OPTIONS))
    }

    /// The same with the image in memory: what syncs cost does not matter to the test.
    #[track_caller]
    pub fn ext4_in_memory(size_mib: u64) -> Self {
        Self::over(LoopFs::ext4_in_memory(size_mib), |tree| Mounted::new(tree, DEFAULT_OPTIONS))
    }

    /// lanefs over `filesystem`, mounted by `mount` (not called when the tests run bare).
    #[track_caller]
    pub fn over(filesystem: LoopFs, mount: impl FnOnce(&Path) -> Mounted) -> Self {
        let [tree, plain] = ["tree", "plain"].map(|name| {
            let path = filesystem.path().join(name);
            fs::create_dir(&path).expect("a directory on a fresh filesystem");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
            path
        });
        let mounted = (!is_bare()).then(|| mount(&tree));
        Subject { tree, plain, mounted, filesystem }
    }

    /// The directory under test: the mount point, or the tree itself when bare.
    pub fn path(&self) -> &Path {
        self.mounted.as_ref().map_or(&self.tree, Mounted::path)
    }

    /// The backing directory of the mount.
    pub fn backing(&self) -> &Path {
        &self.tree
    }

    /// A directory on the same filesystem that lanefs has nothing to do with.
    pub fn plain(&self) -> &Path {
        &self.plain
    }

    /// The mount; `None` when bare.
    pub fn mounted(&self) -> Option<&Mounted> {
        self.mounted.as_ref()
    }

    /// Kills the daemon, as a crash would; returns its mount point, dead now.
    #[track_caller]
    pub fn kill_daemon(&mut self) -> Option<PathBuf> {
        let mounted = self.mounted.as_mut()?;
        mounted.kill_daemon();
        Some(mounted.path().to_path_buf())
    }

    /// The filesystem and its device.
    pub fn filesystem(&self) -> &LoopFs {
        &self.filesystem
    }

    /// Ends the mount, properly; [`Subject::path`] is then the backing directory.
    #[track_caller]
    pub fn unmount(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount();
        }
    }

    /// Mounts again after [`Subject::unmount`].
    #[track_caller]
    pub fn mount_again(&mut self) {
        assert!(self.mounted.is_none(), "mounted already");
        self.mounted = (!is_bare()).then(|| Mounted::new(&self.tree, DEFAULT_OPTIONS));
    }
}
