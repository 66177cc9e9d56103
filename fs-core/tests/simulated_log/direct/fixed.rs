//! Bugs that the campaign has found, each in a few lines.

use super::*;

/// A file that was cut while the group with its content was written left no mark: if
/// the journal kept the cut, recovery brought the cut bytes back.
#[test]
fn a_cut_within_a_fence_stays() {
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    lab.write(file, 0, &[1; 3000]);
    let tree = Arc::clone(&lab.tree);
    lab.within(FencePoint::LogWrite, move || {
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        tree.set_attr(NOBODY, node, None, &cut).expect("a cut");
        tree.make_dir(NOBODY, NodeId::ROOT, name("later"), DIRECTORY).expect("a directory");
    });
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.on_fence(None);
    lab.all(|disk| {
        if content(disk, "a").is_some() && Walk::of(disk, false).names.len() > 1 {
            assert_eq!(content(disk, "a"), Some(Vec::new()), "the cut came before");
        }
    });
}

/// A file was cut between its write-back and the journal commit that its group became,
/// and its old length counted as committed. It grew again, within a block that was still
/// there: the next sync logged nothing of that page, and recovery made zeros of it.
#[test]
fn a_length_that_was_cut_within_a_fence_is_not_committed() {
    let lab = Lab::new();
    let ((node, file), (_, other), (_, first)) =
        (lab.create("a"), lab.create("b"), lab.create("c"));
    lab.write(file, 0, &[1; 20_000]);
    // More than a group is good for.
    lab.write(other, 0, &[1; 1 << 20]);
    lab.write(first, 0, &[1; 10]);
    let (tree, written_back) = (Arc::clone(&lab.tree), AtomicU32::new(0));
    lab.backing.on_fence(Some(Arc::new(move |point| match point {
        // Two that travel together, of which the first is written first.
        FencePoint::LogWrite if written_back.load(Ordering::Relaxed) == 0 => {
            for file in [file, other] {
                tree.sync_file(NOBODY, file, SyncKind::Full, Box::new(|_| {}));
            }
        }
        FencePoint::WriteBack if written_back.fetch_add(1, Ordering::Relaxed) == 2 => {
            let cut = SetAttr { size: Some(12_624), ..SetAttr::default() };
            tree.set_attr(NOBODY, node, None, &cut).expect("a cut");
        }
        _ => {}
    })));
    assert_eq!(lab.sync(first), Ok(()));
    lab.backing.on_fence(None);
    let status = lab.engine.status().log.expect("a log");
    assert_eq!((status.groups, status.commits), (1, 1), "the second group was a commit");
    lab.write(file, 14_095, &[2; 98]);
    lab.write(file, 19_299, &[3; 657]);
    assert_eq!(lab.sync(file), Ok(()));
    let mut expected = vec![0; 19_956];
    expected[..12_624].fill(1);
    expected[14_095..14_193].fill(2);
    expected[19_299..].fill(3);
    lab.all(|disk| assert!(content(disk, "a") == Some(expected.clone())));
}

/// A file was cut after its sync had begun to write it in place, and before it was written. The
/// cut took pages that were to be overwritten where they are, so that nothing else had them;
/// the sync was answered, and a crash that the cut did not survive showed what they had held before.
#[test]
fn a_file_that_is_cut_while_it_is_written_in_place_is_new_or_cut() {
    for is_logged in [true, false] {
        let lab = Lab::new();
        let (node, file) = lab.create("a");
        lab.write(file, 0, &[1; 8192]);
        assert_eq!(lab.sync(file), Ok(()));
        lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
        lab.write(file, 0, &[2; 4096]);
        let mut new = vec![1; 8192];
        new[..4096].fill(2);
        if is_logged {
            lab.write(file, 8192, &[2; 4096]);
            new.extend([2; 4096]);
        }
        let tree = Arc::clone(&lab.tree);
        lab.within(FencePoint::WriteBack, move || {
            let cut = SetAttr { size: Some(0), ..SetAttr::default() };
            tree.set_attr(NOBODY, node, None, &cut).expect("a cut");
        });
        assert_eq!(lab.sync(file), Ok(()));
        lab.backing.on_fence(None);
        lab.all(|disk| {
            let found = content(disk, "a").expect("it is there");
            assert!(found.is_empty() || found == new, "{} bytes", found.len());
        });
    }
}

/// A file that ends in a hole had its end nowhere: no page was to be logged.
#[test]
fn an_end_in_a_hole_is_durable() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    assert_eq!(lab.sync(file), Ok(()));
    lab.write(file, 0, &[1; 648]);
    lab.tree.allocate(NOBODY, file, 0x03, 0, 4096).expect("a hole");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![0; 648])));
}

/// A length that an operation had set, and the journal had kept, was set again by
/// recovery after it had been cut.
#[test]
fn an_extension_that_was_kept_is_not_repeated() {
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    lab.cut(node, 652);
    assert_eq!(lab.sync(file), Ok(()));
    lab.cut(node, 0);
    lab.tree.make_dir(NOBODY, NodeId::ROOT, name("later"), DIRECTORY).expect("a directory");
    lab.all(|disk| {
        if Walk::of(disk, false).names.len() > 1 {
            assert_eq!(content(disk, "a"), Some(Vec::new()), "the cut came before");
        }
    });
}

/// The bits of a symbolic link cannot be set: its change of owner stopped recovery.
#[test]
fn an_owner_of_a_link_can_be_recovered() {
    let lab = Lab::new();
    let link = lab.tree.make_symlink(NOBODY, NodeId::ROOT, name("link"), name("x")).expect("one");
    let owner = SetAttr { uid: Some(5), ..SetAttr::default() };
    lab.tree.set_attr(NOBODY, link.id, None, &owner).expect("another owner");
    let (_, file) = lab.create("a");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        let root = disk.root().expect("a root").object;
        let found = disk.lookup(&root, name("link")).expect("it was synced");
        assert_eq!(found.attr.uid, 5);
    });
}

/// A hole within a page left two pieces of it in the log, and recovery wrote one after the
/// other: a power cut in between could leave a block with the first, and a later attempt
/// took the whole block for content.
#[test]
fn a_page_with_a_hole_is_filled_at_once() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    lab.write(file, 0, &[1; 4096]);
    lab.write(file, 28_672, &[1; 3000]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.tree.allocate(NOBODY, file, 0x03, 1500, 300).expect("a hole");
    let (_, other) = lab.create("b");
    assert_eq!(lab.sync(other), Ok(()));
    let mut expected = vec![0; 31_672];
    expected[..1500].fill(1);
    expected[1800..4096].fill(1);
    expected[28_672..].fill(1);
    lab.all_interrupted(|image| assert!(content(image, "a") == Some(expected.clone())));
}

/// As above where the disk has the page up to that hole: the rest was written into its
/// block, in place, and a power cut could keep the new length without it.
#[test]
fn a_page_that_goes_on_behind_a_hole_gets_a_new_block() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    lab.write(file, 0, &[1; 1500]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.sync_all().expect("a sync");
    lab.write(file, 1500, &[1; 2500]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.tree.allocate(NOBODY, file, 0x03, 1500, 300).expect("a hole");
    let (_, other) = lab.create("b");
    assert_eq!(lab.sync(other), Ok(()));
    let mut expected = vec![1; 4000];
    expected[1500..1800].fill(0);
    lab.all_interrupted(|image| assert!(content(image, "a") == Some(expected.clone())));
}

/// A whiteout is an object of its own: what was done to it later was passed over when
/// recovery had made it anew.
#[test]
fn a_whiteout_can_be_removed() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    lab.rename("a", "b", RenameMode { whiteout: true, ..RenameMode::default() });
    lab.tree.unlink(NodeId::ROOT, name("a")).expect("a whiteout goes");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        assert_eq!(content(disk, "b"), Some(Vec::new()));
        assert_eq!(Walk::of(disk, false).names.len(), 1);
    });
}

/// Recovery that was interrupted after an exchange, before its marker, took each of two
/// objects that it had made anew for the other.
#[test]
fn an_interrupted_exchange_is_not_turned_back() {
    let lab = Lab::new();
    let ((_, one), (_, other)) = (lab.create("a"), lab.create("b"));
    lab.write(one, 0, b"one");
    lab.write(other, 0, b"the other");
    lab.rename("a", "b", RenameMode { exchange: true, ..RenameMode::default() });
    assert_eq!((lab.sync(one), lab.sync(other)), (Ok(()), Ok(())));
    lab.all_interrupted(|image| {
        assert_eq!(content(image, "b"), Some(b"one".to_vec()));
        assert_eq!(content(image, "a"), Some(b"the other".to_vec()));
    });
}

/// As above when a whiteout is renamed, which leaves one that looks the same: recovery that
/// was interrupted in between would move the new one too. (Never released.)
#[test]
fn an_interrupted_rename_of_a_whiteout_is_done_once() {
    let lab = Lab::new();
    let device = NewMode { mode: type_bits::S_IFCHR | 0o640, umask: 0 };
    lab.tree.make_node(NOBODY, NodeId::ROOT, name("a"), device, (0, 0)).expect("a whiteout");
    lab.rename("a", "b", RenameMode { whiteout: true, ..RenameMode::default() });
    let (_, file) = lab.create("c");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all_interrupted(|image| {
        let root = image.root().expect("a root").object;
        let perm = |text| image.lookup(&root, name(text)).expect("a device").attr.perm;
        assert_eq!((perm("b"), perm("a") == 0o640), (0o640, false));
    });
}

/// The mark of an operation that failed stood on: recovery carried the operation out, and
/// bytes were lost that a sync had promised.
#[test]
fn an_operation_that_failed_takes_nothing() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    lab.write(file, 0, &[1; 3000]);
    assert_eq!(lab.sync(file), Ok(()));
    // A hole that would change the length.
    let refused = lab.tree.allocate(NOBODY, file, 0x02, 0, 4096);
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
    lab.backing.sync_all().expect("a sync");
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![1; 3000])));
}

/// What comes and goes is left out of recovery, but not what it has replaced; recovery
/// used to make all of it, which took most of its time where programs replace files.
#[test]
fn what_comes_and_goes_is_left_out() {
    let lab = Lab::new();
    lab.create("a");
    lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
    for first in ["b", "c", "d"] {
        lab.create(first);
    }
    lab.create("new");
    lab.rename("new", "a", RenameMode::default());
    lab.tree.unlink(NodeId::ROOT, name("a")).expect("it goes");
    let (_, file) = lab.create("end");
    assert_eq!(lab.sync(file), Ok(()));
    let mut left_out = 0;
    for seed in 0..CRASHES {
        let crashed = lab.backing.crash(seed);
        let report = recover(&crashed, None, &mut |_| {}).expect("a recovery").expect("a log");
        left_out = left_out.max(report.left_out);
        let there = |text: &&str| content(&crashed, text).is_some();
        let found: Vec<_> = ["a", "b", "c", "d", "new", "end"].into_iter().filter(there).collect();
        assert_eq!(found, ["b", "c", "d", "end"]);
    }
    assert_eq!(left_out, 2, "making it, and its end; its rename removes another");
}

/// A file that was renamed over another, and replaced before anybody asked for a sync,
/// made a journal commit of the next group, though the log can say all of it.
#[test]
fn a_file_that_was_replaced_again_needs_no_commit() {
    let lab = Lab::new();
    lab.create("a");
    for content in [[1; 3000], [2; 3000]] {
        let (_, file) = lab.create("new");
        lab.write(file, 0, &content);
        lab.rename("new", "a", RenameMode::default());
        lab.tree.release(file);
    }
    let (_, other) = lab.create("other");
    assert_eq!(lab.sync(other), Ok(()));
    let status = lab.engine.log().expect("a log").status();
    assert_eq!((status.commits, status.groups), (0, 1));
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![2; 3000])));
}

/// Marks went before the old groups did: a power cut in between brought cut bytes back.
#[test]
fn marks_stay_as_long_as_the_groups() {
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    lab.write(file, 0, &[1; 3000]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.cut(node, 0);
    lab.backing.sync_all().expect("a sync");
    let Lab { backing, engine, tree } = lab;
    drop((tree, engine));
    let images = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (taken, disk) = (Arc::clone(&images), backing.clone());
    backing.on_fence(Some(Arc::new(move |_| {
        taken.lock().expect("one thread").extend((0..20).map(|seed| disk.crash(seed)));
    })));
    let again = Lab::on(backing.clone());
    backing.on_fence(None);
    drop(again);
    for image in images.lock().expect("one thread").iter() {
        recover(image, None, &mut |_| {}).expect("a recovery");
        assert_eq!(content(image, "a"), Some(Vec::new()));
    }
}

/// The last writer of a file closed it while a reader's sync waited: `EBADF`.
#[test]
fn a_readers_sync_outlives_the_last_writer() {
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    let (_, leads) = lab.create("b");
    lab.write(file, 0, &[1; 3000]);
    let mode = OpenMode { write: false, ..READ_WRITE };
    let reader = lab.tree.open(NOBODY, node, mode, false).expect("it opens");
    let (sender, answer) = channel();
    let tree = Arc::clone(&lab.tree);
    lab.within(FencePoint::LogWrite, move || {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send(result).expect("somebody listens"));
        tree.sync_file(NOBODY, reader, SyncKind::Full, done);
        tree.release(file);
    });
    assert_eq!(lab.sync(leads), Ok(()));
    lab.backing.on_fence(None);
    assert_eq!(answer.try_recv(), Ok(Ok::<(), Errno>(())));
    lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![1; 3000])));
}

/// A rename onto the same object had the log forget a file that lives: the next to open
/// it did not know of the group that was being written, and left no mark.
#[test]
fn a_rename_onto_itself_removes_nothing() {
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    lab.write(file, 0, &[1; 3000]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.tree.release(file);
    lab.rename("a", "a", RenameMode::default());
    let file = lab.tree.open(NOBODY, node, READ_WRITE, false).expect("it opens");
    lab.cut(node, 0);
    lab.tree.make_dir(NOBODY, NodeId::ROOT, name("later"), DIRECTORY).expect("a directory");
    lab.all(|disk| {
        if Walk::of(disk, false).names.len() > 1 {
            assert_eq!(content(disk, "a"), Some(Vec::new()), "the cut came before");
        }
    });
    lab.tree.release(file);
    lab.engine.close(Duration::ZERO).expect("an end");
}

/// The first group had skipped the end of the tail's segment; when the log went round
/// and used that space, a good log was refused as damaged.
#[test]
fn a_log_that_goes_all_the_way_round_is_good() {
    let shape = LogShape { segments: 2, segment_bytes: 8 << 10, elsewhere: false };
    let options = SimOptions::new(DurabilityModel::Ext4Ordered, 7);
    let lab = Lab::with(new_disk(options, shape), shape);
    let synced = |text: &str, bytes: usize| {
        let (_, file) = lab.create(text);
        lab.write(file, 0, &vec![7; bytes]);
        assert_eq!(lab.sync(file), Ok(()));
    };
    // The first block of the first segment; the tail comes behind it.
    synced("a", 10);
    lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
    // A whole segment, so the second; then both blocks of the first.
    synced("b", 5000);
    synced("c", 10);
    synced("d", 10);
    lab.all(|disk| assert_eq!(content(disk, "d"), Some(vec![7; 10])));
}

/// A file, and one that replaces another: syncing the first writes the second in place
/// too, which is when others can act between the first's write-back and its reading.
fn one_and_a_replacement(model: DurabilityModel) -> (Lab, FileId) {
    let lab = Lab::on(new_disk(SimOptions::new(model, 7), SHAPE));
    let (_, file) = lab.create("a");
    lab.write(file, 0, &[1; 336]);
    assert_eq!(lab.sync(file), Ok(()));
    let (_, other) = lab.create("b");
    lab.write(other, 0, &[2; 100]);
    lab.create("c");
    lab.rename("b", "c", RenameMode::default());
    lab.write(file, 0, &[3; 336]);
    (lab, file)
}

/// A page that was extended between write-back and reading counted as committed to its
/// new end after a checkpoint, though the journal had the old length.
#[test]
fn a_late_extension_is_not_committed() {
    let (lab, file) = one_and_a_replacement(DurabilityModel::Xfs);
    let tree = Arc::clone(&lab.tree);
    lab.within_nth(FencePoint::WriteBack, 2, move || {
        assert_eq!(tree.write(NOBODY, file, &[3; 2664], 336, true), Ok(2664));
    });
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.on_fence(None);
    lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
    for _ in 0..2 {
        assert_eq!(lab.sync(file), Ok(()));
        lab.all(|disk| assert_eq!(content(disk, "a"), Some(vec![3; 3000])));
    }
}

/// A file that was extended by `fallocate` between write-back and reading was recovered
/// with the length of an operation that the group does not hold.
#[test]
fn a_late_allocation_is_not_ahead_of_its_operation() {
    let (lab, file) = one_and_a_replacement(DurabilityModel::Ext4Ordered);
    let tree = Arc::clone(&lab.tree);
    lab.within_nth(FencePoint::WriteBack, 2, move || {
        tree.make_dir(NOBODY, NodeId::ROOT, name("earlier"), DIRECTORY).expect("a directory");
        tree.allocate(NOBODY, file, 0, 0, 9000).expect("there is room");
    });
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.on_fence(None);
    lab.all(|disk| {
        let bytes = content(disk, "a").expect("it was synced").len();
        assert!(bytes <= 336 || Walk::of(disk, false).names.len() == 3, "{bytes}");
    });
}

/// A stranger's write takes set-user-id away, and that was in no record: recovery gave the
/// bit that a chmod had set back to the content that the stranger had written and synced.
#[test]
fn set_user_id_does_not_come_back() {
    const STRANGER: Caller = Caller { uid: 7, ..NOBODY };
    let lab = Lab::new();
    let (node, file) = lab.create("a");
    let special = SetAttr { perm: Some(0o4755), ..SetAttr::default() };
    lab.tree.set_attr(NOBODY, node, None, &special).expect("chmod");
    assert_eq!(lab.tree.write(STRANGER, file, b"strange", 0, false), Ok(7));
    assert_eq!(lab.tree.attr(node).expect("it is there").perm, 0o755);
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        let root = disk.root().expect("a root").object;
        let found = disk.lookup(&root, name("a")).expect("it was synced");
        assert_eq!(found.attr.perm, 0o755);
    });
}

/// A rename onto another name of the same object does nothing. With a whiteout asked for,
/// and a device moved, the device at the old name was taken for the whiteout and logged as
/// made: recovery, which believed that, lost a name of it.
#[test]
fn a_device_renamed_onto_itself_leaves_no_whiteout() {
    let lab = Lab::new();
    let device = NewMode { mode: type_bits::S_IFCHR | 0o666, umask: 0 };
    let made = lab.tree.make_node(NOBODY, NodeId::ROOT, name("a"), device, (1, 3));
    lab.tree.link(made.expect("a device").id, NodeId::ROOT, name("b")).expect("a link");
    lab.rename("a", "b", RenameMode { whiteout: true, ..RenameMode::default() });
    lab.rename("b", "c", RenameMode::default());
    let (_, file) = lab.create("d");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        let root = disk.root().expect("a root").object;
        let links = |text| disk.lookup(&root, name(text)).map(|found| found.attr.nlink);
        assert_eq!((links("a"), links("b"), links("c")), (Ok(2), Err(Errno::NOENT), Ok(2)));
    });
}

/// A batch said of a new file that it took the place of what was there when the batch was
/// planned. Whatever had come to stand there meanwhile had a name for recovery that it had
/// lost, and was found under it.
#[test]
fn a_batch_says_what_it_has_replaced() {
    let lab = Lab::new();
    lab.create("kept");
    lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
    // The first that are made behind the marker are never left out.
    for first in ["b", "c", "d"] {
        lab.create(first);
    }
    let replace = |from: &str| {
        let (_, file) = lab.create(from);
        lab.tree.write_back(NOBODY, file).expect("it is empty");
        NameChange::Replace {
            file: Some(file),
            dir: NodeId::ROOT,
            temporary: name(from).to_owned(),
            name: name("a").to_owned(),
        }
    };
    let changes = [replace("one"), replace("other")];
    let changed = lab.tree.change_names(&changes).expect("it is prepared");
    assert_eq!((changed.done, changed.result), (2, Ok(())));
    lab.tree.unlink(NodeId::ROOT, name("a")).expect("it goes");
    let (_, file) = lab.create("end");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        let there = |text: &&str| content(disk, text).is_some();
        let found: Vec<_> =
            ["a", "one", "other", "kept", "end"].into_iter().filter(there).collect();
        assert_eq!(found, ["kept", "end"]);
    });
}

/// The temporary files of a batch come and go within the log, and so do those that it puts
/// in place if later ones replace them: leaving them out takes nothing from the batch.
#[test]
fn a_batch_whose_files_are_replaced_is_recovered_whole() {
    let lab = Lab::new();
    for old in ["a", "b"] {
        let (_, file) = lab.create(old);
        lab.write(file, 0, b"old");
        assert_eq!(lab.sync(file), Ok(()));
    }
    lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
    for bytes in [b"one", b"two"] {
        let replace = |text: &str| {
            let temporary = format!("new-{text}");
            let (_, file) = lab.create(&temporary);
            lab.write(file, 0, bytes);
            lab.tree.write_back(NOBODY, file).expect("it is written");
            NameChange::Replace {
                file: Some(file),
                dir: NodeId::ROOT,
                temporary: temporary.into(),
                name: text.into(),
            }
        };
        let changes = [replace("a"), replace("b")];
        let changed = lab.tree.change_names(&changes).expect("it is prepared");
        assert_eq!((changed.done, changed.result), (2, Ok(())));
        // Without a sync: the journal may have any part of it.
        for seed in 0..CRASHES {
            let crashed = lab.backing.crash(seed);
            recover(&crashed, None, &mut |_| {}).expect("a recovery");
            assert_eq!(content(&crashed, "a"), content(&crashed, "b"));
        }
    }
    let (_, file) = lab.create("end");
    assert_eq!(lab.sync(file), Ok(()));
    lab.all(|disk| {
        assert_eq!(content(disk, "a"), Some(b"two".to_vec()));
        assert_eq!(content(disk, "b"), Some(b"two".to_vec()));
    });
}

/// A daemon was killed between the mark of an operation and the operation: the next mount
/// carried it out, which nobody had been told and nobody saw before that mount. Had it been
/// killed right behind the operation, what was written there since would have been lost.
#[test]
fn a_restart_carries_nothing_out() {
    let lab = Lab::new();
    let (_, file) = lab.create("a");
    lab.write(file, 0, &[1; 20_000]);
    assert_eq!(lab.sync(file), Ok(()));
    lab.tree.allocate(NOBODY, file, 0x03, 0, 4096).expect("a hole");
    let Lab { backing, engine, tree } = lab;
    drop((tree, engine));
    let home = backing.lookup(&backing.root().expect("a root").object, name(HOME_NAME));
    let marks = backing.lookup(&home.expect("a log").object, name("marks")).expect("marks").object;
    let mut names = Vec::new();
    let directory = backing.open_dir(&marks).expect("it opens");
    let listed = backing.read_dir(&directory, 0, &mut |entry| {
        names.push(entry.name.to_str().expect("ASCII").to_owned());
        true
    });
    assert_eq!(listed, Ok(()));
    names.retain(|name| name.ends_with("-a-3-0-1000"));
    assert_eq!(names.len(), 1, "the mark of the hole: {names:?}");
    let (lsn, rest) = names[0].split_once('-').expect("a number comes first");
    let next = 1 + u64::from_str_radix(lsn, 16).expect("a number");
    let mark = format!("{next:x}-{}", rest.replace("-a-3-0-1000", "-a-3-2000-1000"));
    backing.make_node(NOBODY, &marks, name(&mark), FILE, (0, 0)).expect("a mark");

    let lab = Lab::on(backing);
    let mut expected = vec![1; 20_000];
    expected[..4096].fill(0);
    assert!(content(&lab.backing, "a") == Some(expected.clone()), "as before");
    // Nor is the mark taken for that of the operation that gets its number.
    let (_, other) = lab.create("b");
    assert_eq!(lab.sync(other), Ok(()));
    lab.all(|disk| assert!(content(disk, "a") == Some(expected.clone())));
}

/// A program synced its file, and another thread of it cut the file again meanwhile, to
/// start over. The copy was still that of what had been there before all of it: a power
/// cut brought it back over what the sync had promised.
#[test]
fn what_was_there_before_does_not_come_back_over_a_sync() {
    let disk = new_disk(SimOptions::new(DurabilityModel::Ext4Ordered, 7), SHAPE);
    let lab = Lab::rewriting(disk, SHAPE, 1 << 20);
    let (node, first) = lab.create("a");
    lab.write(first, 0, &[1; 5000]);
    assert_eq!(lab.sync(first), Ok(()));
    lab.tree.release(first);
    let cut = OpenMode { truncate: true, ..READ_WRITE };
    let file = lab.tree.open(NOBODY, node, cut, false).expect("it opens");
    lab.write(file, 0, &[2; 3000]);
    let tree = Arc::clone(&lab.tree);
    lab.within(FencePoint::WriteBack, move || {
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        tree.set_attr(NOBODY, node, Some(file), &cut).expect("a cut");
        tree.write(NOBODY, file, &[3; 100], 0, true).expect("a write");
    });
    assert_eq!(lab.sync(file), Ok(()));
    lab.backing.on_fence(None);
    lab.all(|disk| {
        let found = content(disk, "a").expect("it was synced");
        assert!(found != [1; 5000], "older than the sync");
    });
}
