//! From a path to a directory and a name in it, component by component.
//!
//! Nothing above the opened directory is ever looked at: `..` goes back to the directory
//! that the path came through, not to what the filesystem calls its parent, and links are
//! read here, not by the system. So whatever others rename meanwhile, a path does not
//! lead out.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};
use std::sync::Arc;

use super::error::FileError;
use super::temporary::is_temporary;
use crate::engine::{NodeId, Tree};
use crate::error::{Errno, Result};
use crate::log::HOME_NAME;
use crate::platform::{Backing, os_name};
use crate::types::{Attr, FileKind};

/// Symbolic links that one path may lead through, as on Linux.
const LINKS_MAX: usize = 40;

/// A node that is kept as long as this lives.
pub(super) struct Held<B: Backing> {
    tree: Arc<Tree<B>>,
    pub(super) id: NodeId,
    pub(super) attr: Attr,
}

impl<B: Backing> Held<B> {
    /// The opened directory itself.
    pub(super) fn root(tree: &Arc<Tree<B>>) -> Result<Self> {
        Ok(Self { tree: Arc::clone(tree), id: NodeId::ROOT, attr: tree.attr(NodeId::ROOT)? })
    }

    /// Looks a name up.
    pub(super) fn lookup(&self, name: &OsStr) -> Result<Self> {
        let entry = self.tree.lookup(self.id, name)?;
        Ok(Self::new(&self.tree, entry.id, entry.attr))
    }

    /// Takes over the reference that a lookup or a creation gave.
    pub(super) fn new(tree: &Arc<Tree<B>>, id: NodeId, attr: Attr) -> Self {
        Self { tree: Arc::clone(tree), id, attr }
    }
}

impl<B: Backing> Drop for Held<B> {
    fn drop(&mut self) {
        if self.id != NodeId::ROOT {
            self.tree.forget(self.id, 1);
        }
    }
}

/// A name, by the inode number of its directory.
pub(super) type NameKey = (u64, OsString);

/// What a batch will have done to a name when it is applied.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    /// A file will stand there that has this name now.
    New(OsString),
    /// Nothing will.
    Gone,
}

/// What is pending for a name of a directory, by inode number.
pub(super) type PendingNames<'a> = &'a dyn Fn(u64, &OsStr) -> Option<Pending>;

/// Nothing is pending.
pub(super) fn nothing_pending(_dir: u64, _name: &OsStr) -> Option<Pending> {
    None
}

/// Where a path leads.
pub(super) struct Place<B: Backing> {
    pub(super) dir: Arc<Held<B>>,
    pub(super) name: OsString,
    /// What stands there, or will when the batch so far is applied.
    pub(super) existing: Option<Held<B>>,
    /// The names of the links on the way.
    pub(super) links: Vec<NameKey>,
}

impl<B: Backing> Place<B> {
    /// The name, for comparing.
    pub(super) fn key(&self) -> NameKey {
        (self.dir.attr.ino, self.name.clone())
    }
}

/// Follows a path; the last component too, if `follows` and it is a link.
///
/// # Errors
/// The path leads out, is not one of a file, or a directory on the way is missing.
pub(super) fn resolve<B: Backing>(
    tree: &Arc<Tree<B>>,
    path: &Path,
    follows: bool,
    pending: PendingNames<'_>,
) -> std::result::Result<Place<B>, FileError> {
    let mut walk = Walk { tree, path, pending, dirs: Vec::new(), todo: Vec::new(), links: vec![] };
    walk.dirs.push(Held::root(tree).map_err(|error| walk.failed(error))?);
    walk.push(path)?;
    walk.run(follows)
}

struct Walk<'a, B: Backing> {
    tree: &'a Arc<Tree<B>>,
    path: &'a Path,
    pending: PendingNames<'a>,
    /// From the root to where the walk is.
    dirs: Vec<Held<B>>,
    /// Components that are left, the next one last; `None` goes back.
    todo: Vec<Option<OsString>>,
    links: Vec<NameKey>,
}

impl<B: Backing> Walk<'_, B> {
    /// Puts the components of a path in front of what is left.
    fn push(&mut self, path: &Path) -> std::result::Result<(), FileError> {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.todo.push(Some(name.to_owned())),
                Component::ParentDir => self.todo.push(None),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(self.outside()),
            }
        }
        Ok(())
    }

    fn run(mut self, follows: bool) -> std::result::Result<Place<B>, FileError> {
        while let Some(component) = self.todo.pop() {
            let Some(name) = component else {
                self.dirs.pop();
                if self.dirs.is_empty() {
                    return Err(self.outside());
                }
                continue;
            };
            if is_temporary(&name) || (self.dirs.len() == 1 && name == HOME_NAME) {
                return Err(FileError::Reserved(self.path.to_owned()));
            }
            let is_last = self.todo.is_empty();
            let found = match self.find(&name) {
                Ok(found) => Some(found),
                Err(Errno::NOENT) if is_last => None,
                Err(error) => return Err(self.failed(error)),
            };
            match found {
                Some(link) if link.attr.kind == FileKind::Symlink && (follows || !is_last) => {
                    self.follow(&link, name)?;
                }
                existing if is_last => return Ok(self.end(name, existing)),
                Some(dir) if dir.attr.kind == FileKind::Directory => self.dirs.push(dir),
                _ => return Err(self.failed(Errno::NOTDIR)),
            }
        }
        // It ends in a directory, or is empty.
        Err(FileError::NotAFile(self.path.to_owned()))
    }

    /// What a name stands for when the batch so far is applied.
    fn find(&self, name: &OsStr) -> Result<Held<B>> {
        let dir = self.here();
        match (self.pending)(dir.attr.ino, name) {
            Some(Pending::New(temporary)) => dir.lookup(&temporary),
            Some(Pending::Gone) => Err(Errno::NOENT),
            None => dir.lookup(name),
        }
    }

    fn follow(&mut self, link: &Held<B>, name: OsString) -> std::result::Result<(), FileError> {
        self.links.push((self.here().attr.ino, name));
        if self.links.len() > LINKS_MAX {
            return Err(self.failed(Errno::LOOP));
        }
        let target = self.tree.read_link(link.id).map_err(|error| self.failed(error))?;
        self.push(Path::new(os_name(&target)))
    }

    fn end(mut self, name: OsString, existing: Option<Held<B>>) -> Place<B> {
        let dir = Arc::new(self.dirs.pop().expect("a walk is always in a directory"));
        Place { dir, name, existing, links: std::mem::take(&mut self.links) }
    }

    fn here(&self) -> &Held<B> {
        self.dirs.last().expect("a walk is always in a directory")
    }

    fn outside(&self) -> FileError {
        FileError::Outside(self.path.to_owned())
    }

    fn failed(&self, source: Errno) -> FileError {
        FileError::io("find", self.path, source)
    }
}
