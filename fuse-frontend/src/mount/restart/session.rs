//! A fuser session on a connection whose handshake is over, and the end of one that leaves
//! the connection alone. fuser 0.18 has no door for either.
//!
//! fuser begins a session by reading INIT. So it is given a socket, on which we play the
//! kernel; then the connection is put under the socket's descriptor number
//! (`dup3(2)`), and fuser's workers read requests from there. They stop in the same way: a
//! file that cannot be read is put under their number. A worker that waits in `read(2)` of
//! the old file is interrupted; the system call is begun anew, by the number.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fs_core::platform::linux::{interrupt_thread, replace_file};
use fuser::{Config, Session, SessionACL};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use signal_hook::consts::SIGURG;

use crate::skin::Classic;
use crate::skin::gate::Gate;

/// `FUSE_INIT`.
const OPCODE_INIT: u32 = 26;
/// `struct fuse_in_header`, `struct fuse_init_in`.
const INIT_BYTES: usize = 40 + 64;
/// fuser's own version of the protocol: it does not have to step down.
const VERSION: (u32, u32) = (7, 40);
/// `FUSE_NOTIFY_RESEND`, Linux 6.9.
const NOTIFY_RESEND: i32 = 7;
/// How long workers may take to stop reading.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A session on a connection that is in use already.
///
/// # Errors
/// What the system says.
pub fn resume(
    classic: Classic,
    device: BorrowedFd<'_>,
    acl: SessionACL,
    config: Config,
) -> std::io::Result<Session<Classic>> {
    let (kernel, ours) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    rustix::io::write(&kernel, &init_request())?;
    let session = Session::from_fd(classic, ours, acl, config)?;
    replace_file(session.as_fd().as_raw_fd(), device)?;
    Ok(session)
}

/// What a kernel says first.
fn init_request() -> [u8; INIT_BYTES] {
    let mut request = [0; INIT_BYTES];
    let mut put = |at: usize, value: u32| {
        request[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    };
    put(0, INIT_BYTES as u32);
    put(4, OPCODE_INIT);
    put(8, 1); // unique
    put(40, VERSION.0);
    put(44, VERSION.1);
    request
}

/// Has the kernel send again what was read from the connection and not answered, whoever has
/// read it: to be called before this program reads anything.
///
/// # Errors
/// `EINVAL`: this kernel cannot.
pub fn resend(device: BorrowedFd<'_>) -> std::io::Result<()> {
    // `struct fuse_out_header` of a notification: its kind stands where an error would.
    let mut header = [0; 16];
    header[..4].copy_from_slice(&16_u32.to_ne_bytes());
    header[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    rustix::io::write(device, &header)?;
    Ok(())
}

/// Stops the workers that read by this number. True when each has ended or stands at the
/// closed gate.
pub(crate) fn stop_reading(number: RawFd, gate: &Gate) -> bool {
    let stopped = || -> std::io::Result<bool> {
        // A handler, so that the signal interrupts and does nothing else.
        signal_hook::flag::register(SIGURG, Arc::new(AtomicBool::new(false)))?;
        let unreadable = unreadable()?;
        replace_file(number, unreadable.as_fd())?;
        let deadline = Instant::now() + STOP_MAX;
        loop {
            let workers = workers()?;
            if workers.len() <= gate.waiting() {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            for worker in workers {
                // Ended meanwhile: that is the aim.
                let _ = interrupt_thread(worker, SIGURG);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    stopped().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot stop the workers");
        false
    })
}

/// A file that answers `read(2)` with an error: `EBADF` from an `O_PATH` descriptor.
fn unreadable() -> std::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// fuser's workers of this process, by the names that it gives them.
fn workers() -> std::io::Result<Vec<u32>> {
    let mut workers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
        let number = name.trim_end().strip_prefix("fuser-");
        let is_worker = number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let thread = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        workers.extend(thread.filter(|_| is_worker));
    }
    Ok(workers)
}
