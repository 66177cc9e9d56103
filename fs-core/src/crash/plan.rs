//! Which crash states are worth a check: few, and those that find something.
//!
//! | | strategy | finds |
//! | --- | --- | --- |
//! | S0 | a prefix of everything | changes that take several calls |
//! | S1 | only what was synced | what should have been synced |
//! | S2 | all but one atom and what needs it | order that was taken for granted |
//! | S3 | what was synced and one atom more | a name published too early |
//! | S4 | one block torn | writes taken for atomic |
//! | S5 | nothing unsynced of one file, of one directory | a file or directory never synced |
//! | S6 | every legal set, where few atoms are unsynced; else random ones | the rest |
//!
//! Crashes of the recovery (S8 of the research) need recordings of it: see the front-end.
//! Pairs of losses around a failure (S7) are not tried: first-order states have shown
//! every mistake that was known before.
//!
//! Two crashes that leave equal trees are one state. Of two that differ only in what had
//! been acknowledged, only the one with more is checked: it asks for more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fixedbitset::FixedBitSet;

use super::law::{Crash, Law, Subject};
use super::model::Tears;
use super::state::{Blocks, Torn};
use super::steps::Change;
use super::trace::Operation;

mod cluster;
mod exhaustive;
mod random;
mod strategies;

pub use self::cluster::{Cluster, Clusters, pattern};
pub use self::exhaustive::{every_crash, explain};
pub(super) use self::random::Random;

/// How a crash was thought of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// S0.
    Prefix,
    /// S1.
    Minimum,
    /// S2.
    Drop,
    /// S3.
    Only,
    /// S4.
    Tear,
    /// S5.
    Lose,
    /// S6.
    Window,
}

/// How much to plan.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Most states.
    pub states_max: usize,
    /// Most crashes that are thought of for one model; equal ones count each.
    pub crashes_max: usize,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { states_max: 20_000, crashes_max: 200_000, seed: 1 }
    }
}

/// A state to check: one tree, with what had been acknowledged.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Key of the tree.
    pub key: u64,
    /// How many acknowledgements had been given.
    pub told: u32,
    /// The crashes that leave it: index of the law, and how.
    pub crashes: Vec<(usize, Crash, Strategy)>,
}

/// What was planned.
#[derive(Debug, Default)]
pub struct Plan {
    /// The states, the most promising first.
    pub states: Vec<Planned>,
    /// How many crashes were thought of, for each law.
    pub crashes: Vec<usize>,
    /// States of each law.
    pub states_of: Vec<usize>,
    /// Why there are not more, if the budget ended it.
    pub cut_short: Option<&'static str>,
}

/// Plans for all laws.
#[must_use]
pub fn plan(subject: &Subject<'_>, laws: &[Law<'_>], blocks: &mut Blocks, budget: Budget) -> Plan {
    let mut plan = Plan::default();
    let mut jobs: HashMap<(u64, u32), usize> = HashMap::new();
    let clusters = Clusters::new(&subject.log, budget.seed);
    for (number, law) in laws.iter().enumerate() {
        let mut planner = Planner::new(subject, law, blocks, &clusters, budget);
        planner.run();
        plan.crashes.push(planner.thought_of);
        plan.cut_short = plan.cut_short.or(planner.cut_short);
        plan.states_of.push(planner.found.len());
        for (key, told, crash, strategy) in planner.found {
            let place = *jobs.entry((key, told)).or_insert_with(|| {
                plan.states.push(Planned { key, told, crashes: Vec::new() });
                plan.states.len() - 1
            });
            plan.states[place].crashes.push((number, crash, strategy));
        }
    }
    plan.states.sort_by_key(|state| state.crashes.iter().map(|(_, _, s)| *s).min());
    plan
}

/// Plans for one law.
struct Planner<'p, 'a, 'm> {
    subject: &'p Subject<'a>,
    law: &'p Law<'m>,
    blocks: &'p mut Blocks,
    clusters: &'p Clusters,
    budget: Budget,
    random: Random,
    /// Sets of atoms seen: equal sets, equal trees. With the most that was told.
    sets: HashMap<u64, u64>,
    /// Trees by key: place in `found`.
    trees: HashMap<u64, usize>,
    found: Vec<(u64, u32, Crash, Strategy)>,
    thought_of: usize,
    cut_short: Option<&'static str>,
    /// Forced atoms at the moment asked for last.
    forced: (usize, FixedBitSet),
}

impl<'p, 'a, 'm> Planner<'p, 'a, 'm> {
    fn new(
        subject: &'p Subject<'a>,
        law: &'p Law<'m>,
        blocks: &'p mut Blocks,
        clusters: &'p Clusters,
        budget: Budget,
    ) -> Self {
        Self {
            subject,
            law,
            blocks,
            clusters,
            budget,
            random: Random::new(budget.seed),
            sets: HashMap::new(),
            trees: HashMap::new(),
            found: Vec::new(),
            thought_of: 0,
            cut_short: None,
            forced: (0, law.forced(0)),
        }
    }

    fn forced(&mut self, at: usize) -> FixedBitSet {
        if self.forced.0 != at {
            self.forced = (at, self.law.forced(at));
        }
        self.forced.1.clone()
    }

    /// Whether the budget is spent.
    fn is_spent(&mut self) -> bool {
        let spent = if self.found.len() >= self.budget.states_max {
            Some("--max-states")
        } else if self.thought_of >= self.budget.crashes_max {
            Some("too many crashes to think of")
        } else {
            None
        };
        self.cut_short = self.cut_short.or(spent);
        self.cut_short.is_some()
    }

    /// Notes a crash.
    fn note(&mut self, crash: Crash, strategy: Strategy) {
        self.thought_of += 1;
        let told = self.subject.told(crash.at);
        let set = hash_of(&crash);
        // The tree of a set is known: only what was told can be new.
        let known = self.sets.get(&set).copied();
        let key = match known {
            Some(key) => key,
            None => {
                let state = self.law.state(self.subject, self.blocks, &crash);
                let key = state.key(&self.subject.log, self.blocks);
                self.sets.insert(set, key);
                key
            }
        };
        match self.trees.entry(key) {
            Entry::Vacant(place) => {
                place.insert(self.found.len());
                self.found.push((key, told, crash, strategy));
            }
            Entry::Occupied(place) => {
                let found = &mut self.found[*place.get()];
                if found.1 < told {
                    (found.1, found.2) = (told, crash);
                }
            }
        }
    }
}

fn hash_of(crash: &Crash) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (number, block) in crash.kept.as_slice().iter().enumerate() {
        if *block != 0 {
            (number, block).hash(&mut hasher);
        }
    }
    crash.torn.hash(&mut hasher);
    hasher.finish()
}

/// Where a crash is looked for: around what the program or its user could notice.
fn moments(subject: &Subject<'_>) -> Vec<usize> {
    let operations = &subject.log.trace.operations;
    let mut moments: Vec<usize> = Vec::new();
    for (number, recorded) in operations.iter().enumerate() {
        match recorded.operation {
            Operation::Sync { .. } | Operation::Rename { .. } | Operation::Remove { .. } => {
                moments.push(number);
            }
            Operation::Ack { .. } => moments.extend([number, number + 1]),
            _ => {}
        }
    }
    moments.push(operations.len());
    moments.dedup();
    moments
}

/// Where all unsynced is looked at together: before each sync that others follow, where
/// something was told, and at the end.
fn windows(subject: &Subject<'_>) -> Vec<usize> {
    let operations = &subject.log.trace.operations;
    let mut windows: Vec<usize> = Vec::new();
    for (number, recorded) in operations.iter().enumerate() {
        match recorded.operation {
            Operation::Sync { .. } => windows.push(number),
            Operation::Ack { .. } => windows.push(number + 1),
            _ => {}
        }
    }
    windows.push(operations.len());
    windows.dedup();
    windows
}

/// The ways in which a step may be torn.
fn tears_of(change: &Change, tears: Tears) -> Vec<Torn> {
    const SECTOR: u16 = 512;
    let &Change::Data { at, bytes, .. } = change else { return Vec::new() };
    if tears == Tears::Never {
        return Vec::new();
    }
    let mut torn = Vec::new();
    // Sectors are of the disk, not of the write.
    let first = SECTOR - at % SECTOR;
    let last = (at + bytes - 1) / SECTOR * SECTOR;
    if first < bytes {
        torn.push(Torn::Head { bytes: first });
        torn.push(Torn::Tail { bytes: first });
        let middle = (at + bytes / 2) / SECTOR * SECTOR;
        for cut in [middle, last] {
            if cut > at && cut - at != first {
                torn.push(Torn::Head { bytes: cut - at });
            }
        }
    }
    if tears == Tears::Anyhow {
        if bytes > 1 {
            torn.push(Torn::Head { bytes: bytes / 2 });
        }
        torn.push(Torn::Zeros);
    }
    torn.dedup();
    torn
}
