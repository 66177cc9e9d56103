//! What can go wrong, and what to do about it.

use std::path::{Path, PathBuf};

use crate::error::Errno;
use crate::log::OpenLogError;

/// Why an operation failed. What it should have changed is as it was before, unless said
/// otherwise.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path that was given.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// It was done, and could not be made durable: whether it survives a power cut is not
    /// known. The filesystem or its device has failed.
    #[error("what was done cannot be made durable: {0}")]
    NotDurable(Errno),
    /// The path is absolute, or goes up too far, by itself or through a symbolic link.
    #[error(
        "path {} leads out of the opened directory: name files below it, by relative paths",
        .0.display()
    )]
    Outside(PathBuf),
    /// Names that begin with `.lanefs-tmp-`, and `.lanefs` in the opened directory.
    #[error("path {} has a name that lanefs uses itself: choose another", .0.display())]
    Reserved(PathBuf),
    /// The path stands for a directory, a device, a pipe or a socket.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Replacing the file would leave the old content under its other names; see
    /// [`HardLinks`](super::HardLinks).
    #[error(
        "{} has {names} names (hard links), which a replace would separate: \
         allow it with HardLinks::Split, or write through std::fs",
        path.display()
    )]
    HardLinked {
        /// The path that was given.
        path: PathBuf,
        /// How many names the file has.
        names: u32,
    },
    /// The new file could not be given what the old one had.
    #[error("cannot keep {what} of {}: {source}; run as its owner or as root", path.display())]
    CannotKeep {
        /// `owner`, `mode` or `extended attributes`.
        what: &'static str,
        /// The path that was given.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// [`Files::close`](super::Files::close) was called before; nothing was done.
    #[error("the library is shutting down: no operation begins any more")]
    ShutdownInProgress,
    /// The operation panicked; others go on.
    #[error("the operation panicked: {0}")]
    Panicked(String),
}

impl FileError {
    pub(super) fn io(what: &'static str, path: &Path, source: Errno) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// The system's error number, if it is one of the system's errors.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { source, .. } | Self::CannotKeep { source, .. } => Some(*source),
            Self::NotDurable(source) => Some(*source),
            _ => None,
        }
    }
}

impl From<FileError> for std::io::Error {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Outside(_) | FileError::Reserved(_) | FileError::NotAFile(_) => {
                std::io::ErrorKind::InvalidInput
            }
            other => other.errno().map_or(std::io::ErrorKind::Other, |errno| {
                std::io::Error::from_raw_os_error(errno.raw()).kind()
            }),
        };
        Self::new(kind, error)
    }
}

/// Why a batch failed: the first failure ends it, later operations are not tried.
#[derive(Debug, Clone, thiserror::Error)]
#[error("operation {failed_at} of the batch failed after {completed} were done: {source}")]
pub struct BatchError {
    /// Which operation failed, from 0. The number of all operations if each was done, and
    /// making them durable failed.
    pub failed_at: usize,
    /// How many operations are done and durable: those before it. 0 if making them
    /// durable failed, whatever is visible then.
    pub completed: usize,
    /// Why.
    pub source: FileError,
}

/// A setting out of its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}: choose {from} to {to}")]
pub struct ConfigError {
    /// The field of [`FilesConfig`](super::FilesConfig).
    pub name: &'static str,
    /// What it was set to.
    pub value: u64,
    /// Its least value.
    pub from: u64,
    /// Its greatest.
    pub to: u64,
}

/// Why a directory could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFilesError {
    /// A setting is out of its limits.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be served at all.
    #[error(transparent)]
    Directory(#[from] crate::platform::NativeOpenError),
    /// Its log cannot be opened, made or recovered.
    #[error("{}: {source}", path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<OpenLogError>,
    },
    /// A log was demanded.
    #[error(
        "no log can be kept for {}: {reason}; LogUse::WherePossible does without",
        path.display()
    )]
    NoLog {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Anything else.
    #[error("cannot begin with the directory: {0}")]
    Io(#[from] Errno),
}

/// Why [`Files::close`](super::Files::close) failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The deadline passed. What is under way goes on, each operation whole or not at
    /// all; the directory stays locked until it is over.
    #[error("{batches} batches and {solos} single operations were still under way")]
    StillBusy {
        /// Batches that were admitted and not answered.
        batches: usize,
        /// Calls of `write`, `delete` and `copy`.
        solos: usize,
    },
    /// Everything was answered; the last sync of all failed. Answers that were given hold.
    #[error("the directory cannot be synced: {0}")]
    Sync(Errno),
}
