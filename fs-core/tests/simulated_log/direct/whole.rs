//! New content is whole or not there, wherever the power is cut.

use super::*;

/// A group with the end of a rewrite was in the log, and neither flushed nor was the data in place that
/// it had been written beside: recovery took the rewrite for ended and the blocks that the disk had
/// for its content. A part of the last page was missing.
#[test]
fn a_rewrite_whose_end_is_not_flushed_is_old_or_new() {
    let (old, new) = (vec![1; 5000], vec![2; 5000]);
    let (lab, _, file) = Lab::while_rewriting(&old);
    lab.write(file, 0, &new[..4500]);
    // The kernel writes it by itself, and commits its journal.
    lab.backing.sync_all().expect("a sync");
    lab.write(file, 4500, &new[4500..]);
    lab.all_while_flushing(file, |found| found == old || found == new);
}

/// The same as for a rewrite, for a file that takes another's name, unsynced: one that the kernel had
/// written in part, and one that was durable and was overwritten since.
#[test]
fn a_replacement_that_is_not_flushed_is_old_or_new() {
    for was_durable in [false, true] {
        let lab = Lab::new();
        let (old, new) = (vec![1; 5000], vec![2; 5000]);
        let (_, file) = lab.create("a");
        lab.write(file, 0, &old);
        assert_eq!(lab.sync(file), Ok(()));
        let (_, file) = lab.create("b");
        if was_durable {
            lab.write(file, 0, &[3; 5000]);
            assert_eq!(lab.sync(file), Ok(()));
            lab.engine.log().expect("a log").checkpoint().expect("a checkpoint");
            lab.write(file, 0, &new);
        } else {
            lab.write(file, 0, &new[..4500]);
            lab.backing.sync_all().expect("a sync");
            lab.write(file, 4500, &new[4500..]);
        }
        lab.rename("b", "a", RenameMode::default());
        lab.all_while_flushing(file, |found| found == old || found == new);
    }
}

/// That a rewrite had ended stood in the log alone, and the log was emptied before the copy of the old
/// content was gone: a cut right then, and the next recovery put back what had been synced away.
#[test]
fn an_ended_rewrite_stays_when_recovery_is_cut_at_its_end() {
    let new = vec![2; 6000];
    let (lab, _, file) = Lab::while_rewriting(&[1; 5000]);
    lab.write(file, 0, &new);
    // The copy is durable, its removal is not.
    lab.backing.sync_all().expect("a sync");
    assert_eq!(lab.sync(file), Ok(()));
    let mut cut = 0;
    for seed in 0..CRASHES {
        let disk = lab.backing.crash(seed);
        let (images, inner) = (Arc::new(Mutex::new(Vec::new())), disk.clone());
        let taken = Arc::clone(&images);
        disk.on_fence(Some(Arc::new(move |_| {
            taken.lock().expect("one thread").extend((0..5).map(|seed| inner.crash(seed)));
        })));
        recover(&disk, None, &mut |_| {}).expect("a recovery");
        disk.on_fence(None);
        for image in std::mem::take(&mut *images.lock().expect("one thread")) {
            recover(&image, None, &mut |_| {}).expect("a second recovery");
            assert_eq!(content(&image, "a").as_ref(), Some(&new));
            cut += 1;
        }
    }
    assert!(cut > CRASHES, "{cut} cuts");
}
