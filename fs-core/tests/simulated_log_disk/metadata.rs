//! Markers, keys, boots, and the order of what survives.

use super::*;
use fs_core::error::Errno;
use fs_core::platform::ObjectKey;

use DurabilityModel::{Ext4Ordered, PosixMin, Writeback};

/// Makes files, each followed by the marker's next number; what power cuts leave:
/// the files, and the number.
fn marked(disk: &Disk) -> BTreeSet<String> {
    let marker = disk.file("marker");
    disk.0.set_marker(&marker, 7).unwrap();
    disk.0.sync_all().unwrap();
    for (text, lsn) in [("a", 8), ("b", 9)] {
        drop(disk.file(text));
        disk.0.set_marker(&marker, lsn).unwrap();
    }
    disk.after_crashes(|crashed| {
        let lsn = crashed.0.marker(&crashed.open("marker")).unwrap();
        format!("{} {} {lsn}", crashed.look("a"), crashed.look("b"))
    })
}

/// A marker is as old as the last change before it, or one change older.
#[test]
fn a_marker_keeps_the_order() {
    for model in [Ext4Ordered, DurabilityModel::Xfs, Writeback] {
        let seen = marked(&Disk::new(model));
        let expected = ["- - 7", "empty - 7", "empty - 8", "empty empty 8", "empty empty 9"];
        assert_eq!(seen, set(&expected), "{model:?}");
    }
}

/// Where metadata has no order a marker proves nothing: with `PosixMin`, and with
/// the bug planted.
#[test]
fn a_marker_without_order() {
    for (model, reorder) in [(PosixMin, false), (Ext4Ordered, true)] {
        let seen = marked(&Disk::with(model, |options| options.reorder_metadata = reorder));
        assert!(seen.contains("- - 9"), "{model:?} {seen:?}");
        assert!(seen.contains("empty empty 7"), "{model:?} {seen:?}");
    }
}

/// What was promised of a filesystem that does not order metadata still holds.
#[test]
fn commits_hold_without_order() {
    let disk = Disk::with(Ext4Ordered, |options| options.reorder_metadata = true);
    let file = disk.file("f");
    disk.fill(&file, 0, b'a');
    disk.write_out(&file);
    // Data is still there before its block is.
    assert_eq!(disk.outcomes(&["f"]), set(&["-", "empty", "a4096"]));
    disk.commit().unwrap();
    assert_eq!(disk.outcomes(&["f"]), set(&["a4096"]));
    // Numbers of inodes that may come back are not given out.
    let number = disk.0.file_attr(&file).unwrap().ino;
    disk.0.unlink(&disk.root(), name("f")).unwrap();
    drop(file);
    assert_ne!(disk.0.file_attr(&disk.file("g")).unwrap().ino, number);
    let seen = disk.outcomes(&["f", "g"]);
    let possible = set(&["a4096 -", "a4096 empty", "- empty", "- -"]);
    assert!(seen.is_subset(&possible), "{seen:?}");
    assert!(seen.contains("a4096 -") && seen.contains("- empty"), "{seen:?}");
}

/// Every number fits into a marker, up to the largest time of 64 bits.
#[test]
fn numbers_of_a_marker() {
    let disk = Disk::new(Ext4Ordered);
    let file = disk.file("f");
    for lsn in [0, 1, 999_999_999, 1_000_000_000, u64::MAX] {
        disk.0.set_marker(&file, lsn).unwrap();
        assert_eq!(disk.0.marker(&file), Ok(lsn));
        let attr = disk.0.file_attr(&file).unwrap();
        assert_eq!(attr.mtime.secs as u64 * 1_000_000_000 + u64::from(attr.mtime.nanos), lsn);
    }
    let before = disk.0.file_attr(&file).unwrap();
    disk.0.set_marker(&file, 5).unwrap();
    let after = disk.0.file_attr(&file).unwrap();
    assert!(after.ctime > before.ctime && after.size == before.size);
    assert!(disk.0.has_exact_times());
    let coarse = Disk::with(Ext4Ordered, |options| options.changes_per_tick = 1000);
    assert!(!coarse.0.has_exact_times());
}

/// Keys written down find their objects after a crash, whatever device it is then.
#[test]
fn keys_are_found_without_their_device() {
    let disk = Disk::new(Ext4Ordered);
    drop(disk.durable_file("f", b'a'));
    let key = disk.0.lookup(&disk.root(), name("f")).unwrap().key;
    let moved = ObjectKey { dev: 99, ..key };
    let crashed = disk.0.crash(1);
    for key in [key, moved, key.portable()] {
        assert_eq!(disk.0.by_key(&key).unwrap().attr.size, PAGE);
        assert_eq!(crashed.by_key(&key).unwrap().attr.size, PAGE);
    }
    disk.0.unlink(&disk.root(), name("f")).unwrap();
    drop(disk.file("g"));
    assert_eq!(disk.0.by_key(&key).map(drop), Err(Errno::STALE), "the number is g's now");
}

/// A boot ends with a power cut and by nothing else.
#[test]
fn boots_are_told_apart() {
    let disk = Disk::new(Ext4Ordered);
    let first = disk.0.boot_id();
    drop(disk.file("f"));
    disk.0.sync_all().unwrap();
    assert_eq!(first, disk.0.boot_id());
    assert_eq!(first, disk.0.clone().boot_id());
    let crashed = disk.0.crash(1);
    assert_eq!(crashed.boot_id(), crashed.clone().boot_id());
    let boots = [first, crashed.boot_id(), disk.0.crash(2).boot_id(), crashed.crash(1).boot_id()];
    assert_eq!(BTreeSet::from(boots).len(), boots.len());
    assert_eq!(crashed.boot_id(), disk.0.crash(1).boot_id(), "the same crash is the same boot");
}

/// Which filesystems can carry a log.
#[test]
fn obstacles() {
    for model in DurabilityModel::ALL {
        let fits = LOGGED.contains(&model);
        assert_eq!(Disk::new(model).0.log_obstacle().is_none(), fits, "{model:?}");
        let forced = Disk::with(model, |options| options.log_despite_obstacle = true);
        assert_eq!(forced.0.log_obstacle(), None);
    }
}

/// What each way to durability costs.
#[test]
fn flushes_are_counted() {
    let disk = Disk::new(Ext4Ordered);
    let log = disk.log(1);
    let file = disk.durable_file("f", b'a');
    let cost = |run: &dyn Fn()| {
        let before = disk.0.figures().flushes;
        run();
        disk.0.figures().flushes - before
    };
    let data = SyncTarget::File(Arc::clone(&file), SyncKind::Data);
    let overwrite = || {
        disk.fill(&file, 0, b'b');
        disk.0.fencer().run(FenceMethod::Parallel, std::slice::from_ref(&data))[0].unwrap();
    };
    assert_eq!(cost(&overwrite), 1);
    assert_eq!(cost(&|| disk.fill(&file, 1, b'b')), 0);
    assert_eq!(cost(&|| disk.write_out(&file)), 0);
    assert_eq!(cost(&|| disk.sync(&file).unwrap()), 2);
    disk.fill(&file, 0, b'c');
    assert_eq!(cost(&|| disk.commit().unwrap()), 2);
    assert_eq!(cost(&|| log.write_and_flush(&blocks(b"x"), 0).unwrap()), 1);
    assert_eq!(cost(&|| disk.0.flush_device(&file).unwrap()), 1);
    let figures = disk.0.figures();
    assert_eq!((figures.log_writes, figures.log_flushes), (1, 1));
}
