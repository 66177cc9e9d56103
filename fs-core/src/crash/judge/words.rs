//! A finding in words.

use super::{Class, Finding};
use crate::crash::law::Crash;
use crate::crash::model::Rules;
use crate::crash::steps::Steps;
use crate::crash::trace::{Operation, Trace};
use crate::crash::words::Names;

impl Finding {
    /// What happened, in one sentence.
    #[must_use]
    pub fn sentence(&self, trace: &Trace, names: &Names) -> String {
        let kept = self.kept.map_or("the end".to_owned(), |kept| names.call(trace, kept));
        match self.class {
            Class::Atomicity => {
                let next = names.call(trace, self.witness.1.at);
                let kept = if self.kept.is_some() { kept } else { "the start".to_owned() };
                format!("a crash between {kept} and {next} leaves half of a change")
            }
            Class::Ordering => {
                format!("{kept} persisted before {}", self.lost_in_words(trace, names))
            }
            Class::Durability => {
                let lost = self.lost_in_words(trace, names);
                format!("{lost}: lost after {kept}")
            }
            Class::Tear => {
                format!("{} persisted in part", self.lost_in_words(trace, names))
            }
        }
    }

    /// What was lost: `the 40 bytes of f.gz`, `unlink(a-journal)`.
    fn lost_in_words(&self, trace: &Trace, names: &Names) -> String {
        let mut words: Vec<String> = Vec::new();
        for &operation in &self.lost {
            let word = match &trace.operations[operation].operation {
                Operation::Write { .. } => {
                    format!("the bytes of {}", names.subject(operation))
                }
                _ => names.call(trace, operation),
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
        let more = words.len().saturating_sub(3);
        words.truncate(3);
        let text = words.join(", ");
        if more > 0 { format!("{text} and {more} more") } else { text }
    }

    /// Who did it: the process of what was lost, or of the last operation.
    #[must_use]
    pub fn actor(&self, trace: &Trace) -> String {
        let operation = self.lost.first().copied().or(self.kept);
        let actor = operation.and_then(|operation| trace.actor(operation));
        actor.map_or(String::new(), |actor| format!("{}[{}]", actor.comm, actor.process))
    }

    /// The syncs that would cure it, in words; how else, if none does.
    #[must_use]
    pub fn cure_in_words(&self, trace: &Trace, names: &Names) -> String {
        if self.class == Class::Atomicity {
            return "no sync helps: write a new file, sync it, rename it over the old one".into();
        }
        if self.cure.is_empty() {
            return "no sync helps: the format has to notice it (a checksum, a journal)".into();
        }
        let syncs: Vec<String> = self
            .cure
            .iter()
            .map(|cure| {
                let name = names.of_object_at(trace, cure.ino, cure.before);
                format!("fsync({name}) before {}", names.call(trace, cure.before))
            })
            .collect();
        syncs.join(", and ")
    }

    /// The witness as a list of what is kept and what is lost.
    #[must_use]
    pub fn witness_in_words(&self, log: &Steps<'_>, rules: &Rules, names: &Names) -> Vec<String> {
        witness_in_words(&self.witness.1, log, rules, names)
    }
}

/// A crash as a list of what is kept and what is lost.
#[must_use]
pub fn witness_in_words(
    crash: &Crash,
    log: &Steps<'_>,
    rules: &Rules,
    names: &Names,
) -> Vec<String> {
    let mut lines = Vec::new();
    for operation in 0..crash.at {
        let atoms = rules.end(operation)..rules.end(operation + 1);
        let call = names.call(log.trace, operation);
        if atoms.is_empty() {
            if !matches!(log.trace.operations[operation].operation, Operation::Close { .. }) {
                lines.push(format!("done {call}"));
            }
            continue;
        }
        let kept = atoms.clone().filter(|atom| crash.kept.contains(*atom as usize)).count();
        let torn = crash
            .torn
            .filter(|(step, _)| log.steps[*step as usize].operation as usize == operation);
        lines.push(match (kept, torn) {
            (0, _) => format!("lost {call}"),
            (_, Some((_, torn))) => format!("torn {call}: {torn:?}"),
            (kept, _) if kept == atoms.len() => format!("kept {call}"),
            (kept, _) => format!("part {call}: {kept} of {} pieces", atoms.len()),
        });
    }
    lines
}
