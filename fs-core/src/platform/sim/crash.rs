//! What a power cut leaves behind.
//!
//! First the metadata: a prefix of the journal, or with `PosixMin` each inode's
//! own prefix and then a repair. Then what delayed allocation had written back by
//! itself. Then the content of every block, and what lies beyond the ends of
//! files is cut off. Each part has its own random choice, so that the extremes
//! (all metadata and no data, no metadata and all data) come often.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;

use super::blocks::{Block, Survivor, Taste, UNWRITTEN};
use super::image::{BlockId, Change, Content, Id, Image, Node, PAGE_BYTES};
use super::log_blocks::LogBlocks;
use super::random::Random;
use super::state::{FIRST_INO, State};
use crate::types::FileKind;

/// The choices of one crash.
struct Crash<'a> {
    state: &'a State,
    random: Random,
    taste: Taste,
    reach: Reach,
    /// Entries of the journal up to here are there (not with `PosixMin`).
    position: u64,
    floors: BTreeMap<BlockId, u64>,
}

/// How much more of the metadata is there than was promised.
#[derive(Debug, Clone, Copy)]
enum Reach {
    Nothing,
    Everything,
    Something,
}

impl Reach {
    /// A position from the promised one to the last one.
    fn position(self, promised: u64, last: u64, random: &mut Random) -> u64 {
        match self {
            Self::Nothing => promised,
            Self::Everything => last,
            Self::Something => promised + random.below(last - promised + 1),
        }
    }
}

/// What survived of a file, by page number.
type Pages = BTreeMap<u64, (BlockId, Survivor)>;

/// Where the surviving names of an inode were found: directory, name, and the
/// position of the entry that made the name.
type Names = BTreeMap<Id, Vec<(Id, Arc<OsStr>, u64)>>;

impl State {
    /// A filesystem as a power cut now could leave it, mounted again.
    pub(super) fn crash(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let taste = match random.below(8) {
            0 => Taste::Oldest,
            1 => Taste::Newest,
            2..5 if self.options.torn_sectors => Taste::Torn,
            _ => Taste::Any,
        };
        let reach = match random.below(4) {
            0 => Reach::Nothing,
            1 => Reach::Everything,
            _ => Reach::Something,
        };
        let position = reach.position(self.committed, self.end(), &mut random);
        let floors = BTreeMap::new();
        let mut crash = Crash { state: self, random, taste, reach, position, floors };
        let mut image =
            if self.options.orders_metadata() { crash.prefix() } else { crash.own_prefixes() };
        crash.add_flushed();
        image.nodes.retain(|_, node| node.attrs.nlink > 0);
        let blocks = crash.contents(&mut image);
        let logs = crash.logs(&image);
        let mut after = Self::from_image(self.options.clone(), image, blocks);
        after.logs = logs;
        after.options.seed = crash.random.word();
        after.random = crash.random;
        after.continue_numbers(self);
        after
    }

    /// Numbers go on after those given out before the crash, so that handles
    /// and times do not come twice.
    fn continue_numbers(&mut self, before: &Self) {
        self.next_id = before.next_id;
        self.next_block = before.next_block;
        self.next_serial = before.next_serial;
        self.ticks = before.ticks;
        self.next_ino = before.next_ino;
        // Half counts, half tells the crashes of one disk apart.
        let other = Random::new(self.options.seed).word();
        self.boot = u128::from((before.boot >> 64) as u64 + 1) << 64 | u128::from(other);
        if self.options.orders_metadata() {
            self.free_inos =
                (FIRST_INO..self.next_ino).filter(|ino| !self.by_ino.contains_key(ino)).collect();
        }
    }
}

impl Crash<'_> {
    // ---- metadata ----

    /// The durable metadata and the journal up to the chosen position.
    fn prefix(&mut self) -> Image {
        let mut image = self.state.durable.clone();
        let kept = (self.position - self.state.committed) as usize;
        let mut freed = Vec::new();
        for op in self.state.ops.iter().take(kept) {
            op.floors.iter().for_each(|&floor| raise(&mut self.floors, floor));
            op.changes.iter().for_each(|change| image.apply(change, &mut freed));
        }
        image
    }

    /// A surviving entry was committed after a flush: what had been written out
    /// before that entry was made is there.
    fn add_flushed(&mut self) {
        if !self.state.options.orders_metadata() {
            return;
        }
        for cached in self.state.cache.iter().filter(|cached| cached.position < self.position) {
            raise(&mut self.floors, (cached.block, cached.serial));
        }
    }

    /// Each inode with a prefix of its own changes, repaired.
    fn own_prefixes(&mut self) -> Image {
        let mut image = self.state.durable.clone();
        let mut ends: BTreeMap<Id, u64> = BTreeMap::new();
        let mut positions: BTreeMap<(Id, Arc<OsStr>), u64> = BTreeMap::new();
        let mut freed = Vec::new();
        for (op, position) in self.state.ops.iter().zip(self.state.committed + 1..) {
            for change in &op.changes {
                let id = change.subject();
                let end = *ends.entry(id).or_insert_with(|| {
                    let running = self.state.running.get(&id);
                    let synced = running.map_or(0, |running| running.synced);
                    let synced = synced.max(self.state.committed);
                    self.reach.position(synced, self.state.end(), &mut self.random)
                });
                let kept = match change {
                    Change::Born(..) => true,
                    // Whether it is gone, its names decide.
                    Change::Gone(_) => false,
                    _ => position <= end,
                };
                if !kept {
                    continue;
                }
                if let Change::Entry { dir, name, slot: Some(_) } = change {
                    positions.insert((*dir, Arc::clone(name)), position);
                }
                image.apply(change, &mut freed);
                op.floors.iter().for_each(|&floor| raise(&mut self.floors, floor));
            }
        }
        repair(&mut image, &positions);
        image
    }

    // ---- data ----

    /// What is in the logs whose files are there.
    fn logs(&mut self, image: &Image) -> BTreeMap<Id, LogBlocks> {
        let torn = self.state.options.torn_sectors;
        let there = self.state.logs.iter().filter(|(id, _)| image.nodes.contains_key(id));
        there.map(|(&id, log)| (id, log.crash(torn, &mut self.random))).collect()
    }

    /// The content of every block that the image maps, and the lengths that
    /// delayed allocation had reached.
    fn contents(&mut self, image: &mut Image) -> HashMap<BlockId, Block> {
        let mut contents = HashMap::new();
        let ids: Vec<Id> = image.nodes.keys().copied().collect();
        for id in ids {
            let Some(node) = image.get(id).filter(|node| node.kind == FileKind::Regular) else {
                continue;
            };
            let mut survivors = self.logged_pages(node);
            let delayed = self.delayed_pages(id);
            let unwritten = self.still_unwritten(&delayed);
            survivors.extend(delayed);
            let size = self.length(node, &survivors);
            survivors.retain(|page, _| !unwritten.contains(page));
            survivors.retain(|&page, _| page * PAGE_BYTES < size);
            set_content(image, id, size, &survivors);
            for (page, (block, survivor)) in survivors {
                contents.insert(block, mounted(survivor, size - page * PAGE_BYTES));
            }
        }
        contents
    }

    /// Pages whose blocks the journal knows.
    fn logged_pages(&mut self, node: &Node) -> Pages {
        let blocks = node.blocks().into_iter().flatten();
        let stale = self.state.options.model.shows_stale_data();
        let mut pages = Pages::new();
        for (&page, &block) in blocks {
            let floor = self.floors.get(&block).copied().unwrap_or(0);
            let known = &self.state.blocks[&block];
            let survivor = known.survivor(floor, |_| true, self.taste, &mut self.random);
            // A block that was allocated and not written is a hole to readers,
            // where allocation follows the data.
            let shows = |survivor: &Survivor| stale || survivor.oldest.serial != UNWRITTEN;
            if let Some(survivor) = survivor.filter(shows) {
                pages.insert(page, (block, survivor));
            }
        }
        pages
    }

    /// Pages that write-back may have allocated by itself after their write, in
    /// a journal entry that survived too.
    fn delayed_pages(&mut self, id: Id) -> Pages {
        let mut pages = Pages::new();
        let running = self.state.running.get(&id);
        let blocks = self.state.live.get(id).and_then(Node::blocks);
        let (Some(running), Some(blocks)) = (running, blocks) else { return pages };
        for &page in &running.delayed {
            let written_back = match self.taste {
                Taste::Oldest => false,
                Taste::Newest => true,
                _ => self.random.one_in(2),
            };
            if !written_back {
                continue;
            }
            let (block, position) = (blocks[&page], self.position);
            // What an entry that survived has zeroed cannot come back either.
            let floor = self.floors.get(&block).copied().unwrap_or(0).max(UNWRITTEN + 1);
            let known = &self.state.blocks[&block];
            let survivor = known.survivor(
                floor,
                |version| version.position <= position,
                self.taste,
                &mut self.random,
            );
            pages.extend(survivor.map(|survivor| (page, (block, survivor))));
        }
        pages
    }

    /// Pages that have a block and a length, and of which nothing has arrived.
    fn still_unwritten(&mut self, delayed: &Pages) -> BTreeSet<u64> {
        let is_certain = matches!(self.taste, Taste::Oldest | Taste::Newest);
        if !self.state.options.length_first || is_certain {
            return BTreeSet::new();
        }
        delayed.keys().copied().filter(|_| self.random.one_in(3)).collect()
    }

    /// The length: what the journal says, or the end of data that had arrived
    /// after that and before the end of what survived of the journal.
    fn length(&mut self, node: &Node, pages: &Pages) -> u64 {
        let logged = node.attrs.size;
        if !self.state.options.model.delays_allocation() {
            return logged;
        }
        let reached = pages.values().filter_map(|(_, survivor)| {
            let oldest = &survivor.oldest;
            let counts = oldest.position <= self.position
                && oldest.cuts == node.attrs.cuts
                && oldest.end > logged;
            counts.then_some(oldest.end)
        });
        let lengths: Vec<u64> = std::iter::once(logged).chain(reached).collect();
        match self.taste {
            Taste::Oldest => logged,
            Taste::Newest => lengths.iter().copied().max().unwrap_or(logged),
            _ => lengths[self.random.index(lengths.len())],
        }
    }
}

/// Versions of a block from this one on.
fn raise(floors: &mut BTreeMap<BlockId, u64>, (block, serial): (BlockId, u64)) {
    let floor = floors.entry(block).or_insert(serial);
    *floor = serial.max(*floor);
}

/// Gives a file the length and the blocks that survived.
fn set_content(image: &mut Image, id: Id, size: u64, pages: &Pages) {
    let same_pages = |blocks: &BTreeMap<u64, BlockId>| blocks.keys().eq(pages.keys());
    let unchanged = |node: &Node| node.attrs.size == size && node.blocks().is_some_and(same_pages);
    if image.get(id).is_none_or(unchanged) {
        return;
    }
    let Some(node) = image.get_mut(id) else { return };
    node.attrs.size = size;
    if let Some(blocks) = node.blocks_mut() {
        *blocks = pages.iter().map(|(&page, &(block, _))| (page, block)).collect();
    }
}

/// A block with what survived of it; `left` bytes of it belong to the file.
fn mounted(survivor: Survivor, left: u64) -> Block {
    let left = left.min(PAGE_BYTES) as usize;
    if survivor.page[left..] == [0; PAGE_BYTES as usize][left..] {
        return Block::mounted(survivor.page);
    }
    let mut page = *survivor.page;
    page[left..].fill(0);
    Block::mounted(Arc::new(page))
}

/// What fsck does: a directory keeps its newest name only, what has no name
/// under the root is dropped, link counts and parents are set right.
fn repair(image: &mut Image, positions: &BTreeMap<(Id, Arc<OsStr>), u64>) {
    let names = names_of(image, positions);
    drop_surplus_names(image, &names);
    let mut reached: BTreeMap<Id, (u32, Id)> = BTreeMap::from([(Id::ROOT, (2, Id::ROOT))]);
    let mut todo = VecDeque::from([Id::ROOT]);
    while let Some(dir) = todo.pop_front() {
        let Some(directory) = image.get(dir).and_then(Node::directory) else { continue };
        let targets: Vec<Id> = directory.by_name.values().map(|slot| slot.target).collect();
        for id in targets {
            let is_dir = image.get(id).is_some_and(|node| node.directory().is_some());
            let links = reached.entry(id).or_insert((0, dir));
            links.0 += if is_dir { 2 } else { 1 };
            if is_dir {
                todo.push_back(id);
                reached.entry(dir).and_modify(|links| links.0 += 1);
            }
        }
    }
    image.nodes.retain(|id, _| reached.contains_key(id));
    for (id, (nlink, parent)) in reached {
        let Some(node) = image.get(id) else { continue };
        let moved = node.directory().is_some_and(|directory| directory.parent != parent);
        if node.attrs.nlink == nlink && !moved {
            continue;
        }
        let Some(node) = image.get_mut(id) else { continue };
        node.attrs.nlink = nlink;
        if let Content::Directory(directory) = &mut node.content {
            directory.parent = parent;
        }
    }
}

fn names_of(image: &Image, positions: &BTreeMap<(Id, Arc<OsStr>), u64>) -> Names {
    let mut names = Names::new();
    for (&dir, node) in &image.nodes {
        for (name, slot) in node.directory().into_iter().flat_map(|d| &d.by_name) {
            let position = positions.get(&(dir, Arc::clone(name))).copied().unwrap_or(0);
            names.entry(slot.target).or_default().push((dir, Arc::clone(name), position));
        }
    }
    names
}

/// Takes from every directory all names but the newest, and names of what is
/// not there.
fn drop_surplus_names(image: &mut Image, names: &Names) {
    for (&id, places) in names {
        let newest = match image.get(id) {
            Some(node) if node.directory().is_none() => continue,
            Some(_) => places.iter().enumerate().max_by_key(|(_, place)| place.2).map(|(i, _)| i),
            None => None,
        };
        for (index, (dir, name, _)) in places.iter().enumerate() {
            if Some(index) == newest {
                continue;
            }
            if let Some(Content::Directory(directory)) =
                image.get_mut(*dir).map(|node| &mut node.content)
            {
                directory.set(name, None);
            }
        }
    }
}
