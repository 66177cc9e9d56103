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
        self.lock().ready.push(lease);
        match TELLING.get() {
            Telling::Later => {}
            Telling::NotOwn(number) if number == self.number => {}
            Telling::Now | Telling::NotOwn(_) => self.tell(),
        }
    }

    /// Wakes the queue's thread, once for however many answers are ready.
    fn tell(&self) {
        let mut answers = self.lock();
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

/// Runs `work`, which is given a function to call whenever a group has been answered:
/// only then are the queues' threads told.
pub(super) fn tell_by_groups(queues: &[Arc<Queue>], work: impl FnOnce(&mut dyn FnMut())) {
    let before = TELLING.replace(Telling::Later);
    let mut tell = || queues.iter().for_each(|queue| queue.tell());
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
