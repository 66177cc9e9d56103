//! Numbers and layouts of FUSE over io_uring (`include/uapi/linux/fuse.h`, Linux 6.14).
//!
//! An entry of a queue has two buffers. The first is a `struct fuse_uring_req_header`:
//!
//! ```text
//!   0  in_out           a request's fuse_in_header, or a reply's fuse_out_header
//! 128  op_in            the operation's own structure, if it has one
//! 256  ring_ent_in_out  flags u64, commit_id u64, payload_sz u32, padding u32, reserved u64
//! ```
//!
//! Everything else, of a request or of a reply, is in the second, the payload.

/// Bytes of a `struct fuse_uring_req_header`.
pub(super) const HEADER_BYTES: usize = 288;
/// Bytes of `in_out` and of `op_in`.
pub(super) const PART_BYTES: usize = 128;
/// Where `op_in` is.
pub(super) const OP_IN: usize = 128;
/// Where `ring_ent_in_out.commit_id` is.
pub(super) const COMMIT_ID: usize = 264;
/// Where `ring_ent_in_out.payload_sz` is.
pub(super) const PAYLOAD_SIZE: usize = 272;

/// `FUSE_IO_URING_CMD_REGISTER`: gives an entry to the kernel.
pub(super) const CMD_REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: answers, and gives the entry back.
pub(super) const CMD_COMMIT_AND_FETCH: u32 = 2;
/// Buffers of an entry, as REGISTER takes them.
pub(super) const BUFFERS_PER_ENTRY: u32 = 2;

/// `struct fuse_uring_cmd_req`, in the 80 bytes of a command.
pub(super) fn command(commit_id: u64, queue: u16) -> [u8; 80] {
    let mut bytes = [0; 80];
    // Eight bytes of flags: none.
    bytes[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    bytes[16..18].copy_from_slice(&queue.to_ne_bytes());
    bytes
}

/// What every request begins with: `struct fuse_in_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InHeader {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

impl InHeader {
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self {
            opcode: u32_at(bytes, 4),
            unique: u64_at(bytes, 8),
            node: u64_at(bytes, 16),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            pid: u32_at(bytes, 32),
        }
    }
}

/// A number in a structure of the kernel.
///
/// # Panics
/// If the structure ends before it.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Operations by the kernel's numbers: `enum fuse_opcode`.
pub(super) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skin::wire::out_header;

    /// The structures as the kernel's header has them, to take offsets from.
    #[repr(C)]
    struct EntInOut {
        flags: u64,
        commit_id: u64,
        payload_sz: u32,
        padding: u32,
        reserved: u64,
    }

    #[repr(C)]
    struct ReqHeader {
        in_out: [u8; 128],
        op_in: [u8; 128],
        ring_ent_in_out: EntInOut,
    }

    #[test]
    fn the_header_has_the_kernels_layout() {
        use std::mem::offset_of;
        assert_eq!(size_of::<ReqHeader>(), HEADER_BYTES);
        assert_eq!((offset_of!(ReqHeader, in_out), offset_of!(ReqHeader, op_in)), (0, OP_IN));
        assert_eq!(offset_of!(ReqHeader, ring_ent_in_out.commit_id), COMMIT_ID);
        assert_eq!(offset_of!(ReqHeader, ring_ent_in_out.payload_sz), PAYLOAD_SIZE);
    }

    #[test]
    fn a_command_has_the_kernels_layout() {
        let bytes = command(0x0102_0304_0506_0708, 0x0a0b);
        assert_eq!((u64_at(&bytes, 0), u64_at(&bytes, 8)), (0, 0x0102_0304_0506_0708));
        assert_eq!(u32_at(&bytes, 16), 0x0a0b, "the queue, and two bytes of padding");
        assert!(bytes[18..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn headers_have_the_kernels_layout() {
        let mut bytes = [0; 40];
        for (at, value) in [(0, 40), (4, 15), (8, 7), (16, 5), (24, 1000), (28, 100), (32, 4242)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
        }
        let (opcode, unique, node) = (15, 7, 5);
        let expected = InHeader { opcode, unique, node, uid: 1000, gid: 100, pid: 4242 };
        assert_eq!(InHeader::read(&bytes), expected);
        let reply = out_header(7, libc::ENOENT, 0);
        assert_eq!((u32_at(&reply, 0), u64_at(&reply, 8)), (16, 7));
        assert_eq!(u32_at(&reply, 4).cast_signed(), -libc::ENOENT);
        assert_eq!(u32_at(&out_header(7, 0, 104), 0), 120);
    }
}
