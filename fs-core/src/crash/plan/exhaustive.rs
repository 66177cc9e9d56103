//! Every legal set of few atoms, and every crash of a short trace.

use fixedbitset::FixedBitSet;

use crate::crash::law::{Crash, Law, Subject};
use crate::crash::model::Rules;
use crate::crash::state::Blocks;

/// Every legal set between `forced` and `forced` with all of `free`, each once. Their
/// number grows as a power of 2: `None` if there are more than about `max`.
pub(super) fn every_set(
    rules: &Rules,
    forced: &FixedBitSet,
    free: &[u32],
    max: usize,
) -> Option<Vec<FixedBitSet>> {
    let mut sets = vec![forced.clone()];
    // Each atom, in order, added to every set that has what it needs.
    for &atom in free {
        if sets.len() > max {
            return None;
        }
        for place in 0..sets.len() {
            let needs = &rules.needs[atom as usize];
            if needs.iter().all(|other| sets[place].contains(*other as usize)) {
                let mut with = sets[place].clone();
                with.insert(atom as usize);
                sets.push(with);
            }
        }
    }
    Some(sets)
}

/// Every crash that a law allows, without tears; `None` if there are more than `max`.
#[must_use]
pub fn every_crash(law: &Law<'_>, operations: usize, max: usize) -> Option<Vec<Crash>> {
    let mut crashes = Vec::new();
    for at in 0..=operations {
        let forced = law.forced(at);
        let end = law.rules.end(at);
        let free: Vec<u32> = (0..end).filter(|atom| !forced.contains(*atom as usize)).collect();
        let sets = every_set(&law.rules, &forced, &free, max)?;
        crashes.extend(sets.into_iter().map(|kept| Crash { at, kept, torn: None }));
        if crashes.len() > max {
            return None;
        }
    }
    Some(crashes)
}

/// The crash within some moments that leaves a tree with this key, if the law allows one:
/// `Some(None)` if it does not. `None` if there are more than `max` for one moment, and none
/// of those looked at leaves it.
pub fn explain(
    subject: &Subject<'_>,
    law: &Law<'_>,
    blocks: &mut Blocks,
    moments: std::ops::RangeInclusive<usize>,
    key: u64,
    max: usize,
) -> Option<Option<Crash>> {
    let mut is_complete = true;
    for at in moments {
        let forced = law.forced(at);
        let end = law.rules.end(at);
        let free: Vec<u32> = (0..end).filter(|atom| !forced.contains(*atom as usize)).collect();
        let Some(sets) = every_set(&law.rules, &forced, &free, max) else {
            is_complete = false;
            continue;
        };
        for kept in sets {
            let crash = Crash { at, kept, torn: None };
            if law.state(subject, blocks, &crash).key(&subject.log, blocks) == key {
                return Some(Some(crash));
            }
        }
    }
    is_complete.then_some(None)
}
