//! What fails, and what pretends not to.

use super::*;
use fs_core::error::Errno;

use DurabilityModel::Ext4Ordered;

/// Enough for every fate of two blocks.
const SEEDS: u64 = 40;

fn whole(set: &mut SimOptions) {
    set.torn_sectors = false;
}

/// As Linux tells it: each open file once.
#[test]
fn failed_write_back_is_told_once_to_each() {
    let disk = Disk::new(Ext4Ordered);
    let (file, other) = (disk.durable_file("f", b'a'), disk.open("f"));
    disk.fill(&file, 0, b'b');
    disk.0.fail_sync(1);
    assert_eq!(disk.0.finish_write_back(&file), Err(Errno::IO));
    assert_eq!(disk.0.finish_write_back(&file), Ok(()));
    assert_eq!(disk.0.finish_write_back(&other), Err(Errno::IO));
    assert_eq!(disk.0.finish_write_back(&other), Ok(()));
    // Nobody writes the page again.
    disk.commit().unwrap();
    assert!(disk.outcomes(&["f"]).contains("a4096"));
}

/// A commit fails by its own plan, and by that of all syncs; what was written out
/// stays in the cache.
#[test]
fn a_failed_commit() {
    for plan in [SimBacking::fail_commit, SimBacking::fail_sync] {
        let disk = Disk::with(Ext4Ordered, whole);
        let file = disk.durable_file("f", b'a');
        drop(disk.file("new"));
        disk.fill(&file, 0, b'b');
        disk.write_out(&file);
        plan(&disk.0, 2);
        disk.commit().unwrap();
        disk.fill(&file, 0, b'c');
        drop(disk.file("newer"));
        assert_eq!(disk.0.figures().lies, 0);
        let failed = disk.commit();
        assert_eq!(failed, Err(Errno::IO));
        assert!(disk.outcomes(&["newer"]).contains("-"));
        disk.write_out(&file);
        disk.commit().unwrap();
        assert_eq!(disk.outcomes(&["f", "new", "newer"]), set(&["c4096 empty empty"]));
    }
}

/// A plan for commits leaves other syncs alone.
#[test]
fn only_commits_fail() {
    let disk = Disk::new(Ext4Ordered);
    let file = disk.durable_file("f", b'a');
    disk.0.fail_commit(1);
    assert_eq!((disk.sync(&file), disk.0.flush_device(&file)), (Ok(()), Ok(())));
    assert_eq!(disk.commit(), Err(Errno::IO));
    disk.0.fail_sync(1);
    assert_eq!(disk.0.flush_device(&file), Err(Errno::IO));
    assert_eq!(disk.0.flush_device(&file), Ok(()));
}

/// A failed write may have written any part, which then stays.
#[test]
fn a_failed_write_of_a_log() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = Disk::with(Ext4Ordered, |options| options.seed = seed);
        let log = disk.log(1);
        log.write_and_flush(&blocks(b"a"), 0).unwrap();
        disk.0.fail_log_write(2);
        log.write(&blocks(b"b"), 0).unwrap();
        assert_eq!(log.write_and_flush(&blocks(b"c"), 0), Err(Errno::IO));
        let now = read(&log);
        assert!(!now.contains('a'));
        log.flush().unwrap();
        let after = disk.after_crashes(|crashed| {
            read(&crashed.0.open_log(&crashed.root(), name("log")).unwrap())
        });
        assert_eq!(after, set(&[&now]), "it does not change by itself");
        seen.insert(now);
        log.write_and_flush(&blocks(b"d"), 0).unwrap();
        assert_eq!(read(&log), "d4096");
    }
    assert!(seen.contains("c4096") && seen.len() > 10, "{seen:?}");
}

/// After a failed flush some is durable, some can still become so, and some is
/// gone: a later flush does not bring it back.
#[test]
fn a_failed_flush_of_a_log() {
    let (mut then, mut later) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let disk = Disk::with(Ext4Ordered, |options| {
            whole(options);
            options.seed = seed;
        });
        let log = disk.log(2);
        log.write_and_flush(&blocks(b"aa"), 0).unwrap();
        disk.0.fail_log_flush(1);
        assert_eq!(log.write_and_flush(&blocks(b"bc"), 0), Err(Errno::IO));
        let look = || {
            disk.after_crashes(|crashed| {
                read(&crashed.0.open_log(&crashed.root(), name("log")).unwrap())
            })
        };
        then.extend(look());
        log.flush().unwrap();
        let end = look();
        assert_eq!(end, set(&[&read(&log)]));
        later.extend(end);
        log.write_and_flush(&blocks(b"dd"), 0).unwrap();
        assert_eq!(look(), set(&["d8192"]));
    }
    let all = set(&["a8192", "b4096c4096", "a4096c4096", "b4096a4096"]);
    assert_eq!((&then, &later), (&all, &all));
}

/// What a log's failed flush does to files is a setting: kept in the cache, or
/// unknown until it is written again.
#[test]
fn a_failed_flush_and_the_files() {
    for loses in [false, true] {
        let (mut at_once, mut lost) = (0, 0);
        for seed in 0..SEEDS {
            let disk = Disk::with(Ext4Ordered, |options| {
                whole(options);
                options.failed_flush_loses_data = loses;
                options.seed = seed;
            });
            let log = disk.log(1);
            let file = disk.durable_file("f", b'a');
            disk.fill(&file, 0, b'b');
            disk.write_out(&file);
            disk.0.fail_log_flush(1);
            assert_eq!(log.flush(), Err(Errno::IO));
            at_once += u32::from(!disk.may_leave("f", "a4096"));
            assert_eq!(disk.sync(&file), Ok(()), "the page is clean, nobody knows");
            lost += u32::from(disk.may_leave("f", "a4096"));
            disk.fill(&file, 0, b'b');
            assert_eq!(disk.sync(&file), Ok(()));
            assert!(!disk.may_leave("f", "a4096"), "it was written again");
        }
        assert_eq!((at_once > 2, lost > 2), (loses, loses));
    }
}

/// A journal that failed for good stops the log too.
#[test]
fn an_aborted_journal() {
    let disk = Disk::new(Ext4Ordered);
    let (log, file) = (disk.log(1), disk.durable_file("f", b'a'));
    log.write_and_flush(&blocks(b"a"), 0).unwrap();
    disk.0.abort_journal();
    assert_eq!(log.write(&blocks(b"b"), 0), Err(Errno::ROFS));
    assert_eq!(log.flush(), Err(Errno::IO));
    assert_eq!(disk.commit(), Err(Errno::IO));
    assert_eq!(disk.0.flush_device(&file), Err(Errno::IO));
    assert_eq!(disk.0.set_marker(&file, 1), Err(Errno::ROFS));
    assert_eq!(read(&log), "a4096");
}

/// Planted: a flush of the log that forgets the files on the same device.
#[test]
fn a_flush_of_the_log_alone() {
    let disk = Disk::with(Ext4Ordered, |options| {
        whole(options);
        options.log_flush_is_fua = true;
    });
    let log = disk.log(1);
    let file = disk.durable_file("f", b'a');
    disk.fill(&file, 0, b'b');
    disk.write_out(&file);
    log.write_and_flush(&blocks(b"x"), 0).unwrap();
    assert!(log.shares_device(), "it says so");
    assert_eq!(disk.outcomes(&["f"]), set(&["a4096", "b4096"]));
    let crashed = Disk(disk.0.crash(3));
    assert_eq!(read(&crashed.0.open_log(&crashed.root(), name("log")).unwrap()), "x4096");
    disk.commit().unwrap();
    assert_eq!(disk.outcomes(&["f"]), set(&["b4096"]));
}

/// Planted: commits and flushes of the log that are answered without being done.
#[test]
fn lies() {
    let disk = Disk::with(Ext4Ordered, |options| {
        options.lie_one_in = Some(1);
        options.log_lie_one_in = Some(1);
    });
    let log = disk.log(1);
    drop(disk.file("f"));
    disk.commit().unwrap();
    assert!(disk.outcomes(&["f"]).contains("-"));
    log.write_and_flush(&blocks(b"x"), 0).unwrap();
    let seen = disk
        .after_crashes(|crashed| read(&crashed.0.open_log(&crashed.root(), name("log")).unwrap()));
    assert!(seen.contains(".4096"));
    assert_eq!(disk.0.figures().lies, 2);
}
