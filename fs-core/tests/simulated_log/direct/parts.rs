//! Files in very many parts, which go without the log.

use super::*;

const PAGE: u64 = 4096;
const PARTS: u64 = 200;

/// A lab with a file of one page, one hole, one page, and so on, durable.
fn in_parts() -> (Lab, FileId) {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    (0..PARTS).for_each(|part| lab.write(file, 2 * part * PAGE, &[1; PAGE as usize]));
    assert_eq!(lab.sync(file), Ok(()));
    (lab, file)
}

/// Each sync asked for each hole what was in it: 25 ms for 20,000 holes, where the bare filesystem took
/// 0.1. Alone, such a file is now synced as its program asked, without a journal commit of ours.
#[test]
fn a_file_in_very_many_parts_is_synced_by_itself() {
    let (lab, file) = in_parts();
    let ways = || {
        let status = lab.engine.status();
        (status.lanes.groups, status.lanes.file_sync_groups, status.log.expect("a log").commits)
    };
    let (groups, synced, commits) = ways();
    // A part of it, a hole, its end.
    for (round, page) in (2..).zip([0, 1, 2 * PARTS]) {
        lab.write(file, page * PAGE, &[round; PAGE as usize]);
        assert_eq!(lab.sync(file), Ok(()));
    }
    assert_eq!(ways(), (groups + 3, synced + 3, commits));
    // Behind the last of them, and not asked for.
    lab.write(file, 4 * PAGE, &[9; PAGE as usize]);
    lab.all(|disk| {
        let found = content(disk, "a").expect("its name was synced");
        let page = |page: u64| found[(page * PAGE) as usize..][..PAGE as usize].to_vec();
        assert_eq!(found.len() as u64, (2 * PARTS + 1) * PAGE);
        for (round, number) in (2..).zip([0, 1, 2 * PARTS]) {
            assert_eq!(page(number), [round; PAGE as usize], "page {number}");
        }
        assert_eq!(page(3), [0; PAGE as usize]);
    });
    // What was done besides goes with it, by one journal commit for all.
    lab.create("b");
    lab.write(file, 0, &[5; PAGE as usize]);
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!(ways().2, commits + 1);
    lab.all(|disk| {
        assert_eq!(content(disk, "b"), Some(Vec::new()));
        assert_eq!(content(disk, "a").expect("it is there")[0], 5);
    });
}

/// Several threads, each on a file in very many parts: their group was a journal commit, with which ext4 on a fast disk did
/// a tenth of what the bare filesystem does. Now they are synced each, all at once; with a file that the log
/// is good for among them, a commit is as good.
#[test]
fn several_files_in_very_many_parts_are_synced_each() {
    let (lab, first) = in_parts();
    let (_, second) = lab.create("b");
    (0..PARTS).for_each(|part| lab.write(second, 2 * part * PAGE, &[1; PAGE as usize]));
    let (_, small) = lab.create("c");
    assert_eq!(lab.sync(second), Ok(()));
    let together = |files: &[FileId]| {
        let before = lab.engine.status();
        lab.write(small, 0, b"an overwrite");
        let (tree, files) = (Arc::clone(&lab.tree), files.to_vec());
        let (sender, answers) = channel();
        let count = files.len();
        lab.within(FencePoint::LogFlush, move || {
            for &file in &files {
                let sender = sender.clone();
                let done = Box::new(move |result| sender.send(result).expect("it listens"));
                tree.sync_file(NOBODY, file, SyncKind::Data, done);
            }
        });
        assert_eq!(lab.sync(small), Ok(()));
        lab.backing.on_fence(None);
        assert_eq!(answers.iter().take(count).collect::<Vec<_>>(), vec![Ok(()); count]);
        let (lanes, after) = (before.lanes, lab.engine.status());
        assert_eq!(
            after.lanes.groups,
            lanes.groups + 2,
            "one, and one of those that came meanwhile"
        );
        let commits = after.log.expect("a log").commits - before.log.expect("a log").commits;
        (after.lanes.file_sync_groups - lanes.file_sync_groups, commits)
    };
    lab.write(small, 0, b"something new");
    assert_eq!(lab.sync(small), Ok(()));
    for (file, value) in [(first, 5), (second, 6)] {
        // A part of it, a hole.
        (0..2).for_each(|page| lab.write(file, page * PAGE, &[value; PAGE as usize]));
    }
    assert_eq!(together(&[first, second]), (1, 0));
    lab.all(|disk| {
        for (file, value) in [("a", 5), ("b", 6)] {
            let found = content(disk, file).expect("its name was synced");
            assert_eq!(found[..2 * PAGE as usize], [value; 2 * PAGE as usize], "{file}");
        }
    });
    let (_, new) = lab.create("d");
    assert_eq!(lab.sync(new), Ok(()));
    lab.write(new, 0, b"for the log");
    lab.write(first, 0, &[7; PAGE as usize]);
    assert_eq!(together(&[new, first]), (0, 1));
    lab.all(|disk| {
        assert_eq!(content(disk, "a").expect("it is there")[0], 7);
        assert_eq!(content(disk, "d").as_deref(), Some(&b"for the log"[..]));
    });
}

/// A file whose holes were filled is found to be in one part, after a while, and has the log again.
#[test]
fn a_file_whose_holes_were_filled_returns_to_the_log() {
    let (lab, file) = in_parts();
    (0..PARTS).for_each(|part| lab.write(file, (2 * part + 1) * PAGE, &[2; PAGE as usize]));
    let flushes = || lab.engine.status().lanes.flush_groups;
    for round in 0..260 {
        lab.write(file, 0, &[round as u8; PAGE as usize]);
        assert_eq!(lab.sync(file), Ok(()));
    }
    let before = flushes();
    lab.write(file, 0, b"an overwrite");
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!(flushes(), before + 1, "written in place and flushed");
}

/// A program cuts such a file while its sync is under way: the pages may be gone before they are
/// written, and then the cut has to be durable.
#[test]
fn a_file_in_parts_that_is_cut_while_it_is_synced_is_cut() {
    let (lab, file) = in_parts();
    lab.write(file, 0, &[3; PAGE as usize]);
    let node = lab.tree.lookup(NodeId::ROOT, name("a")).expect("it is there").id;
    let (tree, is_cut) = (Arc::clone(&lab.tree), Arc::new(AtomicU32::new(0)));
    let cuts = Arc::clone(&is_cut);
    lab.within(FencePoint::WriteBack, move || {
        cuts.fetch_add(1, Ordering::Relaxed);
        let change = SetAttr { size: Some(0), ..SetAttr::default() };
        tree.set_attr(NOBODY, node, None, &change).expect("any length is fine");
    });
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.on_fence(None);
    assert_eq!(is_cut.load(Ordering::Relaxed), 1);
    lab.all(|disk| {
        let found = content(disk, "a").expect("its name was synced");
        assert!(found.is_empty() || found[0] == 3, "{} bytes, {:?}", found.len(), found.first());
    });
}
