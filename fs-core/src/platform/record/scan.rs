//! The tree before the first operation, read through the door itself.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use super::tape::{Known, RecordPlan};
use super::{bytes, made};
use crate::crash::steps::BLOCK_BYTES;
use crate::crash::trace::{Blobs, Initial, InitialNode, Ino, Name, Place};
use crate::error::{Errno, Result};
use crate::platform::{Backing, Found, ObjectKey, OpenMode};
use crate::types::{Caller, FileKind};

/// A file's bytes are kept in pieces of this size.
const PIECE_BYTES: usize = 16 * BLOCK_BYTES as usize;

/// What was found.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) initial: Initial,
    pub(super) blobs: Blobs,
    pub(super) keys: HashMap<ObjectKey, Known>,
    pub(super) told: HashMap<u64, u8>,
    /// The directory of the file within the tree to tell through.
    pub(super) told_dir: Option<Ino>,
    left_out: Option<OsString>,
}

/// Reads the tree that the plan names.
pub(super) fn scan<B: Backing>(backing: &B, plan: &RecordPlan) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    let top = backing.root()?;
    if let Some(told) = &plan.told {
        let dir = backing.lookup(&top.object, told)?;
        for name in names(backing, &dir)? {
            let file = backing.lookup(&dir.object, &name)?;
            let stream = name.to_str().and_then(|name| name.parse().ok()).unwrap_or(1);
            scanned.told.insert(file.attr.ino, stream);
            scanned.keys.insert(file.key, Known { ino: None, told: Some(stream) });
        }
    }
    let root = backing.lookup(&top.object, &plan.tree)?;
    let told_file = plan.told_file.as_deref();
    scanned.add(backing, &root)?;
    scanned.left_out.clone_from(&plan.left_out);
    scanned.below(backing, &root, Ino::ROOT, told_file)?;
    Ok(scanned)
}

impl Scanned {
    /// Gives an object its number.
    fn add<B: Backing>(&mut self, backing: &B, found: &Found<B>) -> Result<Ino> {
        let ino = Ino(self.initial.nodes.len() as u32);
        let kind = found.attr.kind;
        let target = match kind {
            FileKind::Symlink => backing.read_link(&found.object)?,
            _ => Vec::new(),
        };
        let made = made(&found.attr, crate::platform::os_name(&target));
        let (bytes, extents) = match kind {
            FileKind::Regular => self.content(backing, found)?,
            _ => (0, Vec::new()),
        };
        let xattrs = xattrs(backing, found)?;
        self.initial.nodes.push(InitialNode { made, xattrs, bytes, extents });
        self.keys.insert(found.key, Known { ino: Some(ino), told: None });
        Ok(ino)
    }

    fn below<B: Backing>(
        &mut self,
        backing: &B,
        dir: &Found<B>,
        ino: Ino,
        told: Option<&[OsString]>,
    ) -> Result<()> {
        let told_here = match told {
            Some([_]) => {
                self.told_dir = Some(ino);
                told.and_then(<[OsString]>::first)
            }
            _ => None,
        };
        for name in names(backing, dir)? {
            if ino == Ino::ROOT && self.left_out.as_ref() == Some(&name) {
                continue;
            }
            let found = backing.lookup(&dir.object, &name)?;
            if told_here == Some(&name) {
                self.told.insert(found.attr.ino, 3);
                self.keys.insert(found.key, Known { ino: None, told: Some(3) });
                continue;
            }
            let known = self.keys.get(&found.key).and_then(|known| known.ino);
            let child = match known {
                Some(child) => child,
                None => self.add(backing, &found)?,
            };
            let place = Place { dir: ino, name: bytes(&name).into() };
            self.initial.names.push((place, child));
            if found.attr.kind == FileKind::Directory {
                let told = told.and_then(|path| path.split_first());
                let told = told.filter(|(first, _)| **first == name).map(|(_, rest)| rest);
                self.below(backing, &found, child, told.filter(|rest| !rest.is_empty()))?;
            }
        }
        Ok(())
    }

    fn content<B: Backing>(
        &mut self,
        backing: &B,
        found: &Found<B>,
    ) -> Result<(u64, Vec<(u64, crate::crash::trace::Blob)>)> {
        let nobody = Caller { uid: 0, gid: 0, thread: 0 };
        let mode = OpenMode { read: true, write: false, truncate: false, no_atime: false };
        let file = backing.open(nobody, &found.object, mode)?;
        let (mut extents, mut offset) = (Vec::new(), 0);
        let mut buffer = vec![0; PIECE_BYTES];
        while offset < found.attr.size {
            // Holes are skipped where the backing tells.
            match backing.seek(&file, offset, crate::platform::Seek::Data) {
                Ok(data) => offset = data / BLOCK_BYTES * BLOCK_BYTES,
                Err(Errno::NXIO) => break,
                Err(_) => {}
            }
            let read = backing.read(&file, &mut buffer, offset)?;
            if read == 0 {
                break;
            }
            if buffer[..read].iter().any(|byte| *byte != 0) {
                extents.push((offset, self.blobs.add(&buffer[..read])));
            }
            offset += read as u64;
        }
        Ok((found.attr.size, extents))
    }
}

fn names<B: Backing>(backing: &B, dir: &Found<B>) -> Result<Vec<OsString>> {
    let open = backing.open_dir(&dir.object)?;
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let before = offset;
        backing.read_dir(&open, offset, &mut |entry| {
            offset = entry.next_offset;
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name);
            }
            true
        })?;
        if offset == before {
            break;
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn xattrs<B: Backing>(backing: &B, found: &Found<B>) -> Result<Vec<(Name, Vec<u8>)>> {
    // No extended attributes here: none to be lost.
    let Ok(names) = backing.xattr_names(&found.object) else { return Ok(Vec::new()) };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let value = backing.xattr(&found.object, OsStr::new(crate::platform::os_name(name)))?;
            Ok((name.into(), value))
        })
        .collect()
}
