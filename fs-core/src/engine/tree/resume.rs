//! A tree that goes on in another program: what the front-end's kernel believes in, as a
//! record, and the same tree made again from it.
//!
//! The record is taken when nothing is under way and everything is durable
//! ([`Engine::close`](crate::engine::Engine::close)). So it has no state of the log and of
//! the lanes: a file that is open for writing is, to the new engine, one that was just
//! opened. What *must* be the same are the numbers that the kernel was given, how often it
//! holds them, and the open files themselves: an open file of a program stays one open file
//! of the backing filesystem, which remembers a failed write-back, and an object without a
//! name.
//!
//! Passthrough writers go on writing meanwhile. Blocks that they get between the last sync
//! of the old engine and the opening here would count as committed ([`Tree::resume`] finds
//! them in the file). So everything is synced once more when all files are open, before the
//! first request is answered.

use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use super::{FileId, OpenDir, OpenFile, Tree};
use crate::engine::nodes::NodeId;
use crate::error::{Errno, Result};
use crate::platform::{Carried, HANDLE_BYTES_MAX, ObjectKey, OpenMode, os_name};

/// What a kernel knows of a tree; `T` is what an open thing goes by
/// ([`Carried::Token`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRecord<T> {
    next_node: u64,
    next_file: u64,
    next_dir: u64,
    nodes: Vec<NodeRecord<T>>,
    files: Vec<FileRecord<T>>,
    dirs: Vec<DirRecord<T>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRecord<T> {
    id: u64,
    references: u64,
    dev: u64,
    ino: u64,
    handle: Vec<u8>,
    handle_kind: i32,
    token: Option<T>,
    /// Directory and name, where rules want to know.
    place: Option<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord<T> {
    id: u64,
    node: u64,
    read: bool,
    write: bool,
    no_atime: bool,
    /// None: not opened yet, because only the kernel has read it.
    token: Option<T>,
    unseen: bool,
    durability: String,
    is_new: bool,
    closed_empty: bool,
    late_error: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DirRecord<T> {
    id: u64,
    node: u64,
    token: T,
    late_error: Option<i32>,
}

impl<T: Copy> TreeRecord<T> {
    /// Every token in it.
    pub fn tokens(&self) -> impl Iterator<Item = T> + '_ {
        let nodes = self.nodes.iter().filter_map(|node| node.token);
        let files = self.files.iter().filter_map(|file| file.token);
        nodes.chain(files).chain(self.dirs.iter().map(|dir| dir.token))
    }

    /// Nodes, open files and open directories.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.files.len(), self.dirs.len())
    }
}

impl<B: Carried> Tree<B> {
    /// What the kernel knows of this tree. For a tree that nobody uses any more: what
    /// changes later is not in it.
    #[must_use]
    pub fn record(&self) -> TreeRecord<B::Token> {
        let (nodes, next_node) = self.nodes.all();
        let (files, next_file) = self.files.numbered();
        let (dirs, next_dir) = self.dirs.numbered();
        let nodes = nodes.iter().map(|(node, references)| {
            let ObjectKey { dev, ino, handle: (data, bytes, handle_kind) } = node.full_key();
            let place = node.place().map(|(dir, name)| (dir.0, name.into_encoded_bytes()));
            let handle = data[..usize::from(bytes)].to_vec();
            let token = self.backing.object_token(&node.object);
            let references = *references;
            NodeRecord { id: node.id.0, references, dev, ino, handle, handle_kind, token, place }
        });
        let files = files.iter().map(|(id, open)| FileRecord {
            id: *id,
            node: open.node.id.0,
            read: open.mode.read,
            write: open.mode.write,
            no_atime: open.mode.no_atime,
            token: open.file.get().map(|file| self.backing.file_token(file)),
            unseen: open.unseen.load(Ordering::Relaxed),
            durability: open.durability.to_string(),
            is_new: open.is_new,
            closed_empty: open.closed_empty.load(Ordering::Acquire),
            late_error: late_error(&open.late_error),
        });
        let dirs = dirs.iter().map(|(id, open)| DirRecord {
            id: *id,
            node: open.node.id.0,
            token: self.backing.dir_token(&open.dir),
            late_error: late_error(&open.late_error),
        });
        let (nodes, files, dirs) = (nodes.collect(), files.collect(), dirs.collect());
        TreeRecord { next_node, next_file, next_dir, nodes, files, dirs }
    }

    /// Takes over what the kernel knows; for a new tree with the modes that hold.
    /// Everything in the backing directory is durable when this returns.
    ///
    /// # Errors
    /// The record does not belong to this directory, a token is nothing that was left, or
    /// the sync has failed. The tree is then of no use.
    pub fn resume(&self, record: TreeRecord<B::Token>) -> Result<()> {
        for node in record.nodes {
            let key = node.key()?;
            let object = self.backing.take_object(&key, node.token)?;
            let place = node.place.map(|(dir, name)| (NodeId(dir), OsString::from(os_name(&name))));
            self.nodes.restore((NodeId(node.id), node.references), key, object, place)?;
        }
        for file in &record.files {
            self.resume_file(file)?;
        }
        for dir in record.dirs {
            let node = self.nodes.get(NodeId(dir.node))?;
            let open = OpenDir::new(node, Arc::new(self.backing.take_dir(dir.token)?));
            set_late_error(&open.late_error, dir.late_error);
            self.dirs.restore(dir.id, open);
        }
        self.nodes.go_on_from(record.next_node);
        self.files.go_on_from(record.next_file);
        self.dirs.go_on_from(record.next_dir);
        // After the last file is tracked: see above.
        self.backing.sync_all()
    }

    fn resume_file(&self, record: &FileRecord<B::Token>) -> Result<()> {
        let node = self.nodes.get(NodeId(record.node))?;
        let FileRecord { read, write, no_atime, .. } = *record;
        let mode = OpenMode { read, write, truncate: false, no_atime };
        let file = match record.token {
            Some(token) => OnceLock::from(Arc::new(self.backing.take_file(token)?)),
            None => OnceLock::new(),
        };
        let mut open = OpenFile::new(node, mode, file);
        if write {
            open.tracked = self.track_open(&open, false);
            self.engine.unsynced();
        }
        // Without its state at its opening: closing it takes it for written.
        open.durability = record.durability.parse().map_err(|_| Errno::INVAL)?;
        open.is_new = record.is_new;
        open.closed_empty.store(record.closed_empty, Ordering::Release);
        set_late_error(&open.late_error, record.late_error);
        self.files.restore(record.id, open);
        if record.unseen {
            self.leave_unseen(FileId(record.id));
        }
        Ok(())
    }
}

impl<T> NodeRecord<T> {
    fn key(&self) -> Result<ObjectKey> {
        let bytes = self.handle.len();
        if bytes > HANDLE_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        let mut data = [0; HANDLE_BYTES_MAX];
        data[..bytes].copy_from_slice(&self.handle);
        Ok(ObjectKey {
            dev: self.dev,
            ino: self.ino,
            handle: (data, bytes as u8, self.handle_kind),
        })
    }
}

fn late_error(error: &super::LateError) -> Option<i32> {
    error.lock().unwrap_or_else(PoisonError::into_inner).map(Errno::raw)
}

fn set_late_error(error: &super::LateError, raw: Option<i32>) {
    *error.lock().unwrap_or_else(PoisonError::into_inner) = raw.map(Errno::from_raw);
}
