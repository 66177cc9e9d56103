//! The system calls that no safe wrapper covers: loop devices, a file's extents, a descriptor table
//! of one's own.
//!
//! The only `unsafe` of the disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// From the kernel's include/uapi/linux/loop.h and fs.h; libc does not have them.
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const BLKFLSBUF: libc::Ioctl = 0x1261;
// From include/uapi/linux/fiemap.h.
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
const FIEMAP_FLAG_SYNC: u32 = 1;
// Linux 6.5; new system calls have one number on all architectures that matter.
const SYS_CACHESTAT: libc::c_long = 451;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

// struct loop_config with the struct loop_info64 in it.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_bytes: u32,
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_bytes: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// `struct fiemap` with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; FIEMAP_EXTENTS],
}

/// Extents that one call may return.
pub(super) const FIEMAP_EXTENTS: usize = 64;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    /// Where it begins in the file.
    pub logical: u64,
    /// Where on the device.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    reserved64: [u64; 2],
    /// `FIEMAP_EXTENT_LAST` and others.
    pub flags: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<Extent>() == 56);

/// Where on its device a file lies, from `start` on; at most [`FIEMAP_EXTENTS`] extents.
pub(super) fn fiemap(file: &File, start: u64) -> io::Result<Vec<Extent>> {
    let mut map = Fiemap {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_FLAG_SYNC,
        mapped: 0,
        count: FIEMAP_EXTENTS as u32,
        reserved: 0,
        extents: [Extent::default(); FIEMAP_EXTENTS],
    };
    // SAFETY: the request reads and writes a structure of this layout, with as many extents behind
    // it as its `count` says; it lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) })?;
    let count = usize::try_from(map.mapped).map_or(FIEMAP_EXTENTS, |n| n.min(FIEMAP_EXTENTS));
    Ok(map.extents[..count].to_vec())
}

/// The number of a loop device that nobody uses at this moment.
pub(super) fn free_loop_device(control: &File) -> io::Result<i32> {
    // SAFETY: the request takes no argument and answers with its return value.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// Puts `device` over `file`: direct I/O, sectors of 512 bytes, detached at the last close.
pub(super) fn configure_loop(device: &File, file: BorrowedFd<'_>) -> io::Result<()> {
    let config = LoopConfig {
        file: file.as_raw_fd().cast_unsigned(),
        block_bytes: 512,
        device: 0,
        inode: 0,
        raw_device: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_bytes: 0,
        flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the request reads a structure of exactly this layout, which lives through the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(())
}

/// Writes out and drops what the kernel caches of a block device.
pub(super) fn drop_cache(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF) })?;
    Ok(())
}

/// How many pages of a file or block device the kernel caches.
pub(super) fn cached_pages(file: &File) -> io::Result<u64> {
    // struct cachestat_range: offset and length, where 0 means to the end.
    let range = [0u64; 2];
    // struct cachestat: cached, dirty, under write-back, evicted, recently evicted.
    let mut counts = [0u64; 5];
    // SAFETY: both structures have the layout that the call expects and live through it.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0u32)
    };
    check(i32::try_from(result).expect("0 or -1"))?;
    Ok(counts[0])
}

/// Gives the calling thread, and those it will start, a descriptor table of their own that holds
/// standard input and output and a copy of `keep`, which is returned. The original stays open in
/// the table of everybody else.
pub(super) fn table_with_only(keep: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let keep = keep.as_raw_fd();
    let number = keep.cast_unsigned();
    assert!(number > 2, "standard input and output are open");
    let close = |first: u32, last: u32| {
        // SAFETY: with UNSHARE the thread works on a private copy of the table; no object of this
        // thread owns a descriptor in it, and those of other threads live in the other table.
        check(unsafe { libc::close_range(first, last, libc::CLOSE_RANGE_UNSHARE.cast_signed()) })
    };
    close(number + 1, u32::MAX)?;
    if number > 3 {
        close(3, number - 1)?;
    }
    // SAFETY: it is open in this thread's table, and nothing else in this table owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(keep) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
