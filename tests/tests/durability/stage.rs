//! A mount over a disk that loses power, and what is left of it then.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tests::disk::{Choice, Disk, DiskMount, DiskOptions, Image, Position, Record, chosen_image};
use tests::filesystem::Filesystem;
use tests::powercut::daemon::Daemon;
use tests::powercut::recovery::{Recovery, Way};
use tests::scratch::Scratch;

/// Dropped in the order of the fields.
pub struct Stage {
    lanefs: Option<Daemon>,
    mounted: Option<DiskMount>,
    _scratch: Scratch,
    pub disk: Disk,
    filesystem: Filesystem,
    options: String,
}

impl Stage {
    /// A fresh filesystem with a mount of its directory `tree`.
    pub fn new(filesystem: Filesystem, options: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::with_words(filesystem, options, prepare, |_| Vec::new())
    }

    /// The same with more words for `lanefs mount`, which may need the mount point.
    pub fn with_words(
        filesystem: Filesystem,
        options: &str,
        prepare: impl FnOnce(&Path),
        words: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> Self {
        let disk = Disk::new(DiskOptions::new(filesystem.size_mib())).expect("a disk");
        filesystem.make(disk.path());
        let scratch = Scratch::new(0);
        let place = scratch.subdirectory("fs");
        let mounted = disk.mount_at(&place, filesystem.kernel_name(), "").expect("a filesystem");
        let tree = place.join("tree");
        std::fs::create_dir(&tree).expect("mkdir");
        prepare(&tree);
        rustix::fs::syncfs(std::fs::File::open(&place).expect("the filesystem")).expect("syncfs");
        let options = format!("allow_other,dev,{options}");
        let lanefs = Daemon::mount_with(&tree, &options, words).expect("a mount");
        disk.forget_durable();
        let (lanefs, mounted) = (Some(lanefs), Some(mounted));
        Stage { lanefs, mounted, _scratch: scratch, disk, filesystem, options }
    }

    pub fn root(&self) -> &Path {
        self.daemon().path()
    }

    /// The directory that is mounted.
    pub fn backing(&self) -> PathBuf {
        self.mounted.as_ref().expect("mounted").path().join("tree")
    }

    pub fn daemon(&self) -> &Daemon {
        self.lanefs.as_ref().expect("mounted")
    }

    /// Ends the mount; gives what the disk has seen, for cuts.
    pub fn end(self) -> Ended {
        self.end_with_position().0
    }

    /// The same with the position when the mount had ended, and nothing but it.
    pub fn end_with_position(mut self) -> (Ended, Position) {
        self.lanefs.take().expect("mounted").unmount().expect("an end");
        let last = self.disk.position();
        self.mounted = None;
        let record = self.disk.record();
        self.disk.check().unwrap_or_else(|difference| panic!("{difference}"));
        let fence = if self.options.contains("fence=backing") { "backing" } else { "log" };
        let recovery = Recovery::new(fence, &self.options);
        let options = DiskOptions::new(self.filesystem.size_mib()).unrecorded();
        let disk = RefCell::new(Disk::new(options).expect("a disk"));
        (Ended { record, filesystem: self.filesystem, recovery, disk }, last)
    }
}

/// What is known of a run.
pub struct Ended {
    record: Record,
    filesystem: Filesystem,
    recovery: Recovery,
    /// Serves one image after another.
    disk: RefCell<Disk>,
}

impl Ended {
    /// Judges what a cut at `position` leaves that takes everything that was not flushed.
    pub fn after_cut<T>(&self, position: Position, look: impl FnOnce(&Path) -> T) -> T {
        let image = chosen_image(&self.record, position, 0, Choice::None).image;
        self.look_at(image, look)
    }

    fn look_at<T>(&self, image: Image, look: impl FnOnce(&Path) -> T) -> T {
        let mut disk = self.disk.borrow_mut();
        disk.load(image).expect("an image");
        let scratch = Scratch::new(0);
        let place: PathBuf = scratch.subdirectory("fs");
        let mounted = disk.mount_at(&place, self.filesystem.kernel_name(), "").expect("a mount");
        let tree = place.join("tree");
        if self.recovery.wants(&tree) {
            drop(self.recovery.run(&tree, Way::Command).expect("a recovery"));
        }
        let seen = look(&tree);
        drop(mounted);
        seen
    }
}
