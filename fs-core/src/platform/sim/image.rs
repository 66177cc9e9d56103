//! The metadata of a filesystem, and the changes that lead from one state to
//! the next.
//!
//! Invariant: metadata is changed by [`Image::apply`] only. The running
//! filesystem, the durable one and every crashed one are images to which the
//! same changes were applied, so replaying the journal cannot differ from what
//! the operations did.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::types::{Attr, FileKind, Time};

/// Size of a page, which is also the size of a block of the disk.
pub(super) const PAGE_BYTES: u64 = 4096;

/// An inode for ever: never given to another one, unlike its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u64);

impl Id {
    pub(super) const ROOT: Self = Self(1);
}

/// A block of the disk; given out once, so that freeing needs no care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockId(pub(super) u64);

/// The attributes of an inode that change, except its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attrs {
    pub(super) perm: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    /// How often the length was set rather than extended by a write. Tells
    /// which truncation a delayed extension of the length belongs to.
    pub(super) cuts: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
}

/// One inode.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) ino: u64,
    pub(super) generation: u64,
    pub(super) kind: FileKind,
    pub(super) device: (u32, u32),
    pub(super) attrs: Attrs,
    pub(super) xattrs: BTreeMap<Arc<OsStr>, Arc<[u8]>>,
    pub(super) content: Content,
}

/// What an inode holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Blocks by page number; a missing one is a hole.
    File(BTreeMap<u64, BlockId>),
    Directory(Directory),
    Symlink(Arc<[u8]>),
    Nothing,
}

/// The entries of a directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) parent: Id,
    pub(super) by_name: BTreeMap<Arc<OsStr>, Slot>,
    by_cookie: BTreeMap<u64, Arc<OsStr>>,
    /// Cookies are not given out twice, so that a reader's position stays good.
    next_cookie: u64,
}

/// What a name stands for, and where it is in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) target: Id,
    pub(super) cookie: u64,
}

/// Cookies of "." and "..".
pub(super) const DOT_COOKIE: u64 = 1;
pub(super) const DOT_DOT_COOKIE: u64 = 2;

impl Directory {
    pub(super) const fn new(parent: Id) -> Self {
        let by_cookie = BTreeMap::new();
        Self { parent, by_name: BTreeMap::new(), by_cookie, next_cookie: DOT_DOT_COOKIE + 1 }
    }

    /// Entries after `cookie` in the order of reading.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (&Arc<OsStr>, Slot)> {
        let from = self.by_cookie.range(cookie.saturating_add(1)..);
        from.map(|(_, name)| (name, self.by_name[name]))
    }

    /// The cookie for a name: that of an entry it replaces, else a new one.
    pub(super) fn cookie_for(&self, name: &OsStr) -> u64 {
        self.by_name.get(name).map_or(self.next_cookie, |slot| slot.cookie)
    }

    pub(super) fn set(&mut self, name: &Arc<OsStr>, slot: Option<Slot>) {
        if let Some(old) = self.by_name.remove(name) {
            self.by_cookie.remove(&old.cookie);
        }
        if let Some(slot) = slot {
            self.by_name.insert(Arc::clone(name), slot);
            self.by_cookie.insert(slot.cookie, Arc::clone(name));
            self.next_cookie = self.next_cookie.max(slot.cookie + 1);
        }
    }
}

impl Node {
    pub(super) fn attr(&self) -> Attr {
        let blocks = self.blocks().map_or(0, BTreeMap::len) as u64 * (PAGE_BYTES / 512);
        let size = match self.content {
            Content::Directory(_) => PAGE_BYTES,
            _ => self.attrs.size,
        };
        Attr {
            ino: self.ino,
            size,
            blocks,
            atime: self.attrs.atime,
            mtime: self.attrs.mtime,
            ctime: self.attrs.ctime,
            kind: self.kind,
            perm: self.attrs.perm,
            nlink: self.attrs.nlink,
            uid: self.attrs.uid,
            gid: self.attrs.gid,
            rdev_major: self.device.0,
            rdev_minor: self.device.1,
            block_bytes: PAGE_BYTES as u32,
        }
    }

    pub(super) fn directory(&self) -> Option<&Directory> {
        if let Content::Directory(directory) = &self.content { Some(directory) } else { None }
    }

    pub(super) fn blocks(&self) -> Option<&BTreeMap<u64, BlockId>> {
        if let Content::File(blocks) = &self.content { Some(blocks) } else { None }
    }

    pub(super) fn blocks_mut(&mut self) -> Option<&mut BTreeMap<u64, BlockId>> {
        if let Content::File(blocks) = &mut self.content { Some(blocks) } else { None }
    }
}

/// One change of one inode: the unit of the journal's entries.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// The inode exists.
    Born(Id, Arc<Node>),
    Attrs(Id, Attrs),
    /// A name in a directory stands for this, or for nothing.
    Entry {
        dir: Id,
        name: Arc<OsStr>,
        slot: Option<Slot>,
    },
    /// A directory is in this one now.
    Parent(Id, Id),
    Map {
        id: Id,
        page: u64,
        block: BlockId,
    },
    Unmap {
        id: Id,
        page: u64,
        block: BlockId,
    },
    Xattr {
        id: Id,
        name: Arc<OsStr>,
        value: Option<Arc<[u8]>>,
    },
    /// The inode is free: it has no name and no user any more.
    Gone(Id),
}

impl Change {
    /// The inode that it changes.
    pub(super) const fn subject(&self) -> Id {
        match self {
            Self::Born(id, _)
            | Self::Attrs(id, _)
            | Self::Entry { dir: id, .. }
            | Self::Parent(id, _)
            | Self::Map { id, .. }
            | Self::Unmap { id, .. }
            | Self::Xattr { id, .. }
            | Self::Gone(id) => *id,
        }
    }
}

/// All inodes. Copying an image costs one pointer for each inode; an inode is
/// copied when it changes while another image holds it too.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) nodes: BTreeMap<Id, Arc<Node>>,
}

impl Image {
    pub(super) fn get(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id).map(|node| &**node)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(&id).map(Arc::make_mut)
    }

    /// Applies a change; one of an inode that is not there is passed over (a
    /// crash that keeps each inode's own prefix may have dropped it). Blocks
    /// that no inode of this image maps any more are given to `freed`.
    pub(super) fn apply(&mut self, change: &Change, freed: &mut Vec<BlockId>) {
        match change {
            Change::Born(id, node) => {
                self.nodes.insert(*id, Arc::clone(node));
                return;
            }
            Change::Gone(id) => {
                if let Some(node) = self.nodes.remove(id) {
                    freed.extend(node.blocks().into_iter().flat_map(BTreeMap::values));
                }
                return;
            }
            _ => {}
        }
        let Some(node) = self.get_mut(change.subject()) else { return };
        match (change, &mut node.content) {
            (Change::Attrs(_, attrs), _) => node.attrs = *attrs,
            (Change::Entry { name, slot, .. }, Content::Directory(dir)) => dir.set(name, *slot),
            (Change::Parent(_, parent), Content::Directory(dir)) => dir.parent = *parent,
            (Change::Map { page, block, .. }, Content::File(blocks)) => {
                blocks.insert(*page, *block);
            }
            (Change::Unmap { page, block, .. }, Content::File(blocks)) => {
                blocks.remove(page);
                freed.push(*block);
            }
            (Change::Xattr { name, value, .. }, _) => match value {
                Some(value) => drop(node.xattrs.insert(Arc::clone(name), Arc::clone(value))),
                None => drop(node.xattrs.remove(name)),
            },
            _ => unreachable!("the operation checked what kind of inode it changes"),
        }
    }
}
