//! Bare ext4 on the disk: known flush counts, and a record that holds under a mixed load.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tests::disk::{Disk, DiskOptions};
use tests::random::Random;

use super::{alone, beside_others, disk, make_ext4, median};

/// What a second or two of appends cost.
struct Cost {
    flushes: f64,
    writes: f64,
    ops_per_s: f64,
    p50_us: f64,
}

// W threads, each its own file: append 4 KiB, fdatasync.
fn append_and_sync(disk: &Disk, root: &Path, threads: usize, time: Duration) -> Cost {
    let barrier = std::sync::Barrier::new(threads);
    let work = |number: usize, end: Instant| {
        let path = root.join(format!("append-{number}"));
        let mut file = File::create(path).expect("a file");
        file.sync_all().expect("a sync");
        barrier.wait();
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let started = Instant::now();
            file.write_all(&[5; 4096]).and_then(|()| file.sync_data()).expect("a synced append");
            latencies.push((started, started.elapsed().as_secs_f64() * 1e6));
        }
        latencies
    };
    // The first part brings threads and journal into step and is not counted.
    let (from, end) = (Instant::now() + time / 4, Instant::now() + time);
    let (before, latencies, after) = thread::scope(|scope| {
        let work = &work;
        let workers = (0..threads).map(|number| scope.spawn(move || work(number, end)));
        let workers = workers.collect::<Vec<_>>();
        thread::sleep(from - Instant::now());
        let before = disk.counters();
        thread::sleep(end.saturating_duration_since(Instant::now()));
        let after = disk.counters();
        let latencies = workers.into_iter().flat_map(|worker| worker.join().expect("no panic"));
        (before, latencies.collect::<Vec<_>>(), after)
    });
    let counted = latencies.iter().filter(|(started, _)| *started >= from);
    let latencies = counted.map(|(_, latency)| *latency).collect::<Vec<_>>();
    let (count, spent) = (latencies.len() as f64, after.since(before));
    Cost {
        flushes: spent.flushes as f64 / count,
        writes: spent.writes as f64 / count,
        ops_per_s: count / (end - from).as_secs_f64(),
        p50_us: median(latencies),
    }
}

// The known values: ext4 commits W/2 syncs at a time (W = 2: one) with two flushes each.
#[test]
fn flushes_per_synced_append_are_those_that_ext4_is_known_for() {
    let Some(_turn) = alone() else { return };
    const FLUSH_TIME: Duration = Duration::from_millis(2);
    let disk = disk(DiskOptions::new(1024).unrecorded());
    make_ext4(&disk);
    let mount = disk.mount("ext4", "noinit_itable").expect("a mount");
    let time = Duration::from_secs(2);
    println!("bare ext4, append 4 KiB and fdatasync, flush time {FLUSH_TIME:?}");
    println!("  W  flushes/op   known  writes/op    ops/s   p50 us  at flush time 0");
    for (threads, known) in [(1, 2.0), (4, 1.0), (16, 0.25), (64, 0.064)] {
        // Commits that the journal's timer or another load adds are not what this is about.
        let near = (0..3).any(|_| {
            disk.set_flush_time(Duration::ZERO);
            let overhead_us = append_and_sync(&disk, mount.path(), threads, time / 4).p50_us;
            disk.set_flush_time(FLUSH_TIME);
            let cost = append_and_sync(&disk, mount.path(), threads, time);
            let Cost { flushes, writes, ops_per_s, p50_us } = cost;
            println!(
                "{threads:>3}{flushes:>12.3}{known:>8}{writes:>11.2}{ops_per_s:>9.0}{p50_us:>9.0}\
                 {overhead_us:>17.0}"
            );
            let latency = p50_us / (2.0 * FLUSH_TIME.as_secs_f64() * 1e6 + overhead_us);
            let exact = (0.95..1.05).contains(&(flushes / known));
            exact && (threads > 1 || (0.8..1.2).contains(&latency))
        });
        assert!(near, "W = {threads}: not {known} flushes per append, or p50 is not 2F");
    }
}

// Eight threads create, overwrite, truncate, punch, sync and remove. The replayed record must equal
// what the disk holds, then and after the unmount.
#[test]
fn the_record_holds_under_a_mixed_load() {
    let Some(_turn) = beside_others() else { return };
    let disk = disk(DiskOptions::new(512).flush_time(Duration::from_micros(500)));
    make_ext4(&disk);
    let mount = disk.mount("ext4", "discard").expect("a mount");
    thread::scope(|scope| {
        for seed in 0..8 {
            let directory = mount.path().join(format!("d{seed}"));
            scope.spawn(move || churn(&directory, seed));
        }
        thread::sleep(Duration::from_millis(300));
        disk.check().unwrap_or_else(|difference| panic!("under way: {difference}"));
    });
    drop(mount);
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
    println!("{:?}", disk.counters());
}

fn churn(directory: &Path, seed: u64) {
    fs::create_dir(directory).expect("a directory");
    let mut random = Random::new(seed);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let path = directory.join(random.below(20).to_string());
        let mut data = vec![0; random.below(200_000)];
        random.fill(&mut data);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.expect("a file");
        match random.below(8) {
            0..4 => file.write_all_at(&data, random.below(100_000) as u64).expect("a write"),
            4 => file.set_len(random.below(100_000) as u64).expect("a truncation"),
            5 => fs::remove_file(&path).expect("a removal"),
            _ => {}
        }
        if random.below(3) == 0 {
            file.sync_all().expect("a sync");
        }
    }
}
