//! Reading, writing, memory, time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tests::disk::{Disk, DiskOptions, Image};
use tests::random::Random;
use tests::run;

use super::{Block, DEADLINE, alone, beside_others, disk, open_direct, write_block};

// Each of eight threads writes blocks of its own at random and reads some back; afterwards device,
// cached image and replayed record are the same. A server that mixes up the buffers of concurrent
// writes fails here.
#[test]
fn concurrent_writes_are_read_back() {
    let Some(_turn) = beside_others() else { return };
    const BLOCKS_PER_THREAD: usize = 256;
    let disk = disk(DiskOptions::new(64));
    thread::scope(|scope| {
        for number in 0..8 {
            let device = open_direct(&disk);
            scope.spawn(move || {
                let mut random = Random::new(number as u64);
                let mut expected = vec![[0; 4096]; BLOCKS_PER_THREAD];
                for _ in 0..2000 {
                    let index = random.below(BLOCKS_PER_THREAD);
                    let offset = ((number * BLOCKS_PER_THREAD + index) * 4096) as u64;
                    let mut block = Block::of(0);
                    if random.below(3) > 0 {
                        random.fill(&mut block.0);
                        expected[index] = block.0;
                        device.write_all_at(&block.0, offset).expect("a write");
                    } else {
                        device.read_exact_at(&mut block.0, offset).expect("a read");
                        assert!(block.0 == expected[index], "thread {number}, block {index}");
                    }
                }
            });
        }
    });
    assert_same_as_device(&disk);
}

// Discards and writes of zeros, by ioctl and by mkfs' own, punch holes: the pages are gone.
#[test]
fn discarded_pages_are_zeros_and_free() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(64));
    let device = open_direct(&disk);
    for block in 0..100 {
        write_block(&device, block, 7);
    }
    assert_eq!(disk.cached().page_count(), 100);
    for zero_out in [false, true] {
        let mut command = Command::new("blkdiscard");
        command.args(zero_out.then_some("--zeroout"));
        let offset = if zero_out { "8192" } else { "81920" };
        command.args(["--force", "--offset", offset, "--length", "40960"]).arg(disk.path());
        run::run(&mut command, DEADLINE).expect_success();
    }
    assert_eq!(disk.cached().page_count(), 80);
    assert_eq!(disk.counters().discards, 2);
    assert_same_as_device(&disk);
}

fn assert_same_as_device(disk: &Disk) {
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
    let device = open_direct(disk);
    let mut seen = Image::empty(disk.cached().size_bytes());
    let mut block = Block::of(0);
    for number in 0..seen.size_bytes() / 4096 {
        device.read_exact_at(&mut block.0, number * 4096).expect("a read");
        seen.write_at(number * 4096, &block.0);
    }
    assert_eq!(seen.first_difference(&disk.cached()), None, "device and image differ");
    assert_eq!(seen.hash(), disk.record().replay_all().hash());
}

#[test]
fn a_flush_takes_the_configured_time() {
    let Some(_turn) = alone() else { return };
    let disk = disk(DiskOptions::new(16));
    let device = open_direct(&disk);
    println!("flush time set   median    p90 (us, in the disk)");
    for time_us in [0, 100, 500, 1000, 2000, 5000, 8000, 10_000] {
        disk.set_flush_time(Duration::from_micros(time_us));
        let times = flush_times_us(&disk, &device);
        println!("{time_us:>14}{:>9.0}{:>7.0}", times[50], times[90]);
        // Never shorter. And half of them exact, on a machine that does other things as well.
        assert!(times[0] >= time_us as f64, "a flush of {time_us} us took {} us", times[0]);
        let late = |times: &[f64]| times[50] > time_us as f64 + 50.0;
        let again = || flush_times_us(&disk, &device);
        assert!(!late(&times) || !late(&again()) || !late(&again()), "{time_us} us: {times:?}");
    }
}

// Sorted.
fn flush_times_us(disk: &Disk, device: &File) -> Vec<f64> {
    let times = (0..101).map(|_| {
        let before = disk.counters();
        device.sync_data().expect("a flush");
        let flush = disk.counters().since(before);
        assert_eq!(flush.flushes, 1);
        flush.flush_time.as_secs_f64() * 1e6
    });
    let mut times = times.collect::<Vec<_>>();
    times.sort_by(f64::total_cmp);
    times
}

#[test]
fn bandwidth_is_shared_and_kept() {
    let Some(_turn) = alone() else { return };
    let disk = disk(DiskOptions::new(64));
    disk.set_bandwidth(Some(20 << 20));
    let write_5_mib = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for half in [0, 640] {
                let device = open_direct(&disk);
                scope.spawn(move || (half..half + 640).for_each(|n| write_block(&device, n, 1)));
            }
        });
        started.elapsed().as_secs_f64()
    };
    let times = [write_5_mib(), write_5_mib(), write_5_mib()];
    assert!(times.iter().all(|seconds| *seconds > 0.23), "5 MiB at 20 MiB/s: {times:?} s");
    assert!(times.iter().any(|seconds| *seconds < 0.4), "5 MiB at 20 MiB/s: {times:?} s");
}

// In a process of its own: nobody else's memory is counted.
#[test]
fn memory_is_used_for_what_was_written() {
    let Some(_turn) = beside_others() else { return };
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "content::memory_of_a_big_disk", "--ignored", "--nocapture"]);
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    print!("{}", outcome.stdout);
}

#[test]
#[ignore = "started by memory_is_used_for_what_was_written"]
fn memory_of_a_big_disk() {
    const MIB: u64 = 1 << 20;
    let disk = disk(DiskOptions::new(4096));
    let device = open_direct(&disk);
    let before = resident_bytes();
    let mut random = Random::new(1);
    for number in 0..100 * MIB / 4096 {
        let mut block = Block::of(0);
        random.fill(&mut block.0);
        // All over the disk.
        device.write_all_at(&block.0, number * 40 * 4096).expect("a write");
    }
    device.sync_all().expect("a flush");
    let (record, after) = (disk.record(), resident_bytes());
    let mib = (after - before) / MIB;
    println!("a 4 GiB disk with 100 MiB written, record included: {mib} MiB of memory");
    assert_eq!(disk.cached().page_count() * 4096, 100 * MIB);
    assert!(mib < 130, "{mib} MiB of memory, {} entries", record.last_position());
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the resident pages") * 4096
}
