//! Every legal set of few atoms, and every crash of a short trace.

use fixedbitset::FixedBitSet;

use crate::crash::law::{Crash, Law};
use crate::crash::model::Rules;

/// Every legal set between `forced` and `forced` with all of `free`, each once. Their
/// number grows as a power of 2: for few atoms only.
pub(super) fn every_set(rules: &Rules, forced: &FixedBitSet, free: &[u32]) -> Vec<FixedBitSet> {
    let mut sets = vec![forced.clone()];
    // Each atom, in order, added to every set that has what it needs.
    for &atom in free {
        for place in 0..sets.len() {
            let needs = &rules.needs[atom as usize];
            if needs.iter().all(|other| sets[place].contains(*other as usize)) {
                let mut with = sets[place].clone();
                with.insert(atom as usize);
                sets.push(with);
            }
        }
    }
    sets
}

/// Every crash that a law allows, without tears; `None` if there are more than `max`.
#[must_use]
pub fn every_crash(law: &Law<'_>, operations: usize, max: usize) -> Option<Vec<Crash>> {
    let mut crashes = Vec::new();
    for at in 0..=operations {
        let forced = law.forced(at);
        let end = law.rules.end(at);
        let free: Vec<u32> = (0..end).filter(|atom| !forced.contains(*atom as usize)).collect();
        if free.len() > 20 {
            return None;
        }
        let sets = every_set(&law.rules, &forced, &free);
        crashes.extend(sets.into_iter().map(|kept| Crash { at, kept, torn: None }));
        if crashes.len() > max {
            return None;
        }
    }
    Some(crashes)
}
