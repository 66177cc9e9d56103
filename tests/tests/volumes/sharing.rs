//! 20 containers, each with its own volume, each syncing in a loop: the machine's flushes.

use std::fs;
use std::ops::RangeFrom;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use tests::disk::{Disk, DiskOptions};
use tests::filesystem::Filesystem;
use tests::scratch::Scratch;
use tests::{require, run};

use crate::plugin::Plugin;
use crate::runtime::{Kind, LIBRARIES, Runtime, alone, plugin_name, plugin_socket};

const CONTAINERS: usize = 20;
/// As of a disk that is no fast one: so short of processors a machine may be, and groups are full still.
const FLUSH_TIME: Duration = Duration::from_millis(16);
const TURN: Duration = Duration::from_millis(1500);
const TURNS: usize = 2;
const ROUNDS_MAX: usize = 3;
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// What containers do, and the least by which their flushes per sync must be fewer. ext4 lets half
/// of all waiters share, so that one flush for all twenty is at most 2 times fewer where a sync is one
/// flush (overwriting), and 4 times where it is a journal commit of two. More is saved only
/// where a sync needs no flush at all: of a directory, right after that of a new file in it.
const KINDS_EXT4: [(&str, f64); 4] =
    [("create", 5.0), ("append", 2.2), ("replace", 1.8), ("overwrite", 1.3)];
/// XFS lets fewer share.
const KINDS_XFS: [(&str, f64); 4] =
    [("create", 5.0), ("append", 4.0), ("replace", 2.5), ("overwrite", 1.3)];

#[test]
fn twenty_containers_share_their_flushes() {
    containers_share_their_flushes(Filesystem::Ext4, &KINDS_EXT4);
}

#[test]
fn twenty_containers_share_their_flushes_on_xfs() {
    containers_share_their_flushes(Filesystem::Xfs, &KINDS_XFS);
}

fn containers_share_their_flushes(filesystem: Filesystem, kinds: &[(&str, f64)]) {
    if !require::mount_support() {
        return;
    }
    let _alone = alone();
    let runtime = Runtime::start(Kind::Docker);
    let disk = Disk::new(DiskOptions::new(768).flush_time(FLUSH_TIME).unrecorded());
    let disk = disk.expect("a disk");
    filesystem.make_as(disk.path(), Default::default());
    let scratch = Scratch::new(0);
    let place = scratch.subdirectory("fs");
    let options = filesystem.quiet_options();
    // Dropped after the plugin, which has its root there.
    let _mounted = disk.mount_at(&place, filesystem.kernel_name(), options).expect("a filesystem");
    let root = place.join("root");
    fs::create_dir(&root).expect("mkdir");
    let plugin = Plugin::at(Scratch::new(0), &root, &plugin_socket(), &[]);
    let control = runtime.path().join("control");
    fs::create_dir(&control).expect("mkdir");

    start_containers(&runtime, &place, &control);
    println!(
        "{CONTAINERS} containers, {filesystem}, flush of {FLUSH_TIME:?}, flushes per sync (syncs)"
    );
    let mut orders = 0..;
    for &(kind, gain_min) in kinds {
        // Counts are exact, but writers that get no processor come too late for their group.
        let mut gains = (0..ROUNDS_MAX).map(|_| round(kind, &disk, &control, &mut orders));
        let enough = gains.any(|gain| gain >= gain_min);
        assert!(enough, "{kind}: not {gain_min} times fewer flushes for each sync");
    }
    fs::write(control.join("end"), "").expect("a file");
    let status = plugin.get("v0").expect_success()["Volume"]["Status"].clone();
    assert!(status["requests"]["fsync"].as_u64() > Some(0), "{status}");
}

/// By turns on bind mounts and on volumes; by how much the latter had fewer flushes for a sync.
fn round(kind: &str, disk: &Disk, control: &Path, orders: &mut RangeFrom<usize>) -> f64 {
    let mut sides = [(0, 0); 2];
    for _ in 0..TURNS {
        for (side, directory) in sides.iter_mut().zip(["/bare", "/data"]) {
            let order = orders.next().expect("there is always one more");
            let before = disk.counters();
            side.1 += carry_out(control, order, &format!("{kind} {directory}"));
            side.0 += disk.counters().since(before).flushes;
        }
    }
    let [bare, volume] = sides.map(|(flushes, syncs)| flushes as f64 / syncs as f64);
    let gain = bare / volume;
    let [(_, bare_syncs), (_, volume_syncs)] = sides;
    println!(
        "{kind:<10} bind mounts {bare:.4} ({bare_syncs}), volumes {volume:.4} ({volume_syncs}): \
         {gain:.1} times fewer"
    );
    gain
}

fn start_containers(runtime: &Runtime, place: &Path, control: &Path) {
    let control_word = format!("{}:/control", control.display());
    for number in 0..CONTAINERS {
        let bare = place.join(format!("bare{number}"));
        fs::create_dir(&bare).expect("mkdir");
        let (name, volume) = (format!("c{number}"), format!("v{number}:/data"));
        let volume_name = format!("v{number}");
        let words = ["volume", "create", "-d", &plugin_name(), &volume_name];
        runtime.run(&words).expect_success();
        let bare = format!("{}:/bare", bare.display());
        let volumes = [&[volume.as_str(), &bare, &control_word], LIBRARIES].concat();
        let mut words = runtime.run_words(&name, &volumes);
        words.extend(["writer", "/control", &name]);
        runtime.run(&words).expect_success();
    }
    let ready = || {
        let all = (0..CONTAINERS).all(|number| control.join(format!("c{number}.ready")).exists());
        all.then_some(())
    };
    assert!(run::poll(READY_DEADLINE, ready).is_some(), "the containers are not ready");
}

/// Has all containers obey an order for a while; how many syncs were answered.
fn carry_out(control: &Path, number: usize, order: &str) -> u64 {
    // Whole at once: containers look all the time.
    fs::write(control.join("order"), order).expect("a file");
    fs::rename(control.join("order"), control.join(format!("{number}.go"))).expect("a rename");
    sleep(TURN);
    fs::write(control.join(format!("{number}.stop")), "").expect("a file");
    let count = |container: usize| {
        let text = fs::read_to_string(control.join(format!("{number}.c{container}.count"))).ok()?;
        text.parse::<u64>().ok()
    };
    let counts = || (0..CONTAINERS).map(count).collect::<Option<Vec<u64>>>();
    let counts = run::poll(READY_DEADLINE, counts).expect("all containers have counted");
    assert!(counts.iter().all(|count| *count > 0), "some have not synced at all: {counts:?}");
    counts.iter().sum()
}
