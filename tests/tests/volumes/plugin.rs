//! A plugin under test: started, spoken to, killed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::scratch::{Scratch, unmount_patiently};
use tests::{binary, leftovers, run};

pub const READY_DEADLINE: Duration = Duration::from_secs(60);
const ANSWER_DEADLINE: Duration = Duration::from_secs(100);

/// A root directory and the plugin that serves it; dropped, plugin, engine and mounts are gone.
pub struct Plugin {
    root: PathBuf,
    socket: PathBuf,
    messages: PathBuf,
    child: Option<Child>,
    words: Vec<String>,
    // Last: what lies in it is mounted.
    _scratch: Scratch,
}

/// What a call got: status code and JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect_success(self) -> Value {
        assert!(self.status == 200 && self.error().is_empty(), "{self:?}");
        self.json
    }

    #[track_caller]
    pub fn expect_failure(self, part: &str) {
        assert!(self.status == 500 && self.error().contains(part), "not `{part}`: {self:?}");
    }

    pub fn error(&self) -> &str {
        self.json["Err"].as_str().unwrap_or_default()
    }
}

impl Plugin {
    /// A plugin for a new root in a scratch directory.
    #[track_caller]
    pub fn new() -> Self {
        let scratch = Scratch::new(64);
        let root = scratch.subdirectory("root");
        Self::on(scratch, &root, &[])
    }

    /// A plugin for this root, with more words on its command line.
    #[track_caller]
    pub fn on(scratch: Scratch, root: &Path, words: &[&str]) -> Self {
        let socket = scratch.path().join("plugin.sock");
        Self::at(scratch, root, &socket, words)
    }

    /// The same with a socket at a place that container engines know.
    #[track_caller]
    pub fn at(scratch: Scratch, root: &Path, socket: &Path, words: &[&str]) -> Self {
        let messages = scratch.path().join("messages");
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let root = root.canonicalize().expect("the root");
        let mut plugin = Plugin {
            root,
            socket: socket.to_owned(),
            messages,
            child: None,
            words,
            _scratch: scratch,
        };
        plugin.start();
        plugin
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn scratch(&self) -> &Path {
        self._scratch.path()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where a volume is mounted.
    pub fn mount_point(&self, name: &str) -> PathBuf {
        self.root.join("mounts").join(name)
    }

    /// Where the files of a volume are.
    pub fn files(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    /// What plugin and engine said so far.
    pub fn messages(&self) -> String {
        fs::read_to_string(&self.messages).unwrap_or_default()
    }

    /// Starts the plugin, and returns when it answers.
    #[track_caller]
    pub fn start(&mut self) {
        let messages = fs::File::options().create(true).append(true).open(&self.messages);
        let mut command = Command::new(binary::lanefs());
        command.arg("volume-plugin").arg("--root").arg(&self.root);
        command.arg("--socket").arg(&self.socket).args(&self.words);
        command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(messages.expect("a file for messages")).spawn();
        self.child = Some(child.expect("lanefs"));
        let ready = run::poll(READY_DEADLINE, || self.try_call("/Plugin.Activate", None).ok());
        assert!(ready.is_some(), "the plugin does not answer: {}", self.messages());
    }

    /// Kills the plugin as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("an end");
    }

    /// The plugin's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Takes note that somebody has killed the plugin.
    pub fn reap(&mut self) {
        self.child.take().expect("it ran").wait().expect("an end");
    }

    /// Ends the plugin as systemd does.
    #[track_caller]
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::TERM);
        let ended = run::poll(READY_DEADLINE, || child.try_wait().expect("a child"));
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", self.messages());
    }

    /// The engine's process, if there is one.
    pub fn engine_pid(&self) -> Option<u32> {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = words.split(|byte| *byte == 0).collect();
            words.contains(&b"volume-engine".as_slice())
                && words.contains(&self.root.as_os_str().as_encoded_bytes())
        })
    }

    /// Kills the engine as a crash would; returns when it is gone.
    #[track_caller]
    pub fn kill_engine(&self) {
        let pid = self.engine_pid().expect("an engine");
        signal(pid, Signal::KILL);
        self.wait_for_end_of(pid);
    }

    #[track_caller]
    pub fn wait_for_end_of(&self, pid: u32) {
        let gone = || (self.engine_pid() != Some(pid)).then_some(());
        assert!(run::poll(READY_DEADLINE, gone).is_some(), "process {pid} does not end");
    }

    /// A call as Docker makes it; `body` none: an empty one.
    #[track_caller]
    pub fn call(&self, path: &str, body: &Value) -> Answer {
        let answer = self.try_call(path, Some(&body.to_string()));
        answer.unwrap_or_else(|error| panic!("{path}: {error}: {}", self.messages()))
    }

    pub fn try_call(&self, path: &str, body: Option<&str>) -> std::io::Result<Answer> {
        let body = body.map_or_else(String::new, |body| format!("{body}\n"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        self.send(&request)
    }

    /// Sends a request as it is.
    pub fn send(&self, request: &str) -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let cut_off = || std::io::Error::other("the answer was cut off");
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut_off)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let json = serde_json::from_str(body).map_err(|_| cut_off())?;
        Ok(Answer { status: status.ok_or_else(cut_off)?, json })
    }

    #[track_caller]
    pub fn create(&self, name: &str, options: &Value) -> Answer {
        self.call("/VolumeDriver.Create", &json!({ "Name": name, "Opts": options }))
    }

    #[track_caller]
    pub fn remove(&self, name: &str) -> Answer {
        self.call("/VolumeDriver.Remove", &json!({ "Name": name }))
    }

    #[track_caller]
    pub fn mount(&self, name: &str, id: &str) -> Answer {
        self.call("/VolumeDriver.Mount", &json!({ "Name": name, "ID": id }))
    }

    #[track_caller]
    pub fn unmount(&self, name: &str, id: &str) -> Answer {
        self.call("/VolumeDriver.Unmount", &json!({ "Name": name, "ID": id }))
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> Answer {
        self.call("/VolumeDriver.Get", &json!({ "Name": name }))
    }

    /// Names of all volumes.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let list = self.call("/VolumeDriver.List", &json!({})).expect_success();
        let volumes = list["Volumes"].as_array().expect("an array");
        volumes.iter().map(|volume| volume["Name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Whether a volume is mounted and answers.
    pub fn is_mounted(&self, name: &str) -> bool {
        leftovers::is_mounted(&self.mount_point(name))
            && fs::metadata(self.mount_point(name)).is_ok()
    }

    /// Waits until a volume is mounted and answers, after an engine has died.
    #[track_caller]
    pub fn wait_until_mounted(&self, name: &str) {
        let mounted = || self.is_mounted(name).then_some(());
        assert!(run::poll(READY_DEADLINE, mounted).is_some(), "{name}: {}", self.messages());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), Signal::TERM);
            if run::poll(READY_DEADLINE, || child.try_wait().ok().flatten()).is_none() {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        if let Some(pid) = self.engine_pid() {
            signal(pid, Signal::TERM);
            let gone = || self.engine_pid().is_none().then_some(());
            if run::poll(READY_DEADLINE, gone).is_none() {
                signal(pid, Signal::KILL);
            }
        }
        for mount_point in leftovers::mounts_below(&self.root.join("mounts")) {
            unmount_patiently(&mount_point, Duration::from_millis(200));
        }
        if std::thread::panicking() {
            eprintln!("--- plugin and engine said\n{}", self.messages());
        }
    }
}

pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}
