//! Requests by kind, for `lanefs status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are WinFsp's own names")]
pub enum Request {
    Lookup,
    Open,
    Create,
    Overwrite,
    Cleanup,
    Close,
    Read,
    Write,
    Flush,
    GetInfo,
    SetInfo,
    GetSecurity,
    SetSecurity,
    ReadDirectory,
    Rename,
    Reparse,
    Attributes,
    VolumeInfo,
}

const NAMES: [&str; 18] = [
    "lookup",
    "open",
    "create",
    "overwrite",
    "cleanup",
    "close",
    "read",
    "write",
    "flush",
    "get_info",
    "set_info",
    "get_security",
    "set_security",
    "read_directory",
    "rename",
    "reparse",
    "attributes",
    "volume_info",
];

/// How many of each.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// Counts one.
    pub fn count(&self, request: Request) {
        self.0[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that came.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}
