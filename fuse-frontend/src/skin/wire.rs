//! The kernel's structures in replies (`include/uapi/linux/fuse.h`, ABI 7.40).
//!
//! fuser encodes most replies of the classic transport. Those that it cannot express
//! (node number and inode number apart), and all of the ring, are encoded here.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fs_core::engine::{Entry, NodeId};
use fs_core::types::{Attr, DirEntry, FsStats};

use super::convert::{encode_device, type_bits};
use super::{Opened, SkinOptions};

const OUT_HEADER_BYTES: usize = 16;
/// `struct fuse_entry_out`.
pub(crate) const ENTRY_BYTES: usize = 128;
/// `struct fuse_dirent` without the name.
const DIRENT_BYTES: usize = 24;

/// Flags of `struct fuse_open_out`.
pub(crate) mod fopen {
    /// Reads and writes come to us, whatever the page cache has.
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    /// `close` sends no FLUSH.
    pub(crate) const NOFLUSH: u32 = 1 << 5;
    /// Writes that do not extend the file may come at once.
    pub(crate) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// The kernel reads and writes the backing file by itself.
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// `struct fuse_out_header`; `error` is zero or an errno.
pub(crate) fn out_header(unique: u64, error: i32, payload_bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut bytes = [0; OUT_HEADER_BYTES];
    bytes[..4].copy_from_slice(&((OUT_HEADER_BYTES + payload_bytes) as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&(-error).to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// What follows a reply's header, under construction, in the kernel's byte order.
#[derive(Debug, Default)]
pub(crate) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A node: `struct fuse_entry_out`.
    pub(crate) fn entry(entry: &Entry, options: &SkinOptions) -> Self {
        let mut body = Self::with_capacity(ENTRY_BYTES);
        body.push_entry(entry, options);
        body
    }

    /// That there is no such name, for the kernel to remember.
    pub(crate) fn no_entry(options: &SkinOptions) -> Self {
        let mut body = Self::with_capacity(ENTRY_BYTES);
        body.u64(0);
        body.u64(0);
        body.timeouts(options.entry_timeout, Duration::ZERO);
        body.zeros(ENTRY_BYTES - body.bytes.len());
        body
    }

    /// A node and its open file: `struct fuse_entry_out`, `struct fuse_open_out`.
    pub(crate) fn created(entry: &Entry, opened: &Opened, options: &SkinOptions) -> Self {
        let mut body = Self::with_capacity(ENTRY_BYTES + 16);
        body.push_entry(entry, options);
        body.push_opened(opened);
        body
    }

    /// `struct fuse_open_out`.
    pub(crate) fn opened(opened: &Opened) -> Self {
        let mut body = Self::with_capacity(16);
        body.push_opened(opened);
        body
    }

    /// `struct fuse_open_out` of a directory.
    pub(crate) fn handle(handle: u64) -> Self {
        let mut body = Self::with_capacity(16);
        body.u64(handle);
        body.u64(0);
        body
    }

    /// `struct fuse_attr_out`.
    pub(crate) fn attr(attr: &Attr, options: &SkinOptions) -> Self {
        let mut body = Self::with_capacity(104);
        body.u64(options.attr_timeout.as_secs());
        body.u32(options.attr_timeout.subsec_nanos());
        body.u32(0);
        body.push_attr(attr);
        body
    }

    /// `struct fuse_write_out` and `struct fuse_getxattr_out`: a number of bytes.
    pub(crate) fn size(bytes: u32) -> Self {
        let mut body = Self::with_capacity(8);
        body.u32(bytes);
        body.u32(0);
        body
    }

    /// `struct fuse_lseek_out`.
    pub(crate) fn offset(offset: u64) -> Self {
        let mut body = Self::with_capacity(8);
        body.u64(offset);
        body
    }

    /// Plain bytes: a link's target, an attribute's value.
    pub(crate) fn data(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// `struct fuse_statfs_out`.
    pub(crate) fn stats(stats: &FsStats) -> Self {
        let mut body = Self::with_capacity(80);
        let FsStats { blocks, blocks_free, blocks_available, files, files_free, .. } = *stats;
        for number in [blocks, blocks_free, blocks_available, files, files_free] {
            body.u64(number);
        }
        for number in [stats.block_bytes, stats.name_bytes_max, stats.fragment_bytes] {
            body.u32(number);
        }
        body.zeros(28);
        body
    }

    /// `struct fuse_dirent`, with the name padded to eight bytes.
    pub(crate) fn push_dirent(&mut self, entry: &DirEntry) {
        self.u64(entry.ino);
        self.u64(entry.next_offset);
        self.u32(entry.name.len() as u32);
        self.u32(entry.kind.map_or(0, |kind| type_bits(kind) >> 12));
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.zeros(self.bytes.len().next_multiple_of(8) - self.bytes.len());
    }

    /// How long [`Self::push_dirent`] makes the body.
    pub(crate) fn len_with_dirent(&self, entry: &DirEntry) -> usize {
        self.bytes.len() + dirent_bytes(entry)
    }

    fn push_entry(&mut self, entry: &Entry, options: &SkinOptions) {
        self.u64(entry.id.0);
        self.u64(0); // Generation: node numbers are never reused.
        self.timeouts(options.entry_timeout, options.attr_timeout);
        self.push_attr(&entry.attr);
    }

    fn push_opened(&mut self, opened: &Opened) {
        let passthrough = opened.backing.as_ref().map_or(0, |_| fopen::PASSTHROUGH);
        self.u64(opened.file.0);
        self.u32(opened.flags | passthrough);
        self.u32(opened.backing.as_ref().map_or(0, |backing| backing.number()));
    }

    fn timeouts(&mut self, entry: Duration, attr: Duration) {
        self.u64(entry.as_secs());
        self.u64(attr.as_secs());
        self.u32(entry.subsec_nanos());
        self.u32(attr.subsec_nanos());
    }

    /// `struct fuse_attr`.
    fn push_attr(&mut self, attr: &Attr) {
        self.u64(attr.ino);
        self.u64(attr.size);
        self.u64(attr.blocks);
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u64(time.secs.cast_unsigned());
        }
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u32(time.nanos);
        }
        self.u32(type_bits(attr.kind) | u32::from(attr.perm));
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u32(encode_device(attr.rdev_major, attr.rdev_minor));
        self.u32(attr.block_bytes);
        self.u32(0);
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }
}

fn dirent_bytes(entry: &DirEntry) -> usize {
    (DIRENT_BYTES + entry.name.len()).next_multiple_of(8)
}

/// A READDIRPLUS reply, and the nodes to which it carries a reference.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) body: Body,
    pub(crate) nodes: Vec<NodeId>,
}

impl Listing {
    /// How long the body is with one more entry.
    pub(crate) fn len_with(&self, entry: &DirEntry) -> usize {
        self.body.bytes.len() + ENTRY_BYTES + dirent_bytes(entry)
    }

    /// Adds an entry. One that cannot be looked up (removed meanwhile, or of
    /// no use to a node: `.` and `..`) is listed without a node, not dropped.
    pub(crate) fn push(
        &mut self,
        entry: &DirEntry,
        options: &SkinOptions,
        lookup: impl FnOnce() -> Option<Entry>,
    ) {
        let special = entry.name == "." || entry.name == "..";
        match if special { None } else { lookup() } {
            Some(found) => {
                self.nodes.push(found.id);
                self.body.push_entry(&found, options);
            }
            None => self.body.zeros(ENTRY_BYTES),
        }
        self.body.push_dirent(entry);
    }
}

#[cfg(test)]
mod tests {
    use fs_core::engine::FileId;
    use fs_core::types::{FileKind, Time};

    use super::*;

    fn options() -> SkinOptions {
        SkinOptions {
            attr_timeout: Duration::from_millis(1500),
            entry_timeout: Duration::from_secs(2),
            passthrough: false,
            slow_sync: None,
            default_permissions: true,
        }
    }

    fn entry() -> Entry {
        let attr = Attr {
            ino: 77,
            size: 3,
            blocks: 8,
            atime: Time { secs: -1, nanos: 1 },
            mtime: Time { secs: 2, nanos: 2 },
            ctime: Time { secs: 3, nanos: 3 },
            kind: FileKind::Regular,
            perm: 0o4755,
            nlink: 2,
            uid: 10,
            gid: 20,
            rdev_major: 0,
            rdev_minor: 0,
            block_bytes: 4096,
        };
        Entry { id: NodeId(5), attr }
    }

    fn u64_at(body: &Body, at: usize) -> u64 {
        u64::from_ne_bytes(body.bytes[at..at + 8].try_into().unwrap())
    }

    fn u32_at(body: &Body, at: usize) -> u32 {
        u32::from_ne_bytes(body.bytes[at..at + 4].try_into().unwrap())
    }

    /// The node's number and the inode's number are different fields: offsets
    /// as in `struct fuse_entry_out` and `struct fuse_attr`.
    #[test]
    fn an_entry_has_the_kernels_layout() {
        let body = Body::entry(&entry(), &options());
        assert_eq!(body.bytes.len(), ENTRY_BYTES);
        assert_eq!(u64_at(&body, 0), 5, "nodeid");
        assert_eq!((u64_at(&body, 16), u64_at(&body, 24)), (2, 1), "valid seconds");
        assert_eq!((u32_at(&body, 32), u32_at(&body, 36)), (0, 500_000_000), "valid nanoseconds");
        assert_eq!(u64_at(&body, 40), 77, "attr.ino");
        assert_eq!(u64_at(&body, 64).cast_signed(), -1, "atime");
        assert_eq!(u32_at(&body, 88), 1, "atimensec");
        assert_eq!(u32_at(&body, 100), libc::S_IFREG | 0o4755, "mode");
        let absent = Body::no_entry(&options());
        assert_eq!((absent.bytes.len(), u64_at(&absent, 0)), (ENTRY_BYTES, 0), "no node");
        assert_eq!(u64_at(&absent, 16), 2, "for as long as a name");
    }

    #[test]
    fn other_replies_have_the_kernels_layout() {
        let attr = Body::attr(&entry().attr, &options());
        assert_eq!((attr.bytes.len(), u64_at(&attr, 16)), (104, 77), "fuse_attr_out");
        let opened = Opened { file: FileId(9), flags: fopen::NOFLUSH, backing: None };
        let open = Body::opened(&opened);
        assert_eq!((u64_at(&open, 0), u32_at(&open, 8), u32_at(&open, 12)), (9, 32, 0));
        assert_eq!(open.bytes.len(), 16, "fuse_open_out");
        let created = Body::created(&entry(), &opened, &options());
        assert_eq!((created.bytes.len(), u64_at(&created, 128)), (144, 9));
        assert_eq!(u32_at(&Body::size(4096), 0), 4096);
        assert_eq!((Body::size(1).bytes.len(), Body::offset(1).bytes.len()), (8, 8));
        let stats = FsStats {
            blocks: 1,
            blocks_free: 2,
            blocks_available: 3,
            files: 4,
            files_free: 5,
            block_bytes: 6,
            fragment_bytes: 8,
            name_bytes_max: 7,
        };
        let stats = Body::stats(&stats);
        assert_eq!(stats.bytes.len(), 80, "fuse_statfs_out");
        let at = |at| u32_at(&stats, at);
        assert_eq!((u64_at(&stats, 32), at(40), at(44), at(48)), (5, 6, 7, 8));
    }

    /// What an entry adds is known before: a reply must not outgrow what the kernel
    /// asked for. 128 + 24 + the name, to eight bytes.
    #[test]
    fn directory_entries_have_the_kernels_size() {
        for length in [1, 7, 8, 9, 255] {
            let (mut listing, mut plain) = (Listing::default(), Body::default());
            let named =
                DirEntry { name: "x".repeat(length).into(), ino: 1, kind: None, next_offset: 1 };
            let (expected, expected_plain) =
                (listing.len_with(&named), plain.len_with_dirent(&named));
            listing.push(&named, &options(), || Some(entry()));
            plain.push_dirent(&named);
            assert_eq!(listing.body.bytes.len(), expected);
            assert_eq!(expected, ENTRY_BYTES + (24 + length).next_multiple_of(8));
            assert_eq!(
                (plain.bytes.len(), expected - ENTRY_BYTES),
                (expected_plain, expected_plain)
            );
            assert_eq!(listing.nodes.len(), 1);
        }
    }
}
