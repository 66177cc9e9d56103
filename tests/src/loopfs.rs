//! A filesystem of one's own on a loop device.
//!
//! The root filesystem of a test machine is whatever it is (here: ext4 without a journal). Tests
//! want to know what they stand on, to count the flushes of *their* device, and to leave nothing
//! behind; so each makes its own image, device and mount, and takes them down in the opposite
//! order, with patience: a device stays busy for a moment after its filesystem is gone.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

/// Which filesystem.
pub use crate::filesystem::Filesystem as Kind;
use crate::filesystem::Making;
use crate::scratch::{self, Scratch, unmount_patiently};
use crate::{leftovers, run};

const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const BUSY_DEADLINE: Duration = Duration::from_secs(15);

/// A mounted filesystem on a loop device; dropped, it is gone.
pub struct LoopFs {
    device: String,
    mount_point: PathBuf,
    kind: Kind,
    // Last: the directory goes when everything in it is down.
    scratch: Scratch,
}

/// How to make a [`LoopFs`].
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The filesystem.
    pub kind: Kind,
    /// Size of the (sparse) image.
    pub size_mib: u64,
    /// Image in `/dev/shm` if there is room: fast, but a flush costs nothing there.
    pub in_memory: bool,
    /// Room for this many files (ext4 decides it once and for all; others grow).
    pub inodes: Option<u64>,
}

impl LoopFs {
    /// ext4 on an image of this size.
    #[track_caller]
    pub fn ext4(size_mib: u64) -> Self {
        Self::new(Recipe { kind: Kind::Ext4, size_mib, in_memory: false, inodes: None })
    }

    /// ext4 in memory if there is room: for tests that sync much and do not care what it costs.
    #[track_caller]
    pub fn ext4_in_memory(size_mib: u64) -> Self {
        Self::new(Recipe { kind: Kind::Ext4, size_mib, in_memory: true, inodes: None })
    }

    /// XFS on an image of this size.
    #[track_caller]
    pub fn xfs(size_mib: u64) -> Self {
        Self::new(Recipe { kind: Kind::Xfs, size_mib, in_memory: false, inodes: None })
    }

    /// btrfs on an image of this size.
    #[track_caller]
    pub fn btrfs(size_mib: u64) -> Self {
        Self::new(Recipe { kind: Kind::Btrfs, size_mib, in_memory: false, inodes: None })
    }

    /// This filesystem on an image whose every block was written beforehand, so that writing costs
    /// the filesystem below no allocation; and with direct I/O. As near to a disk as a file can be.
    ///
    /// # Panics
    /// The filesystem below has no direct I/O.
    #[track_caller]
    pub fn prewritten(kind: Kind, size_mib: u64) -> Self {
        let recipe = Recipe { kind, size_mib, in_memory: false, inodes: None };
        let this = Self::build(recipe, true);
        let direct = fs::read_to_string(this.of_device("loop/dio"));
        assert!(direct.is_ok_and(|flag| flag.trim() == "1"), "{}: no direct I/O", this.device);
        this
    }

    /// Whatever the recipe says.
    #[track_caller]
    pub fn new(recipe: Recipe) -> Self {
        Self::build(recipe, false)
    }

    #[track_caller]
    fn build(recipe: Recipe, prewritten: bool) -> Self {
        let memory = Path::new("/dev/shm");
        let in_memory = recipe.in_memory && scratch::has_room(memory, recipe.size_mib);
        let scratch = match in_memory {
            true => Scratch::new_in(memory),
            false => Scratch::new(recipe.size_mib),
        };
        let image = scratch.path().join("image");
        let mut file = fs::File::create(&image).expect("an image file");
        file.set_len(recipe.size_mib << 20).expect("a sparse image");
        if prewritten {
            let zeros = vec![0; 1 << 20];
            (0..recipe.size_mib).try_for_each(|_| file.write_all(&zeros)).expect("room for it");
            file.sync_all().expect("a written image");
        }
        let Recipe { kind, inodes, .. } = recipe;
        let making = Making { inodes, keep_blocks: prewritten, ..Making::default() };
        kind.make_as(&image, making);
        Self::on(scratch, kind, kind.quiet_options())
    }

    /// What a power cut would leave now that spared the disk's cache, on a device of its own: a
    /// copy. Nobody may be at work here meanwhile.
    #[track_caller]
    pub fn after_power_cut(&self) -> Self {
        let scratch = Scratch::new(0);
        let image = scratch.path().join("image");
        let mut command = Command::new("cp");
        command.arg("--sparse=always").arg(self.scratch().join("image")).arg(&image);
        run::run(&mut command, TOOL_DEADLINE).expect_success();
        Self::on(scratch, self.kind, self.kind.image_options())
    }

    // Mounts the image in this directory.
    #[track_caller]
    fn on(scratch: Scratch, kind: Kind, options: &str) -> Self {
        let image = scratch.path().join("image");
        let mount_point = scratch.subdirectory("fs");
        // From here on `Drop` cleans up, also when mounting fails.
        let this = LoopFs { device: attach(&image), mount_point, kind, scratch };
        let options = CString::new(options).expect("no zero in it");
        let options = Some(options).filter(|options| !options.is_empty());
        let (name, flags) = (kind.kernel_name(), MountFlags::empty());
        mount(&this.device, &this.mount_point, name, flags, options.as_deref())
            .unwrap_or_else(|error| panic!("mount {name} on {}: {error}", this.device));
        this
    }

    /// The root of the filesystem.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The block device, such as `/dev/loop3`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The directory that holds image and mount point; for [`leftovers::below`].
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Flush requests that the device completed so far.
    pub fn flushes(&self) -> u64 {
        self.statistic(16)
    }

    /// Write requests that the device completed so far.
    pub fn writes(&self) -> u64 {
        self.statistic(5)
    }

    // Field numbers as in the kernel's Documentation/block/stat.rst, counted from one.
    fn statistic(&self, field: usize) -> u64 {
        let path = self.of_device("stat");
        let line = fs::read_to_string(path).expect("the statistics of our device");
        let value = line.split_whitespace().nth(field - 1);
        value
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no field {field}: {line}"))
    }

    fn of_device(&self, file: &str) -> PathBuf {
        Path::new("/sys/block").join(&self.device["/dev/".len()..]).join(file)
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if leftovers::is_mounted(&self.mount_point)
            && !unmount_patiently(&self.mount_point, BUSY_DEADLINE)
        {
            eprintln!("{} stayed busy and was detached", self.mount_point.display());
        }
        let _ = run::run(Command::new("losetup").args(["-d", &self.device]), TOOL_DEADLINE);
        // Detaching is lazy: the image is free only when the device let go of it.
        let gone = || leftovers::loop_devices_below(self.scratch()).is_empty().then_some(());
        if run::poll(BUSY_DEADLINE, gone).is_none() {
            eprintln!("{} is still attached", self.device);
        }
    }
}

// Direct I/O spares caching everything twice; where the image's filesystem cannot do it the kernel
// falls back by itself, and where losetup is too old we ask without it. Two processes may reach for the same free
// device: the loser tries again.
fn attach(image: &Path) -> String {
    let attempt = |direct: bool| {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]);
        if direct {
            command.arg("--direct-io=on");
        }
        run::run(command.arg(image), TOOL_DEADLINE)
    };
    let mut last = String::new();
    let device = run::poll(BUSY_DEADLINE, || {
        [true, false].into_iter().find_map(|direct| {
            let outcome = attempt(direct);
            last = outcome.describe();
            outcome.status.success().then(|| outcome.stdout.trim().to_owned())
        })
    });
    device.unwrap_or_else(|| panic!("no loop device: {last}"))
}
