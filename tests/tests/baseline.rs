//! Promise: `tests baseline` measures what it says, on disks whose counters are known.
//!
//! - Bare ext4 needs the flushes that it is known to need, and lanefs over it no more.
//! - Each workload runs and gives an object with all fields.
//! - Ctrl-C ends it soon, and nothing is left: no loop device (so no filesystem on it, and no mount
//!   over that), no process.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tests::baseline::{BaselineArgs, Comparison, Filesystem, Workload, collect};
use tests::{binary, leftovers, require, run, scratch};

const DEADLINE: Duration = Duration::from_secs(60);
// Two runs of the same thing differ by a few per cent (the journal's own timer, scheduling).
const NOISE: f64 = 1.05;
const FIELDS: [&str; 10] = [
    "subject",
    "fs",
    "workload",
    "threads",
    "flush_ms",
    "ops_per_s",
    "p50_us",
    "p99_us",
    "flushes_per_op",
    "requests_per_op",
];

// A turn for a test that can run here: two at a time would only measure each other.
fn supported() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    require::mount_support().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn cells(workload: Workload, threads: &[usize], seconds: f64) -> Vec<Comparison> {
    let args = BaselineArgs {
        json: false,
        filesystems: vec![Filesystem::Ext4],
        workloads: vec![workload],
        threads: threads.to_vec(),
        flush_ms: vec![2.0],
        seconds,
    };
    let found = collect(&args).unwrap_or_else(|error| panic!("{error}"));
    for Comparison { bare, lanefs, ratio } in &found {
        println!("{bare:?}\n{lanefs:?}\nratio {ratio:.2}");
    }
    found
}

#[test]
fn appends_on_bare_ext4_need_the_known_flushes() {
    let Some(_alone) = supported() else { return };
    let found = cells(Workload::Append, &[1, 16], 1.5);
    for (comparison, known, tolerance) in [(&found[0], 2.0, 0.05), (&found[1], 0.25, 0.1)] {
        let Comparison { bare, lanefs, .. } = comparison;
        let off = (bare.flushes_per_op / known - 1.0).abs();
        assert!(off < tolerance, "{} flushes, known are {known}", bare.flushes_per_op);
        assert!(lanefs.flushes_per_op <= bare.flushes_per_op * NOISE, "{lanefs:?}");
        // The kernel writes to the backing file by itself: what arrives is the fdatasync.
        let requests = lanefs.requests_per_op.expect("counted");
        assert!((0.9..2.5).contains(&requests), "{requests} requests");
    }
    // Two flushes; how much more depends on what else the machine does.
    assert!(found[0].bare.p50_us >= 4000.0, "{:?}", found[0].bare);
}

#[test]
fn sixteen_replacing_threads_need_no_more_flushes_on_lanefs() {
    let Some(_alone) = supported() else { return };
    let Comparison { bare, lanefs, .. } = &cells(Workload::Replace, &[16], 2.0)[0];
    assert!(bare.flushes_per_op > 0.4, "{bare:?}");
    assert!(lanefs.flushes_per_op <= bare.flushes_per_op * NOISE, "{lanefs:?}");
    // At least a create, an fsync, a rename and an fsyncdir.
    assert!(lanefs.requests_per_op.is_some_and(|requests| requests >= 4.0), "{lanefs:?}");
}

#[test]
fn every_workload_gives_objects_with_all_fields() {
    let Some(_alone) = supported() else { return };
    let options = ["--json", "--fs", "ext4-fast-commit", "--threads", "2", "--flush-ms", "0.5"];
    let mut command = baseline(&[&options[..], &["--seconds", "0.5"]].concat());
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let lines = outcome.stdout.lines().map(parse).collect::<Vec<_>>();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let subjects = lines.iter().map(|line| [&line["workload"], &line["subject"]].map(text));
    let names = ["append", "overwrite", "replace", "varmail"];
    let expected = names.iter().flat_map(|name| [[*name, "bare"], [*name, "lanefs"]]);
    assert!(subjects.eq(expected.map(|pair| pair.map(str::to_owned))), "{}", outcome.stdout);
    for line in &lines {
        let object = line.as_object().expect("an object");
        assert!(
            object.len() == FIELDS.len() && FIELDS.iter().all(|name| object.contains_key(*name))
        );
        assert_eq!((&line["fs"], &line["threads"]), (&"ext4-fast-commit".into(), &2.into()));
        let positive = |name: &&&str| line[**name].as_f64().is_some_and(|value| value > 0.0);
        assert_eq!(FIELDS[3..9].iter().filter(positive).count(), 6, "{line}");
        assert_eq!(line["requests_per_op"].is_null(), line["subject"] == "bare", "{line}");
    }
    let said = |suffix: &str| outcome.stderr.lines().filter(|line| line.ends_with(suffix)).count();
    assert_eq!((said("baseline.csv"), said(".svg")), (1, 4), "{}", outcome.stderr);
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    let Some(_alone) = supported() else { return };
    let mark = format!("LANEFS_TEST_MARK={}-interrupt", std::process::id());
    let (name, value) = mark.split_once('=').expect("just put there");
    let options = ["--fs", "ext4", "--workload", "varmail", "--threads", "16", "--seconds", "60"];
    let mut command = baseline(&options);
    command.env(name, value).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a process");
    let daemon_runs = || (processes(&mark) >= 2).then_some(());
    assert!(run::poll(DEADLINE, daemon_runs).is_some(), "no mount: {:?}", child.try_wait());
    std::thread::sleep(Duration::from_secs(1));
    assert!(!devices_of(&child).is_empty());

    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("it runs");
    let ended = run::poll(DEADLINE, || child.try_wait().expect("a child"));
    assert_eq!(ended.expect("an end, soon").code(), Some(1));
    let left = || (devices_of(&child).is_empty() && processes(&mark) == 0).then_some(());
    assert!(run::poll(DEADLINE, left).is_some(), "{:?}, {}", devices_of(&child), processes(&mark));
}

fn baseline(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
    // Built here, and not in the time of the command.
    command.env("LANEFS_BIN", binary::lanefs());
    // Its files must not replace those of a long run.
    command.env("CARGO_TARGET_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.arg("baseline").args(options);
    command
}

// The disk's file has its process in its name.
fn devices_of(child: &Child) -> Vec<String> {
    let ours = format!("{}disk-{}-", scratch::PREFIX, child.id());
    leftovers::all().into_iter().filter(|line| line.contains(&ours)).collect()
}

// Daemons inherit the environment of who started them.
fn processes(mark: &str) -> usize {
    let folders = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let environments = folders.filter_map(|folder| fs::read(folder.path().join("environ")).ok());
    let is_marked = |environment: &Vec<u8>| {
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    environments.filter(is_marked).count()
}
