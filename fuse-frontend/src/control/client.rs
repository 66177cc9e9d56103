//! A client's half: asking a mount's daemon, which may be dead, dying, or being replaced.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Request, Response, UNMOUNT_TIME_MAX, socket_path};
use crate::failure::Failure;
use crate::mount::mounts::MountEntry;

/// How long the socket of a live mount may be missing.
const SOCKET_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a client waits for an answer to what takes no time. A restart may come between.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Asks the daemon of a mount.
///
/// # Errors
/// The mount is another user's, or the daemon gave no answer. `None` if nobody
/// listens: the daemon is gone.
pub fn ask(mount: &MountEntry, request: &Request) -> Result<Option<Response>, Failure> {
    for _ in 0..TRIES_MAX {
        match ask_once(mount, request)? {
            Asked::Answered(response) => return Ok(Some(response)),
            Asked::Dead => return Ok(None),
            // It is being replaced, and its successor will answer.
            Asked::HungUp if matches!(request, Request::Restart { .. }) => break,
            Asked::HungUp => {}
        }
    }
    Err(Failure::new("the daemon hung up without an answer; its log or its unit's says why"))
}

/// How often a daemon may hang up while its mount lives.
const TRIES_MAX: usize = 5;

enum Asked {
    Answered(Response),
    Dead,
    HungUp,
}

fn ask_once(mount: &MountEntry, request: &Request) -> Result<Asked, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("the daemon did not answer: {error}"));
    let Some(mut connection) = connect(mount)? else { return Ok(Asked::Dead) };
    let limit = match request {
        Request::Status
        | Request::AtRisk
        | Request::MayWrite
        | Request::Set { .. }
        | Request::LogLevel { .. }
        | Request::Configure { .. } => ANSWER_TIME_MAX,
        // A state of the whole directory may be laid out.
        Request::Fault { .. } => UNMOUNT_TIME_MAX,
        Request::Restart { .. } | Request::Flush | Request::Unmount { .. } => {
            UNMOUNT_TIME_MAX + Duration::from_secs(10)
        }
    };
    connection.set_read_timeout(Some(limit)).map_err(failed)?;
    let daemon = daemon_of(&connection);
    let mut text = serde_json::to_string(request).expect("a request is plain data");
    text.push('\n');
    let mut line = String::new();
    let asked = connection.write_all(text.as_bytes());
    match asked.and_then(|()| BufReader::new(&connection).read_line(&mut line)) {
        // It took the connection and died: of a process that is killed one thread goes
        // after the other, and the socket with the last.
        Ok(0) => return Ok(if dies(mount) { Asked::Dead } else { Asked::HungUp }),
        Err(error) if is_broken(&error) => {
            return Ok(if dies(mount) { Asked::Dead } else { Asked::HungUp });
        }
        other => other.map_err(failed)?,
    };
    let response = serde_json::from_str(&line)
        .map_err(|error| Failure::new(format!("the daemon's answer makes no sense: {error}")))?;
    if let (Response::Unmounted, Some(daemon)) = (&response, daemon) {
        wait_for_end(&daemon);
    }
    Ok(Asked::Answered(response))
}

/// The process at the other end.
fn daemon_of(connection: &UnixStream) -> Option<OwnedFd> {
    let peer = nix::sys::socket::sockopt::PeerCredentials;
    let peer = nix::sys::socket::getsockopt(connection, peer).ok()?;
    let pid = rustix::process::Pid::from_raw(peer.pid())?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Waits until a process has ended: until then it has the backing filesystem
/// open, and an umount(8) of that would find it busy.
fn wait_for_end(process: &OwnedFd) {
    let mut ended = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut ended, Some(&limit));
}

/// Connects to a mount's daemon; `None` if the mount is dead. A live mount may
/// be without its socket for a moment, while its daemon starts or another one's
/// leftover is replaced.
fn connect(mount: &MountEntry) -> Result<Option<UnixStream>, Failure> {
    let shown = mount.mount_point.display();
    let deadline = Instant::now() + SOCKET_TIME_MAX;
    loop {
        let error = match UnixStream::connect(socket_path(mount.user_id, &mount.device)) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::PermissionDenied => {
                let user = mount.user_id;
                return Err(Failure::new(format!(
                    "{shown} is a mount of user id {user}: ask as that user, or as root"
                )));
            }
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {}
            _ => return Err(Failure::new(format!("cannot ask the daemon of {shown}: {error}"))),
        }
        if is_dead(&mount.mount_point) {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "the mount at {shown} is alive, but its control socket is missing: \
                 end it with umount(8), which makes everything durable too"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a mount is dead, or soon will be.
fn dies(mount: &MountEntry) -> bool {
    let deadline = Instant::now() + SOCKET_TIME_MAX;
    // While the daemon replaces itself, this waits for the successor's answer.
    while !is_dead(&mount.mount_point) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn is_broken(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Whether the kernel says that nobody serves a mount any more.
fn is_dead(mount_point: &Path) -> bool {
    matches!(nix::sys::statfs::statfs(mount_point), Err(nix::Error::ENOTCONN))
}

/// Removes what a dead daemon left.
pub fn remove_leftover(mount: &MountEntry) {
    let _ = std::fs::remove_file(socket_path(mount.user_id, &mount.device));
}
