//! How many requests of each kind the kernel has sent: what an operation costs
//! a mount, in a figure that does not jitter.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! ops {
    ($($variant:ident => $name:literal),+ $(,)?) => {
        /// A kind of request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the variants are the FUSE operations by name")]
        pub enum Op { $($variant),+ }

        impl Op {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name in status output.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

ops! {
    Lookup => "lookup", Forget => "forget", GetAttr => "getattr", SetAttr => "setattr",
    ReadLink => "readlink", MkNod => "mknod", MkDir => "mkdir", Unlink => "unlink",
    RmDir => "rmdir", Symlink => "symlink", Rename => "rename", Link => "link",
    Open => "open", Create => "create", Read => "read", Write => "write", Flush => "flush",
    Release => "release", Fsync => "fsync", OpenDir => "opendir", ReadDir => "readdir",
    ReadDirPlus => "readdirplus", ReleaseDir => "releasedir", FsyncDir => "fsyncdir",
    StatFs => "statfs", SetXattr => "setxattr", GetXattr => "getxattr",
    ListXattr => "listxattr", RemoveXattr => "removexattr", Access => "access",
    Fallocate => "fallocate", Lseek => "lseek", CopyFileRange => "copy_file_range",
}

/// One counter for each kind of request.
pub struct Counters {
    counts: [AtomicU64; Op::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    /// Counts one request.
    pub fn count(&self, op: Op) {
        self.counts[op as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All counts by name.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let count = |op: &Op| (op.name(), self.counts[*op as usize].load(Ordering::Relaxed));
        Op::ALL.iter().map(count).collect()
    }

    /// Goes on from these counts; names of no request are left out.
    pub fn resume(&self, counts: &[(String, u64)]) {
        for op in Op::ALL {
            let before = counts.iter().find(|(name, _)| name == op.name());
            self.counts[*op as usize].fetch_add(before.map_or(0, |(_, n)| *n), Ordering::Relaxed);
        }
    }

    /// All counts that are not zero, by name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.all().into_iter().filter(|(_, count)| *count > 0).collect()
    }
}
