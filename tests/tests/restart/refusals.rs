//! What is refused, and the ends of a mount that was restarted.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::loopfs::LoopFs;
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::subject::{Subject, is_bare};
use tests::uring::Switch;
use tests::{binary, leftovers, require, run};

use super::{DEADLINE, mounted, restart, subject, try_restart};

/// Programs that cannot go on, and say so or not: the mount does not notice.
#[test]
fn programs_that_cannot_go_on() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let subject = subject(160);
    let mut file = File::create(subject.path().join("file")).expect("a file");
    let older = subject.filesystem().scratch().join("older");
    fs::write(&older, "#!/bin/sh\necho 'error: unexpected argument' >&2; exit 2\n")
        .expect("a file");
    fs::set_permissions(&older, Permissions::from_mode(0o755)).expect("chmod");
    let older = older.to_str().expect("text");
    for (binary, reason) in [
        ("/bin/false", "says nothing"),
        ("/bin/true", "says nothing"),
        ("/nowhere/lanefs", "does not start"),
        (older, "unexpected argument"),
    ] {
        let outcome = try_restart(subject.path(), &["--binary", binary]);
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
        assert!(outcome.stderr.contains(reason), "{}", outcome.describe());
        assert!(outcome.stderr.contains(binary), "{}", outcome.describe());
        file.write_all(b"x").expect("the mount goes on");
        file.sync_all().expect("the mount goes on");
    }
    assert_eq!(mounted(&subject).status()["restarts"].as_u64(), Some(0));
    restart(subject.path());
    file.write_all(b"x").expect("the mount goes on");
    assert_eq!(fs::read(subject.path().join("file")).expect("the file"), b"xxxxx");
}

/// A program that reads another state says so, before anything is done.
#[test]
fn another_version_of_the_state() {
    let mut command = Command::new(binary::lanefs());
    command.args(["--can-resume", "999", "mount", "/", "/nowhere"]);
    let outcome = run::run(&mut command, DEADLINE);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.stderr.contains("unmount and mount again"), "{}", outcome.describe());
    let mut command = Command::new(binary::lanefs());
    command.args(["--can-resume", "1", "mount", "/", "/nowhere", "-o", "of_tomorrow"]);
    let outcome = run::run(&mut command, DEADLINE);
    assert_eq!(outcome.status.code(), Some(2), "{}", outcome.describe());
    assert!(outcome.stderr.contains("of_tomorrow"), "{}", outcome.describe());
}

/// A mount on rings says at its start, and when it is asked, that it cannot.
#[test]
fn rings() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let Some(_switch) = Switch::set(true) else { return };
    let options = format!("{DEFAULT_OPTIONS},transport=ring");
    let mount = |tree: &Path| Mounted::new(tree, &options);
    let subject = Subject::over(LoopFs::ext4_in_memory(160), mount);
    let status = mounted(&subject).status();
    assert!(status["no_restart"].as_str().is_some_and(|why| why.contains("transport=classic")));
    let outcome = try_restart(subject.path(), &[]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.stderr.contains("transport=classic"), "{}", outcome.describe());
    fs::write(subject.path().join("file"), "still there").expect("the mount goes on");
}

/// SIGUSR2 restarts, and SIGTERM right behind it still ends the mount properly.
#[test]
fn signals() {
    if !require::mount_support() || is_bare() {
        return;
    }
    for pause_ms in [0, 3, 30, 300] {
        let subject = subject(160);
        fs::write(subject.path().join("file"), "content").expect("a file");
        let pid = Pid::from_raw(mounted(&subject).daemon_pid()).expect("a process id");
        kill_process(pid, Signal::USR2).expect("it runs");
        std::thread::sleep(Duration::from_millis(pause_ms));
        kill_process(pid, Signal::TERM).expect("it runs");
        let mount_point = subject.path().to_path_buf();
        let gone = || (!leftovers::is_mounted(&mount_point)).then_some(());
        run::poll(DEADLINE, gone).unwrap_or_else(|| panic!("still mounted: {pause_ms} ms"));
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let ended = || {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z")).then_some(())
        };
        run::poll(DEADLINE, ended).expect("it ends");
        let content = fs::read_to_string(subject.backing().join("file"));
        assert_eq!(content.expect("the file"), "content");
    }
}

/// SIGUSR2 alone: the program that lies where the daemon's own lay.
#[test]
fn a_signal_restarts() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let subject = subject(160);
    let pid = Pid::from_raw(mounted(&subject).daemon_pid()).expect("a process id");
    kill_process(pid, Signal::USR2).expect("it runs");
    let restarted = || (mounted(&subject).status()["restarts"] == 1).then_some(());
    run::poll(DEADLINE, restarted).expect("it restarts");
    fs::write(subject.path().join("file"), "content").expect("the mount answers");
}

/// umount(8), and `lanefs umount`, after a restart.
#[test]
fn unmounting_after_a_restart() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let subject = subject(160);
    restart(subject.path());
    let mut umount = Command::new("umount");
    run::run(umount.arg(subject.path()), DEADLINE).expect_success();
    let process = PathBuf::from(format!("/proc/{}", mounted(&subject).daemon_pid()));
    let ended = || {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    };
    run::poll(DEADLINE, ended).expect("the daemon ends with its mount");
}
