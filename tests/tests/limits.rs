//! Promise: the number of files is limited by the backing filesystem, not by lanefs.
//!
//! A daemon that may have 2,000 open files serves 100,000 known ones, and more open files than it may
//! have end in an error, not in its end. A directory of 100,000 entries (`LANEFS_LONG=1`: 1,000,000)
//! read while entries come and go shows each entry that stays exactly once, and a position in it
//! stays valid.

use std::collections::HashMap;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, SeekFrom, mknodat, seek};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::loopfs::{Kind, LoopFs, Recipe};
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::random::Random;
use tests::subject::{Subject, is_bare};
use tests::{long_run, require};

const DIRECTORIES: usize = 100;
const FILES_PER_DIRECTORY: usize = 1000;
const DAEMON_FILES_MAX: u64 = 2000;

fn filesystem(size_mib: u64, inodes: u64) -> LoopFs {
    LoopFs::new(Recipe { kind: Kind::Ext4, size_mib, in_memory: true, inodes: Some(inodes) })
}

// An empty file for the price of one request.
fn make_file(path: &Path) {
    mknodat(CWD, path, FileType::RegularFile, Mode::from(0o644), 0)
        .unwrap_or_else(|error| panic!("mknod {}: {error}", path.display()));
}

#[test]
fn many_known_files_under_a_low_limit() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::over(filesystem(512, 150_000), |tree| {
        Mounted::with_file_limit(tree, DEFAULT_OPTIONS, DAEMON_FILES_MAX)
    });
    let start = Instant::now();
    let paths = make_tree(subject.path());
    println!("made {} files in {:.1} s", paths.len(), start.elapsed().as_secs_f64());
    expect_daemon_below_limit(&subject);

    // The kernel may forget a file that nobody holds; these it must remember.
    let held: Vec<File> =
        paths.iter().take(room_for_descriptors()).map(|path| hold(path)).collect();
    let numbers: Vec<u64> = paths.iter().map(|path| number_of(path)).collect();
    println!("all known after {:.1} s, {} held", start.elapsed().as_secs_f64(), held.len());
    expect_daemon_below_limit(&subject);
    let mut distinct = numbers.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), paths.len(), "two files with one number");

    open_many(&paths);
    expect_daemon_below_limit(&subject);

    // Everything forgotten and found again: the same files.
    drop(held);
    fs::write("/proc/sys/vm/drop_caches", "2").expect("root may drop caches");
    for (path, number) in paths.iter().zip(&numbers).step_by(7) {
        assert_eq!(number_of(path), *number, "{} is another file now", path.display());
    }
    fs::remove_dir_all(subject.path().join("d0")).expect("a removal");
    assert!(!subject.backing().join("d0").exists());
    println!("done after {:.1} s", start.elapsed().as_secs_f64());
}

/// Each file that was renamed over another stayed open in the daemon until the next sync, also when
/// it had been replaced itself: programs that replace small files and never sync ran out of inodes
/// (ENOSPC), or the daemon out of descriptors.
#[test]
fn files_that_are_replaced_hold_no_inodes() {
    const INODES: u64 = 2000;
    if !require::mount_support() || is_bare() {
        return;
    }
    let filesystem = filesystem(256, INODES);
    let backing = filesystem.path().join("backing");
    fs::create_dir(&backing).expect("mkdir");
    let mount = Mounted::new(&backing, "fence=log,log_size=8M,checkpoint_ms=3600000");
    let new = mount.path().join("new");
    for number in 0..2 * INODES {
        fs::write(&new, b"content").expect("room for one file more");
        fs::rename(&new, mount.path().join(format!("name{}", number % 10))).expect("a rename");
    }
    for _ in 0..2 * INODES {
        fs::write(&new, b"content").expect("room for one file more");
        fs::remove_file(&new).expect("a removal");
    }
    mount.unmount();
}

fn make_tree(root: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for directory in 0..DIRECTORIES {
        let directory = root.join(format!("d{directory}"));
        fs::create_dir(&directory).expect("mkdir");
        for file in 0..FILES_PER_DIRECTORY {
            let path = directory.join(format!("f{file}"));
            make_file(&path);
            paths.push(path);
        }
    }
    paths
}

fn number_of(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path);
    metadata.unwrap_or_else(|error| panic!("stat {}: {error}", path.display())).ino()
}

fn hold(path: &Path) -> File {
    let flag = OFlags::PATH.bits().cast_signed();
    let held = fs::OpenOptions::new().read(true).custom_flags(flag).open(path);
    held.unwrap_or_else(|error| panic!("O_PATH {}: {error}", path.display()))
}

// How many descriptors this process may have, less what it needs otherwise.
fn room_for_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised");
    let maximum = limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).expect("64"));
    maximum.saturating_sub(5000).clamp(500, 15_000)
}

// Half of what the daemon may have must open; twice as much may fail, but only by saying so.
fn open_many(paths: &[PathBuf]) {
    let limit = usize::try_from(DAEMON_FILES_MAX).expect("small");
    let open = |path: &PathBuf| File::options().read(true).write(true).open(path);
    let half: Vec<File> = paths[..limit / 2].iter().map(|path| open(path).expect("open")).collect();
    drop(half);
    let mut opened = Vec::new();
    let refused = paths[..limit * 2].iter().find_map(|path| match open(path) {
        Ok(file) => {
            opened.push(file);
            None
        }
        Err(error) => Some(error),
    });
    println!("{} open at once, then {refused:?}", opened.len());
    let errno = refused.as_ref().and_then(Errno::from_io_error);
    assert!(
        matches!((&refused, errno), (None, _) | (_, Some(Errno::MFILE | Errno::NFILE))),
        "{refused:?} after {} open files",
        opened.len()
    );
    drop(opened);
    // And all is well again.
    open(&paths[limit]).expect("open after the limit");
}

fn expect_daemon_below_limit(subject: &Subject) {
    let Some(mounted) = subject.mounted() else { return };
    let process = PathBuf::from(format!("/proc/{}", mounted.daemon_pid()));
    let limits = fs::read_to_string(process.join("limits")).expect("the daemon lives");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let hard = line.split_whitespace().nth(4).and_then(|text| text.parse::<u64>().ok());
    assert_eq!(hard, Some(DAEMON_FILES_MAX), "the test limits nothing: {line}");
    let count = fs::read_dir(process.join("fd")).expect("the daemon lives").count();
    println!("the daemon has {count} descriptors");
}

#[test]
fn a_big_directory_read_while_entries_come_and_go() {
    if !require::mount_support() {
        return;
    }
    let entries: usize = if long_run() { 1_000_000 } else { 100_000 };
    let subject = Subject::over(filesystem(1024, entries as u64 + 50_000), |tree| {
        Mounted::new(tree, DEFAULT_OPTIONS)
    });
    let directory = subject.path().join("big");
    fs::create_dir(&directory).expect("mkdir");
    let start = Instant::now();
    for entry in 0..entries {
        make_file(&directory.join(format!("stay-{entry}")));
    }
    println!("made {entries} entries in {:.1} s", start.elapsed().as_secs_f64());

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| come_and_go(&directory, &stop));
        let finish = StopAtEnd(&stop);
        // Small steps and large ones, and the way programs do it.
        for buffer_bytes in [1024, 32 * 1024, 256 * 1024] {
            expect_each_once(&list(&directory, buffer_bytes), entries);
        }
        let names = fs::read_dir(&directory)
            .expect("opendir")
            .map(|entry| entry.expect("readdir").file_name().into_string().expect("ASCII names"));
        expect_each_once(&names.map(|name| (name, 0)).collect::<Vec<_>>(), entries);
        positions_stay_valid(&directory);
        drop(finish);
        println!("{} came and went", churn.join().expect("the churn"));
    });
    println!("read after {:.1} s", start.elapsed().as_secs_f64());
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

// Makes and removes entries, some hundred of them there at any time; says how many came.
fn come_and_go(directory: &Path, stop: &AtomicBool) -> usize {
    const THERE_AT_ONCE: usize = 300;
    let path = |number: usize| directory.join(format!("come-{number}"));
    let mut made = 0;
    while !stop.load(Ordering::SeqCst) || made < THERE_AT_ONCE {
        make_file(&path(made));
        if made >= THERE_AT_ONCE {
            fs::remove_file(path(made - THERE_AT_ONCE)).expect("unlink");
        }
        made += 1;
    }
    made
}

// Names with the position after each, in the order of the directory.
fn list(directory: &Path, buffer_bytes: usize) -> Vec<(String, u64)> {
    let handle = File::open(directory).expect("opendir");
    read_on(&handle, buffer_bytes, usize::MAX)
}

fn read_on(handle: &File, buffer_bytes: usize, count_max: usize) -> Vec<(String, u64)> {
    let mut buffer = vec![MaybeUninit::uninit(); buffer_bytes];
    let mut entries = RawDir::new(handle, &mut buffer);
    let mut found = Vec::new();
    while found.len() < count_max
        && let Some(entry) = entries.next()
    {
        let entry = entry.expect("getdents");
        let name = entry.file_name().to_str().expect("ASCII names").to_owned();
        found.push((name, entry.next_entry_cookie()));
    }
    found
}

fn expect_each_once(found: &[(String, u64)], entries: usize) {
    let mut times: HashMap<&str, usize> = HashMap::new();
    for (name, _) in found {
        *times.entry(name).or_default() += 1;
    }
    for entry in 0..entries {
        let name = format!("stay-{entry}");
        let seen = times.remove(name.as_str()).unwrap_or_default();
        assert_eq!(seen, 1, "{name} seen {seen} times among {}", found.len());
    }
    let stranger =
        times.keys().find(|name| !name.starts_with("come-") && !matches!(**name, "." | ".."));
    assert_eq!(stranger, None, "a name that nobody made");
}

// seekdir to where telldir was: what stays comes in the same order from there on.
fn positions_stay_valid(directory: &Path) {
    const SAMPLES: usize = 200;
    const LOOK_AHEAD: usize = 20;
    let handle = File::open(directory).expect("opendir");
    let stays = |(name, position): &(String, u64)| {
        name.starts_with("stay-").then(|| (name.clone(), *position))
    };
    let order: Vec<(String, u64)> =
        read_on(&handle, 32 * 1024, usize::MAX).iter().filter_map(stays).collect();
    let mut random = Random::new(6);
    for _ in 0..SAMPLES {
        let at = random.below(order.len() - LOOK_AHEAD);
        seek(&handle, SeekFrom::Start(order[at].1)).expect("seekdir");
        // Some of the next may be newcomers: read more than is compared.
        let next: Vec<(String, u64)> =
            read_on(&handle, 4096, 3 * LOOK_AHEAD).iter().filter_map(stays).collect();
        let compared = next.len().min(LOOK_AHEAD);
        assert!(compared > 0, "nothing after position {at} of {}", order.len());
        let expected: Vec<&String> =
            order[at + 1..].iter().take(compared).map(|(n, _)| n).collect();
        let found: Vec<&String> = next.iter().take(compared).map(|(name, _)| name).collect();
        assert_eq!(found, expected, "after {} at position {}", order[at].0, order[at].1);
    }
}
