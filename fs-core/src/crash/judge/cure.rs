//! Which sync would make refused states impossible, and which sync makes none so.

use super::{Class, Failed, Finding, Judge};
use crate::crash::law::{Law, Subject};
use crate::crash::model::{SyncPoint, recorded_syncs};
use crate::crash::steps::Change;
use crate::crash::trace::Ino;
use crate::types::SyncKind;

/// A sync that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cure {
    /// Of which file or directory.
    pub ino: Ino,
    /// Before which operation.
    pub before: usize,
}

/// Most syncs of one cure.
const SYNCS_MAX: usize = 3;

impl Judge<'_, '_, '_> {
    /// Looks for the fewest syncs that make all states of a finding impossible.
    pub(super) fn find_cure(&self, finding: &mut Finding, members: &[Failed]) {
        if matches!(finding.class, Class::Atomicity | Class::Tear) {
            return;
        }
        let candidates = self.candidates(finding, members);
        let mut open: Vec<&Failed> = members.iter().collect();
        while finding.cure.len() < SYNCS_MAX && !open.is_empty() {
            let cures = |cure: &Cure| {
                let gone = |failed: &&Failed| self.is_cured(failed, cure);
                open.iter().copied().filter(gone).count()
            };
            let best = candidates.iter().map(|cure| (cures(cure), cure)).rev().max_by_key(|c| c.0);
            let Some((1.., &cure)) = best else { break };
            finding.cure.push(cure);
            open.retain(|failed| !self.is_cured(failed, &cure));
        }
        finding.cured = members.len() - open.len();
    }

    fn is_cured(&self, failed: &Failed, cure: &Cure) -> bool {
        // Alike in each round of a loop: a sync in every place like this one.
        let mut law = Law::new(self.laws[failed.law].model, &self.subject.log);
        let wanted = self.clusters.of_or_end(cure.before);
        let places = (0..=failed.crash.at).filter(|at| self.clusters.of_or_end(*at) == wanted);
        let alike = self.alike(cure.ino);
        for at in places {
            for &ino in &alike {
                law.add(
                    &self.subject.log,
                    SyncPoint { at, from: at + 1, ino, kind: SyncKind::Full },
                );
            }
        }
        !law.allows(&failed.crash)
    }

    /// Objects that the same code makes: those of creations in the same cluster.
    fn alike(&self, ino: Ino) -> Vec<Ino> {
        use crate::crash::trace::Operation;
        let operations = self.subject.log.trace.operations.iter().enumerate();
        let made: Vec<(Ino, _)> = operations
            .filter_map(|(number, recorded)| match recorded.operation {
                Operation::Create { ino, .. } => Some((ino, self.clusters.of(number))),
                _ => None,
            })
            .collect();
        let own = made.iter().find(|(of, _)| *of == ino).map(|(_, cluster)| *cluster);
        match own {
            Some(own) => made.iter().filter(|(_, of)| *of == own).map(|(ino, _)| *ino).collect(),
            None => vec![ino],
        }
    }

    /// Syncs of what was lost, just before what was kept.
    fn candidates(&self, finding: &Finding, members: &[Failed]) -> Vec<Cure> {
        let mut candidates = Vec::new();
        let before = finding.kept.unwrap_or(finding.witness.1.at);
        let lost = finding.lost.clone().into_iter().chain(
            members
                .iter()
                .flat_map(|failed| {
                    let atoms = self.lost(failed.law, &failed.crash);
                    atoms.into_iter().map(|atom| self.operation_of(failed.law, atom))
                })
                .take(64),
        );
        for operation in lost {
            for step in self.subject.log.of(operation) {
                let ino = match self.subject.log.steps[step].change {
                    Change::Enter { dir, .. } | Change::Leave { dir, .. } => dir,
                    Change::Size { ino, .. }
                    | Change::Data { ino, .. }
                    | Change::Attrs { ino }
                    | Change::Xattr { ino, .. } => ino,
                };
                let cure = Cure { ino, before };
                if operation < before && !candidates.contains(&cure) {
                    candidates.push(cure);
                }
            }
        }
        candidates
    }
}

/// Syncs without which no further crash is legal, under any of the laws: numbers of
/// their operations. Those cost time and keep nothing.
#[must_use]
pub fn useless_syncs(subject: &Subject<'_>, laws: &[Law<'_>]) -> Vec<usize> {
    let syncs = recorded_syncs(&subject.log);
    let is_useless = |place: &usize| {
        let mut without = syncs.clone();
        without.remove(*place);
        laws.iter().all(|law| {
            let without = Law::with_syncs(law.model, &subject.log, &without);
            let end = subject.log.trace.operations.len();
            // The next sync may cover it; until then a crash has to be able to tell.
            let from = syncs[*place].at + 1;
            (from..=end)
                .all(|at| !matters_at(subject, at, from) || law.forced(at) == without.forced(at))
        })
    };
    (0..syncs.len()).filter(is_useless).map(|place| syncs[place].at).collect()
}

/// Whether anything was done or told between a sync and this moment.
fn matters_at(subject: &Subject<'_>, at: usize, from: usize) -> bool {
    subject.log.trace.operations[from..at].iter().any(|recorded| {
        recorded.operation.changes()
            || matches!(recorded.operation, crate::crash::trace::Operation::Ack { .. })
    })
}
