//! With a log on a real filesystem: the root of a small ext4 or XFS on a device of its
//! own, which `LANEFS_TEST_DIRECTORY` names. `cargo test -p tests --test library` makes
//! such filesystems and runs these tests.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fs_core::batch::{Files, FilesConfig, LogUse};
use fs_core::engine::{Engine, EngineConfig};
use fs_core::log::format::LOG_BYTES_MIN;
use fs_core::log::{LogConfig, PlantedBugs};
use fs_core::platform::linux::{BackingOptions, LinuxBacking};

use crate::*;

const ALONE: &str = "needs a filesystem of its own: cargo test -p tests --test library";
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const KILLS: u32 = 12;

fn place() -> PathBuf {
    std::env::var_os("LANEFS_TEST_DIRECTORY").map_or_else(|| panic!("{ALONE}"), PathBuf::from)
}

fn open(place: &Path) -> Files {
    let config =
        FilesConfig { log: LogUse::Always, log_bytes: LOG_BYTES_MIN, ..FilesConfig::default() };
    if std::env::var_os("LANEFS_TEST_PLANT").is_some() {
        return open_with_bug(place, config);
    }
    Files::open(place, config).expect("a log can be kept here")
}

/// Batches are not written down before they are applied.
fn open_with_bug(place: &Path, config: FilesConfig) -> Files {
    let options = BackingOptions { as_library: true, ..BackingOptions::default() };
    let backing = Arc::new(LinuxBacking::open(place, options).expect("a plain directory"));
    let bugs = PlantedBugs { no_batch_marks: true, ..PlantedBugs::default() };
    let log = LogConfig { bytes: LOG_BYTES_MIN, bugs, ..LogConfig::default() };
    let lanes = EngineConfig { lanes: config.lanes(), ..EngineConfig::default() };
    let (engine, _) = Engine::with_log(&backing, lanes, log, None, &mut |_| {}).expect("a log");
    let tree = engine.add_tree(Arc::clone(&backing)).expect("a tree");
    Files::on(tree, backing.own_caller(), config).expect("valid settings")
}

#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test library"]
fn with_a_log_the_files_are_the_same() {
    let place = place();
    let files = open(&place);
    assert_eq!(files.status().engine.fence, "log");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let files = &files;
            scope.spawn(move || {
                for round in 0..20 {
                    let (one, other) = (format!("one{thread}"), format!("other{thread}"));
                    files.write(&one, vec![round; 5000]).unwrap();
                    let batch = files.batch().copy(one, other.clone()).write("shared", "x");
                    batch.write(other + "2", vec![round; 100]).delete("none").commit().unwrap();
                }
            });
        }
    });
    let mut large = files.batch();
    for number in 0..200 {
        large = large.write(format!("large{number}"), vec![number as u8; 3000]);
    }
    large.commit().unwrap();
    let lanes = files.status().engine.lanes;
    println!("{} requests in {} groups", lanes.sync_requests, lanes.groups);
    assert!(lanes.groups < lanes.sync_requests, "some have shared their flush");
    files.close(LONG).unwrap();
    for thread in 0..8 {
        let other = std::fs::read(place.join(format!("other{thread}"))).unwrap();
        assert_eq!(other, vec![19; 5000]);
    }
    assert_eq!(std::fs::read(place.join("large199")).unwrap(), vec![199; 3000]);
    assert_eq!(leftovers(&place), Vec::<String>::new());
    open(&place).close(LONG).unwrap();
}

/// Not a test by itself: commits batches, generation after generation, until it is killed.
#[test]
#[ignore = "is run by batches_survive_kills"]
fn endless_batches() {
    if std::env::var_os("LANEFS_TEST_ENDLESS").is_none() {
        return;
    }
    let files = open(&place());
    // Somebody else has the filesystem's journal commit all the time.
    std::thread::spawn(|| {
        let noise = std::fs::File::create(place().join("noise")).expect("a file");
        for number in 0_u64.. {
            noise.write_all_at(b"noise", number % 1000 * 5).expect("there is room");
            noise.set_len(number % 1000 * 5).expect("any length is fine");
            noise.sync_all().expect("the disk works");
        }
    });
    for generation in 0_u64.. {
        let mut batch = files.batch();
        for (salt, name) in NAMES.iter().enumerate() {
            batch = batch.write(*name, format!("{generation}").repeat(1 + 300 * salt));
        }
        let last = batch.copy("a", "f").commit();
        last.expect("nothing fails");
        println!("{generation}");
    }
}

/// The generation of all files: they are whole, and of one.
fn generation_in(place: &Path) -> Option<u64> {
    let of = |name: &str, salt: usize| {
        let content = std::fs::read_to_string(place.join(name)).unwrap_or_default();
        let generation: String = content[..content.len() / (1 + 300 * salt)].to_owned();
        assert_eq!(generation.repeat(1 + 300 * salt), content, "{name} is whole");
        generation
    };
    let found: Vec<_> = NAMES.iter().enumerate().map(|(salt, name)| of(name, salt)).collect();
    assert!(found.iter().all(|one| *one == found[0] && *one == of("f", 0)), "{found:?}");
    found[0].parse().ok()
}

/// Not a test by itself: looks at what a power cut has left of `endless_batches`.
#[test]
#[ignore = "is run by cargo test -p tests --test library"]
fn tells_the_generation() {
    if std::env::var_os("LANEFS_TEST_TELL").is_none() {
        return;
    }
    let files = open(&place());
    println!("generation {:?}", generation_in(&place()));
    assert_eq!(leftovers(&place()), Vec::<String>::new());
    drop(files);
}

/// Whatever a killed program was at: all files are of one generation after the next open,
/// and no older than the last one that was answered.
#[test]
#[ignore = "needs a filesystem of its own: cargo test -p tests --test library"]
fn batches_survive_kills() {
    let place = place();
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["logged::endless_batches", "--exact", "--ignored", "--nocapture"])
            .env("LANEFS_TEST_ENDLESS", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(400 + u64::from(kill) * 37));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let answered = said.lines().filter_map(|line| line.parse::<u64>().ok()).next_back();
        let files = open(&place);
        let generation = generation_in(&place);
        println!("killed {kill}: answered {answered:?}, found {generation:?}");
        assert!(answered.is_none_or(|answered| generation.is_some_and(|g| g >= answered)));
        assert_eq!(leftovers(&place), Vec::<String>::new());
        files.close(LONG).unwrap();
    }
}
