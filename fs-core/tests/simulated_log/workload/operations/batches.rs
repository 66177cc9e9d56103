//! Batches: new files in place of others and names removed, as one change. After a power
//! cut all of a batch is there or nothing of it: to the facts it is one operation.

use fs_core::engine::NameChange;

use super::*;

const FILE: NewMode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
const CHANGES_MAX: usize = 5;

/// One change of a batch, and what the facts know of it.
struct Part {
    change: NameChange,
    dir: Id,
    name: &'static str,
    /// The new file, and the name that it has.
    new: Option<(Id, String)>,
}

impl World {
    /// Prepares and makes a batch, and perhaps asks for its sync.
    pub(super) fn batch(&mut self, program: usize) -> Pause {
        let mut parts: Vec<Part> = Vec::new();
        for number in 0..1 + self.random.index(CHANGES_MAX) {
            let (dir, name) = (self.dir(), self.name());
            let old = self.facts.model.entries(dir).get(name).copied();
            let is_dir = old.is_some_and(|old| self.facts.model.is_dir(old));
            if is_dir || parts.iter().any(|part| (part.dir, part.name) == (dir, name)) {
                continue;
            }
            let part = if self.random.one_in(3) {
                let change = NameChange::Remove { dir: self.node(0, dir), name: name.into() };
                Some(Part { change, dir, name, new: None })
            } else {
                self.new_file(program, number, (dir, name))
            };
            parts.extend(part);
        }
        let changes: Vec<_> = parts.iter().map(|part| part.change.clone()).collect();
        let changed = self.tree(0).change_names(&changes);
        let names: Vec<_> = parts.iter().map(|part| (part.dir, part.name)).collect();
        self.facts.tell(|| format!("batch {names:?}: {changed:?}"));
        let pause = match changed {
            Ok(changed) => {
                let new = self.batch_done(&parts[..changed.done]);
                self.sync_batch(program, changed, &new)
            }
            Err(_) => Pause::Nothing,
        };
        self.close_some();
        pause
    }

    /// A file that will stand under a name.
    fn new_file(
        &mut self,
        program: usize,
        number: usize,
        (dir, name): (Id, &'static str),
    ) -> Option<Part> {
        let temporary = format!("new{number}");
        if self.facts.model.entries(dir).contains_key(&temporary) {
            return None;
        }
        let (by, parent) = (caller(program), self.node(0, dir));
        let os = os_name(temporary.as_bytes());
        let mode = OpenMode { read: false, ..READ_WRITE };
        let made = self.tree(0).create(by, parent, os, FILE, mode, true);
        let (entry, file) = made.expect("a file can be made");
        let object = Object::new(FileKind::Regular, 0o644, (0, 0));
        let id = self.made(0, dir, &temporary, &entry, object);
        self.facts.files.insert(id, crate::content::FileFacts::new(Vec::new()));
        let content = vec![self.next_byte(); self.random.index(9_000)];
        let written = self.tree(0).write(by, file, &content, 0, true);
        assert_eq!(written, Ok(content.len()));
        self.facts.write(id, content);
        self.opened(Opened { id, mount: 0, file, writes: true });
        // A failure was planned: the facts know already.
        self.tree(0).write_back(by, file).ok()?;
        let change = NameChange::Replace {
            file: Some(file),
            dir: parent,
            temporary: os.to_owned(),
            name: name.into(),
        };
        Some(Part { change, dir, name, new: Some((id, temporary)) })
    }

    /// Tells the facts; gives the files that are new.
    fn batch_done(&mut self, parts: &[Part]) -> Vec<Id> {
        let mut new = Vec::new();
        for Part { dir, name, new: file, .. } in parts {
            let model = &mut self.facts.model;
            match file {
                Some((id, temporary)) => {
                    model.set_name(*dir, name, Some(*id));
                    model.set_name(*dir, temporary, None);
                    new.push(*id);
                }
                None => model.set_name(*dir, name, None),
            }
        }
        self.facts.replaced(&new);
        new
    }

    fn sync_batch(&mut self, program: usize, changed: NamesChanged, new: &[Id]) -> Pause {
        if self.random.one_in(3) {
            return Pause::Nothing;
        }
        self.blocked[program] = true;
        let promise = self.facts.promise(None);
        let more = new.iter().map(|&id| self.facts.promise(Some(id))).collect();
        Pause::Sync(Sync { program, promise, target: Target::Names(changed, more) })
    }

    /// So that there are not too many.
    fn close_some(&mut self) {
        while self.opened.len() > 12 {
            let index = self.random.index(self.opened.len());
            if self.syncing.contains(&Some(self.opened[index].file)) {
                continue;
            }
            let Opened { file, mount, id, .. } = self.opened.swap_remove(index);
            self.tree(mount).release(file);
            self.facts.tell(|| format!("close {id}"));
        }
    }
}
