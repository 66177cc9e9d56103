//! A real container engine of the test's own: Docker or Podman, from Debian's packages.
//!
//! Everything it has lies in a scratch directory, beside whatever engine the machine may run. The
//! flags are those that this kind of machine needs: no bridge, the plainest storage, limits below
//! the machine's own, no seccomp.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tests::run::{self, Outcome};
use tests::scratch::{Scratch, unmount_patiently};
use tests::{leftovers, tools};

use crate::plugin::signal;

const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
const START_DEADLINE: Duration = Duration::from_secs(60);
/// What the program `writer` needs of the machine, as volumes of a container.
pub const LIBRARIES: &[&str] = &["/lib:/lib:ro", "/lib64:/lib64:ro", "/usr/lib:/usr/lib:ro"];
/// The name of the image that containers are made of: busybox and `writer`, nothing else.
pub const IMAGE: &str = "localhost/busybox:test";
/// The name under which the engine knows the plugin.
pub fn plugin_name() -> String {
    format!("lanefs-test-{}", std::process::id())
}

/// Where engines look for it.
pub fn plugin_socket() -> PathBuf {
    Path::new("/run/docker/plugins").join(format!("{}.sock", plugin_name()))
}

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
}

/// Held by a test that runs an engine: they know the plugin by one name, and figures want quiet.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running engine; dropped, its processes, containers and mounts are gone.
pub struct Runtime {
    pub kind: Kind,
    program: PathBuf,
    words: Vec<String>,
    daemon: Option<Child>,
    scratch: Scratch,
}

impl Runtime {
    /// Installs the engine if need be, starts it, and gives it an image.
    #[track_caller]
    pub fn start(kind: Kind) -> Self {
        let scratch = Scratch::new(256);
        let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
        tools::debian("runc", "runc");
        let busybox = tools::debian("busybox-static", "busybox");
        let (program, words) = match kind {
            Kind::Docker => {
                tools::debian("docker.io", "dockerd");
                tools::debian("iptables", "iptables");
                let host = format!("unix://{}", path("docker.sock"));
                (tools::debian("docker.io", "docker"), vec!["-H".to_owned(), host])
            }
            Kind::Podman => {
                let words =
                    ["--root", &path("store"), "--runroot", &path("run")].map(str::to_owned);
                let more = ["--storage-driver", "vfs", "--tmpdir", &path("tmp")].map(str::to_owned);
                (tools::debian("podman", "podman"), [words, more].concat())
            }
        };
        let mut runtime = Runtime { kind, program, words, daemon: None, scratch };
        runtime.configure();
        runtime.start_daemon();
        runtime.import(&busybox);
        runtime
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn configure(&self) {
        let text = format!(
            "[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"runc\"\n\
             volume_plugin_timeout=60\n\
             [engine.volume_plugins]\n{} = \"{}\"\n",
            plugin_name(),
            plugin_socket().display()
        );
        fs::write(self.path().join("containers.conf"), text).expect("a file");
        let policy = "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}";
        fs::write(self.path().join("policy.json"), policy).expect("a file");
    }

    /// Starts the daemon, if this kind has one, and returns when it answers.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        if self.kind == Kind::Podman {
            return;
        }
        let log = self.path().join("dockerd.log");
        let messages = fs::File::options().create(true).append(true).open(log).expect("a file");
        let path = |name: &str| self.path().join(name);
        let mut command = Command::new(tools::debian("docker.io", "dockerd"));
        command.arg("--data-root").arg(path("store")).arg("--exec-root").arg(path("run"));
        command.arg("--pidfile").arg(path("docker.pid")).arg(&self.words[0]).arg(&self.words[1]);
        command.args(["--iptables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["--default-ulimit", "nofile=4096:4096"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        // After a kill the next one may find its predecessor's containerd just gone.
        for _ in 0..3 {
            let _ = fs::remove_file(path("docker.pid"));
            let mut child = command.spawn().expect("dockerd");
            let answers = || {
                let ended = child.try_wait().expect("a child").is_some();
                let answers = self.run(&["version"]).status.success();
                (ended || answers).then_some(answers)
            };
            if run::poll(START_DEADLINE, answers) == Some(true) {
                self.daemon = Some(child);
                return;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("dockerd does not start: {}", self.messages());
    }

    fn messages(&self) -> String {
        fs::read_to_string(self.path().join("dockerd.log")).unwrap_or_default()
    }

    fn import(&self, busybox: &Path) {
        let rootfs = self.path().join("rootfs");
        for directory in ["bin", "data", "bare", "control", "lib", "lib64", "usr/lib", "tmp"] {
            fs::create_dir_all(rootfs.join(directory)).expect("mkdir");
        }
        fs::copy(busybox, rootfs.join("bin/busybox")).expect("a copy");
        std::os::unix::fs::symlink("busybox", rootfs.join("bin/sh")).expect("a link");
        fs::copy(env!("CARGO_BIN_EXE_writer"), rootfs.join("bin/writer")).expect("a copy");
        let tar = self.path().join("rootfs.tar");
        let mut command = Command::new("tar");
        command.arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg(".");
        run::run(&mut command, COMMAND_DEADLINE).expect_success();
        self.run(&["import", &tar.to_string_lossy(), IMAGE]).expect_success();
    }

    /// A command of the engine.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CONTAINERS_CONF", self.path().join("containers.conf"));
        if self.kind == Kind::Podman {
            command.args(&self.words);
        } else {
            command.args(&self.words).env("DOCKER_CONFIG", self.path());
        }
        command.args(words);
        command
    }

    /// Runs a command of the engine.
    pub fn run(&self, words: &[&str]) -> Outcome {
        run::run(&mut self.command(words), COMMAND_DEADLINE)
    }

    /// Words of `run` that every container gets.
    pub fn run_words<'a>(&self, name: &'a str, volumes: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["run", "-d", "--name", name, "--network", "none"];
        words.extend(["--security-opt", "seccomp=unconfined"]);
        words.extend(volumes.iter().flat_map(|volume| ["-v", volume]));
        words.push(IMAGE);
        words
    }

    /// Kills what the engine consists of besides containers: the daemon and its containerd. Where
    /// nobody takes note of dead orphans a new dockerd would wait 15 s for that one's answer, by the
    /// file with its process id. Podman has none.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for pid in self.processes_with("run/containerd/containerd.toml") {
            signal(pid, Signal::KILL);
        }
        let _ = fs::remove_file(self.path().join("run/containerd/containerd.pid"));
    }

    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Processes with a path below our directory on their command line.
    fn processes_with(&self, path: &str) -> Vec<u32> {
        let ours = self.path().join(path);
        let ours = ours.as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.windows(ours.len()).any(|part| part == ours)
        };
        pids.filter(is_ours).collect()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let messages = self.messages();
            let tail: Vec<_> = messages.lines().rev().take(40).collect();
            eprintln!("--- dockerd said, last first\n{}", tail.join("\n"));
        }
        let list = self.run(&["ps", "-aq"]).stdout;
        let ids: Vec<&str> = list.split_whitespace().collect();
        if !ids.is_empty() {
            self.run(&[&["rm", "-f"], ids.as_slice()].concat());
        }
        if let Some(mut daemon) = self.daemon.take() {
            signal(daemon.id(), Signal::TERM);
            if run::poll(COMMAND_DEADLINE, || daemon.try_wait().ok().flatten()).is_none() {
                let _ = daemon.kill();
            }
            let _ = daemon.wait();
        }
        // What a killed daemon left: its containerd, shims, monitors.
        for pid in self.processes_with("") {
            signal(pid, Signal::KILL);
        }
        for mount_point in leftovers::mounts_below(self.path()).iter().rev() {
            unmount_patiently(mount_point, Duration::from_secs(1));
        }
    }
}
