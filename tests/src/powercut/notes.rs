//! Who was promised what, and when, in the disk's own time.
//!
//! A *step* is one operation of one *actor* with whatever it does to be durable. When it returns it
//! is acknowledged: noted with the disk's position read *afterwards*, so that a cut at or beyond that
//! position must not undo it. Its begin is noted with the position read *before*: a step that begins
//! beyond a cut cannot have left anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::disk::{Disk, Position};

/// One step of one actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Whose.
    pub actor: u32,
    /// Which: 1, 2, 3 ...
    pub step: u64,
    /// Where the record was when it began.
    pub begun: Position,
    /// Where the record was when it was acknowledged; none if it promises nothing by itself (a write
    /// that no sync followed) or was under way at the end.
    pub acked: Option<Position>,
}

/// Taken down while a workload runs.
#[derive(Clone)]
pub struct Notes<'a> {
    disk: &'a Disk,
    steps: Arc<Mutex<Vec<Ack>>>,
    /// Added to the numbers of actors: several programs share a page.
    first_actor: u32,
}

impl<'a> Notes<'a> {
    /// An empty page for a workload on `disk`.
    pub fn new(disk: &'a Disk) -> Self {
        Notes { disk, steps: Arc::default(), first_actor: 0 }
    }

    /// The same page, for a program whose actors are counted from `first_actor` on.
    #[must_use]
    pub fn shifted(&self, first_actor: u32) -> Self {
        Notes { first_actor, ..self.clone() }
    }

    /// Runs a step that is acknowledged when it returns well.
    pub fn acked<E>(
        &self,
        actor: u32,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actor, step, true, run)
    }

    /// Runs a step that promises nothing.
    pub fn unacked<E>(
        &self,
        actor: u32,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actor, step, false, run)
    }

    fn step<E>(
        &self,
        actor: u32,
        step: u64,
        promises: bool,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let begun = self.disk.position();
        let result = run();
        let acked = (promises && result.is_ok()).then(|| self.disk.position());
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push(Ack { actor: self.first_actor + actor, step, begun, acked });
        result
    }

    /// What was taken down.
    pub fn history(&self) -> History {
        History { steps: self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}

/// All steps of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    steps: Vec<Ack>,
}

impl History {
    /// All of it.
    pub fn steps(&self) -> &[Ack] {
        &self.steps
    }

    /// What a cut at `position` must have kept.
    pub fn at(&self, position: Position) -> Promised {
        let mut actors: BTreeMap<u32, Progress> = BTreeMap::new();
        for step in self.steps.iter().filter(|step| step.begun <= position) {
            let progress = actors.entry(step.actor).or_default();
            progress.begun = progress.begun.max(step.step);
            if step.acked.is_some_and(|acked| acked <= position) {
                progress.acked = progress.acked.max(step.step);
            }
        }
        Promised { actors }
    }
}

/// How far an actor had got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last acknowledged step; 0 for none.
    pub acked: u64,
    /// The last step that had begun.
    pub begun: u64,
}

/// What must be there, by actor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    actors: BTreeMap<u32, Progress>,
}

impl Promised {
    /// How far this actor had got.
    pub fn of(&self, actor: u32) -> Progress {
        self.actors.get(&actor).copied().unwrap_or_default()
    }

    /// The actors of one program of several, counted from 0.
    #[must_use]
    pub fn shifted(&self, actors: std::ops::Range<u32>) -> Self {
        let first = actors.start;
        let actors = self.actors.range(actors).map(|(actor, p)| (actor - first, *p)).collect();
        Promised { actors }
    }

    /// For the file of a kept case.
    pub fn to_json(&self) -> Value {
        let actors = self.actors.iter().map(|(actor, p)| json!([actor, p.acked, p.begun]));
        Value::Array(actors.collect())
    }

    /// The inverse of [`Promised::to_json`].
    pub fn from_json(value: &Value) -> Option<Self> {
        let actor = |entry: &Value| {
            let number = |index: usize| entry.get(index)?.as_u64();
            let progress = Progress { acked: number(1)?, begun: number(2)? };
            Some((u32::try_from(number(0)?).ok()?, progress))
        };
        let actors = value.as_array()?.iter().map(actor).collect::<Option<_>>()?;
        Some(Promised { actors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(actor: u32, step: u64, begun: u64, acked: Option<u64>) -> Ack {
        Ack { actor, step, begun: Position(begun), acked: acked.map(Position) }
    }

    #[test]
    fn a_cut_keeps_what_was_acknowledged_before_it() {
        let steps = vec![step(1, 1, 0, Some(5)), step(1, 2, 5, None), step(1, 3, 6, Some(9))];
        let history = History { steps };
        let at = |position| history.at(Position(position)).of(1);
        assert_eq!(at(4), Progress { acked: 0, begun: 1 });
        assert_eq!(at(5), Progress { acked: 1, begun: 2 });
        assert_eq!(at(8), Progress { acked: 1, begun: 3 });
        assert_eq!(at(9), Progress { acked: 3, begun: 3 });
        assert_eq!(history.at(Position(9)).of(2), Progress::default());
        let promised = history.at(Position(8));
        assert_eq!(Promised::from_json(&promised.to_json()), Some(promised));
    }
}
