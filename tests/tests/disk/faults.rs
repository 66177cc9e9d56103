//! Faults on command.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tests::disk::{Disk, DiskOptions, Fault};

use super::{Block, alone, beside_others, disk, open_direct, write_block};

fn try_write(device: &File, number: u64) -> Option<Errno> {
    errno(device.write_all_at(&Block::of(9).0, number * 4096))
}

fn try_flush(device: &File) -> Option<Errno> {
    errno(device.sync_data())
}

fn errno(outcome: io::Result<()>) -> Option<Errno> {
    outcome.err().map(|error| Errno::from_io_error(&error).expect("an errno"))
}

#[test]
fn the_nth_write_fails_and_changes_nothing() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    disk.inject(Fault::WriteError(3));
    let outcomes = [0, 1, 2, 3].map(|block| try_write(&device, block));
    assert_eq!(outcomes, [None, None, Some(Errno::IO), None]);
    assert_eq!(disk.cached().page_count(), 3);
    assert_eq!((disk.position().0, disk.counters().failures), (3, 1));
    assert_eq!(disk.check(), Ok(()));
}

#[test]
fn the_nth_flush_fails_and_makes_nothing_durable() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    disk.inject(Fault::FlushError(2));
    let durable_pages = |disk: &Disk| disk.record().durable(disk.position()).page_count();
    let expected = [(None, 1), (Some(Errno::IO), 1), (None, 3)];
    for (block, (outcome, pages)) in (0..).zip(expected) {
        write_block(&device, block, 1);
        assert_eq!(try_flush(&device), outcome);
        assert_eq!(durable_pages(&disk), pages);
    }
    disk.inject(Fault::AllFlushesFail);
    assert_eq!([try_flush(&device), try_flush(&device)], [Some(Errno::IO); 2]);
    disk.clear_faults();
    assert_eq!(try_flush(&device), None);
}

#[test]
fn without_space_only_what_was_written_before_can_be_written() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    write_block(&device, 5, 1);
    disk.inject(Fault::NoSpace);
    assert_eq!([try_write(&device, 5), try_write(&device, 6)], [None, Some(Errno::NOSPC)]);
    disk.clear_faults();
    assert_eq!(try_write(&device, 6), None);
}

#[test]
fn a_stuck_disk_answers_late() {
    let Some(_turn) = alone() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    for flush in [false, true] {
        let started = Instant::now();
        disk.inject(Fault::Stuck(Duration::from_millis(100)));
        let outcome = if flush { try_flush(&device) } else { try_write(&device, 0) };
        assert_eq!(outcome, None);
        let waited_ms = started.elapsed().as_millis();
        assert!((100..300).contains(&waited_ms), "{waited_ms} ms");
    }
}

// Also a flush that is waiting when the power goes: it must not be done afterwards.
#[test]
fn after_a_power_cut_everything_fails_and_nothing_is_recorded() {
    let Some(_turn) = beside_others() else { return };
    let mut disk = disk(DiskOptions::new(16).flush_time(Duration::from_millis(200)));
    let device = open_direct(&disk);
    write_block(&device, 0, 1);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| try_flush(&device));
        std::thread::sleep(Duration::from_millis(50));
        disk.inject(Fault::PowerCut);
        assert_eq!(flush.join().expect("no panic"), Some(Errno::IO));
    });
    let record = disk.record();
    assert_eq!([try_write(&device, 1), try_flush(&device)], [Some(Errno::IO); 2]);
    assert!(device.read_exact_at(&mut Block::of(0).0, 0).is_err());
    // Only a new disk has power again.
    disk.clear_faults();
    assert_eq!(try_write(&device, 1), Some(Errno::IO));
    assert_eq!((disk.position().0, disk.position()), (1, record.last_position()));
    assert_eq!(record.durable(disk.position()).page_count(), 0);
    drop(device);

    disk.load(record.durable(record.last_position()).clone()).expect("a new disk");
    let device = open_direct(&disk);
    assert_eq!([try_write(&device, 1), try_flush(&device)], [None; 2]);
    assert_eq!(disk.record().first_position(), record.last_position());
    assert_eq!(disk.cached().page_count(), 1);
}
