//! Which bytes of a file have blocks of their own: `FS_IOC_FIEMAP`.
//!
//! Asked without `FIEMAP_FLAG_SYNC`: what waits for allocation is told as such
//! and not written first. Needs neither the right to read nor to write.
//!
//! What blocks outside of lanefs may still do to a range after the call: share
//! it (`FICLONE`, `copy_file_range(2)`, deduplication) or move it
//! (defragmentation). The first copy made through the engine is known to it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fence::{EXT4_MAGIC, XFS_MAGIC};
use crate::error::Result;
use crate::platform::WHOLE_FILE;

/// Extents looked at before the rest of a file is left out.
const EXTENTS_MAX: usize = 4096;

/// Extents asked for in one call: most files have few, and room for each costs time.
const EXTENTS_PER_CALL: usize = 64;

// Flags of the kernel's `fiemap.h`.
const EXTENT_LAST: u32 = 0x0001;
const EXTENT_SHARED: u32 = 0x2000;
/// Waits for allocation.
const EXTENT_DELAYED: u32 = 0x0004;
/// No blocks, none yet, none with data, or bytes that are elsewhere or look
/// different: unknown, delayed, encoded, encrypted, not aligned, inline, tail,
/// unwritten.
const EXTENT_WITHOUT_DATA: u32 =
    0x0002 | 0x0004 | 0x0008 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x0800;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` and room for its extents.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; EXTENTS_PER_CALL],
}

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`, the size without extents.
const FS_IOC_FIEMAP: rustix::ioctl::Opcode =
    rustix::ioctl::opcode::read_write::<[u64; 4]>(b'f', 11);

/// The ranges that an overwrite changes in place, without metadata: see
/// [`Backing::settled`](crate::platform::Backing::settled).
pub(super) fn settled(
    file: &OwnedFd,
    filesystem_magic: u64,
    xfs: Option<&XfsTrees>,
    within: Range<u64>,
) -> Result<Vec<Range<u64>>> {
    let is_settled = |flags: u32| flags & (EXTENT_WITHOUT_DATA | EXTENT_SHARED) == 0;
    match filesystem_magic {
        EXT4_MAGIC if ext4_journals_data(file)? => Ok(Vec::new()),
        // XFS copies a shared block elsewhere when it is written, and reserves room
        // for its neighbours with it (`cowextsize`): a later write to one of those
        // goes there too, though it is not shared (`xfs_buffered_write_iomap_begin`
        // looks into the copy-on-write fork first, Linux 6.18). The reservation
        // shows in no extent, and outlives the sharing: all of the file is looked at.
        XFS_MAGIC => {
            let found = walk(file, WHOLE_FILE, is_settled, EXTENTS_MAX)?;
            let may_move =
                found.shared || found.cut_off || has_more_blocks(file, xfs, found.bytes)?;
            Ok(if may_move { Vec::new() } else { found.ranges })
        }
        _ => Ok(walk(file, within, is_settled, EXTENTS_MAX)?.ranges),
    }
}

/// All ranges with data in blocks, shared or not.
pub(super) fn allocated(file: &OwnedFd, within: Range<u64>) -> Result<Vec<Range<u64>>> {
    let is_allocated = |flags: u32| flags & EXTENT_WITHOUT_DATA == 0;
    Ok(walk(file, within, is_allocated, usize::MAX)?.ranges)
}

/// The ranges that wait for allocation. Not unwritten extents: they may be under way to the device,
/// with older content than the page cache has.
pub(super) fn delayed(
    file: &OwnedFd,
    filesystem_magic: u64,
    within: Range<u64>,
) -> Result<Vec<Range<u64>>> {
    if filesystem_magic == EXT4_MAGIC && !ext4_has_extents(file)? {
        return Ok(Vec::new());
    }
    let is_delayed = |flags: u32| flags & EXTENT_DELAYED != 0;
    Ok(walk(file, within, is_delayed, EXTENTS_MAX)?.ranges)
}

/// Whether a file has blocks besides those of its extents and of their tree. On XFS a reservation for
/// copies counts (`i_delayed_blks`); so do blocks of extended attributes.
fn has_more_blocks(file: &OwnedFd, xfs: Option<&XfsTrees>, extents_bytes: u64) -> Result<bool> {
    /// Unit of `stx_blocks`.
    const STAT_BLOCK_BYTES: u64 = 512;
    let attr = super::attr::stat_fd(file.as_fd())?.0;
    Ok(attr.blocks.saturating_mul(STAT_BLOCK_BYTES) > extents_bytes
        && xfs.is_none_or(|trees| trees.has_more_blocks(file, attr.ino, extents_bytes)))
}

/// How an XFS keeps the extents for which an inode has no room: in a tree of blocks.
///
/// A file's blocks are its extents', its tree's, its extended attributes', and what is reserved for
/// copies. What is left without the extents is therefore no reservation if it is no more than the
/// tree has at least, with full leaves. Leaves that are not make a file look as if it had one.
#[derive(Debug, Clone, Copy)]
pub(super) struct XfsTrees {
    block_bytes: u64,
    /// Of an inode, for all that is no attribute of the file itself.
    forks_bytes: usize,
    /// No leaf holds more.
    leaf_records_max: usize,
}

/// What an XFS says of an inode, all of the same moment (`xfs_bulkstat_one_int`).
struct XfsInode {
    /// Those that are reserved included.
    blocks: u64,
    /// On the disk: not those that wait for blocks.
    extents: u32,
    /// Where extended attributes begin in the inode's room, in bytes (`xfs_inode_fork_boff`); 0: nowhere.
    attributes_at: u16,
}

impl XfsTrees {
    /// A record of an extent: `struct xfs_bmbt_rec`.
    const RECORD_BYTES: usize = 16;
    /// `struct xfs_btree_block` with long pointers, without a checksum: the smaller one.
    const LEAF_HEAD_BYTES: usize = 24;

    /// Of the filesystem with this directory; `None` if it does not say.
    pub(super) fn of(directory: BorrowedFd<'_>) -> Option<Self> {
        let geometry = super::ordered::xfs_geometry(directory).ok()?;
        Some(Self::new(geometry.block_bytes, geometry.inode_bytes, geometry.has_checksums()))
    }

    fn new(block_bytes: u32, inode_bytes: u32, has_checksums: bool) -> Self {
        // `struct xfs_dinode`, and as far as `di_crc`.
        let inode_head_bytes = if has_checksums { 176 } else { 100 };
        let leaf_bytes = (block_bytes as usize).saturating_sub(Self::LEAF_HEAD_BYTES);
        Self {
            block_bytes: u64::from(block_bytes),
            forks_bytes: (inode_bytes as usize).saturating_sub(inode_head_bytes),
            leaf_records_max: (leaf_bytes / Self::RECORD_BYTES).max(1),
        }
    }

    /// Bytes that an inode's tree has at least.
    fn bytes_min(&self, extents: u32, attributes_at: u16) -> u64 {
        let room_bytes =
            if attributes_at == 0 { self.forks_bytes } else { usize::from(attributes_at) };
        let extents = extents as usize;
        if extents <= room_bytes / Self::RECORD_BYTES {
            return 0;
        }
        extents.div_ceil(self.leaf_records_max) as u64 * self.block_bytes
    }

    /// Whether a file, whose extents have so many bytes, has blocks that are neither theirs nor their
    /// tree's.
    fn has_more_blocks(&self, file: &OwnedFd, inode: u64, extents_bytes: u64) -> bool {
        let Some(XfsInode { blocks, extents, attributes_at }) = xfs_inode(file, inode) else {
            return true;
        };
        let tree_bytes = self.bytes_min(extents, attributes_at);
        blocks.saturating_mul(self.block_bytes) > extents_bytes.saturating_add(tree_bytes)
    }
}

/// `struct xfs_bulkstat_req` with room for one `struct xfs_bulkstat`.
#[repr(C)]
#[derive(Default)]
struct Bulkstat {
    /// The number to begin with.
    inode: u64,
    _flags: u32,
    room: u32,
    found: u32,
    _group: u32,
    _reserved: [u64; 5],
    found_inode: u64,
    _bytes: u64,
    blocks: u64,
    _xflags: u64,
    _times: [i64; 4],
    _ids_and_sizes: [u32; 13],
    extents: u32,
    _attribute_extents: u32,
    _version: u16,
    attributes_at: u16,
    _rest: [u64; 8],
}

/// `None` without the privilege (CAP_SYS_ADMIN), and on kernels before 5.3.
fn xfs_inode(file: &OwnedFd, inode: u64) -> Option<XfsInode> {
    /// `XFS_IOC_BULKSTAT`: `_IOR('X', 127, struct xfs_bulkstat_req)`, the size without inodes.
    const OPCODE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<[u64; 8]>(b'X', 127);
    let mut request = Bulkstat { inode, room: 1, ..Bulkstat::default() };
    // SAFETY: `Bulkstat` has the layout of the request followed by room for as many
    // inodes as it says, and the opcode takes a pointer to that.
    let asked = unsafe {
        let call = rustix::ioctl::Updater::<OPCODE, Bulkstat>::new(&mut request);
        rustix::ioctl::ioctl(file, call)
    };
    asked.ok()?;
    let Bulkstat { blocks, extents, attributes_at, .. } = request;
    let is_it = request.found == 1 && request.found_inode == inode;
    is_it.then_some(XfsInode { blocks, extents, attributes_at })
}

struct Found {
    ranges: Vec<Range<u64>>,
    /// In all extents, settled or not.
    bytes: u64,
    shared: bool,
    /// There are more extents than were looked at.
    cut_off: bool,
}

/// Reads the extents that meet `within`, and keeps those whose flags are `wanted`.
fn walk(
    file: &OwnedFd,
    within: Range<u64>,
    wanted: impl Fn(u32) -> bool,
    extents_max: usize,
) -> Result<Found> {
    let mut found = Found { ranges: Vec::new(), bytes: 0, shared: false, cut_off: false };
    let mut request = Request {
        start: 0,
        length: 0,
        flags: 0,
        mapped: 0,
        room: EXTENTS_PER_CALL as u32,
        reserved: 0,
        extents: [Extent::default(); EXTENTS_PER_CALL],
    };
    let mut next = within.start;
    for _ in 0..extents_max.div_ceil(EXTENTS_PER_CALL) {
        if next >= within.end {
            return Ok(found);
        }
        request.start = next;
        request.length = within.end - next;
        fiemap(file, &mut request)?;
        let mapped = (request.mapped as usize).min(EXTENTS_PER_CALL);
        for extent in &request.extents[..mapped] {
            next = extent.logical.saturating_add(extent.length);
            found.bytes = found.bytes.saturating_add(extent.length);
            found.shared |= extent.flags & EXTENT_SHARED != 0;
            if wanted(extent.flags) {
                push(&mut found.ranges, extent.logical..next);
            }
            if extent.flags & EXTENT_LAST != 0 {
                return Ok(found);
            }
        }
        if mapped < EXTENTS_PER_CALL {
            return Ok(found);
        }
    }
    found.cut_off = true;
    Ok(found)
}

/// Adds a range, as a part of the last one where they touch.
fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        // An extent that changed between two calls may be told twice.
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

fn fiemap(file: &OwnedFd, request: &mut Request) -> Result<()> {
    loop {
        // SAFETY: `Request` has the layout of `struct fiemap` followed by room for
        // as many extents as it says, and the opcode takes a pointer to that.
        let asked = unsafe {
            let call = rustix::ioctl::Updater::<FS_IOC_FIEMAP, Request>::new(request);
            rustix::ioctl::ioctl(file, call)
        };
        match asked {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether a file's bytes go through the journal (`chattr +j`).
fn ext4_journals_data(file: &OwnedFd) -> Result<bool> {
    Ok(rustix::fs::ioctl_getflags(file)?.contains(rustix::fs::IFlags::JOURNALING))
}

/// Whether a file's blocks can be unwritten: not as ext3 keeps them.
fn ext4_has_extents(file: &OwnedFd) -> Result<bool> {
    /// `FS_EXTENT_FL`.
    const EXTENTS: rustix::fs::IFlags = rustix::fs::IFlags::from_bits_retain(0x0008_0000);
    Ok(rustix::fs::ioctl_getflags(file)?.contains(EXTENTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Extent>(), 56);
        assert_eq!(size_of::<Request>(), 32 + EXTENTS_PER_CALL * 56);
        assert_eq!(FS_IOC_FIEMAP, 0xc020_660b);
    }

    #[test]
    fn a_tree_is_taken_for_no_larger_than_it_is() {
        // As mkfs.xfs makes it: an inode has room for 21 extents, or fewer beside attributes.
        let trees = XfsTrees::new(4096, 512, true);
        let blocks = |extents| trees.bytes_min(extents, 0) / 4096;
        assert_eq!([0, 9, 21, 22, 200, 254].map(blocks), [0, 0, 0, 1, 1, 1]);
        // A leaf holds 251, without checksums 254.
        assert_eq!([255, 508, 509, 4096].map(blocks), [2, 2, 3, 17]);
        assert_eq!([17, 18].map(|extents| trees.bytes_min(extents, 280) / 4096), [0, 1]);
        // Larger inodes hold more, smaller leaves less.
        assert_eq!(XfsTrees::new(4096, 2048, true).bytes_min(117, 0), 0);
        assert_eq!(XfsTrees::new(4096, 512, false).bytes_min(25, 0), 0);
        assert_eq!(XfsTrees::new(1024, 512, true).bytes_min(100, 0), 2 * 1024);
        assert_eq!(size_of::<Bulkstat>(), 64 + 192);
        assert_eq!(std::mem::offset_of!(Bulkstat, extents), 64 + 116);
        assert_eq!(std::mem::offset_of!(Bulkstat, attributes_at), 64 + 126);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut ranges = Vec::new();
        for range in [0..10, 10..20, 30..40, 35..36, 41..42] {
            push(&mut ranges, range);
        }
        assert_eq!(ranges, [0..20, 30..40, 41..42]);
    }
}
