//! Power cuts.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::disk::{
    Choice, CrashImage, CrashImages, Disk, DiskOptions, Image, Position, Record, SECTOR_BYTES,
    Tearing, chosen_image, crash_image, for_each_image,
};
use tests::{run, tools};

use super::{
    DEADLINE, alone, beside_others, disk, make_ext4, make_filesystem, open_direct, write_block,
};

fn block_of(image: &Image, number: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    image.read_at(number * 4096, &mut bytes);
    bytes
}

#[test]
fn unflushed_data_is_lost_or_kept_and_flushed_data_is_kept() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    write_block(&device, 0, 1);
    device.sync_data().expect("a flush");
    let acknowledged = disk.position();
    write_block(&device, 0, 2);
    write_block(&device, 1, 3);
    let record = disk.record();
    let contents = |choice| {
        let image = chosen_image(&record, disk.position(), 0, choice).image;
        [0, 1].map(|number| block_of(&image, number)[0])
    };
    assert_eq!(contents(Choice::None), [1, 0]);
    assert_eq!(contents(Choice::All), [2, 3]);
    assert_eq!(contents(Choice::Only(1)), [1, 3]);
    assert_eq!(contents(Choice::AllBut(1)), [2, 0]);
    for seed in 0..50 {
        let image = crash_image(&record, acknowledged, seed).image;
        assert_eq!([block_of(&image, 0)[0], block_of(&image, 1)[0]], [1, 0]);
    }
}

// Two writes to one page, unflushed. Every sector of every image is as one of the three states left
// it, and each combination of two neighbours is found.
#[test]
fn writes_are_torn_between_sectors_and_nowhere_else() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    write_block(&device, 7, 1);
    device.sync_data().expect("a flush");
    write_block(&device, 7, 2);
    write_block(&device, 7, 3);
    let (record, mut found) = (disk.record(), HashSet::new());
    for seed in 0..3000 {
        let bytes = block_of(&crash_image(&record, disk.position(), seed).image, 7);
        let sectors = bytes.chunks_exact(SECTOR_BYTES).map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
            sector[0]
        });
        let sectors = sectors.collect::<Vec<_>>();
        found.insert((sectors[3], sectors[4]));
    }
    let all = [1, 2, 3].iter().flat_map(|left| [1, 2, 3].map(|right| (*left, right)));
    assert_eq!(found, all.collect(), "states of two neighbouring sectors");
}

#[repr(align(4096))]
struct TwoBlocks([u8; 8192]);

#[test]
fn what_must_not_be_torn_is_not() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    // Two pages in one write, of which the second is spared.
    let pages = Box::new(TwoBlocks([5; 8192]));
    device.write_all_at(&pages.0, 0).expect("a write");
    let record = disk.record().with_tearing(Tearing::default().unit(1024).whole(4096..8192));
    let mut states = [HashSet::new(), HashSet::new()];
    for seed in 0..500 {
        let image = crash_image(&record, disk.position(), seed).image;
        for (number, states) in states.iter_mut().enumerate() {
            let sectors = block_of(&image, number as u64);
            let kept = sectors.chunks_exact(SECTOR_BYTES).map(|sector| sector[0]);
            states.insert(kept.collect::<Vec<_>>());
        }
    }
    assert_eq!(states[1], HashSet::from([vec![0; 8], vec![5; 8]]));
    assert!(states[0].len() > 8, "{:?}", states[0]);
    let in_pairs = |state: &Vec<u8>| state.chunks_exact(2).all(|pair| pair[0] == pair[1]);
    assert!(states[0].iter().all(in_pairs), "torn inside a unit of 1024 bytes");
}

// Forgetting the past must not change any future.
#[test]
fn a_shortened_record_gives_the_same_images() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    let write_many = |count: u64, byte| (0..count).for_each(|n| write_block(&device, n * 2, byte));
    write_many(1500, 1);
    device.sync_data().expect("a flush");
    write_many(10, 2);
    let before = disk.record();
    disk.forget_durable();
    let after = disk.record();
    assert_eq!(after.first_position(), Position(1501));
    let hashes = |record: &Record| {
        let positions = (1501..=1511).map(Position);
        positions.map(|at| crash_image(record, at, 9).image.hash()).collect::<Vec<_>>()
    };
    assert_eq!(hashes(&before), hashes(&after));
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
    write_many(2000, 3);
    device.sync_data().expect("a flush");
    write_many(5, 4);
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
    let (record, now) = (disk.record(), disk.position());
    assert_eq!(record.unflushed_count(now), 5);
    let byte = |choice| block_of(&chosen_image(&record, now, 0, choice).image, 0)[0];
    assert_eq!([byte(Choice::None), byte(Choice::All)], [3, 4]);
}

// Writers count up in a block each; a flusher notes what they were told before it asked for a flush.
// When that flush has returned, all of it is durable. Many writes are under way all the time.
#[test]
fn what_was_acknowledged_before_a_flush_is_durable_after_it() {
    let Some(_turn) = beside_others() else { return };
    const WRITERS: usize = 6;
    let disk = disk(DiskOptions::new(16).flush_time(Duration::from_micros(300)));
    let told = [const { AtomicU64::new(0) }; WRITERS];
    let (disk, told) = (&disk, &told);
    thread::scope(|scope| {
        for (number, told) in told.iter().enumerate() {
            let device = open_direct(disk);
            scope.spawn(move || {
                for value in 1..=200 {
                    write_block(&device, number as u64, value);
                    told.store(u64::from(value), Ordering::SeqCst);
                }
            });
        }
        for _ in 0..2 {
            let device = open_direct(disk);
            scope.spawn(move || {
                for seed in 0..100 {
                    let before = told.each_ref().map(|told| told.load(Ordering::SeqCst));
                    device.sync_data().expect("a flush");
                    let position = disk.position();
                    let image = crash_image(&disk.record(), position, seed).image;
                    for (number, told) in before.iter().enumerate() {
                        let sectors = block_of(&image, number as u64);
                        let oldest = sectors.iter().min().expect("bytes");
                        assert!(u64::from(*oldest) >= *told, "{oldest} after {told} was flushed");
                    }
                }
            });
        }
    });
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
}

/// An append and its acknowledgement.
struct Promise {
    writer: usize,
    records: usize,
    position: Position,
}

const RECORD: &[u8] = b"one record of sixty-four bytes, appended and synced, one by one\n";

// Four threads append and sync; every acknowledgement is noted with its position.
fn append_and_sync(filesystem: &str, disk: &Disk, seconds: f64) -> (Position, Vec<Promise>) {
    make_filesystem(filesystem, disk);
    let mount = disk.mount(filesystem, "").expect("a mount");
    File::open(mount.path()).and_then(|root| root.sync_all()).expect("a sync");
    let start = disk.position();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let append = |writer: usize| {
        let mut promises = Vec::new();
        let mut file = File::create(mount.path().join(writer.to_string())).expect("a file");
        while Instant::now() < end {
            file.write_all(RECORD).and_then(|()| file.sync_data()).expect("a synced append");
            let records = promises.len() + 1;
            promises.push(Promise { writer, records, position: disk.position() });
        }
        promises
    };
    let promises = thread::scope(|scope| {
        let append = &append;
        let writers = [0, 1, 2, 3].map(|writer| scope.spawn(move || append(writer)));
        writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect()
    });
    drop(mount);
    (start, promises)
}

fn verify(root: &Path, position: Position, promises: &[Promise]) {
    let kept = promises.iter().filter(|promise| promise.position <= position);
    for promise in kept {
        let bytes = fs::read(root.join(promise.writer.to_string())).unwrap_or_default();
        let expected = RECORD.repeat(promise.records);
        assert!(bytes.starts_with(&expected), "writer {} lost a record", promise.writer);
    }
}

// Only the last promise to each writer at each position needs a look.
fn last_promises(promises: &[Promise], position: Position) -> Vec<Promise> {
    let last = |writer: usize| {
        let of = promises.iter().filter(|promise| promise.writer == writer);
        of.filter(|promise| promise.position <= position).max_by_key(|promise| promise.records)
    };
    let copy = |promise: &Promise| Promise { ..*promise };
    (0..4).filter_map(last).map(copy).collect()
}

#[test]
fn crash_images_recover_and_keep_what_was_acknowledged() {
    let Some(_turn) = alone() else { return };
    println!(
        "       acknowledged  entries  images  distinct  images/s (load, mount, check, umount)"
    );
    for (filesystem, images, size_mib) in [("ext4", 150, 256), ("xfs", 60, 320), ("btrfs", 60, 256)]
    {
        let options = DiskOptions::new(size_mib).flush_time(Duration::from_micros(500));
        let disk = disk(options);
        let (start, promises) = append_and_sync(filesystem, &disk, 1.0);
        disk.check().unwrap_or_else(|difference| panic!("{difference}"));
        let record = disk.record().with_tearing(Tearing::sparing_superblock(filesystem));
        // btrfs knows its devices by UUID and would confuse the two.
        drop(disk);
        // btrfs knows its devices by UUID; XFS has to be told that copies are meant.
        let (disks, mount_options) = match filesystem {
            "btrfs" => (1, ""),
            "xfs" => (4, "nouuid"),
            _ => (4, ""),
        };
        let (distinct, started) = (Mutex::new(HashSet::new()), Instant::now());
        let crashes = CrashImages::new(&record, start, 1).take(images);
        let outcome = for_each_image(crashes, disks, options.unrecorded(), |copy, crash| {
            let hash = crash.image.hash();
            distinct.lock().expect("no panic").insert(hash);
            let mount = copy.mount(filesystem, mount_options);
            let mount = mount.unwrap_or_else(|error| panic!("{error}: {crash:?}"));
            verify(mount.path(), crash.position, &last_promises(&promises, crash.position));
            drop(mount);
            assert_eq!(crash.image.hash(), hash, "recovery changed the image itself");
        });
        outcome.expect("disks to look at them");
        let rate = images as f64 / started.elapsed().as_secs_f64();
        let distinct = distinct.into_inner().expect("no panic").len();
        let acknowledged = promises.len();
        let entries = record.last_position().0 - start.0;
        println!(
            "{filesystem:<7}{acknowledged:>12}{entries:>9}{images:>8}{distinct:>10}{rate:>10.0}"
        );
        if filesystem == "ext4" {
            assert!(rate >= 10.0, "only {rate:.1} images/s");
            check_with_e2fsck(options, CrashImages::new(&record, start, 2).take(5));
        }
    }
}

// The filesystem's own opinion.
fn check_with_e2fsck(options: DiskOptions, images: impl Iterator<Item = CrashImage> + Send) {
    let e2fsck = tools::debian("e2fsprogs", "e2fsck");
    let outcome = for_each_image(images, 1, options, |copy, _| {
        drop(copy.mount("ext4", "").expect("a mount that recovers"));
        run::run(Command::new(&e2fsck).arg("-fn").arg(copy.path()), DEADLINE).expect_success();
    });
    outcome.expect("a disk to look at them");
}

// The bench must be able to fail: acknowledgements given without any sync are found to be lost.
#[test]
fn a_missing_sync_is_found() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(256));
    make_ext4(&disk);
    let mount = disk.mount("ext4", "").expect("a mount");
    let start = disk.position();
    fs::write(mount.path().join("0"), RECORD).expect("a file that nobody syncs");
    let other = File::create(mount.path().join("other")).expect("a file");
    other.sync_all().expect("a sync of something else");
    drop((other, mount));
    let mut copy = Disk::new(DiskOptions::new(256).unrecorded()).expect("a second disk");
    let record = disk.record().with_tearing(Tearing::sparing_superblock("ext4"));
    let mut lost = 0;
    for crash in CrashImages::new(&record, start, 3).take(30) {
        copy.load(crash.image.clone()).expect("a loaded image");
        let mount = copy.mount("ext4", "").unwrap_or_else(|error| panic!("{error} {crash:?}"));
        let found = fs::read(mount.path().join("0")).unwrap_or_default();
        lost += usize::from(found != RECORD);
    }
    assert!(lost > 0, "30 power cuts and nothing was lost");
}

#[test]
fn images_are_made_fast_and_repeat() {
    let Some(_turn) = alone() else { return };
    const IMAGES: usize = 5000;
    let disk = disk(DiskOptions::new(256).flush_time(Duration::from_micros(200)));
    let (start, _) = append_and_sync("ext4", &disk, 1.0);
    let record = disk.record();
    let hashes = || {
        let images = CrashImages::new(&record, start, 42).take(IMAGES);
        images.map(|crash| crash.image.hash()).collect::<Vec<_>>()
    };
    let started = Instant::now();
    let first = hashes();
    let rate = IMAGES as f64 / started.elapsed().as_secs_f64();
    let distinct = first.iter().collect::<HashSet<_>>().len();
    let choice = CrashImages::new(&record, start, 42).next().expect("endless");
    let again = crash_image(&record, choice.position, choice.seed);
    println!("{IMAGES} images ({distinct} distinct) with their hashes: {rate:.0} images/s");
    assert_eq!(first, hashes(), "the same seed made other images");
    assert_eq!(again.image.hash(), choice.image.hash());
    assert!(distinct > IMAGES / 10, "only {distinct} distinct images");
    if !cfg!(debug_assertions) {
        assert!(rate >= 2000.0, "only {rate:.0} images/s");
    }
}
