//! Data: written, written out, flushed.

use fs_core::platform::WHOLE_FILE;

use super::*;

use DurabilityModel::{Ext4Ordered, PosixMin, Writeback};

/// A way to flush the device, by its name.
type Flush = (&'static str, fn(&Disk));

const FLUSHES: [Flush; 7] = [
    ("a commit", |disk| disk.commit().unwrap()),
    ("a sync of everything", |disk| disk.0.sync_all().unwrap()),
    ("a flush of the device", |disk| disk.0.flush_device(&disk.open("other")).unwrap()),
    ("a flush of the log", |disk| disk.open_log().flush().unwrap()),
    ("a write of the log", |disk| disk.open_log().write_and_flush(&blocks(b"x"), 0).unwrap()),
    ("a sync of another file", |disk| disk.sync(&disk.open("other")).unwrap()),
    ("a sync of a directory", |disk| {
        let target = SyncTarget::Dir(Arc::new(disk.0.open_dir(&disk.root()).unwrap()));
        disk.0.fencer().run(FenceMethod::Parallel, &[target])[0].unwrap();
    }),
];

impl Disk {
    fn open_log(&self) -> SimLog {
        self.0.open_log(&self.root(), name("log")).expect("a log")
    }
}

/// What was written out may be lost until the device is flushed, by whomever;
/// what was written to the file after that may still be lost then.
#[test]
fn written_out_is_not_durable() {
    for model in DurabilityModel::ALL {
        for (flush_name, flush) in FLUSHES {
            let disk = Disk::with(model, |options| options.torn_sectors = false);
            disk.log(4);
            disk.durable_file("other", b'x');
            let file = disk.durable_file("f", b'a');
            disk.fill(&file, 0, b'b');
            disk.write_out(&file);
            assert_eq!(disk.outcomes(&["f"]), set(&["a4096", "b4096"]), "{model:?}");
            disk.fill(&file, 0, b'c');
            let outcomes = disk.outcomes(&["f"]);
            assert_eq!(outcomes, set(&["a4096", "b4096", "c4096"]), "{model:?}");
            flush(&disk);
            let outcomes = disk.outcomes(&["f"]);
            let expected: &[&str] = match flush_name {
                "a sync of everything" => &["c4096"],
                _ => &["b4096", "c4096"],
            };
            assert_eq!(outcomes, set(expected), "{flush_name} on {model:?}");
        }
    }
}

/// What waits in the cache for a flush is lost sector by sector.
#[test]
fn written_out_is_lost_in_sectors() {
    let disk = Disk::new(Ext4Ordered);
    let file = disk.durable_file("f", b'a');
    disk.fill(&file, 0, b'b');
    disk.write_out(&file);
    let mixed = |outcome: &String| outcome.contains('a') && outcome.contains('b');
    assert!(disk.outcomes(&["f"]).iter().any(mixed));
}

/// The version that a flush makes durable is one of those that crashes try,
/// however often the page was written since: no middle one was dropped.
#[test]
fn the_flushed_version_is_kept() {
    let disk = Disk::with(Ext4Ordered, |options| options.torn_sectors = false);
    let file = disk.durable_file("f", b'a');
    for first in *b"bcdefghijklm" {
        // It is in the middle of those that are kept.
        for earlier in *b"xyz" {
            disk.fill(&file, 0, earlier);
        }
        disk.fill(&file, 0, first);
        disk.write_out(&file);
        for later in *b"0123456789" {
            disk.fill(&file, 0, later);
        }
        disk.0.flush_device(&file).unwrap();
        let outcomes = disk.outcomes(&["f"]);
        assert!(outcomes.contains(&format!("{}4096", char::from(first))), "{outcomes:?}");
        disk.0.sync_all().unwrap();
    }
}

/// A new block and the length over it are in the journal after write-out: the
/// flush does not commit them, but a crash that keeps them shows the data.
#[test]
fn new_blocks_need_a_commit() {
    for model in LOGGED {
        let disk = Disk::new(model);
        let file = disk.file("f");
        disk.0.sync_all().unwrap();
        disk.fill(&file, 0, b'a');
        disk.write_out(&file);
        assert_eq!(disk.outcomes(&["f"]), set(&["empty", "a4096"]), "{model:?}");
        disk.0.flush_device(&file).unwrap();
        assert_eq!(disk.outcomes(&["f"]), set(&["empty", "a4096"]), "{model:?}");
        disk.commit().unwrap();
        assert_eq!(disk.outcomes(&["f"]), set(&["a4096"]), "{model:?}");
    }
}

/// A length within a block that is there already: XFS journals it after the data.
#[test]
fn a_length_follows_its_data_on_xfs() {
    let disk = Disk::new(DurabilityModel::Xfs);
    let file = disk.file("f");
    disk.write(&file, 0, &[b'a'; 100]);
    disk.0.sync_all().unwrap();
    disk.write(&file, 100, &[b'b'; 100]);
    disk.write_out(&file);
    disk.file("later");
    let outcomes = disk.outcomes(&["f", "later"]);
    let expected = ["a100 -", "a100b100 -", "a100b100 empty"];
    assert_eq!(outcomes, set(&expected));
}

/// The journal flushes before it commits: a later change that survives proves
/// that what was written out before it is there.
#[test]
fn a_later_change_proves_what_was_written_out() {
    for model in [Ext4Ordered, DurabilityModel::Xfs, Writeback] {
        let disk = Disk::with(model, |options| options.torn_sectors = false);
        let file = disk.durable_file("f", b'a');
        disk.fill(&file, 0, b'b');
        disk.file("before");
        let dirty = disk.outcomes(&["f", "before"]);
        assert!(dirty.contains("a4096 empty"), "nobody wrote it out: {model:?} {dirty:?}");
        disk.write_out(&file);
        disk.file("after");
        let outcomes = disk.outcomes(&["f", "before", "after"]);
        let expected = ["a4096 - -", "b4096 - -", "a4096 empty -", "b4096 empty -"];
        let mut expected = set(&expected);
        expected.insert("b4096 empty empty".to_owned());
        assert_eq!(outcomes, expected, "{model:?}");
    }
}

/// A page that was written out is clean: a failed sync finds nothing to lose,
/// and a flush is all that it needs.
#[test]
fn a_page_is_clean_after_write_out() {
    for (written_out, expected) in [(true, set(&["b4096"])), (false, set(&["a4096", "b4096"]))] {
        let disk = Disk::with(Ext4Ordered, |options| options.torn_sectors = false);
        let file = disk.durable_file("f", b'a');
        disk.fill(&file, 0, b'b');
        if written_out {
            disk.write_out(&file);
        }
        disk.0.fail_sync(1);
        assert_eq!(disk.sync(&file), Err(fs_core::error::Errno::IO));
        disk.0.flush_device(&file).unwrap();
        assert_eq!(disk.outcomes(&["f"]), expected);
    }
}

/// To begin write-back promises nothing and may do some of it; the journal gets
/// the length that was reached, not more.
#[test]
fn begun_write_back_does_something_now_and_then() {
    let disk = Disk::new(Ext4Ordered);
    let mut settled = BTreeSet::new();
    for index in 0..60 {
        let text = format!("f{index}");
        let file = disk.file(&text);
        (0..3).for_each(|page| disk.fill(&file, page, b'a'));
        disk.0.start_write_back(&file).unwrap();
        let pages = disk.0.settled(&file, WHOLE_FILE).unwrap();
        settled.insert(pages.iter().map(|range| range.end).sum::<u64>());
        if pages == [0..PAGE, 2 * PAGE..3 * PAGE] {
            disk.commit().unwrap();
            assert!(disk.outcomes(&[&text]).contains("a4096.4096a4096"));
        } else if pages.first() == Some(&(0..2 * PAGE)) {
            disk.commit().unwrap();
            assert_eq!(disk.outcomes(&[&text]), set(&["a8192", "a12288"]));
        }
    }
    assert!(settled.contains(&(2 * PAGE)) && settled.contains(&(4 * PAGE)), "{settled:?}");
    assert!(settled.contains(&0) && settled.contains(&(3 * PAGE)), "{settled:?}");
    assert!(settled.len() > 2, "parts: {settled:?}");
}

/// The flusher writes pages out unasked: they are settled, and clean.
#[test]
fn the_flusher_works_unasked() {
    let disk = Disk::with(Ext4Ordered, |options| {
        options.flusher_one_in = Some(3);
        options.torn_sectors = false;
    });
    let durable = disk.durable_file("old", b'a');
    let (mut settled, mut clean) = (0, 0);
    for index in 0..50 {
        let file = disk.file(&format!("f{index}"));
        disk.fill(&file, 0, b'n');
        settled += disk.0.settled(&file, WHOLE_FILE).unwrap().len();
        let before = disk.look("old");
        disk.fill(&durable, 0, b'0' + index % 10);
        disk.0.flush_device(&file).unwrap();
        clean += usize::from(!disk.may_leave("old", &before));
        disk.0.sync_all().unwrap();
    }
    assert!((5..45).contains(&settled), "{settled}");
    assert!((5..45).contains(&clean), "{clean}");
    assert!(disk.0.figures().unasked > 0);
}

/// The journal commits unasked, and flushes then.
#[test]
fn the_journal_commits_unasked() {
    let disk = Disk::with(Ext4Ordered, |options| {
        options.commit_one_in = Some(3);
        options.torn_sectors = false;
    });
    let durable = disk.durable_file("old", b'a');
    let (mut names, mut data) = (0, 0);
    for index in 0..50 {
        let before = disk.look("old");
        disk.fill(&durable, 0, b'0' + index % 10);
        disk.write_out(&durable);
        let text = format!("f{index}");
        drop(disk.file(&text));
        names += usize::from(!disk.may_leave(&text, "-"));
        data += usize::from(!disk.may_leave("old", &before));
        disk.0.sync_all().unwrap();
    }
    assert!((5..45).contains(&names) && (5..45).contains(&data), "{names} {data}");
}

/// Settled: blocks with data that was written out, nothing that waits, no holes.
#[test]
fn what_is_settled() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        let file = disk.file("f");
        let settled = || disk.0.settled(&file, WHOLE_FILE).unwrap();
        for page in [0, 1, 4] {
            disk.fill(&file, page, b'a');
        }
        assert_eq!(settled(), [], "{model:?}");
        disk.write_out(&file);
        assert_eq!(settled(), [0..2 * PAGE, 4 * PAGE..5 * PAGE], "{model:?}");
        // Overwritten in place: the block is the same.
        disk.fill(&file, 1, b'b');
        disk.fill(&file, 2, b'b');
        assert_eq!(settled(), [0..2 * PAGE, 4 * PAGE..5 * PAGE], "{model:?}");
        let punch = 0x03;
        disk.0.allocate(ME, &file, punch, 0, PAGE).unwrap();
        disk.0.allocate(ME, &file, 0, 8 * PAGE, PAGE).unwrap();
        assert_eq!(settled(), [PAGE..2 * PAGE, 4 * PAGE..5 * PAGE], "{model:?}");
    }
    // Only what meets the bytes that are asked about.
    let disk = Disk::new(Ext4Ordered);
    let file = disk.file("f");
    [0, 1, 4, 8].into_iter().for_each(|page| disk.fill(&file, page, b'a'));
    disk.write_out(&file);
    let asked = disk.0.settled(&file, PAGE + 1..4 * PAGE + 1).unwrap();
    assert_eq!(asked, [PAGE..2 * PAGE, 4 * PAGE..5 * PAGE]);

    let disk = Disk::with(Ext4Ordered, |options| options.settled_ranges_max = 2);
    let file = disk.file("f");
    [0, 1, 3, 5].into_iter().for_each(|page| disk.fill(&file, page, b'a'));
    disk.write_out(&file);
    let ranges = [0..2 * PAGE, 3 * PAGE..4 * PAGE, 5 * PAGE..6 * PAGE];
    assert_eq!(disk.0.settled(&file, WHOLE_FILE).unwrap(), ranges[..2]);
    assert_eq!(disk.0.allocated(&file, WHOLE_FILE).unwrap(), ranges);
}

/// A page whose write-back failed has no data of its own on the disk.
#[test]
fn a_page_that_could_not_be_written_is_not_settled() {
    for model in LOGGED {
        let disk = Disk::new(model);
        let file = disk.file("f");
        disk.0.sync_all().unwrap();
        disk.fill(&file, 0, b'a');
        disk.0.fail_sync(1);
        assert!(disk.0.finish_write_back(&file).is_err());
        // Its block is allocated now, though it is clean.
        disk.fill(&file, 1, b'b');
        disk.write_out(&file);
        assert_eq!(
            disk.0.settled(&file, WHOLE_FILE).unwrap(),
            std::slice::from_ref(&(PAGE..2 * PAGE)),
            "{model:?}"
        );
        disk.commit().unwrap();
        let unsettled = disk.after_crashes(|crashed| {
            let file = crashed.open("f");
            let settled = crashed.0.settled(&file, WHOLE_FILE).unwrap();
            format!("{:?} {}", settled.first().map(|range| range.start), crashed.look("f"))
        });
        assert!(unsettled.contains("Some(4096) .4096b4096"), "{model:?} {unsettled:?}");
        let claims_zeros = |text: &String| text.starts_with("Some(0)") && !text.contains("a");
        assert!(!unsettled.iter().any(claims_zeros), "{model:?} {unsettled:?}");
    }
}

/// What a log relies on: after a flush, with nothing committed, a block that a
/// crash has left in the file holds what was written out, or something newer.
#[test]
fn settled_blocks_hold_what_was_flushed() {
    for model in LOGGED {
        for (flusher, commit) in [(None, None), (Some(2), None), (Some(2), Some(3))] {
            let disk = Disk::with(model, |options| {
                options.flusher_one_in = flusher;
                options.commit_one_in = commit;
            });
            let log = disk.log(4);
            let file = disk.file("f");
            disk.0.sync_all().unwrap();
            for page in 0..4 {
                disk.fill(&file, page, b'a');
                disk.fill(&file, page, b'b');
            }
            disk.write_out(&file);
            log.flush().unwrap();
            for page in [1, 2] {
                disk.fill(&file, page, b'c');
            }
            let seen = disk.after_crashes(|crashed| {
                let file = crashed.open("f");
                let mut content = [0; PAGE as usize];
                let mut seen = String::new();
                for range in crashed.0.settled(&file, WHOLE_FILE).unwrap() {
                    for offset in range.step_by(PAGE as usize) {
                        crashed.0.read(&file, &mut content, offset).unwrap();
                        let newer = if [1, 2].contains(&(offset / PAGE)) { b'c' } else { b'b' };
                        assert!(content.iter().all(|&b| b == b'b' || b == newer), "{model:?}");
                        seen.push_str(&offset.to_string());
                    }
                }
                seen
            });
            assert!(commit.is_some() || seen.contains(""), "nothing was committed: {seen:?}");
            assert!(seen.iter().any(|seen| !seen.is_empty()), "{seen:?}");
        }
    }
}

/// On filesystems without order, what a crash leaves counts as settled whatever
/// it shows: why no log can be kept there.
#[test]
fn stale_blocks_look_settled_where_there_is_no_order() {
    for model in [Writeback, PosixMin] {
        let disk = Disk::new(model);
        assert!(disk.0.log_obstacle().is_some());
        let mut stale = false;
        for index in 0..10 {
            let text = format!("f{index}");
            let file = disk.file(&text);
            disk.fill(&file, 0, b'a');
            let seen = disk.after_crashes(|crashed| {
                let Some(_) = crashed.find(&text) else { return String::new() };
                let settled = crashed.0.settled(&crashed.open(&text), WHOLE_FILE).unwrap();
                format!("{settled:?} {}", crashed.look(&text))
            });
            stale |= seen.contains("[0..4096] ?4096");
        }
        assert!(stale, "{model:?}");
    }
}

/// ext4's `dioread_nolock`: a length without its bytes, zeros instead; also after a replace by
/// rename, whose commit waits for nothing. Who waits for the data has it.
#[test]
fn a_length_comes_before_its_bytes() {
    let with = |length_first| {
        let set = |options: &mut SimOptions| {
            (options.torn_sectors, options.length_first) = (false, length_first);
        };
        let disk = Disk::with(Ext4Ordered, set);
        disk.durable_file("f", b'a');
        disk
    };
    let replace = |disk: &Disk| {
        disk.fill(&disk.file("t"), 0, b'b');
        let (root, mode) = (disk.root(), fs_core::platform::RenameMode::default());
        disk.0.rename((&root, name("t")), (&root, name("f")), mode).unwrap();
        disk.commit().unwrap();
    };
    let (ordered, nolock) = (with(false), with(true));
    replace(&ordered);
    replace(&nolock);
    assert_eq!(ordered.outcomes(&["f"]), set(&["b4096"]));
    assert_eq!(nolock.outcomes(&["f"]), set(&[".4096", "b4096"]));

    let nolock = with(true);
    nolock.fill(&nolock.open("f"), 1, b'b');
    assert_eq!(nolock.outcomes(&["f"]), set(&["a4096", "a4096.4096", "a4096b4096"]));
    nolock.sync(&nolock.open("f")).unwrap();
    assert_eq!(nolock.outcomes(&["f"]), set(&["a4096b4096"]));
}
