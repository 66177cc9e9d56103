//! What becomes durable although nobody waits: the commit interval, and the mode `relaxed`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::disk::{Fault, Position, file_extents};
use tests::filesystem::Filesystem;
use tests::uring::Switch;
use tests::{binary, require, run};

use super::stage::Stage;

const DEADLINE: Duration = Duration::from_secs(60);

fn lanefs(words: &[&str], mount_point: &Path, settings: &[&str]) -> String {
    let mut command = Command::new(binary::lanefs());
    command.args(words).arg(mount_point).args(settings);
    run::run(&mut command, DEADLINE).expect_success().stdout
}

fn committer(stage: &Stage) -> Value {
    stage.daemon().status().expect("a status")["engine"]["committer"].clone()
}

fn waits(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

// A file that was closed, one that is open, a name and a mode: all without any sync.
fn work(root: &Path) -> File {
    fs::write(root.join("closed"), "closed").expect("write");
    let open = File::create(root.join("open")).expect("create");
    open.write_all_at(b"still open", 0).expect("write");
    fs::rename(root.join("old"), root.join("new")).expect("rename");
    open
}

fn prepare(tree: &Path) {
    fs::write(tree.join("old"), "prepared").expect("write");
}

// What of it is there.
fn found(tree: &Path) -> [bool; 3] {
    let is = |name: &str, content: &str| {
        fs::read_to_string(tree.join(name)).is_ok_and(|found| found == content)
    };
    [is("closed", "closed"), is("open", "still open"), is("new", "prepared")]
}

fn after_interval(filesystem: Filesystem, options: &str, wait_s: f64) -> ([bool; 3], [bool; 3]) {
    let stage = Stage::new(filesystem, options, prepare);
    let open = work(stage.root());
    let at_once = stage.disk.position();
    waits(wait_s);
    let later = stage.disk.position();
    drop(open);
    let ended = stage.end();
    let left = |position: Position| ended.after_cut(position, found);
    (left(at_once), left(later))
}

#[test]
fn what_nobody_asks_for_is_durable_after_the_interval() {
    if !require::mount_support() {
        return;
    }
    let (none, all) = ([false; 3], [true; 3]);
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        let options = "fence=log,transport=classic,commit_interval=200ms";
        assert_eq!(after_interval(filesystem, options, 1.0), (none, all), "{}", filesystem.name());
        let options = "fence=log,transport=classic,commit_interval=0";
        assert_eq!(after_interval(filesystem, options, 1.0), (none, none), "never");
    }
    // Without a log content takes five intervals.
    let options = "fence=backing,transport=classic,commit_interval=200ms";
    assert_eq!(after_interval(Filesystem::Ext4, options, 2.5), (none, all));
    let options = "fence=backing,sync_by=threads,transport=classic,commit_interval=200ms";
    assert_eq!(after_interval(Filesystem::Ext4, options, 2.5), (none, all));
}

// An engine with nothing to commit must cost no thread and no wake-ups.
#[test]
fn an_idle_mount_does_not_look() {
    if !require::mount_support() {
        return;
    }
    for fence in ["log", "backing"] {
        let options = format!("fence={fence},transport=classic,commit_interval=50ms");
        let stage = Stage::new(Filesystem::Ext4, &options, prepare);
        drop(work(stage.root()));
        waits(2.0);
        let (before, flushes) = (committer(&stage), stage.disk.counters().flushes);
        assert!(before["commits"].as_u64() > Some(0), "{before}");
        waits(1.0);
        let after = committer(&stage);
        assert_eq!(after["looks"], before["looks"], "{fence}: looks with nothing to see");
        assert_eq!(stage.disk.counters().flushes, flushes, "{fence}");
        waits(5.0);
        let threads = fs::read_dir(format!("/proc/{}/task", stage.daemon().pid())).expect("tasks");
        let names =
            threads.map(|task| fs::read_to_string(task.expect("a task").path().join("comm")));
        let names: Vec<_> = names.map(Result::unwrap_or_default).collect();
        assert!(!names.iter().any(|name| name.contains("interval")), "{fence}: {names:?}");
        stage.end();
    }
}

// A stream that is still being written is not written back at each look.
#[test]
fn a_large_stream_is_left_alone_for_a_while() {
    if !require::mount_support() {
        return;
    }
    let options = "fence=log,transport=classic,commit_interval=300ms";
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    let open = File::create(stage.root().join("stream")).expect("create");
    open.write_all_at(&vec![3; 8 << 20], 0).expect("write");
    waits(0.75);
    let early = stage.disk.position();
    waits(2.0);
    let later = stage.disk.position();
    drop(open);
    let ended = stage.end();
    let length = |tree: &Path| fs::metadata(tree.join("stream")).map_or(0, |found| found.len());
    assert_eq!(
        ended.after_cut(early, length),
        0,
        "its name is durable, and nothing of its content"
    );
    assert_eq!(ended.after_cut(later, length), 8 << 20);
}

// A look opened a large file that had been closed, and left it open until it was committed: removed
// meanwhile, it kept its blocks, and a full disk stayed full.
#[test]
fn a_look_does_not_keep_a_file_open() {
    if !require::mount_support() {
        return;
    }
    let options = "fence=log,transport=classic,commit_interval=300ms";
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    fs::write(stage.root().join("large"), vec![3; 8 << 20]).expect("write");
    waits(0.8);
    let pid = stage.daemon().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let kept = open.filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_large = fs::read_link(&path).ok()?.to_string_lossy().contains("large");
        let number = path.file_name()?.to_str()?;
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        // Of the engine's cache, which gives up what is removed: O_PATH.
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        let flags = i32::from_str_radix(&flags, 8).ok()?;
        (is_large && flags & libc::O_PATH == 0).then_some(info)
    });
    let kept: Vec<_> = kept.collect();
    assert!(kept.is_empty(), "{kept:?}");
    let looks = committer(&stage)["looks"].as_u64().expect("a number");
    assert!((1..10).contains(&looks), "it was looked at, and is not committed yet: {looks}");
    stage.end();
}

fn relaxed_syncs(options: &str) {
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    stage.disk.set_flush_time(Duration::from_millis(20));
    let file = OpenOptions::new().write(true).open(stage.root().join("old")).expect("open");
    let start = Instant::now();
    for turn in 0..20 {
        file.write_all_at(&[b'0' + turn; 8], 0).expect("write");
        file.sync_all().expect("fsync");
    }
    File::open(stage.root()).and_then(|root| root.sync_all()).expect("fsync of the directory");
    let took = start.elapsed();
    let at_once = stage.disk.position();
    assert!(took < Duration::from_millis(300), "21 syncs of 20 ms were waited for: {took:?}");
    waits(0.8);
    let later = stage.disk.position();
    let figures = committer(&stage);
    assert_eq!(figures["late_syncs"].as_u64(), Some(21), "{figures}");
    assert_eq!(figures["late_syncs_waiting"].as_u64(), Some(0), "{figures}");
    assert_eq!(figures["late_syncs_missed"].as_u64(), Some(0), "{figures}");
    drop(file);
    let ended = stage.end();
    let content = |tree: &Path| fs::read_to_string(tree.join("old")).unwrap_or_default();
    assert_eq!(ended.after_cut(at_once, content), "prepared");
    assert_eq!(ended.after_cut(later, content), "CCCCCCCC");
}

#[test]
fn a_relaxed_sync_is_durable_later() {
    if !require::mount_support() {
        return;
    }
    let mode = "durability=relaxed:600,commit_interval=0";
    relaxed_syncs(&format!("{mode},fence=log,transport=classic"));
    relaxed_syncs(&format!("{mode},fence=backing,transport=classic"));
    let Some(_switch) = Switch::set(true) else { return };
    relaxed_syncs(&format!("{mode},fence=log,transport=ring"));
}

#[test]
fn an_error_that_comes_late_is_told_to_the_next_sync() {
    if !require::mount_support() {
        return;
    }
    let options = "durability=relaxed:100,commit_interval=0,fence=backing,transport=classic";
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    let file = OpenOptions::new().write(true).open(stage.root().join("old")).expect("open");
    // Asking where it lies writes it out: so before it is written again.
    let backing = File::open(stage.backing().join("old")).expect("open");
    stage.disk.watch(file_extents(&backing).expect("extents"));
    drop(backing);
    file.write_all_at(b"lost", 0).expect("write");
    stage.disk.inject(Fault::WatchedWriteError(1));
    file.sync_all().expect("it is answered at once");
    waits(0.5);
    stage.disk.clear_faults();
    let failed = file.sync_all();
    let figures = committer(&stage);
    assert!(failed.is_err(), "the error of the one before: {figures}, {:?}", stage.disk.counters());
    assert_eq!(figures["late_errors"].as_u64(), Some(1), "{figures}");
    drop(file);
    drop(stage);
}

// What an unmount leaves is durable, whatever was answered before.
#[test]
fn a_mount_ends_with_nothing_late() {
    if !require::mount_support() {
        return;
    }
    let options = "durability=relaxed:3600000,commit_interval=0,fence=log,transport=classic";
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    let file = OpenOptions::new().write(true).open(stage.root().join("old")).expect("open");
    file.write_all_at(b"PREPARED", 0).expect("write");
    file.sync_all().expect("it is answered at once");
    drop(file);
    let (ended, last) = stage.end_with_position();
    let content = |tree: &Path| fs::read_to_string(tree.join("old")).unwrap_or_default();
    assert_eq!(ended.after_cut(last, content), "PREPARED");
}

#[test]
fn a_running_mount_can_be_told_otherwise() {
    if !require::mount_support() {
        return;
    }
    let options = "fence=log,transport=classic,commit_interval=0";
    let stage = Stage::new(Filesystem::Ext4, options, prepare);
    let mut cuts = Vec::new();
    for (number, mode) in ["fsync", "close", "always", "fsync"].iter().enumerate() {
        let said = lanefs(&["set"], stage.root(), &[&format!("durability={mode}")]);
        assert_eq!(said.trim(), format!("durability={mode} commit-interval=0"));
        fs::write(stage.root().join(format!("file {number}")), "content").expect("write");
        cuts.push(stage.disk.position());
    }
    let shown = lanefs(&["status"], stage.root(), &[]);
    assert!(shown.lines().any(|line| line.contains("durability") && line.ends_with("fsync")));
    lanefs(&["set"], stage.root(), &["commit-interval=100ms"]);
    waits(0.6);
    cuts.push(stage.disk.position());
    let ended = stage.end();
    let has = |number: usize| {
        move |tree: &Path| {
            fs::read(tree.join(format!("file {number}"))).is_ok_and(|c| c == b"content")
        }
    };
    assert!(!ended.after_cut(cuts[0], has(0)));
    assert!(ended.after_cut(cuts[1], has(1)) && ended.after_cut(cuts[2], has(2)));
    assert!(!ended.after_cut(cuts[3], has(3)));
    assert!(ended.after_cut(cuts[4], has(3)), "what was applied before the interval was set");
}
