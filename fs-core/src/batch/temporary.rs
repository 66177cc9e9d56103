//! New files under names of their own, until they take the place of others; and what a
//! crash has left of them.
//!
//! A file is removed by its guard on any failure. After a crash nobody is left to do
//! that. So before the first temporary file is made, `.lanefs-tmp-open` is made in the
//! opened directory; it is removed when the library is closed. Whoever opens the
//! directory and finds it walks the tree once and removes what is stale. (The directory
//! is locked: nobody else's files can be under such names.)

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::path::Held;
use crate::engine::{FileId, NodeId, Tree};
use crate::error::{Errno, Result};
use crate::platform::{Backing, OpenMode};
use crate::types::{Caller, FileKind, NewMode};

/// Begins the names of all temporary files.
pub const TEMPORARY_PREFIX: &str = ".lanefs-tmp-";

/// There while temporary files may be.
const OPEN: &str = ".lanefs-tmp-open";

/// Names that are tried before it is an error that all exist.
const TRIES: u32 = 8;

const WRITE: OpenMode = OpenMode { read: false, write: true, truncate: false, no_atime: false };

/// Whether a name is one of ours.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// A name that nobody has used: a counter alone would meet what a crash has left.
fn new_name() -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    OsString::from(format!("{TEMPORARY_PREFIX}{:016x}", RandomState::new().hash_one(number)))
}

/// A new file, removed when this is dropped unless it was [placed](Self::placed).
pub(super) struct Temporary<B: Backing> {
    tree: Arc<Tree<B>>,
    pub(super) dir: Arc<Held<B>>,
    pub(super) name: OsString,
    /// `None` once it is closed.
    file: Option<FileId>,
    pub(super) node: Held<B>,
    placed: bool,
}

impl<B: Backing> Temporary<B> {
    /// Makes an empty file with these permission bits, less the umask.
    pub(super) fn make(
        tree: &Arc<Tree<B>>,
        caller: Caller,
        dir: Arc<Held<B>>,
        mode: u32,
    ) -> Result<Self> {
        let mode = NewMode { mode, umask: 0 };
        let mut tries = 0;
        let (name, entry, file) = loop {
            let name = new_name();
            match tree.create(caller, dir.id, &name, mode, WRITE, true) {
                Ok((entry, file)) => break (name, entry, file),
                Err(Errno::EXIST) if tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        };
        let node = Held::new(tree, entry.id, entry.attr);
        let tree = Arc::clone(tree);
        Ok(Self { tree, dir, name, file: Some(file), node, placed: false })
    }

    /// The open file.
    ///
    /// # Errors
    /// `EBADF` if it is closed.
    pub(super) fn file(&self) -> Result<FileId> {
        self.file.ok_or(Errno::BADF)
    }

    /// The open file, if it is open.
    pub(super) const fn open_file(&self) -> Option<FileId> {
        self.file
    }

    /// Closes the file: its content is durable, or as durable as it will be.
    pub(super) fn close(&mut self) {
        if let Some(file) = self.file.take() {
            self.tree.release(file);
        }
    }

    /// It has its final name.
    pub(super) const fn placed(&mut self) {
        self.placed = true;
    }
}

impl<B: Backing> Drop for Temporary<B> {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = self.tree.unlink(self.dir.id, &self.name)
        {
            tracing::warn!(name = ?self.name, %error, "a temporary file cannot be removed");
        }
        self.close();
    }
}

/// Whether the directory may have temporary files in it.
pub(super) struct OpenNote(Mutex<bool>);

impl OpenNote {
    /// Removes what a crash has left.
    pub(super) fn begin<B: Backing>(tree: &Arc<Tree<B>>) -> Result<Self> {
        match tree.lookup(NodeId::ROOT, OsStr::new(OPEN)) {
            Ok(entry) => {
                tree.forget(entry.id, 1);
                let removed = remove_stale(tree)?;
                tracing::info!(removed, "removed temporary files that a crash had left");
                tree.unlink(NodeId::ROOT, OsStr::new(OPEN))?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(Self(Mutex::new(false)))
    }

    /// To be called before a temporary file is made. `sync` makes the opened directory
    /// durable; it is called once.
    pub(super) fn make<B: Backing>(
        &self,
        tree: &Arc<Tree<B>>,
        caller: Caller,
        sync: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *made {
            return Ok(());
        }
        let (root, name) = (NodeId::ROOT, OsStr::new(OPEN));
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (entry, file) = tree.create(caller, root, name, mode, WRITE, false)?;
        tree.release(file);
        tree.forget(entry.id, 1);
        // Where names become durable in any order: before the first temporary file does.
        if !tree.engine().keeps_order() {
            sync()?;
        }
        *made = true;
        Ok(())
    }

    /// No temporary file is left.
    pub(super) fn end<B: Backing>(&self, tree: &Arc<Tree<B>>) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *made)
            && let Err(error) = tree.unlink(NodeId::ROOT, OsStr::new(OPEN))
        {
            tracing::warn!(%error, "cannot remove {OPEN}: the next start looks for leftovers");
        }
    }
}

/// Removes all temporary files below the root; how many. What cannot be read or removed
/// is passed over, and told.
fn remove_stale<B: Backing>(tree: &Arc<Tree<B>>) -> Result<usize> {
    let mut todo = vec![Held::new(tree, NodeId::ROOT, tree.attr(NodeId::ROOT)?)];
    let mut removed = 0;
    while let Some(dir) = todo.pop() {
        let (stale, below) = match list(tree, &dir) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(ino = dir.attr.ino, %error, "a directory cannot be searched");
                continue;
            }
        };
        for name in stale {
            match tree.unlink(dir.id, &name) {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(?name, %error, "a leftover cannot be removed"),
            }
        }
        let held = below.iter().filter_map(|name| dir.lookup(name).ok());
        todo.extend(held.filter(|found| found.attr.kind == FileKind::Directory));
    }
    Ok(removed)
}

/// Temporary files in a directory, and what may be directories.
fn list<B: Backing>(tree: &Tree<B>, dir: &Held<B>) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let (mut stale, mut below) = (Vec::new(), Vec::new());
    let open = tree.open_dir(dir.id)?;
    let listed = tree.read_dir(open, 0, &mut |entry| {
        let may_be_dir = entry.kind.is_none_or(|kind| kind == FileKind::Directory);
        if may_be_dir && entry.name != "." && entry.name != ".." {
            below.push(entry.name);
        } else if is_temporary(&entry.name) && entry.name != OPEN {
            stale.push(entry.name);
        }
        true
    });
    tree.release_dir(open);
    listed.map(|()| (stale, below))
}
