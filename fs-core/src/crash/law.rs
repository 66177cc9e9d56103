//! A model applied to one trace: which crashes are legal, and what each looks like.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;

use super::model::{Atom, Model, Rules, SyncPoint, recorded_syncs};
use super::state::{Blocks, State, Torn};
use super::steps::Steps;
use super::trace::{Operation, Trace};

/// A crash: what was done, and what of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// Operations before this one were answered.
    pub at: usize,
    /// Atoms that are kept.
    pub kept: FixedBitSet,
    /// A kept step whose bytes are not all there.
    pub torn: Option<(u32, Torn)>,
}

/// A trace in the forms that planning needs, and the tree before it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The trace as steps.
    pub log: Steps<'a>,
    initial: State,
    /// Number of acknowledgements before each operation, and of all.
    told: Vec<u32>,
    /// The undisturbed tree after every `stride` steps.
    snapshots: Vec<State>,
    stride: usize,
}

/// How many states of the undisturbed tree are kept, to begin from.
const SNAPSHOTS_MAX: usize = 256;

impl<'a> Subject<'a> {
    /// Takes a trace apart.
    #[must_use]
    pub fn new(trace: &'a Trace, blocks: &mut Blocks) -> Self {
        let log = Steps::new(trace);
        let initial = State::initial(&log, blocks);
        let mut told = vec![0];
        for recorded in &trace.operations {
            let is_told = matches!(recorded.operation, Operation::Ack { .. });
            told.push(told.last().expect("begins with one") + u32::from(is_told));
        }
        let stride = log.steps.len().div_ceil(SNAPSHOTS_MAX).max(1);
        let (mut snapshots, mut state) = (Vec::new(), initial.clone());
        for (number, step) in log.steps.iter().enumerate() {
            if number % stride == 0 {
                snapshots.push(state.clone());
            }
            state.apply(&log, blocks, number as u32, step);
        }
        Self { log, initial, told, snapshots, stride }
    }

    /// How many acknowledgements there were before an operation.
    #[must_use]
    pub fn told(&self, at: usize) -> u32 {
        self.told[at]
    }

    /// The tree before the first operation.
    #[must_use]
    pub fn initial(&self) -> &State {
        &self.initial
    }

    /// The tree after all operations.
    #[must_use]
    pub fn last(&self, blocks: &mut Blocks) -> State {
        let mut state = self.initial.clone();
        for (number, step) in self.log.steps.iter().enumerate() {
            state.apply(&self.log, blocks, number as u32, step);
        }
        state
    }
}

/// A model's rules for one trace, and what its syncs cover.
pub struct Law<'m> {
    /// The model.
    pub model: &'m dyn Model,
    /// Its rules.
    pub rules: Rules,
    /// What each sync covers, by the first moment of a crash after its answer.
    syncs: BTreeMap<usize, Vec<u32>>,
}

impl<'m> Law<'m> {
    /// The law of a model for a trace.
    #[must_use]
    pub fn new(model: &'m dyn Model, log: &Steps<'_>) -> Self {
        Self::with_syncs(model, log, &recorded_syncs(log))
    }

    /// As [`Self::new`], as if these had been the syncs. A recorded sync of operation `n`
    /// covers what was before `n`.
    #[must_use]
    pub fn with_syncs(model: &'m dyn Model, log: &Steps<'_>, recorded: &[SyncPoint]) -> Self {
        let rules = model.rules(log);
        let mut syncs: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let implied = model.implied_syncs(log);
        for &sync in recorded.iter().chain(&implied) {
            syncs.entry(sync.from).or_default().extend(model.cover(log, &rules, sync));
        }
        Self { model, rules, syncs }
    }

    /// Adds a sync that was not recorded.
    pub fn add(&mut self, log: &Steps<'_>, sync: SyncPoint) {
        let covered = self.model.cover(log, &self.rules, sync);
        self.syncs.entry(sync.from).or_default().extend(covered);
    }

    /// No atoms, of the right number.
    #[must_use]
    pub fn nothing(&self) -> FixedBitSet {
        FixedBitSet::with_capacity(self.rules.atoms.len())
    }

    /// What must be there after a crash at `at`.
    #[must_use]
    pub fn forced(&self, at: usize) -> FixedBitSet {
        let mut forced = self.nothing();
        for atom in self.syncs.range(..=at).flat_map(|(_, atoms)| atoms) {
            forced.insert(*atom as usize);
        }
        forced
    }

    /// Everything that was done before `at`.
    #[must_use]
    pub fn prefix(&self, at: usize) -> FixedBitSet {
        let mut all = self.nothing();
        all.insert_range(..self.rules.end(at) as usize);
        all
    }

    /// Whether a crash may look so.
    #[must_use]
    pub fn allows(&self, crash: &Crash) -> bool {
        let forced = self.forced(crash.at);
        let end = self.rules.end(crash.at) as usize;
        let within = crash.kept.ones().all(|atom| atom < end);
        let closed = crash.kept.ones().filter(|atom| !forced.contains(*atom)).all(|atom| {
            self.rules.needs[atom].iter().all(|other| crash.kept.contains(*other as usize))
        });
        // What is durable is whole.
        let whole = crash
            .torn
            .is_none_or(|(step, _)| !forced.contains(self.rules.atom_of[step as usize] as usize));
        within && closed && whole && forced.is_subset(&crash.kept)
    }

    /// What a crash looks like.
    #[must_use]
    pub fn state(&self, subject: &Subject<'_>, blocks: &mut Blocks, crash: &Crash) -> State {
        let log = &subject.log;
        let end = self.rules.end(crash.at) as usize;
        let missing = (0..end).find(|atom| !crash.kept.contains(*atom)).unwrap_or(end);
        let torn = crash.torn.map(|(step, _)| step as usize);
        // Atoms of one operation may be in another order than its steps, and may have
        // steps of earlier operations.
        let missing = self.rules.atoms.get(missing);
        let first = |atom: &Atom| log.steps[atom.steps[0] as usize].operation;
        let missing = missing.map(|atom| log.first[first(atom) as usize] as usize);
        let whole = missing.unwrap_or(log.steps.len()).min(torn.unwrap_or(usize::MAX));
        let place = (whole / subject.stride).min(subject.snapshots.len().saturating_sub(1));
        let (mut state, from) = match subject.snapshots.get(place) {
            Some(snapshot) => (snapshot.clone(), place * subject.stride),
            None => (subject.initial.clone(), 0),
        };
        for number in from..log.steps.len() {
            let atom = self.rules.atom_of[number] as usize;
            if atom >= end {
                continue;
            }
            if !crash.kept.contains(atom) {
                continue;
            }
            let step = &log.steps[number];
            match crash.torn {
                Some((of, torn)) if of as usize == number => {
                    state.apply_torn(log, blocks, step, torn);
                }
                _ => state.apply(log, blocks, number as u32, step),
            }
        }
        state
    }
}
