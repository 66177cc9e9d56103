//! Does the mount answer? Asked by a process of its own.
//!
//! A thread of the daemon must not ask: while it waits in the kernel for an answer it cannot be
//! killed, and while it lives the daemon's descriptors stay open, /dev/fuse too. So the connection
//! would not end, the answer not come, and the process that hangs be one that nobody can kill
//! (Linux 6.18, `request_wait_answer`: once a request is read, the wait ends with its answer or with
//! the connection only). A process that asks holds no such descriptor: the daemon dies, the
//! connection ends, and the question comes back with ENOTCONN.
//!
//! The asker is this program again, started once. It reads a byte, asks for statfs, which the kernel
//! never answers from memory, and writes a byte. When the daemon is gone it reads the end of the pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// In the environment of the asker: the mount point.
const ASKER_VARIABLE: &str = "LANEFS_PING";
const ANSWERED: u8 = b'.';
const DEAD: u8 = b'!';

/// Asks a mount.
pub struct Pinger {
    mount_point: PathBuf,
    asker: Option<Asker>,
}

struct Asker {
    process: Child,
    questions: File,
    answers: File,
    /// A question that is not answered yet.
    is_asking: bool,
}

impl Pinger {
    /// For the mount at this place.
    #[must_use]
    pub const fn new(mount_point: PathBuf) -> Self {
        Self { mount_point, asker: None }
    }

    /// Whether the mount answers within `limit`.
    pub fn ping(&mut self, limit: Duration) -> bool {
        let asked = match &mut self.asker {
            Some(asker) => asker.ask(limit),
            none => Asker::start(&self.mount_point).and_then(|new| none.insert(new).ask(limit)),
        };
        asked.unwrap_or_else(|error| {
            tracing::warn!(%error, "the process that asks the mount has to be started anew");
            self.asker = None;
            false
        })
    }
}

impl Asker {
    fn start(mount_point: &Path) -> std::io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .env(ASKER_VARIABLE, mount_point)
            .env_remove(super::SOCKET_VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().expect("the input is a pipe");
        let stdout = process.stdout.take().expect("the output is a pipe");
        let (questions, answers) = (OwnedFd::from(stdin).into(), OwnedFd::from(stdout).into());
        Ok(Self { process, questions, answers, is_asking: false })
    }

    fn ask(&mut self, limit: Duration) -> std::io::Result<bool> {
        let deadline = Instant::now() + limit;
        if !self.is_asking {
            self.questions.write_all(b"?")?;
            self.is_asking = true;
        }
        while !self.has_answer(deadline.saturating_duration_since(Instant::now()))? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
        let mut answer = [0];
        self.answers.read_exact(&mut answer)?;
        self.is_asking = false;
        Ok(answer == [ANSWERED])
    }

    fn has_answer(&self, limit: Duration) -> std::io::Result<bool> {
        let mut answers = [PollFd::new(&self.answers, PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap_or_default();
        match poll(&mut answers, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // One that waits in the kernel goes when the connection does, and is then waited for by
        // whoever inherits it.
        let _ = self.process.kill();
        if !self.is_asking {
            let _ = self.process.wait();
        }
    }
}

/// The mount point, in the process that asks.
#[must_use]
pub fn asked_about() -> Option<PathBuf> {
    std::env::var_os(ASKER_VARIABLE).map(PathBuf::from)
}

/// The asker's work, until nobody wants to know any more.
pub fn answer_questions(mount_point: &Path) {
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    while input.read_exact(&mut [0]).is_ok() {
        let answer = match nix::sys::statfs::statfs(mount_point) {
            Err(nix::Error::ENOTCONN | nix::Error::ECONNABORTED) => DEAD,
            // An error of the backing filesystem is an answer too.
            _ => ANSWERED,
        };
        if output.write_all(&[answer]).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}
