//! FUSE over io_uring (Linux 6.14): the second transport.
//!
//! The classic transport costs a system call to fetch a request, one to answer it, and a
//! wake-up across processors for each. Here every processor has a queue, a thread that is
//! bound to it, and an io_uring between the two: one system call answers what is ready and
//! fetches what has come, and who asked waits on the same processor.
//!
//! ```text
//! program -> kernel -> queue of its processor -> thread lanefs-ring-N -> Tree, Skin
//!                                                    |            \-> pool, committer: what
//!                                                    <- answers -----  waits for the disk
//! ```
//!
//! - [`abi`] has the kernel's numbers, [`sys`] the memory shared with it and the commands;
//! - [`decode`] reads requests, [`serve`] answers them, with the handlers that the classic
//!   transport calls too;
//! - [`queue`] is where answers of other threads go, [`thread`] the loop of a queue;
//! - [`pool`] has the threads that may wait.
//!
//! Kernel rules kept here: the flag in the handshake makes the kernel hold all requests
//! back until every possible processor's queue has an entry, so all that can fail is tried
//! before ([`Rings::prepare`]). FORGET, INTERRUPT and notifications stay with `/dev/fuse`.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use self::pool::Pool;
use self::queue::Queue;
use self::thread::{Service, Startup};
use crate::failure::Failure;
use crate::skin::Skin;

mod abi;
mod decode;
mod pool;
mod queue;
mod serve;
mod sys;
mod thread;

/// Where the kernel says whether it offers rings.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// Which processors may ever be there; each has a queue.
const PROCESSORS: &str = "/sys/devices/system/cpu/possible";
/// Entries of all queues together, and bounds for one. A parked sync occupies an entry.
const ENTRIES_ALL: usize = 2048;
const ENTRIES_MIN: usize = 32;
const ENTRIES_MAX: usize = 128;

/// How requests reach us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By rings where the kernel offers them.
    Auto,
    /// By rings, or no mount.
    Ring,
    /// By reads and writes of `/dev/fuse`.
    Classic,
}

/// Rings for a mount to be made, or why it does without.
pub enum Choice {
    /// To be registered after the handshake.
    Rings(Rings),
    /// The classic transport, and the reason.
    Classic(String),
}

/// Prepares what a mount's transport needs.
///
/// # Errors
/// Rings were asked for and cannot be had.
pub fn choose(transport: Transport) -> Result<Choice, Failure> {
    if transport == Transport::Classic {
        return Ok(Choice::Classic("asked for".to_owned()));
    }
    let prepared = offered().and_then(|()| {
        Rings::prepare().map_err(|error| format!("an io_uring cannot be set up: {error}"))
    });
    match prepared {
        Ok(rings) => Ok(Choice::Rings(rings)),
        Err(reason) if transport == Transport::Ring => Err(refused(&reason)),
        Err(reason) => Ok(Choice::Classic(reason)),
    }
}

/// Whether a mount with this transport makes sense here; asked before anything is done.
///
/// # Errors
/// Rings are asked for and the kernel does not offer them.
pub fn check(transport: Transport) -> Result<(), Failure> {
    match offered() {
        Err(reason) if transport == Transport::Ring => Err(refused(&reason)),
        _ => Ok(()),
    }
}

fn refused(reason: &str) -> Failure {
    Failure::new(format!("transport=ring: {reason}"))
}

fn offered() -> Result<(), String> {
    match std::fs::read_to_string(PARAMETER) {
        Ok(value) if value.starts_with(['Y', '1']) => Ok(()),
        Ok(_) => Err(format!("FUSE over io_uring is switched off: `echo Y > {PARAMETER}`")),
        Err(_) => Err("this kernel has no FUSE over io_uring; Linux 6.14 and later have it, \
                       built with CONFIG_FUSE_IO_URING"
            .to_owned()),
    }
}

/// The queues of a mount and their threads.
pub struct Rings {
    queues: Vec<Arc<Queue>>,
    threads: Vec<Thread>,
    entries: u16,
}

struct Thread {
    service: Sender<Arc<Service>>,
    steps: Receiver<io::Result<()>>,
    handle: JoinHandle<()>,
}

impl Rings {
    /// Starts a thread with a ring for each processor. Dropped, they end.
    fn prepare() -> io::Result<Self> {
        let processors = possible_processors()?;
        let entries = (ENTRIES_ALL / processors).clamp(ENTRIES_MIN, ENTRIES_MAX) as u16;
        let count = u16::try_from(processors).map_err(|_| io::ErrorKind::Unsupported)?;
        let mut rings = Self { queues: Vec::new(), threads: Vec::new(), entries };
        for number in 0..count {
            let queue = Arc::new(Queue::new(number)?);
            rings.threads.push(start_thread(&queue, entries)?);
            rings.queues.push(queue);
        }
        rings.all_have_stepped()?;
        Ok(rings)
    }

    /// Gives all entries to the kernel, right after a handshake in which it agreed. When
    /// this returns requests are answered. `failed` is called if a ring fails later.
    ///
    /// # Errors
    /// The kernel took not all of them. It is not known then whether requests come, so
    /// the mount must be ended.
    pub fn start(
        self,
        skin: &Arc<Skin>,
        device: BorrowedFd<'_>,
        pool_size: usize,
        failed: impl Fn(&io::Error) + Send + Sync + 'static,
    ) -> io::Result<Running> {
        let device = device.try_clone_to_owned()?;
        let pool = Pool::start(skin, &self.queues, pool_size)?;
        let (skin, failed) = (Arc::clone(skin), Box::new(failed));
        let service = Arc::new(Service { device, skin, pool, failed });
        for thread in &self.threads {
            let _ = thread.service.send(Arc::clone(&service));
        }
        self.all_have_stepped()?;
        let shown = format!("ring: {} queues of {} entries", self.queues.len(), self.entries);
        let threads = self.threads.into_iter().map(|thread| thread.handle).collect();
        Ok(Running { service, threads, shown })
    }

    fn all_have_stepped(&self) -> io::Result<()> {
        let ended = || io::Error::other("the thread of a ring has ended");
        self.threads.iter().try_for_each(|thread| thread.steps.recv().map_err(|_| ended())?)
    }
}

fn start_thread(queue: &Arc<Queue>, entries: u16) -> io::Result<Thread> {
    let (service, service_receiver) = channel();
    let (step_sender, steps) = channel();
    let startup = Startup { service: service_receiver, steps: step_sender };
    let (name, queue) = (format!("lanefs-ring-{}", queue.number()), Arc::clone(queue));
    let work = move || thread::run(&queue, entries, startup);
    let handle = std::thread::Builder::new().name(name).spawn(work)?;
    Ok(Thread { service, steps, handle })
}

/// Rings that serve a mount.
pub struct Running {
    service: Arc<Service>,
    threads: Vec<JoinHandle<()>>,
    shown: String,
}

impl Running {
    /// What is in use, for `lanefs status`.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Waits for the end of the mount, and of what was begun.
    pub fn wait(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
        self.service.pool.end();
    }
}

/// How many processors the kernel has queues for.
fn possible_processors() -> io::Result<usize> {
    let text = std::fs::read_to_string(PROCESSORS)?;
    count_processors(&text).ok_or_else(|| io::Error::other(format!("{PROCESSORS}: {text}")))
}

/// The length of a list like `0-3,8`.
fn count_processors(list: &str) -> Option<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.trim().split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, count) in [("0", 1), ("0-1\n", 2), ("0-3,8", 5), ("0-3,8-11\n", 8)] {
            assert_eq!(count_processors(list), Some(count), "{list}");
        }
        assert_eq!(count_processors("many"), None);
        assert_eq!(count_processors("3-1"), None);
    }
}
