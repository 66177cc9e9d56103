//! A tree in memory, as steps make it: what one crash state looks like.
//!
//! Blocks are kept by content ([`Blocks`]), so that a state is numbers, a copy of it
//! shares what is equal, and two states of equal content have equal keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use super::steps::{BLOCK_BYTES, Change, NameId, Step, Steps};
use super::trace::{Ino, Made, Operation};
use crate::types::FileKind;

const BLOCK: usize = BLOCK_BYTES as usize;

/// A block's number; equal content, equal number. 0 is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockId(pub u32);

/// Blocks of 4096 bytes by content.
#[derive(Debug)]
pub struct Blocks {
    blocks: Vec<(Arc<[u8]>, u64)>,
    known: HashMap<blake3::Hash, BlockId>,
    /// What a step makes of a block.
    written: HashMap<(BlockId, u32), BlockId>,
    /// What is left of a block that is cut.
    cut: HashMap<(BlockId, u16), BlockId>,
}

impl Default for Blocks {
    fn default() -> Self {
        let mut blocks = Self {
            blocks: Vec::new(),
            known: HashMap::new(),
            written: HashMap::new(),
            cut: HashMap::new(),
        };
        blocks.add(&[0; BLOCK]);
        blocks
    }
}

impl Blocks {
    const ZERO: BlockId = BlockId(0);

    /// The number of a block with this content.
    fn add(&mut self, bytes: &[u8]) -> BlockId {
        let hash = blake3::hash(bytes);
        let next = BlockId(self.blocks.len() as u32);
        let id = *self.known.entry(hash).or_insert(next);
        if id == next {
            let key = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            self.blocks.push((bytes.into(), key));
        }
        id
    }

    /// The content of a block.
    #[must_use]
    pub fn bytes(&self, id: BlockId) -> &[u8] {
        &self.blocks[id.0 as usize].0
    }

    fn key(&self, id: BlockId) -> u64 {
        self.blocks[id.0 as usize].1
    }

    /// A block after `patch` at a place. `by` names the patch, if it has a name.
    fn patched(&mut self, id: BlockId, by: Option<u32>, at: usize, patch: &[u8]) -> BlockId {
        if let Some(done) = by.and_then(|by| self.written.get(&(id, by))) {
            return *done;
        }
        let patched = if patch.len() == BLOCK {
            self.add(patch)
        } else {
            let mut bytes = [0; BLOCK];
            bytes.copy_from_slice(self.bytes(id));
            bytes[at..at + patch.len()].copy_from_slice(patch);
            self.add(&bytes)
        };
        if let Some(by) = by {
            self.written.insert((id, by), patched);
        }
        patched
    }

    /// A block of which only the first `bytes` are left, the rest zero.
    fn cut(&mut self, id: BlockId, bytes: u16) -> BlockId {
        if id == Self::ZERO {
            return id;
        }
        if let Some(done) = self.cut.get(&(id, bytes)) {
            return *done;
        }
        let mut left = [0; BLOCK];
        left[..bytes as usize].copy_from_slice(&self.bytes(id)[..bytes as usize]);
        let cut = self.add(&left);
        self.cut.insert((id, bytes), cut);
        cut
    }
}

/// One object.
#[derive(Debug, Clone)]
pub struct Node {
    /// Kind, permission, owner ...
    pub made: Made,
    /// Extended attributes.
    pub xattrs: BTreeMap<NameId, Arc<[u8]>>,
    /// Length of a regular file.
    pub bytes: u64,
    /// Blocks that are not all zero, also behind the end.
    pub blocks: BTreeMap<u64, BlockId>,
    /// Names of a directory.
    pub names: BTreeMap<NameId, Ino>,
    /// Key of what is above, without names, once somebody has asked.
    key: OnceLock<u64>,
}

/// A tree. A clone is cheap.
#[derive(Debug, Clone)]
pub struct State {
    nodes: Vec<Arc<Node>>,
}

/// Bytes that a step writes instead of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Torn {
    /// The first `bytes` of the step's are written, the rest is as before.
    Head {
        /// How many.
        bytes: u16,
    },
    /// All but the first `bytes` are written.
    Tail {
        /// How many are not.
        bytes: u16,
    },
    /// Zeros: the length is there, the content is not.
    Zeros,
    /// What was on the disk before, of somebody else.
    Garbage,
}

/// What stands for bytes of somebody else.
const GARBAGE: u8 = 0xc3;

impl State {
    /// The tree before the first operation, with all objects of the trace in it; those
    /// that are made later have no name yet.
    #[must_use]
    pub fn initial(log: &Steps<'_>, blocks: &mut Blocks) -> Self {
        let trace = log.trace;
        let nothing = Made {
            kind: FileKind::Regular,
            perm: 0,
            uid: 0,
            gid: 0,
            device: (0, 0),
            target: Vec::new(),
        };
        let mut nodes = vec![Node::new(nothing); trace.inodes()];
        for (node, initial) in nodes.iter_mut().zip(&trace.initial.nodes) {
            *node = Node::new(initial.made.clone());
            node.bytes = initial.bytes;
            for (name, value) in &initial.xattrs {
                let name = log.find_name(name).unwrap_or(NameId(u32::MAX));
                node.xattrs.insert(name, value.as_slice().into());
            }
            for &(offset, blob) in &initial.extents {
                node.write(blocks, offset, trace.blobs.get(blob));
            }
        }
        for (place, ino) in &trace.initial.names {
            let name = log.find_name(&place.name);
            if let (Some(name), Some(dir)) = (name, nodes.get_mut(place.dir.index())) {
                dir.names.insert(name, *ino);
            }
        }
        for recorded in &trace.operations {
            if let Operation::Create { ino, made, .. } = &recorded.operation {
                nodes[ino.index()] = Node::new(made.clone());
            }
        }
        Self { nodes: nodes.into_iter().map(Arc::new).collect() }
    }

    /// An object.
    #[must_use]
    pub fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(ino.index()).map(|node| &**node)
    }

    fn change(&mut self, ino: Ino) -> Option<&mut Node> {
        let node = Arc::make_mut(self.nodes.get_mut(ino.index())?);
        node.key = OnceLock::new();
        Some(node)
    }

    /// Applies a step; `number` is its own.
    pub fn apply(&mut self, log: &Steps<'_>, blocks: &mut Blocks, number: u32, step: &Step) {
        match step.change {
            Change::Enter { dir, name, ino } => {
                if let Some(dir) = self.change(dir) {
                    dir.names.insert(name, ino);
                }
            }
            Change::Leave { dir, name } => {
                if let Some(dir) = self.change(dir) {
                    dir.names.remove(&name);
                }
            }
            Change::Size { ino, bytes } => {
                if let Some(node) = self.change(ino) {
                    node.resize(blocks, bytes);
                }
            }
            Change::Data { ino, block, at, bytes, source } => {
                let Some(node) = self.change(ino) else { return };
                let before = node.block(block);
                let patch = bytes_of(log, source, bytes);
                let after = blocks.patched(before, Some(number), at as usize, &patch);
                node.set_block(block, after);
            }
            Change::Attrs { ino } => {
                let operation = &log.trace.operations[step.operation as usize].operation;
                if let (Some(node), Operation::Attrs { perm, uid, gid, .. }) =
                    (self.change(ino), operation)
                {
                    (node.made.perm, node.made.uid, node.made.gid) = (*perm, *uid, *gid);
                }
            }
            Change::Xattr { ino, name } => {
                let operation = &log.trace.operations[step.operation as usize].operation;
                let (Some(node), Operation::Xattr { value, .. }) = (self.change(ino), operation)
                else {
                    return;
                };
                match value {
                    Some(value) => node.xattrs.insert(name, value.as_slice().into()),
                    None => node.xattrs.remove(&name),
                };
            }
        }
    }

    /// Applies a step of data in part only.
    pub fn apply_torn(&mut self, log: &Steps<'_>, blocks: &mut Blocks, step: &Step, torn: Torn) {
        let Change::Data { ino, block, at, bytes, source } = step.change else { return };
        let Some(node) = self.change(ino) else { return };
        let patch = bytes_of(log, source, bytes);
        let other: Vec<u8>;
        let (from, patch) = match torn {
            Torn::Head { bytes } => (0, &patch[..(bytes as usize).min(patch.len())]),
            Torn::Tail { bytes } => {
                let skipped = (bytes as usize).min(patch.len());
                (skipped, &patch[skipped..])
            }
            Torn::Zeros | Torn::Garbage => {
                other = vec![if torn == Torn::Zeros { 0 } else { GARBAGE }; patch.len()];
                (0, &other[..])
            }
        };
        let after = blocks.patched(node.block(block), None, at as usize + from, patch);
        node.set_block(block, after);
    }

    /// A key of all that a program could see of the tree: equal trees, equal keys.
    #[must_use]
    pub fn key(&self, log: &Steps<'_>, blocks: &mut Blocks) -> u64 {
        let mut seen = HashMap::new();
        self.key_of(Ino::ROOT, log, blocks, &mut seen, 0)
    }

    fn key_of(
        &self,
        ino: Ino,
        log: &Steps<'_>,
        blocks: &mut Blocks,
        seen: &mut HashMap<Ino, u64>,
        depth: u32,
    ) -> u64 {
        let Some(node) = self.nodes.get(ino.index()) else { return 0 };
        let content = node.content_key(log, blocks);
        if node.made.kind != FileKind::Directory || depth > DEPTH_MAX {
            return content;
        }
        if let Some(known) = seen.get(&ino) {
            return *known;
        }
        // Directories that hold each other are in no recording of ours.
        seen.insert(ino, 0);
        // In no order: traces number their names as they come.
        let mut key = content;
        for (name, child) in &node.names {
            let child = self.key_of(*child, log, blocks, seen, depth + 1);
            key = key.wrapping_add(hash_of(&(log.name_key(*name), child)));
        }
        seen.insert(ino, key);
        key
    }

    /// Visits every object that has a name, a directory before what is in it, with its
    /// path's names; the directory under test itself has none.
    pub fn visit(&self, visit: &mut dyn FnMut(&[NameId], Ino, &Node)) {
        self.visit_below(Ino::ROOT, &mut Vec::new(), &mut HashSet::new(), visit);
    }

    fn visit_below(
        &self,
        ino: Ino,
        path: &mut Vec<NameId>,
        seen: &mut HashSet<Ino>,
        visit: &mut dyn FnMut(&[NameId], Ino, &Node),
    ) {
        let Some(node) = self.node(ino) else { return };
        // A directory has one name in every recording of ours.
        if node.made.kind == FileKind::Directory && !seen.insert(ino) {
            return;
        }
        visit(path, ino, node);
        if path.len() as u32 > DEPTH_MAX {
            return;
        }
        for (name, child) in &node.names {
            path.push(*name);
            self.visit_below(*child, path, seen, visit);
            path.pop();
        }
    }
}

/// Deepest path; a state in which directories contain each other has no bottom.
const DEPTH_MAX: u32 = 200;

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = hasher();
    value.hash(&mut hasher);
    hasher.finish()
}

fn hasher() -> DefaultHasher {
    BuildHasherDefault::<DefaultHasher>::default().build_hasher()
}

fn bytes_of<'a>(
    log: &Steps<'a>,
    source: Option<(super::trace::Blob, u32)>,
    bytes: u16,
) -> std::borrow::Cow<'a, [u8]> {
    match source {
        Some((blob, from)) => {
            let all = log.trace.blobs.get(blob);
            let from = (from as usize).min(all.len());
            all[from..(from + bytes as usize).min(all.len())].into()
        }
        None => vec![0; bytes as usize].into(),
    }
}

impl Node {
    fn new(made: Made) -> Self {
        Self {
            made,
            xattrs: BTreeMap::new(),
            bytes: 0,
            blocks: BTreeMap::new(),
            names: BTreeMap::new(),
            key: OnceLock::new(),
        }
    }

    fn block(&self, block: u64) -> BlockId {
        self.blocks.get(&block).copied().unwrap_or(Blocks::ZERO)
    }

    fn set_block(&mut self, block: u64, id: BlockId) {
        if id == Blocks::ZERO {
            self.blocks.remove(&block);
        } else {
            self.blocks.insert(block, id);
        }
    }

    fn write(&mut self, blocks: &mut Blocks, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let start = offset + done as u64;
            let (block, at) = (start / BLOCK_BYTES, (start % BLOCK_BYTES) as usize);
            let part = (BLOCK - at).min(bytes.len() - done);
            let after = blocks.patched(self.block(block), None, at, &bytes[done..done + part]);
            self.set_block(block, after);
            done += part;
        }
    }

    fn resize(&mut self, blocks: &mut Blocks, bytes: u64) {
        if bytes < self.bytes {
            self.blocks.split_off(&bytes.div_ceil(BLOCK_BYTES));
            self.cut_last(blocks, bytes);
        }
        self.bytes = bytes;
    }

    fn cut_last(&mut self, blocks: &mut Blocks, bytes: u64) {
        let (last, left) = (bytes / BLOCK_BYTES, (bytes % BLOCK_BYTES) as u16);
        if let Some(&id) = self.blocks.get(&last) {
            let cut = blocks.cut(id, left);
            self.set_block(last, cut);
        }
    }

    /// Content of a regular file: its blocks up to its end, in order, that are not zero.
    pub fn content<'a>(&'a self, blocks: &'a Blocks) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.blocks.range(..self.bytes.div_ceil(BLOCK_BYTES)).map(move |(&block, &id)| {
            let start = block * BLOCK_BYTES;
            let visible = (self.bytes - start).min(BLOCK_BYTES) as usize;
            (start, &blocks.bytes(id)[..visible])
        })
    }

    /// A key of content and attributes, names aside: equal objects, equal keys.
    fn content_key(&self, log: &Steps<'_>, blocks: &mut Blocks) -> u64 {
        if let Some(&key) = self.key.get() {
            return key;
        }
        let mut hasher = hasher();
        let Made { kind, perm, uid, gid, device, target } = &self.made;
        (kind, perm, uid, gid, device, target).hash(&mut hasher);
        let xattrs = self.xattrs.iter().map(|(name, value)| hash_of(&(log.name_key(*name), value)));
        xattrs.fold(0, u64::wrapping_add).hash(&mut hasher);
        self.bytes_key(blocks).hash(&mut hasher);
        let key = hasher.finish();
        let _ = self.key.set(key);
        key
    }

    /// A key of a file's bytes alone.
    pub fn bytes_key(&self, blocks: &mut Blocks) -> u64 {
        let mut hasher = hasher();
        self.bytes.hash(&mut hasher);
        for (&block, &id) in self.blocks.range(..self.bytes.div_ceil(BLOCK_BYTES)) {
            let left = (self.bytes - block * BLOCK_BYTES).min(BLOCK_BYTES) as u16;
            let id = if left as usize == BLOCK { id } else { blocks.cut(id, left) };
            if id != Blocks::ZERO {
                (block, blocks.key(id)).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}
