//! What was promised, and whether it holds after a power cut.
//!
//! The facts are kept by the test itself from what it asked of the engine and
//! what it was told; nothing of the simulator's inside is used.
//!
//! **Names, where the journal keeps a prefix** (`ext4`, `xfs`, `writeback`). Every
//! operation on names is numbered. A successful sync of an object promises all
//! operations up to the last change of that object before the sync was asked
//! for (for fdatasync: the last change that its data needs). After a crash all
//! names of the whole tree must be exactly those after operation k, for one k
//! from the highest promised number to the last one done.
//!
//! **Names, with `posix-min`.** A successful sync of a directory promises its
//! entries. Each name in a directory found after the crash must stand for what
//! it stood for when that sync was asked for, or for what an operation on that
//! very name has made of it since. (A directory whose own name was never made
//! durable need not be found.)
//!
//! **Bytes.** A successful sync of a file promises the content that it had when
//! the sync was asked for. Let H be that content and every content that the
//! file has had since (from its creation on, if it was never synced). If a file
//! is found after the crash:
//! - its length is not below the shortest of H and not above the longest;
//! - each sector of 512 bytes is that of one of H, with zeros after its end.
//!   Under the models that show stale data it may also be stale or zero, if in
//!   one of H its page held only zeros or was beyond the end: then the page may
//!   be a new block.
//!
//! With H of one content only, that content must be there exactly. A file whose
//! sync has failed promises nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fs_core::platform::sim::{DurabilityModel, STALE_BYTE};
use fs_core::types::SyncKind;

use crate::walk::{Entries, Key, Walk, name_hash};

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// Facts about one file.
#[derive(Debug, Default)]
struct FileFacts {
    /// The promised content first, then all later ones.
    history: Vec<Arc<Vec<u8>>>,
    /// How many contents came before `history`.
    past: usize,
    /// Number of the last operation on names when it was last changed ...
    changed: usize,
    /// ... in a way that its data needs.
    changed_data: usize,
    /// A sync has failed.
    failed: bool,
}

/// Facts about one directory.
#[derive(Debug, Default)]
struct DirFacts {
    now: Entries,
    /// The promised entries ...
    promised: Entries,
    /// ... and what was done to them since.
    log: Vec<(String, Option<Key>)>,
    /// How many changes came before `log`.
    past: usize,
    changed: usize,
}

/// What a sync will promise if it succeeds, taken when it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    object: Key,
    /// Operations on names.
    names: usize,
    /// Contents of the file, or changes of the directory's entries.
    own: usize,
}

/// All that is known.
#[derive(Debug)]
pub struct Facts {
    model: DurabilityModel,
    root: Key,
    files: BTreeMap<Key, FileFacts>,
    dirs: BTreeMap<Key, DirFacts>,
    /// Sums of all names after each operation, from the promised one on.
    names: Vec<u64>,
    /// How many sums came before `names`: the promised operation.
    past: usize,
}

impl Facts {
    /// Facts about a filesystem on whose disk is exactly this.
    pub fn new(model: DurabilityModel, found: Walk) -> Self {
        let file = |content| FileFacts { history: vec![Arc::new(content)], ..FileFacts::default() };
        let dir = |entries: Entries| DirFacts {
            now: entries.clone(),
            promised: entries,
            ..DirFacts::default()
        };
        Self {
            model,
            root: found.root.expect("a walk begins at the root"),
            files: found.files.into_iter().map(|(key, content)| (key, file(content))).collect(),
            dirs: found.dirs.into_iter().map(|(key, entries)| (key, dir(entries))).collect(),
            names: vec![found.names],
            past: 0,
        }
    }

    // ---- what is there now ----

    pub fn root(&self) -> Key {
        self.root
    }

    pub fn entries(&self, dir: Key) -> &Entries {
        &self.dirs[&dir].now
    }

    pub fn is_dir(&self, key: Key) -> bool {
        self.dirs.contains_key(&key)
    }

    pub fn content(&self, file: Key) -> &Arc<Vec<u8>> {
        self.files[&file].history.last().expect("a file has a content")
    }

    /// All objects with a name; a file with several comes several times.
    pub fn named(&self) -> Vec<(Key, String, Key)> {
        self.named_below(self.root)
    }

    /// As [`Self::named`], for those below a directory.
    pub fn named_below(&self, top: Key) -> Vec<(Key, String, Key)> {
        let mut named = Vec::new();
        let mut todo = vec![top];
        while let Some(dir) = todo.pop() {
            for (name, &target) in self.entries(dir) {
                named.push((dir, name.clone(), target));
                if self.is_dir(target) {
                    todo.push(target);
                }
            }
        }
        named
    }

    // ---- what is done ----

    fn operation(&self) -> usize {
        self.past + self.names.len() - 1
    }

    fn set_name(&mut self, dir: Key, name: &str, target: Option<Key>) -> u64 {
        let facts = self.dirs.get_mut(&dir).expect("a known directory");
        let old = match target {
            Some(target) => facts.now.insert(name.to_owned(), target),
            None => facts.now.remove(name),
        };
        facts.log.push((name.to_owned(), target));
        let part = |target: Option<Key>| target.map_or(0, |target| name_hash(dir, name, target));
        part(old) ^ part(target)
    }

    /// One operation set these names and changed these objects too.
    pub fn changed_names(&mut self, names: &[(Key, &str, Option<Key>)], objects: &[Key]) {
        let sum = *self.names.last().expect("there is always a sum");
        let parts = names.iter().map(|&(dir, name, target)| self.set_name(dir, name, target));
        let sum = parts.fold(sum, |sum, part| sum ^ part);
        self.names.push(sum);
        let dirs: Vec<Key> = names.iter().map(|name| name.0).collect();
        self.changed(&dirs);
        self.changed(objects);
    }

    /// Attributes of these objects were changed.
    pub fn changed(&mut self, objects: &[Key]) {
        let operation = self.operation();
        for key in objects {
            if let Some(dir) = self.dirs.get_mut(key) {
                dir.changed = operation;
            } else if let Some(file) = self.files.get_mut(key) {
                file.changed = operation;
            }
        }
    }

    /// A new object, not yet named.
    pub fn born(&mut self, key: Key, is_dir: bool) {
        if is_dir {
            self.dirs.insert(key, DirFacts::default());
        } else {
            // The operation that names it comes next.
            let operation = self.operation() + 1;
            let history = vec![Arc::default()];
            let facts = FileFacts { history, changed_data: operation, ..FileFacts::default() };
            self.files.insert(key, facts);
        }
    }

    /// A file has another content.
    pub fn set_content(&mut self, key: Key, content: Vec<u8>) {
        let operation = self.operation();
        let file = self.files.get_mut(&key).expect("a known file");
        if file.history.last().is_none_or(|old| old.len() != content.len()) {
            file.changed_data = operation;
        }
        file.changed = operation;
        file.history.push(Arc::new(content));
    }

    // ---- what is promised ----

    /// What a sync asked for now promises.
    pub fn promise(&self, object: Key, kind: SyncKind) -> Promise {
        if let Some(dir) = self.dirs.get(&object) {
            return Promise { object, names: dir.changed, own: dir.past + dir.log.len() };
        }
        let file = &self.files[&object];
        let names = match kind {
            SyncKind::Full => file.changed,
            SyncKind::Data => file.changed_data,
        };
        Promise { object, names, own: file.past + file.history.len() - 1 }
    }

    /// The sync succeeded.
    pub fn kept(&mut self, promise: Promise) {
        if self.model.keeps_prefix() && promise.names > self.past {
            self.names.drain(..promise.names - self.past);
            self.past = promise.names;
        }
        if let Some(dir) = self.dirs.get_mut(&promise.object) {
            let done = promise.own.saturating_sub(dir.past);
            for (name, target) in dir.log.drain(..done) {
                match target {
                    Some(target) => drop(dir.promised.insert(name, target)),
                    None => drop(dir.promised.remove(&name)),
                }
            }
            dir.past += done;
        } else if let Some(file) = self.files.get_mut(&promise.object) {
            let done = promise.own.saturating_sub(file.past);
            file.history.drain(..done);
            file.past += done;
        }
    }

    /// The sync failed: the file's content is anybody's guess from now on.
    pub fn broken(&mut self, promise: Promise) {
        if let Some(file) = self.files.get_mut(&promise.object) {
            file.failed = true;
        }
    }

    // ---- what is found ----

    /// What is wrong with a filesystem found after a crash.
    pub fn check(&self, found: &Walk) -> Result<(), String> {
        if self.model.keeps_prefix() {
            self.check_prefix(found)?;
        } else {
            found.dirs.iter().try_for_each(|(&key, entries)| self.check_dir(key, entries))?;
        }
        found.files.iter().try_for_each(|(&key, content)| self.check_file(key, content))
    }

    fn check_prefix(&self, found: &Walk) -> Result<(), String> {
        if self.names.contains(&found.names) {
            return Ok(());
        }
        let (from, to) = (self.past, self.operation());
        Err(format!(
            "names lost: the tree is that of no operation from {from} (promised) to {to} (last)\n\
             found: {:?}",
            found.dirs
        ))
    }

    fn check_dir(&self, key: Key, found: &Entries) -> Result<(), String> {
        let facts = self.dirs.get(&key).ok_or(format!("{key:?} never was a directory"))?;
        let logged = facts.log.iter().map(|(name, _)| name);
        let names: BTreeSet<&String> =
            found.keys().chain(facts.promised.keys()).chain(logged).collect();
        for name in names {
            let found = found.get(name).copied();
            let allowed = facts.promised.get(name).copied() == found
                || facts.log.iter().any(|(logged, target)| logged == name && *target == found);
            let repaired = found.is_none() && self.may_be_repaired(facts, name);
            if !allowed && !repaired {
                let promised = facts.promised.get(name);
                return Err(format!(
                    "name lost: {name:?} in directory {key:?} is {found:?}, promised was \
                     {promised:?}, later changes: {:?}",
                    facts.log
                ));
            }
        }
        Ok(())
    }

    /// A directory that is found under two names, because only one half of an
    /// exchange survived, keeps the newer one: the other name stands for nothing.
    fn may_be_repaired(&self, facts: &DirFacts, name: &str) -> bool {
        let logged = facts.log.iter().filter(|(logged, _)| logged == name);
        let targets = logged.clone().filter_map(|(_, target)| *target);
        let mut targets = targets.chain(facts.promised.get(name).copied());
        logged.count() > 0 && targets.any(|target| self.is_dir(target))
    }

    fn check_file(&self, key: Key, found: &[u8]) -> Result<(), String> {
        let file = self.files.get(&key).ok_or(format!("{key:?} never was a file"))?;
        if file.failed {
            return Ok(());
        }
        let lengths = || file.history.iter().map(|content| content.len());
        let (shortest, longest) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
        if found.len() < shortest || found.len() > longest {
            return Err(format!(
                "bytes lost: {key:?} has {} bytes, not {shortest} to {longest}",
                found.len()
            ));
        }
        for (index, sector) in found.chunks(SECTOR_BYTES).enumerate() {
            let offset = index * SECTOR_BYTES;
            let known = file.history.iter().any(|content| shows(content, offset, sector));
            if !known && !self.may_be_stale(file, offset, sector) {
                return Err(format!(
                    "bytes lost: {key:?} at {offset}: {:?}... is in none of {} contents, \
                     promised was {:?}...",
                    &sector[..sector.len().min(8)],
                    file.history.len(),
                    file.history[0].get(offset..offset + 8)
                ));
            }
        }
        Ok(())
    }

    fn may_be_stale(&self, file: &FileFacts, offset: usize, sector: &[u8]) -> bool {
        let is_stale = |byte| sector.iter().all(|&b| b == byte);
        let page = offset / PAGE_BYTES * PAGE_BYTES;
        let new_block = |content: &Arc<Vec<u8>>| {
            let end = content.len().min(page + PAGE_BYTES);
            content.get(page..end).is_none_or(|page| page.iter().all(|&byte| byte == 0))
        };
        self.model.shows_stale_data()
            && (is_stale(STALE_BYTE) || is_stale(0))
            && file.history.iter().any(new_block)
    }
}

/// Whether a content, with zeros after its end, shows this at an offset.
fn shows(content: &[u8], offset: usize, sector: &[u8]) -> bool {
    let there = content.get(offset..).unwrap_or_default();
    let both = there.len().min(sector.len());
    there[..both] == sector[..both] && sector[both..].iter().all(|&byte| byte == 0)
}
