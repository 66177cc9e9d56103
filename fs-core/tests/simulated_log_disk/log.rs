//! Blocks of a log.

use std::sync::Mutex;

use super::*;
use fs_core::error::Errno;
use fs_core::platform::sim::FencePoint;

use DurabilityModel::Ext4Ordered;

impl Disk {
    /// What power cuts leave of the log.
    fn logs(&self) -> BTreeSet<String> {
        self.after_crashes(|crashed| {
            read(&crashed.0.open_log(&crashed.root(), name("log")).expect("a durable log"))
        })
    }
}

/// Reading shows what was written, at once, and what was never written as zeros.
#[test]
fn a_log_is_read_back() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(4);
    assert_eq!((log.bytes(), read(&log)), (4 * PAGE, ".16384".to_owned()));
    log.write(&blocks(b"ab"), PAGE).unwrap();
    log.write(&blocks(b"c"), 2 * PAGE).unwrap();
    assert_eq!(read(&log), ".4096a4096c4096.4096");
    log.flush().unwrap();
    log.write(&blocks(b"d"), 0).unwrap();
    let again = disk.0.open_log(&disk.root(), name("log")).unwrap();
    assert_eq!(read(&again), "d4096a4096c4096.4096");
    let mut buffer = blocks(b"z");
    again.read(&mut buffer, 2 * PAGE, BLOCK).unwrap();
    assert_eq!(runs(buffer.bytes()), "c4096");
    for (offset, bytes) in [(1, BLOCK), (0, 100), (3 * PAGE, 2 * BLOCK), (u64::MAX - 4095, BLOCK)] {
        assert_eq!(again.read(&mut buffer, offset, bytes), Err(Errno::INVAL));
        assert!(buffer.is_empty());
    }
    assert_eq!(again.write(&blocks(b"x"), 4 * PAGE), Err(Errno::INVAL));
    let mut odd = blocks(b"x");
    odd.truncate(100);
    assert_eq!(again.write(&odd, 0), Err(Errno::INVAL));
}

/// Writes that were not flushed survive or not, in any order, in parts; all and
/// none come often.
#[test]
fn unflushed_writes_are_lost_in_any_way() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(3);
    log.write_and_flush(&blocks(b"aaa"), 0).unwrap();
    assert_eq!(disk.logs(), set(&["a12288"]));
    log.write(&blocks(b"bb"), 0).unwrap();
    log.write(&blocks(b"c"), PAGE).unwrap();
    let seen = disk.logs();
    for expected in [
        "a12288",          // none
        "b4096c4096a4096", // all
        "b8192a4096",      // the first write
        "a4096c4096a4096", // the second one only
        "b4096a8192",      // half of the first
        "b4608c3584a4096", // all but one sector
    ] {
        assert!(seen.contains(expected), "{expected} is not in {seen:?}");
    }
    let wild = |outcome: &&String| outcome.matches(['a', 'b', 'c']).count() > 6;
    assert!(seen.iter().filter(wild).count() > 10, "{seen:?}");
    log.flush().unwrap();
    assert_eq!(disk.logs(), set(&["b4096c4096a4096"]));
}

/// Without torn sectors a block survives whole.
#[test]
fn blocks_can_be_whole() {
    let disk = Disk::with(Ext4Ordered, |options| options.torn_sectors = false);
    let log = disk.log(2);
    log.write(&blocks(b"ab"), 0).unwrap();
    let expected = [".8192", "a4096.4096", ".4096b4096", "a4096b4096"];
    assert_eq!(disk.logs(), set(&expected));
}

/// A commit's flush is a flush of the log too, where both share a device; where
/// they do not, no flush of one flushes the other.
#[test]
fn one_device_or_two() {
    for elsewhere in [false, true] {
        let disk = Disk::with(Ext4Ordered, |options| {
            options.torn_sectors = false;
            options.log_elsewhere = elsewhere;
        });
        let log = disk.log(1);
        assert_eq!(log.shares_device(), !elsewhere);
        let file = disk.durable_file("f", b'a');
        log.write(&blocks(b"x"), 0).unwrap();
        disk.commit().unwrap();
        assert_eq!(disk.logs().contains(".4096"), elsewhere);
        disk.fill(&file, 0, b'b');
        disk.write_out(&file);
        log.flush().unwrap();
        assert_eq!(disk.logs(), set(&["x4096"]));
        assert_eq!(disk.outcomes(&["f"]).contains("a4096"), elsewhere);
    }
}

/// A log is a file among others: it has a name, a length, a key; it is renamed
/// and removed, and survives with its content under the name that survives.
#[test]
fn a_log_is_a_file() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(2);
    log.write_and_flush(&blocks(b"ab"), 0).unwrap();
    assert_eq!(disk.outcomes(&["log"]), set(&[".8192"]), "made durable, name and length");
    let again = disk.0.make_log(&disk.root(), name("log"), PAGE, &mut |_| {});
    assert_eq!(again.map(drop), Err(Errno::EXIST));
    let odd = disk.0.make_log(&disk.root(), name("odd"), 100, &mut |_| {});
    assert_eq!(odd.map(drop), Err(Errno::INVAL));
    drop(disk.file("f"));
    for (text, error) in [("f", Errno::INVAL), ("none", Errno::NOENT)] {
        assert_eq!(disk.0.open_log(&disk.root(), name(text)).map(drop), Err(error));
    }
    let root = disk.root();
    let ends = ((&root, name("log")), (&root, name("other")));
    disk.0.rename(ends.0, ends.1, Default::default()).unwrap();
    let seen = disk.after_crashes(|crashed| {
        let open = |text| crashed.0.open_log(&crashed.root(), name(text)).ok();
        format!("{:?} {:?}", open("log").as_ref().map(read), open("other").as_ref().map(read))
    });
    let content = "Some(\"a4096b4096\")";
    let expected = [format!("{content} None"), format!("None {content}")];
    assert_eq!(seen, BTreeSet::from(expected));
    let again = disk.0.open_log(&root, name("other")).unwrap();
    disk.0.unlink(&root, name("other")).unwrap();
    disk.0.sync_all().unwrap();
    assert_eq!(read(&log), "a4096b4096", "whoever has it open uses it on");
    drop(log);
    disk.0.sync_all().unwrap();
    assert_eq!(read(&again), "a4096b4096");
    drop(again);
    disk.0.sync_all().unwrap();
    assert_eq!(disk.outcomes(&["other"]), set(&["-"]));
}

/// A power cut while a log is made leaves nothing, or a log that may be too
/// short; never one that cannot be opened.
#[test]
fn a_power_cut_while_a_log_is_made() {
    let disk = Disk::new(Ext4Ordered);
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    let made = disk.0.make_log(&disk.root(), name("log"), 3 << 20, &mut |bytes| {
        steps.push(bytes);
        seen.extend(disk.after_crashes(|crashed| match crashed.find("log") {
            None => "-".to_owned(),
            Some(_) => {
                let log = crashed.0.open_log(&crashed.root(), name("log")).unwrap();
                (log.bytes() >> 20).to_string()
            }
        }));
    });
    assert_eq!(made.unwrap().bytes(), 3 << 20);
    assert_eq!(steps, [1 << 20, 2 << 20, 3 << 20]);
    assert_eq!(seen, set(&["-", "0", "1", "2", "3"]));
    let length = |crashed: &Disk| crashed.0.attr(&crashed.find("log").unwrap()).unwrap().size;
    assert_eq!(disk.after_crashes(|crashed| length(crashed).to_string()), set(&["3145728"]));
}

/// Tests can act at every point of a log's life: crash there, or go on there.
#[test]
fn hooks_are_called() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(1);
    let file = disk.durable_file("f", b'a');
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (tell, weak) = (Arc::clone(&seen), Disk(disk.0.clone()));
    disk.0.on_fence(Some(Arc::new(move |point| {
        // The disk is not locked meanwhile.
        weak.outcomes(&["f"]);
        tell.lock().unwrap().push(point);
    })));
    disk.write_out(&file);
    log.write_and_flush(&blocks(b"x"), 0).unwrap();
    disk.commit().unwrap();
    disk.0.on_fence(None);
    let points = std::mem::take(&mut *seen.lock().unwrap());
    let expected = [
        FencePoint::WriteBack,
        FencePoint::LogWrite,
        FencePoint::LogFlush,
        FencePoint::LogDurable,
        FencePoint::Commit,
    ];
    assert_eq!(points, expected);
}

/// A crash does not copy a log: with one of 4 MiB, all of it written, there are
/// thousands a second, recovery's read of what counts included.
#[test]
fn crashes_with_a_large_log_are_fast() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(1024);
    for first in 0..64_u8 {
        log.write(&blocks(&[first + 1; 16]), u64::from(first) * 16 * PAGE).unwrap();
    }
    log.flush().unwrap();
    let file = disk.durable_file("f", b'a');
    disk.fill(&file, 0, b'b');
    disk.write_out(&file);
    log.write(&blocks(&[255; 16]), 64 * PAGE).unwrap();
    let start = std::time::Instant::now();
    let count = if cfg!(debug_assertions) { 500 } else { 20_000 };
    let mut buffer = LogBuffer::new();
    for seed in 0..count {
        let crashed = Disk(disk.0.crash(seed));
        let log = crashed.0.open_log(&crashed.root(), name("log")).unwrap();
        log.read(&mut buffer, 64 * PAGE, 16 * BLOCK).unwrap();
        log.write_and_flush(&blocks(b"e"), 0).unwrap();
    }
    let rate = f64::from(count as u32) / start.elapsed().as_secs_f64();
    println!("{rate:.0} crashes a second");
    assert!(cfg!(debug_assertions) || rate > 5_000.0, "only {rate:.0} crashes a second");
}
