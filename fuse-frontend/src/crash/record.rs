//! Running a program on a recording mount.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use fs_core::crash::state::{Blocks, State};
use fs_core::crash::steps::Steps;
use fs_core::crash::trace::{Actor, Trace};
use fs_core::engine::{Engine, EngineConfig};
use fs_core::platform::linux::{BackingOptions, LinuxBacking, raise_open_files_limit};
use fs_core::platform::record::{RecordPlan, Recorder, Witness, WriteCall};
use fuser::{Config, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags};

use super::children::{self, Children};
use super::lab::{self, Lab};
use super::layout;
use crate::failure::Failure;
use crate::mount::kernel::regular_end;
use crate::skin::reply::Channel;
use crate::skin::{Agreement, Classic, Counters, Skin, SkinOptions};

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct RecordJob {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The directory under test, absolute.
    pub directory: PathBuf,
    /// Where the program starts: the directory, or below it.
    pub working_directory: PathBuf,
    /// A file in the directory through which the program tells what it has done.
    pub told: Option<PathBuf>,
    /// Variables of its environment beside our own.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// What the program finds in the directory.
pub enum Begin<'a> {
    /// What is there.
    Directory,
    /// A state of another recording.
    State(&'a Steps<'a>, &'a State, &'a Blocks),
}

/// What came of it.
pub struct Recording {
    /// The trace.
    pub trace: Trace,
    /// How the program ended.
    pub status: ExitStatus,
    /// The first difference between the trace and the directory that the program left;
    /// none if replaying the trace gives it byte for byte.
    pub difference: Option<String>,
    /// The directory that the program left.
    pub left: PathBuf,
}

impl Recording {
    /// Makes the real directory what the program left.
    ///
    /// # Errors
    /// What cp(1) and the filesystem say; the directory may be half-way then.
    pub fn keep(&self, directory: &Path) -> Result<(), Failure> {
        layout::replace(&self.left, directory)
    }
}

/// Kernel threads that read requests; two more than may wait for a sync.
const WORKERS: usize = 4;

/// Records a run on a copy of the directory.
///
/// # Errors
/// As [`record_from`].
pub fn record(lab: &Lab, job: &RecordJob) -> Result<Recording, Failure> {
    record_from(lab, job, &Begin::Directory)
}

/// Records a run.
///
/// # Errors
/// The directory cannot be read or served, or the program not started.
pub fn record_from(lab: &Lab, job: &RecordJob, begin: &Begin<'_>) -> Result<Recording, Failure> {
    let _ = raise_open_files_limit();
    let (backing, mount_point) = (lab.new_directory("record")?, lab.new_directory("mount")?);
    let tree = backing.join("tree");
    fs::create_dir(&tree).map_err(|error| failed("make a scratch directory", &error))?;
    let told = backing.join("told");
    fs::create_dir(&told).map_err(|error| failed("make a scratch directory", &error))?;
    for stream in ["1", "2"] {
        File::create(told.join(stream)).map_err(|error| failed("make an output file", &error))?;
    }
    match begin {
        Begin::Directory => copy(&job.directory, &tree)?,
        Begin::State(log, state, blocks) => layout::own_root(state, &tree)
            .and_then(|()| layout::lay_out(log, state, blocks, &tree))
            .map_err(|error| failed("lay a state out in memory", &error))?,
    }

    let recorder = open(&backing, plan(job)?)?;
    let mount = RecordingMount::new(&mount_point, recorder)?;
    let status = run(job, &mount_point, &lab.children());
    let trace = mount.end()?;
    let status = status?;
    let mut trace = trace;
    trace.command = job.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    trace.directory = job.directory.as_os_str().as_bytes().to_vec();
    let difference = trust(&trace, &tree, job)?;
    Ok(Recording { trace, status, difference, left: tree })
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot {what}: {error}"))
}

fn plan(job: &RecordJob) -> Result<RecordPlan, Failure> {
    let mut plan = RecordPlan::beside();
    if let Some(told) = &job.told {
        let within = told.strip_prefix(&job.directory).map_err(|_| {
            let (told, directory) = (told.display(), job.directory.display());
            Failure::usage(format!("--ack {told} is not in {directory}: name a file there"))
        })?;
        plan.told_file = Some(within.iter().map(OsStr::to_owned).collect());
    }
    Ok(plan)
}

/// Copies the directory under test, as a trace without operations that is laid out.
fn copy(directory: &Path, to: &Path) -> Result<(), Failure> {
    let trace = read_directory(directory)?;
    let log = Steps::new(&trace);
    let mut blocks = Blocks::default();
    let state = State::initial(&log, &mut blocks);
    layout::own_root(&state, to)
        .and_then(|()| layout::lay_out(&log, &state, &blocks, to))
        .map_err(|error| failed("copy the directory into memory", &error))
}

/// A directory as the beginning of a trace.
///
/// # Errors
/// It cannot be read.
pub fn read_directory(directory: &Path) -> Result<Trace, Failure> {
    Ok(open(directory, RecordPlan::of("."))?.trace())
}

fn open(directory: &Path, plan: RecordPlan) -> Result<Recorder<LinuxBacking>, Failure> {
    let open = || {
        let backing = LinuxBacking::open(directory, BackingOptions::default())
            .map_err(|error| Failure::new(error.to_string()))?;
        Recorder::new(backing, plan, Box::new(ProcWitness))
            .map_err(|error| failed(&format!("read all of {}", directory.display()), &error))
    };
    // A thread that uses a backing gets another umask, and the program shall have ours.
    std::thread::scope(|scope| scope.spawn(open).join())
        .unwrap_or_else(|_| Err(Failure::new("reading the directory panicked")))
}

/// Replays the trace and compares.
fn trust(trace: &Trace, left: &Path, job: &RecordJob) -> Result<Option<String>, Failure> {
    let mut blocks = Blocks::default();
    let log = Steps::new(trace);
    let mut state = State::initial(&log, &mut blocks);
    for (number, step) in log.steps.iter().enumerate() {
        state.apply(&log, &mut blocks, number as u32, step);
    }
    let told = job.told.as_ref().and_then(|told| told.strip_prefix(&job.directory).ok());
    let told = told.map(|told| left.join(told));
    layout::difference(&log, &state, &blocks, left, told.as_deref())
        .map_err(|error| failed("compare the recording with the directory", &error))
}

/// Looks into /proc. The thread waits for its operation, so it is there; cheap enough to
/// ask every time, and a program that is started in it later has another name.
pub struct ProcWitness;

impl Witness for ProcWitness {
    fn actor(&self, thread: u32) -> Actor {
        let read = |file: &str| fs::read_to_string(format!("/proc/{thread}/{file}")).ok();
        let process = read("status").and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
            line.trim().parse().ok()
        });
        let comm = read("comm").map(|comm| comm.trim_end().to_owned()).unwrap_or_default();
        Actor { process: process.unwrap_or(0), thread, comm }
    }

    fn write_call(&self, thread: u32) -> Option<WriteCall> {
        let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        let mut words = line.split_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        if ![libc::SYS_write, libc::SYS_pwrite64].contains(&number) {
            return None;
        }
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (descriptor, address, bytes) = (argument()?, argument()?, argument()?);
        Some(WriteCall { call: [number.cast_unsigned(), descriptor, address], bytes })
    }
}

/// Runs the program where it sees the recorded tree at the directory's own path.
fn run(job: &RecordJob, mount_point: &Path, children: &Children) -> Result<ExitStatus, Failure> {
    let shown = job.command[0].to_string_lossy().into_owned();
    let told = |stream: &str| {
        let path = mount_point.join("told").join(stream);
        File::options().append(true).open(path).map_err(|error| failed("open its output", &error))
    };
    let (output, errors) = (told("1")?, told("2")?);
    // A thread of its own: its mounts are its own, too, and end with it.
    std::thread::scope(|scope| {
        let run = || -> Result<ExitStatus, Failure> {
            children::adopt_orphans().map_err(|error| failed("adopt processes", &error))?;
            lab::own_mounts()
                .and_then(|()| lab::bind(&mount_point.join("tree"), &job.directory))
                .map_err(|error| failed("show the recorded directory to the program", &error))?;
            let mut command = Command::new(&job.command[0]);
            let start = &job.working_directory;
            let start = if start.is_dir() { start } else { &job.directory };
            command.args(&job.command[1..]).current_dir(start);
            command.envs(job.environment.iter().map(|(name, value)| (name, value)));
            command.stdout(output).stderr(errors).process_group(0);
            let (mut child, _watched) = children.start(&mut command).map_err(|error| {
                Failure::new(format!("cannot start {shown}: {error}; check the name"))
            })?;
            drop(command);
            let status = child.wait().map_err(|error| failed("wait for the program", &error))?;
            children::end_orphans();
            Ok(status)
        };
        scope.spawn(run).join().unwrap_or_else(|_| Err(Failure::new("the runner panicked")))
    })
}

/// The mount on which a program is recorded.
struct RecordingMount {
    mount_point: PathBuf,
    session: fuser::BackgroundSession,
    tree: Arc<fs_core::engine::Tree<Recorder<LinuxBacking>>>,
}

impl RecordingMount {
    fn new(mount_point: &Path, recorder: Recorder<LinuxBacking>) -> Result<Self, Failure> {
        let recorder = Arc::new(recorder);
        let engine = Engine::new(&*recorder, EngineConfig::default());
        let tree = engine
            .add_tree(Arc::clone(&recorder))
            .map_err(|error| failed("serve the recorded directory", &error))?;
        let channel = Arc::new(Channel::default());
        let options = SkinOptions {
            slow_sync: None,
            attr_timeout: Duration::from_secs(3600),
            entry_timeout: Duration::from_secs(3600),
            passthrough: false,
            default_permissions: true,
        };
        let counters = Arc::new(Counters::default());
        let skin = Arc::new(Skin::new(Arc::clone(&tree), Arc::clone(&channel), counters, options));
        let classic = Classic::new(skin, Arc::new(Agreement::new(false)));
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(WORKERS);
        let device = mount(mount_point)?;
        let connected = device.try_clone().map_err(|error| failed("serve", &error))?;
        let session = Session::from_fd(classic, device, SessionACL::All, config)
            .map_err(|error| failed("agree with the kernel on the mount", &error))?;
        channel.connect(connected);
        let session = session.spawn().map_err(|error| failed("serve", &error))?;
        Ok(Self { mount_point: mount_point.to_owned(), session, tree })
    }

    /// Ends the mount and gives what was recorded.
    fn end(self) -> Result<Trace, Failure> {
        // Pages of shared mappings that nobody has synced are still the kernel's.
        if let Ok(top) = File::open(&self.mount_point) {
            let _ = rustix::fs::syncfs(&top);
        }
        nix::mount::umount2(&self.mount_point, MntFlags::MNT_DETACH)
            .map_err(|error| failed("end the recording mount", &error))?;
        let ended = regular_end(self.session.join());
        ended.map_err(|error| failed("end the recording", &error))?;
        Ok(self.tree.backing().trace())
    }
}

fn mount(at: &Path) -> Result<OwnedFd, Failure> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC;
    let device =
        nix::fcntl::open("/dev/fuse", flags, nix::sys::stat::Mode::empty()).map_err(|error| {
            let remedy = match error {
                nix::Error::EACCES => "let users open it (`chmod 666 /dev/fuse`), or run as root",
                _ => "load the fuse module (`modprobe fuse`)",
            };
            Failure::new(format!("cannot open /dev/fuse: {error}; {remedy}"))
        })?;
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let number = device.as_fd().as_raw_fd();
    let data = format!(
        "fd={number},rootmode=40000,user_id={user},group_id={group},allow_other,default_permissions"
    );
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    nix::mount::mount(Some("lanefs-crash"), at, Some("fuse"), flags, Some(data.as_str()))
        .map_err(|error| Failure::new(format!("cannot mount the recording: {error}")))?;
    Ok(device)
}
