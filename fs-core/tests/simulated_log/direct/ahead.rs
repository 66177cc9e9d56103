//! Files with much to write, which are written ahead of their group.

use super::*;

const MUCH: usize = 3 << 20;

/// A program that synced a large file kept everybody waiting who synced anything, for as long as its
/// data took: 200 ms for 256 MiB, where the bare filesystem answered the others within 4.
#[test]
fn nobody_waits_for_a_large_file_of_others() {
    let lab = Lab::new();
    let (_, large) = lab.create("a");
    let (_, small) = lab.create("b");
    lab.write(large, 0, &[1; MUCH]);
    lab.write(small, 0, b"a line");
    let (sender, answers) = channel();
    let tree = Arc::clone(&lab.tree);
    // While the large one is being written.
    lab.within(FencePoint::WriteBack, move || {
        let (sender, told) = (sender.clone(), Arc::new(AtomicU32::new(0)));
        let tells = Arc::clone(&told);
        let done = move |result: Result<()>| {
            assert_eq!(result, Ok(()));
            tells.store(1, Ordering::Relaxed);
        };
        tree.sync_file(NOBODY, small, SyncKind::Data, Box::new(done));
        sender.send(told.load(Ordering::Relaxed)).expect("the test listens");
    });
    assert_eq!(lab.sync(large), Ok(()));
    assert_eq!(answers.try_recv(), Ok(1), "the small one was not answered meanwhile");
    lab.backing.on_fence(None);
    assert_eq!(lab.engine.status().lanes.written_ahead, 1);
    lab.all(|disk| {
        assert_eq!(content(disk, "a").as_deref(), Some(&[1; MUCH][..]));
        assert_eq!(content(disk, "b").as_deref(), Some(&b"a line"[..]));
    });
}

/// What cannot be written ahead counts as clean afterwards, and writing it again succeeds: the program
/// has to hear of it all the same, and a file that is not whole takes nobody's place.
#[test]
fn what_could_not_be_written_ahead_is_told() {
    let lab = Lab::new();
    let (_, old) = lab.create("a");
    lab.write(old, 0, b"old");
    assert_eq!(lab.sync(old), Ok(()));
    let (_, large) = lab.create("b");
    lab.write(large, 0, &[1; MUCH]);
    lab.backing.fail_sync(1);
    assert_eq!(lab.sync(large), Err(Errno::IO));
    assert_eq!(lab.engine.status().lanes.written_ahead, 1);
    let (from, to) = ((NodeId::ROOT, name("b")), (NodeId::ROOT, name("a")));
    assert_eq!(lab.tree.rename(from, to, RenameMode::default()), Err(Errno::IO));
    lab.all(|disk| assert_eq!(content(disk, "a").as_deref(), Some(&b"old"[..])));
}
