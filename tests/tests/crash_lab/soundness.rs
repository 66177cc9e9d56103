//! The models against the kernels: what a power cut leaves of a real ext4, XFS or btrfs must be
//! something that its model allows.
//!
//! A random program of few operations is recorded once, which gives the model's set. Then it runs on
//! the real filesystem on a disk that loses power (`tests::disk`), while others write pages back and
//! end transactions at random moments; each crash image is mounted, and `crash-test explain` has to
//! find a legal crash that leaves the directory so, at the time of the cut.
//!
//! `LANEFS_SOUNDNESS_IMAGES=1000` for a campaign.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::Advice;
use tests::disk::{CrashImage, CrashImages, Disk, DiskOptions, Position, Tearing, for_each_image};
use tests::filesystem::Filesystem;
use tests::muddle::{Kind, Muddle};
use tests::random::Random;
use tests::require;

use super::lab::Lab;

const OPERATIONS: usize = 12;
const IMAGES_OF_A_PROGRAM: usize = 12;
/// From 512 MiB on mkfs gives ext4 blocks of 4 KiB, as the models have them.
const DISK_MIB: u64 = 640;

fn images_wanted() -> usize {
    let wanted = std::env::var("LANEFS_SOUNDNESS_IMAGES").ok();
    wanted.map_or(60, |text| text.parse().expect("LANEFS_SOUNDNESS_IMAGES is a number"))
}

#[test]
fn ext4() {
    sound(Filesystem::Ext4, "", "ext4-strict");
}

// As it was by default before Linux 5.6: commits wait for the bytes that they give a place.
#[test]
fn ext4_with_ordered_data() {
    sound(Filesystem::Ext4, ",dioread_lock", "ext4");
}

#[test]
fn xfs() {
    sound(Filesystem::Xfs, "", "xfs");
}

#[test]
fn btrfs() {
    sound(Filesystem::Btrfs, "", "btrfs");
}

/// What images showed.
#[derive(Default)]
struct Tally {
    explained: AtomicUsize,
    too_many: AtomicUsize,
    forbidden: Mutex<Vec<String>>,
}

fn sound(filesystem: Filesystem, option: &str, model: &str) {
    if !require::mount_support() {
        return;
    }
    let tally = Tally::default();
    let mut seed = 1;
    while tally.explained.load(Ordering::Relaxed) < images_wanted() {
        one_program(filesystem, option, model, seed, &tally);
        seed += 1;
        assert!(seed < 20 * images_wanted() as u64, "too few programs are small enough");
    }
    let (explained, too_many) =
        (tally.explained.load(Ordering::Relaxed), tally.too_many.load(Ordering::Relaxed));
    let forbidden = tally.forbidden.into_inner().expect("no panic");
    println!(
        "{} under {model}: {explained} images of {} programs allowed, {} not; {too_many} with too \
         many crashes to list",
        filesystem.name(),
        seed - 1,
        forbidden.len()
    );
    assert!(forbidden.is_empty(), "{}", forbidden.join("\n"));
}

fn one_program(filesystem: Filesystem, option: &str, model: &str, seed: u64, tally: &Tally) {
    let lab = Lab::new();
    let recording = lab.beside("x.crash", "");
    let out = recording.to_str().expect("plain text");
    let (muddle, number) = (env!("CARGO_BIN_EXE_muddle"), seed.to_string());
    let count = OPERATIONS.to_string();
    let few = ["--out", out, "--model", "seq", "--max-states", "1", "--check", "true", "--"];
    let arguments: Vec<&str> = few.into_iter().chain([muddle, &number, &count, "small"]).collect();
    lab.run(&arguments).expect_success();

    let disk = Disk::new(DiskOptions::new(DISK_MIB)).expect("a disk");
    filesystem.make(disk.path());
    let (positions, record) = {
        let options = filesystem.quiet_options().to_owned() + option;
        let mount = disk.mount(filesystem.kernel_name(), &options).expect("mount");
        let directory = mount.path().join("t");
        fs::create_dir(&directory).expect("mkdir");
        fs::create_dir(mount.path().join("noise")).expect("mkdir");
        File::open(mount.path()).expect("open").sync_all().expect("fsync");
        rustix::fs::syncfs(File::open(mount.path()).expect("open")).expect("syncfs");
        let mut positions = vec![disk.position()];
        let mut noise = Noise::new(mount.path(), seed);
        Muddle::new(&directory, seed, Kind::Small).run(OPERATIONS, |_| {
            positions.push(disk.position());
            noise.make(&directory);
        });
        (positions, disk.record())
    };
    disk.check().expect("a record that is the disk");
    // A block is torn or not: the models' tears are another matter.
    let record =
        record.with_tearing(Tearing::sparing_superblock(filesystem.kernel_name()).unit(4096));
    let images = CrashImages::new(&record, positions[0], seed).take(IMAGES_OF_A_PROGRAM);
    let options = DiskOptions::new(DISK_MIB).unrecorded();
    let visit = |disk: &Disk, crash: &CrashImage| {
        let case = format!("seed {seed}, image {} {}", crash.position.0, crash.seed);
        let place = Place { lab: &lab, recording: &recording, model };
        place.judge(disk, filesystem, crash, &positions, &case, tally);
    };
    for_each_image(images, filesystem.benches_max().min(2), options, visit).expect("disks");
}

struct Place<'a> {
    lab: &'a Lab,
    recording: &'a Path,
    model: &'a str,
}

impl Place<'_> {
    fn judge(
        &self,
        disk: &Disk,
        filesystem: Filesystem,
        crash: &CrashImage,
        positions: &[Position],
        case: &str,
        tally: &Tally,
    ) {
        let mount = disk.mount(filesystem.kernel_name(), filesystem.image_options());
        let mount = mount.unwrap_or_else(|error| panic!("{case}: {error}"));
        // Operations that were done at the cut: each noted with the position after it.
        let told = positions[1..].iter().filter(|position| **position <= crash.position).count();
        let directory: PathBuf = mount.path().join("t");
        let (recording, directory) = (self.recording.display(), directory.display());
        let (recording, directory) = (recording.to_string(), directory.to_string());
        let arguments =
            ["explain", &recording, &directory, "--model", self.model, "--told", &told.to_string()];
        let outcome = self.lab.run(&arguments);
        match outcome.status.code() {
            Some(0) => {
                tally.explained.fetch_add(1, Ordering::Relaxed);
            }
            Some(1) => {
                let mut text = format!("{case}, after {told} operations: {}", outcome.stdout);
                for entry in list(Path::new(&directory)) {
                    text += &format!("    {entry}\n");
                }
                text += &self.lab.run(&["show", &recording]).stdout;
                tally.forbidden.lock().expect("no panic").push(text);
            }
            Some(3) if outcome.stderr.contains("too many crashes") => {
                tally.too_many.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{case}: {}", outcome.describe()),
        }
    }
}

fn list(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            lines.extend(list(&path));
            continue;
        }
        let mut content = fs::read(&path).unwrap_or_default();
        let bytes = content.len();
        content.dedup();
        let content = String::from_utf8_lossy(&content).replace('\0', "0");
        lines.push(format!("{} {bytes} bytes: {content}", path.display()));
    }
    lines
}

/// What else goes on on the filesystem: pages are written back, transactions end.
struct Noise {
    random: Random,
    top: PathBuf,
    count: usize,
}

impl Noise {
    fn new(top: &Path, seed: u64) -> Self {
        Noise { random: Random::new(seed ^ 0x5eed), top: top.to_owned(), count: 0 }
    }

    fn make(&mut self, directory: &Path) {
        match self.random.below(6) {
            // The bytes of some file, without its name or length.
            0 | 1 => {
                let files = fs::read_dir(directory).into_iter().flatten().flatten();
                for entry in files {
                    if self.random.below(2) == 0
                        && entry.file_type().is_ok_and(|kind| kind.is_file())
                        && let Ok(file) = File::open(entry.path())
                    {
                        let _ = write_back(&file);
                    }
                }
            }
            // A transaction with all names, and no bytes but its own.
            2 => {
                self.count += 1;
                let path = self.top.join("noise").join(self.count.to_string());
                let _ = File::create(path).and_then(|file| file.sync_all());
            }
            // Time for what the kernel has begun.
            3 => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
}

/// Begins to write a file's pages.
fn write_back(file: &File) -> rustix::io::Result<()> {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)
}
