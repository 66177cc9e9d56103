//! What was promised, and whether it holds after a power cut and a recovery.
//!
//! The facts are kept by the test itself from what it asked of the engine and what
//! it was told; nothing of the simulator's or the log's inside is used.
//!
//! Every operation on names, attributes and lengths is numbered. A sync that
//! succeeds promises all operations done before it was asked for, whatever they
//! changed, and the content that its file had then. After a crash and a recovery the
//! whole tree must be exactly that after operation k, for one k from the highest
//! promised number to the last one done; and every file's content must be one that
//! goes with k (see `content`).

use std::collections::{BTreeMap, VecDeque};

use fs_core::platform::sim::SimBacking;
use fs_core::types::FileKind;

use crate::content::{Effect, FileFacts};
use crate::model::{Id, Model, Object, State};
use crate::shape::Walk;

/// What a sync will promise if it succeeds, taken when it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    operation: usize,
    /// The file and its content.
    file: Option<(Id, usize)>,
}

/// All that is known.
pub struct Facts {
    pub model: Model,
    pub files: BTreeMap<Id, FileFacts>,
    /// The tree after each operation, from the promised one on.
    states: VecDeque<State>,
    /// How many operations came before `states`.
    past: usize,
    contents_are_lost: bool,
    /// Trees are written down, and operations.
    in_words: bool,
    pub trace: Vec<String>,
}

impl Facts {
    /// Facts about a filesystem on whose disk is exactly this.
    pub fn new(backing: &SimBacking, in_words: bool) -> Self {
        let walk = Walk::of(backing, false);
        let mut model = Model { objects: Vec::new() };
        let mut files = BTreeMap::new();
        for (id, found) in walk.objects.iter().enumerate() {
            let attr = &found.attr;
            let mut object = Object::new(attr.kind, attr.perm, (attr.uid, attr.gid));
            object.look.device = (attr.rdev_major, attr.rdev_minor);
            walk.rest_of(backing, id, &mut object);
            model.add(object);
            if attr.kind == FileKind::Regular {
                let mut content = Vec::new();
                walk.content(backing, id, &mut content);
                files.insert(id, FileFacts::new(content));
            }
        }
        for (dir, name, target) in &walk.names {
            model.set_name(*dir, name, Some(*target));
        }
        let state = model.state(in_words);
        assert_eq!(state.sum, walk.sum, "the model is what was found");
        let states = VecDeque::from([state]);
        Self {
            model,
            files,
            states,
            past: 0,
            contents_are_lost: false,
            in_words,
            trace: Vec::new(),
        }
    }

    /// No facts at all.
    pub fn nothing() -> Self {
        let model = Model { objects: Vec::new() };
        let (files, states, trace) = (BTreeMap::new(), VecDeque::new(), Vec::new());
        Self { model, files, states, past: 0, contents_are_lost: false, in_words: false, trace }
    }

    /// The last operation's number.
    pub fn operation(&self) -> usize {
        self.past + self.states.len() - 1
    }

    pub fn content(&self, file: Id) -> &[u8] {
        self.files[&file].now()
    }

    // ---- what is done ----

    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.in_words {
            let operation = self.operation();
            self.trace.push(format!("{operation}: {}", what()));
        }
    }

    /// The model was changed by one operation.
    pub fn done(&mut self) {
        self.states.push_back(self.model.state(self.in_words));
    }

    /// An operation of the stream did this to a file's content.
    pub fn content_done(&mut self, file: Id, content: Vec<u8>, effect: Effect) {
        self.done();
        let operation = self.operation();
        let facts = self.files.get_mut(&file).expect("a known file");
        facts.write(content);
        facts.note(operation, effect);
    }

    /// One operation has put these files, as they are, in place of others.
    pub fn replaced(&mut self, files: &[Id]) {
        self.done();
        let operation = self.operation();
        for file in files {
            let facts = self.files.get_mut(file).expect("a known file");
            let content = facts.now().to_vec();
            facts.write(content);
            facts.note(operation, Effect::Replaced);
        }
    }

    pub fn write(&mut self, file: Id, content: Vec<u8>) {
        self.files.get_mut(&file).expect("a known file").write(content);
    }

    // ---- what is promised ----

    /// What a sync asked for now promises.
    pub fn promise(&self, file: Option<Id>) -> Promise {
        let content = |id| (id, self.files[&id].index());
        Promise { operation: self.operation(), file: file.map(content) }
    }

    /// The sync succeeded.
    pub fn kept(&mut self, promise: Promise) {
        if promise.operation > self.past {
            self.states.drain(..promise.operation - self.past);
            self.past = promise.operation;
        }
        if let Some((file, content)) = promise.file {
            self.files.get_mut(&file).expect("a known file").kept(content);
        }
    }

    /// The sync failed, and with it perhaps the write-back of its file.
    pub fn broken(&mut self, promise: Promise) {
        if let Some((file, _)) = promise.file {
            self.files.get_mut(&file).expect("a known file").failed = true;
        }
    }

    /// What a sync of everything asked for now promises.
    pub fn promise_all(&self) -> Vec<Promise> {
        let files = self.files.keys().map(|&id| self.promise(Some(id)));
        files.chain([self.promise(None)]).collect()
    }

    /// It succeeded.
    pub fn kept_all(&mut self, promises: &[Promise]) {
        promises.iter().for_each(|&promise| self.kept(promise));
    }

    /// A sync of everything failed, or some write-back will: no content counts any more.
    pub fn all_broken(&mut self) {
        self.contents_are_lost = true;
    }

    /// Somebody's sync of everything succeeded.
    pub fn all_kept(&mut self) {
        self.kept(Promise { operation: self.operation(), file: None });
        for file in self.files.values_mut() {
            file.kept(file.index());
        }
    }

    // ---- what is found ----

    /// What is wrong with a filesystem found after a crash and a recovery.
    pub fn check(&self, backing: &SimBacking) -> Result<u64, String> {
        let walk = Walk::of(backing, self.in_words);
        let mut contents: Vec<Option<Vec<u8>>> = walk.objects.iter().map(|_| None).collect();
        let mut losses: Vec<String> = Vec::new();
        for (index, state) in self.states.iter().enumerate().rev() {
            if state.sum != walk.sum {
                continue;
            }
            let checked =
                self.check_contents(backing, &walk, state, self.past + index, &mut contents);
            match checked {
                Ok(()) => return Ok(walk.sum),
                Err(loss) => losses.push(loss),
            }
        }
        let (from, to) = (self.past, self.operation());
        if !losses.is_empty() {
            return Err(losses.join("\n  or "));
        }
        Err(format!(
            "the tree is that of no operation from {from} (promised) to {to} (last)\n\
             found: {}\nlast: {}",
            walk.text.unwrap_or_default(),
            self.states.back().and_then(|state| state.text.clone()).unwrap_or_default()
        ))
    }

    /// Whether a live filesystem is exactly as programs have made it.
    pub fn check_live(&self, backing: &SimBacking) -> Result<(), String> {
        let walk = Walk::of(backing, self.in_words);
        let state = self.states.back().expect("there is always a state");
        if walk.sum != state.sum {
            return Err(format!("the live tree is another: {:?} {:?}", walk.text, state.text));
        }
        let mut content = Vec::new();
        for (number, &id) in state.objects.iter().enumerate() {
            if let Some(file) = self.files.get(&id) {
                walk.content(backing, number, &mut content);
                if content != **file.now() {
                    return Err(format!("file {id} has another content than before"));
                }
            }
        }
        Ok(())
    }

    fn check_contents(
        &self,
        backing: &SimBacking,
        walk: &Walk,
        state: &State,
        last: usize,
        contents: &mut [Option<Vec<u8>>],
    ) -> Result<(), String> {
        let files = if self.contents_are_lost { &[] } else { &state.objects[..] };
        for (number, &id) in files.iter().enumerate() {
            let Some(file) = self.files.get(&id) else { continue };
            let content = contents[number].get_or_insert_with(|| {
                let mut content = Vec::new();
                walk.content(backing, number, &mut content);
                content
            });
            file.check(content, last).map_err(|loss| {
                format!("bytes lost of file {id}, with the operations up to {last}: {loss}")
            })?;
        }
        Ok(())
    }
}
