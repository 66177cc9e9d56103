//! Operations that are alike: the same program doing the same to files of like names.

use std::collections::HashMap;

use super::random::Random;
use crate::crash::steps::{Fill, Steps};
use crate::crash::trace::Operation;
use crate::crash::words::Names;

/// A cluster's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cluster(pub u32);

/// The cluster of each operation.
#[derive(Debug)]
pub struct Clusters {
    of: Vec<Cluster>,
    rank: Vec<u8>,
}

impl Clusters {
    /// Puts the operations of a trace into clusters.
    #[must_use]
    pub fn new(log: &Steps<'_>, seed: u64) -> Self {
        let trace = log.trace;
        let names = Names::new(trace);
        let mut known: HashMap<(String, &'static str, String), Cluster> = HashMap::new();
        let mut members: HashMap<Cluster, Vec<usize>> = HashMap::new();
        let mut of = Vec::new();
        for (number, recorded) in trace.operations.iter().enumerate() {
            let comm = trace.actor(number).map(|actor| actor.comm.clone()).unwrap_or_default();
            let path = pattern(&names.subject(number));
            let next = Cluster(known.len() as u32);
            let cluster =
                *known.entry((comm, kind(log, number, &recorded.operation), path)).or_insert(next);
            members.entry(cluster).or_default().push(number);
            of.push(cluster);
        }
        let mut rank = vec![1; of.len()];
        let mut random = Random::new(seed);
        let mut all: Vec<_> = members.into_iter().collect();
        all.sort_unstable();
        for (_, members) in all {
            // The first, the last, and two others stand for all.
            let chosen =
                [0, members.len() - 1, random.below(members.len()), random.below(members.len())];
            chosen.iter().for_each(|place| rank[members[*place]] = 0);
        }
        Self { of, rank }
    }

    /// The cluster of an operation.
    #[must_use]
    pub fn of(&self, operation: usize) -> Cluster {
        self.of[operation]
    }

    /// As [`Self::of`]; `None` behind the last operation.
    #[must_use]
    pub fn of_or_end(&self, operation: usize) -> Option<Cluster> {
        self.of.get(operation).copied()
    }

    /// 0 for operations that stand for their cluster, else 1.
    #[must_use]
    pub fn rank(&self, operation: usize) -> u8 {
        self.rank[operation]
    }
}

fn kind(log: &Steps<'_>, number: usize, operation: &Operation) -> &'static str {
    let overwrites = || log.of(number).all(|step| log.steps[step].fill == Fill::Overwrite);
    match operation {
        Operation::Write { .. } if overwrites() => "overwrite",
        Operation::Create { .. } => "create",
        Operation::Link { .. } => "link",
        Operation::Remove { .. } => "remove",
        Operation::Rename { .. } => "rename",
        Operation::Write { .. } => "write",
        Operation::Resize { .. } => "truncate",
        Operation::Allocate { .. } => "fallocate",
        Operation::Attrs { .. } => "setattr",
        Operation::Xattr { .. } => "setxattr",
        Operation::Sync { .. } => "fsync",
        Operation::Close { .. } => "close",
        Operation::Ack { .. } => "ack",
    }
}

/// A path with numbers, hashes and the ends of temporary names starred out.
#[must_use]
pub fn pattern(path: &str) -> String {
    let mut text = String::new();
    let mut word = String::new();
    for character in path.chars().chain(std::iter::once('/')) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        text.push_str(&starred(&word));
        word.clear();
        text.push(character);
    }
    text.pop();
    text
}

fn starred(word: &str) -> String {
    let has = |test: fn(&char) -> bool| word.chars().any(|character| test(&character));
    let is_hex = word.chars().all(|character| character.is_ascii_hexdigit());
    let is_mixed = has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase);
    let is_random = word.len() >= 6 && (is_mixed || has(char::is_ascii_digit));
    if is_random || is_hex && (word.len() >= 6 || word.len() == 2) {
        return "*".to_owned();
    }
    let mut text = String::new();
    for character in word.chars() {
        match character {
            '0'..='9' if text.ends_with('*') => {}
            '0'..='9' => text.push('*'),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_by_a_number_are_alike() {
        assert_eq!(pattern("db/000012.log"), pattern("db/7.log"));
        assert_eq!(pattern(".git/objects/3f/a94a8fe5cc"), pattern(".git/objects/00/b17ef6d19c"));
        assert_eq!(pattern("sedAbC12x"), "*");
        assert_ne!(pattern("a.db"), pattern("a.db-journal"));
    }
}
