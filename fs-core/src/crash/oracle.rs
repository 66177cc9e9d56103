//! A checker that needs no program: every file is as it was at some quiet moment.
//!
//! A file is quiet when nobody has changed it since it was closed, renamed or linked, and
//! before the first and after the last operation. In a crash state each file must be one
//! of its quiet versions, and may be missing only if it was missing at some moment. Names
//! that were there neither at first nor in the end (temporary files) may hold anything, and
//! so may new files as long as all that was there at first is there as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::state::{Blocks, Node, State};
use super::steps::{Change, NameId, Steps};
use super::trace::{Ino, Operation};
use crate::types::FileKind;

/// What a path may be.
#[derive(Debug, Default, Clone)]
struct Allowed {
    versions: BTreeSet<u64>,
    may_be_missing: bool,
    /// Was there at first or in the end.
    is_lasting: bool,
    /// What it was at first, if it was there.
    first: Option<u64>,
}

/// The quiet versions of all files of a trace.
#[derive(Debug, Clone)]
pub struct Versions {
    paths: BTreeMap<Vec<NameId>, Allowed>,
    has_begun: bool,
    /// Paths that somebody else judges.
    ignored: BTreeSet<Vec<NameId>>,
}

impl Versions {
    /// Walks through a trace. Paths for which `is_judged_elsewhere`, given with their last
    /// content's first bytes, are left out.
    #[must_use]
    pub fn new(
        log: &Steps<'_>,
        initial: &State,
        blocks: &mut Blocks,
        is_judged_elsewhere: &mut dyn FnMut(&str, &[u8]) -> bool,
    ) -> Self {
        let mut versions =
            Self { paths: BTreeMap::new(), has_begun: false, ignored: BTreeSet::new() };
        let mut state = initial.clone();
        let mut unquiet: HashMap<Ino, ()> = HashMap::new();
        versions.take(&state, blocks, &unquiet, true);
        for (number, recorded) in log.trace.operations.iter().enumerate() {
            for step in log.of(number) {
                let step_number = step as u32;
                let step = log.steps[step];
                if let Change::Data { ino, .. } | Change::Size { ino, .. } = step.change {
                    unquiet.insert(ino, ());
                }
                state.apply(log, blocks, step_number, &step);
            }
            if let Operation::Create { ino, .. } = recorded.operation {
                unquiet.insert(ino, ());
            }
            let is_quiet_again = match recorded.operation {
                Operation::Close { ino }
                | Operation::Rename { ino, .. }
                | Operation::Link { ino, .. } => unquiet.remove(&ino).is_some(),
                Operation::Remove { .. } => true,
                _ => false,
            };
            let is_name = !matches!(recorded.operation, Operation::Write { .. });
            if is_quiet_again || is_name && recorded.operation.changes() {
                versions.take(&state, blocks, &unquiet, false);
            }
        }
        // Who was killed while it wrote leaves what it left.
        unquiet.clear();
        versions.take(&state, blocks, &unquiet, true);
        state.visit(&mut |path, _, node| {
            let head = node.content(blocks).next().map_or(&[][..], |(_, bytes)| bytes);
            if node.made.kind == FileKind::Regular && is_judged_elsewhere(&shown(log, path), head) {
                versions.ignored.insert(path.to_vec());
            }
        });
        versions
    }

    /// Notes all files that are quiet, and all that are missing.
    fn take(
        &mut self,
        state: &State,
        blocks: &mut Blocks,
        unquiet: &HashMap<Ino, ()>,
        is_lasting: bool,
    ) {
        let mut there: Vec<(Vec<NameId>, Ino)> = Vec::new();
        state.visit(&mut |path, ino, node| {
            if node.made.kind == FileKind::Regular {
                there.push((path.to_vec(), ino));
            }
        });
        let is_first = !self.has_begun;
        self.has_begun = true;
        let present: BTreeSet<&Vec<NameId>> = there.iter().map(|(path, _)| path).collect();
        for (path, allowed) in &mut self.paths {
            allowed.may_be_missing |= !present.contains(path);
        }
        for (path, ino) in &there {
            let key = state.node(*ino).map_or(0, |node: &Node| node.bytes_key(blocks));
            let allowed = self.paths.entry(path.clone()).or_insert_with(|| Allowed {
                // Seen for the first time later: it was missing before.
                may_be_missing: !is_first,
                ..Allowed::default()
            });
            allowed.is_lasting |= is_lasting;
            if is_first {
                allowed.first = Some(key);
            }
            if !unquiet.contains_key(ino) {
                allowed.versions.insert(key);
            }
        }
    }

    /// What is wrong with a state; nothing if all is well.
    pub fn judge(&self, log: &Steps<'_>, state: &State, blocks: &mut Blocks) -> Option<String> {
        let mut there: BTreeMap<Vec<NameId>, (u64, u64)> = BTreeMap::new();
        state.visit(&mut |path, _, node| {
            if node.made.kind == FileKind::Regular {
                there.insert(path.to_vec(), (node.bytes_key(blocks), node.bytes));
            }
        });
        let judged = |(path, _): &(&Vec<NameId>, &Allowed)| !self.ignored.contains(*path);
        let paths = || self.paths.iter().filter(judged);
        let is_as_at_first = |(path, allowed): (&Vec<NameId>, &Allowed)| {
            allowed.first.is_none() || allowed.first == there.get(path).map(|(key, _)| *key)
        };
        // As long as nothing is lost a new file may be half-written: it can be made again.
        let is_nothing_lost = paths().all(is_as_at_first);
        for (path, allowed) in paths() {
            if !allowed.is_lasting || is_nothing_lost && allowed.first.is_none() {
                continue;
            }
            match there.get(path) {
                None if !allowed.may_be_missing => {
                    return Some(format!("{} is missing", shown(log, path)));
                }
                Some((key, bytes)) if !allowed.versions.contains(key) => {
                    let path = shown(log, path);
                    return Some(format!("{path} ({bytes} bytes) is neither old nor new"));
                }
                _ => {}
            }
        }
        None
    }
}

fn shown(log: &Steps<'_>, path: &[NameId]) -> String {
    let names = path.iter().map(|name| String::from_utf8_lossy(&log.names[name.0 as usize]));
    names.collect::<Vec<_>>().join("/")
}
