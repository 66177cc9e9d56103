//! Replies that name a node, written to the device by ourselves.
//!
//! fuser 0.18 has one field for both the node's number (`nodeid`, ours, never
//! reused) and the inode number that programs see (`attr.ino`, the backing
//! filesystem's), so programs would see inode numbers change with every mount.
//! LOOKUP, CREATE, MKNOD, MKDIR, SYMLINK, LINK and READDIRPLUS are therefore
//! answered here. fuser's own reply object is put aside unused ([`answered`]); that
//! of READDIRPLUS is dropped, and the answer that it then attempts finds no request any
//! more (the kernel says ENOENT) and changes nothing. Layouts: `include/uapi/linux/fuse.h`, ABI 7.40.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::time::Duration;

use fs_core::engine::{Entry, FileId, NodeId};
use fs_core::types::{Attr, DirEntry, FileKind, Time};
use fuser::{FopenFlags, Generation, INodeNo, ReplyDirectoryPlus};

use super::SkinOptions;
use super::convert::{encode_device, type_bits};
use super::passthrough::Backing;

/// Most bytes that one copy_file_range reply can report.
pub const COPY_BYTES_MAX: u64 = 1 << 30;

/// `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;
/// `struct fuse_entry_out`.
const ENTRY_BYTES: usize = 128;
/// Attributes for an entry that only takes up room.
const NO_ATTR: Attr = Attr {
    ino: 0,
    size: 0,
    blocks: 0,
    atime: Time { secs: 0, nanos: 0 },
    mtime: Time { secs: 0, nanos: 0 },
    ctime: Time { secs: 0, nanos: 0 },
    kind: FileKind::Regular,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev_major: 0,
    rdev_minor: 0,
    block_bytes: 0,
};

/// Our own way to the mount's device.
#[derive(Default)]
pub struct Channel {
    device: OnceLock<OwnedFd>,
}

/// What a successful CREATE answers.
pub(super) struct CreatedReply<'a> {
    pub(super) entry: &'a Entry,
    pub(super) file: FileId,
    pub(super) flags: FopenFlags,
    pub(super) backing: Option<&'a Backing>,
}

impl Channel {
    /// Takes the device, once, before the first request is answered.
    pub fn connect(&self, device: OwnedFd) {
        let first = self.device.set(device).is_ok();
        debug_assert!(first, "a channel is connected once");
    }

    /// Answers with a node. False if the kernel did not take the answer.
    #[must_use]
    pub(super) fn entry(&self, unique: fuser::RequestId, entry: &Entry, o: &SkinOptions) -> bool {
        let mut message = Message::new(unique);
        message.entry(entry, o);
        self.send(&mut message)
    }

    /// Answers that there is no such name, for the kernel to remember.
    pub(super) fn no_entry(&self, unique: fuser::RequestId, options: &SkinOptions) {
        let mut message = Message::new(unique);
        message.u64(0);
        message.u64(0);
        message.u64(options.entry_timeout.as_secs());
        message.u64(0);
        message.u32(options.entry_timeout.subsec_nanos());
        message.zeros(HEADER_BYTES + ENTRY_BYTES - message.bytes.len());
        self.send(&mut message);
    }

    /// Answers with a node and its open file. False if the kernel did not take it.
    #[must_use]
    pub(super) fn created(
        &self,
        unique: fuser::RequestId,
        created: &CreatedReply<'_>,
        options: &SkinOptions,
    ) -> bool {
        let mut message = Message::new(unique);
        message.entry(created.entry, options);
        let mut flags = created.flags;
        flags.set(FopenFlags::FOPEN_PASSTHROUGH, created.backing.is_some());
        message.u64(created.file.0);
        message.u32(flags.bits());
        message.u32(created.backing.map_or(0, |backing| backing.raw));
        self.send(&mut message)
    }

    /// Answers with directory entries. False if the kernel did not take them.
    #[must_use]
    pub(super) fn plus(&self, buffer: &PlusBuffer<'_>) -> bool {
        let mut message = Message { bytes: buffer.message.bytes.clone() };
        self.send(&mut message)
    }

    fn send(&self, message: &mut Message) -> bool {
        let length = message.bytes.len() as u32;
        message.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let device = self.device.get().expect("connected before the first request");
        match rustix::io::write(device, &message.bytes) {
            Ok(_) => true,
            // The caller was killed while the request was on its way.
            Err(rustix::io::Errno::NOENT) => false,
            Err(error) => {
                tracing::debug!(%error, "the kernel did not take a reply");
                false
            }
        }
    }
}

/// Puts fuser's reply to a request aside that has been answered here. Dropping it would
/// attempt a second answer: a system call for nothing. What is not freed is one count
/// of the device's `Arc`; the device stays open until the process ends, which is when
/// the mount has ended.
pub(super) fn answered(reply: impl Sized) {
    std::mem::forget(reply);
}

/// A reply under construction, in the kernel's byte order.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(unique: fuser::RequestId) -> Self {
        let mut message = Self { bytes: Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES + 16) };
        message.u32(0); // Length: set when it is known.
        message.u32(0); // No error.
        message.u64(unique.0);
        message
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

    /// `struct fuse_entry_out`.
    fn entry(&mut self, entry: &Entry, options: &SkinOptions) {
        self.u64(entry.id.0);
        self.u64(0); // Generation: node numbers are never reused.
        self.timeouts(options.entry_timeout, options.attr_timeout);
        self.attr(&entry.attr);
    }

    fn timeouts(&mut self, entry: Duration, attr: Duration) {
        self.u64(entry.as_secs());
        self.u64(attr.as_secs());
        self.u32(entry.subsec_nanos());
        self.u32(attr.subsec_nanos());
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
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

    /// `struct fuse_dirent`, with the name padded to eight bytes.
    fn dirent(&mut self, entry: &DirEntry) {
        self.u64(entry.ino);
        self.u64(entry.next_offset);
        self.u32(entry.name.len() as u32);
        self.u32(entry.kind.map_or(0, |kind| type_bits(kind) >> 12));
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.zeros(self.bytes.len().next_multiple_of(8) - self.bytes.len());
    }
}

/// A READDIRPLUS reply under construction.
pub(super) struct PlusBuffer<'a> {
    message: Message,
    options: &'a SkinOptions,
    nodes: Vec<NodeId>,
}

impl<'a> PlusBuffer<'a> {
    pub(super) fn new(unique: fuser::RequestId, options: &'a SkinOptions) -> Self {
        Self { message: Message::new(unique), options, nodes: Vec::new() }
    }

    /// Whether the entry still fits into what the kernel asked for. fuser does
    /// not show how much that is, but its own reply, which is not sent, fills
    /// up in step with ours.
    pub(super) fn has_room(twin: &mut ReplyDirectoryPlus, entry: &DirEntry) -> bool {
        let attr = super::convert::file_attr(&NO_ATTR);
        let (ino, ttl) = (INodeNo(entry.ino), Duration::ZERO);
        !twin.add(ino, entry.next_offset, &entry.name, &ttl, &attr, Generation(0))
    }

    /// Adds an entry. One that cannot be looked up (removed meanwhile, or of
    /// no use to a node: `.` and `..`) is listed without a node, not dropped.
    pub(super) fn push(&mut self, entry: &DirEntry, lookup: impl FnOnce() -> Option<Entry>) {
        let special = entry.name == "." || entry.name == "..";
        match if special { None } else { lookup() } {
            Some(found) => {
                self.nodes.push(found.id);
                self.message.entry(&found, self.options);
            }
            None => self.message.zeros(ENTRY_BYTES),
        }
        self.message.dirent(entry);
    }

    /// Nodes to which the reply carries a reference.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied()
    }
}

/// Lends the thread's read buffer.
pub(super) fn with_buffer<T>(bytes: usize, call: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        call(&mut buffer[..bytes])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> SkinOptions {
        SkinOptions {
            attr_timeout: Duration::from_millis(1500),
            entry_timeout: Duration::from_secs(2),
            passthrough: false,
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

    /// The node's number and the inode's number are different fields: offsets
    /// as in `struct fuse_entry_out` and `struct fuse_attr`.
    #[test]
    fn an_entry_has_the_kernels_layout() {
        let mut message = Message::new(fuser::RequestId(9));
        message.entry(&entry(), &options());
        let u64_at = |at: usize| u64::from_ne_bytes(message.bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(message.bytes[at..at + 4].try_into().unwrap());
        assert_eq!(message.bytes.len(), HEADER_BYTES + ENTRY_BYTES);
        assert_eq!(u64_at(8), 9, "unique");
        assert_eq!(u64_at(16), 5, "nodeid");
        assert_eq!((u64_at(32), u64_at(40)), (2, 1), "valid seconds");
        assert_eq!((u32_at(48), u32_at(52)), (0, 500_000_000), "valid nanoseconds");
        assert_eq!(u64_at(56), 77, "attr.ino");
        assert_eq!(u64_at(80).cast_signed(), -1, "atime");
        assert_eq!(u32_at(104), 1, "atimensec");
        assert_eq!(u32_at(116), libc::S_IFREG | 0o4755, "mode");
    }

    /// An entry takes the room that fuser's own list gives it, or a reply could
    /// outgrow what the kernel asked for: 128 + 24 + the name, to eight bytes.
    #[test]
    fn directory_entries_have_the_kernels_size() {
        let options = options();
        for length in [1, 7, 8, 9, 255] {
            let mut buffer = PlusBuffer::new(fuser::RequestId(1), &options);
            let name = "x".repeat(length).into();
            buffer.push(&DirEntry { name, ino: 1, kind: None, next_offset: 1 }, || Some(entry()));
            let expected = HEADER_BYTES + ENTRY_BYTES + (24 + length).next_multiple_of(8);
            assert_eq!(buffer.message.bytes.len(), expected);
            assert_eq!(buffer.nodes().count(), 1);
        }
    }
}
