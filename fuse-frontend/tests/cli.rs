//! The command as a user meets it: what it says to mistakes, what it exits
//! with, and that nothing is left mounted.
//!
//! Most of it needs root and /dev/fuse; without them these tests fail and say
//! so, unless LANEFS_SKIP_MOUNT_TESTS=1 is set.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

fn lanefs(words: &[&str], paths: &[&Path]) -> Output {
    let program = env!("CARGO_BIN_EXE_lanefs");
    Command::new(program).args(words).args(paths).output().expect("the program starts")
}

/// Runs a command and checks its exit code; returns what it printed.
fn expect(exit_code: i32, words: &[&str], paths: &[&Path]) -> String {
    let output = lanefs(words, paths);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = format!("lanefs {words:?} {paths:?}");
    assert_eq!(output.status.code(), Some(exit_code), "{shown}: {error}");
    if exit_code == 0 { String::from_utf8_lossy(&output.stdout).into_owned() } else { error }
}

/// False, having said why, if mounts cannot be tested here and need not be.
fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let fuse = Path::new("/dev/fuse").exists();
    if root && fuse {
        return true;
    }
    let reason = if root { "there is no /dev/fuse" } else { "not running as root" };
    let skip = std::env::var_os("LANEFS_SKIP_MOUNT_TESTS").is_some_and(|value| value == "1");
    assert!(skip, "mount tests cannot run: {reason}; LANEFS_SKIP_MOUNT_TESTS=1 skips them");
    eprintln!("skipped: {reason}");
    false
}

/// A backing directory and a mount point; whatever is mounted there is
/// unmounted when the test ends, however it ends.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("scratch directory");
        for name in ["backing", "mount"] {
            std::fs::create_dir(root.path().join(name)).expect("scratch directory");
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn backing(&self) -> PathBuf {
        self.path("backing")
    }

    fn mount(&self) -> PathBuf {
        self.path("mount")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in [self.mount(), self.backing()] {
            while is_mounted(&path) {
                if !lanefs(&["umount", "--lazy"], &[&path]).status.success() {
                    break;
                }
            }
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn daemon_pid(mount: &Path) -> nix::unistd::Pid {
    let status = expect(0, &["status", "--json"], &[mount]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("status prints JSON");
    nix::unistd::Pid::from_raw(status["pid"].as_i64().expect("a pid") as i32)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_exit(mut child: Child) -> Option<i32> {
    let mut code = None;
    wait_for("the process ends", || {
        code = child.try_wait().expect("it is our child").map(|status| status.code());
        code.is_some()
    });
    code.flatten()
}

#[test]
fn mistakes_are_named_with_their_remedy() {
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    let (missing, file, full) = (place.path("missing"), place.path("file"), place.path("full"));
    std::fs::write(&file, b"").unwrap();
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("something"), b"").unwrap();
    let inside = backing.join("inside");
    std::fs::create_dir(&inside).unwrap();

    let usage = |paths: &[&Path], must_say: &str| {
        let said = expect(2, &["mount"], paths);
        assert!(said.contains(must_say), "{paths:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    };
    usage(&[&missing, &mount], "does not exist: create it");
    usage(&[&backing, &missing], "does not exist: create it");
    usage(&[&file, &mount], "is not a directory");
    usage(&[&backing, &file], "is not a directory");
    usage(&[&backing, &full], "nonempty");
    usage(&[&backing, &inside], "inside the backing directory");
    usage(&[&inside, &backing], "inside the mount point");

    let said = expect(2, &["mount", "-o", "no_such_option"], &[&backing, &mount]);
    assert!(said.contains("no_such_option") && said.contains("--help"), "{said}");
    let said = expect(2, &["mount", "-o", "workers=0"], &[&backing, &mount]);
    assert!(said.contains("from 3 to 64"), "{said}");
    expect(2, &["mount"], &[&backing]);
    expect(2, &["no_such_command"], &[]);
    let said = expect(1, &["umount"], &[&mount]);
    assert!(said.contains("nothing is mounted") && said.contains("lanefs status"), "{said}");
    expect(1, &["status"], &[&mount]);
    // The same mistakes are reported truthfully by a daemon.
    let said = expect(2, &["mount", "--daemon", "-o", "no_such_option"], &[&backing, &mount]);
    assert!(said.contains("no_such_option"), "{said}");
    assert!(!is_mounted(&mount));
}

#[test]
fn a_daemon_mounts_serves_and_ends() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    std::fs::write(mount.join("file"), b"content").unwrap();
    assert_eq!(std::fs::read(backing.join("file")).unwrap(), b"content");
    std::fs::File::open(mount.join("file")).unwrap().sync_all().unwrap();

    let shown = expect(0, &["status"], &[&mount]);
    assert!(shown.contains("sync requests"), "{shown}");
    let status: serde_json::Value =
        serde_json::from_str(&expect(0, &["status", "--json"], &[&mount])).unwrap();
    assert_eq!(status["engine"]["lanes"]["sync_requests"], 1);
    assert_eq!(status["requests"]["fsync"], 1);

    // The same directory cannot be served twice, nor the mount be made again.
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    let said = expect(1, &["mount"], &[&backing, &other]);
    assert!(said.contains("already served by another lanefs"), "{said}");
    let said = expect(1, &["mount"], &[&other, &mount]);
    assert!(said.contains("is a lanefs mount already"), "{said}");

    let pid = daemon_pid(&mount);
    expect(0, &["umount"], &[&mount]);
    assert!(!is_mounted(&mount));
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the daemon has ended by then: {state}");
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
}

/// Writes through descriptors opened with O_SYNC or O_DSYNC must not be answered
/// before they are durable. For a file under direct I/O the kernel sends the
/// WRITE and no FSYNC, so a mount that waits for one answers too early; under
/// the page cache it sends the FSYNC, so a mount that syncs anyhow pays twice.
#[test]
fn synchronous_writes_are_synced_once_each() {
    if !can_mount() {
        return;
    }
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    for options in ["passthrough", "no_passthrough"] {
        let place = Place::new();
        let (backing, mount) = (place.backing(), place.mount());
        expect(0, &["mount", "--daemon", "-o", options], &[&backing, &mount]);
        let mut expected = 0;
        for (name, flags) in [
            ("sync", libc::O_SYNC),
            ("dsync", libc::O_DSYNC),
            ("append", libc::O_SYNC | libc::O_APPEND),
            ("plain", 0),
        ] {
            let mut open = std::fs::OpenOptions::new();
            let mut file = open
                .create(true)
                .write(true)
                .custom_flags(flags)
                .open(mount.join(name))
                .expect("a file can be made");
            for _ in 0..10 {
                file.write_all(&[7; 4096]).expect("a write works");
            }
            expected += if flags == 0 { 0 } else { 10 };
            let status = expect(0, &["status", "--json"], &[&mount]);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let lanes = &status["engine"]["lanes"];
            assert_eq!(lanes["sync_requests"], expected, "{options}, {name}");
        }
        assert_eq!(std::fs::metadata(backing.join("append")).unwrap().len(), 40_960);
        expect(0, &["umount"], &[&mount]);
    }
}

#[test]
fn a_busy_mount_says_so_and_can_be_detached() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    let open = std::fs::File::create(mount.join("open")).unwrap();
    let said = expect(1, &["umount"], &[&mount]);
    assert!(said.contains("busy") && said.contains("--lazy"), "{said}");
    assert!(is_mounted(&mount), "a refused unmount changes nothing");
    expect(0, &["status"], &[&mount]);
    let detaching = std::thread::spawn({
        let mount = mount.clone();
        move || expect(0, &["umount", "--lazy"], &[&mount])
    });
    wait_for("the mount is detached", || !is_mounted(&mount));
    drop(open);
    detaching.join().unwrap();
}

#[test]
fn a_directory_can_be_mounted_over_itself() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let backing = place.backing();
    std::fs::write(backing.join("before"), b"1").unwrap();
    expect(0, &["mount", "--daemon"], &[&backing, &backing]);
    assert!(is_mounted(&backing));
    assert_eq!(std::fs::read(backing.join("before")).unwrap(), b"1");
    std::fs::write(backing.join("through"), b"2").unwrap();
    expect(0, &["umount"], &[&backing]);
    assert!(!is_mounted(&backing));
    assert_eq!(std::fs::read(backing.join("through")).unwrap(), b"2");
}

#[test]
fn signals_end_a_foreground_mount_with_success() {
    if !can_mount() {
        return;
    }
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        let place = Place::new();
        let (backing, mount) = (place.backing(), place.mount());
        let child = Command::new(env!("CARGO_BIN_EXE_lanefs"))
            .arg("mount")
            .args([&backing, &mount])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("it is mounted", || {
            is_mounted(&mount) && std::fs::write(mount.join("f"), b"x").is_ok()
        });
        wait_for("it answers", || lanefs(&["status"], &[&mount]).status.success());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(wait_for_exit(child), Some(0), "{signal}");
        assert!(!is_mounted(&mount));
        assert_eq!(std::fs::read(backing.join("f")).unwrap(), b"x");
    }
}

/// A signal must end the mount also while a program holds a file open: its next
/// use fails, but what it wrote is there and the process does not hang.
#[test]
fn a_signal_ends_a_busy_mount_too() {
    if !can_mount() {
        return;
    }
    use std::io::Write;
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    let mut open = std::fs::File::create(mount.join("open")).unwrap();
    open.write_all(b"written before the end").unwrap();
    let pid = daemon_pid(&mount);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    wait_for("the daemon ends", || nix::sys::signal::kill(pid, None).is_err());
    assert!(!is_mounted(&mount));
    assert!(open.sync_all().is_err(), "nobody can make it durable any more, and that is said");
    assert_eq!(std::fs::read(backing.join("open")).unwrap(), b"written before the end");
}

/// The kernel gives the device number of an ended mount to the next one at once.
/// A daemon that removed its socket by name, while it still flushed, took the
/// next mount's away: `status` then called a live mount dead (4 in 240).
#[test]
fn mounts_in_quick_succession_keep_their_sockets() {
    if !can_mount() {
        return;
    }
    let places: Vec<_> = (0..4).map(|_| Place::new()).collect();
    std::thread::scope(|scope| {
        for place in &places {
            scope.spawn(move || {
                let (backing, mount) = (place.backing(), place.mount());
                for _ in 0..20 {
                    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
                    expect(0, &["status"], &[&mount]);
                    let output = lanefs(&["umount"], &[&mount]);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success() && said.is_empty(), "{said}");
                }
            });
        }
    });
}

/// umount(8) knows nothing of the daemon; the daemon must notice, flush and end.
#[test]
fn a_foreign_umount_ends_the_daemon() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    let pid = daemon_pid(&mount);
    nix::mount::umount(&mount).unwrap();
    wait_for("the daemon ends", || nix::sys::signal::kill(pid, None).is_err());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    expect(0, &["umount"], &[&mount]);
}

#[test]
fn a_dead_mount_is_named_and_cleaned_up() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    std::fs::write(mount.join("kept"), b"kept").unwrap();
    let pid = daemon_pid(&mount);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    wait_for("the mount is dead", || std::fs::read_dir(&mount).is_err());
    for command in ["mount", "status"] {
        let paths: &[&Path] = if command == "mount" { &[&backing, &mount] } else { &[&mount] };
        let said = expect(1, &[command], paths);
        assert!(said.contains("dead mount") && said.contains("lanefs umount"), "{said}");
    }
    expect(0, &["umount"], &[&mount]);
    assert!(!is_mounted(&mount));
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    assert_eq!(std::fs::read(mount.join("kept")).unwrap(), b"kept");
    expect(0, &["umount"], &[&mount]);
}

#[test]
fn options_reach_the_kernel() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    let options = "ro,noatime,allow_other,dev,suid,noexec,fsname=a name";
    expect(0, &["mount", "--daemon", "-o", options], &[&backing, &mount]);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == mount.to_str()).unwrap();
    for word in ["ro,", "noatime", "noexec", "allow_other", "default_permissions", r"a\040name"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(!line.contains("nodev") && !line.contains("nosuid"), "{line}");
    let error = std::fs::write(mount.join("new"), b"").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    expect(0, &["umount"], &[&mount]);
}

#[test]
fn the_demo_runs_verifies_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let said = expect(0, &["demo", "--json", "--seconds", "1", "--dir"], &[place.path()]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("--json prints JSON");
    assert_eq!(report["replaces_verified"], 16, "{report}");
    assert!(report["appends_verified"].as_u64().unwrap() > 0, "{report}");
    assert!(report["sync_requests"].as_u64() > report["groups"].as_u64(), "{report}");
    assert!(report["bare_replace_us_p50"].as_u64().unwrap() > 0, "{report}");
    // One's own directory is no disk whose power could be cut.
    assert!(report["power_cut"].is_null() && report["no_power_cut"].is_string(), "{report}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(place.path().to_str().unwrap()), "nothing is left mounted");
}

/// When the daemon dies under the demo, what it acknowledged is still checked
/// and still there, and the scratch mount is gone afterwards.
#[test]
fn the_demo_survives_the_death_of_its_daemon() {
    if !can_mount() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_lanefs"))
        .args(["demo", "--seconds", "20", "--dir"])
        .arg(place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mounted = || {
        let scratch = std::fs::read_dir(place.path()).unwrap().next()?.ok()?.path().join("mount");
        let writing = scratch.join("writer0/file").exists();
        (is_mounted(&scratch) && writing).then_some(scratch)
    };
    wait_for("the demo writes", || mounted().is_some());
    let pid = daemon_pid(&mounted().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("everything acknowledged is there"), "{said}");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(place.path().to_str().unwrap()), "nothing is left mounted");
}

/// A directory in memory: the one filesystem everywhere on which no log is safe.
fn in_memory() -> Option<tempfile::TempDir> {
    let place = Path::new("/dev/shm");
    let there = place.is_dir();
    there.then(|| tempfile::tempdir_in(place).expect("/dev/shm is for everybody"))
}

/// One line of at most a few words, that says what is wrong and what helps.
fn refused(exit_code: i32, words: &[&str], paths: &[&Path], must_say: &[&str]) {
    let said = expect(exit_code, words, paths);
    for must_say in must_say {
        assert!(said.contains(must_say), "{words:?}: {must_say:?} is not in: {said}");
    }
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
}

#[test]
fn a_directory_without_a_log_needs_no_recovery() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, missing) = (place.backing(), place.path("missing"));
    for command in ["recover", "check"] {
        let said = expect(0, &[command], &[&backing]);
        assert!(said.contains("has no log: there is nothing to recover"), "{said}");
        assert_eq!(expect(0, &[command, "--json"], &[&backing]), "null\n");
        refused(1, &[command], &[&missing], &["does not exist", "check the path"]);
        let log = &missing;
        refused(1, &[command], &[&backing, Path::new("--log"), log], &["lanefs log format"]);
    }
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_served_directory_is_left_alone() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    expect(0, &["mount", "--daemon"], &[&backing, &mount]);
    for command in ["recover", "check", "probe"] {
        let must_say = ["already served by another lanefs", "lanefs status", "unmount"];
        refused(1, &[command], &[&backing], &must_say);
    }
    std::fs::write(mount.join("file"), b"the mount works on").unwrap();
    expect(0, &["umount"], &[&mount]);
}

#[test]
fn a_log_is_made_in_a_new_file_only() {
    let place = Place::new();
    let (new, missing) = (place.path("new.log"), place.path("missing/new.log"));
    let format = |size: &'static str| ["log", "format", "--size", size];
    for size in ["1M", "4095K", "0", "-4M", "4 cows", "", "99999999T"] {
        let said = expect(2, &["log", "format", &format!("--size={size}")], &[&new]);
        assert!(said.contains("4M"), "{size}: what is possible is said: {said}");
        assert!(!new.exists(), "{size}: nothing was made");
    }
    expect(1, &format("4M"), &[&missing]);
    refused(1, &format("4M"), &[&place.backing()], &["neither a regular file nor a block device"]);

    let said = expect(0, &format("4M"), &[&new]);
    assert!(said.contains("4 MiB") && said.contains("lanefs mount BACKING MOUNTPOINT --log"));
    let made = std::fs::read(&new).unwrap();
    assert_eq!(made.len(), 4 << 20);
    // Made twice, what it holds would be lost; a file that is no log is somebody's.
    refused(2, &format("4M"), &[&new], &["a log of lanefs", "nothing was changed"]);
    let foreign = place.path("foreign");
    std::fs::write(&foreign, b"somebody's").unwrap();
    let output = lanefs(&format("4M"), &[&foreign]);
    assert!(!output.status.success());
    assert_eq!(std::fs::read(&foreign).unwrap(), b"somebody's");
    assert!(std::fs::read(&new).unwrap() == made, "untouched");
    if let Some(memory) = in_memory() {
        let log = memory.path().join("log");
        refused(1, &format("4M"), &[&log], &["in memory", "on a disk"]);
        assert!(!log.exists());
    }
}

#[test]
fn a_probe_measures_says_why_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let backing = place.backing();
    let said = expect(0, &["probe"], &[&backing]);
    for word in ["flush", "bandwidth", "fence=auto would choose: ", ", because "] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = expect(0, &["probe", "--json"], &[&backing]);
    let figures: serde_json::Value = serde_json::from_str(&said).expect("--json prints JSON");
    for name in ["flush_us", "flush_us_p99", "write_4k_us", "bandwidth_bytes_per_s"] {
        assert!(figures[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {said}");
    }
    assert!(["log", "backing"].contains(&figures["fence"].as_str().unwrap()), "{said}");
    assert!(!figures["reason"].as_str().unwrap().is_empty(), "{said}");
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0, "nothing is left");
    refused(1, &["probe"], &[&place.path("missing")], &["does not exist"]);
    if let Some(memory) = in_memory() {
        let said = expect(0, &["probe"], &[memory.path()]);
        assert!(said.contains("choose: backing") && said.contains("tmpfs keeps nothing"), "{said}");
    }
}

/// Whoever asks for a log gets one or no mount, and hears why.
#[test]
fn a_log_that_cannot_be_had_is_said() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (backing, mount) = (place.backing(), place.mount());
    let missing = place.path("missing.log");
    let foreign = place.path("foreign.log");
    std::fs::write(&foreign, vec![7; 8 << 20]).unwrap();
    let asked = "fence=log: no log can be kept for";
    refused(1, &["mount", "-o", "ro,fence=log"], &[&backing, &mount], &[asked, "read-only"]);
    for daemon in [&["mount"][..], &["mount", "--daemon"]] {
        let paths: &[&Path] = &[&backing, &mount, Path::new("--log"), &missing];
        let remedy = format!("lanefs log format {}", missing.display());
        refused(1, daemon, paths, &["does not exist", &remedy]);
        let mut words = daemon.to_vec();
        words.extend(["--log-size", "1M"]);
        let said = expect(2, &words, &[&backing, &mount]);
        assert!(said.contains("from 4M"), "{said}");
        if let Some(memory) = in_memory() {
            let mut words = daemon.to_vec();
            words.extend(["-o", "fence=log"]);
            let must_say = [asked, "tmpfs keeps nothing", "ext4 or XFS"];
            refused(1, &words, &[memory.path(), &mount], &must_say);
        }
        assert!(!is_mounted(&mount));
    }
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0, "no .lanefs was made");
    if let Some(memory) = in_memory() {
        // Nobody asked for a log: a mount without, and the status says why.
        expect(0, &["mount", "--daemon"], &[memory.path(), &mount]);
        let status = expect(0, &["status", "--json"], &[&mount]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["log"].as_str().unwrap().contains("tmpfs keeps nothing"), "{status}");
        expect(0, &["umount"], &[&mount]);
    }
}
