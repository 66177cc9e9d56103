//! Promise: on a mount made with `-o faults`, `lanefs fault` makes exactly the operation fail that was
//! named, and what a power failure leaves is what a disk would have; programs that check what they are
//! told survive it, those that do not are found out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::mounted::Mounted;
use tests::require;
use tests::run::{self, Outcome};
use tests::scratch::Scratch;
use tests::{binary, leftovers, tools};

const DEADLINE: Duration = Duration::from_secs(60);

struct Stage {
    mount: Mounted,
    backing: PathBuf,
    scratch: Scratch,
}

impl Stage {
    fn new() -> Self {
        let scratch = Scratch::new(0);
        let backing = scratch.subdirectory("backing");
        fs::write(backing.join("before"), "it was there").expect("scratch");
        let mount = Mounted::new(&backing, "faults");
        Self { mount, backing, scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    fn ask(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(binary::lanefs());
        command.arg("fault").arg(self.mount.path()).args(words);
        run::run(&mut command, DEADLINE)
    }

    fn order(&self, words: &[&str]) -> String {
        self.ask(words).expect_success().stdout
    }

    /// Lays the crash out beside.
    fn crash(&self, name: &str, words: &[&str]) -> PathBuf {
        let to = self.scratch.path().join(name);
        let target = to.to_string_lossy().into_owned();
        self.order(&[&["crash", &target], words].concat());
        to
    }

    /// Waits until the power failure has ended the mount and the daemon.
    fn wait_for_dark(&self) {
        let process = format!("/proc/{}/exe", self.mount.daemon_pid());
        let dark = || {
            let ended = fs::read_link(&process).is_err();
            (ended && !leftovers::is_mounted(self.mount.path())).then_some(())
        };
        run::poll(DEADLINE, dark).expect("the daemon ends when its power fails");
    }
}

fn error_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn the_named_operation_fails_and_no_other() {
    if !require::mount_support() {
        return;
    }
    let stage = Stage::new();
    stage.order(&[
        "fail", "fsync", "--path", "*.db", "--nth", "2", "--error", "EIO", "--pages", "kept",
    ]);
    stage.order(&["fail", "write", "--path", "/d/full", "--times", "0", "--error", "ENOSPC"]);
    stage.order(&["fail", "create", "--path", "never", "--process", "nobody", "--error", "EIO"]);
    let late = 300;
    stage.order(&["fail", "rename", "--path", "new", "--delay", &late.to_string()]);

    let mut db = File::create(stage.path("a.db")).expect("create");
    let mut results = Vec::new();
    for _ in 0..3 {
        db.write_all(b"row").expect("write");
        results.push(error_of(db.sync_all()));
    }
    assert_eq!(results, [None, Some(libc::EIO), None]);
    fs::create_dir(stage.path("d")).expect("mkdir");
    for _ in 0..2 {
        assert_eq!(error_of(fs::write(stage.path("d/full"), "x")), Some(libc::ENOSPC));
    }
    fs::write(stage.path("full"), "x").expect("another path");
    fs::write(stage.path("never"), "x").expect("another process's rule");
    let begun = Instant::now();
    fs::rename(stage.path("never"), stage.path("new")).expect("late, and done");
    assert!(begun.elapsed() >= Duration::from_millis(late));

    let list = stage.order(&["list"]);
    assert!(list.contains("fsync of *.db, the 2.: EIO, pages as on kept"), "{list}");
    let list: serde_json::Value =
        serde_json::from_str(&stage.order(&["list", "--json"])).expect("JSON");
    let counts = [0, 1, 2, 3].map(|at| (list[at]["seen"].as_u64(), list[at]["struck"].as_u64()));
    assert_eq!(counts, [(3, 1), (2, 2), (0, 0), (1, 1)].map(|(a, b)| (Some(a), Some(b))));
    stage.order(&["clear"]);
    fs::write(stage.path("d/full"), "x").expect("all rules are gone");
}

#[test]
fn a_crash_beside_leaves_what_was_synced_and_the_mount_goes_on() {
    if !require::mount_support() {
        return;
    }
    let stage = Stage::new();
    let mut synced = File::create(stage.path("synced")).expect("create");
    synced.write_all(b"durable").expect("write");
    synced.sync_all().expect("sync");
    synced.write_all(b" or not").expect("write");
    fs::write(stage.path("unsynced"), "gone").expect("write");

    let all = stage.crash("all", &[]);
    assert_eq!(names(&all), ["before", "synced"]);
    assert_eq!(fs::read(all.join("synced")).expect("read"), b"durable");
    assert_eq!(fs::read(all.join("before")).expect("read"), b"it was there");
    let none = stage.crash("none", &["--lose", "none"]);
    assert_eq!(names(&none), ["before", "synced", "unsynced"]);
    assert_eq!(fs::read(none.join("synced")).expect("read"), b"durable or not");
    // The same seed, the same crash.
    let [one, two] = ["one", "two"].map(|name| {
        let state = stage.crash(name, &["--lose", "some", "--seed", "5", "--model", "posix-min"]);
        let read = |name| fs::read(state.join(name)).unwrap_or_default();
        (names(&state), read("synced"), read("unsynced"))
    });
    assert_eq!(one, two);
    assert_eq!(fs::read(stage.path("unsynced")).expect("the mount goes on"), b"gone");
    let again = stage.scratch.path().join("all");
    let refused = stage.ask(&["crash", &again.to_string_lossy()]);
    assert!(refused.stderr.contains("give a new name"), "{}", refused.describe());
}

#[test]
fn a_power_failure_ends_the_mount_and_leaves_the_disk() {
    if !require::mount_support() {
        return;
    }
    let stage = Stage::new();
    stage.order(&["fail", "rename", "--path", "config", "--power"]);
    let mut config = File::create(stage.path("config.tmp")).expect("create");
    config.write_all(b"new").expect("write");
    config.sync_all().expect("sync");
    fs::write(stage.path("unsynced"), "gone").expect("write");
    assert!(fs::rename(stage.path("config.tmp"), stage.path("config")).is_err());
    drop(config);
    stage.wait_for_dark();
    assert_eq!(names(&stage.backing), ["before", "config.tmp"]);
    assert_eq!(fs::read(stage.backing.join("config.tmp")).expect("read"), b"new");
    // The machine comes back.
    let again = Mounted::new(&stage.backing, "faults");
    assert_eq!(names(again.path()), ["before", "config.tmp"]);
}

#[test]
fn a_torn_write_and_a_crash_by_hand() {
    if !require::mount_support() {
        return;
    }
    let stage = Stage::new();
    stage.order(&["fail", "write", "--path", "log", "--torn", "3"]);
    assert!(fs::write(stage.path("log"), "record").is_err());
    stage.wait_for_dark();
    assert_eq!(fs::read(stage.backing.join("log")).expect("read"), b"rec");

    let stage = Stage::new();
    fs::write(stage.path("unsynced"), "gone").expect("write");
    let said = stage.order(&["crash", "--swap"]);
    assert!(said.contains("the power failed after"), "{said}");
    stage.wait_for_dark();
    assert_eq!(names(&stage.backing), ["before"]);
}

// What programs read after a failed fsync, and what the disk has, by filesystem.
#[test]
fn a_failed_fsync_leaves_pages_as_filesystems_do() {
    if !require::mount_support() {
        return;
    }
    for (pages, in_cache) in [("ext4", "new"), ("xfs", "new"), ("btrfs", "old")] {
        let stage = Stage::new();
        let mut options = OpenOptions::new();
        let path = stage.path("file");
        let mut file =
            options.read(true).write(true).create(true).truncate(true).open(path).expect("open");
        file.write_all(b"old").expect("write");
        file.sync_all().expect("sync");
        stage.order(&["fail", "fsync", "--error", "EIO", "--pages", pages]);
        file.seek(SeekFrom::Start(0)).expect("seek");
        file.write_all(b"new").expect("write");
        assert_eq!(error_of(file.sync_all()), Some(libc::EIO));
        let read = |file: &mut File| {
            let mut text = String::new();
            file.seek(SeekFrom::Start(0)).expect("seek");
            file.read_to_string(&mut text).expect("read");
            text
        };
        assert_eq!(read(&mut file), in_cache, "{pages}");
        file.sync_all().expect("it believes that all is well");
        let left = stage.crash("left", &["--lose", "none"]);
        assert_eq!(fs::read(left.join("file")).expect("read"), b"old", "{pages}");
        stage.order(&["forget"]);
        assert_eq!(read(&mut file), "old", "{pages}");
    }
}

// SQLite reports the failed fsync of its journal, rolls back, and is whole after the power failure.
#[test]
fn sqlite_survives_a_failed_fsync_and_the_crash_after_it() {
    if !require::mount_support() {
        return;
    }
    let sqlite = tools::debian("sqlite3", "sqlite3");
    let stage = Stage::new();
    let shell = |database: &Path, sql: &str| {
        run::run(Command::new(&sqlite).arg(database).arg(sql), DEADLINE)
    };
    let database = stage.path("a.db");
    let sql = "PRAGMA synchronous=EXTRA; CREATE TABLE t(x); INSERT INTO t VALUES(1);";
    shell(&database, sql).expect_success();
    stage.order(&[
        "fail",
        "fsync",
        "--path",
        "*-journal",
        "--process",
        "sqlite3",
        "--error",
        "EIO",
    ]);
    let failed = shell(&database, "INSERT INTO t VALUES(2);");
    assert!(!failed.status.success(), "{}", failed.describe());
    assert!(failed.stderr.contains("disk I/O error"), "{}", failed.describe());
    for seed in 1..=8 {
        let words = ["--lose", "some", "--seed", &seed.to_string()];
        let left = stage.crash(&format!("left-{seed}"), &words);
        let found = shell(&left.join("a.db"), "PRAGMA integrity_check; SELECT x FROM t;");
        assert_eq!(found.expect_success().stdout, "ok\n1\n", "seed {seed}");
    }
    shell(&database, "INSERT INTO t VALUES(3);").expect_success();
}

#[test]
fn a_schedule_is_a_file_and_mistakes_are_named() {
    if !require::mount_support() {
        return;
    }
    let stage = Stage::new();
    let file = stage.scratch.path().join("schedule.toml");
    let path = file.to_string_lossy().into_owned();
    let text = "[[fault]]\noperation = \"open\"\npath = \"before\"\nnth = 2\nerror = \"EACCES\"\n\
                [[fault]]\noperation = \"write\"\ncrash = { lose = \"some\", seed = 3 }\npath = \"no\"\n";
    fs::write(&file, text).expect("scratch");
    let shown = stage.order(&["schedule", &path]);
    assert!(shown.contains("open of before, the 2.: EACCES"), "{shown}");
    fs::read(stage.path("before")).expect("the first");
    assert_eq!(error_of(File::open(stage.path("before"))), Some(libc::EACCES));
    for (text, must_name) in [
        ("[[fault]]\noperation = \"flush\"\n", "flush"),
        ("[[fault]]\noperation = \"write\"\n", "does nothing"),
        ("[[fault]]\noperation = \"write\"\nerorr = \"EIO\"\n", "erorr"),
    ] {
        fs::write(&file, text).expect("scratch");
        let refused = stage.ask(&["schedule", &path]);
        let said = &refused.stderr;
        assert!(!refused.status.success() && said.contains(must_name), "{}", refused.describe());
    }
    let unknown = stage.ask(&["fail", "write", "--error", "EWHAT"]);
    assert!(unknown.stderr.contains("EWHAT"), "{}", unknown.describe());

    let backing = stage.scratch.subdirectory("usual");
    let usual = Mounted::new(&backing, "fence=backing");
    let mut command = Command::new(binary::lanefs());
    let refused = run::run(command.arg("fault").arg(usual.path()).arg("list"), DEADLINE);
    assert!(refused.stderr.contains("-o faults"), "{}", refused.describe());
    let refused = Mounted::attempt(&backing, "faults,fence=log").err().unwrap_or_default();
    assert!(refused.contains("faults cannot be combined"), "{refused}");
}
