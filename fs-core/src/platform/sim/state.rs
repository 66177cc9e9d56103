//! The running filesystem: inodes, journal, blocks, and who uses what.
//!
//! An operation (in `names`, `attr`, `data`) checks everything first, then makes
//! its changes one by one ([`State::change`]) and ends its journal entry
//! ([`State::end_op`]). Nothing fails in between, so every entry is whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;

use super::blocks::{Block, MOUNTED};
use super::device::{Cached, Plans};
use super::image::{Attrs, BlockId, Change, Content, Directory, Id, Image, Node, PAGE_BYTES, Slot};
use super::log_blocks::LogBlocks;
use super::model::SimOptions;
use super::random::Random;
use crate::error::{Errno, Result};
use crate::platform::{HANDLE_BYTES_MAX, ObjectKey};
use crate::types::{FileKind, Time};

pub(super) const NAME_BYTES_MAX: usize = 255;
/// As on ext4.
pub(super) const LINKS_MAX: u32 = 65_000;
/// The clock starts here: 2001-09-09.
const CLOCK_START_SECS: i64 = 1_000_000_000;
const ROOT_INO: u64 = 2;
pub(super) const FIRST_INO: u64 = 11;

/// One entry of the journal; it survives whole or not at all (except with
/// `PosixMin`).
#[derive(Debug, Clone, Default)]
pub(super) struct Op {
    pub(super) changes: Vec<Change>,
    /// Versions of blocks that are on disk before this entry commits.
    pub(super) floors: Vec<(BlockId, u64)>,
}

/// What is known of an inode only while the machine runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    /// Open files, open directories and pins.
    pub(super) users: u32,
    /// Position of the last journal entry with a change of this inode ...
    pub(super) changed: u64,
    /// ... and of the last one that is needed to read its data back.
    pub(super) changed_data: u64,
    /// With `PosixMin`: its own changes are durable up to this position.
    pub(super) synced: u64,
    /// The length that the journal knows, where allocation is delayed.
    pub(super) logged_size: u64,
    /// Pages whose blocks the journal does not know yet.
    pub(super) delayed: BTreeSet<u64>,
    /// Pages that the next sync writes. Not the pages of a failed sync: they
    /// count as clean, though they may not be on disk.
    pub(super) dirty: BTreeSet<u64>,
    /// Allocate when the next file is closed: cut to zero before.
    pub(super) flush_on_close: bool,
    pub(super) errors: ErrorSequence,
}

/// Write-back errors of an inode, as `errseq_t` of Linux.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ErrorSequence {
    count: u64,
    seen: bool,
}

impl ErrorSequence {
    pub(super) fn report(&mut self) {
        self.count += 1;
        self.seen = false;
    }

    /// Where a file that is opened now starts: an error that nobody has been
    /// told yet is told to it.
    pub(super) fn sample(self) -> u64 {
        if self.seen { self.count } else { 0 }
    }

    /// Tells the file at `position` whether there was an error since, once.
    pub(super) fn check(&mut self, position: &mut u64) -> Result<()> {
        if self.count == *position {
            return Ok(());
        }
        *position = self.count;
        self.seen = true;
        Err(Errno::IO)
    }
}

/// The filesystem and its disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) random: Random,
    pub(super) live: Image,
    pub(super) durable: Image,
    /// Entries after the durable image; the first has position `committed + 1`.
    pub(super) ops: VecDeque<Op>,
    pub(super) committed: u64,
    open_op: Op,
    /// Never iterated: its order is not the same in every run.
    pub(super) blocks: HashMap<BlockId, Block>,
    pub(super) running: BTreeMap<Id, Running>,
    pub(super) by_ino: HashMap<u64, Id>,
    pub(super) free_inos: BTreeSet<u64>,
    pub(super) next_ino: u64,
    pub(super) next_id: u64,
    pub(super) next_block: u64,
    /// Number of the next version of any block.
    pub(super) next_serial: u64,
    pub(super) ticks: u64,
    /// What the device was given since its last flush, in this order.
    pub(super) cache: Vec<Cached>,
    /// The logs, by the files that stand for them.
    pub(super) logs: BTreeMap<Id, LogBlocks>,
    /// Which boot of the machine this is.
    pub(super) boot: u128,
    pub(super) plans: Plans,
    pub(super) aborted: bool,
    pub(super) syncs: u64,
    pub(super) lies: u64,
    pub(super) flushes: u64,
    pub(super) log_writes: u64,
    pub(super) log_flushes: u64,
    pub(super) unasked: u64,
}

impl State {
    /// A filesystem with an empty root directory.
    pub(super) fn new(options: SimOptions, uid: u32, gid: u32) -> Self {
        let start = Time { secs: CLOCK_START_SECS, nanos: 0 };
        let attrs = Attrs {
            perm: 0o755,
            uid,
            gid,
            nlink: 2,
            size: 0,
            cuts: 0,
            atime: start,
            mtime: start,
            ctime: start,
        };
        let root = Node {
            ino: ROOT_INO,
            generation: 0,
            kind: FileKind::Directory,
            device: (0, 0),
            attrs,
            xattrs: BTreeMap::new(),
            content: Content::Directory(Directory::new(Id::ROOT)),
        };
        let mut image = Image::default();
        image.nodes.insert(Id::ROOT, Arc::new(root));
        Self::from_image(options, image, HashMap::new())
    }

    /// A filesystem on whose disk exactly this is.
    pub(super) fn from_image(
        options: SimOptions,
        image: Image,
        blocks: HashMap<BlockId, Block>,
    ) -> Self {
        let inos = image.nodes.iter().map(|(&id, node)| (node.ino, id));
        Self {
            random: Random::new(options.seed),
            options,
            by_ino: inos.collect(),
            durable: image.clone(),
            live: image,
            ops: VecDeque::new(),
            committed: 0,
            open_op: Op::default(),
            blocks,
            running: BTreeMap::new(),
            free_inos: BTreeSet::new(),
            next_ino: FIRST_INO,
            next_id: Id::ROOT.0 + 1,
            next_block: 1,
            next_serial: MOUNTED + 1,
            ticks: 0,
            cache: Vec::new(),
            logs: BTreeMap::new(),
            boot: 1,
            plans: Plans::default(),
            aborted: false,
            syncs: 0,
            lies: 0,
            flushes: 0,
            log_writes: 0,
            log_flushes: 0,
            unasked: 0,
        }
    }

    // ---- finding ----

    pub(super) fn node(&self, id: Id) -> Result<&Node> {
        self.live.get(id).ok_or(Errno::STALE)
    }

    pub(super) fn attrs(&self, id: Id) -> Result<Attrs> {
        Ok(self.node(id)?.attrs)
    }

    /// A directory, possibly a removed one.
    pub(super) fn directory(&self, id: Id) -> Result<&Directory> {
        self.node(id)?.directory().ok_or(Errno::NOTDIR)
    }

    /// What a name stands for; names are checked as the kernel checks them.
    pub(super) fn find(&self, dir: Id, name: &OsStr) -> Result<Option<Id>> {
        let directory = self.directory(dir)?;
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        let removed = self.attrs(dir)?.nlink == 0;
        if removed && name != "." && name != ".." {
            return Err(Errno::NOENT);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if name.as_encoded_bytes().contains(&b'/') {
            return Err(Errno::INVAL);
        }
        if name == "." {
            return Ok(Some(dir));
        }
        if name == ".." {
            return Ok(Some(directory.parent));
        }
        Ok(directory.by_name.get(name).map(|slot| slot.target))
    }

    /// As [`Self::find`], for a name that must be there.
    pub(super) fn existing(&self, dir: Id, name: &OsStr) -> Result<Id> {
        self.find(dir, name)?.ok_or(Errno::NOENT)
    }

    /// As [`Self::find`], for a name that an operation is about to change: not
    /// "." and "..", which are no entries.
    pub(super) fn find_to_change(&self, dir: Id, name: &OsStr) -> Result<Option<Id>> {
        if name == "." || name == ".." {
            return Err(Errno::INVAL);
        }
        self.find(dir, name)
    }

    pub(super) fn key(&self, id: Id) -> Result<ObjectKey> {
        let node = self.node(id)?;
        let mut handle = [0; HANDLE_BYTES_MAX];
        handle[..8].copy_from_slice(&node.ino.to_le_bytes());
        handle[8..16].copy_from_slice(&node.generation.to_le_bytes());
        Ok(ObjectKey { dev: 0, ino: node.ino, handle: (handle, 16, 1) })
    }

    /// The inode with this handle, as `open_by_handle_at(2)` finds it.
    pub(super) fn by_key(&self, key: &ObjectKey) -> Result<Id> {
        let id = *self.by_ino.get(&key.ino).ok_or(Errno::STALE)?;
        if self.key(id)?.portable() == key.portable() { Ok(id) } else { Err(Errno::STALE) }
    }

    // ---- changing ----

    /// Refuses changes after the journal was aborted.
    pub(super) fn writable(&self) -> Result<()> {
        if self.aborted { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// The time of an operation, which is a little later than that of the last.
    pub(super) fn now(&mut self) -> Time {
        self.ticks += 1;
        let nanos = self.ticks / self.options.changes_per_tick.max(1);
        let secs = (nanos / 1_000_000_000) as i64;
        Time { secs: CLOCK_START_SECS + secs, nanos: (nanos % 1_000_000_000) as u32 }
    }

    /// Position of the last journal entry.
    pub(super) fn end(&self) -> u64 {
        self.committed + self.ops.len() as u64
    }

    /// Position of the entry that is being made.
    pub(super) fn position(&self) -> u64 {
        self.end() + 1
    }

    pub(super) fn running(&mut self, id: Id) -> &mut Running {
        let size = self.live.get(id).map_or(0, |node| node.attrs.size);
        self.running
            .entry(id)
            .or_insert_with(|| Running { logged_size: size, ..Running::default() })
    }

    /// Makes a change that the running journal entry holds.
    pub(super) fn change(&mut self, change: Change) {
        let (id, position) = (change.subject(), self.position());
        let cuts = |image: &Image| image.get(id).map(|node| (node.attrs.size, node.attrs.cuts));
        let before = cuts(&self.live);
        // The lengths that it starts from are those before the change.
        self.running(id);
        self.live.apply(&change, &mut Vec::new());
        let data = match &change {
            Change::Born(..) | Change::Map { .. } | Change::Unmap { .. } => true,
            Change::Attrs(..) => before != cuts(&self.live),
            _ => false,
        };
        let running = self.running(id);
        running.changed = position;
        if data {
            running.changed_data = position;
        }
        let logged = self.as_logged(change);
        self.open_op.changes.push(logged);
    }

    /// A change as the journal gets it: with the length that is logged so far.
    fn as_logged(&mut self, change: Change) -> Change {
        let Change::Attrs(id, attrs) = change else { return change };
        let is_file = self.live.get(id).is_some_and(|node| node.blocks().is_some());
        if !is_file || !self.options.model.delays_allocation() {
            return change;
        }
        let size = self.running(id).logged_size;
        Change::Attrs(id, Attrs { size, ..attrs })
    }

    /// Maps a page at once for readers, but leaves the journal to write-back.
    pub(super) fn map_delayed(&mut self, id: Id, page: u64, block: BlockId) {
        self.live.apply(&Change::Map { id, page, block }, &mut Vec::new());
        let position = self.position();
        let running = self.running(id);
        running.delayed.insert(page);
        running.changed_data = position;
    }

    /// Has the running entry wait for a version of a block, where the model
    /// orders data at all.
    pub(super) fn floor(&mut self, block: BlockId, serial: u64) {
        if self.options.model.delays_allocation() {
            self.open_op.floors.push((block, serial));
        }
    }

    /// Changes attributes and stamps the time of the change.
    pub(super) fn touch(&mut self, id: Id, now: Time, edit: impl FnOnce(&mut Attrs)) {
        let Some(node) = self.live.get(id) else { return };
        let mut attrs = Attrs { ctime: now, ..node.attrs };
        edit(&mut attrs);
        self.change(Change::Attrs(id, attrs));
    }

    /// Sets or removes a name and stamps the directory.
    pub(super) fn set_entry(&mut self, dir: Id, name: &OsStr, target: Option<Id>, now: Time) {
        let Some(directory) = self.live.get(dir).and_then(Node::directory) else { return };
        let cookie = directory.cookie_for(name);
        let slot = target.map(|target| Slot { target, cookie });
        self.change(Change::Entry { dir, name: Arc::from(name), slot });
        self.touch(dir, now, |attrs| attrs.mtime = now);
    }

    /// Ends the running journal entry.
    pub(super) fn end_op(&mut self) {
        self.push_op();
        self.act_unasked();
        if self.ops.len() >= self.options.pending_ops_max.max(1) {
            self.sync_everything();
        }
    }

    /// As [`Self::end_op`], for write-back itself.
    pub(super) fn push_op(&mut self) {
        let op = std::mem::take(&mut self.open_op);
        if !op.changes.is_empty() {
            self.ops.push_back(op);
        }
    }

    pub(super) fn new_id(&mut self) -> Id {
        self.next_id += 1;
        Id(self.next_id - 1)
    }

    /// The lowest free inode number, as ext4 takes it.
    pub(super) fn new_ino(&mut self) -> u64 {
        self.free_inos.pop_first().unwrap_or_else(|| {
            self.next_ino += 1;
            self.next_ino - 1
        })
    }

    // ---- using ----

    /// One user more; the inode stays while it has one.
    pub(super) fn hold(&mut self, id: Id) {
        self.running(id).users += 1;
    }

    /// One user less.
    pub(super) fn let_go(&mut self, id: Id) {
        let running = self.running(id);
        running.users = running.users.saturating_sub(1);
        self.free_if_unused(id);
    }

    /// Frees an inode that has neither name nor user.
    pub(super) fn free_if_unused(&mut self, id: Id) {
        let users = self.running.get(&id).map_or(0, |running| running.users);
        let Some(node) = self.live.get(id) else { return };
        if node.attrs.nlink > 0 || users > 0 || self.aborted {
            return;
        }
        let ino = node.ino;
        let delayed = self.running.get(&id).map(|running| running.delayed.clone());
        for page in delayed.unwrap_or_default() {
            self.forget_delayed(id, page);
        }
        self.change(Change::Gone(id));
        self.end_op();
        self.by_ino.remove(&ino);
        // Where its name may come back, what was synced of it must too.
        if self.options.orders_metadata() {
            self.running.remove(&id);
            self.free_inos.insert(ino);
        }
    }

    /// Drops a page that the journal never knew.
    pub(super) fn forget_delayed(&mut self, id: Id, page: u64) {
        let running = self.running(id);
        running.delayed.remove(&page);
        running.dirty.remove(&page);
        let Some(blocks) = self.live.get_mut(id).and_then(Node::blocks_mut) else { return };
        if let Some(block) = blocks.remove(&page) {
            self.blocks.remove(&block);
        }
    }

    /// The pages that `bytes` from `offset` on touch.
    pub(super) const fn pages(offset: u64, bytes: u64) -> std::ops::Range<u64> {
        offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES)
    }
}
