//! Who was promised what, and when, in the disk's own time.
//!
//! A *step* is one operation of one *actor* with whatever it does to be durable. When it returns it
//! is acknowledged: noted with the disk's position read *afterwards*, so that a cut at or beyond that
//! position must not undo it. Its begin is noted with the position read *before*: a step that begins
//! beyond a cut cannot have left anything.
//!
//! With a log a sync promises more than its own file: every operation that had returned before the
//! sync was called, whoever's it was, is *covered* by it. The disk's position cannot tell what had
//! returned (unsynced operations write nothing), so begin and end of each step also get a number
//! from one counter.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::snapshot::Snapshot;
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
    /// that no sync followed), failed, or was under way at the end.
    pub acked: Option<Position>,
    /// When it was called, and when it returned well: numbers of one counter for all actors.
    pub called: u64,
    /// The latter.
    pub returned: Option<u64>,
    /// Whether a log makes it promise everything that had returned before it was called.
    pub covers: bool,
    /// The disk refused something while it was under way.
    pub shaken: bool,
}

/// What a step promises when it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    Nothing,
    Itself,
    Everything,
}

/// Taken down while a workload runs.
#[derive(Clone)]
pub struct Notes<'a> {
    // None: a run that nobody will cut.
    disk: Option<&'a Disk>,
    steps: Arc<Mutex<Vec<Ack>>>,
    clock: Arc<AtomicU64>,
    /// Added to the numbers of actors: several programs share a page.
    first_actor: u32,
}

impl<'a> Notes<'a> {
    /// An empty page for a workload on `disk`.
    pub fn new(disk: &'a Disk) -> Self {
        Notes { disk: Some(disk), ..Self::without_disk() }
    }

    /// A page for a run on no disk of ours: every position is 0.
    pub fn without_disk() -> Self {
        Notes { disk: None, steps: Arc::default(), clock: Arc::default(), first_actor: 0 }
    }

    /// The same page, for a program whose actors are counted from `first_actor` on.
    #[must_use]
    pub fn shifted(&self, first_actor: u32) -> Self {
        Notes { first_actor: self.first_actor + first_actor, ..self.clone() }
    }

    /// Runs a step that is acknowledged when it returns well.
    pub fn acked<E>(
        &self,
        actor: u32,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actor..actor + 1, step, Promise::Itself, run)
    }

    /// Runs a step that is one of all these actors at once, such as a `syncfs`.
    pub fn acked_for<E>(
        &self,
        actors: Range<u32>,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actors, step, Promise::Itself, run)
    }

    /// Runs a step that ends with a sync which, with a log, also promises every operation that had
    /// returned before.
    pub fn covering<E>(
        &self,
        actor: u32,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actor..actor + 1, step, Promise::Everything, run)
    }

    /// Runs a step that promises nothing.
    pub fn unacked<E>(
        &self,
        actor: u32,
        step: u64,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.step(actor..actor + 1, step, Promise::Nothing, run)
    }

    fn step<E>(
        &self,
        actors: Range<u32>,
        step: u64,
        promise: Promise,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let tick = || self.clock.fetch_add(1, Ordering::SeqCst);
        let position = || self.disk.map_or(Position(0), Disk::position);
        let failures = || self.disk.map_or(0, |disk| disk.counters().failures);
        let (failed_before, begun) = (failures(), position());
        let called = tick();
        let result = run();
        let returned = result.is_ok().then(tick);
        let acked = (promise != Promise::Nothing && result.is_ok()).then(position);
        let covers = promise == Promise::Everything;
        let shaken = failures() > failed_before;
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        for actor in actors {
            let actor = self.first_actor + actor;
            steps.push(Ack { actor, step, begun, acked, called, returned, covers, shaken });
        }
        result
    }

    /// How many steps were taken down so far.
    pub fn count(&self) -> usize {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).len()
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

    /// The same without the acknowledgements of steps that were under way while the disk failed.
    #[must_use]
    pub fn without_shaken(mut self) -> Self {
        for step in self.steps.iter_mut().filter(|step| step.shaken) {
            step.acked = None;
        }
        self
    }

    /// What a cut at `position` must have kept.
    pub fn at(&self, position: Position) -> Promised {
        let is_acked = |step: &Ack| step.acked.is_some_and(|acked| acked <= position);
        // The last sync that counts was called when this was the time: what had returned is covered.
        let covering = self.steps.iter().filter(|step| step.covers && is_acked(step));
        let covered_until = covering.map(|step| step.called).max().unwrap_or(0);
        let mut actors: BTreeMap<u32, Progress> = BTreeMap::new();
        for step in self.steps.iter().filter(|step| step.begun <= position) {
            let progress = actors.entry(step.actor).or_default();
            progress.begun = progress.begun.max(step.step);
            if is_acked(step) {
                progress.acked = progress.acked.max(step.step);
            }
            if step.returned.is_some_and(|returned| returned < covered_until) || is_acked(step) {
                progress.covered = progress.covered.max(step.step);
            }
        }
        Promised { actors, ..Promised::default() }
    }
}

/// How far an actor had got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The last acknowledged step; 0 for none.
    pub acked: u64,
    /// The last step that had begun.
    pub begun: u64,
    /// With a log: the last step whose operation an acknowledged sync covers. Otherwise as `acked`.
    pub covered: u64,
}

/// What must be there, by actor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promised {
    actors: BTreeMap<u32, Progress>,
    /// The promises of the log count, and not only those of a filesystem.
    pub log: bool,
    /// What was closed, and names, are promised: the modes `close` and `always`.
    pub at_close: bool,
    /// Some files were rewritten without a copy of what they held, and the mount counts it.
    pub without_copy: bool,
    /// The disk failed: who left a directory as it is in [`Self::left`] was told so.
    pub refused: bool,
    /// Directories below the tree that must be exactly as they were seen; "" is the tree.
    pub exact: Vec<(String, Arc<Snapshot>)>,
    /// Directories as they were when a daemon died or a program was told that its write failed: what
    /// was being rewritten may be so, too.
    pub left: Vec<(String, Arc<Snapshot>)>,
}

impl Promised {
    /// How far this actor had got.
    pub fn of(&self, actor: u32) -> Progress {
        let progress = self.actors.get(&actor).copied().unwrap_or_default();
        if self.log { progress } else { Progress { covered: progress.acked, ..progress } }
    }

    /// All actors that had begun anything.
    pub fn actors(&self) -> impl Iterator<Item = (u32, Progress)> + '_ {
        self.actors.keys().map(|actor| (*actor, self.of(*actor)))
    }

    /// The same where the log's promises count, or do not.
    #[must_use]
    pub fn under_log(self, log: bool) -> Self {
        Promised { log, ..self }
    }

    /// The same where what was closed is promised, or is not.
    #[must_use]
    pub fn promised_at_close(self, at_close: bool) -> Self {
        Promised { at_close, ..self }
    }

    /// The same with directories that must also be exactly so.
    #[must_use]
    pub fn exactly(
        mut self,
        directories: impl IntoIterator<Item = (String, Arc<Snapshot>)>,
    ) -> Self {
        self.exact.extend(directories);
        self
    }

    /// The same where files may have been rewritten without a copy.
    #[must_use]
    pub fn perhaps_without_copy(self, without_copy: bool) -> Self {
        Promised { without_copy, ..self }
    }

    /// The same where programs may have been told that their writes failed.
    #[must_use]
    pub fn perhaps_refused(self, refused: bool) -> Self {
        Promised { refused, ..self }
    }

    /// A program of this directory was told that its write failed: what it has not synced since may
    /// be lost, whatever others have synced.
    pub fn was_refused(&self) -> bool {
        self.refused && !self.left.is_empty()
    }

    /// The same with directories that a daemon which died may have left so.
    #[must_use]
    pub fn or_left(
        mut self,
        directories: impl IntoIterator<Item = (String, Arc<Snapshot>)>,
    ) -> Self {
        self.left.extend(directories);
        self
    }

    /// A file held this when the daemon died under the program that wrote it.
    pub fn was_left(&self, path: &str, content: &[u8]) -> bool {
        self.left.iter().any(|(_, seen)| seen.held(path, content))
    }

    /// The actors of one program of several, counted from 0, in a directory of its own.
    #[must_use]
    pub fn shifted(&self, actors: Range<u32>, directory: &str) -> Self {
        let first = actors.start;
        let actors = self.actors.range(actors).map(|(actor, p)| (actor - first, *p)).collect();
        let left = self.left.iter().filter(|(path, _)| path == directory);
        let left = left.map(|(_, seen)| (String::new(), Arc::clone(seen))).collect();
        Promised { actors, exact: Vec::new(), left, ..*self }
    }

    /// Equal promises of one recording have an equal digest.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.actors.hash(&mut hasher);
        (self.log, self.at_close, self.without_copy, self.refused).hash(&mut hasher);
        for (directory, snapshot) in self.exact.iter().chain(&self.left) {
            (directory, Arc::as_ptr(snapshot)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// For the file of a kept case.
    pub fn to_json(&self) -> Value {
        let actors = self.actors.iter();
        let actors: Vec<_> =
            actors.map(|(actor, p)| json!([actor, p.acked, p.begun, p.covered])).collect();
        let directories = |list: &[(String, Arc<Snapshot>)]| {
            let directories = list.iter().map(|(path, seen)| json!([path, seen.to_json()]));
            Value::Array(directories.collect())
        };
        json!({
            "actors": actors,
            "log": self.log,
            "at_close": self.at_close,
            "without_copy": self.without_copy,
            "refused": self.refused,
            "exact": directories(&self.exact),
            "left": directories(&self.left),
        })
    }

    /// The inverse of [`Promised::to_json`]; takes what earlier versions wrote, too.
    pub fn from_json(value: &Value) -> Option<Self> {
        let actor = |entry: &Value| {
            let number = |index: usize| entry.get(index)?.as_u64();
            let (acked, begun) = (number(1)?, number(2)?);
            let covered = number(3).unwrap_or(acked);
            Some((u32::try_from(number(0)?).ok()?, Progress { acked, begun, covered }))
        };
        let actors = |list: &Value| list.as_array()?.iter().map(actor).collect::<Option<_>>();
        if value.is_array() {
            return Some(Promised { actors: actors(value)?, ..Promised::default() });
        }
        let directory = |entry: &Value| {
            let snapshot = Snapshot::from_json(entry.get(1)?)?;
            Some((entry.get(0)?.as_str()?.to_owned(), Arc::new(snapshot)))
        };
        let directories =
            |list: &Value| list.as_array()?.iter().map(directory).collect::<Option<Vec<_>>>();
        let exact = directories(&value["exact"])?;
        let left = directories(&value["left"]).unwrap_or_default();
        let is = |name: &str| value[name].as_bool() == Some(true);
        Some(Promised {
            actors: actors(&value["actors"])?,
            log: value["log"].as_bool()?,
            at_close: is("at_close"),
            without_copy: is("without_copy"),
            refused: is("refused"),
            exact,
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(actor: u32, step: u64, begun: u64, acked: Option<u64>) -> Ack {
        let (begun, acked) = (Position(begun), acked.map(Position));
        Ack { actor, step, begun, acked, called: 0, returned: None, covers: false, shaken: false }
    }

    fn progress(acked: u64, begun: u64, covered: u64) -> Progress {
        Progress { acked, begun, covered }
    }

    #[test]
    fn a_cut_keeps_what_was_acknowledged_before_it() {
        let steps = vec![step(1, 1, 0, Some(5)), step(1, 2, 5, None), step(1, 3, 6, Some(9))];
        let history = History { steps };
        let at = |position| history.at(Position(position)).of(1);
        assert_eq!(at(4), progress(0, 1, 0));
        assert_eq!(at(5), progress(1, 2, 1));
        assert_eq!(at(8), progress(1, 3, 1));
        assert_eq!(at(9), progress(3, 3, 3));
        assert_eq!(history.at(Position(9)).of(2), Progress::default());
        let promised = history.at(Position(8));
        assert_eq!(Promised::from_json(&promised.to_json()), Some(promised));
    }

    #[test]
    fn an_acknowledged_sync_covers_what_had_returned_before_it_was_called() {
        let timed = |ack: Ack, called, returned| Ack { called, returned, ..ack };
        let steps = vec![
            timed(step(1, 1, 0, None), 0, Some(1)),
            timed(step(1, 2, 0, None), 2, Some(5)),
            Ack { covers: true, ..timed(step(2, 1, 0, Some(7)), 4, Some(6)) },
            timed(step(1, 3, 0, None), 7, Some(8)),
            Ack { covers: true, ..timed(step(2, 2, 7, Some(9)), 9, Some(10)) },
        ];
        let history = History { steps };
        let at = |position| history.at(Position(position)).under_log(true);
        assert_eq!(at(6).of(1), progress(0, 3, 0));
        assert_eq!(at(7).of(1), progress(0, 3, 1), "the second returned too late");
        assert_eq!(at(9).of(1), progress(0, 3, 3));
        assert_eq!(history.at(Position(9)).of(1), progress(0, 3, 0), "no log, no cover");
        assert_ne!(at(7).digest(), at(9).digest());
    }

    #[test]
    fn cases_of_earlier_versions_are_understood() {
        let promised = Promised::from_json(&json!([[3, 5, 6]])).expect("a list of actors");
        assert_eq!(promised.of(3), progress(5, 6, 5));
        assert!(!promised.log);
    }
}
