//! Which bytes of a file have blocks of their own: `FS_IOC_FIEMAP`.
//!
//! Asked without `FIEMAP_FLAG_SYNC`: what waits for allocation is told as such
//! and not written first. Needs neither the right to read nor to write.
//!
//! What blocks outside of lanefs may still do to a range after the call: share
//! it (`FICLONE`, `copy_file_range(2)`, deduplication) or move it
//! (defragmentation). The first copy made through the engine is known to it.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

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
    within: Range<u64>,
) -> Result<Vec<Range<u64>>> {
    let without = EXTENT_WITHOUT_DATA | EXTENT_SHARED;
    match filesystem_magic {
        EXT4_MAGIC if ext4_journals_data(file)? => Ok(Vec::new()),
        // XFS copies a shared block elsewhere when it is written, and reserves room
        // for its neighbours with it (`cowextsize`): a later write to one of those
        // goes there too, though it is not shared (`xfs_buffered_write_iomap_begin`
        // looks into the copy-on-write fork first, Linux 6.18). The reservation
        // shows in no extent, and outlives the sharing: all of the file is looked at.
        XFS_MAGIC => {
            let found = walk(file, WHOLE_FILE, without, EXTENTS_MAX)?;
            let may_move = found.shared || found.cut_off || has_more_blocks(file, found.bytes)?;
            Ok(if may_move { Vec::new() } else { found.ranges })
        }
        _ => Ok(walk(file, within, without, EXTENTS_MAX)?.ranges),
    }
}

/// All ranges with data in blocks, shared or not.
pub(super) fn allocated(file: &OwnedFd) -> Result<Vec<Range<u64>>> {
    Ok(walk(file, WHOLE_FILE, EXTENT_WITHOUT_DATA, usize::MAX)?.ranges)
}

/// Whether a file has blocks besides those of its extents. On XFS a reservation
/// for copies counts (`i_delayed_blks`); so do blocks of extended attributes and
/// of the extent tree, from which it cannot be told apart.
fn has_more_blocks(file: &OwnedFd, bytes: u64) -> Result<bool> {
    /// Unit of `stx_blocks`.
    const STAT_BLOCK_BYTES: u64 = 512;
    let attr = super::attr::stat_fd(file.as_fd())?.0;
    Ok(attr.blocks.saturating_mul(STAT_BLOCK_BYTES) > bytes)
}

struct Found {
    ranges: Vec<Range<u64>>,
    /// In all extents, settled or not.
    bytes: u64,
    shared: bool,
    /// There are more extents than were looked at.
    cut_off: bool,
}

/// Reads the extents that meet `within` and keeps those with none of the flags `without`.
fn walk(file: &OwnedFd, within: Range<u64>, without: u32, extents_max: usize) -> Result<Found> {
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
            if extent.flags & without == 0 {
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
    fn ranges_that_touch_are_one() {
        let mut ranges = Vec::new();
        for range in [0..10, 10..20, 30..40, 35..36, 41..42] {
            push(&mut ranges, range);
        }
        assert_eq!(ranges, [0..20, 30..40, 41..42]);
    }
}
