//! The kernel's side of a mount: the device, `mount(2)`, and its end.
//!
//! As root the mount is made here, because fuser 0.18 would unmount whatever is
//! at the path, ours or not; without root fuser calls `fusermount3`, which has
//! the right to mount for users.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fs_core::platform::linux::running_as_root;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags};

use super::restart::session;
use super::{Event, MountOptions, MountPlan, mounts};
use crate::failure::Failure;
use crate::ring::{self, Choice, Rings, Running};
use crate::skin::gate::Gate;
use crate::skin::reply::Channel;
use crate::skin::{Agreement, Classic, Served, Skin};

/// How long a new mount may take to answer its first request.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A mount and the session that serves it.
pub struct KernelMount {
    mount_point: PathBuf,
    device_number: String,
    transport: String,
    /// Where fuser's workers read requests.
    session: RawFd,
    /// The session ends, and the mount does not.
    leaves: Arc<AtomicBool>,
    /// Why it cannot go on in another program, if so.
    no_restart: Option<String>,
}

impl KernelMount {
    /// Mounts and starts the workers.
    ///
    /// # Errors
    /// The kernel refused; the message says why and what helps.
    pub fn new(
        plan: &MountPlan,
        skin: &Arc<Skin>,
        channel: &Channel,
        events: Sender<Event>,
    ) -> Result<Self, Failure> {
        let mount_point = plan.mount_point.clone();
        let choice = ring::choose(plan.options.transport)?;
        let agreement = Arc::new(Agreement::new(matches!(choice, Choice::Rings(_))));
        let classic = Classic::new(Arc::clone(skin), Arc::clone(&agreement));
        let session = if running_as_root() {
            mount_as_root(plan, classic, session_config(&plan.options, &choice))
        } else {
            mount_as_user(plan, classic, session_config(&plan.options, &choice))
        }?;
        let start = || {
            let device = or_cannot_serve(session.as_fd().try_clone_to_owned())?;
            channel.connect(device);
            let (number, leaves) = (session.as_fd().as_raw_fd(), Arc::default());
            let no_restart = reason_against_restart(&agreement);
            let (transport, rings) = match choice {
                Choice::Rings(rings) => {
                    let workers = plan.options.workers;
                    let rings = start_rings(rings, &agreement, skin, channel, workers, &events)?;
                    (rings.shown(), Some(rings))
                }
                Choice::Classic(reason) => (format!("classic: {reason}"), None),
            };
            serve(session, rings, events, Arc::clone(&leaves))?;
            let device_number = device_number_of(&mount_point)?;
            let (mount_point, session) = (mount_point.clone(), number);
            Ok(Self { mount_point, device_number, transport, session, leaves, no_restart })
        };
        start().inspect_err(|_| detach(&mount_point))
    }

    /// As [`Self::new`], by the classic transport, for a backing that is not Linux's own.
    ///
    /// # Errors
    /// The same.
    pub fn classic<B: Served>(
        plan: &MountPlan,
        skin: &Arc<Skin<B>>,
        channel: &Channel,
        events: Sender<Event>,
    ) -> Result<Self, Failure> {
        let mount_point = plan.mount_point.clone();
        let choice = Choice::Classic("the mount is recorded".to_owned());
        let classic = Classic::new(Arc::clone(skin), Arc::new(Agreement::new(false)));
        let config = session_config(&plan.options, &choice);
        let session = if running_as_root() {
            mount_as_root(plan, classic, config)
        } else {
            mount_as_user(plan, classic, config)
        }?;
        let start = || {
            channel.connect(or_cannot_serve(session.as_fd().try_clone_to_owned())?);
            let (number, leaves) = (session.as_fd().as_raw_fd(), Arc::default());
            serve(session, None, events, Arc::clone(&leaves))?;
            Ok(Self {
                mount_point: mount_point.clone(),
                device_number: device_number_of(&mount_point)?,
                transport: "classic: the mount is recorded".to_owned(),
                session: number,
                leaves,
                no_restart: Some("the mount is recorded".to_owned()),
            })
        };
        start().inspect_err(|_| detach(&mount_point))
    }

    /// Takes over a mount from the program that this one has replaced.
    ///
    /// # Errors
    /// The workers cannot be started.
    pub fn resume(
        plan: &MountPlan,
        skin: &Arc<Skin>,
        (channel, device): (&Channel, OwnedFd),
        device_number: String,
        events: Sender<Event>,
    ) -> Result<Self, Failure> {
        let classic = Classic::new(Arc::clone(skin), Arc::new(Agreement::resumed()));
        let config = session_config(&plan.options, &Choice::Classic(String::new()));
        let session = session::resume(classic, device.as_fd(), session_acl(&plan.options), config);
        let session = or_cannot_serve(session)?;
        channel.connect(device);
        let (number, leaves) = (session.as_fd().as_raw_fd(), Arc::default());
        // Before the workers: what they have read by then would come, and be done, twice.
        or_cannot_serve(session::resend(channel.device()))?;
        serve(session, None, events, Arc::clone(&leaves))?;
        Ok(Self {
            mount_point: plan.mount_point.clone(),
            device_number,
            transport: "classic: gone on with after a restart".to_owned(),
            session: number,
            leaves,
            no_restart: None,
        })
    }

    /// Why the mount cannot go on in another program, if so.
    #[must_use]
    pub fn no_restart(&self) -> Option<&str> {
        self.no_restart.as_deref()
    }

    /// Has the workers read no more; the mount stays. True when none reads any more. For
    /// good: what the kernel asks from now on is for a successor.
    pub(crate) fn stop_reading(&self, gate: &Gate) -> bool {
        self.leaves.store(true, Ordering::Release);
        session::stop_reading(self.session, gate)
    }

    /// How requests come, and why, for `lanefs status`.
    #[must_use]
    pub fn transport(&self) -> &str {
        &self.transport
    }

    /// Device number of the mount, as `major:minor`.
    #[must_use]
    pub fn device_number(&self) -> &str {
        &self.device_number
    }

    /// Returns when the mount has answered a request.
    ///
    /// # Errors
    /// It did not answer in time, or with an error.
    pub fn wait_until_it_answers(&self) -> Result<(), Failure> {
        let (sender, answer) = std::sync::mpsc::channel();
        let mount_point = self.mount_point.clone();
        std::thread::spawn(move || sender.send(std::fs::metadata(mount_point).map(drop)).ok());
        let shown = self.mount_point.display();
        match answer.recv_timeout(ANSWER_MAX) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                detach(&self.mount_point);
                Err(Failure::new(format!("the new mount at {shown} answers with: {error}")))
            }
            Err(_) => {
                detach(&self.mount_point);
                Err(Failure::new(format!("the new mount at {shown} did not answer in 30 s")))
            }
        }
    }

    /// Ends the mount; `lazy` detaches it even while it is used. A mount that
    /// somebody else has ended, or covered by another one, is left alone.
    ///
    /// # Errors
    /// `EBUSY` while programs use it.
    pub fn unmount(&self, lazy: bool) -> nix::Result<()> {
        let top = mounts::at(&self.mount_point).ok().flatten();
        if top.is_some_and(|top| top.device == self.device_number) {
            unmount(&self.mount_point, lazy)
        } else {
            Ok(())
        }
    }

    /// Detaches the mount whatever uses it.
    pub fn unmount_now(&self) {
        detach(&self.mount_point);
        // A detached mount lives on until its last file is closed; the session
        // must end now, so its connection is cut.
        let _ = abort_connection(&self.device_number);
    }
}

/// Hands the session to its workers, and a thread that tells when all have ended.
fn serve<B: Served>(
    session: Session<Classic<B>>,
    rings: Option<Running>,
    events: Sender<Event>,
    leaves: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let session = or_cannot_serve(session.spawn())?;
    let wait = move || {
        let result = regular_end(session.join());
        if let Some(rings) = rings {
            rings.wait();
        }
        if !leaves.load(Ordering::Acquire) {
            let _ = events.send(Event::SessionEnded(result));
        }
    };
    let thread = std::thread::Builder::new().name("lanefs-session".into());
    or_cannot_serve(thread.spawn(wait)).map(drop)
}

/// How a session ended. Unmounting is its regular end, as fuser knows; but a worker that has just
/// taken the last request when the kernel cuts the connection reads ECONNABORTED (`fuse_dev_do_read`).
pub fn regular_end(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        other => other,
    }
}

/// Why a mount could not go on in another program.
fn reason_against_restart(agreement: &Agreement) -> Option<String> {
    if agreement.is_ring() {
        return Some(
            "its requests come by io_uring, and what a ring holds the kernel does not send again; \
             mount with `-o transport=classic` for restarts"
                .to_owned(),
        );
    }
    let reason = "this kernel does not send unanswered requests again (Linux 6.9 and later do)";
    (!agreement.resends()).then(|| reason.to_owned())
}

/// Who may enter, as far as it is fuser that decides.
fn session_acl(options: &MountOptions) -> SessionACL {
    // As root it is the kernel's decision, by the mount's own options.
    let all = running_as_root() || options.allow_other;
    if all { SessionACL::All } else { SessionACL::Owner }
}

/// The kernel holds all requests back until the rings are registered.
fn start_rings(
    rings: Rings,
    agreement: &Agreement,
    skin: &Arc<Skin>,
    channel: &Channel,
    workers: usize,
    events: &Sender<Event>,
) -> Result<Running, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "FUSE over io_uring cannot be set up: {error}; `-o transport=classic` does without"
        ))
    };
    if !agreement.is_ring() {
        return Err(failed(&"the kernel has just ceased to offer it"));
    }
    let events = events.clone();
    let told = move |error: &std::io::Error| {
        let _ = events.send(Event::RingFailed(error.to_string()));
    };
    rings.start(skin, channel.device(), workers, told).map_err(|error| failed(&error))
}

fn or_cannot_serve<T>(result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(format!("cannot serve: {error}")))
}

/// Unmounts what is at a path.
///
/// # Errors
/// What `umount2(2)` says; without root, `fusermount3` decides and a failure is `EPERM`.
pub fn unmount(mount_point: &Path, lazy: bool) -> nix::Result<()> {
    if running_as_root() {
        let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        return nix::mount::umount2(mount_point, flags | MntFlags::UMOUNT_NOFOLLOW);
    }
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mount_point);
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) if output.stderr.windows(4).any(|word| word == b"busy") => {
            Err(nix::Error::EBUSY)
        }
        _ => Err(nix::Error::EPERM),
    }
}

fn detach(mount_point: &Path) {
    if let Err(error) = unmount(mount_point, true) {
        tracing::warn!(mount_point = %mount_point.display(), %error, "cannot detach");
    }
}

/// Tells the kernel to fail every request of a mount (`/sys/fs/fuse/connections`).
fn abort_connection(device_number: &str) -> std::io::Result<()> {
    let minor = device_number.split_once(':').map_or("", |(_, minor)| minor);
    let directory = Path::new("/sys/fs/fuse/connections");
    if !directory.join(minor).exists() {
        let none = None::<&str>;
        nix::mount::mount(none, directory, Some("fusectl"), MsFlags::empty(), none)?;
    }
    std::fs::write(directory.join(minor).join("abort"), "1")
}

fn device_number_of(mount_point: &Path) -> Result<String, Failure> {
    let deadline = Instant::now() + ANSWER_MAX;
    loop {
        let mount = mounts::at(mount_point)
            .map_err(|error| Failure::new(format!("cannot read the mount table: {error}")))?;
        match mount {
            Some(mount) if mount.filesystem == mounts::FILESYSTEM_TYPE => return Ok(mount.device),
            _ if Instant::now() > deadline => {
                let shown = mount_point.display();
                return Err(Failure::new(format!(
                    "the mount at {shown} is not in the mount table"
                )));
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn session_config(options: &MountOptions, choice: &Choice) -> Config {
    let mut config = Config::default();
    // Who may enter is the kernel's decision, by the mount's own options.
    config.acl = SessionACL::All;
    // With rings it is only forgotten nodes that come by the device.
    let workers = if matches!(choice, Choice::Rings(_)) { 1 } else { options.workers };
    config.n_threads = Some(workers);
    config
}

fn mount_as_root<B: Served>(
    plan: &MountPlan,
    classic: Classic<B>,
    config: Config,
) -> Result<Session<Classic<B>>, Failure> {
    let options = &plan.options;
    let device = nix::fcntl::open(
        "/dev/fuse",
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|error| Failure::new(format!("cannot open /dev/fuse: {error}")))?;
    let source = options.fsname.as_ref().map_or(plan.backing.as_path(), Path::new);
    nix::mount::mount(
        Some(source),
        &plan.mount_point,
        Some(mounts::FILESYSTEM_TYPE),
        mount_flags(options),
        Some(mount_data(&device, options).as_str()),
    )
    .map_err(|error| mount_failure(&plan.mount_point, error))?;
    Session::from_fd(classic, device, SessionACL::All, config).map_err(|error| {
        detach(&plan.mount_point);
        Failure::new(format!("the kernel and lanefs could not agree on the mount: {error}"))
    })
}

fn mount_failure(mount_point: &Path, error: nix::Error) -> Failure {
    let shown = mount_point.display();
    Failure::new(match error {
        nix::Error::EPERM => format!(
            "no privilege to mount at {shown}: run as root with CAP_SYS_ADMIN \
             (in a container: `--cap-add SYS_ADMIN`)"
        ),
        nix::Error::ENODEV => {
            "this kernel has no FUSE: load the fuse module (`modprobe fuse`)".to_owned()
        }
        other => format!("cannot mount at {shown}: {other}"),
    })
}

/// The flags that the kernel keeps for a mount.
#[must_use]
pub fn mount_flags(options: &MountOptions) -> MsFlags {
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_NODEV, !options.dev);
    flags.set(MsFlags::MS_NOSUID, !options.suid);
    flags.set(MsFlags::MS_NOEXEC, !options.exec);
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    flags.set(MsFlags::MS_NOATIME, options.no_atime);
    flags
}

fn mount_data(device: &OwnedFd, options: &MountOptions) -> String {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let device = device.as_raw_fd();
    let mut data = format!("fd={device},rootmode=40000,user_id={user},group_id={group}");
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    data
}

fn mount_as_user<B: Served>(
    plan: &MountPlan,
    classic: Classic<B>,
    mut config: Config,
) -> Result<Session<Classic<B>>, Failure> {
    let options = &plan.options;
    if options.dev || options.suid {
        return Err(Failure::usage(
            "dev and suid need root: without it a mount cannot have device nodes or \
             set-user-id programs; leave these options out",
        ));
    }
    let source = options.fsname.clone().unwrap_or_else(|| plan.backing.display().to_string());
    if source.as_bytes().contains(&b',') || plan.backing.as_os_str().as_bytes().contains(&b',') {
        return Err(Failure::usage(
            "fusermount3 cannot pass a name with a comma: say `-o fsname=NAME` without one",
        ));
    }
    config.acl = session_acl(options);
    config.mount_options = vec![
        MountOption::FSName(source),
        MountOption::Subtype("lanefs".to_owned()),
        if options.read_only { MountOption::RO } else { MountOption::RW },
        if options.exec { MountOption::Exec } else { MountOption::NoExec },
        if options.no_atime { MountOption::NoAtime } else { MountOption::Atime },
    ];
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    Session::new(classic, &plan.mount_point, &config).map_err(|error| {
        let shown = plan.mount_point.display();
        Failure::new(format!(
            "cannot mount at {shown} without root: {error}; install fusermount3 (Debian: \
             `apt-get install fuse3`), own the mount point, and for allow_other set \
             user_allow_other in /etc/fuse.conf; or run as root"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    /// A recording, and a mount, failed at its very end: a worker had just taken the last request
    /// when the kernel cut the connection.
    #[test]
    fn a_connection_that_is_cut_within_a_request_has_ended_well() {
        let code = |result: std::io::Result<()>| regular_end(result).map_err(|e| e.raw_os_error());
        assert_eq!(code(Ok(())), Ok(()));
        assert_eq!(code(Err(Error::from_raw_os_error(libc::ECONNABORTED))), Ok(()));
        let other = Err(Error::from_raw_os_error(libc::EIO));
        assert_eq!(code(other), Err(Some(libc::EIO)));
    }
}
