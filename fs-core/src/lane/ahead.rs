//! Files that would hold up everybody in their group are written by threads of their own before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::policy::WriterId;
use super::{Completion, Lanes};
use crate::fence::SyncRequest;
use crate::platform::Backing;
use crate::thread;

/// Threads that do so at the same time; more requests go to their group as they are.
const AHEAD_THREADS_MAX: usize = 16;

impl<B: Backing> Lanes<B> {
    /// Writes a request's file ahead of its group if that takes long, for a thread that may wait
    /// and submits it then.
    pub(crate) fn write_ahead(&self, request: &SyncRequest<B>) {
        if request.takes_long() {
            self.lock().stats.written_ahead += 1;
            request.write_ahead();
        }
    }

    /// Has a thread of its own do so and submit the request then. Gives it back if there can be none.
    pub(super) fn submit_later(
        self: &Arc<Self>,
        writer: WriterId,
        request: SyncRequest<B>,
        done: Completion,
    ) -> Option<(SyncRequest<B>, Completion)> {
        if !self.begin_ahead() {
            return Some((request, done));
        }
        let lanes = Arc::clone(self);
        let carry = move |(request, done): (SyncRequest<B>, Completion)| {
            // A panic must not keep it from its group.
            if catch_unwind(AssertUnwindSafe(|| request.write_ahead())).is_err() {
                tracing::error!("writing a file ahead of its group panicked");
            }
            let duty = lanes.submit_deferred(writer, request, done);
            // Whoever waits for the lanes to be empty waits for what is parked now.
            lanes.end_ahead();
            duty.into_iter().for_each(|duty| lanes.see_to(duty));
        };
        let left = thread::hand_over("lanefs-ahead", (request, done), carry);
        left.inspect(|_| self.end_ahead())
    }

    fn begin_ahead(&self) -> bool {
        let mut state = self.lock();
        let has_room = state.ahead < AHEAD_THREADS_MAX;
        state.ahead += usize::from(has_room);
        state.stats.written_ahead += u64::from(has_room);
        has_room
    }

    fn end_ahead(&self) {
        self.lock().ahead -= 1;
        self.empty.notify_all();
    }
}
