//! The machine loses power while containers write in two volumes that share a log.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::disk::{Choice, Disk, DiskOptions, Position, chosen_image, crash_image};
use tests::filesystem::Filesystem;
use tests::require;
use tests::scratch::Scratch;

use crate::plugin::Plugin;

const VOLUMES: [&str; 2] = ["a", "b"];
const WRITERS_PER_VOLUME: usize = 2;
const RUN: Duration = Duration::from_millis(800);
const CUTS: usize = 8;

/// A file whose sync was answered when the disk's record was so long.
struct Acknowledged {
    position: Position,
    volume: &'static str,
    name: String,
}

#[test]
fn a_power_cut_takes_nothing_that_a_container_has_synced() {
    if !require::mount_support() {
        return;
    }
    let disk = Disk::new(DiskOptions::new(Filesystem::Ext4.size_mib())).expect("a disk");
    Filesystem::Ext4.make(disk.path());
    let scratch = Scratch::new(0);
    let place = scratch.subdirectory("fs");
    let mounted = disk.mount_at(&place, "ext4", "").expect("a filesystem");
    let plugin = on(&place);
    for volume in VOLUMES {
        plugin.create(volume, &Value::Null).expect_success();
        plugin.mount(volume, "one").expect_success();
    }
    let acknowledged = write(&plugin, &disk);
    drop(plugin);
    let record = disk.record();
    drop(mounted);
    disk.check().expect("a record that is complete");

    let options = DiskOptions::new(Filesystem::Ext4.size_mib()).unrecorded();
    let mut other = Disk::new(options).expect("a disk");
    let mut judged = 0;
    for cut in 1..=CUTS {
        let position = acknowledged[acknowledged.len() * cut / CUTS - 1].position;
        let image = if cut % 2 == 0 {
            chosen_image(&record, position, 0, Choice::None)
        } else {
            crash_image(&record, position, cut as u64)
        };
        other.load(image.image).expect("an image");
        let mounted = other.mount_at(&place, "ext4", "").expect("a filesystem");
        // Its state says who uses what, so it mounts both after the recovery.
        let plugin = on(&place);
        assert_eq!(plugin.names(), VOLUMES);
        for file in acknowledged.iter().filter(|file| file.position <= position) {
            plugin.wait_until_mounted(file.volume);
            let path = plugin.mount_point(file.volume).join(&file.name);
            let content = fs::read_to_string(&path).unwrap_or_else(|error| format!("{error}"));
            assert_eq!(content, file.name, "cut {cut} at {position:?}: {}", path.display());
            judged += 1;
        }
        drop(plugin);
        drop(mounted);
    }
    println!("{} files acknowledged, {CUTS} cuts, {judged} looked at", acknowledged.len());
    assert!(judged > CUTS, "nothing was at stake");
}

/// With a log, although flushes cost nothing here.
fn on(place: &Path) -> Plugin {
    let root = place.join("root");
    let _ = fs::create_dir(&root);
    Plugin::on(Scratch::new(0), &root, &["-o", "fence=log,log_size=4M"])
}

/// New files in all volumes at once, each under its name only by a rename and the sync of its
/// directory, which does not wait for what the other volume does. In the order of the disk's record.
fn write(plugin: &Plugin, disk: &Disk) -> Vec<Acknowledged> {
    let (stop, all) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for volume in VOLUMES {
            for writer in 0..WRITERS_PER_VOLUME {
                let (stop, all) = (&stop, &all);
                let place = plugin.mount_point(volume);
                scope.spawn(move || {
                    let directory = File::open(&place).expect("the volume");
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("{writer}-{number}");
                        let new = place.join(format!("new{writer}"));
                        let mut file = File::create(&new).expect("a file");
                        file.write_all(name.as_bytes()).expect("a write");
                        file.sync_all().expect("a sync");
                        fs::rename(&new, place.join(&name)).expect("a rename");
                        directory.sync_all().expect("a sync of the directory");
                        let position = disk.position();
                        let file = Acknowledged { position, volume, name };
                        all.lock().expect("no writer has failed").push(file);
                    }
                });
            }
        }
        thread::sleep(RUN);
        stop.store(true, Ordering::Relaxed);
    });
    let mut all = all.into_inner().expect("no writer has failed");
    all.sort_by_key(|file| file.position);
    all
}
