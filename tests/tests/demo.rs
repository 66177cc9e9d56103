//! Promise: `lanefs demo` works on any machine that can mount, verifies what it wrote, also after a
//! power cut, and leaves nothing behind, however it ends.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tests::loopfs::LoopFs;
use tests::subject::is_bare;
use tests::{binary, leftovers, require, run, tools};

const DEADLINE: Duration = Duration::from_secs(90);
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Room for the sparse image of a short demo, twice.
const DISK_MIB: u64 = 1024;

/// A filesystem that is the demo's alone: whatever it leaves is seen.
struct Place {
    directory: PathBuf,
    _filesystem: LoopFs,
}

impl Place {
    fn new(mib: u64) -> Self {
        let filesystem = LoopFs::ext4(mib);
        let directory = filesystem.path().join("demo");
        fs::create_dir(&directory).expect("mkdir");
        Place { directory, _filesystem: filesystem }
    }

    /// The demo as root starts it, on a scratch disk in this place.
    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::lanefs());
        command.arg("demo").args(arguments).env("TMPDIR", &self.directory);
        command
    }

    #[track_caller]
    fn expect_clean(&self) {
        let left: Vec<_> = fs::read_dir(&self.directory).expect("opendir").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let left = leftovers::below(&self.directory);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Where the demo mounts, once its first writer has written there.
    fn written_mount(&self) -> Option<PathBuf> {
        let mount = self.entry()?.join("mount");
        (leftovers::is_lanefs(&mount) && mount.join("writer0/file").exists()).then_some(mount)
    }

    fn entry(&self) -> Option<PathBuf> {
        Some(fs::read_dir(&self.directory).ok()?.next()?.ok()?.path())
    }
}

/// A demo under way, in a process group of its own.
struct Demo(Child);

impl Demo {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.demo(arguments);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Demo(command.spawn().expect("lanefs starts"))
    }

    /// Its exit code and what it said.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let ended = run::poll(DEADLINE, || self.0.try_wait().expect("our child"));
        let code = ended.unwrap_or_else(|| panic!("not ended after {DEADLINE:?}")).code();
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("what it said");
        (code, said)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // In order, for the sake of its mounts.
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

fn can_run() -> bool {
    require::mount_support() && !is_bare()
}

/// A text without its line ends.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn daemon_pid(mount: &Path) -> Pid {
    let mut command = Command::new(binary::lanefs());
    let outcome = run::run(command.args(["status", "--json"]).arg(mount), START_DEADLINE);
    let status: Value = serde_json::from_str(&outcome.expect_success().stdout).expect("JSON");
    let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.and_then(Pid::from_raw).expect("a pid")
}

#[test]
fn the_demo_ends_well_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let place = Place::new(512);
    let mut command = Command::new(binary::lanefs());
    command.args(["demo", "--seconds", "1", "--dir"]).arg(&place.directory);
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    println!("{}", outcome.stdout);
    assert!(flat(&outcome.stdout).contains("none lost. (No power was cut"), "see above");
    place.expect_clean();
}

/// The power cut has teeth: the filesystem alone has lost what was acknowledged, and recovery brings
/// it back.
#[test]
fn the_demo_survives_its_own_power_cut() {
    if !can_run() {
        return;
    }
    tools::debian("e2fsprogs", "mkfs.ext4");
    let place = Place::new(DISK_MIB);
    let outcome = run::run(&mut place.demo(&["--seconds", "1"]), DEADLINE).expect_success();
    println!("{}", outcome.stdout);
    let wide = outcome.stdout.lines().find(|line| line.chars().count() > 80);
    // A path is not broken, and that of this test is long.
    let path = place.directory.display().to_string();
    assert!(wide.is_none_or(|line| line.contains(&path)), "too wide: {wide:?}");
    assert!(flat(&outcome.stdout).contains("none of the"), "see above");
    place.expect_clean();

    let outcome = run::run(&mut place.demo(&["--seconds", "1", "--json"]), DEADLINE);
    let outcome = outcome.expect_success();
    let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    println!("{report}");
    let cut = &report["power_cut"];
    for figure in ["acknowledged_in_last_turn", "operations_redone", "log_groups"] {
        assert!(cut[figure].as_u64().is_some_and(|count| count > 0), "{figure}: {report}");
    }
    assert_eq!(cut["log_found"], true, "{report}");
    assert_eq!(report["fence"], "log", "{report}");
    assert_eq!(report["replaces_verified"], 16, "{report}");
    let flushes = |name: &str| report[name].as_f64().expect("the disk counts its flushes");
    assert!(flushes("bare_flushes_per_operation") > 0.0, "{report}");
    assert!(flushes("mount_flushes_per_operation") > 0.0, "{report}");
    place.expect_clean();
}

/// Ctrl-C at any time: while the disk is made, while it is mounted, while writers write.
#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !can_run() {
        return;
    }
    tools::debian("e2fsprogs", "mkfs.ext4");
    let place = Place::new(DISK_MIB);
    type Moment = fn(&Place) -> Option<()>;
    let moments: [(&str, Moment); 4] = [
        ("an image", |place| place.entry()?.join("image").exists().then_some(())),
        ("a disk", |place| leftovers::is_mounted(&place.entry()?.join("disk")).then_some(())),
        ("a mount", |place| leftovers::is_lanefs(&place.entry()?.join("mount")).then_some(())),
        ("writers", |place| place.written_mount().map(drop)),
    ];
    for (moment, come) in moments {
        let demo = Demo::start(&place, &["--seconds", "20"]);
        run::poll(START_DEADLINE, || come(&place)).unwrap_or_else(|| panic!("never: {moment}"));
        let pid = Pid::from_child(&demo.0);
        // As a terminal does it: the whole group.
        kill_process_group(pid, Signal::INT).expect("it runs");
        let (code, said) = demo.end();
        assert!(code == Some(1) && said.contains("interrupted"), "{moment}: {code:?}, {said}");
        place.expect_clean();
    }
}

#[test]
fn a_dead_daemon_ends_the_demo_and_nothing_is_lost() {
    if !can_run() {
        return;
    }
    tools::debian("e2fsprogs", "mkfs.ext4");
    let place = Place::new(DISK_MIB);
    let demo = Demo::start(&place, &["--seconds", "20"]);
    let mount = run::poll(START_DEADLINE, || place.written_mount()).expect("the demo writes");
    kill_process(daemon_pid(&mount), Signal::KILL).expect("it runs");
    let (code, said) = demo.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("everything acknowledged is there"), "{said}");
    place.expect_clean();
}

/// The demo must be able to fail: a file that is taken away is missed, and the disk is kept.
#[test]
fn a_loss_is_named_and_the_image_kept() {
    if !can_run() {
        return;
    }
    tools::debian("e2fsprogs", "mkfs.ext4");
    let place = Place::new(DISK_MIB);
    let mut demo = Demo::start(&place, &["--seconds", "1"]);
    while demo.0.try_wait().expect("our child").is_none() {
        // Again and again: the last time is after the last turn in this directory.
        if let Some(entry) = place.entry() {
            let _ = fs::remove_file(entry.join("disk/bare/writer3/file"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let (code, said) = demo.end();
    assert_eq!(code, Some(1), "{said}");
    for word in ["LOST: ", "disk/bare/writer3/file", "without lanefs", "image is kept: "] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let kept = place.entry().expect("what is kept");
    assert!(said.contains(&kept.join("image").display().to_string()), "{said}");
    assert!(kept.join("image").is_file());
    assert!(leftovers::below(&place.directory).is_empty(), "the image is free");
    fs::remove_dir_all(kept).expect("removed by hand");
    place.expect_clean();
}
