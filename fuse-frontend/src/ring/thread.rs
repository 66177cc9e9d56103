//! The thread of one queue: takes requests of one processor, answers what does not wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use super::pool::Pool;
use super::queue::{Queue, Ticket};
use super::serve::serve;
use super::sys::{Event, Lease, Ring};
use crate::skin::{REQUEST_BYTES_MAX, Skin};

/// How long the kernel may take to give entries back when the mount has ended.
const END_MAX: Duration = Duration::from_secs(5);

/// What the threads work with; comes when the kernel has agreed.
pub(super) struct Service {
    pub(super) device: OwnedFd,
    pub(super) skin: Arc<Skin>,
    pub(super) pool: Pool,
    /// Told when a ring fails while the mount lives.
    pub(super) failed: Box<dyn Fn(&io::Error) + Send + Sync>,
}

/// What a thread is asked and tells while it starts.
pub(super) struct Startup {
    /// Nothing comes if the ring is not to be used.
    pub(super) service: Receiver<Arc<Service>>,
    /// The ring was made; then: the kernel has its entries.
    pub(super) steps: Sender<io::Result<()>>,
}

/// Runs a queue until its mount ends.
pub(super) fn run(queue: &Arc<Queue>, entries: u16, startup: Startup) {
    let Startup { service, steps } = startup;
    pin(queue.number());
    queue.belongs_to_this_thread();
    let mut ring = match Ring::new(queue.number(), entries, REQUEST_BYTES_MAX as usize) {
        Ok(ring) => ring,
        Err(error) => {
            let _ = steps.send(Err(error));
            return;
        }
    };
    let _ = steps.send(Ok(()));
    let Ok(service) = service.recv() else { return };
    let mut events = Vec::new();
    let registered = queue
        .wake_up()
        .and_then(|wake_up| ring.register(service.device.as_fd(), wake_up))
        .and_then(|()| {
            // What is refused is refused at once; what is taken in says nothing.
            ring.reap(&mut events);
            refusal(&mut events).map_or(Ok(()), Err)
        });
    let failed = registered.is_err();
    let _ = steps.send(registered);
    if failed {
        return;
    }
    let served =
        catch_unwind(AssertUnwindSafe(|| serve_requests(queue, &mut ring, &service, events)));
    // Requests of this processor would wait forever now.
    if let Err(error) = served.unwrap_or_else(|_| Err(io::Error::other("its thread panicked"))) {
        (service.failed)(&error);
    }
}

fn refusal(events: &mut Vec<Event>) -> Option<io::Error> {
    let at = events.iter().position(|event| matches!(event, Event::Gone(_)))?;
    match events.swap_remove(at) {
        Event::Gone(error) => Some(error),
        _ => None,
    }
}

fn serve_requests(
    queue: &Arc<Queue>,
    ring: &mut Ring,
    service: &Service,
    mut events: Vec<Event>,
) -> io::Result<()> {
    let mut answers: Vec<Lease> = Vec::new();
    let mut ended: Option<Instant> = None;
    loop {
        for event in events.drain(..) {
            match event {
                Event::Request(lease) => take(service, Ticket::new(queue, lease)),
                Event::Gone(error) if is_end(&error) => {
                    ended.get_or_insert_with(Instant::now);
                }
                Event::Gone(error) => return Err(error),
                Event::WakeUp => {}
            }
        }
        queue.take(&mut answers);
        if let Some(since) = ended {
            // Whoever asked has been told by the kernel.
            answers.clear();
            if ring.lent() == 0 || since.elapsed() > END_MAX {
                return Ok(());
            }
        }
        answers.drain(..).for_each(|lease| ring.commit(lease));
        ring.wait(ended.map(|_| Duration::from_millis(100)), &mut events)?;
    }
}

fn take(service: &Service, ticket: Ticket) {
    if let Some(waits) = serve(&service.skin, ticket) {
        service.pool.serve(waits);
    }
}

/// Whether an entry came back because the mount has ended.
fn is_end(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED))
}

/// The queue of a processor is served on it: whoever asked waits there, and is woken
/// without a word to another processor. Where that is not allowed it works all the same.
fn pin(processor: u16) {
    let mut set = rustix::thread::CpuSet::new();
    if usize::from(processor) < rustix::thread::CpuSet::MAX_CPU {
        set.set(usize::from(processor));
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}
