//! What the log says happened: one record for each operation.
//!
//! Objects are named by key (file handle), device number 0: see
//! [`ObjectKey::portable`]. Values are absolute, so that a record can be applied
//! to a filesystem that has it already.

use crate::engine::Lsn;
use crate::platform::ObjectKey;
use crate::types::{FileKind, Time};

/// One operation, and its place in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Log sequence number: later operations have larger ones.
    pub lsn: Lsn,
    /// What was done.
    pub change: Change,
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An object was made under a name.
    Make {
        /// The directory.
        dir: ObjectKey,
        /// The name in it.
        name: Vec<u8>,
        /// The new object.
        object: ObjectKey,
        /// What it is.
        kind: FileKind,
        /// Permission bits, `0o7777` at most.
        perm: u16,
        /// Owner.
        uid: u32,
        /// Owning group.
        gid: u32,
        /// Major and minor number of a device node.
        device: (u32, u32),
        /// Target of a symbolic link; else empty.
        target: Vec<u8>,
    },
    /// An object got one more name.
    Link {
        /// The object.
        object: ObjectKey,
        /// The directory of the new name.
        dir: ObjectKey,
        /// The new name.
        name: Vec<u8>,
    },
    /// A name was removed.
    Remove {
        /// The directory.
        dir: ObjectKey,
        /// The name.
        name: Vec<u8>,
        /// What it stood for.
        object: ObjectKey,
        /// That is a directory.
        is_dir: bool,
    },
    /// A name was moved, or two were swapped.
    Rename {
        /// Old directory.
        from_dir: ObjectKey,
        /// Old name.
        from: Vec<u8>,
        /// New directory.
        to_dir: ObjectKey,
        /// New name.
        to: Vec<u8>,
        /// What was moved.
        object: ObjectKey,
        /// What stood at the new name.
        displaced: Option<ObjectKey>,
        /// The two names were swapped.
        exchange: bool,
        /// A whiteout was left at the old name.
        whiteout: bool,
    },
    /// Attributes were changed; `None` were not.
    Attrs {
        /// The object.
        object: ObjectKey,
        /// Permission bits, `0o7777` at most.
        perm: Option<u16>,
        /// Owner.
        uid: Option<u32>,
        /// Owning group.
        gid: Option<u32>,
        /// Last access.
        atime: Option<Time>,
        /// Last change of the content.
        mtime: Option<Time>,
    },
    /// A file was cut, or extended by a hole.
    Resize {
        /// The file.
        object: ObjectKey,
        /// Its new length in bytes.
        size: u64,
    },
    /// A file was cut to nothing, to be written anew: if no [`Change::Data`] of it
    /// follows, nor a journal commit, this must not be carried out.
    Rewrite {
        /// The file.
        object: ObjectKey,
    },
    /// A range was allocated, punched or zeroed: `fallocate(2)`.
    Allocate {
        /// The file.
        object: ObjectKey,
        /// The mode, as in `fallocate(2)`.
        mode: u32,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// An extended attribute was set.
    SetXattr {
        /// The object.
        object: ObjectKey,
        /// Name with namespace.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// An extended attribute was removed.
    RemoveXattr {
        /// The object.
        object: ObjectKey,
        /// Name with namespace.
        name: Vec<u8>,
    },
    /// Content that a file had at a sync, as far as the backing filesystem had
    /// not yet a durable place for it.
    Data {
        /// The file.
        object: ObjectKey,
        /// Its length at that time.
        size: u64,
        /// Its time of last change.
        mtime: Time,
        /// The pieces, in order, not overlapping.
        parts: Vec<Part>,
    },
    /// Earlier content of this file in the log must not be used any more.
    Expire {
        /// The file.
        object: ObjectKey,
    },
    /// Everything up to this number is durable in the backing directory.
    Checkpoint {
        /// The number.
        through: Lsn,
    },
}

/// A piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it belongs in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u32,
    /// Where its bytes begin in the group.
    pub at: u32,
}
