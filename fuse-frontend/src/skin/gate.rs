//! A gate in front of the handlers, to be closed while the daemon replaces itself.
//!
//! A request that meets the closed gate has been read and nothing of it was done. It stays
//! there with its worker. If the daemon goes on after all, so does the request; if the
//! program is replaced, the kernel sends it again (`FUSE_NOTIFY_RESEND`) to the successor.
//! So it is carried out exactly once. FORGET has no answer, and the kernel does not send it
//! again: it passes.
//!
//! Before it is closed it can be narrowed: nothing may be cut to nothing any more, so that
//! rewrites under way come to their end (what a restart cannot carry over is the copy of what
//! such a file held before).

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// See above.
#[derive(Default)]
pub(crate) struct Gate {
    /// [`OPEN`], [`NARROW`] or [`CLOSED`]: a visitor of a higher rank waits.
    width: AtomicU8,
    /// Handlers under way, and those of them that cut.
    inside: AtomicUsize,
    cutting: AtomicUsize,
    /// Workers at the closed gate.
    waiting: Mutex<usize>,
    opened: Condvar,
}

const OPEN: u8 = 0;
const NARROW: u8 = 1;
const CLOSED: u8 = 2;

/// Who comes to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// FORGET.
    Forget,
    /// Any other request.
    Plain,
    /// One that cuts a file to nothing.
    Cuts,
}

impl Visitor {
    const fn passes(self, width: u8) -> bool {
        match self {
            Self::Forget => true,
            Self::Plain => width < CLOSED,
            Self::Cuts => width < NARROW,
        }
    }
}

/// A handler under way.
pub(crate) struct Passage<'a>(&'a Gate, Visitor);

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.count(self.1, usize::wrapping_sub);
    }
}

impl Gate {
    /// Waits while the gate keeps this visitor out, for a worker.
    pub(crate) fn enter(&self, visitor: Visitor) -> Passage<'_> {
        self.enter_as(visitor, 1)
    }

    /// The same for a thread that is no worker, and does not count among those that
    /// [wait](Self::waiting).
    pub(crate) fn enter_apart(&self, visitor: Visitor) -> Passage<'_> {
        self.enter_as(visitor, 0)
    }

    fn enter_as(&self, visitor: Visitor, workers: usize) -> Passage<'_> {
        loop {
            // Counted first, looked second; who closes does it the other way round.
            self.count(visitor, usize::wrapping_add);
            let passage = Passage(self, visitor);
            if visitor.passes(self.width.load(Ordering::SeqCst)) {
                return passage;
            }
            drop(passage);
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            *waiting += workers;
            while !visitor.passes(self.width.load(Ordering::SeqCst)) {
                waiting = self.opened.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            *waiting -= workers;
        }
    }

    fn count(&self, visitor: Visitor, step: fn(usize, usize) -> usize) {
        let change = step(0, 1);
        self.inside.fetch_add(change, Ordering::SeqCst);
        if visitor == Visitor::Cuts {
            self.cutting.fetch_add(change, Ordering::SeqCst);
        }
    }

    /// Lets nothing in that cuts a file, and waits until `settled`, at most for `deadline`.
    pub(crate) fn narrow(&self, deadline: Duration, settled: impl Fn() -> bool) -> bool {
        let end = Instant::now() + deadline;
        self.width.store(NARROW, Ordering::SeqCst);
        // Who came in before has not begun yet, perhaps.
        while self.cutting.load(Ordering::SeqCst) > 0 || !settled() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Closes it and waits until no handler is under way; false, and open again, after
    /// `deadline`.
    pub(crate) fn close(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        self.width.store(CLOSED, Ordering::SeqCst);
        while self.inside.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= end {
                self.open();
                return false;
            }
            // A daemon closes it a few times in its life: no need for a wake-up by each handler.
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Workers that wait.
    pub(crate) fn waiting(&self) -> usize {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all in that wait.
    pub(crate) fn open(&self) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.width.store(OPEN, Ordering::SeqCst);
        self.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn a_closed_gate_keeps_requests_and_lets_forgets_pass() {
        let gate = Gate::default();
        let inside = gate.enter(Visitor::Plain);
        assert!(!gate.close(SOON), "a handler is under way");
        drop(inside);
        assert!(gate.close(SOON));
        std::thread::scope(|scope| {
            let request = scope.spawn(|| drop(gate.enter(Visitor::Plain)));
            drop(gate.enter(Visitor::Forget));
            while gate.waiting() == 0 {
                std::thread::yield_now();
            }
            assert!(!request.is_finished());
            gate.open();
            request.join().expect("it goes on");
        });
        assert_eq!(gate.waiting(), 0);
        assert!(gate.close(SOON), "nobody is inside");
    }

    /// A request that waits for a large file stood at the gate by a thread of its own, and counted as a
    /// worker: a restart then took a worker that was still reading for one that stood there.
    #[test]
    fn who_waits_apart_is_no_worker() {
        let gate = Gate::default();
        assert!(gate.close(SOON));
        std::thread::scope(|scope| {
            let apart = scope.spawn(|| drop(gate.enter_apart(Visitor::Plain)));
            std::thread::sleep(SOON);
            assert_eq!(gate.waiting(), 0);
            assert!(!apart.is_finished());
            gate.open();
            apart.join().expect("it goes on");
        });
    }

    #[test]
    fn a_narrow_gate_keeps_those_out_that_cut() {
        let gate = Gate::default();
        assert!(!gate.narrow(SOON, || false), "nothing settles");
        drop(gate.enter(Visitor::Plain));
        std::thread::scope(|scope| {
            let cuts = scope.spawn(|| drop(gate.enter(Visitor::Cuts)));
            while gate.waiting() == 0 {
                std::thread::yield_now();
            }
            assert!(gate.narrow(SOON, || true) && gate.close(SOON));
            assert!(!cuts.is_finished());
            gate.open();
            cuts.join().expect("it goes on");
        });
    }
}
