//! Running checkers on crash states: workers with mounts and processes of their own.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, RwLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use fs_core::crash::state::{Blocks, State};
use fs_core::crash::steps::Steps;
use nix::mount::MntFlags;
use nix::sched::CloneFlags;

use super::children::Children;
use super::lab::{self, Lab};
use super::layout;
use super::network;
use super::oracle::Oracle;
use crate::failure::Failure;

/// The checker's exit code that says nothing about the state.
const EXIT_SKIP: i32 = 77;
/// Output of a checker that is kept, in bytes: its end.
const OUTPUT_BYTES_MAX: usize = 4096;

/// How states are checked.
#[derive(Debug, Clone)]
pub struct CheckPlan {
    /// Run by `sh -c` in the state; `auto` for a checker made from the recording.
    pub command: String,
    /// The directory under test: where the state is shown.
    pub directory: PathBuf,
    /// Where the checker starts, if the state has it.
    pub working_directory: PathBuf,
    /// Workers.
    pub workers: usize,
    /// Longest time of one check.
    pub timeout: Duration,
    /// What a checker may use.
    pub limits: Limits,
    /// Checkers see the machine's network; else each worker has a loopback of its own.
    pub shares_network: bool,
}

/// What a checker may use: states and what it writes are in memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest file that it may write, in MiB.
    pub file_mib: u64,
    /// Address space of each of its processes, in MiB; as the system has it if none.
    pub memory_mib: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_mib: 1024, memory_mib: None }
    }
}

impl Limits {
    /// Commands of sh(1) that set them: files are counted in 512 bytes, memory in KiB.
    fn script(self) -> String {
        let memory = self.memory_mib.map(|mib| format!("ulimit -v {}\n", mib * 1024));
        format!("ulimit -c 0\nulimit -f {}\n{}", self.file_mib * 2048, memory.unwrap_or_default())
    }
}

/// A state to check.
pub struct CheckJob {
    /// Comes back with the verdict.
    pub id: usize,
    /// The state.
    pub state: State,
    /// What had been told: on standard output, standard error, and in the file of `--ack`.
    pub told: [Vec<u8>; 3],
}

/// What a checker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Good,
    /// Any other exit code, or a signal.
    Bad,
    /// Exit code 77.
    Skip,
    /// It did not end in time.
    Timeout,
}

/// A verdict.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Of the job.
    pub id: usize,
    /// Good or bad.
    pub outcome: Outcome,
    /// How it ended: `exit 1`, `signal 11`, `more than 10 s`.
    pub ended: String,
    /// The end of what it printed.
    pub output: String,
}

/// Workers that check states, within a scope.
pub struct Checkers<'scope> {
    jobs: Option<Sender<CheckJob>>,
    results: Receiver<Result<Checked, Failure>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    waiting: usize,
}

impl<'scope> Checkers<'scope> {
    /// Starts the workers.
    ///
    /// # Errors
    /// No thread can be started, or no scratch made.
    pub fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        lab: &Lab,
        plan: &CheckPlan,
        oracle: Option<&'env Oracle>,
        log: &'env Steps<'env>,
        blocks: &'env RwLock<Blocks>,
    ) -> Result<Self, Failure> {
        let (job_sender, jobs) = bounded::<CheckJob>(2 * plan.workers);
        let (sender, results) = unbounded();
        let plan = Arc::new(plan.clone());
        let mut threads = Vec::new();
        for number in 0..plan.workers {
            let scratch = lab.new_directory("worker")?;
            let (jobs, sender, plan) = (jobs.clone(), sender.clone(), Arc::clone(&plan));
            let children = lab.children();
            let work = move || {
                let worker = match Worker::new(&plan, &children, oracle, scratch) {
                    Ok(worker) => worker,
                    Err(failure) => {
                        let _ = sender.send(Err(failure));
                        return;
                    }
                };
                for job in jobs {
                    if sender.send(worker.check(log, blocks, &job)).is_err() {
                        return;
                    }
                }
            };
            let name = format!("lanefs-check-{number}");
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
            threads.push(
                thread.map_err(|error| Failure::new(format!("cannot start a worker: {error}")))?,
            );
        }
        Ok(Self { jobs: Some(job_sender), results, threads, waiting: 0 })
    }

    /// Hands a state to a worker; waits while all are busy.
    ///
    /// # Errors
    /// The workers have failed.
    pub fn submit(&mut self, job: CheckJob) -> Result<(), Failure> {
        let jobs = self.jobs.as_ref().expect("there until the end");
        let mut job = job;
        loop {
            match jobs.send_timeout(job, Duration::from_millis(200)) {
                Ok(()) => break,
                Err(crossbeam_channel::SendTimeoutError::Timeout(back)) => {
                    if self.threads.iter().all(ScopedJoinHandle::is_finished) {
                        return Err(self.why());
                    }
                    job = back;
                }
                Err(crossbeam_channel::SendTimeoutError::Disconnected(_)) => {
                    return Err(self.why());
                }
            }
        }
        self.waiting += 1;
        Ok(())
    }

    /// A verdict that is ready, without waiting.
    ///
    /// # Errors
    /// A worker has failed.
    pub fn try_next_verdict(&mut self) -> Result<Option<Checked>, Failure> {
        match self.results.try_recv() {
            Ok(result) => {
                self.waiting -= 1;
                result.map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    /// The next verdict; `None` if all have been given.
    ///
    /// # Errors
    /// A worker has failed.
    pub fn next_verdict(&mut self) -> Result<Option<Checked>, Failure> {
        if self.waiting == 0 {
            return Ok(None);
        }
        match self.results.recv() {
            Ok(result) => {
                self.waiting -= 1;
                result.map(Some)
            }
            Err(_) => Err(Failure::new("the checkers' threads ended")),
        }
    }

    fn why(&self) -> Failure {
        let failed = self.results.try_iter().find_map(Result::err);
        failed.unwrap_or_else(|| Failure::new("the checkers' threads ended"))
    }
}

impl Drop for Checkers<'_> {
    fn drop(&mut self) {
        self.jobs = None;
    }
}

/// One thread with mounts of its own.
struct Worker<'p> {
    plan: &'p CheckPlan,
    children: &'p Children,
    oracle: Option<&'p Oracle>,
    scratch: PathBuf,
    output: File,
}

impl<'p> Worker<'p> {
    fn new(
        plan: &'p CheckPlan,
        children: &'p Children,
        oracle: Option<&'p Oracle>,
        scratch: PathBuf,
    ) -> Result<Self, Failure> {
        lab::own_mounts().map_err(|error| {
            Failure::new(format!("a worker gets no mounts of its own: {error}"))
        })?;
        if !plan.shares_network {
            network::own_network().map_err(|error| {
                Failure::new(format!(
                    "a worker gets no network of its own: {error}; `--network` does without"
                ))
            })?;
        }
        let failed = |error: std::io::Error| Failure::new(format!("cannot use scratch: {error}"));
        fs::create_dir_all(scratch.join("tmp")).map_err(failed)?;
        let output = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(scratch.join("output"))
            .map_err(failed)?;
        Ok(Self { plan, children, oracle, scratch, output })
    }

    fn check(
        &self,
        log: &Steps<'_>,
        blocks: &RwLock<Blocks>,
        job: &CheckJob,
    ) -> Result<Checked, Failure> {
        if let Some(oracle) = self.oracle {
            let wrong = oracle.judge(log, &job.state, blocks);
            let outcome = if wrong.is_some() { Outcome::Bad } else { Outcome::Good };
            if wrong.is_some() || oracle.script.is_empty() {
                let (id, ended) = (job.id, "versions".to_owned());
                return Ok(Checked { id, outcome, ended, output: wrong.unwrap_or_default() });
            }
        }
        let directory = &self.plan.directory;
        lab::mount_memory(directory)
            .map_err(|error| Failure::new(format!("cannot show a state: {error}")))?;
        let checked = self.check_shown(log, blocks, job);
        nix::mount::umount2(directory, MntFlags::MNT_DETACH)
            .map_err(|error| Failure::new(format!("cannot take a state away: {error}")))?;
        checked
    }

    fn check_shown(
        &self,
        log: &Steps<'_>,
        blocks: &RwLock<Blocks>,
        job: &CheckJob,
    ) -> Result<Checked, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot lay a state out in memory: {error}"))
        };
        let directory = &self.plan.directory;
        {
            let blocks = blocks.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            layout::own_root(&job.state, directory).map_err(failed)?;
            layout::lay_out(log, &job.state, &blocks, directory).map_err(failed)?;
        }
        for (told, name) in job.told.iter().zip(["ack", "ack-stderr", "ack-file"]) {
            fs::write(self.scratch.join(name), told).map_err(failed)?;
        }
        let (outcome, ended) =
            self.run().map_err(|error| Failure::new(format!("cannot run the checker: {error}")))?;
        let output = if outcome == Outcome::Good { String::new() } else { self.printed() };
        Ok(Checked { id: job.id, outcome, ended, output })
    }

    /// Runs the checker on a thread of its own: a thread can have one more process
    /// namespace for its children, once.
    fn run(&self) -> std::io::Result<(Outcome, String)> {
        std::thread::scope(|scope| scope.spawn(|| self.run_once()).join())
            .unwrap_or_else(|_| Err(std::io::Error::other("the runner panicked")))
    }

    fn run_once(&self) -> std::io::Result<(Outcome, String)> {
        self.output.set_len(0)?;
        let own = &self.plan.working_directory;
        let start = if own.is_dir() { own } else { &self.plan.directory };
        // Everything that the checker starts ends with it: it is process 1 of its namespace.
        nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
        let mut command = Command::new("/bin/sh");
        let text = self.oracle.map_or(&self.plan.command, |oracle| &oracle.script);
        let text = self.plan.limits.script() + text;
        command.arg("-c").arg(text).current_dir(start);
        command.env("TMPDIR", self.scratch.join("tmp"));
        command.env("LANEFS_ACK", self.scratch.join("ack"));
        command.env("LANEFS_ACK_STDERR", self.scratch.join("ack-stderr"));
        command.env("LANEFS_ACK_FILE", self.scratch.join("ack-file"));
        command.stdin(Stdio::null());
        command.stdout(self.output.try_clone()?).stderr(self.output.try_clone()?);
        let (mut child, _watched) = self.children.start(&mut command)?;
        let deadline = Instant::now() + self.plan.timeout;
        let status = wait_until(&mut child, deadline)?;
        let Some(status) = status else {
            child.kill()?;
            child.wait()?;
            let ended = format!("more than {:?}", self.plan.timeout);
            return Ok((Outcome::Timeout, ended));
        };
        Ok((judge(status), ended(status)))
    }

    fn printed(&self) -> String {
        let mut file = &self.output;
        let end = file.seek(SeekFrom::End(0)).unwrap_or(0);
        let from = end.saturating_sub(OUTPUT_BYTES_MAX as u64);
        let mut bytes = Vec::new();
        let _ = file.seek(SeekFrom::Start(from));
        let _ = file.take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Waits for a child by its pidfd; `None` at the deadline.
fn wait_until(
    child: &mut std::process::Child,
    deadline: Instant,
) -> std::io::Result<Option<ExitStatus>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.wait().map(Some),
            Err(error) => return Err(error.into()),
        }
    }
}

fn judge(status: ExitStatus) -> Outcome {
    match status.code() {
        Some(0) => Outcome::Good,
        Some(EXIT_SKIP) => Outcome::Skip,
        _ => Outcome::Bad,
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(libc::SIGXFSZ)) => "a file grew beyond --file-max".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
