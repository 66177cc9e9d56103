//! From verdicts to findings: what is wrong, seen in as few states as possible.
//!
//! A failed state is made smaller (fewer losses, an earlier crash) as long as the checker
//! still says no; what is left names the operations that are to blame. States that the
//! same blame explains are one finding.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use super::law::{Crash, Law, Subject};
use super::plan::{Cluster, Clusters};
use super::state::{Blocks, State};
use super::trace::Operation;

mod cure;
mod minimise;
mod words;

pub use self::cure::{Cure, useless_syncs};
pub use self::words::witness_in_words;

/// What kind of mistake it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Class {
    /// A change takes several calls, and a crash between them leaves half of it.
    Atomicity,
    /// Something reached the disk before something else that it relies on.
    Ordering,
    /// What the program had told to be done is not there.
    Durability,
    /// A write reached the disk in part.
    Tear,
}

impl Class {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Atomicity => "atomicity",
            Self::Ordering => "ordering",
            Self::Durability => "durability",
            Self::Tear => "tear",
        }
    }
}

/// Asks a checker about a state with so many acknowledgements: whether it is bad. `None`
/// ends the judging.
pub type Ask<'a> = dyn FnMut(&State, u64, u32) -> Option<bool> + 'a;

/// A state that a checker has refused, for one law.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Index of the law.
    pub law: usize,
    /// The crash that leaves it.
    pub crash: Crash,
    /// What the checker said, for people.
    pub said: String,
}

/// A finding.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What kind of mistake.
    pub class: Class,
    /// Indices of the laws under which it happens.
    pub laws: BTreeSet<usize>,
    /// Operations of which something was lost, or torn.
    pub lost: Vec<usize>,
    /// The operation that was kept though it relies on them; the acknowledgement; the
    /// last one before the crash.
    pub kept: Option<usize>,
    /// The smallest witness: of which law, and how.
    pub witness: (usize, Crash),
    /// Key of the witness's tree.
    pub key: u64,
    /// What had been told in the witness.
    pub told: u32,
    /// Refused states that it explains, over all laws.
    pub states: usize,
    /// What the checker said.
    pub said: String,
    /// Syncs that would cure it.
    pub cure: Vec<Cure>,
    /// Refused states that the cure makes impossible.
    pub cured: usize,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    lost: BTreeSet<Cluster>,
    kept: Option<Cluster>,
}

/// Judges.
pub struct Judge<'j, 'a, 'm> {
    subject: &'j Subject<'a>,
    laws: &'j [Law<'m>],
    blocks: &'j RwLock<Blocks>,
    clusters: Clusters,
}

impl<'j, 'a, 'm> Judge<'j, 'a, 'm> {
    /// A judge of a trace under laws.
    #[must_use]
    pub fn new(
        subject: &'j Subject<'a>,
        laws: &'j [Law<'m>],
        blocks: &'j RwLock<Blocks>,
        seed: u64,
    ) -> Self {
        let clusters = Clusters::new(&subject.log, seed);
        Self { subject, laws, blocks, clusters }
    }

    /// Findings, each with its smallest witness, from refused states. Gives what it has
    /// when `ask` ends it.
    pub fn judge(&self, mut failed: Vec<Failed>, ask: &mut Ask<'_>) -> Vec<Finding> {
        // What has lost least says most.
        failed.sort_by_key(|failed| {
            let lost = self.lost(failed.law, &failed.crash).len();
            (lost + usize::from(failed.crash.torn.is_some()), failed.crash.at, failed.law)
        });
        let mut findings: Vec<(Finding, Vec<Failed>)> = Vec::new();
        for failed in failed {
            let known = findings.iter_mut().find(|(finding, _)| self.explains(finding, &failed));
            if let Some((finding, members)) = known {
                finding.laws.insert(failed.law);
                finding.states += 1;
                members.push(failed);
                continue;
            }
            let Some(finding) = self.minimise(&failed, ask) else { break };
            let same = findings.iter_mut().find(|(known, _)| {
                known.class == finding.class && known.pattern == finding.pattern
            });
            match same {
                Some((known, members)) => {
                    known.laws.insert(failed.law);
                    known.states += 1;
                    members.push(failed);
                }
                None => findings.push((finding, vec![failed])),
            }
        }
        let cured = findings.into_iter().map(|(mut finding, members)| {
            self.find_cure(&mut finding, &members);
            finding
        });
        cured.collect()
    }

    /// Atoms that a crash has lost.
    fn lost(&self, law: usize, crash: &Crash) -> Vec<u32> {
        let end = self.laws[law].rules.end(crash.at);
        (0..end).filter(|atom| !crash.kept.contains(*atom as usize)).collect()
    }

    fn operation_of(&self, law: usize, atom: u32) -> usize {
        self.laws[law].rules.atoms[atom as usize].operation as usize
    }

    fn is_kept_in_part(&self, law: usize, crash: &Crash, operation: usize) -> bool {
        let rules = &self.laws[law].rules;
        let mut atoms = rules.end(operation)..rules.end(operation + 1);
        atoms.any(|atom| crash.kept.contains(atom as usize))
    }

    /// Whether a refused state shows nothing that the finding does not.
    fn explains(&self, finding: &Finding, failed: &Failed) -> bool {
        let Failed { law, crash, .. } = failed;
        let lost = self.lost(*law, crash);
        let clusters = |operations: &mut dyn Iterator<Item = usize>| -> BTreeSet<Cluster> {
            operations.map(|operation| self.clusters.of(operation)).collect()
        };
        match finding.class {
            Class::Tear => {
                let step = crash.torn.map(|(step, _)| &self.subject.log.steps[step as usize]);
                let torn = step.map(|step| step.operation as usize);
                let in_part = lost.iter().map(|atom| self.operation_of(*law, *atom));
                let in_part =
                    in_part.filter(|operation| self.is_kept_in_part(*law, crash, *operation));
                let is_known =
                    |operation| finding.pattern.lost.contains(&self.clusters.of(operation));
                torn.into_iter().chain(in_part).any(is_known)
            }
            Class::Atomicity => {
                let open = crash.at.checked_sub(1).map(|last| self.clusters.of(last));
                lost.is_empty() && crash.torn.is_none() && open == finding.pattern.kept
            }
            Class::Ordering | Class::Durability => {
                let first = |cluster: &Cluster| {
                    lost.iter()
                        .map(|atom| self.operation_of(*law, *atom))
                        .find(|operation| self.clusters.of(*operation) == *cluster)
                };
                let Some(first) =
                    finding.pattern.lost.iter().map(first).collect::<Option<Vec<_>>>()
                else {
                    return false;
                };
                let from = first.into_iter().max().unwrap_or(0);
                let kept = (from..crash.at).filter(|operation| {
                    let atoms = self.laws[*law].rules.end(*operation)
                        ..self.laws[*law].rules.end(operation + 1);
                    atoms.into_iter().all(|atom| crash.kept.contains(atom as usize))
                });
                let kept = clusters(&mut kept.into_iter());
                finding.pattern.kept.is_none_or(|cluster| kept.contains(&cluster))
            }
        }
    }

    /// Asks about a crash.
    fn asks(&self, law: usize, crash: &Crash, told: u32, ask: &mut Ask<'_>) -> Option<bool> {
        let (state, key) = {
            let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
            let state = self.laws[law].state(self.subject, &mut blocks, crash);
            let key = state.key(&self.subject.log, &mut blocks);
            (state, key)
        };
        ask(&state, key, told)
    }

    fn is_told(&self, operation: usize) -> bool {
        let recorded = self.subject.log.trace.operations.get(operation);
        recorded.is_some_and(|recorded| matches!(recorded.operation, Operation::Ack { .. }))
    }
}
