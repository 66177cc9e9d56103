//! The plain values that cross the engine's border: attributes, callers, names.
//!
//! They are ours, not FUSE's or an operating system's: a front-end encodes
//! them for its own wire, a platform fills them from its own calls.

use serde::{Deserialize, Serialize};

/// A point in time, seconds and nanoseconds since 1970; `secs` may be negative.
///
/// `std::time::SystemTime` is not used because its range and its handling of
/// times before 1970 differ between platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds, rounded towards minus infinity.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// The bits of a mode that say what an inode is: the same on every Unix, and in the log.
pub mod type_bits {
    /// The bits that they are among.
    pub const S_IFMT: u32 = 0o170_000;
    /// A socket.
    pub const S_IFSOCK: u32 = 0o140_000;
    /// A symbolic link.
    pub const S_IFLNK: u32 = 0o120_000;
    /// A regular file.
    pub const S_IFREG: u32 = 0o100_000;
    /// A block device.
    pub const S_IFBLK: u32 = 0o060_000;
    /// A directory.
    pub const S_IFDIR: u32 = 0o040_000;
    /// A character device.
    pub const S_IFCHR: u32 = 0o020_000;
    /// A named pipe.
    pub const S_IFIFO: u32 = 0o010_000;
}

/// The attributes of an inode, as `stat(2)` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The backing filesystem's inode number: what programs see as `st_ino`.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// What the inode is.
    pub kind: FileKind,
    /// Permission bits with set-user-id, set-group-id and sticky: `mode & 0o7777`.
    pub perm: u16,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Major number of a device node.
    pub rdev_major: u32,
    /// Minor number of a device node.
    pub rdev_minor: u32,
    /// Preferred I/O size in bytes.
    pub block_bytes: u32,
}

/// On whose behalf an operation runs.
///
/// Permission has been checked before (by the kernel, with
/// `default_permissions`); the caller decides who owns what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id for files that the operation creates.
    pub uid: u32,
    /// Group id for files that the operation creates.
    pub gid: u32,
    /// Thread id, for the lane's predictions and for diagnostics.
    pub thread: u32,
}

/// A time to set: a given one, or the moment of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Exactly this time.
    At(Time),
    /// The backing filesystem's current time.
    Now,
}

/// A change of attributes; `None` leaves the attribute alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// New permission bits, `0o7777` at most.
    pub perm: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New owning group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}

/// How a new object shall be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMode {
    /// Permission bits (and, for `make_node`, the type bits) as asked for.
    pub mode: u32,
    /// The caller's umask; ignored by the backing filesystem where a default
    /// ACL of the directory decides, which is why it is not applied earlier.
    pub umask: u32,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: std::ffi::OsString,
    /// Inode number, as in [`Attr::ino`].
    pub ino: u64,
    /// What it is; `None` where the backing filesystem does not say.
    pub kind: Option<FileKind>,
    /// Where reading continues after this entry: the backing filesystem's own
    /// cookie, stable while other entries come and go.
    pub next_offset: u64,
}

/// Sizes of the backing filesystem, as `statvfs(3)` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FsStats {
    /// All blocks, in units of `fragment_bytes`.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for ordinary users.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred I/O size.
    pub block_bytes: u32,
    /// Unit of the block counts.
    pub fragment_bytes: u32,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

/// What a sync request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SyncKind {
    /// Content and what is needed to read it back: `fdatasync(2)`.
    Data,
    /// Content and all attributes: `fsync(2)`.
    Full,
}
