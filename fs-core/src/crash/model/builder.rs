//! What all models share: atoms, and the order that the page cache and directories give.

use std::collections::HashMap;

use fixedbitset::FixedBitSet;

use super::{Atom, Rules, SyncPoint};
use crate::crash::steps::{BLOCK_BYTES, Change, Fill, NameId, Step, Steps};
use crate::crash::trace::{Ino, Operation};
use crate::types::{FileKind, SyncKind};

/// Which steps of an operation are one atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Append {
    /// A longer length and the bytes behind it: one atom.
    Whole,
    /// Two: the length may be there without the bytes, as zeros.
    Split,
    /// One; two, as with [`Self::Split`], where the bytes go to a block that has bytes of the
    /// file already.
    SplitInBlock,
    /// One; two where the bytes go to a block that has bytes of the file already: these are
    /// written in place, and the length follows.
    BytesFirst,
}

/// Whether a length that is set (truncate, fallocate) waits for the bytes that were
/// appended before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetSize {
    /// Yes.
    AfterBytes,
    /// No: until they are written the file has zeros in their place.
    AtOnce,
}

/// Makes [`Rules`].
pub(super) struct Builder<'a, 'b> {
    pub(super) log: &'b Steps<'a>,
    pub(super) rules: Rules,
}

impl<'a, 'b> Builder<'a, 'b> {
    /// Atoms, and the order of changes of the same thing.
    pub(super) fn new(log: &'b Steps<'a>, append: Append, set_size: SetSize) -> Self {
        Self::with_rewrites(log, append, set_size, &[])
    }

    /// As [`Self::new`]; each of these rewrites is one atom, at its last operation.
    pub(super) fn with_rewrites(
        log: &'b Steps<'a>,
        append: Append,
        set_size: SetSize,
        rewrites: &[Rewrite],
    ) -> Self {
        let mut builder = Self { log, rules: Rules::default() };
        builder.rules.atom_of.resize(log.steps.len(), 0);
        for operation in 0..log.trace.operations.len() {
            builder.rules.before.push(builder.rules.atoms.len() as u32);
            match rewrites.iter().find(|rewrite| rewrite.operations.contains(&operation)) {
                Some(rewrite) if rewrite.operations.last() == Some(&operation) => {
                    let steps = rewrite.operations.iter().flat_map(|of| log.of(*of));
                    builder.push(steps.map(|step| step as u32).collect(), operation);
                }
                Some(_) => {}
                None => builder.group(operation, append),
            }
        }
        builder.rules.before.push(builder.rules.atoms.len() as u32);
        builder.rules.needs = vec![Vec::new(); builder.rules.atoms.len()];
        builder.order_same(set_size);
        if append == Append::BytesFirst {
            builder.length_needs_bytes();
        }
        builder
    }

    fn group(&mut self, operation: usize, append: Append) {
        let mut atoms: Vec<Vec<u32>> = Vec::new();
        let mut joined = false;
        for step in self.log.of(operation) {
            if joined && let Some(atom) = atoms.last_mut() {
                atom.push(step as u32);
            } else {
                atoms.push(vec![step as u32]);
            }
            joined = self.is_joined(operation, &self.log.steps[step], append);
        }
        if append == Append::BytesFirst {
            for pair in atoms.chunk_by_mut(|first, _| is_partial_length(self.log, first)) {
                pair.reverse();
            }
        }
        atoms.into_iter().for_each(|steps| self.push(steps, operation));
    }

    fn push(&mut self, steps: Vec<u32>, operation: usize) {
        let atom = self.rules.atoms.len() as u32;
        for step in &steps {
            self.rules.atom_of[*step as usize] = atom;
        }
        self.rules.atoms.push(Atom { steps, operation: operation as u32 });
    }

    /// Whether the step after this one belongs to the same atom.
    fn is_joined(&self, operation: usize, step: &Step, append: Append) -> bool {
        match self.log.trace.operations[operation].operation {
            Operation::Rename { .. } => true,
            Operation::Resize { .. } => append == Append::Whole,
            _ => {
                let is_length = matches!(step.change, Change::Size { .. });
                is_length
                    && match (append, step.fill) {
                        (_, Fill::None) | (Append::Split, _) => false,
                        (Append::Whole, _) => true,
                        (_, fill) => fill == Fill::NewBlock,
                    }
            }
        }
    }

    /// `atom` needs `other`.
    pub(super) fn need(&mut self, atom: u32, other: u32) {
        let needs = &mut self.rules.needs[atom as usize];
        if other < atom && !needs.contains(&other) {
            needs.push(other);
        }
    }

    /// Changes of the same block, length, name, attribute: each needs the one before.
    fn order_same(&mut self, set_size: SetSize) {
        let mut last: HashMap<Same, u32> = HashMap::new();
        let log = self.log;
        for (number, step) in log.steps.iter().enumerate() {
            let atom = self.rules.atom_of[number];
            let mut after = |same| {
                if let Some(before) = last.insert(same, atom) {
                    self.need(atom, before);
                }
            };
            match step.change {
                Change::Enter { dir, name, .. } | Change::Leave { dir, name } => {
                    after(Same::Name(dir, name));
                }
                Change::Data { ino, block, .. } => after(Same::Block(ino, block)),
                Change::Attrs { ino } => after(Same::Attrs(ino)),
                Change::Xattr { ino, name } => after(Same::Xattr(ino, name)),
                Change::Size { ino, bytes } => {
                    if set_size == SetSize::AtOnce && step.fill == Fill::None {
                        last.insert(Same::Size(ino), atom);
                    } else {
                        after(Same::Size(ino));
                    }
                    // Blocks that a shorter length takes: before and after it.
                    let gone = bytes / BLOCK_BYTES;
                    let taken = |same: &&Same| matches!(same, Same::Block(of, block) if *of == ino && *block >= gone);
                    if step.fill == Fill::None {
                        let taken: Vec<_> = last.keys().filter(taken).copied().collect();
                        for same in taken {
                            last.insert(same, atom);
                        }
                        last.insert(Same::Cut(ino), atom);
                    }
                }
            }
            // A block written after the file was cut is not of the file before.
            if let Change::Data { ino, .. } = step.change
                && step.fill == Fill::NewBlock
                && let Some(&cut) = last.get(&Same::Cut(ino))
            {
                self.need(atom, cut);
            }
        }
    }

    /// A length needs the bytes in front of it, where those are an atom of their own.
    fn length_needs_bytes(&mut self) {
        for atom in self.atoms().skip(1) {
            if is_partial_length(self.log, &self.rules.atoms[atom as usize].steps) {
                self.need(atom, atom - 1);
            }
        }
    }

    /// See [`is_metadata`].
    pub(super) fn is_metadata(&self, atom: u32) -> bool {
        is_metadata(self.log, &self.rules, atom)
    }

    /// Whether it has bytes in it.
    pub(super) fn has_data(&self, atom: u32) -> bool {
        self.steps(atom).any(Step::is_data)
    }

    /// Whether it waits for write-back, and for a later transaction: a length that grows by
    /// a write, or bytes that need a place. Bytes in place wait for nothing.
    pub(super) fn is_append(&self, atom: u32) -> bool {
        self.steps(atom).any(|step| match step.change {
            Change::Size { .. } => step.fill != Fill::None,
            _ => step.fill == Fill::NewBlock,
        })
    }

    pub(super) fn steps(&self, atom: u32) -> impl Iterator<Item = &Step> {
        self.rules.atoms[atom as usize].steps.iter().map(|step| &self.log.steps[*step as usize])
    }

    /// Atoms, by number.
    pub(super) fn atoms(&self) -> std::ops::Range<u32> {
        0..self.rules.atoms.len() as u32
    }

    /// Those that `is_chained` survive in their order. One that `is_late` needs those before
    /// it, and none needs it: what is written back later is in a later transaction.
    pub(super) fn chain(
        &mut self,
        is_chained: impl Fn(&Self, u32) -> bool,
        is_late: impl Fn(&Self, u32) -> bool,
    ) {
        let mut last = None;
        for atom in self.atoms() {
            let (chained, late) = (is_chained(self, atom), is_late(self, atom));
            if let Some(last) = last
                && (chained || late)
            {
                self.need(atom, last);
            }
            if chained {
                last = Some(atom);
            }
        }
    }

    /// A rename over a file needs the bytes of what replaces it.
    pub(super) fn rename_needs_bytes(&mut self) {
        for (number, recorded) in self.log.trace.operations.iter().enumerate() {
            if let Operation::Rename { ino, replaced: Some(_), exchange: false, .. } =
                recorded.operation
            {
                self.operation_needs_bytes(number, ino);
            }
        }
    }

    /// The first change of a name or attribute after the end of a file that was cut to
    /// nothing and written again needs the bytes.
    pub(super) fn close_after_cut_needs_bytes(&mut self) {
        let mut cut: HashMap<Ino, ()> = HashMap::new();
        for (number, recorded) in self.log.trace.operations.iter().enumerate() {
            match recorded.operation {
                Operation::Resize { ino, bytes: 0 } => {
                    cut.insert(ino, ());
                }
                Operation::Close { ino } if cut.remove(&ino).is_some() => {
                    let later = self.rules.before[number]..self.atoms().end;
                    let next = later.into_iter().find(|atom| self.is_metadata(*atom));
                    if let Some(next) = next {
                        self.needs_bytes(next, number, ino);
                    }
                }
                _ => {}
            }
        }
    }

    fn operation_needs_bytes(&mut self, number: usize, ino: Ino) {
        for atom in self.rules.before[number]..self.rules.before[number + 1] {
            self.needs_bytes(atom, number, ino);
        }
    }

    fn needs_bytes(&mut self, atom: u32, before: usize, ino: Ino) {
        for data in data_of(self.log, &self.rules, ino, before) {
            self.need(atom, data);
        }
    }

    /// The rules, complete.
    pub(super) fn finish(mut self) -> Rules {
        self.rules.needed_by = vec![Vec::new(); self.rules.atoms.len()];
        for (atom, needs) in self.rules.needs.iter().enumerate() {
            for other in needs {
                self.rules.needed_by[*other as usize].push(atom as u32);
            }
        }
        self.rules
    }
}

/// A file that is cut to nothing and written anew, until it is closed or synced.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    /// Numbers of the operations that change it.
    operations: Vec<usize>,
}

/// The rewrites of files that held something and had been closed, or were there before.
pub(super) fn rewrites(log: &Steps<'_>) -> Vec<Rewrite> {
    let mut settled: Vec<bool> = vec![false; log.trace.inodes()];
    for (ino, node) in log.trace.initial.nodes.iter().enumerate() {
        settled[ino] = node.bytes > 0;
    }
    let mut open: HashMap<Ino, Rewrite> = HashMap::new();
    let mut whole = Vec::new();
    for (number, recorded) in log.trace.operations.iter().enumerate() {
        match recorded.operation {
            Operation::Resize { ino, bytes: 0 } if settled[ino.index()] => {
                open.entry(ino).or_default().operations.push(number);
            }
            Operation::Close { ino } | Operation::Sync { ino, .. } => {
                settled[ino.index()] = true;
                whole.extend(open.remove(&ino));
            }
            Operation::Write { ino, .. }
            | Operation::Resize { ino, .. }
            | Operation::Allocate { ino, .. } => {
                if let Some(rewrite) = open.get_mut(&ino) {
                    rewrite.operations.push(number);
                }
            }
            _ => {}
        }
    }
    whole
}

/// Whether it is the length for bytes in a block that has bytes already.
fn is_partial_length(log: &Steps<'_>, steps: &[u32]) -> bool {
    let step = log.steps[steps[0] as usize];
    step.fill == Fill::PartialAppend && matches!(step.change, Change::Size { .. })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Same {
    Name(Ino, NameId),
    Block(Ino, u64),
    Size(Ino),
    /// The last time that a length was set.
    Cut(Ino),
    Attrs(Ino),
    Xattr(Ino, NameId),
}

/// Atoms of operations before `end` that have a step which `is_meant`.
fn atoms_where<'r>(
    log: &'r Steps<'_>,
    rules: &'r Rules,
    end: usize,
    mut is_meant: impl FnMut(&Step) -> bool + 'r,
) -> impl Iterator<Item = u32> + 'r {
    (0..rules.end(end)).filter(move |atom| {
        let steps = &rules.atoms[*atom as usize].steps;
        steps.iter().any(|step| is_meant(&log.steps[*step as usize]))
    })
}

/// Bytes and lengths of a file, before operation `end`.
pub(super) fn data_of(log: &Steps<'_>, rules: &Rules, ino: Ino, end: usize) -> Vec<u32> {
    let is_of = |step: &Step| match step.change {
        Change::Data { ino: of, .. } | Change::Size { ino: of, .. } => of == ino,
        _ => false,
    };
    atoms_where(log, rules, end, is_of).collect()
}

/// Bytes, lengths and attributes of an object, before operation `end`; not its names.
pub(super) fn content_of(log: &Steps<'_>, rules: &Rules, ino: Ino, end: usize) -> Vec<u32> {
    let is_of = |step: &Step| match step.change {
        Change::Data { ino: of, .. }
        | Change::Size { ino: of, .. }
        | Change::Attrs { ino: of }
        | Change::Xattr { ino: of, .. } => of == ino,
        Change::Enter { .. } | Change::Leave { .. } => false,
    };
    atoms_where(log, rules, end, is_of).collect()
}

/// Changes of the names in a directory, before operation `end`.
pub(super) fn names_in(log: &Steps<'_>, rules: &Rules, dir: Ino, end: usize) -> Vec<u32> {
    let is_in = |step: &Step| match step.change {
        Change::Enter { dir: of, .. } | Change::Leave { dir: of, .. } => of == dir,
        _ => false,
    };
    atoms_where(log, rules, end, is_in).collect()
}

/// Changes of an object's own names, before operation `end`: given, taken, moved.
pub(super) fn names_of(log: &Steps<'_>, rules: &Rules, ino: Ino, end: usize) -> Vec<u32> {
    (0..rules.end(end))
        .filter(|atom| {
            let operation = rules.atoms[*atom as usize].operation as usize;
            match &log.trace.operations[operation].operation {
                Operation::Create { ino: of, .. }
                | Operation::Link { ino: of, .. }
                | Operation::Remove { ino: of, .. } => *of == ino,
                Operation::Rename { ino: of, replaced, exchange, .. } => {
                    *of == ino || *exchange && *replaced == Some(ino)
                }
                _ => false,
            }
        })
        .collect()
}

/// Whether the trace made the object, and it is a directory.
pub(super) fn is_directory(log: &Steps<'_>, ino: Ino) -> bool {
    let initial = log.trace.initial.nodes.get(ino.index());
    if let Some(node) = initial {
        return node.made.kind == FileKind::Directory;
    }
    log.trace.operations.iter().any(|recorded| {
        matches!(&recorded.operation, Operation::Create { ino: of, made, .. }
            if *of == ino && made.kind == FileKind::Directory)
    })
}

/// The last operation before `end` that changed an object: its content, its attributes,
/// its names, and of a directory the names in it. `None` if none did.
pub(super) fn last_change(log: &Steps<'_>, ino: Ino, end: usize) -> Option<usize> {
    let changed = |operation: &Operation| match operation {
        Operation::Create { at, ino: of, .. }
        | Operation::Link { at, ino: of }
        | Operation::Remove { at, ino: of } => *of == ino || at.dir == ino,
        Operation::Rename { from, to, ino: of, replaced, .. } => {
            *of == ino || from.dir == ino || to.dir == ino || *replaced == Some(ino)
        }
        other => other.changes() && other.ino() == Some(ino),
    };
    log.trace.operations[..end].iter().rposition(|recorded| changed(&recorded.operation))
}

/// The last operation before `sync.at` that `fdatasync` cares for: a pure overwrite needs
/// its bytes only.
pub(super) fn last_needed_change(log: &Steps<'_>, sync: SyncPoint) -> Option<usize> {
    if sync.kind == SyncKind::Full {
        return last_change(log, sync.ino, sync.at);
    }
    let needed = |number: usize| {
        log.of(number).any(|step| {
            let Step { change, fill, .. } = log.steps[step];
            match change {
                Change::Size { ino, .. } => ino == sync.ino,
                Change::Data { ino, .. } => ino == sync.ino && fill == Fill::NewBlock,
                _ => false,
            }
        })
    };
    (0..sync.at).rev().find(|number| needed(*number))
}

/// A journal's sync: every name and attribute up to the last change of the object, its
/// bytes, and what those need.
pub(super) fn journal_cover(log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32> {
    let mut covered = data_of(log, rules, sync.ino, sync.at);
    if let Some(last) = last_needed_change(log, sync) {
        let upto = 0..rules.end(last + 1);
        covered.extend(upto.filter(|atom| is_metadata(log, rules, *atom)));
    }
    closed(rules, covered)
}

/// These atoms and all that they need.
pub(super) fn closed(rules: &Rules, atoms: Vec<u32>) -> Vec<u32> {
    let mut set = FixedBitSet::with_capacity(rules.atoms.len());
    rules.close(&mut set, atoms);
    set.ones().map(|atom| atom as u32).collect()
}

/// Whether it is for the journal at once: a name, an attribute, a length that was set.
pub(super) fn is_metadata(log: &Steps<'_>, rules: &Rules, atom: u32) -> bool {
    let steps = rules.atoms[atom as usize].steps.iter();
    steps.map(|step| &log.steps[*step as usize]).any(|step| match step.change {
        Change::Data { .. } => false,
        Change::Size { .. } => step.fill == Fill::None,
        _ => true,
    })
}
