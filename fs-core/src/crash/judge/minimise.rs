//! The smallest crash that is still refused.

use std::collections::BTreeSet;

use super::{Ask, Class, Failed, Finding, Judge, Pattern};
use crate::crash::law::Crash;

/// Most questions for one finding, beyond which what is there is small enough.
const QUESTIONS_MAX: usize = 200;

impl Judge<'_, '_, '_> {
    pub(super) fn minimise(&self, failed: &Failed, ask: &mut Ask<'_>) -> Option<Finding> {
        let law = failed.law;
        let mut left = QUESTIONS_MAX;
        let mut bad = |crash: &Crash, told: u32| {
            left = left.saturating_sub(1);
            if left == 0 { Some(false) } else { self.asks(law, crash, told, ask) }
        };
        let mut crash = failed.crash.clone();
        let told = |crash: &Crash| self.subject.told(crash.at);
        if crash.torn.is_some() {
            let whole = Crash { torn: None, ..crash.clone() };
            if bad(&whole, told(&whole))? {
                crash = whole;
            } else {
                let kept = self.laws[law].prefix(crash.at);
                let nothing_lost = Crash { kept, ..crash.clone() };
                if bad(&nothing_lost, told(&nothing_lost))? {
                    crash = nothing_lost;
                }
            }
        }
        // Is it refused though nothing is lost? Then no order would help.
        if crash.torn.is_none() {
            let first = self.roots(law, &crash).first().map(|atom| self.operation_of(law, *atom));
            let shorter = first.into_iter().chain([crash.at]);
            for at in shorter {
                let prefix = Crash { at, kept: self.laws[law].prefix(at), torn: None };
                if bad(&prefix, told(&prefix))? {
                    crash = prefix;
                    break;
                }
            }
        }
        let mut roots = self.roots(law, &crash);
        if !roots.is_empty() {
            roots = self.fewest(law, &crash, roots, &mut |crash| bad(crash, told(crash)))?;
            crash = self.without(law, &crash, &roots);
            crash = self.earliest(law, &crash, &roots, &mut |crash| bad(crash, told(crash)))?;
        } else if crash.torn.is_none() {
            crash = self.opening(law, &crash, &mut |crash| bad(crash, told(crash)))?;
        }
        let is_lost_only = told(&crash) > 0 && !bad(&crash, 0)?;
        Some(self.finding(failed, crash, &roots, is_lost_only))
    }

    /// Lost atoms of which nothing that they need is lost.
    fn roots(&self, law: usize, crash: &Crash) -> Vec<u32> {
        let needs = &self.laws[law].rules.needs;
        let is_root = |atom: &u32| {
            needs[*atom as usize].iter().all(|other| crash.kept.contains(*other as usize))
        };
        self.lost(law, crash).into_iter().filter(is_root).collect()
    }

    /// Everything before the crash but these and what needs them.
    fn without(&self, law: usize, crash: &Crash, roots: &[u32]) -> Crash {
        let law = &self.laws[law];
        let mut kept = law.prefix(crash.at);
        law.rules.drop(&mut kept, roots, law.rules.end(crash.at), &law.forced(crash.at));
        Crash { at: crash.at, kept, torn: crash.torn }
    }

    /// Delta debugging (Zeller's ddmin) over what is lost.
    fn fewest(
        &self,
        law: usize,
        crash: &Crash,
        roots: Vec<u32>,
        bad: &mut dyn FnMut(&Crash) -> Option<bool>,
    ) -> Option<Vec<u32>> {
        let mut fewest = roots;
        if !bad(&self.without(law, crash, &fewest))? {
            // Refused only with more lost than these: taken as it is.
            return Some(self.lost(law, crash));
        }
        let mut pieces = 2;
        while fewest.len() >= 2 {
            let length = fewest.len().div_ceil(pieces);
            let chunks: Vec<Vec<u32>> = fewest.chunks(length).map(<[u32]>::to_vec).collect();
            let rest = |chunk: &Vec<u32>| -> Vec<u32> {
                fewest.iter().copied().filter(|atom| !chunk.contains(atom)).collect()
            };
            let tries = chunks.iter().cloned().chain(chunks.iter().map(rest));
            let mut smaller = None;
            for part in tries {
                if !part.is_empty()
                    && part.len() < fewest.len()
                    && bad(&self.without(law, crash, &part))?
                {
                    smaller = Some(part);
                    break;
                }
            }
            match smaller {
                Some(part) => {
                    fewest = part;
                    pieces = 2;
                }
                None if pieces >= fewest.len() => break,
                None => pieces = (2 * pieces).min(fewest.len()),
            }
        }
        Some(fewest)
    }

    /// The earliest crash that is refused with the same losses: found from the first
    /// operation after them on.
    fn earliest(
        &self,
        law: usize,
        crash: &Crash,
        roots: &[u32],
        bad: &mut dyn FnMut(&Crash) -> Option<bool>,
    ) -> Option<Crash> {
        let last = roots.iter().map(|atom| self.operation_of(law, *atom)).max().unwrap_or(0);
        for at in last + 1..crash.at {
            // Only what changes something can make a difference.
            let changed = &self.subject.log.trace.operations[at - 1].operation;
            if !changed.changes() && !self.is_told(at - 1) {
                continue;
            }
            let earlier = self.without(law, &Crash { at, ..crash.clone() }, roots);
            if self.laws[law].allows(&earlier) && bad(&earlier)? {
                return Some(earlier);
            }
        }
        Some(crash.clone())
    }

    /// Where the time begins in which a crash is refused though nothing is lost.
    fn opening(
        &self,
        law: usize,
        crash: &Crash,
        bad: &mut dyn FnMut(&Crash) -> Option<bool>,
    ) -> Option<Crash> {
        let mut first = crash.clone();
        while first.at > 0 {
            let at = first.at - 1;
            let earlier = Crash { at, kept: self.laws[law].prefix(at), torn: None };
            if !bad(&earlier)? {
                break;
            }
            first = earlier;
        }
        Some(first)
    }

    fn finding(&self, failed: &Failed, crash: Crash, roots: &[u32], lost_only: bool) -> Finding {
        let law = failed.law;
        let mut lost: Vec<usize> = roots.iter().map(|atom| self.operation_of(law, *atom)).collect();
        lost.dedup();
        let last = crash.at.checked_sub(1);
        let torn = crash.torn.map(|(step, _)| self.subject.log.steps[step as usize].operation);
        let class = match torn {
            Some(operation) if roots.is_empty() => {
                lost = vec![operation as usize];
                Class::Tear
            }
            _ if roots.is_empty() => Class::Atomicity,
            // Part of one write without the rest.
            _ if last.is_some_and(|last| lost.contains(&last)) => Class::Tear,
            _ if lost_only => Class::Durability,
            _ => Class::Ordering,
        };
        let kept = match class {
            // The acknowledgement that is not true.
            Class::Durability => {
                let after = lost.last().copied().unwrap_or(0);
                (after..crash.at).find(|operation| self.is_told(*operation)).or(last)
            }
            _ => last,
        };
        let pattern = Pattern {
            lost: lost.iter().map(|operation| self.clusters.of(*operation)).collect(),
            kept: kept.map(|operation| self.clusters.of(operation)),
        };
        let key = {
            let blocks =
                &mut *self.blocks.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.laws[law].state(self.subject, blocks, &crash).key(&self.subject.log, blocks)
        };
        Finding {
            class,
            laws: BTreeSet::from([law]),
            lost,
            kept,
            told: self.subject.told(crash.at),
            witness: (law, crash),
            key,
            states: 1,
            said: failed.said.clone(),
            cure: Vec::new(),
            cured: 0,
            pattern,
        }
    }
}
