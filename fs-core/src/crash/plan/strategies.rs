//! The strategies, each a loop over moments and atoms.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;

use super::exhaustive::every_set;
use super::{Crash, Planner, Strategy, moments, tears_of, windows};
use crate::crash::steps::Change;
use crate::crash::trace::Ino;

/// Most unsynced atoms of which every legal set is tried.
const WINDOW_ATOMS_MAX: usize = 10;
/// Random sets where there are more.
const RANDOM_SETS: usize = 32;

impl Planner<'_, '_, '_> {
    /// All strategies, those that find most first.
    pub(super) fn run(&mut self) {
        self.prefixes();
        self.minima();
        let moments = moments(self.subject);
        // Of many operations that are alike, some first.
        for rank in 0..=1 {
            for &at in &moments {
                self.each_atom(at, rank, Self::drop_one);
            }
            for &at in &moments {
                self.each_atom(at, rank, Self::only_one);
            }
            self.tears(rank);
        }
        for &at in &moments {
            self.lose_objects(at);
        }
        for at in windows(self.subject) {
            self.window(at);
        }
    }

    fn prefixes(&mut self) {
        for at in 0..=self.subject.log.trace.operations.len() {
            if self.is_spent() {
                return;
            }
            let kept = self.law.prefix(at);
            self.note(Crash { at, kept, torn: None }, Strategy::Prefix);
            // Within an operation of many steps: some of them.
            if at < self.subject.log.trace.operations.len() {
                let atoms = self.law.rules.end(at)..self.law.rules.end(at + 1);
                for part in parts(atoms.len()) {
                    let mut kept = self.law.prefix(at);
                    kept.insert_range(atoms.start as usize..atoms.start as usize + part);
                    self.note(Crash { at: at + 1, kept, torn: None }, Strategy::Prefix);
                }
            }
        }
    }

    fn minima(&mut self) {
        for at in 0..=self.subject.log.trace.operations.len() {
            if self.is_spent() {
                return;
            }
            let kept = self.forced(at);
            self.note(Crash { at, kept, torn: None }, Strategy::Minimum);
        }
    }

    /// Atoms that a crash at `at` may lose, of operations of a rank.
    fn each_atom(&mut self, at: usize, rank: u8, act: fn(&mut Self, usize, u32)) {
        let forced = self.forced(at);
        for atom in 0..self.law.rules.end(at) {
            let operation = self.law.rules.atoms[atom as usize].operation as usize;
            if forced.contains(atom as usize) || self.clusters.rank(operation) != rank {
                continue;
            }
            if self.is_spent() {
                return;
            }
            act(self, at, atom);
        }
    }

    fn drop_one(&mut self, at: usize, atom: u32) {
        let mut kept = self.law.prefix(at);
        let forced = self.forced(at);
        self.law.rules.drop(&mut kept, &[atom], self.law.rules.end(at), &forced);
        self.note(Crash { at, kept, torn: None }, Strategy::Drop);
    }

    fn only_one(&mut self, at: usize, atom: u32) {
        let mut kept = self.forced(at);
        self.law.rules.close(&mut kept, [atom]);
        self.note(Crash { at, kept, torn: None }, Strategy::Only);
    }

    /// Each write torn, as the last thing that reached the disk, and with what came after.
    fn tears(&mut self, rank: u8) {
        let tears = self.law.model.tears();
        for (number, step) in self.subject.log.steps.iter().enumerate() {
            let operation = step.operation as usize;
            let atom = &self.law.rules.atoms[self.law.rules.atom_of[number] as usize];
            let first = self.subject.log.steps[atom.steps[0] as usize].operation;
            // What is all or nothing over several operations is not torn.
            if self.clusters.rank(operation) != rank || first != atom.operation {
                continue;
            }
            for torn in tears_of(&step.change, tears) {
                if self.is_spent() {
                    return;
                }
                let torn = Some((number as u32, torn));
                let at = operation + 1;
                let kept = self.law.prefix(at);
                self.note(Crash { at, kept, torn }, Strategy::Tear);
                // Alone, without what was not synced.
                let mut kept = self.forced(at);
                self.law.rules.close(&mut kept, [self.law.rules.atom_of[number]]);
                self.note(Crash { at, kept, torn }, Strategy::Tear);
            }
        }
    }

    fn lose_objects(&mut self, at: usize) {
        let forced = self.forced(at);
        let mut of: BTreeMap<(bool, Ino), Vec<u32>> = BTreeMap::new();
        for atom in 0..self.law.rules.end(at) {
            if forced.contains(atom as usize) {
                continue;
            }
            for &step in &self.law.rules.atoms[atom as usize].steps {
                let object = match self.subject.log.steps[step as usize].change {
                    Change::Enter { dir, .. } | Change::Leave { dir, .. } => (true, dir),
                    Change::Size { ino, .. }
                    | Change::Data { ino, .. }
                    | Change::Attrs { ino }
                    | Change::Xattr { ino, .. } => (false, ino),
                };
                of.entry(object).or_default().push(atom);
            }
        }
        for atoms in of.values() {
            if self.is_spent() {
                return;
            }
            let mut kept = self.law.prefix(at);
            self.law.rules.drop(&mut kept, atoms, self.law.rules.end(at), &forced);
            self.note(Crash { at, kept, torn: None }, Strategy::Lose);
        }
    }

    fn window(&mut self, at: usize) {
        let forced = self.forced(at);
        let end = self.law.rules.end(at);
        let free: Vec<u32> = (0..end).filter(|atom| !forced.contains(*atom as usize)).collect();
        if free.len() <= WINDOW_ATOMS_MAX {
            let sets = every_set(&self.law.rules, &forced, &free, usize::MAX);
            for kept in sets.unwrap_or_default() {
                if self.is_spent() {
                    return;
                }
                self.note(Crash { at, kept, torn: None }, Strategy::Window);
            }
            return;
        }
        for _ in 0..RANDOM_SETS {
            if self.is_spent() {
                return;
            }
            let kept = self.random_set(&forced, &free);
            self.note(Crash { at, kept, torn: None }, Strategy::Window);
        }
    }

    /// A random legal set: a prefix of a random order in which the atoms could have
    /// reached the disk.
    fn random_set(&mut self, forced: &FixedBitSet, free: &[u32]) -> FixedBitSet {
        let mut kept = forced.clone();
        for _ in 0..self.random.below(free.len() + 1) {
            let atom = free[self.random.below(free.len())];
            let needs = &self.law.rules.needs[atom as usize];
            if needs.iter().all(|other| kept.contains(*other as usize)) {
                kept.insert(atom as usize);
            }
        }
        kept
    }
}

/// How many of `count` atoms of one operation are kept where it was under way.
fn parts(count: usize) -> Vec<usize> {
    let mut parts = vec![1, count / 2, count.saturating_sub(1)];
    parts.retain(|part| (1..count).contains(part));
    parts.dedup();
    parts
}
