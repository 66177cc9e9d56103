//! What a log needs of the disk, on a real filesystem.
//!
//! The tests work in the directory that `LANEFS_TEST_DIRECTORY` names, the root
//! of a small ext4 or XFS on a device of its own, where nobody else works.
//! `cargo test -p tests --test log_platform` makes such filesystems and runs them.

#![cfg(target_os = "linux")]
// One range is what is expected.
#![allow(clippy::single_range_in_vec_init)]

use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fs_core::error::Errno;
use fs_core::log::probe;
use fs_core::platform::linux::{
    BackingOptions, DeviceContent, LinuxBacking, LinuxLog, LogPathError, inspect_device,
};
use fs_core::platform::{Backing, Fencer, LogBuffer, LogStore, OpenMode, WHOLE_FILE};
use fs_core::types::{Caller, NewMode, SetAttr};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const NEW: NewMode = NewMode { mode: 0o644, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const KIB: u64 = 1024;
const LOG_MAGIC: &[u8] = b"how a log begins";
const ALONE: &str = "needs a filesystem of its own: cargo test -p tests --test log_platform";

fn place() -> PathBuf {
    std::env::var_os("LANEFS_TEST_DIRECTORY").map_or_else(|| panic!("{ALONE}"), PathBuf::from)
}

/// A new directory below the place; the backing directory is the place itself,
/// whose lock one process has at a time.
struct Ground {
    backing: LinuxBacking,
    dir: <LinuxBacking as Backing>::Object,
    path: PathBuf,
}

impl Ground {
    fn new(name: &str) -> Self {
        let backing = LinuxBacking::open(&place(), BackingOptions::default()).expect(ALONE);
        let root = backing.root().expect("the root").object;
        let mode = NewMode { mode: 0o755, umask: 0 };
        let dir = backing.make_dir(ME, &root, OsStr::new(name), mode).expect("a directory").object;
        Self { backing, dir, path: place().join(name) }
    }

    fn create(&self, name: &str) -> <LinuxBacking as Backing>::File {
        self.create_found(name).1
    }

    fn create_found(
        &self,
        name: &str,
    ) -> (fs_core::platform::Found<LinuxBacking>, <LinuxBacking as Backing>::File) {
        let made = self.backing.create(ME, &self.dir, OsStr::new(name), NEW, READ_WRITE, true);
        let (found, file, _) = made.expect("a new file");
        (found, file)
    }

    fn write(&self, file: &<LinuxBacking as Backing>::File, range: Range<u64>) {
        let data = vec![b'x'; (range.end - range.start) as usize];
        let written = self.backing.write(ME, file, &data, range.start, false);
        assert_eq!(written, Ok(data.len()));
    }

    fn settled(&self, file: &<LinuxBacking as Backing>::File) -> Vec<Range<u64>> {
        self.backing.settled(file, WHOLE_FILE).expect("extents are told")
    }

    fn sync(&self, file: &<LinuxBacking as Backing>::File) {
        rustix::fs::fsync(file).expect("a sync");
    }

    fn block_bytes(&self) -> u64 {
        u64::from(self.backing.stats().expect("sizes").block_bytes)
    }

    fn is_xfs(&self) -> bool {
        self.backing.filesystem_name() == "xfs"
    }

    /// What the device did so far: bytes written, flushes.
    fn device_requests(&self) -> (u64, u64) {
        let device = self.backing.filesystem_id();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/dev/block/{major}:{minor}/stat");
        let line = std::fs::read_to_string(path).expect("statistics of the device");
        let field = |number: usize| {
            let value = line.split_whitespace().nth(number - 1).expect("a field");
            value.parse().expect("a number")
        };
        (field(7) * 512, field(16))
    }
}

/// XFS left the zeros behind the new end of a file that was cut within a block in the page cache. The cut
/// was durable with the next sync of anything, the zeros were not: after a power cut the file, which had
/// grown meanwhile, showed again what had been cut off.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_cut_within_a_block_leaves_nothing_to_be_written() {
    let ground = Ground::new("cut");
    let file = ground.create("file");
    ground.write(&file, 0..64 * KIB);
    ground.sync(&file);
    let object = ground.backing.lookup(&ground.dir, OsStr::new("file")).expect("a file").object;
    for (size, of) in [(2560, None), (1030, Some(&file))] {
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        let attr = ground.backing.set_attr(ME, &object, of, &change).expect("a cut");
        assert_eq!(attr.size, size);
        // ext4 writes them with the journal's commit, in front of it.
        if ground.is_xfs() {
            assert_eq!(ground.backing.unwritten_bytes(&file), Ok(0), "{size}");
        }
    }
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn settled_are_blocks_with_data() {
    let ground = Ground::new("settled");
    let file = ground.create("file");
    assert_eq!(ground.settled(&file), []);

    // Written, not allocated yet.
    ground.write(&file, 0..64 * KIB);
    assert_eq!(ground.settled(&file), []);
    ground.sync(&file);
    assert_eq!(ground.settled(&file), [0..64 * KIB]);

    // Appended behind a hole: the new bytes have no blocks.
    ground.write(&file, 128 * KIB..192 * KIB);
    assert_eq!(ground.settled(&file), [0..64 * KIB]);
    ground.sync(&file);
    assert_eq!(ground.settled(&file), [0..64 * KIB, 128 * KIB..192 * KIB]);

    // Allocated and unwritten; a block that ends in the middle is whole.
    let block = ground.block_bytes();
    ground.backing.allocate(ME, &file, 0, 192 * KIB, 64 * KIB).expect("room");
    assert_eq!(ground.settled(&file), [0..64 * KIB, 128 * KIB..192 * KIB]);
    ground.write(&file, 192 * KIB..192 * KIB + 100);
    assert_eq!(ground.settled(&file), [0..64 * KIB, 128 * KIB..192 * KIB]);
    ground.sync(&file);
    assert_eq!(ground.settled(&file), [0..64 * KIB, 128 * KIB..192 * KIB + block]);

    // An overwrite in place changes nothing, a hole does.
    ground.write(&file, 4 * KIB..5 * KIB);
    assert_eq!(ground.settled(&file), [0..64 * KIB, 128 * KIB..192 * KIB + block]);
    let punch = 0x02 | 0x01;
    ground.backing.allocate(ME, &file, punch, 16 * KIB, 16 * KIB).expect("a hole");
    let expected = [0..16 * KIB, 32 * KIB..64 * KIB, 128 * KIB..192 * KIB + block];
    assert_eq!(ground.settled(&file), expected);

    // What meets the bytes that are asked about is told, at least as far as they go.
    let within = 40 * KIB..130 * KIB;
    let asked = ground.backing.settled(&file, within.clone()).expect("extents are told");
    let clip = |range: Range<u64>| range.start.max(within.start)..range.end.min(within.end);
    let clipped: Vec<_> = asked.into_iter().map(clip).filter(|range| !range.is_empty()).collect();
    assert_eq!(clipped, [40 * KIB..64 * KIB, 128 * KIB..130 * KIB]);

    // A descriptor of any kind will do.
    let path = ground.path.join("file");
    let reader = std::fs::File::open(&path).expect("a file").into();
    let writer = std::fs::File::options().write(true).open(&path).expect("a file").into();
    assert_eq!(ground.settled(&reader), expected);
    assert_eq!(ground.settled(&writer), expected);
    println!("settled, 3 extents: {:?}", each(10_000, |_| drop(ground.settled(&file))));
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn what_waits_for_its_blocks_is_told() {
    let ground = Ground::new("delayed");
    let file = ground.create("file");
    let delayed = || ground.backing.delayed(&file, WHOLE_FILE).expect("extents are told");
    let unwritten = || ground.backing.unwritten_bytes(&file).expect("pages are told");
    println!("late blocks begin unwritten: {}", ground.backing.delays_allocation());
    // What is written at once is one folio of the page cache, which is written back whole.
    (0..16).for_each(|page| ground.write(&file, page * 4 * KIB..(page + 1) * 4 * KIB));
    assert_eq!(delayed(), [0..64 * KIB]);
    // Of nothing nothing is written.
    ground.backing.start_write_back_within(&file, 0..0).expect("there is no error");
    ground.backing.finish_write_back_within(&file, 0..0).expect("there is no error");
    assert_eq!((delayed(), unwritten()), (vec![0..64 * KIB], 64 * KIB));
    // A part.
    ground.backing.start_write_back_within(&file, 0..16 * KIB).expect("it starts");
    ground.backing.finish_write_back_within(&file, 0..16 * KIB).expect("it ends");
    assert_eq!(unwritten(), 48 * KIB);
    let allocated = ground.backing.allocated(&file, 0..16 * KIB).expect("extents are told");
    assert!(matches!(&allocated[..], [one] if one.start == 0 && one.end >= 16 * KIB));
    // XFS allocates the rest with it: unwritten, and waiting for nothing.
    let expected = if ground.is_xfs() { vec![] } else { vec![16 * KIB..64 * KIB] };
    assert_eq!(delayed(), expected);
    // What was allocated before, and what is overwritten.
    ground.sync(&file);
    ground.backing.allocate(ME, &file, 0, 64 * KIB, 64 * KIB).expect("room");
    ground.write(&file, 64 * KIB..128 * KIB);
    ground.write(&file, 0..4 * KIB);
    assert_eq!(delayed(), []);
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn write_back_settles_without_a_commit() {
    let ground = Ground::new("write_back");
    let file = ground.create("file");
    // What making it began is over.
    ground.sync(&file);
    ground.write(&file, 0..256 * KIB);
    let (_, flushes) = ground.device_requests();
    ground.backing.start_write_back(&file).expect("write-back starts");
    ground.backing.finish_write_back(&file).expect("write-back ends");
    assert_eq!(ground.settled(&file), [0..256 * KIB]);
    assert_eq!(ground.device_requests().1, flushes);
    assert_eq!(ground.backing.file_attr(&file).expect("attributes").size, 256 * KIB);
}

/// XFS writes a shared block elsewhere, and its neighbours with it, also when
/// they are not shared or not any more: none of them is settled.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn shared_blocks_are_not_settled() {
    let ground = Ground::new("shared");
    let (source, target) = (ground.create("source"), ground.create("target"));
    ground.write(&source, 0..256 * KIB);
    ground.sync(&source);
    if !ground.is_xfs() {
        assert_eq!(rustix::fs::ioctl_ficlone(&target, &source), Err(rustix::io::Errno::OPNOTSUPP));
        return;
    }
    assert_eq!(ground.settled(&source), [0..256 * KIB]);
    // One block in the middle is shared.
    let copied = ground.backing.copy_range(ME, (&source, 64 * KIB), (&target, 0), 4 * KIB);
    assert_eq!(copied, Ok(4 * KIB));
    ground.sync(&target);
    assert_eq!(ground.settled(&source), []);
    assert_eq!(ground.settled(&target), []);
    // They have data all the same.
    assert_eq!(ground.backing.allocated(&source, WHOLE_FILE), Ok(vec![0..256 * KIB]));
    assert_eq!(ground.backing.allocated(&target, WHOLE_FILE), Ok(vec![0..4 * KIB]));
    // Written, it is no longer shared; the room for its neighbours' copies stays.
    ground.write(&source, 64 * KIB..68 * KIB);
    ground.sync(&source);
    let told = rustix::fs::statx(
        &source,
        c"",
        rustix::fs::AtFlags::EMPTY_PATH,
        rustix::fs::StatxFlags::BASIC_STATS,
    );
    println!("blocks after the copy: {}", told.expect("attributes").stx_blocks);
    assert_eq!(ground.settled(&source), []);
    // A file that was never shared is not concerned.
    let other = ground.create("other");
    ground.write(&other, 0..8 * KIB);
    ground.sync(&other);
    assert_eq!(ground.settled(&other), [0..8 * KIB]);
}

/// A file with more extents than its inode has room for has blocks for a tree of them. Those looked like
/// room that is reserved for copies, so that nothing of it was settled: its syncs never used the log.
/// Still, no block of that room may be taken for one of the tree.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_tree_of_extents_hides_no_room_for_copies() {
    const PIECES: u64 = 60;
    let ground = Ground::new("trees");
    let (file, copy) = (ground.create("file"), ground.create("copy"));
    let piece = |number: u64| number * 128 * KIB..number * 128 * KIB + 64 * KIB;
    for number in 0..PIECES {
        ground.write(&file, piece(number));
    }
    ground.sync(&file);
    assert_eq!(ground.settled(&file).len() as u64, PIECES);
    if !ground.is_xfs() {
        return;
    }
    // One block in the middle was shared, and has been copied: room for its neighbours' copies stays.
    let shared = piece(PIECES / 2);
    let copied =
        ground.backing.copy_range(ME, (&file, shared.start + 8 * KIB), (&copy, 0), 4 * KIB);
    assert_eq!(copied, Ok(4 * KIB));
    ground.sync(&copy);
    assert_eq!(ground.settled(&file), []);
    ground.write(&file, shared.start + 8 * KIB..shared.start + 12 * KIB);
    ground.sync(&file);
    assert_eq!(ground.settled(&file), [], "its neighbours are going to move");
}

/// Very many extents: as many as are looked at, and no error.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_file_in_many_pieces() {
    let ground = Ground::new("pieces");
    let file = ground.create("file");
    for (pieces, cut_off) in [(0..600_u64, false), (600..5000, true)] {
        for piece in pieces.clone() {
            ground.write(&file, piece * 8 * KIB..piece * 8 * KIB + 100);
        }
        ground.sync(&file);
        let all = ground.backing.allocated(&file, WHOLE_FILE).expect("extents are told");
        assert_eq!(all.len() as u64, pieces.end);
        let start = Instant::now();
        let settled = ground.settled(&file);
        println!("{} pieces: {:?}", pieces.end, start.elapsed());
        if ground.is_xfs() {
            // Written in order, they fill the leaves of their tree. What was not looked at may move.
            assert_eq!(settled.len() as u64, if cut_off { 0 } else { pieces.end });
        } else {
            let expected = if cut_off { 4096 } else { pieces.end };
            assert_eq!(settled.len() as u64, expected);
            assert_eq!(
                settled.last(),
                Some(&((expected - 1) * 8 * KIB..(expected - 1) * 8 * KIB + ground.block_bytes()))
            );
        }
    }
}

/// chattr +j sends the bytes of one file through the journal of an ext4.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn journaled_data_is_not_settled() {
    // Before the backing: it takes CAP_SYS_RESOURCE from the thread, which chattr +j
    // needs (`ext4_ioctl_setflags`), and which a container may lack.
    let path = place().join("journaled");
    let file = std::fs::File::create_new(path).expect("a file").into();
    let flags = rustix::fs::ioctl_getflags(&file).expect("flags");
    let chattr = rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::JOURNALING);
    let ground = Ground::new("journaled-data");
    if ground.is_xfs() {
        return;
    }
    if let Err(error) = chattr {
        assert_eq!(error, rustix::io::Errno::PERM);
        println!("not tried: chattr +j is refused: {error}");
        return;
    }
    ground.write(&file, 0..64 * KIB);
    ground.sync(&file);
    assert_eq!(ground.settled(&file), []);
    assert_eq!(ground.backing.allocated(&file, WHOLE_FILE), Ok(vec![0..64 * KIB]));
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn objects_are_found_by_key_while_they_have_a_name() {
    let ground = Ground::new("keys");
    let (found, file) = ground.create_found("file");
    let key = found.key.portable();
    let again = ground.backing.by_key(&key).expect("it is there");
    assert_eq!((again.key, again.attr.ino), (found.key, found.attr.ino));
    let target = OsStr::new("target");
    let symlink = ground.backing.make_symlink(ME, &ground.dir, OsStr::new("symlink"), target);
    let symlink = symlink.expect("a symbolic link");
    let again = ground.backing.by_key(&symlink.key).expect("it is there");
    assert_eq!(ground.backing.read_link(&again.object).as_deref(), Ok(&b"target"[..]));
    let mode = NewMode { mode: 0o755, umask: 0 };
    let dir = ground.backing.make_dir(ME, &ground.dir, OsStr::new("d"), mode).expect("a directory");
    let held = ground.backing.open_dir(&dir.object).expect("it opens");
    ground.backing.by_key(&dir.key).expect("it is there");

    // Nameless but open.
    ground.backing.unlink(&ground.dir, OsStr::new("file")).expect("removed");
    assert_eq!(ground.backing.by_key(&key).err(), Some(Errno::STALE));
    ground.backing.remove_dir(&ground.dir, OsStr::new("d")).expect("removed");
    assert_eq!(ground.backing.by_key(&dir.key).err(), Some(Errno::STALE));
    // Gone, and its number given to another.
    drop((file, found, again, held));
    for i in 0..20 {
        ground.create(&format!("other{i}"));
    }
    assert_eq!(ground.backing.by_key(&key).err(), Some(Errno::STALE));
    let mut none = key;
    none.handle = ([0; 40], 0, 0);
    assert_eq!(ground.backing.by_key(&none).err(), Some(Errno::STALE));
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn marks_are_read_as_they_were_set() {
    let ground = Ground::new("marks");
    let file = ground.create("marker");
    for lsn in [0, 1, 999_999_999, 1_000_000_000, 1_234_567_890_123_456_789] {
        ground.backing.set_marker(&file, lsn).expect("a mark");
        assert_eq!(ground.backing.marker(&file), Ok(lsn));
    }
    println!(
        "set_marker: {:?}",
        each(10_000, |i| ground.backing.set_marker(&file, i).expect("a mark"))
    );
    println!("marker: {:?}", each(10_000, |_| assert!(ground.backing.marker(&file).is_ok())));
}

/// Kernels before 6.13 may say no; one that says yes must mean it.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn exact_times_are_exact() {
    let ground = Ground::new("times");
    let exact = ground.backing.has_exact_times();
    println!("exact times: {exact}");
    if !exact {
        return;
    }
    let file = ground.create("file");
    let mut times = Vec::new();
    for _ in 0..10_000 {
        ground.write(&file, 0..1);
        times.push(ground.backing.file_attr(&file).expect("attributes").ctime);
    }
    assert!(times.windows(2).all(|pair| pair[0] != pair[1]));
}

/// A mark, and a change of times in general, must not turn a flush into a commit.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_flush_of_the_device_is_one_flush_and_no_commit() {
    let ground = Ground::new("flush");
    let marker = ground.create("marker");
    ground.backing.fencer().commit().expect("a commit");
    // The first one commits.
    ground.backing.flush_device(&marker).expect("a flush");
    quiet(&ground);
    for lsn in 1..20 {
        let before = ground.device_requests();
        ground.backing.set_marker(&marker, lsn).expect("a mark");
        ground.create(&format!("file{lsn}"));
        ground.backing.flush_device(&marker).expect("a flush");
        let after = ground.device_requests();
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 1), "flush {lsn}");
    }
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_log_costs_one_write_and_one_flush() {
    let ground = Ground::new("log");
    let name = OsStr::new("log");
    let bytes = 8 * KIB * KIB;
    let mut told = 0;
    let log = ground.backing.make_log(&ground.dir, name, bytes, &mut |done| told = done);
    let log = log.expect("a log");
    assert_eq!(
        (told, log.bytes(), log.mechanism(), log.shares_device()),
        (bytes, bytes, "direct I/O", true)
    );
    // One owner.
    let second = ground.backing.open_log(&ground.dir, name);
    assert_eq!(second.err(), Some(Errno::WOULDBLOCK));
    drop(log);
    let log = ground.backing.open_log(&ground.dir, name).expect("the log");
    let marker = ground.create("marker");
    // Every block has data.
    let reader = std::fs::File::open(ground.path.join("log")).expect("the log").into();
    assert_eq!(ground.settled(&reader), [0..bytes]);

    ground.backing.fencer().commit().expect("a commit");
    quiet(&ground);
    let mut data = LogBuffer::new();
    data.grow(8192).fill(3);
    // An inode that was just read counts as part of the transaction under way
    // (`ext4_iget`): the first flush may be a commit.
    log.write_and_flush(&data, 0).expect("a write");
    ground.backing.fencer().commit().expect("a commit");
    quiet(&ground);
    for round in 1..20 {
        let before = ground.device_requests();
        // Times that move: the log's own, in a tick after the last, and a mark.
        std::thread::sleep(Duration::from_millis(5));
        ground.backing.set_marker(&marker, round).expect("a mark");
        ground.create(&format!("file{round}"));
        log.write_and_flush(&data, round * 8192).expect("a write");
        let after = ground.device_requests();
        assert_eq!((after.0 - before.0, after.1 - before.1), (8192, 1), "write {round}");
    }
    let mut read = LogBuffer::new();
    log.read(&mut read, 8192, 8192).expect("a read");
    assert_eq!(read.bytes(), data.bytes());
    let figures = probe::measure(&log, 0..bytes, probe::DEFAULT_TIME_MAX).expect("figures");
    println!("{figures:?}");
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_log_that_does_not_fit_leaves_nothing() {
    let ground = Ground::new("full");
    let free = ground.backing.stats().expect("sizes").blocks_available;
    let name = OsStr::new("log");
    let made = ground.backing.make_log(&ground.dir, name, 2 << 30, &mut |_| {});
    assert_eq!(made.err(), Some(Errno::NOSPC));
    assert!(!ground.path.join("log").exists());
    // Freed by the commit that keeps the removal.
    ground.backing.sync_all().expect("a sync");
    let left = ground.backing.stats().expect("sizes").blocks_available;
    assert!(left + 64 >= free, "{free} blocks before, {left} after");
}

/// `LANEFS_TEST_OBSTACLE`: a part of the reason, empty if there is none.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn obstacle() {
    let expected = std::env::var("LANEFS_TEST_OBSTACLE").expect("LANEFS_TEST_OBSTACLE");
    let backing = LinuxBacking::open(&place(), BackingOptions::default()).expect(ALONE);
    let reason = backing.log_obstacle();
    println!("obstacle: {reason:?}");
    match reason {
        None => assert_eq!(expected, ""),
        Some(reason) => assert!(!expected.is_empty() && reason.contains(&expected), "{reason}"),
    }
    let shared_commit = fs_core::platform::FenceMethod::SharedCommit;
    if expected.is_empty() {
        assert!(backing.fencer().supports(shared_commit));
    }
}

/// What options of lanefs make impossible.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn obstacles_of_our_own() {
    let place = place();
    let obstacle = |options| {
        let backing = LinuxBacking::open(&place, options).expect(ALONE);
        backing.log_obstacle().unwrap_or_default()
    };
    let default = BackingOptions::default();
    let mechanism = fs_core::platform::linux::FenceMechanism::Threads;
    assert_eq!(obstacle(default), "");
    for (options, part) in [
        (BackingOptions { read_only: true, ..default }, "read-only"),
        (BackingOptions { pin_objects: true, ..default }, "file handle"),
        (BackingOptions { mechanism, ..default }, "sync_by"),
    ] {
        let reason = obstacle(options);
        assert!(reason.contains(part), "{reason}");
    }
}

fn device() -> PathBuf {
    std::env::var_os("LANEFS_TEST_DEVICE").map_or_else(|| panic!("{ALONE}"), PathBuf::from)
}

/// `LANEFS_TEST_DEVICE` is mounted.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_device_in_use() {
    let in_use = |result: Result<(), LogPathError>| {
        assert!(matches!(result, Err(LogPathError::InUse(_))), "{result:?}");
    };
    in_use(inspect_device(&device(), LOG_MAGIC).map(drop));
    in_use(LinuxLog::open_path(&device(), 0).map(drop));
    in_use(LinuxLog::make_path(&device(), 0, &mut |_| {}).map(drop));
}

/// `LANEFS_TEST_DEVICE` has an ext4 that is not mounted.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test log_platform"]
fn a_log_on_a_device() {
    let device = device();
    let inspect = || inspect_device(&device, LOG_MAGIC).expect("it can be looked at");
    assert_eq!(inspect(), DeviceContent::Foreign("an ext2, ext3 or ext4 filesystem"));
    let backing = LinuxBacking::open(&place(), BackingOptions::default()).expect(ALONE);
    let mut told = 0;
    let made = LinuxLog::make_path(&device, 4 << 20, &mut |done| told = done).expect("a log");
    assert_eq!((told, made.bytes()), (4 << 20, 4 << 20));
    // Claimed while it lives.
    let second = LinuxLog::open_path(&device, 0);
    assert!(matches!(second, Err(LogPathError::InUse(_))));
    let looked = inspect_device(&device, LOG_MAGIC);
    assert!(matches!(looked, Err(LogPathError::InUse(_))));
    drop(made);
    // The filesystem's copies further inside do not count as its label.
    assert_eq!(inspect(), DeviceContent::Empty);
    let log = LinuxLog::open_path(&device, backing.filesystem_id()).expect("the log");
    assert!(log.bytes() > 4 << 20 && log.mechanism() == "direct I/O" && !log.shares_device());
    let mut data = LogBuffer::new();
    data.extend(LOG_MAGIC);
    data.pad_to_block();
    log.write_and_flush(&data, 0).expect("a write");
    let mut read = LogBuffer::new();
    log.read(&mut read, 0, 4096).expect("a read");
    assert_eq!(read.bytes(), data.bytes());
    drop(log);
    assert_eq!(inspect(), DeviceContent::Log);
    // The log of the device that the backing filesystem is on needs one flush.
    let own = rustix::fs::stat(&device).expect("the device").st_rdev;
    assert!(LinuxLog::open_path(&device, own).expect("the log").shares_device());
    let far_too_many = LinuxLog::make_path(&device, 1 << 50, &mut |_| {});
    assert!(matches!(far_too_many, Err(LogPathError::TooSmall { .. })));
    // All of it.
    let all = LinuxLog::make_path(&device, 0, &mut |_| {}).expect("a log").bytes();
    assert_eq!(inspect(), DeviceContent::Empty);
    assert!(LinuxLog::make_path(&device, all + 4096, &mut |_| {}).is_err());
}

/// Waits until the device has nothing to do: mkfs and mount leave work behind.
fn quiet(ground: &Ground) {
    rustix::fs::syncfs(std::fs::File::open(&ground.path).expect("a directory")).expect("a sync");
    let mut last = ground.device_requests();
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(20));
        let now = ground.device_requests();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

fn each(count: u32, mut call: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    for i in 0..count {
        call(u64::from(i));
    }
    start.elapsed() / count
}
