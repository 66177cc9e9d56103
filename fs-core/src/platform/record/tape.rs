//! What was recorded, and what is known of the objects that it names.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::scan::Scanned;
use crate::crash::steps::BLOCK_BYTES;
use crate::crash::trace::{Actor, Blob, Ino, Made, Operation, Place, Recorded, Trace};
use crate::platform::ObjectKey;
use crate::types::Attr;

/// Says what a thread is and does, while it waits for its operation.
pub trait Witness: Send + Sync {
    /// Who it is.
    fn actor(&self, thread: u32) -> Actor;
    /// The `write(2)` or `pwrite(2)` that it is in, where that can be seen.
    fn write_call(&self, thread: u32) -> Option<WriteCall>;
}

/// A system call that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteCall {
    /// Its number, descriptor, and the address of the bytes.
    pub call: [u64; 3],
    /// How many bytes.
    pub bytes: u64,
}

/// The kernel splits a write at the end of its first page, and at 1 MiB: what may follow.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    thread: u32,
    ino: Ino,
    call: [u64; 3],
    /// Where the next part begins, and how much is left.
    end: u64,
    left: u64,
    /// Number of the operation that it continues.
    operation: usize,
}

/// Longest write that is put together again: one more would be copied too often.
const JOINED_BYTES_MAX: usize = 8 << 20;

/// What is recorded of a backing directory.
#[derive(Debug, Clone)]
pub struct RecordPlan {
    /// The directory that is recorded.
    pub tree: OsString,
    /// A directory beside it, whose files 1, 2 ... programs tell things through.
    pub told: Option<OsString>,
    /// A file within the tree through which, too, programs tell things: its path. It is
    /// not part of the recorded tree.
    pub told_file: Option<Vec<OsString>>,
    /// A name in the tree's own directory that is left out, with all below it.
    pub left_out: Option<OsString>,
}

impl RecordPlan {
    /// Records the directory `tree` of the backing; what is written to `told/1` and
    /// `told/2` beside it is what the program tells.
    #[must_use]
    pub fn beside() -> Self {
        Self { told: Some(OsString::from("told")), ..Self::of("tree") }
    }

    /// Records this directory of the backing; `.` is all of it.
    #[must_use]
    pub fn of(tree: &str) -> Self {
        Self { tree: OsString::from(tree), told: None, told_file: None, left_out: None }
    }
}

/// What the recording knows of an object: its number, or that it is one to tell through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) ino: Option<Ino>,
    pub(super) told: Option<u8>,
}

impl Known {
    pub(super) const NOTHING: Self = Self { ino: None, told: None };
}

/// The recording.
pub(super) struct Tape {
    state: Mutex<State>,
    witness: Box<dyn Witness>,
}

pub(super) struct State {
    pub(super) trace: Trace,
    keys: HashMap<ObjectKey, Known>,
    /// Files to tell through, by the backing's inode number: they are never removed.
    told: HashMap<u64, u8>,
    /// The directory and name of the file within the tree to tell through.
    told_place: Option<(Ino, OsString)>,
    attrs: HashMap<Ino, (u16, u32, u32)>,
    /// Who opened a file for writing last: to whom mapped pages are put down.
    writers: HashMap<Ino, u32>,
    actors: HashMap<Actor, u32>,
    threads: HashMap<u32, u32>,
    /// A name of each object that has one.
    places: HashMap<Ino, Place>,
    /// By file, blocks that programs still read and that will never be written: where they
    /// are, and what the disk has instead.
    pub(super) dropped: HashMap<Ino, BTreeMap<u64, Vec<u8>>>,
    next: u32,
    unfinished: Option<Unfinished>,
}

/// The recording, locked: nothing else is applied meanwhile.
pub(super) struct Guard<'t> {
    state: MutexGuard<'t, State>,
    witness: &'t dyn Witness,
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl std::ops::Deref for Guard<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl Tape {
    pub(super) fn new(scanned: Scanned, plan: RecordPlan, witness: Box<dyn Witness>) -> Self {
        let Scanned { initial, blobs, keys, told, told_dir, .. } = scanned;
        let attrs = initial.nodes.iter().enumerate().map(|(number, node)| {
            let Made { perm, uid, gid, .. } = node.made;
            (Ino(number as u32), (perm, uid, gid))
        });
        let told_name = plan.told_file.and_then(|path| path.last().cloned());
        let places = initial.names.iter().map(|(place, ino)| (*ino, place.clone())).collect();
        let state = State {
            attrs: attrs.collect(),
            next: initial.nodes.len() as u32,
            trace: Trace { initial, blobs, ..Trace::default() },
            keys,
            told,
            told_place: told_dir.zip(told_name),
            writers: HashMap::new(),
            actors: HashMap::new(),
            threads: HashMap::new(),
            places,
            dropped: HashMap::new(),
            unfinished: None,
        };
        Self { state: Mutex::new(state), witness }
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { state, witness: &*self.witness }
    }
}

impl State {
    pub(super) fn find(&self, key: &ObjectKey) -> Known {
        self.keys.get(key).copied().unwrap_or(Known::NOTHING)
    }

    /// How the backing knows an object of the recording.
    pub(super) fn key_of(&self, ino: Ino) -> Option<ObjectKey> {
        let mut keys = self.keys.iter();
        keys.find(|(_, known)| known.ino == Some(ino)).map(|(key, _)| *key)
    }

    /// A path of an object below the recorded directory, which itself has an empty one.
    pub(super) fn path_of(&self, ino: Ino) -> Option<String> {
        /// Deeper than any path that the kernel takes.
        const DEPTH_MAX: usize = 4096;
        let (mut names, mut at) = (Vec::new(), ino);
        while at != Ino::ROOT {
            let place = self.places.get(&at).filter(|_| names.len() < DEPTH_MAX)?;
            names.push(String::from_utf8_lossy(&place.name).into_owned());
            at = place.dir;
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// Keeps names, and what will never be written, as they are after an operation.
    fn follow(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { at, ino, .. } | Operation::Link { at, ino } => {
                self.places.insert(*ino, at.clone());
            }
            Operation::Rename { from, to, ino, replaced, exchange } => {
                if let Some(replaced) = replaced {
                    match exchange {
                        true => drop(self.places.insert(*replaced, from.clone())),
                        false => self.forget_place(*replaced, to),
                    }
                }
                self.places.insert(*ino, to.clone());
            }
            Operation::Remove { at, ino } => self.forget_place(*ino, at),
            Operation::Write { ino, offset, data, .. } if self.dropped.contains_key(ino) => {
                let end = offset + self.trace.blobs.get(*data).len() as u64;
                let whole = offset / BLOCK_BYTES * BLOCK_BYTES;
                self.rewritten(*ino, whole..end);
            }
            Operation::Resize { ino, bytes } => self.rewritten(*ino, *bytes..u64::MAX),
            _ => {}
        }
    }

    fn forget_place(&mut self, ino: Ino, at: &Place) {
        if self.places.get(&ino) == Some(at) {
            self.places.remove(&ino);
        }
    }

    /// Blocks that begin in a range are dirty again: they will be written, all of them.
    fn rewritten(&mut self, ino: Ino, range: std::ops::Range<u64>) {
        if let Some(blocks) = self.dropped.get_mut(&ino) {
            blocks.retain(|offset, _| !range.contains(offset));
        }
    }

    /// What a file beside the tree is.
    pub(super) fn told_by(&self, backing_ino: u64) -> Known {
        Known { ino: None, told: self.told.get(&backing_ino).copied() }
    }
}

impl Guard<'_> {
    /// Notes an operation.
    pub(super) fn note(&mut self, thread: u32, operation: Operation) {
        let actor = self.actor(thread, operation.ino());
        self.state.follow(&operation);
        self.state.trace.operations.push(Recorded { operation, actor });
    }

    /// Notes what nobody asked for.
    pub(super) fn note_by_kernel(&mut self, operation: Operation) {
        let actor = self.actor(0, None);
        self.state.trace.operations.push(Recorded { operation, actor });
    }

    /// Keeps bytes.
    pub(super) fn blob(&mut self, bytes: &[u8]) -> Blob {
        self.state.trace.blobs.add(bytes)
    }

    /// Who a thread is, by the witness.
    pub(super) fn who(&self, thread: u32) -> Actor {
        if thread == 0 { Actor::default() } else { self.witness.actor(thread) }
    }

    /// A new object with a name.
    pub(super) fn made(
        &mut self,
        thread: u32,
        key: ObjectKey,
        dir: Option<Ino>,
        name: &OsStr,
        made: Made,
    ) -> Known {
        let Some(dir) = dir else { return Known::NOTHING };
        let is_told = self.told_place.as_ref().is_some_and(|(at, of)| *at == dir && of == name);
        if is_told {
            let known = Known { ino: None, told: Some(3) };
            self.state.told.insert(key.ino, 3);
            self.state.keys.insert(key, known);
            return known;
        }
        let ino = Ino(self.next);
        self.state.next += 1;
        let known = Known { ino: Some(ino), told: None };
        self.state.keys.insert(key, known);
        self.state.attrs.insert(ino, (made.perm, made.uid, made.gid));
        let at = Place { dir, name: name.as_encoded_bytes().into() };
        self.note(thread, Operation::Create { at, ino, made });
        known
    }

    /// Somebody has opened a file for writing.
    pub(super) fn opened(&mut self, id: Known, thread: u32) {
        if let Some(ino) = id.ino {
            let actor = self.actor(thread, None);
            self.state.writers.insert(ino, actor);
        }
    }

    /// Notes attributes if they are new.
    pub(super) fn note_attrs(&mut self, thread: u32, ino: Ino, attr: &Attr) {
        let now = (attr.perm, attr.uid, attr.gid);
        if self.state.attrs.insert(ino, now) != Some(now) {
            let (perm, uid, gid) = now;
            self.note(thread, Operation::Attrs { ino, perm, uid, gid });
        }
    }

    /// The operation that a write is.
    pub(super) fn written(
        &mut self,
        id: Known,
        thread: u32,
        offset: u64,
        data: &[u8],
    ) -> Option<Operation> {
        if data.is_empty() || id == Known::NOTHING {
            return None;
        }
        if let Some(ino) = id.ino
            && thread != 0
            && self.continues(thread, ino, offset, data)
        {
            return None;
        }
        let data = self.state.trace.blobs.add(data);
        match id {
            Known { ino: Some(ino), .. } => {
                Some(Operation::Write { ino, offset, data, mapped: thread == 0 })
            }
            Known { told, .. } => told.map(|stream| Operation::Ack { stream, data }),
        }
    }

    /// Puts a part of a write to the part before it; false if it is a write of its own, of
    /// which more parts may follow.
    fn continues(&mut self, thread: u32, ino: Ino, offset: u64, data: &[u8]) -> bool {
        let bytes = data.len() as u64;
        let call = self.witness.write_call(thread);
        let before = self.state.unfinished.take();
        let State { trace, unfinished, .. } = &mut *self.state;
        let Some(WriteCall { call, bytes: whole }) = call else { return false };
        let next = trace.operations.len();
        let fits = |before: &Unfinished| {
            (before.thread, before.ino, before.call) == (thread, ino, call)
                && (before.end, before.operation + 1) == (offset, next)
                && bytes <= before.left
        };
        let Some(before) = before.filter(fits) else {
            let (end, left) = (offset + bytes, whole.saturating_sub(bytes));
            if left > 0 {
                *unfinished = Some(Unfinished { thread, ino, call, end, left, operation: next });
            }
            return false;
        };
        let Some(Recorded { operation: Operation::Write { data: first, .. }, .. }) =
            trace.operations.last_mut()
        else {
            return false;
        };
        let mut joined = trace.blobs.get(*first).to_vec();
        if joined.len() + data.len() > JOINED_BYTES_MAX {
            return false;
        }
        joined.extend_from_slice(data);
        *first = trace.blobs.add(&joined);
        let (end, left) = (before.end + bytes, before.left - bytes);
        *unfinished = (left > 0).then_some(Unfinished { end, left, ..before });
        true
    }

    /// The number of who did it. Write-back of a mapping comes from no thread: it is put
    /// down to who opened the file for writing last.
    fn actor(&mut self, thread: u32, ino: Option<Ino>) -> u32 {
        if thread == 0
            && let Some(writer) = ino.and_then(|ino| self.state.writers.get(&ino))
        {
            return *writer;
        }
        let actor = if thread == 0 { Actor::default() } else { self.witness.actor(thread) };
        // A thread that has ended meanwhile is who it was before.
        if actor.process == 0
            && let Some(known) = self.state.threads.get(&thread)
        {
            return *known;
        }
        let State { trace, actors, threads, .. } = &mut *self.state;
        let number = *actors.entry(actor.clone()).or_insert_with(|| {
            trace.actors.push(actor);
            trace.actors.len() as u32 - 1
        });
        threads.insert(thread, number);
        number
    }
}
