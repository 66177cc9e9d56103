//! Threads that are not ours: they lead for as long as their own requests take, and no
//! longer.
//!
//! A worker of a front-end that leads goes on until nothing is pending: leading is its
//! work. A thread of a program that uses the engine as a library must get its answer, and
//! may not come back for long. So when its own requests are answered it hands the lead
//! over: to a thread that waits for requests of its own, else to whomever it can find
//! (a new thread). Only if there is nobody it goes on.

use std::sync::{Arc, PoisonError};

use super::policy::WriterId;
use super::{Brought, Completion, Duty, Lanes, Parked};
use crate::fence::SyncRequest;
use crate::platform::Backing;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A thread that has brought requests.
pub(super) struct Waiter {
    state: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    /// Requests that are not answered.
    left: usize,
    /// It shall lead.
    leads: bool,
}

impl Waiter {
    fn new(requests: usize) -> Arc<Self> {
        let state = Waiting { left: requests, leads: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn answered(&self) {
        let mut state = self.lock();
        state.left -= 1;
        if state.left == 0 {
            self.changed.notify_one();
        }
    }

    fn is_done(&self) -> bool {
        self.lock().left == 0
    }

    /// Has it lead, unless it waits no more: whether it does.
    fn lead(&self) -> bool {
        let mut state = self.lock();
        state.leads = state.left > 0;
        self.changed.notify_one();
        state.leads
    }

    /// Waits until all is answered, or until it shall lead: whether that is so.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.left > 0 && !state.leads {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.leads)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backing> Lanes<B> {
    /// As [`Self::submit`] for requests that leave together as far as a group has room,
    /// from a thread that leads only until they are answered. With `waits` it returns when
    /// they are; else at once if another thread leads.
    ///
    /// `relieve` has another thread call [`Self::go_on_leading`]: whether there is one.
    /// If duties are run elsewhere, the calling thread leads not at all.
    pub fn submit_own(
        self: &Arc<Self>,
        writer: WriterId,
        requests: Vec<(SyncRequest<B>, Completion)>,
        waits: bool,
        relieve: &dyn Fn() -> bool,
    ) {
        let waiter = Waiter::new(requests.len());
        let telling = |(request, done): (SyncRequest<B>, Completion)| {
            let waiter = Arc::clone(&waiter);
            let told = Told(waiter);
            let done = move |result| {
                let _told = told;
                done(result);
            };
            Parked { request, done: Box::new(done) }
        };
        let requests = requests.into_iter().map(telling);
        let waiting = waits.then(|| Arc::clone(&waiter));
        let Brought { leads, beyond } = self.park(writer, requests, waiting);
        // First: it is not done, and does not hand the lead over, before they are.
        if !beyond.is_empty() {
            self.see_to(Duty::carry_alone(Arc::clone(self), beyond));
        }
        if leads {
            match self.elsewhere.get() {
                Some(run) => run(Duty::lead(Arc::clone(self))),
                None => self.lead_until_done(&waiter, relieve),
            }
        }
        if !waits {
            return;
        }
        while waiter.wait() {
            self.lead_until_done(&waiter, relieve);
        }
        self.lock().waiters.retain(|other| !Arc::ptr_eq(other, &waiter));
    }

    /// Leads in place of a thread that has handed the lead over.
    pub fn go_on_leading(&self) {
        self.lead(&mut || {});
    }

    fn lead_until_done(&self, waiter: &Waiter, relieve: &dyn Fn() -> bool) {
        while let Some(group) = self.next_group() {
            self.carry(group);
            if waiter.is_done() && self.hand_over(relieve) {
                return;
            }
        }
    }

    /// Has another thread lead, if something is pending; whether one does.
    fn hand_over(&self, relieve: &dyn Fn() -> bool) -> bool {
        let mut state = self.lock();
        if state.pending.is_empty() {
            return false;
        }
        while let Some(next) = state.waiters.pop_front() {
            if next.lead() {
                return true;
            }
        }
        drop(state);
        relieve()
    }
}

/// Tells a waiter that a request is answered, also if the completion panics.
struct Told(Arc<Waiter>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.answered();
    }
}
