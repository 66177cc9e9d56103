//! What a program did to a directory: the tree before, and every operation after it.
//!
//! A trace is plain values. Who makes one (a mount, the simulator, a test) does not
//! matter; everything that the crash lab says follows from it alone.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{FileKind, SyncKind};

/// An object of the trace. Numbers are given once and never again, unlike inode numbers,
/// which a filesystem gives to another file within milliseconds. 0 is the directory
/// under test itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ino(pub u32);

impl Ino {
    /// The directory under test.
    pub const ROOT: Self = Self(0);
    /// Its place in a table of all objects.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bytes that operations share: equal bytes have equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blob(pub u32);

/// A name in a directory, as bytes.
pub type Name = Arc<[u8]>;

/// Bytes by number, each kept once.
#[derive(Debug, Clone, Default)]
pub struct Blobs {
    bytes: Vec<Arc<[u8]>>,
    known: HashMap<blake3::Hash, Blob>,
}

impl Blobs {
    /// The number of these bytes.
    pub fn add(&mut self, bytes: &[u8]) -> Blob {
        let next = Blob(u32::try_from(self.bytes.len()).expect("fewer than 4 billion blobs"));
        let blob = *self.known.entry(blake3::hash(bytes)).or_insert(next);
        if blob == next {
            self.bytes.push(bytes.into());
        }
        blob
    }

    /// The bytes with a number; empty for a number never given.
    #[must_use]
    pub fn get(&self, blob: Blob) -> &[u8] {
        self.bytes.get(blob.0 as usize).map_or(&[], |bytes| bytes)
    }

    /// All bytes, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.iter().map(|bytes| &**bytes)
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Actor {
    /// Process id; 0 if the kernel did it by itself (write-back of a mapping).
    pub process: u32,
    /// Thread id.
    pub thread: u32,
    /// The thread's name, as `/proc/PID/comm` has it.
    pub comm: String,
}

/// What a new object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// File, directory, symbolic link ...
    pub kind: FileKind,
    /// Permission bits, `0o7777` at most.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Target of a symbolic link.
    pub target: Vec<u8>,
}

/// A name and the directory that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub dir: Ino,
    /// The name.
    pub name: Name,
}

/// One operation, as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A new object with a name.
    Create {
        /// Where.
        at: Place,
        /// Its number.
        ino: Ino,
        /// What it is.
        made: Made,
    },
    /// One more name.
    Link {
        /// Where.
        at: Place,
        /// Of what.
        ino: Ino,
    },
    /// A name less: `unlink(2)`, `rmdir(2)`.
    Remove {
        /// Where.
        at: Place,
        /// Whose name it was.
        ino: Ino,
    },
    /// A name moved.
    Rename {
        /// From where.
        from: Place,
        /// To where.
        to: Place,
        /// What was moved.
        ino: Ino,
        /// What was at the target.
        replaced: Option<Ino>,
        /// The two names were swapped.
        exchange: bool,
    },
    /// Bytes written.
    Write {
        /// Into which file.
        ino: Ino,
        /// Where.
        offset: u64,
        /// What.
        data: Blob,
        /// By a shared mapping: whole pages, in no order that we know.
        mapped: bool,
    },
    /// A new length.
    Resize {
        /// Of which file.
        ino: Ino,
        /// In bytes.
        bytes: u64,
    },
    /// Blocks allocated or punched.
    Allocate {
        /// Of which file.
        ino: Ino,
        /// `FALLOC_FL_*`: 0, KEEP_SIZE, PUNCH_HOLE or ZERO_RANGE.
        mode: u32,
        /// From where.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Permission or owner changed. Times are not recorded: no state depends on them.
    Attrs {
        /// Of what.
        ino: Ino,
        /// Permission bits now.
        perm: u16,
        /// Owner now.
        uid: u32,
        /// Owning group now.
        gid: u32,
    },
    /// An extended attribute set, or removed if `value` is none.
    Xattr {
        /// Of what.
        ino: Ino,
        /// Its name.
        name: Name,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// A sync that was answered with success.
    Sync {
        /// Of which file or directory.
        ino: Ino,
        /// `fdatasync` or `fsync`.
        kind: SyncKind,
    },
    /// A file that had been opened for writing was closed.
    Close {
        /// Which.
        ino: Ino,
    },
    /// The program told somebody something, so that it must be true from now on.
    Ack {
        /// 1: standard output, 2: standard error, 3: the file of `--ack`.
        stream: u8,
        /// What it told.
        data: Blob,
    },
}

/// An operation and who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What.
    pub operation: Operation,
    /// Who: index into [`Trace::actors`].
    pub actor: u32,
}

/// An object that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialNode {
    /// What it is.
    pub made: Made,
    /// Extended attributes.
    pub xattrs: Vec<(Name, Vec<u8>)>,
    /// Length in bytes, of a regular file.
    pub bytes: u64,
    /// Content: offsets and bytes, in order; what is between them is zero.
    pub extents: Vec<(u64, Blob)>,
}

/// A tree before the first operation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Initial {
    /// Objects by number; 0 is the directory itself.
    pub nodes: Vec<InitialNode>,
    /// Names; a directory's come after its own.
    pub names: Vec<(Place, Ino)>,
}

/// A recording: everything that the lab needs to know, in one value.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// What was run, for people.
    pub command: Vec<String>,
    /// The directory under test, absolute: states are shown to checkers there.
    pub directory: Vec<u8>,
    /// The tree before.
    pub initial: Initial,
    /// What was done, in the order in which it was answered.
    pub operations: Vec<Recorded>,
    /// Who did it.
    pub actors: Vec<Actor>,
    /// The bytes.
    pub blobs: Blobs,
}

impl Trace {
    /// One more than the highest number of an object.
    #[must_use]
    pub fn inodes(&self) -> usize {
        let made = |recorded: &Recorded| match recorded.operation {
            Operation::Create { ino, .. } => Some(ino.index() + 1),
            _ => None,
        };
        self.operations.iter().filter_map(made).max().unwrap_or(0).max(self.initial.nodes.len())
    }

    /// A copy without bytes that nothing refers to.
    #[must_use]
    pub fn compacted(&self) -> Self {
        let mut trace = Self { blobs: Blobs::default(), ..self.clone() };
        let initial = trace.initial.nodes.iter_mut().flat_map(|node| &mut node.extents);
        for (_, blob) in initial {
            *blob = trace.blobs.add(self.blobs.get(*blob));
        }
        for recorded in &mut trace.operations {
            if let Operation::Write { data, .. } | Operation::Ack { data, .. } =
                &mut recorded.operation
            {
                *data = trace.blobs.add(self.blobs.get(*data));
            }
        }
        trace
    }

    /// Who did an operation.
    #[must_use]
    pub fn actor(&self, operation: usize) -> Option<&Actor> {
        self.actors.get(self.operations.get(operation)?.actor as usize)
    }

    /// What was told before an operation, on one stream, as one text.
    #[must_use]
    pub fn acknowledged(&self, stream: u8, before: usize) -> Vec<u8> {
        let mut told = Vec::new();
        for recorded in self.operations.iter().take(before) {
            match &recorded.operation {
                Operation::Ack { stream: of, data } if *of == stream => {
                    told.extend_from_slice(self.blobs.get(*data));
                }
                _ => {}
            }
        }
        told
    }
}

impl Operation {
    /// The object that it is about, if it is about one.
    #[must_use]
    pub fn ino(&self) -> Option<Ino> {
        match *self {
            Self::Create { ino, .. }
            | Self::Link { ino, .. }
            | Self::Remove { ino, .. }
            | Self::Rename { ino, .. }
            | Self::Write { ino, .. }
            | Self::Resize { ino, .. }
            | Self::Allocate { ino, .. }
            | Self::Attrs { ino, .. }
            | Self::Xattr { ino, .. }
            | Self::Sync { ino, .. }
            | Self::Close { ino } => Some(ino),
            Self::Ack { .. } => None,
        }
    }

    /// Whether it changes what is on the disk.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::Sync { .. } | Self::Close { .. } | Self::Ack { .. })
    }
}
