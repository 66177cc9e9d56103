//! A machine of a test's own: all of this one's files, none of its mounts and processes.
//!
//! mount(8) looks for helpers in `/sbin` only, a package installs into `/usr`, and systemd wants to
//! be process 1. So the test gets namespaces (mounts, processes, cgroups) with a copy of the root
//! directory that is thrown away: an overlay whose upper layer is in memory. Process 1 is either
//! systemd or a program that waits. When it is killed the kernel kills every other process in
//! there and unmounts everything: nothing can be left over.
//!
//! Not separate: devices, network, and the kernel's settings, which are read-only in there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::run::{self, Outcome};
use crate::scratch::Scratch;
use crate::{binary, tools, workspace};

const DEADLINE: Duration = Duration::from_secs(90);
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// What runs as process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// A program that waits.
    Nothing,
    /// systemd, with nothing to do.
    Systemd,
}

/// Units of Debian's systemd that would touch what is not separate, or take long.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "kmod-static-nodes.service",
    "man-db.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
];

/// Makes the root directory and changes into it. $1: an empty directory; $2: where a directory of
/// this machine shall appear in the new one, $3, $4 ... pairs; then `--` and process 1.
const ENTER: &str = r#"
base=$1; shift
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
root=$base/root
while [ "$1" != -- ]; do
    mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2
done
shift
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
: > "$root/etc/fstab"
mkdir "$root/old"
cd "$root"
pivot_root . old
mount --make-rprivate /old
umount --lazy /old
mount --make-rshared /
export container=lanefs-tests
echo ready
exec "$@"
"#;

/// A machine; dropped, it is gone.
pub struct Machine {
    process: Child,
    // Last: it is a mount point until the process has ended.
    _scratch: Scratch,
}

impl Machine {
    /// Starts a machine in which `shared` directories of this one appear under other names.
    #[track_caller]
    pub fn start(init: Init, shared: &[(&Path, &str)]) -> Self {
        tools::debian("util-linux", "nsenter");
        let scratch = Scratch::new(0);
        let base = scratch.subdirectory("machine");
        let mut command = Command::new("unshare");
        command.args(["--fork", "--kill-child", "--pid", "--mount", "--ipc", "--uts", "--cgroup"]);
        command.args(["--propagation", "private", "bash", "-euc", ENTER, "machine"]).arg(base);
        for (here, there) in shared {
            command.arg(here).arg(there);
        }
        command.arg("--").args(init.command()).env_remove("LANEFS_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("unshare(1)");
        let mut line = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let machine = Machine { process, _scratch: scratch };
        assert_eq!(line.trim_end(), "ready", "the machine's root could not be made");
        if init == Init::Systemd {
            machine.wait_for_systemd();
        }
        machine
    }

    /// The same with the command and mount(8)'s links installed as the package does.
    #[track_caller]
    pub fn with_command(init: Init, shared: &[(&Path, &str)]) -> Self {
        let machine = Self::start(init, shared);
        std::fs::copy(binary::lanefs(), machine.path("/usr/bin/lanefs")).expect("a copy");
        machine
            .shell(
                "for name in mount umount; do
                     ln -s ../bin/lanefs /usr/sbin/$name.lanefs
                     ln -s ../bin/lanefs /usr/sbin/$name.fuse.lanefs
                 done",
            )
            .expect_success();
        machine
    }

    /// Where this machine finds a file of that one.
    pub fn path(&self, there: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{there}", self.init_pid()))
    }

    /// A command that runs in the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init_pid().to_string());
        command.args(["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root", "--wdns=/"]);
        command.arg("--").arg(program);
        command
    }

    /// Runs a program in the machine.
    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, program: &str, words: &[S]) -> Outcome {
        run::run(self.command(program).args(words), DEADLINE)
    }

    /// Runs a shell script in the machine.
    #[track_caller]
    pub fn shell(&self, script: &str) -> Outcome {
        self.run("bash", &["-euo", "pipefail", "-c", script])
    }

    /// What a successful command prints, without the last newline.
    #[track_caller]
    pub fn say(&self, script: &str) -> String {
        self.shell(script).expect_success().stdout.trim_end().to_owned()
    }

    /// Process 1, as this machine numbers it.
    fn init_pid(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("process 1")
    }

    #[track_caller]
    fn wait_for_systemd(&self) {
        let state = || {
            let outcome = self.run("systemctl", &["is-system-running"]);
            matches!(outcome.stdout.trim_end(), "running" | "degraded").then_some(())
        };
        run::poll(BOOT_DEADLINE, state).expect("systemd comes up");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `--kill-child`: process 1 goes with it, and with process 1 everything.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The kernel takes the last mounts apart a moment after the last process.
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Init {
    fn command(self) -> Vec<String> {
        match self {
            Self::Nothing => vec!["sleep".to_owned(), "infinity".to_owned()],
            Self::Systemd => {
                let masked = MASKED.iter().map(|unit| format!("--mask={unit}"));
                let mut words = vec!["bash".to_owned(), "-euc".to_owned(), BOOT.to_owned()];
                words.push("boot".to_owned());
                words.extend(masked);
                words
            }
        }
    }
}

/// $@: `--mask=UNIT`.
const BOOT: &str = r#"
units=/etc/systemd/system
for word in "$@"; do ln -sf /dev/null "$units/${word#--mask=}"; done
printf '[Unit]\nDescription=Nothing to do\nDefaultDependencies=no\n' > "$units/lanefs-tests.target"
exec /lib/systemd/systemd --system --unit=lanefs-tests.target --log-target=null --show-status=0
"#;

/// The units of this repository.
pub fn units() -> Vec<PathBuf> {
    let folder = workspace::root().join("packaging/systemd");
    let in_folder = |name| std::fs::read_dir(folder.join(name)).expect("units").flatten();
    ["mounts", "volumes"].into_iter().flat_map(in_folder).map(|entry| entry.path()).collect()
}
