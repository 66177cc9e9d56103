//! Content that is left to the log because it has no blocks yet.

use super::*;

const PAGE: usize = 4096;

impl Lab {
    /// A file "a", synced once, and then page after page of which nothing had to be written in place.
    fn with_content_left() -> (Self, FileId, Vec<u8>) {
        let lab = Self::new();
        let (_, file) = lab.create("a");
        let mut expected = Vec::new();
        // The disk begins to write by itself now and then.
        while lab.left_bytes("a") < 3 * PAGE as u64 {
            lab.write(file, expected.len() as u64, &[1 + (expected.len() / PAGE) as u8; PAGE]);
            expected.resize(expected.len() + PAGE, 1 + (expected.len() / PAGE) as u8);
            assert_eq!(lab.sync(file), Ok(()));
            assert!(expected.len() < 60 * PAGE, "nothing is ever left");
        }
        (lab, file, expected)
    }

    /// Somebody's who does not use the mount.
    fn opened(&self, text: &str) -> <SimBacking as Backing>::File {
        let root = self.backing.root().expect("a root").object;
        let found = self.backing.lookup(&root, name(text)).expect("it is there");
        self.backing.open(NOBODY, &found.object, READ_WRITE).expect("it opens")
    }

    fn left_bytes(&self, text: &str) -> u64 {
        self.backing.unwritten_bytes(&self.opened(text)).expect("it is told")
    }

    /// Makes what the log has durable without it, and then that it is free.
    fn frees_the_log(&self) {
        assert_eq!((self.checkpoint(), self.checkpoint()), (Ok(()), Ok(())));
        assert_eq!(self.engine.status().log.expect("a log").used_ratio, 0.0);
    }

    fn holds(&self, expected: &[u8]) {
        self.all(|disk| assert!(content(disk, "a").as_deref() == Some(expected)));
    }

    fn checkpoint(&self) -> Result<()> {
        self.engine.log().expect("a log").checkpoint()
    }
}

#[test]
fn what_is_left_to_the_log_is_written_by_the_next_checkpoint() {
    let (lab, file, mut expected) = Lab::with_content_left();
    lab.holds(&expected);
    lab.frees_the_log();
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
    // What has a block now is written in place again.
    lab.write(file, 0, &[99; PAGE]);
    expected[..PAGE].fill(99);
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
}

/// Whoever has the disk write a page before it is changed and synced: its block may hold the older
/// content, which recovery would take for the newer.
#[test]
fn what_has_a_block_is_not_left_to_the_log() {
    let (lab, file, mut expected) = Lab::with_content_left();
    let at = expected.len() - PAGE;
    assert_eq!(lab.backing.finish_write_back(&lab.opened("a")), Ok(()));
    lab.write(file, at as u64, &[99; PAGE]);
    expected[at..].fill(99);
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
}

/// The log alone has it: as long as it cannot be written in place the log must not be free, whoever
/// was told of the failure. The next start fills it in.
#[test]
fn what_cannot_be_written_stays_in_the_log() {
    let (lab, file, expected) = Lab::with_content_left();
    let used = || lab.engine.status().log.expect("a log").used_ratio;
    let used_before = used();
    // Its pages count as clean then, and writing them succeeds.
    lab.backing.fail_sync(1);
    assert_eq!(lab.backing.finish_write_back(&lab.opened("a")), Err(Errno::IO));
    assert_eq!(lab.checkpoint(), Err(Errno::IO));
    lab.holds(&expected);
    assert_eq!(lab.checkpoint(), Err(Errno::IO));
    assert_eq!(lab.engine.flush(Duration::ZERO), Err(Errno::IO));
    assert!(used() >= used_before);
    lab.holds(&expected);
    // Its program is told, and others are served.
    assert_eq!(lab.sync(file), Err(Errno::IO));
    let (_, other) = lab.create("b");
    lab.write(other, 0, b"other");
    for round in 0..100_u64 {
        lab.write(other, round * PAGE as u64, &[7; PAGE]);
        assert_eq!(lab.sync(other), Ok(()));
    }
    let log = lab.engine.status().log.expect("a log");
    assert!(log.full > 0 && log.failure.is_none(), "{log:?}");
    // A log that was full to the last byte was said to be empty.
    assert!(log.used_ratio > 0.7, "{log:?}");
    lab.all(|disk| {
        assert!(content(disk, "a").as_ref() == Some(&expected));
        assert!(content(disk, "b") == Some(vec![7; 100 * PAGE]));
    });
    // The kernel lives, and its pages of the file are lost.
    let Lab { backing, engine, tree } = lab;
    drop((tree, engine));
    let lab = Lab::on(backing);
    assert_eq!(lab.engine.flush(Duration::ZERO), Ok(()));
    lab.holds(&expected);
}

/// The log is full: a journal commit frees it, which knows nothing of what others have left to it.
#[test]
fn a_full_log_is_not_free_before_what_others_left_is_written() {
    let (lab, _, expected) = Lab::with_content_left();
    let (_, other) = lab.create("b");
    let mut rounds = 0;
    while lab.engine.status().log.expect("a log").full == 0 {
        lab.write(other, rounds * PAGE as u64, &[7; PAGE]);
        assert_eq!(lab.sync(other), Ok(()));
        rounds += 1;
        assert!(rounds < 100, "it is never full");
    }
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
}

/// The log fails: what is in it may be gone with it.
#[test]
fn what_is_left_to_a_log_that_fails_is_written_with_the_next_group() {
    let (lab, file, mut expected) = Lab::with_content_left();
    let (_, other) = lab.create("b");
    lab.write(other, 0, b"other");
    lab.backing.fail_log_write(1);
    assert_eq!(lab.sync(other), Ok(()));
    assert!(lab.engine.status().log.expect("a log").failure.is_some());
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
    lab.write(file, expected.len() as u64, &[50; PAGE]);
    expected.extend([50; PAGE]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.holds(&expected);
}

/// A cut drops the page that it ends in whole from what is compared with the log; what is left of it
/// was promised all the same.
#[test]
fn what_a_cut_leaves_of_a_page_is_written_by_the_next_checkpoint() {
    let (lab, _, mut expected) = Lab::with_content_left();
    let root = lab.tree.lookup(NodeId::ROOT, name("a")).expect("it is there");
    expected.truncate(expected.len() - 1000);
    lab.cut(root.id, expected.len() as u64);
    let (_, other) = lab.create("b");
    assert_eq!(lab.sync(other), Ok(()), "the cut is durable with it");
    assert_eq!(lab.checkpoint(), Ok(()));
    assert_eq!(lab.left_bytes("a"), 0);
    lab.holds(&expected);
}

/// A file that is gone has nothing to be written, and keeps no log from being free.
#[test]
fn what_is_left_of_a_removed_file_is_forgotten() {
    let (lab, file, _) = Lab::with_content_left();
    lab.tree.unlink(NodeId::ROOT, name("a")).expect("it goes");
    assert_eq!(lab.checkpoint(), Ok(()));
    lab.tree.release(file);
    let (_, other) = lab.create("b");
    assert_eq!(lab.sync(other), Ok(()));
    lab.frees_the_log();
    assert_eq!(lab.engine.flush(Duration::ZERO), Ok(()));
    assert_eq!(lab.engine.status().log.expect("a log").tracked_files, 1, "it is tracked for ever");
    lab.all(|disk| assert_eq!(content(disk, "a"), None));
}

/// A hole took the pages that were left, and with them what would have told the journal the file's length: the
/// log was free, and a power cut left the file shorter than it had been synced.
#[test]
fn the_length_is_not_left_behind_with_pages_that_become_a_hole() {
    const ZERO_RANGE: u32 = 0x10;
    let (lab, file, expected) = Lab::with_content_left();
    let end = expected.len() as u64;
    // Not synced; the hole ends below it.
    lab.write(file, end + 4 * PAGE as u64, b"more");
    lab.tree.allocate(NOBODY, file, ZERO_RANGE, PAGE as u64, end).expect("a hole");
    assert_eq!(lab.checkpoint(), Ok(()));
    lab.all(|disk| {
        let bytes = content(disk, "a").expect("it is there").len() as u64;
        assert!(bytes >= end, "{bytes}, not {end}");
    });
}
