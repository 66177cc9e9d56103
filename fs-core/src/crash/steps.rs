//! Operations taken apart into the steps that a disk may keep or lose one by one.
//!
//! A write is one step for each block of 4096 bytes, and before it the step that makes
//! the file longer; a rename is up to three changes of names. What belongs together is
//! for the models to say.

use std::collections::{BTreeSet, HashMap};

use super::trace::{Blob, Ino, Name, Operation, Place, Trace};

/// Unit of the page cache, and of what a step writes.
pub const BLOCK_BYTES: u64 = 4096;

const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;
const KEEP_SIZE: u32 = 0x01;

/// A name's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u32);

/// What one step changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A name for an object.
    Enter {
        /// In which directory.
        dir: Ino,
        /// The name.
        name: NameId,
        /// Of what.
        ino: Ino,
    },
    /// A name less.
    Leave {
        /// In which directory.
        dir: Ino,
        /// The name.
        name: NameId,
    },
    /// A new length; bytes beyond a shorter one are gone.
    Size {
        /// Of which file.
        ino: Ino,
        /// In bytes.
        bytes: u64,
    },
    /// Bytes of one block.
    Data {
        /// Of which file.
        ino: Ino,
        /// Number of the block.
        block: u64,
        /// First byte within the block.
        at: u16,
        /// How many; 4096 for all.
        bytes: u16,
        /// What: from this byte of the blob on; zeros without one.
        source: Option<(Blob, u32)>,
    },
    /// Permission and owner, as the operation has them.
    Attrs {
        /// Of what.
        ino: Ino,
    },
    /// An extended attribute, as the operation has it.
    Xattr {
        /// Of what.
        ino: Ino,
        /// Which.
        name: NameId,
    },
}

/// How a step's data meets what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// No data.
    None,
    /// The block had been written or was within the file.
    Overwrite,
    /// Behind the end of the file, in a block that has bytes of the file already.
    PartialAppend,
    /// A block behind the end of the file, or in a hole.
    NewBlock,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What it changes.
    pub change: Change,
    /// The operation that it is part of.
    pub operation: u32,
    /// For data, what was there before.
    pub fill: Fill,
}

impl Step {
    /// The object whose content or attributes it changes, or whose name it gives.
    #[must_use]
    pub const fn ino(&self) -> Option<Ino> {
        match self.change {
            Change::Enter { ino, .. }
            | Change::Size { ino, .. }
            | Change::Data { ino, .. }
            | Change::Attrs { ino }
            | Change::Xattr { ino, .. } => Some(ino),
            Change::Leave { .. } => None,
        }
    }

    /// Whether it writes bytes.
    #[must_use]
    pub const fn is_data(&self) -> bool {
        matches!(self.change, Change::Data { .. })
    }
}

/// A trace as steps.
#[derive(Debug)]
pub struct Steps<'a> {
    /// What it was made from.
    pub trace: &'a Trace,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// First step of each operation, and the end.
    pub first: Vec<u32>,
    /// Names by number.
    pub names: Vec<Name>,
    /// Keys of the names: the same in every trace.
    name_keys: Vec<u64>,
    known: HashMap<Name, NameId>,
}

impl<'a> Steps<'a> {
    /// Takes a trace apart.
    #[must_use]
    pub fn new(trace: &'a Trace) -> Self {
        let (steps, first) = (Vec::new(), Vec::new());
        let mut log = Self {
            trace,
            steps,
            first,
            names: Vec::new(),
            name_keys: Vec::new(),
            known: HashMap::new(),
        };
        for (place, _) in &trace.initial.names {
            log.name(&place.name);
        }
        for (name, _) in trace.initial.nodes.iter().flat_map(|node| &node.xattrs) {
            log.name(name);
        }
        let mut files = Files::new(trace);
        for (number, recorded) in trace.operations.iter().enumerate() {
            log.first.push(log.steps.len() as u32);
            log.take_apart(number as u32, &recorded.operation, &mut files);
        }
        log.first.push(log.steps.len() as u32);
        log
    }

    /// The steps of an operation.
    #[must_use]
    pub fn of(&self, operation: usize) -> std::ops::Range<usize> {
        self.first[operation] as usize..self.first[operation + 1] as usize
    }

    /// The number of a name that the trace has.
    #[must_use]
    pub fn find_name(&self, name: &[u8]) -> Option<NameId> {
        self.known.get(name).copied()
    }

    /// A number that stands for a name in every trace.
    #[must_use]
    pub fn name_key(&self, name: NameId) -> u64 {
        self.name_keys.get(name.0 as usize).copied().unwrap_or(0)
    }

    fn name(&mut self, name: &Name) -> NameId {
        let next = NameId(self.names.len() as u32);
        let id = *self.known.entry(Name::clone(name)).or_insert(next);
        if id == next {
            self.names.push(Name::clone(name));
            let key = blake3::hash(name);
            let key = key.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            self.name_keys.push(key);
        }
        id
    }

    fn push(&mut self, operation: u32, change: Change, fill: Fill) {
        self.steps.push(Step { change, operation, fill });
    }

    fn take_apart(&mut self, number: u32, operation: &Operation, files: &mut Files) {
        let plain = |log: &mut Self, change| log.push(number, change, Fill::None);
        match operation {
            Operation::Create { at, ino, .. } | Operation::Link { at, ino } => {
                let enter = self.enter(at, *ino);
                plain(self, enter);
            }
            Operation::Remove { at, .. } => {
                let leave = self.leave(at);
                plain(self, leave);
            }
            Operation::Rename { from, to, ino, replaced, exchange } => {
                let enter = self.enter(to, *ino);
                plain(self, enter);
                let source = match replaced {
                    Some(replaced) if *exchange => self.enter(from, *replaced),
                    _ => self.leave(from),
                };
                plain(self, source);
            }
            Operation::Write { ino, offset, data, .. } => {
                let bytes = self.trace.blobs.get(*data).len() as u64;
                self.write(number, *ino, *offset, bytes, *data, files);
            }
            Operation::Resize { ino, bytes } => self.resize(number, *ino, *bytes, files),
            Operation::Allocate { ino, mode, offset, bytes } => {
                self.allocate(number, *ino, *mode, *offset..offset.saturating_add(*bytes), files);
            }
            Operation::Attrs { ino, .. } => plain(self, Change::Attrs { ino: *ino }),
            Operation::Xattr { ino, name, .. } => {
                let name = self.name(name);
                plain(self, Change::Xattr { ino: *ino, name });
            }
            Operation::Sync { .. } | Operation::Close { .. } | Operation::Ack { .. } => {}
        }
    }

    /// A shorter file's last block is zeroed behind its new end, in place, and that may
    /// reach the disk before the new length does.
    fn resize(&mut self, number: u32, ino: Ino, bytes: u64, files: &mut Files) {
        let (block, at) = (bytes / BLOCK_BYTES, (bytes % BLOCK_BYTES) as u16);
        let is_cut = bytes < files.size(ino) && at > 0;
        if is_cut && !files.written(ino, &(bytes..bytes + 1)).is_empty() {
            let rest = BLOCK_BYTES as u16 - at;
            let change = Change::Data { ino, block, at, bytes: rest, source: None };
            self.push(number, change, Fill::Overwrite);
        }
        files.resize(ino, bytes);
        self.push(number, Change::Size { ino, bytes }, Fill::None);
    }

    fn enter(&mut self, at: &Place, ino: Ino) -> Change {
        Change::Enter { dir: at.dir, name: self.name(&at.name), ino }
    }

    fn leave(&mut self, at: &Place) -> Change {
        Change::Leave { dir: at.dir, name: self.name(&at.name) }
    }

    fn allocate(
        &mut self,
        number: u32,
        ino: Ino,
        mode: u32,
        range: std::ops::Range<u64>,
        files: &mut Files,
    ) {
        if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
            // What lies behind the end is not there to be zeroed.
            let end = range.end.min(files.size(ino));
            let range = range.start.min(end)..end;
            for block in files.written(ino, &range) {
                let start = range.start.max(block * BLOCK_BYTES);
                let (at, end) = (start % BLOCK_BYTES, range.end.min((block + 1) * BLOCK_BYTES));
                let (at, bytes) = (at as u16, end.saturating_sub(start) as u16);
                let change = Change::Data { ino, block, at, bytes, source: None };
                self.push(number, change, Fill::Overwrite);
            }
        }
        if mode & KEEP_SIZE == 0 && range.end > files.size(ino) {
            files.resize(ino, range.end);
            self.push(number, Change::Size { ino, bytes: range.end }, Fill::None);
        }
    }

    /// One step for each block, each with the new length in front of it if there is one.
    fn write(
        &mut self,
        number: u32,
        ino: Ino,
        offset: u64,
        bytes: u64,
        blob: Blob,
        files: &mut Files,
    ) {
        let mut done = 0;
        while done < bytes {
            let start = offset + done;
            let (block, at) = (start / BLOCK_BYTES, start % BLOCK_BYTES);
            let part = (BLOCK_BYTES - at).min(bytes - done);
            let size = files.size(ino);
            let fill = files.fill(ino, block, start + part);
            if start + part > size {
                files.resize(ino, start + part);
                self.push(number, Change::Size { ino, bytes: start + part }, fill);
            }
            let source = Some((blob, done as u32));
            let change = Change::Data { ino, block, at: at as u16, bytes: part as u16, source };
            self.push(number, change, fill);
            done += part;
        }
    }
}

/// Lengths and written blocks while the trace is walked through.
struct Files {
    sizes: Vec<u64>,
    written: Vec<BTreeSet<u64>>,
}

impl Files {
    fn new(trace: &Trace) -> Self {
        let mut files =
            Self { sizes: vec![0; trace.inodes()], written: vec![BTreeSet::new(); trace.inodes()] };
        for (number, node) in trace.initial.nodes.iter().enumerate() {
            files.sizes[number] = node.bytes;
            for &(offset, blob) in &node.extents {
                let end = offset + trace.blobs.get(blob).len() as u64;
                files.written[number].extend(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
            }
        }
        files
    }

    fn size(&self, ino: Ino) -> u64 {
        self.sizes.get(ino.index()).copied().unwrap_or(0)
    }

    fn resize(&mut self, ino: Ino, bytes: u64) {
        if let Some(size) = self.sizes.get_mut(ino.index()) {
            if bytes < *size {
                self.written[ino.index()].split_off(&bytes.div_ceil(BLOCK_BYTES));
            }
            *size = bytes;
        }
    }

    /// Blocks of a range that have been written.
    fn written(&self, ino: Ino, range: &std::ops::Range<u64>) -> Vec<u64> {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let written = self.written.get(ino.index());
        written.map(|written| written.range(blocks).copied().collect()).unwrap_or_default()
    }

    fn fill(&mut self, ino: Ino, block: u64, end: u64) -> Fill {
        let grows = end > self.size(ino);
        let is_new = self.written.get_mut(ino.index()).is_none_or(|blocks| blocks.insert(block));
        match (is_new, grows) {
            (true, _) => Fill::NewBlock,
            (false, true) => Fill::PartialAppend,
            (false, false) => Fill::Overwrite,
        }
    }
}
