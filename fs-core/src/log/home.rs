//! `.lanefs`: where the engine keeps what is its own, in the backing directory.
//!
//! ```text
//! .lanefs/            mode 0700, hidden from the mount
//!   marker            its time of change is the number of the last operation applied
//!   marks/            see `marks` and `together`
//!   undo/             see `undo`
//!   log               the log, unless it lies elsewhere
//!   log-is-UUID       the log lies elsewhere, and may not be empty
//!   README            says what to do; there while the log may not be empty
//! ```

use std::ffi::OsStr;

use super::marks::{Marks, OURSELVES};
use super::undo::Undo;
use crate::error::{Errno, Result};
use crate::platform::{Backing, OpenMode};
use crate::types::NewMode;

/// Name of the engine's directory in the backing directory.
pub const HOME_NAME: &str = ".lanefs";

const MARKER: &str = "marker";
const MARKS: &str = "marks";
const UNDO: &str = "undo";
const LOG: &str = "log";
const README: &str = "README";
const ELSEWHERE_PREFIX: &str = "log-is-";

const README_TEXT: &str = "\
This directory belongs to lanefs. It is here because lanefs serves, or served, the
directory above it, and keeps a log of what programs have been promised.

While a lanefs mount is running, leave it alone.

If this file is here and nothing is mounted, lanefs did not end properly (power cut,
crash, kill). The last few seconds of acknowledged changes may be in the log only.
Before you read, copy or change the files above, do one of these:

    lanefs recover DIRECTORY      brings the files up to date; needs no FUSE
    lanefs mount DIRECTORY ...    does the same first

`lanefs check DIRECTORY` only says what recovery would do. Do not delete this
directory before: acknowledged data would be lost.
";

const DIRECTORY: NewMode = NewMode { mode: 0o700, umask: 0 };
const FILE: NewMode = NewMode { mode: 0o600, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const READ_ONLY: OpenMode = OpenMode { write: false, ..READ_WRITE };

/// The engine's directory.
pub(super) struct Home<B: Backing> {
    directory: B::Object,
    pub(super) marker: B::File,
    pub(super) marks: Marks<B>,
    pub(super) undo: Undo<B>,
}

impl<B: Backing> Home<B> {
    /// Finds the directory.
    ///
    /// # Errors
    /// `ENOENT` if there is none; else the backing filesystem's.
    pub(super) fn find(backing: &B) -> Result<Self> {
        let root = backing.root()?.object;
        let directory = backing.lookup(&root, OsStr::new(HOME_NAME))?.object;
        let marker = backing.lookup(&directory, OsStr::new(MARKER))?.object;
        let marker = match backing.open(OURSELVES, &marker, READ_WRITE) {
            // A read-only mount only looks.
            Err(Errno::ROFS) => backing.open(OURSELVES, &marker, READ_ONLY)?,
            other => other?,
        };
        let marks = backing.lookup(&directory, OsStr::new(MARKS))?.object;
        let undo = match backing.lookup(&directory, OsStr::new(UNDO)) {
            Ok(found) => Some(found.object),
            // Made by a version that had none.
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { directory, marker, marks: Marks::new(marks), undo: Undo::new(undo) })
    }

    /// Finds the directory, or makes it; durable when it returns.
    ///
    /// # Errors
    /// The backing filesystem's.
    pub(super) fn find_or_make(backing: &B) -> Result<Self> {
        match Self::find(backing) {
            // Whatever of it is missing: making it was interrupted.
            Err(Errno::NOENT) => {
                let root = backing.root()?.object;
                let home = make_dir(backing, &root, HOME_NAME)?;
                make_dir(backing, &home, MARKS)?;
                make_dir(backing, &home, UNDO)?;
                make_file(backing, &home, MARKER)?;
                let made = Self::find(backing)?;
                // It was made with the time of day.
                backing.set_marker(&made.marker, 0)?;
                backing.sync_all()?;
                Ok(made)
            }
            Ok(found) if !found.undo.is_there() => {
                make_dir(backing, &found.directory, UNDO)?;
                Self::find(backing)
            }
            other => other,
        }
    }

    /// Opens the log that lies here.
    pub(super) fn open_log(&self, backing: &B) -> Result<B::Log> {
        backing.open_log(&self.directory, OsStr::new(LOG))
    }

    /// Whether a log lies here.
    pub(super) fn has_log(&self, backing: &B) -> Result<bool> {
        match backing.lookup(&self.directory, OsStr::new(LOG)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a log here, in place of one that is there. Its superblock is for the
    /// caller to write; until then it is no log to anybody.
    pub(super) fn make_log(
        &self,
        backing: &B,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<B::Log> {
        match backing.unlink(&self.directory, OsStr::new(LOG)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        backing.make_log(&self.directory, OsStr::new(LOG), bytes, progress)
    }

    /// UUID of the log elsewhere that this directory belongs to, if there is one.
    pub(super) fn log_elsewhere(&self, backing: &B) -> Result<Option<String>> {
        let directory = backing.open_dir(&self.directory)?;
        let mut found = None;
        backing.read_dir(&directory, 0, &mut |entry| {
            let name = entry.name.to_string_lossy();
            found = name.strip_prefix(ELSEWHERE_PREFIX).map(str::to_owned).or(found.take());
            true
        })?;
        Ok(found)
    }

    /// Notes that the log lies elsewhere and may not be empty, or no more.
    pub(super) fn note_log_elsewhere(&self, backing: &B, uuid: &str, is_so: bool) -> Result<()> {
        let name = format!("{ELSEWHERE_PREFIX}{uuid}");
        if is_so {
            return make_file(backing, &self.directory, &name);
        }
        match backing.unlink(&self.directory, OsStr::new(&name)) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file that says what to do, or removes it.
    pub(super) fn set_readme(&self, backing: &B, present: bool) -> Result<()> {
        let name = OsStr::new(README);
        if !present {
            return match backing.unlink(&self.directory, name) {
                Err(Errno::NOENT) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let (_, file, _) =
            backing.create(OURSELVES, &self.directory, name, FILE, READ_WRITE, false)?;
        backing.write(OURSELVES, &file, README_TEXT.as_bytes(), 0, false).map(drop)
    }
}

fn make_dir<B: Backing>(backing: &B, dir: &B::Object, name: &str) -> Result<B::Object> {
    match backing.make_dir(OURSELVES, dir, OsStr::new(name), DIRECTORY) {
        Ok(found) => Ok(found.object),
        Err(Errno::EXIST) => Ok(backing.lookup(dir, OsStr::new(name))?.object),
        Err(error) => Err(error),
    }
}

fn make_file<B: Backing>(backing: &B, dir: &B::Object, name: &str) -> Result<()> {
    let made = backing.create(OURSELVES, dir, OsStr::new(name), FILE, READ_WRITE, false);
    made.map(drop)
}
