//! Devices that fail: nothing of the old is lost, and nobody is told that all is well.

use super::*;

/// The new content of a file that was renamed over another without a sync could not be written in
/// place, and it was renamed all the same: a power cut left neither the old content nor the new.
#[test]
fn what_cannot_be_written_replaces_nothing() {
    let lab = Lab::new();
    let (_, old) = lab.create("a");
    lab.write(old, 0, &[1; 5000]);
    assert_eq!(lab.sync(old), Ok(()));
    let (_, new) = lab.create("b");
    lab.write(new, 0, &[2; 5000]);
    lab.backing.fail_sync(1);
    let (from, to) = ((NodeId::ROOT, name("b")), (NodeId::ROOT, name("a")));
    assert_eq!(lab.tree.rename(from, to, RenameMode::default()), Err(Errno::IO));
    lab.backing.fail_sync(0);
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![1; 5000])));
    // Written again it does.
    lab.write(new, 0, &[3; 5000]);
    lab.rename("b", "a", RenameMode::default());
    lab.all(|disk| {
        let found = content(disk, "a");
        assert!(found == Some(vec![1; 5000]) || found == Some(vec![3; 5000]));
    });
}

/// A journal commit that failed, of a group that was too much for the log, counted as a failure of the
/// log: it was given up for good, with a message that named the wrong thing, and the commit tried again.
#[test]
fn a_commit_that_fails_is_told_and_the_log_is_not_given_up() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    // More than a group is good for.
    lab.write(file, 0, &[1; 1 << 20]);
    lab.backing.fail_commit(1);
    assert_eq!(lab.sync(file), Err(Errno::IO));
    let log = || lab.engine.status().log.expect("a log");
    assert_eq!((log().failure, log().groups, log().commits), (None, 0, 0));

    assert_eq!(lab.sync(file), Ok(()));
    lab.write(file, 1 << 20, &[2; 10]);
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!((log().failure, log().groups, log().commits), (None, 1, 1));
    let mut expected = vec![1; 1 << 20];
    expected.extend([2; 10]);
    lab.all(|disk| assert!(content(disk, "a").as_ref() == Some(&expected)));
}

/// A file that had replaced another without a sync was asked for, in a group that failed: the next
/// group had the rename and did not have the content.
#[test]
fn what_a_failed_group_was_to_have_is_in_the_next() {
    let lab = Lab::new();
    let (_, old) = lab.create("a");
    lab.write(old, 0, &[1; 5000]);
    assert_eq!(lab.sync(old), Ok(()));
    let (_, new) = lab.create("b");
    let content_of_new = vec![2; 1 << 20];
    lab.write(new, 0, &content_of_new);
    lab.rename("b", "a", RenameMode::default());
    lab.backing.fail_commit(1);
    assert_eq!(lab.sync(new), Err(Errno::IO));
    let (_, other) = lab.create("c");
    assert_eq!(lab.sync(other), Ok(()));
    lab.all(|disk| assert!(content(disk, "a").as_ref() == Some(&content_of_new)));
}

/// A file could not be written in place once: its pages counted as clean then, and the next attempt
/// succeeded without writing them. So the copy of what a rewritten file had held before went, and a power
/// cut left the file empty; and a file that had failed to replace another replaced it at the second try.
#[test]
fn what_was_lost_once_is_not_there_at_the_second_try() {
    let old = vec![1; 5000];
    // The log may have the new content.
    let whole = |disk: &SimBacking| {
        let found = content(disk, "a").expect("it is there");
        assert!(found == old || found == [2; 4000], "{} bytes", found.len());
    };
    let (lab, node, file) = Lab::while_rewriting(&old);
    lab.write(file, 0, &[2; 4000]);
    lab.backing.fail_sync(1);
    lab.tree.release(file);
    lab.backing.fail_sync(0);
    lab.all(whole);
    let file = lab.tree.open(NOBODY, node, READ_WRITE, false).expect("it opens");
    assert_eq!(lab.sync(file), Err(Errno::IO));
    lab.tree.release(file);
    lab.all(whole);
    assert_eq!(lab.engine.flush(Duration::ZERO), Err(Errno::IO));
    lab.all(whole);

    let (node_of_new, new) = lab.create("b");
    lab.write(new, 0, &[3; 5000]);
    lab.backing.fail_sync(1);
    let rename = || {
        let (from, to) = ((NodeId::ROOT, name("b")), (NodeId::ROOT, name("a")));
        lab.tree.rename(from, to, RenameMode::default())
    };
    assert_eq!(rename(), Err(Errno::IO));
    lab.backing.fail_sync(0);
    assert_eq!(rename(), Err(Errno::IO));
    lab.all(whole);

    // Both are whole again when they are written anew.
    let file = lab.tree.open(NOBODY, node, CUTTING, false).expect("it opens");
    lab.write(file, 0, &[4; 3000]);
    assert_eq!(lab.sync(file), Ok(()));
    assert_eq!(lab.engine.flush(Duration::ZERO), Ok(()));
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![4; 3000])));
    lab.cut(node_of_new, 0);
    lab.write(new, 0, &[5; 5000]);
    assert_eq!(rename(), Ok(()));
    assert_eq!(lab.engine.flush(Duration::ZERO), Ok(()));
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![5; 5000])));
}
