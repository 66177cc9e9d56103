//! What a request makes necessary and somebody has to do: lead, or carry it alone.

use std::sync::Arc;

use super::{Lanes, Parked};
use crate::platform::Backing;

/// Work that waits for the disk, owed to requests that are parked already. Dropped
/// without being run, it is run then: the parked rely on it.
#[must_use = "requests are parked until it is run"]
pub struct Duty<B: Backing> {
    lanes: Arc<Lanes<B>>,
    work: Option<Work<B>>,
}

enum Work<B: Backing> {
    /// Carry groups until nothing is pending.
    Lead,
    /// Carry what the queue had no room for.
    Alone(Vec<Parked<B>>),
}

impl<B: Backing> Duty<B> {
    pub(super) fn lead(lanes: Arc<Lanes<B>>) -> Self {
        Self { lanes, work: Some(Work::Lead) }
    }

    pub(super) fn carry_alone(lanes: Arc<Lanes<B>>, parked: Vec<Parked<B>>) -> Self {
        Self { lanes, work: Some(Work::Alone(parked)) }
    }

    /// Whether it is to lead, which one thread does at a time and for as long as
    /// requests come. Otherwise it is one fence, and several may run at once.
    #[must_use]
    pub fn is_to_lead(&self) -> bool {
        matches!(self.work, Some(Work::Lead))
    }

    /// Does it, on the calling thread. `after_group` is called whenever all
    /// completions of a group have been, so that answers can be sent together.
    pub fn run(mut self, after_group: &mut dyn FnMut()) {
        self.run_once(after_group);
    }

    fn run_once(&mut self, after_group: &mut dyn FnMut()) {
        match self.work.take() {
            Some(Work::Lead) => self.lanes.lead(after_group),
            Some(Work::Alone(parked)) => {
                self.lanes.carry_alone(parked);
                after_group();
            }
            None => {}
        }
    }
}

impl<B: Backing> Drop for Duty<B> {
    fn drop(&mut self) {
        self.run_once(&mut || {});
    }
}
