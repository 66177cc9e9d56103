//! The objects that a front-end's kernel knows, each under one number.
//!
//! All names of an object share one node, and a number is never used twice
//! while the tree lives: a late message about a removed object can therefore
//! never meet another object that was given the same inode number.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::Lsn;
use crate::error::{Errno, Result};
use crate::fence::ahead::Pace;
use crate::platform::{Backing, Found, ObjectKey};
use crate::types::{Caller, Time};

/// Number of a node; 1 is the root of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the tree.
    pub const ROOT: Self = Self(1);
}

/// Locks that many threads can take side by side.
const SHARDS: usize = 32;

/// One object and what the engine remembers of it.
pub(super) struct Node<B: Backing> {
    pub(super) id: NodeId,
    pub(super) object: B::Object,
    key: ObjectKey,
    /// References that the kernel holds. Changed only under the key's shard
    /// lock, so that a node found there cannot be forgotten meanwhile.
    references: AtomicU64,
    /// Last operation that changed this directory.
    changed: AtomicU64,
    /// What the last sync of this directory has made durable.
    durable: Mutex<Option<DirState>>,
    /// The thread that synced it last.
    synced_by: AtomicU32,
    /// How long syncs of this file take.
    pub(super) pace: Arc<Pace>,
    /// Where it was last found; only kept where rules want to know.
    place: Mutex<Option<Place>>,
}

/// A directory and a name in it.
pub(super) type Place = (NodeId, OsString);

/// A state of a directory: the last operation of ours in it, and the time of
/// its last change by anybody. The time notices those who change the directory
/// behind the mount, or through a mount of a directory above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirState {
    pub(super) lsn: Lsn,
    pub(super) ctime: Time,
}

impl<B: Backing> Node<B> {
    fn new(id: NodeId, key: ObjectKey, object: B::Object, references: u64) -> Self {
        Self {
            id,
            object,
            key,
            references: AtomicU64::new(references),
            changed: AtomicU64::new(1),
            durable: Mutex::new(None),
            synced_by: AtomicU32::new(0),
            pace: Arc::default(),
            place: Mutex::new(None),
        }
    }

    /// What the tree knows the object by.
    pub(super) const fn full_key(&self) -> ObjectKey {
        self.key
    }

    /// What the log knows the object by.
    pub(super) const fn key(&self) -> ObjectKey {
        self.key.portable()
    }

    /// Notes that operation `lsn` changed this object.
    pub(super) fn change(&self, lsn: Lsn) {
        self.changed.fetch_max(lsn, Ordering::AcqRel);
    }

    /// The last operation that a sync starting now has to cover.
    pub(super) fn last_change(&self) -> Lsn {
        self.changed.load(Ordering::Acquire)
    }

    /// Notes who syncs this object; true if it was somebody else the last time.
    pub(super) fn synced_by(&self, caller: Caller) -> bool {
        let before = self.synced_by.swap(caller.thread, Ordering::Relaxed);
        before != 0 && before != caller.thread
    }

    /// Where it was last found, if that was noted.
    pub(super) fn place(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_place(&self, dir: NodeId, name: &OsStr) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some((dir, name.to_owned()));
    }

    /// Whether nothing has changed since a sync that covered this very state.
    pub(super) fn is_durable(&self, state: DirState) -> bool {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.is_some_and(|durable| durable.lsn >= state.lsn && durable.ctime == state.ctime)
    }

    /// Notes that a sync that began when `state` was applied has succeeded.
    pub(super) fn made_durable(&self, state: DirState) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.is_none_or(|durable| durable.lsn <= state.lsn) {
            *durable = Some(state);
        }
    }
}

/// A node and how often the kernel holds it.
pub(super) type Held<B> = (Arc<Node<B>>, u64);

/// All nodes of a tree.
pub(super) struct NodeTable<B: Backing> {
    by_key: [Mutex<HashMap<ObjectKey, Arc<Node<B>>>>; SHARDS],
    by_id: [RwLock<HashMap<NodeId, Arc<Node<B>>>>; SHARDS],
    hasher: RandomState,
    next_id: AtomicU64,
}

impl<B: Backing> NodeTable<B> {
    /// A table with the root, which is never forgotten.
    pub(super) fn new(root: Found<B>) -> Self {
        let table = Self {
            by_key: std::array::from_fn(|_| Mutex::default()),
            by_id: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(NodeId::ROOT.0),
        };
        table.reference(root.key, root.object);
        table
    }

    /// The node of an object, with one reference more.
    pub(super) fn reference(&self, key: ObjectKey, object: B::Object) -> Arc<Node<B>> {
        let mut keys = self.key_shard(&key);
        match keys.entry(key) {
            MapEntry::Occupied(known) => {
                known.get().references.fetch_add(1, Ordering::Relaxed);
                Arc::clone(known.get())
            }
            MapEntry::Vacant(place) => {
                let id = NodeId(self.next_id.fetch_add(1, Ordering::Relaxed));
                let node = Arc::new(Node::new(id, key, object, 1));
                place.insert(Arc::clone(&node));
                let mut ids = self.id_shard(id).write().unwrap_or_else(PoisonError::into_inner);
                ids.insert(id, Arc::clone(&node));
                node
            }
        }
    }

    /// All nodes with their references, and the number that the next one gets.
    pub(super) fn all(&self) -> (Vec<Held<B>>, u64) {
        let mut nodes = Vec::with_capacity(self.len());
        for shard in &self.by_key {
            let keys = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let counted =
                |node: &Arc<Node<B>>| (Arc::clone(node), node.references.load(Ordering::Relaxed));
            nodes.extend(keys.values().map(counted));
        }
        (nodes, self.next_id.load(Ordering::Relaxed))
    }

    /// A node that is known by its number already. The root keeps its object.
    ///
    /// # Errors
    /// `EEXIST` if the number or the object has a node.
    pub(super) fn restore(
        &self,
        (id, references): (NodeId, u64),
        key: ObjectKey,
        object: B::Object,
        place: Option<Place>,
    ) -> Result<()> {
        let mut keys = self.key_shard(&key);
        if id == NodeId::ROOT {
            let root = keys.get(&key).filter(|root| root.id == id).ok_or(Errno::STALE)?;
            root.references.store(references, Ordering::Relaxed);
            return Ok(());
        }
        let node = Node::new(id, key, object, references);
        *node.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
        let node = Arc::new(node);
        let mut ids = self.id_shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&key) || ids.contains_key(&id) {
            return Err(Errno::EXIST);
        }
        keys.insert(key, Arc::clone(&node));
        ids.insert(id, node);
        drop((keys, ids));
        self.next_id.fetch_max(id.0 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Gives no number below this one.
    pub(super) fn go_on_from(&self, next: u64) {
        self.next_id.fetch_max(next, Ordering::Relaxed);
    }

    /// The node of an object, if it is known.
    pub(super) fn find(&self, key: &ObjectKey) -> Option<Arc<Node<B>>> {
        self.key_shard(key).get(key).cloned()
    }

    /// The node with this number.
    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node<B>>> {
        let ids = self.id_shard(id).read().unwrap_or_else(PoisonError::into_inner);
        ids.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// Takes references back; a node without any is forgotten.
    pub(super) fn forget(&self, id: NodeId, count: u64) {
        let Ok(node) = self.get(id) else { return };
        let mut keys = self.key_shard(&node.key);
        let left = node.references.load(Ordering::Relaxed).saturating_sub(count);
        node.references.store(left, Ordering::Relaxed);
        if left == 0 && id != NodeId::ROOT {
            keys.remove(&node.key);
            let mut ids = self.id_shard(id).write().unwrap_or_else(PoisonError::into_inner);
            ids.remove(&id);
        }
    }

    /// Number of known nodes.
    pub(super) fn len(&self) -> usize {
        self.by_id.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn key_shard(&self, key: &ObjectKey) -> MutexGuard<'_, HashMap<ObjectKey, Arc<Node<B>>>> {
        let shard = self.hash(key) % SHARDS;
        self.by_key[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id_shard(&self, id: NodeId) -> &RwLock<HashMap<NodeId, Arc<Node<B>>>> {
        &self.by_id[(id.0 % SHARDS as u64) as usize]
    }

    fn hash(&self, key: &impl Hash) -> usize {
        self.hasher.hash_one(key) as usize
    }
}
