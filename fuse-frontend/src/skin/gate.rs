//! A gate in front of the handlers, to be closed while the daemon replaces itself.
//!
//! A request that meets the closed gate has been read and nothing of it was done. It stays
//! there with its worker. If the daemon goes on after all, so does the request; if the
//! program is replaced, the kernel sends it again (`FUSE_NOTIFY_RESEND`) to the successor.
//! So it is carried out exactly once. FORGET has no answer, and the kernel does not send it
//! again: it passes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// See above.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    /// Handlers under way.
    inside: AtomicUsize,
    /// Requests at the closed gate.
    waiting: Mutex<usize>,
    opened: Condvar,
}

/// A handler under way.
pub(crate) struct Passage<'a>(&'a Gate);

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Waits while the gate is closed, unless `passes`.
    pub(crate) fn enter(&self, passes: bool) -> Passage<'_> {
        loop {
            // Counted first, looked second; who closes does it the other way round.
            self.inside.fetch_add(1, Ordering::SeqCst);
            let passage = Passage(self);
            if passes || !self.closed.load(Ordering::SeqCst) {
                return passage;
            }
            drop(passage);
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            *waiting += 1;
            while self.closed.load(Ordering::SeqCst) {
                waiting = self.opened.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            *waiting -= 1;
        }
    }

    /// Closes it and waits until no handler is under way; false, and open again, after
    /// `deadline`.
    pub(crate) fn close(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        self.closed.store(true, Ordering::SeqCst);
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

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all in that wait.
    pub(crate) fn open(&self) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(false, Ordering::SeqCst);
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
        let inside = gate.enter(false);
        assert!(!gate.close(SOON), "a handler is under way");
        drop(inside);
        assert!(gate.close(SOON));
        std::thread::scope(|scope| {
            let request = scope.spawn(|| drop(gate.enter(false)));
            drop(gate.enter(true));
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
}
