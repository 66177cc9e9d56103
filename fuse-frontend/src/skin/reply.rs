//! Replies of the classic transport that are written to the device by ourselves.
//!
//! fuser 0.18 has one field for both the node's number (`nodeid`, ours, never
//! reused) and the inode number that programs see (`attr.ino`, the backing
//! filesystem's), so programs would see inode numbers change with every mount.
//! LOOKUP, CREATE, MKNOD, MKDIR, SYMLINK, LINK and READDIRPLUS are therefore
//! answered here, and OPEN with a backing id, which fuser wants to own.
//! fuser's own reply object is put aside unused ([`answered`]); that
//! of READDIRPLUS is dropped, and the answer that it then attempts finds no request any
//! more (the kernel says ENOENT) and changes nothing.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use fs_core::types::{Attr, DirEntry, FileKind, Time};
use fuser::{Generation, INodeNo, ReplyDirectoryPlus, RequestId};

use super::wire::{Body, out_header};

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

impl Channel {
    /// Takes the device, once, before the first request is answered.
    pub fn connect(&self, device: OwnedFd) {
        let first = self.device.set(device).is_ok();
        debug_assert!(first, "a channel is connected once");
    }

    /// The device.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.get().expect("connected before the first request").as_fd()
    }

    /// Answers a request. False if the kernel did not take the answer.
    #[must_use]
    pub(super) fn send(&self, unique: RequestId, body: &Body) -> bool {
        let header = out_header(unique.0, 0, body.bytes().len());
        let parts = [IoSlice::new(&header), IoSlice::new(body.bytes())];
        match rustix::io::writev(self.device(), &parts) {
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

/// Whether a READDIRPLUS entry still fits into what the kernel asked for. fuser does
/// not show how much that is, but its own reply, which is not sent, fills
/// up in step with ours.
pub(super) fn has_room(twin: &mut ReplyDirectoryPlus, entry: &DirEntry) -> bool {
    let attr = super::convert::file_attr(&NO_ATTR);
    let (ino, ttl) = (INodeNo(entry.ino), Duration::ZERO);
    !twin.add(ino, entry.next_offset, &entry.name, &ttl, &attr, Generation(0))
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
