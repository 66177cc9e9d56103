//! A queue as other threads see it: where answers go, and how its thread is told.
//!
//! A [`Ticket`] is a request that is to be answered, once, by whoever has it and on
//! whatever thread. The answer is written into the entry's buffers there; only handing
//! the entry back is left to the queue's own thread, whose io_uring it is.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_core::engine::NodeId;
use fs_core::error::{Errno, Result};
use fs_core::types::Caller;
use rustix::event::EventfdFlags;

use super::abi::InHeader;
use super::sys::Lease;
use crate::skin::wire::Body;

/// When the thread of a queue is told of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// At once.
    Now,
    /// Not at all if it is that queue's: this is its thread, and looks for itself.
    NotOwn(u16),
    /// When a group has been answered as a whole.
    Later,
}

thread_local! {
    static TELLING: Cell<Telling> = const { Cell::new(Telling::Now) };
}

/// One queue.
pub(super) struct Queue {
    number: u16,
    wake_up: OwnedFd,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    ready: Vec<Lease>,
    /// The thread was told and has not come yet.
    is_told: bool,
}

impl Queue {
    pub(super) fn new(number: u16) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake_up = rustix::event::eventfd(0, flags)?;
        Ok(Self { number, wake_up, answers: Mutex::default() })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// The descriptor that the thread listens to.
    pub(super) fn wake_up(&self) -> io::Result<OwnedFd> {
        self.wake_up.try_clone()
    }

    /// Makes the calling thread the one that looks for answers itself.
    pub(super) fn belongs_to_this_thread(&self) {
        TELLING.set(Telling::NotOwn(self.number));
    }

    /// Moves the answers that are ready to `out`.
    pub(super) fn take(&self, out: &mut Vec<Lease>) {
        let mut answers = self.lock();
        answers.is_told = false;
        out.append(&mut answers.ready);
    }

    fn put(&self, lease: Lease) {
        let mut answers = self.lock();
        answers.ready.push(lease);
        match TELLING.get() {
            Telling::Later => {}
            Telling::NotOwn(number) if number == self.number => {}
            Telling::Now | Telling::NotOwn(_) => self.tell(answers),
        }
    }

    /// Wakes the queue's thread, once for however many answers are ready.
    fn tell(&self, mut answers: MutexGuard<'_, Answers>) {
        if answers.ready.is_empty() || std::mem::replace(&mut answers.is_told, true) {
            return;
        }
        drop(answers);
        if let Err(error) = rustix::io::write(&self.wake_up, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot wake the thread of a ring");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the calling thread may wait for the disk: it is no queue's.
pub(super) fn may_this_thread_wait() -> bool {
    !matches!(TELLING.get(), Telling::NotOwn(_))
}

/// Runs `work`, which is given a function to call whenever a group has been answered:
/// only then are the queues' threads told.
pub(super) fn tell_by_groups(queues: &[Arc<Queue>], work: impl FnOnce(&mut dyn FnMut())) {
    let before = TELLING.replace(Telling::Later);
    let mut tell = || queues.iter().for_each(|queue| queue.tell(queue.lock()));
    work(&mut tell);
    tell();
    TELLING.set(before);
}

/// A request that waits for its answer. Dropped without one (a handler that panicked)
/// it is answered with EIO.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    header: InHeader,
    /// `None` only while it is answered.
    lease: Option<Lease>,
}

impl Ticket {
    pub(super) fn new(queue: &Arc<Queue>, lease: Lease) -> Self {
        let header = InHeader::read(lease.in_header());
        Self { queue: Arc::clone(queue), header, lease: Some(lease) }
    }

    pub(super) fn opcode(&self) -> u32 {
        self.header.opcode
    }

    pub(super) fn node(&self) -> NodeId {
        NodeId(self.header.node)
    }

    pub(super) fn caller(&self) -> Caller {
        let InHeader { uid, gid, pid, .. } = self.header;
        Caller { uid, gid, thread: pid }
    }

    pub(super) fn op_in(&self) -> &[u8] {
        self.lease().op_in()
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.lease().payload()
    }

    /// Room for the body of the answer, which takes the place of the request's.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.lease.as_mut().expect("not answered yet").room()
    }

    /// Answers with a body or with an error.
    pub(super) fn answer(mut self, result: Result<Body>) {
        match result {
            Ok(body) => {
                let bytes = body.bytes();
                match self.room().get_mut(..bytes.len()) {
                    Some(room) => {
                        room.copy_from_slice(bytes);
                        self.send(0, bytes.len());
                    }
                    None => self.send(libc::EIO, 0),
                }
            }
            Err(error) => self.send(error.raw(), 0),
        }
    }

    /// Answers with the first bytes of [`Self::room`], or with an error.
    pub(super) fn answer_in_place(mut self, result: Result<usize>) {
        match result {
            Ok(bytes) => self.send(0, bytes),
            Err(error) => self.send(error.raw(), 0),
        }
    }

    fn send(&mut self, error: i32, bytes: usize) {
        if let Some(mut lease) = self.lease.take() {
            lease.set_reply(self.header.unique, error, bytes);
            self.queue.put(lease);
        }
    }

    fn lease(&self) -> &Lease {
        self.lease.as_ref().expect("not answered yet")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.send(Errno::IO.raw(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::abi::{u32_at, u64_at};
    use crate::ring::sys::leases;

    /// Tickets of requests with the numbers 1, 2, ...
    fn tickets(queue: &Arc<Queue>, count: u16) -> Vec<Ticket> {
        let leases = leases(count).into_iter().enumerate();
        let numbered = leases.map(|(number, mut lease)| {
            lease.set_reply(number as u64 + 1, 0, 0); // `unique` is where a request has it.
            Ticket::new(queue, lease)
        });
        numbered.collect()
    }

    /// Number, error and size of the payload of each answer that is ready.
    fn answers(queue: &Queue) -> Vec<(u64, i32, usize)> {
        let mut ready = Vec::new();
        queue.take(&mut ready);
        let seen = ready.iter().map(|lease| {
            let header = lease.in_header();
            (u64_at(header, 8), u32_at(header, 4).cast_signed(), lease.payload().len())
        });
        seen.collect()
    }

    /// How often the queue's thread was woken.
    fn calls(queue: &Queue) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&queue.wake_up, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(0).expect("an eventfd"))
    }

    #[test]
    fn a_ticket_is_answered_once_and_never_forgotten() {
        let queue = queue();
        let mut tickets = tickets(&queue, 4).into_iter();
        let mut next = || tickets.next().expect("four");
        next().answer(Ok(Body::size(5)));
        next().answer(Err(Errno::NOENT));
        let mut read = next();
        read.room()[..3].copy_from_slice(b"abc");
        read.answer_in_place(Ok(3));
        let panicking = next();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _ticket = panicking;
            panic!("planned by the test");
        }));
        assert!(result.is_err());
        let (missing, broken) = ((2, -libc::ENOENT, 0), (4, -libc::EIO, 0));
        assert_eq!(answers(&queue), [(1, 0, 8), missing, (3, 0, 3), broken]);
        assert_eq!(answers(&queue), []);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error() {
        let queue = queue();
        tickets(&queue, 1).remove(0).answer(Ok(Body::data(vec![0; 4097])));
        assert_eq!(answers(&queue), [(1, -libc::EIO, 0)]);
    }

    #[test]
    fn a_queue_is_told_once_for_all_that_is_ready() {
        let queue = queue();
        for ticket in tickets(&queue, 3) {
            ticket.answer(Ok(Body::default()));
        }
        assert_eq!(calls(&queue), 1, "until its thread has come, it need not be told again");
        assert_eq!(answers(&queue).len(), 3);

        let two_groups = [tickets(&queue, 3), tickets(&queue, 2)];
        tell_by_groups(&[Arc::clone(&queue)], |tell| {
            for group in two_groups {
                group.into_iter().for_each(|ticket| ticket.answer(Ok(Body::default())));
                assert_eq!(calls(&queue), 0, "a group is told of as a whole");
                tell();
                assert_eq!(calls(&queue), 1);
                answers(&queue);
            }
        });
        assert_eq!(calls(&queue), 0, "nothing is ready");
    }

    #[test]
    fn its_own_thread_needs_no_telling() {
        let (own, other) = (queue(), Arc::new(Queue::new(1).expect("an eventfd")));
        own.belongs_to_this_thread();
        for queue in [&own, &other] {
            tickets(queue, 1).remove(0).answer(Ok(Body::default()));
        }
        TELLING.set(Telling::Now);
        assert_eq!((calls(&own), calls(&other)), (0, 1));
    }
}
