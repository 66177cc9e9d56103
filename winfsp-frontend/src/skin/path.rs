//! From WinFsp's paths to the engine's nodes.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use fs_core::engine::NodeId;
use fs_core::error::{Errno, Result};
use windows_sys::Win32::Foundation as nt;
use winfsp::{FspError, U16CStr};

use super::{MountedTree, failed, status};

/// A reference to a node, given back in the end.
pub(super) struct Held {
    tree: Arc<MountedTree>,
    id: NodeId,
}

impl Held {
    /// Takes over a reference that the engine has given.
    pub(super) fn new(tree: &Arc<MountedTree>, id: NodeId) -> Self {
        Self { tree: Arc::clone(tree), id }
    }

    pub(super) fn lookup(tree: &Arc<MountedTree>, dir: NodeId, name: &OsStr) -> Result<Self> {
        Ok(Self::new(tree, tree.lookup(dir, name)?.id))
    }

    pub(super) const fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn is_root(&self) -> bool {
        self.id == NodeId::ROOT
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The root is never referenced.
        if !self.is_root() {
            self.tree.forget(self.id, 1);
        }
    }
}

/// A directory, and a name in it.
pub(super) struct Place {
    pub(super) dir: Held,
    pub(super) name: OsString,
}

/// WinFsp's error, in a type of ours.
pub(super) struct Refused(pub(super) FspError);

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self(failed(error))
    }
}

/// One component of a path.
pub(super) fn name(units: &[u16]) -> std::result::Result<OsString, Refused> {
    let invalid = || Refused(status(nt::STATUS_OBJECT_NAME_INVALID));
    // A colon begins a stream's name. What is no Unicode could not be opened below.
    let text = String::from_utf16(units).map_err(|_| invalid())?;
    if text.contains([':', '/', '\\', '\0']) || text == "." || text == ".." {
        return Err(invalid());
    }
    Ok(OsString::from(text))
}

fn components(path: &U16CStr) -> std::result::Result<Vec<OsString>, Refused> {
    let components = path.as_slice().split(|&unit| unit == u16::from(b'\\'));
    components.filter(|component| !component.is_empty()).map(name).collect()
}

/// The object at a path.
pub(super) fn find(tree: &Arc<MountedTree>, path: &U16CStr) -> std::result::Result<Held, Refused> {
    let components = components(path)?;
    match components.split_last() {
        None => Ok(Held::new(tree, NodeId::ROOT)),
        Some((last, above)) => Ok(Held::lookup(tree, walk(tree, above)?.id(), last)?),
    }
}

/// The directory that a path's last component is in, which need not be there.
pub(super) fn place(
    tree: &Arc<MountedTree>,
    path: &U16CStr,
) -> std::result::Result<Place, Refused> {
    let mut components = components(path)?;
    let name = components.pop().ok_or(Refused(status(nt::STATUS_OBJECT_NAME_COLLISION)))?;
    Ok(Place { dir: walk(tree, &components)?, name })
}

/// A directory; where one is missing on the way, that is said as Windows does.
fn walk(tree: &Arc<MountedTree>, components: &[OsString]) -> std::result::Result<Held, Refused> {
    let mut here = Held::new(tree, NodeId::ROOT);
    for component in components {
        here = match Held::lookup(tree, here.id(), component) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Refused(status(nt::STATUS_OBJECT_PATH_NOT_FOUND)));
            }
            other => other?,
        };
    }
    Ok(here)
}
