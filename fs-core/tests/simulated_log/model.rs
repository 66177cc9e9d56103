//! The tree as programs have made it: what every walk is compared with.

use std::collections::BTreeMap;

use fs_core::types::FileKind;

use crate::shape::{Look, Summing};

/// An object for ever.
pub type Id = usize;

pub const ROOT: Id = 0;

pub type Entries = BTreeMap<String, Id>;

/// One object.
#[derive(Debug, Clone)]
pub struct Object {
    pub look: Look,
    /// Of a directory.
    pub entries: Entries,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Object {
    pub fn new(kind: FileKind, perm: u16, (uid, gid): (u32, u32)) -> Self {
        let look = Look { kind, perm, uid, gid, links: 0, device: (0, 0) };
        let (entries, target, xattrs) = (Entries::new(), Vec::new(), BTreeMap::new());
        Self { look, entries, target, xattrs }
    }

    pub fn is_dir(&self) -> bool {
        self.look.kind == FileKind::Directory
    }
}

/// All objects that ever were; those without a name are not in the tree.
#[derive(Debug, Clone)]
pub struct Model {
    pub objects: Vec<Object>,
}

/// The tree's sum, and its objects in the order of their numbers there.
#[derive(Debug, Clone)]
pub struct State {
    pub sum: u64,
    pub objects: Vec<Id>,
    pub text: Option<String>,
}

impl Model {
    pub fn entries(&self, dir: Id) -> &Entries {
        &self.objects[dir].entries
    }

    pub fn kind(&self, id: Id) -> FileKind {
        self.objects[id].look.kind
    }

    pub fn is_dir(&self, id: Id) -> bool {
        self.objects[id].is_dir()
    }

    pub fn add(&mut self, object: Object) -> Id {
        self.objects.push(object);
        self.objects.len() - 1
    }

    /// Has a name stand for something, or for nothing.
    pub fn set_name(&mut self, dir: Id, name: &str, target: Option<Id>) {
        let entries = &mut self.objects[dir].entries;
        let old = match target {
            Some(target) => entries.insert(name.to_owned(), target),
            None => entries.remove(name),
        };
        for (id, more) in old.map(|id| (id, false)).into_iter().chain(target.map(|id| (id, true))) {
            let object = &mut self.objects[id];
            if !object.is_dir() {
                object.look.links =
                    if more { object.look.links + 1 } else { object.look.links - 1 };
            }
        }
    }

    /// All names below a directory: directory, name, target. An object with several
    /// comes several times.
    pub fn named_below(&self, top: Id) -> Vec<(Id, &str, Id)> {
        let mut named = Vec::new();
        let mut todo = vec![top];
        while let Some(dir) = todo.pop() {
            for (name, &target) in self.entries(dir) {
                named.push((dir, name.as_str(), target));
                if self.is_dir(target) {
                    todo.push(target);
                }
            }
        }
        named
    }

    /// Whether an object is in the tree below `top`, or `top` itself.
    pub fn is_below(&self, top: Id, id: Id) -> bool {
        id == top || self.named_below(top).iter().any(|named| named.2 == id)
    }

    pub fn state(&self, in_words: bool) -> State {
        let mut objects = Vec::new();
        let mut summing = Summing::new(in_words);
        self.sum_up(ROOT, &mut objects, &mut summing);
        let (sum, text) = summing.end();
        State { sum, objects, text }
    }

    fn sum_up(&self, id: Id, objects: &mut Vec<Id>, summing: &mut Summing) {
        let object = &self.objects[id];
        objects.push(id);
        summing.look(object.look, &object.target);
        for (name, value) in &object.xattrs {
            summing.xattr(name.as_bytes(), value);
        }
        if !object.is_dir() {
            return;
        }
        summing.enter();
        for (name, &target) in &object.entries {
            let known = (self.objects[target].look.links > 1)
                .then(|| objects.iter().position(|&known| known == target))
                .flatten();
            summing.name(name.as_bytes(), known.unwrap_or(objects.len()));
            if known.is_none() {
                self.sum_up(target, objects, summing);
            }
        }
        summing.leave();
    }
}
