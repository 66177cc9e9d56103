//! A daemon that replaces itself without unmounting: `lanefs restart`, SIGUSR2.
//!
//! ```text
//! ask      the new program: can it go on from our state, with our arguments?   -> refused
//! flush    while the mount still answers, so that the pause is short           -> refused
//! narrow   nothing is cut to nothing any more; rewrites in place come to their end
//! pause    the gate closes; what is under way is answered; flush again         -> refused, goes on
//! --- from here on there is no way back ---
//! leave    the workers stop reading; the engine is closed, its log empty         -> the mount ends
//! execve   the new program, the same process; its descriptors are inherited
//! resume   the state is read, the tree made again, everything synced once
//! resend   the kernel sends again what nobody has answered (FUSE_NOTIFY_RESEND, Linux 6.9)
//! ```
//!
//! Programs see requests that take longer. Passthrough reads and writes do not even see that:
//! the kernel's connection with its backing ids lives on.
//!
//! What the kernel believes in goes by [`state`]; [`session`] is what fuser has no door for.
//! Why it is done so, and what a killed daemon would need: docs/decisions/0025.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fs_core::platform::linux::keep_over_exec;
use nix::sys::signal::{SigSet, Signal};

use self::state::{Bytes, Handed, STATE_VERSION, State};
use super::{Event, Mount};
use crate::failure::Failure;
use crate::logging;
use crate::supervisor::Supervisor;

pub mod session;
pub mod state;

/// In the environment of a successor: the descriptor with the state.
pub const STATE_VARIABLE: &str = "LANEFS_RESUME_FD";
/// First argument of a program that is asked whether it can go on; the version of the
/// state follows, then our own arguments.
pub const QUESTION: &str = "--can-resume";
/// What it answers then.
pub const YES: &str = "lanefs can go on";
/// How long the new program may take to say whether it can go on.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long rewrites in place may take to come to their end. Those that do not are, from then
/// on, what they are after 30 s in any case: no longer all or nothing over a power cut.
const REWRITES_MAX: Duration = Duration::from_millis(500);
/// How long what is under way may take.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A wish to be replaced.
pub struct Wish {
    /// The program that goes on; the one that runs, as it lies on the disk now, if none.
    pub binary: Option<PathBuf>,
    /// Who asked: gets a refusal here, and else the successor's answer by its connection.
    pub asker: Option<(Sender<Result<(), Failure>>, OwnedFd)>,
}

impl Wish {
    /// Says no.
    pub fn refuse(self, failure: Failure) {
        if let Some((answer, _)) = self.asker {
            let _ = answer.send(Err(failure));
        }
    }
}

impl Mount {
    /// Replaces this program. Returns only if that is refused, and then the mount goes on,
    /// or if it failed too late, and then the mount has to end.
    pub(super) fn restart(&mut self, wish: Wish, supervisor: &mut Option<Supervisor>) -> Outcome {
        let Wish { binary, asker } = wish;
        let (answer, connection) =
            asker.map_or((None, None), |(answer, c)| (Some(answer), Some(c)));
        let refused = |failure: Failure| {
            tracing::error!(reason = failure.message, "not restarted; the mount goes on");
            if let Some(answer) = &answer {
                let _ = answer.send(Err(failure));
            }
            Outcome::GoesOn
        };
        let prepared = self.can_restart().and_then(|()| {
            let binary = binary.map_or_else(own_program, Ok)?;
            ask(&binary)?;
            self.flush()?;
            Ok(binary)
        });
        let binary = match prepared {
            Ok(binary) => binary,
            Err(failure) => return refused(failure),
        };
        // It has a process that asks the mount: ended while that still answers.
        drop(supervisor.take());
        let paused_at = monotonic_now();
        if let Err(failure) = self.pause() {
            *supervisor = Some(self.supervise());
            return refused(failure);
        }
        tracing::info!(binary = %binary.display(), "restarting");
        Outcome::Failed(self.leave(&binary, connection.as_ref(), paused_at))
    }

    fn can_restart(&self) -> Result<(), Failure> {
        match self.kernel.no_restart() {
            None => Ok(()),
            Some(reason) => Err(Failure::new(format!(
                "this mount cannot be restarted without unmounting: {reason}"
            ))),
        }
    }

    /// Nothing is under way, nothing is parked, everything is durable; or all goes on.
    fn pause(&self) -> Result<(), Failure> {
        let (gate, engine) = (&self.skin.gate, self.tree.engine());
        if !gate.narrow(REWRITES_MAX, || !engine.has_rewrites()) {
            tracing::info!("files are being rewritten; they are made durable as they are now");
        }
        if !gate.close(PAUSE_MAX) {
            return Err(Failure::new("requests are under way for more than 30 s; try again"));
        }
        let paused = if engine.drain(PAUSE_MAX) {
            self.flush()
        } else {
            Err(Failure::new("syncs are under way for more than 30 s; try again"))
        };
        paused.inspect_err(|_| gate.open())
    }

    /// Becomes the other program; returns if that failed.
    fn leave(&self, binary: &Path, asker: Option<&OwnedFd>, paused_at: u64) -> Failure {
        // A signal that comes before the successor has its handlers must not end it.
        let _ = signals().thread_block();
        if !self.kernel.stop_reading(&self.skin.gate) {
            tracing::warn!("a worker did not stop reading; nodes that it forgets may stay known");
        }
        // Everything was flushed a moment ago. The descriptor that has told of a failure now
        // does not tell the successor: it would take for durable what is not.
        if let Err(failure) = self.close() {
            return failure;
        }
        let state = self.state(asker.map(AsRawFd::as_raw_fd), paused_at);
        let handed = match Handed::new(&state) {
            Ok(handed) => handed,
            Err(error) => return Failure::new(format!("cannot write the state down: {error}")),
        };
        for number in state.descriptors().chain([handed.number()]) {
            if let Err(error) = keep_over_exec(number, true) {
                return Failure::new(format!("cannot hand a descriptor on: {error}"));
            }
        }
        let error = become_program(binary, handed.number());
        tracing::error!(%error, binary = %binary.display(), "cannot start it; going on as we are");
        // The running program's own file can be started even if it has no name any more.
        let error = become_program(Path::new("/proc/self/exe"), handed.number());
        Failure::new(format!("cannot start {} nor ourselves: {error}", binary.display()))
    }

    fn state(&self, asker: Option<i32>, paused_at: u64) -> State {
        let (root, original) = self.tree.backing().descriptors();
        let settings = self.settings();
        // What came while the mount was paused, and nobody will answer.
        let signal = self.events.try_iter().find_map(|event| match event {
            Event::Signal(signal) => Some(signal),
            _ => None,
        });
        State {
            version: STATE_VERSION,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            restarts: self.restarts + 1,
            mounted_at: self.mounted_at,
            paused_at,
            signal,
            directory: Bytes::from(self.plan.directory.as_path()),
            backing: Bytes::from(self.plan.backing.as_path()),
            mount_point: Bytes::from(self.plan.mount_point.as_path()),
            device_number: self.kernel.device_number().to_owned(),
            device: self.channel.device().as_raw_fd(),
            root,
            original,
            asker,
            settings: (&settings).into(),
            log_level: logging::level(),
            passthrough: self.skin.passthrough_record(),
            requests: self.counters.all().into_iter().map(|(n, c)| (n.to_owned(), c)).collect(),
            tree: self.tree.record(),
        }
    }
}

/// What became of a wish to be replaced, in the program that had it.
pub(super) enum Outcome {
    /// It was refused, and the mount goes on.
    GoesOn,
    /// It failed when there was no way back; everything is durable.
    Failed(Failure),
}

/// Signals that must not end a successor before it can act on them.
pub(super) fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2].into_iter().collect()
}

/// Nanoseconds of a clock that goes on over execve.
pub(super) fn monotonic_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn become_program(binary: &Path, state: i32) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(binary);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(STATE_VARIABLE, state.to_string()).exec()
}

/// The file of the running program, or the one that has taken its place.
fn own_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find our own program: {error}")))?;
    // What the kernel adds to the name of a file that was replaced.
    let name = path.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// Asks a program whether it can go on from a state of ours with our arguments. Older ones
/// do not know the question and say no by their exit code.
fn ask(binary: &Path) -> Result<(), Failure> {
    let shown = binary.display();
    let refused = |why: String| {
        Failure::new(format!(
            "{shown} cannot go on where this daemon (pid {}) is: {why}",
            std::process::id()
        ))
    };
    let mut child = Command::new(binary)
        .arg0(std::env::args_os().next().unwrap_or_default())
        .arg(QUESTION)
        .arg(STATE_VERSION.to_string())
        .args(std::env::args_os().skip(1))
        .env_remove(STATE_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| refused(format!("it does not start: {error}")))?;
    let deadline = Instant::now() + ANSWER_MAX;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(refused("it gave no answer in 10 s".to_owned()));
            }
            Err(error) => return Err(refused(error.to_string())),
        }
    };
    let (mut yes, mut said) = (String::new(), String::new());
    let _ = child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut yes));
    let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut said));
    // Other programs succeed at anything.
    if status.success() && yes.trim_end() == YES {
        return Ok(());
    }
    let said = said.lines().next().unwrap_or("it says nothing").to_owned();
    Err(refused(format!("{said} ({status})")))
}

/// If this program was asked whether it can go on: the arguments that it would have.
#[must_use]
pub fn question() -> Option<(OsString, Vec<OsString>)> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    (arguments.next()? == QUESTION).then_some(())?;
    let version = arguments.next().unwrap_or_default();
    Some((version, [name].into_iter().chain(arguments).collect()))
}

/// Whether a state of this version can be read.
///
/// # Errors
/// It cannot.
pub fn can_read(version: &OsStr) -> Result<(), Failure> {
    if version == STATE_VERSION.to_string().as_str() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "this is lanefs {}, which reads state {STATE_VERSION} and not {}: \
         unmount and mount again to change to it",
        env!("CARGO_PKG_VERSION"),
        version.display()
    )))
}
