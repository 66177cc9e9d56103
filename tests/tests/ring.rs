//! Promise: on the ring transport a mount does what it does on the classic one.
//!
//! What a mount answers is asked by the other suites, which `LANEFS_TEST_OPTIONS=transport=ring`
//! runs on rings. Here is what rings could break: requests of all kinds through shared buffers, more
//! parked syncs than a queue has entries, data by the daemon, big directories, and the end of a
//! mount in every way, with requests under way.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, XattrFlags, getxattr, renameat_with, setxattr, statvfs};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tests::loopfs::LoopFs;
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::random::Random;
use tests::replace::{Replacer, version_found};
use tests::subject::{self, Subject};
use tests::uring::Switch;
use tests::{binary, leftovers, require, run};

const DEADLINE: Duration = Duration::from_secs(60);

// `None` where there is nothing to test: no rings, or no lanefs.
fn ring(options: &str) -> Option<(Switch, Subject)> {
    if !require::mount_support() || subject::is_bare() {
        return None;
    }
    let switch = Switch::set(true)?;
    let options = format!("{DEFAULT_OPTIONS},transport=ring{options}");
    let mount = |tree: &Path| Mounted::new(tree, &options);
    let subject = Subject::over(LoopFs::ext4_in_memory(512), mount);
    expect_transport(&subject, "ring: ");
    Some((switch, subject))
}

fn mounted(subject: &Subject) -> &Mounted {
    subject.mounted().expect("not bare")
}

#[track_caller]
fn expect_transport(subject: &Subject, begin: &str) {
    let status = mounted(subject).status();
    let transport = status["transport"].as_str().expect("a transport");
    assert!(transport.starts_with(begin), "{transport}");
}

#[test]
fn the_transport_is_the_one_that_was_asked_for() {
    if !require::mount_support() || subject::is_bare() {
        return;
    }
    for (on, option, begin) in [
        (true, "auto", "ring: "),
        (true, "classic", "classic: asked for"),
        (false, "auto", "classic: FUSE over io_uring is switched off"),
    ] {
        let Some(_switch) = Switch::set(on) else { return };
        let options = format!("{DEFAULT_OPTIONS},transport={option}");
        let mount = |tree: &Path| Mounted::new(tree, &options);
        let subject = Subject::over(LoopFs::ext4_in_memory(64), mount);
        expect_transport(&subject, begin);
        fs::write(subject.path().join("file"), "content").expect("a mount that works");
    }
}

#[test]
fn rings_that_are_not_offered_are_an_error_with_its_remedy() {
    if !require::mount_support() || subject::is_bare() {
        return;
    }
    let Some(_switch) = Switch::set(false) else { return };
    let filesystem = LoopFs::ext4_in_memory(64);
    let [tree, mount_point] = ["tree", "mount"].map(|name| filesystem.path().join(name));
    fs::create_dir(&tree).expect("mkdir");
    fs::create_dir(&mount_point).expect("mkdir");
    let mut command = Command::new(binary::lanefs());
    command.arg("mount").arg(&tree).arg(&mount_point).args(["--daemon", "-o", "transport=ring"]);
    let outcome = run::run(&mut command, DEADLINE);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    let remedy = "echo Y > /sys/module/fuse/parameters/enable_uring";
    assert!(outcome.stderr.contains(remedy), "{}", outcome.describe());
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.describe());
    assert!(!leftovers::is_mounted(&mount_point));
}

#[test]
fn every_kind_of_request_is_answered() {
    let Some((_switch, subject)) = ring("") else { return };
    let root = subject.path();
    let at = |name: &str| root.join(name);
    fs::create_dir(at("dir")).expect("mkdir");
    fs::write(at("a"), "first").expect("create and write");
    fs::write(at("b"), "second").expect("create and write");
    renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::EXCHANGE).expect("exchange");
    assert_eq!(fs::read_to_string(at("a")).expect("read"), "second");
    let refused = renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(Errno::EXIST));
    fs::rename(at("a"), at("b")).expect("a rename over a file that was not synced");
    assert_eq!(fs::read_to_string(at("b")).expect("read"), "second");

    symlink("b", at("link")).expect("symlink");
    assert_eq!(fs::read_link(at("link")).expect("readlink"), Path::new("b"));
    fs::hard_link(at("b"), at("dir/c")).expect("link");
    assert_eq!(fs::metadata(at("b")).expect("stat").nlink(), 2);
    let mut value = [0; 16];
    setxattr(at("b"), "user.name", b"value", XattrFlags::CREATE).expect("setxattr");
    let bytes = getxattr(at("b"), "user.name", &mut value[..]).expect("getxattr");
    assert_eq!(&value[..bytes], b"value");
    let too_small = getxattr(at("b"), "user.name", &mut value[..2]);
    assert_eq!(too_small, Err(Errno::RANGE));
    assert_eq!(getxattr(at("b"), "user.none", &mut value[..]), Err(Errno::NODATA));

    let file = File::options().read(true).write(true).open(at("b")).expect("open");
    file.set_len(1 << 20).expect("ftruncate");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 << 20)
        .expect("fallocate");
    assert_eq!(file.metadata().expect("fstat").len(), 2 << 20);
    assert!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).is_ok());
    file.sync_data().expect("fdatasync");
    File::open(at("dir")).and_then(|dir| dir.sync_all()).expect("fsync of a directory");
    let synchronous = File::options().write(true).custom_flags(libc::O_DSYNC).open(at("b"));
    synchronous.and_then(|file| file.write_all_at(b"third", 0)).expect("a synchronous write");
    assert!(statvfs(root).expect("statvfs").f_blocks > 0);
    assert_eq!(File::open(at("none")).err().and_then(|e| e.raw_os_error()), Some(libc::ENOENT));
    assert_eq!(
        fs::remove_dir(at("dir")).err().and_then(|e| e.raw_os_error()),
        Some(libc::ENOTEMPTY)
    );
    fs::remove_file(at("dir/c")).expect("unlink");
    fs::remove_dir(at("dir")).expect("rmdir");
    assert_eq!(fs::read(subject.backing().join("b")).expect("backing")[..6], *b"thirdd");
}

/// More threads than all queues have entries on two processors: those that find none free wait
/// for one, and none waits for ever.
#[test]
fn more_syncs_can_be_parked_than_there_are_entries() {
    const THREADS: u64 = 320;
    const VERSIONS: u64 = 5;
    let Some((_switch, mut subject)) = ring(",fence=log") else { return };
    let root = subject.path();
    std::thread::scope(|scope| {
        for writer in 0..THREADS {
            scope.spawn(move || {
                let replacer = Replacer::new(root, writer).expect("a directory of its own");
                (1..=VERSIONS).for_each(|version| replacer.replace(version).expect("a replace"));
            });
        }
    });
    let lanes = &mounted(&subject).status()["engine"]["lanes"];
    assert!(lanes["sync_requests"].as_u64() >= Some(THREADS * VERSIONS), "{lanes}");
    assert!(lanes["group_ops_max"].as_u64() > Some(8), "groups form: {lanes}");
    subject.unmount();
    for writer in 0..THREADS {
        let found = version_found(subject.path(), writer);
        assert_eq!(found.expect("a whole file"), Some(VERSIONS), "writer {writer}");
    }
}

/// Without passthrough all data goes through the entries' buffers.
#[test]
fn data_by_the_daemon_is_what_was_written() {
    const BYTES: usize = 48 << 20;
    let Some((_switch, subject)) = ring(",no_passthrough") else { return };
    let mut data = vec![0; BYTES];
    Random::new(1).fill(&mut data);
    let path = subject.path().join("big");
    let mut file = File::create(&path).expect("create");
    // Odd pieces, so that requests begin and end anywhere.
    data.chunks(777_777).for_each(|piece| file.write_all(piece).expect("write"));
    file.sync_all().expect("fsync");
    drop(file);
    fs::write("/proc/sys/vm/drop_caches", "1").expect("root may drop caches");
    assert!(fs::read(&path).expect("read") == data, "the mount shows other bytes");
    assert!(fs::read(subject.backing().join("big")).expect("read") == data, "so does the backing");
}

#[test]
fn a_big_directory_is_read_once_and_whole() {
    const NAMES: usize = 10_000;
    let Some((_switch, subject)) = ring("") else { return };
    let directory = subject.backing().join("big");
    fs::create_dir(&directory).expect("mkdir");
    (0..NAMES).for_each(|number| {
        File::create(directory.join(format!("name-{number:05}"))).expect("create");
    });
    let entries = fs::read_dir(subject.path().join("big")).expect("opendir");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("readdir").file_name()).collect();
    names.sort_unstable();
    let expected = (0..NAMES).map(|number| OsString::from(format!("name-{number:05}")));
    assert!(names.iter().cloned().eq(expected), "{} names of {NAMES}", names.len());
}

/// Writers that go on until the mount is gone.
fn under_load(root: &Path, end: impl FnOnce()) {
    let (stop, replaced) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..16 {
            let (stop, replaced) = (&stop, &replaced);
            scope.spawn(move || {
                let Ok(replacer) = Replacer::new(root, writer) else { return };
                for version in 1.. {
                    if stop.load(Ordering::Relaxed) || replacer.replace(version).is_err() {
                        return;
                    }
                    replaced.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begun = || (replaced.load(Ordering::Relaxed) > 200).then_some(());
        let begun = run::poll(DEADLINE, begun);
        end();
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        assert!(begun.is_some(), "the writers did not come to work");
    });
}

#[track_caller]
fn expect_end(pid: i32) {
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    let is_zombie = || {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    };
    let gone = || (!process.exists() || is_zombie()).then_some(());
    run::poll(DEADLINE, gone).expect("the daemon ends when its mount has");
}

#[test]
fn the_mount_ends_while_it_is_used() {
    type End = fn(&Mounted);
    let lazily: End = |mounted| {
        let mut command = Command::new(binary::lanefs());
        command.arg("umount").arg("--lazy").arg(mounted.path());
        run::run(&mut command, DEADLINE).expect_success();
    };
    let by_umount: End = |mounted| {
        run::run(Command::new("umount").arg("-l").arg(mounted.path()), DEADLINE).expect_success();
    };
    let by_signal: End = |mounted| {
        let pid = Pid::from_raw(mounted.daemon_pid()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("the daemon runs");
    };
    for end in [lazily, by_umount, by_signal] {
        let Some((_switch, subject)) = ring("") else { return };
        let daemon = mounted(&subject).daemon_pid();
        under_load(subject.path(), || end(mounted(&subject)));
        expect_end(daemon);
        assert!(!leftovers::is_mounted(mounted(&subject).path()), "nothing is left mounted");
    }
}

/// Nobody hangs on a daemon that was killed, whatever it had parked.
#[test]
fn a_killed_daemon_leaves_nobody_waiting() {
    let Some((_switch, mut subject)) = ring("") else { return };
    let root = subject.path().to_path_buf();
    under_load(&root, || drop(subject.kill_daemon()));
    let dead = run::poll(DEADLINE, || fs::metadata(subject.path().join("any")).err());
    assert_eq!(dead.and_then(|error| error.raw_os_error()), Some(libc::ENOTCONN));
    subject.unmount();
    assert!(fs::read_dir(subject.backing()).expect("the backing directory").count() >= 16);
}
