//! Making directories: durable with their own names, all the way up.

use std::path::{Component, Path};
use std::sync::Arc;

use super::error::FileError;
use super::path::Held;
use super::queue::Closing;
use super::shared::{Shared, sync_dir};
use super::{Files, temporary::is_temporary};
use crate::error::{Errno, Result};
use crate::platform::Backing;
use crate::types::{FileKind, NewMode};

/// Permission bits of a new directory, less the umask.
const DIRECTORY: NewMode = NewMode { mode: 0o777, umask: 0 };

impl<B: Backing> Files<B> {
    /// Makes a directory and those above it that are missing; durable when it returns,
    /// the names of all of them included, whoever made them. Existing ones are no error.
    ///
    /// The path must not have `..` or symbolic links in it.
    ///
    /// # Errors
    /// See [`FileError`]. Directories that were made before a failure stay.
    pub fn create_dirs(&self, path: impl AsRef<Path>) -> std::result::Result<(), FileError> {
        let path = path.as_ref();
        let solo = self.shared.queue.enter_solo();
        let _solo = solo.map_err(|Closing| FileError::ShutdownInProgress)?;
        let failed = |error| FileError::io("make directory", path, error);
        let mut dirs = vec![Held::root(&self.shared.tree).map_err(failed)?];
        for component in path.components() {
            let name = match component {
                Component::CurDir => continue,
                Component::Normal(name) => name,
                _ => return Err(FileError::Outside(path.to_owned())),
            };
            if is_temporary(name) {
                return Err(FileError::Reserved(path.to_owned()));
            }
            let parent = dirs.last().expect("the root is there");
            let dir = make_or_find(&self.shared, parent, name).map_err(failed)?;
            dirs.push(dir);
        }
        // The last one's own entries are nobody's concern yet.
        dirs.pop();
        let (tree, caller) = (&self.shared.tree, self.shared.caller());
        dirs.iter().try_for_each(|dir| sync_dir(tree, caller, dir.id)).map_err(failed)
    }
}

fn make_or_find<B: Backing>(
    shared: &Arc<Shared<B>>,
    parent: &Held<B>,
    name: &std::ffi::OsStr,
) -> Result<Held<B>> {
    let (tree, caller) = (&shared.tree, shared.caller());
    let found = match tree.make_dir(caller, parent.id, name, DIRECTORY) {
        Ok(entry) => Held::new(tree, entry.id, entry.attr),
        Err(Errno::EXIST) => parent.lookup(name)?,
        Err(error) => return Err(error),
    };
    if found.attr.kind == FileKind::Directory { Ok(found) } else { Err(Errno::NOTDIR) }
}
