//! What a service manager hears, with a socket of the test's own.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::loopfs::LoopFs;
use tests::scratch::Scratch;
use tests::subject::is_bare;
use tests::{binary, leftovers, require, run};

const DEADLINE: Duration = Duration::from_secs(30);
const WATCHDOG: Duration = Duration::from_millis(900);

/// A daemon in the foreground, and the socket that it notifies.
struct Service {
    process: Child,
    socket: UnixDatagram,
    mount_point: PathBuf,
    backing: PathBuf,
    filesystem: LoopFs,
    _scratch: Scratch,
}

impl Service {
    fn start(options: &str, variables: &[(&str, &str)]) -> Self {
        let filesystem = LoopFs::ext4(128);
        let scratch = Scratch::new(0);
        let (backing, mount_point) =
            (filesystem.path().join("data"), scratch.subdirectory("mount"));
        fs::create_dir(&backing).expect("mkdir");
        for index in 0..8 {
            fs::create_dir(backing.join(format!("{index}"))).expect("mkdir");
        }
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let mut command = Command::new(binary::lanefs());
        command.arg("mount").arg(&backing).arg(&mount_point).args(["-o", options]);
        command.env("NOTIFY_SOCKET", &path).envs(variables.iter().copied());
        let process = command.spawn().expect("the daemon starts");
        Self { process, socket, mount_point, backing, filesystem, _scratch: scratch }
    }

    /// The next message, if one comes in time.
    fn hear(&self, limit: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(limit)).expect("a limit");
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Messages up to one that has this line.
    #[track_caller]
    fn wait_for(&self, line: &str) -> Vec<String> {
        let (end, mut heard) = (Instant::now() + DEADLINE, Vec::new());
        while Instant::now() < end {
            heard.extend(self.hear(end.saturating_duration_since(Instant::now())));
            if heard.last().is_some_and(|text| text.lines().any(|said| said.starts_with(line))) {
                return heard;
            }
        }
        panic!("{line} was not heard, but {heard:?}");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed()).expect("a process id")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let mut thaw = Command::new("fsfreeze");
        let _ = thaw.arg("-u").arg(self.filesystem.path()).stderr(Stdio::null()).status();
        let _ = kill_process(self.pid(), Signal::TERM);
        if run::poll(DEADLINE, || self.process.try_wait().ok().flatten()).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        let _ = Command::new(binary::lanefs())
            .args(["umount", "--dead"])
            .arg(&self.mount_point)
            .status();
    }
}

fn can_run() -> bool {
    require::mount_support() && !is_bare()
}

fn watchdog_usec() -> String {
    WATCHDOG.as_micros().to_string()
}

#[test]
fn ready_means_that_the_mount_answers_and_stopping_that_it_ends() {
    if !can_run() {
        return;
    }
    let mut service = Service::start("fence=log", &[]);
    let heard = service.wait_for("READY=1");
    assert!(leftovers::is_mounted(&service.mount_point), "READY before it was mounted");
    fs::write(service.mount_point.join("file"), b"at once").expect("it answers");
    assert!(heard.first().expect("a message").starts_with("STATUS=opening"), "{heard:?}");
    let ready = heard.last().expect("a message");
    let status = ready.lines().find(|line| line.starts_with("STATUS=")).expect("a status line");
    assert!(status.contains(&*service.mount_point.to_string_lossy()), "{status}");
    assert!(status.contains("fence log") && status.contains("sync requests"), "{status}");
    // No watchdog was asked for: no ping, no process that asks.
    assert_eq!(service.hear(Duration::from_millis(300)), None);
    assert_eq!(children(service.process.id()), Vec::<String>::new());
    kill_process(service.pid(), Signal::TERM).expect("it runs");
    service.wait_for("STOPPING=1");
    let status = run::poll(DEADLINE, || service.process.try_wait().expect("our child"));
    assert!(status.expect("it ends").success());
}

#[test]
fn a_mount_that_does_not_answer_feeds_no_watchdog() {
    if !can_run() {
        return;
    }
    let service =
        Service::start("transport=classic,workers=3", &[("WATCHDOG_USEC", &watchdog_usec())]);
    service.wait_for("READY=1");
    let start = Instant::now();
    for _ in 0..3 {
        let heard = service.wait_for("WATCHDOG=1");
        assert!(heard.last().expect("a message").contains("sync requests"), "{heard:?}");
    }
    assert!(start.elapsed() < 2 * WATCHDOG, "three pings in {:?}", start.elapsed());
    // The process that asks must not be able to keep the connection alive.
    let asker = children(service.process.id());
    let [asker] = asker.as_slice() else { panic!("one process asks, not {asker:?}") };
    let held = fs::read_dir(format!("/proc/{asker}/fd")).expect("its descriptors").flatten();
    let fuse =
        held.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new("/dev/fuse")));
    assert_eq!(fuse.count(), 0);
    // The daemon is well, but all its workers wait for a filesystem that stands still.
    let freeze = |word: &str| {
        let mut command = Command::new("fsfreeze");
        run::run(command.arg(word).arg(service.filesystem.path()), DEADLINE).expect_success();
    };
    freeze("-f");
    let blocked: Vec<_> = (0..8)
        .map(|index| service.mount_point.join(format!("{index}/new")))
        .map(|path| thread::spawn(move || fs::create_dir(path)))
        .collect();
    service.wait_for("STATUS=the mount does not answer");
    let end = Instant::now() + WATCHDOG;
    while let Some(heard) =
        service.hear(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
    {
        assert!(!heard.contains("WATCHDOG=1"), "fed although nothing is answered");
    }
    freeze("-u");
    for made in blocked {
        made.join().expect("no panic").expect("it was only late");
    }
    service.wait_for("WATCHDOG=1");
    assert!(service.backing.join("0/new").exists());
}

#[test]
fn a_daemon_in_the_background_notifies_nobody() {
    if !can_run() {
        return;
    }
    let scratch = Scratch::new(0);
    let (backing, mount_point) = (scratch.subdirectory("data"), scratch.subdirectory("mount"));
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("a flag");
    let mut command = Command::new(binary::lanefs());
    command.args(["mount", "--daemon"]).arg(&backing).arg(&mount_point);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", watchdog_usec());
    run::run(&mut command, DEADLINE).expect_success();
    thread::sleep(WATCHDOG);
    assert!(socket.recv(&mut [0; 64]).is_err(), "it is not the process that the manager knows");
    run::run(Command::new(binary::lanefs()).arg("umount").arg(&mount_point), DEADLINE)
        .expect_success();
}

fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let of =
        |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks
        .flat_map(|task| of(task).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
