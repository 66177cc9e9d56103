//! A GlusterFS volume of three bricks in namespaces of its own: network, mounts and /run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::scratch::Scratch;
use tests::{run, tools};

const START_DEADLINE: Duration = Duration::from_secs(90);
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Sets everything up, says `ready`, and takes it down when its standard input ends. 127.x is refused
/// as a brick's host; the command line's socket has a fixed place in /run.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
ip link set lo up
for i in 1 2 3; do ip addr add 10.99.0.$i/32 dev lo; mkdir -p "$1/brick/$i"; done
mkdir -p "$1/lib" "$1/log" "$1/gluster"
mount --bind "$1/lib" /var/lib/glusterd
mount --bind "$1/log" /var/log/glusterfs
mount -t tmpfs run /run
mkdir -p /run/gluster
glusterd -N & daemon=$!
until gluster --mode=script pool list > /dev/null 2>&1; do sleep 0.1; done
gluster --mode=script volume create gv replica 3 \
    10.99.0.1:"$1/brick/1/d" 10.99.0.2:"$1/brick/2/d" 10.99.0.3:"$1/brick/3/d" force > /dev/null
gluster --mode=script volume start gv > /dev/null
gluster --mode=script volume profile gv start > /dev/null
mount -t glusterfs 10.99.0.1:/gv "$1/gluster"
echo ready
cat > /dev/null || true
umount "$1/gluster" || umount -l "$1/gluster" || true
gluster --mode=script volume stop gv force > /dev/null || true
kill $daemon
wait
"#;

/// A running cluster; dropped, it is gone.
pub struct Cluster {
    child: Child,
    input: Option<ChildStdin>,
    scratch: Scratch,
}

impl Cluster {
    /// Installs GlusterFS if need be and starts a volume, mounted.
    #[track_caller]
    pub fn start() -> Self {
        tools::debian("glusterfs-server", "glusterd");
        tools::debian("glusterfs-client", "mount.glusterfs");
        let scratch = Scratch::new(256);
        let messages = fs::File::create(scratch.path().join("messages")).expect("a file");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "bash", "-c", SCRIPT, "cluster"]).arg(scratch.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(messages);
        let mut child = command.spawn().expect("unshare");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let cluster = Cluster { child, input, scratch };
        let (sender, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        let said = ready.recv_timeout(START_DEADLINE);
        assert_eq!(said.as_deref(), Ok("ready"), "{}", cluster.messages());
        cluster
    }

    fn messages(&self) -> String {
        fs::read_to_string(self.path().join("messages")).unwrap_or_default()
    }

    /// A directory that is the same inside and outside.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the volume is mounted, inside.
    pub fn mount_point(&self) -> PathBuf {
        self.path().join("gluster")
    }

    /// The files of a brick.
    pub fn brick(&self, number: u32) -> PathBuf {
        self.path().join(format!("brick/{number}/d"))
    }

    fn inside(&self, words: &str, paths: &[&Path]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.child.id().to_string()]);
        command.args(words.split(' ')).args(paths);
        command
    }

    /// Runs a program inside; what it printed.
    #[track_caller]
    pub fn run<P: AsRef<Path>>(&self, words: &str, paths: &[P]) -> String {
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        run::run(&mut self.inside(words, &paths), COMMAND_DEADLINE).expect_success().stdout
    }

    /// Starts a program inside.
    pub fn spawn(&self, program: &str, paths: &[&Path]) -> Child {
        self.inside(program, paths).stdin(Stdio::null()).spawn().expect("nsenter")
    }

    /// How many syncs of files and directories the first brick has carried out since its start.
    pub fn syncs_at_a_brick(&self) -> f64 {
        let none: [&Path; 0] = [];
        let profile = self.run("gluster --mode=script volume profile gv info cumulative", &none);
        let of_first = profile.split("Brick:").nth(1).expect("a brick in the profile");
        // "  12.34   56.00 us   1.00 us   99.00 us   1234   FSYNC"
        let syncs = of_first.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_sync = words.last().is_some_and(|name| name.starts_with("FSYNC"));
            is_sync.then(|| words[words.len() - 2].parse::<f64>().expect("a number of calls"))
        });
        syncs.sum()
    }

    /// Kills the process of a brick, as the loss of its machine.
    pub fn kill_brick(&self, number: u32) {
        let pid = self.processes().into_iter().find(|(_, words)| {
            words.contains("glusterfsd") && words.contains(&format!("brick/{number}/d"))
        });
        let (pid, _) = pid.expect("a process for each brick");
        kill_process(pid, Signal::KILL).expect("it runs");
    }

    /// Everything in our network namespace.
    fn processes(&self) -> Vec<(Pid, String)> {
        let namespace = fs::read_link(format!("/proc/{}/ns/net", self.child.id())).ok();
        // Before it has one of its own, everything on the machine would be ours.
        let machines = fs::read_link("/proc/self/ns/net").ok();
        let namespace = namespace.filter(|own| Some(own) != machines.as_ref());
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let process = |entry: fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let own = fs::read_link(entry.path().join("ns/net")).ok();
            let is_ours = own.is_some() && own == namespace;
            is_ours.then_some((pid, words))
        };
        entries.filter_map(process).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the cluster said\n{}", self.messages());
        }
        let processes = self.processes();
        self.input.take();
        let ended = run::poll(COMMAND_DEADLINE, || self.child.try_wait().ok().flatten());
        // Self-heal daemons outlive the volume's stop.
        for (pid, _) in processes {
            let own = pid.as_raw_nonzero().get().cast_unsigned() == self.child.id();
            if !(own && ended.is_some()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}
