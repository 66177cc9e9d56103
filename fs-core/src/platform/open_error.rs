//! Why a directory cannot be served, on every platform.

use std::path::PathBuf;

use crate::error::Errno;

/// Why a directory cannot be a backing directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("backing directory {0} does not exist: create it, or check the path")]
    Missing(PathBuf),
    /// There is something else than a directory.
    #[error("backing {0} is not a directory: name the directory that holds the files")]
    NotADirectory(PathBuf),
    /// Another process holds the lock.
    #[error(
        "backing directory {0} is already served by another lanefs: \
         see `lanefs status`, or unmount that one first"
    )]
    Locked(PathBuf),
    /// /proc is needed and not there: on Linux.
    #[error("/proc is not mounted: lanefs reaches files through /proc/self/fd; mount it first")]
    NoProc,
    /// Anything else.
    #[error("cannot open backing directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
}
