//! What the programs do: one operation for each step, told to the facts as soon
//! as the engine has answered.

use std::sync::Arc;

use fs_core::engine::{Deed, Entry, NamesChanged};
use fs_core::platform::{Backing, OpenMode, RenameMode, os_name};
use fs_core::types::{FileKind, NewMode, SetAttr, SetTime, SyncKind, Time, type_bits};

use super::{DIRECTORY, MOUNTED, Opened, PROGRAMS, Pause, Sync, Target, World, caller};
use crate::content::Effect;
use crate::model::{Id, Object, ROOT};

mod batches;
mod files;

const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", MOUNTED];
const DIRS_MAX: usize = 7;
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };

impl World {
    /// One operation of a program that is not blocked; a sync is only prepared.
    pub(super) fn step(&mut self, outside: bool) -> Pause {
        let free: Vec<usize> = (0..PROGRAMS).filter(|&program| !self.blocked[program]).collect();
        if free.is_empty() || self.engine.is_none() {
            return Pause::Nothing;
        }
        let program = self.pick(&free);
        self.steps_left -= 1;
        self.outcome.steps += 1;
        if let Some(pause) = self.rare(outside) {
            return pause;
        }
        self.plan_failure();
        match self.random.below(100) {
            0..10 => self.create(program),
            10..29 => self.write(program),
            29..33 => self.truncate(program),
            33..38 => self.allocate(program),
            38..40 => self.open_cut(program),
            40..42 => self.copy(program),
            42..49 => self.rename(program, false),
            49..52 => self.replace(program),
            52..54 => self.rename(program, true),
            54..56 => self.exchange(program),
            56..59 => self.link(program),
            59..64 => self.unlink(program),
            64..67 => self.make_dir(program),
            67..69 => self.remove_dir(program),
            69..71 => self.make_other(program),
            71..74 => self.set_attributes(program),
            74..76 => self.set_xattr(program),
            76..78 => self.forget(),
            78..86 if self.plan.durability.at_close() => self.close(program),
            78..86 => return self.sync_file(program, SyncKind::Full),
            86..90 => return self.sync_file(program, SyncKind::Data),
            90..94 => return self.batch(program),
            _ => return self.sync_dir(program),
        }
        let Some((owed, file)) = self.owed.take() else { return Pause::Nothing };
        self.blocked[program] = true;
        self.outcome.owed += 1;
        let promise = self.facts.promise(file);
        self.facts.tell(|| format!("{program} waits for what it did, file {file:?}"));
        Pause::Sync(Sync { program, promise, target: Target::Owed(owed) })
    }

    /// What happens seldom, and not to one program.
    fn rare(&mut self, outside: bool) -> Option<Pause> {
        let Self { random, plan, .. } = self;
        if random.one_in(plan.sync_all_one_in) {
            let synced = self.backing.sync_all();
            self.facts.tell(|| format!("somebody calls sync(2) {synced:?}"));
            match synced {
                Ok(()) => self.facts.all_kept(),
                Err(_) => self.facts.all_broken(),
            }
            return Some(Pause::Nothing);
        }
        if !outside {
            return None;
        }
        if random.one_in(plan.checkpoint_one_in) {
            return Some(Pause::Checkpoint);
        }
        if random.one_in(plan.kill_one_in) {
            return Some(if random.one_in(4) { Pause::Flush } else { Pause::Kill });
        }
        None
    }

    fn plan_failure(&mut self) {
        if !self.random.one_in(self.plan.fail_one_in) {
            return;
        }
        let nth = 1 + self.random.below(3);
        let kind = 1 + self.random.below(3);
        let kind = if self.plan.fail_write_back { 0 } else { kind };
        self.facts.tell(|| format!("failure {kind} in {nth}"));
        match kind {
            0 => {
                // Whose data that loses nobody can tell; names and attributes are safe.
                self.facts.all_broken();
                self.backing.fail_sync(nth);
            }
            1 => self.backing.fail_commit(nth),
            2 => self.backing.fail_log_write(nth),
            _ => self.backing.fail_log_flush(nth),
        }
    }

    // ---- choices ----

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.random.index(from.len())].clone()
    }

    fn next_byte(&mut self) -> u8 {
        self.byte = self.byte % 250 + 1;
        self.byte
    }

    fn name(&mut self) -> &'static str {
        if self.random.one_in(30) { MOUNTED } else { NAMES[self.random.index(NAMES.len() - 1)] }
    }

    fn dirs(&self) -> Vec<Id> {
        let named = self.facts.model.named_below(ROOT);
        let dirs = named.into_iter().map(|place| place.2);
        dirs.filter(|&id| self.facts.model.is_dir(id)).chain([ROOT]).collect()
    }

    fn dir(&mut self) -> Id {
        let dirs = self.dirs();
        self.pick(&dirs)
    }

    /// Something with a name that satisfies a wish: its directory, name and number.
    fn named(&mut self, wish: impl Fn(&Object) -> bool) -> Option<(Id, String, Id)> {
        let model = &self.facts.model;
        let mut named = model.named_below(ROOT);
        named.retain(|place| wish(&model.objects[place.2]));
        if named.is_empty() {
            return None;
        }
        let (dir, name, id) = named[self.random.index(named.len())];
        Some((dir, name.to_owned(), id))
    }

    fn file(&mut self) -> Option<(Id, String, Id)> {
        self.named(|object| object.look.kind == FileKind::Regular)
    }

    // ---- names ----

    /// Takes in what was made.
    fn made(&mut self, mount: usize, dir: Id, name: &str, entry: &Entry, object: Object) -> Id {
        let id = self.facts.model.add(object);
        self.mounts[mount].know(id, entry.id);
        let attr = &entry.attr;
        let look = &mut self.facts.model.objects[id].look;
        assert_eq!(attr.kind, look.kind, "what was asked for");
        // A set-group-id directory passes that on.
        (look.perm, look.uid, look.gid) = (attr.perm, attr.uid, attr.gid);
        self.facts.model.set_name(dir, name, Some(id));
        self.facts.done();
        id
    }

    fn make_dir(&mut self, program: usize) {
        let (dir, name) = (self.dir(), self.name());
        if self.facts.model.entries(dir).contains_key(name) || self.dirs().len() > DIRS_MAX {
            return;
        }
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let by = caller(program);
        let entry = self.tree(mount).make_dir(by, parent, os_name(name.as_bytes()), DIRECTORY);
        let object = Object::new(FileKind::Directory, 0o755, (0, 0));
        let id = self.made(mount, dir, name, &entry.expect("a directory"), object);
        self.owes(mount, program, &Deed::Name(parent, os_name(name.as_bytes())), None);
        self.facts.tell(|| format!("mkdir {dir}/{name} = {id}"));
    }

    /// A pipe, a device, a symbolic link.
    fn make_other(&mut self, program: usize) {
        let (dir, name) = (self.dir(), self.name());
        if self.facts.model.entries(dir).contains_key(name) {
            return;
        }
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let (tree, by, os) = (self.tree(mount), caller(program), os_name(name.as_bytes()));
        let (entry, object) = match self.random.below(3) {
            0 => {
                let target = format!("target {}", self.random.below(100));
                let entry = tree.make_symlink(by, parent, os, os_name(target.as_bytes()));
                let object = Object::new(FileKind::Symlink, 0o777, (0, 0));
                (entry, Object { target: target.into_bytes(), ..object })
            }
            1 => {
                let mode = NewMode { mode: type_bits::S_IFIFO | 0o640, umask: 0o022 };
                let entry = tree.make_node(by, parent, os, mode, (0, 0));
                (entry, Object::new(FileKind::Fifo, 0o640, (0, 0)))
            }
            _ => {
                let mode = NewMode { mode: type_bits::S_IFCHR | 0o666, umask: 0 };
                let entry = tree.make_node(by, parent, os, mode, (1, 3));
                let mut object = Object::new(FileKind::CharDevice, 0o666, (0, 0));
                object.look.device = (1, 3);
                (entry, object)
            }
        };
        let id = self.made(mount, dir, name, &entry.expect("it can be made"), object);
        self.owes(mount, program, &Deed::Name(parent, os), None);
        self.facts.tell(|| format!("make {dir}/{name} = {id}"));
    }

    fn rename(&mut self, program: usize, is_dir: bool) {
        let Some((from, old_name, moved)) = self.named(|object| object.is_dir() == is_dir) else {
            return;
        };
        let (to, new_name) = (self.dir(), self.name());
        let whiteout = self.random.one_in(12);
        let no_replace = !whiteout && self.random.one_in(8);
        let mode = RenameMode { whiteout, no_replace, exchange: false };
        self.rename_as(program, (from, &old_name, moved), (to, new_name), mode);
    }

    /// A file replaces another: what programs rely on to be all or nothing.
    fn replace(&mut self, program: usize) {
        let (Some(one), Some(other)) = (self.file(), self.file()) else { return };
        let mode = RenameMode::default();
        self.rename_as(program, (one.0, &one.1, one.2), (other.0, &other.1), mode);
    }

    fn rename_as(
        &mut self,
        program: usize,
        from: (Id, &str, Id),
        to: (Id, &str),
        mode: RenameMode,
    ) {
        let victim = self.facts.model.entries(to.0).get(to.1).copied();
        let mount = self.mount(&[from.0, to.0]);
        let (source, target) = (self.node(mount, from.0), self.node(mount, to.0));
        let (old, new) = (os_name(from.1.as_bytes()), os_name(to.1.as_bytes()));
        let renamed = self.tree(mount).rename((source, old), (target, new), mode);
        let (from, to) = ((from.0, from.1, from.2), (to.0, to.1));
        self.facts.tell(|| format!("rename {from:?} {to:?} over {victim:?} {mode:?} {renamed:?}"));
        if renamed.is_err() {
            return;
        }
        self.owes(mount, program, &Deed::Moved((source, old), (target, new)), None);
        // Both names are the same object already: nothing is done.
        if victim == Some(from.2) {
            return self.facts.done();
        }
        let model = &mut self.facts.model;
        model.set_name(to.0, to.1, Some(from.2));
        let left = match (mode.exchange, mode.whiteout) {
            (true, _) => victim,
            (_, true) => {
                let tree = Arc::clone(&self.mounts[mount].tree);
                let entry = tree.lookup(source, old).expect("a whiteout");
                let (uid, gid) = (entry.attr.uid, entry.attr.gid);
                let id = model.add(Object::new(FileKind::CharDevice, 0, (uid, gid)));
                self.mounts[mount].know(id, entry.id);
                Some(id)
            }
            _ => None,
        };
        model.set_name(from.0, from.1, left);
        let replaces =
            |id: Id| self.facts.files.contains_key(&id) && self.facts.files.contains_key(&from.2);
        if !mode.exchange && victim.is_some_and(replaces) {
            let content = self.facts.content(from.2).to_vec();
            self.facts.content_done(from.2, content, Effect::Replaced);
        } else {
            self.facts.done();
        }
    }

    fn exchange(&mut self, program: usize) {
        let (Some(one), Some(other)) = (self.named(|_| true), self.named(|_| true)) else { return };
        let mode = RenameMode { exchange: true, ..RenameMode::default() };
        self.rename_as(program, (one.0, &one.1, one.2), (other.0, &other.1), mode);
    }

    fn link(&mut self, program: usize) {
        let Some((_, _, id)) = self.named(|object| !object.is_dir()) else { return };
        let (dir, name) = (self.dir(), self.name());
        let mount = self.mount(&[id, dir]);
        let (node, parent) = (self.node(mount, id), self.node(mount, dir));
        if let Ok(entry) = self.tree(mount).link(node, parent, os_name(name.as_bytes())) {
            self.mounts[mount].know(id, entry.id);
            self.owes(mount, program, &Deed::Name(parent, os_name(name.as_bytes())), None);
            self.facts.model.set_name(dir, name, Some(id));
            self.facts.done();
            self.facts.tell(|| format!("link {id} {dir}/{name}"));
        }
    }

    fn unlink(&mut self, program: usize) {
        let Some((dir, name, id)) = self.named(|object| !object.is_dir()) else { return };
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        self.tree(mount).unlink(parent, os_name(name.as_bytes())).expect("a name goes");
        self.owes(mount, program, &Deed::Name(parent, os_name(name.as_bytes())), None);
        self.facts.model.set_name(dir, &name, None);
        self.facts.done();
        self.facts.tell(|| format!("unlink {dir}/{name} = {id}"));
    }

    fn remove_dir(&mut self, program: usize) {
        let wish = |object: &Object| object.is_dir() && object.entries.is_empty();
        let Some((dir, name, id)) = self.named(wish) else { return };
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        self.tree(mount).remove_dir(parent, os_name(name.as_bytes())).expect("it is empty");
        self.owes(mount, program, &Deed::Name(parent, os_name(name.as_bytes())), None);
        self.facts.model.set_name(dir, &name, None);
        self.facts.done();
        self.facts.tell(|| format!("rmdir {dir}/{name} = {id}"));
    }

    // ---- attributes ----

    fn set_attributes(&mut self, program: usize) {
        let Some((_, _, id)) = self.named(|_| true) else { return };
        let mount = self.mount(&[id]);
        let node = self.node(mount, id);
        let is_link = self.facts.model.kind(id) == FileKind::Symlink;
        let change = match self.random.below(4) {
            0 | 1 if !is_link => {
                let perm = self.pick(&[0o600, 0o4755, 0o2775, 0o777, 0o640, 0o1777]);
                SetAttr { perm: Some(perm), ..SetAttr::default() }
            }
            2 => {
                let time = Time { secs: self.random.below(1000) as i64, nanos: 5 };
                SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() }
            }
            _ => {
                let (uid, gid) = (self.random.below(4) as u32, self.random.below(4) as u32);
                let gid = self.random.one_in(2).then_some(gid);
                SetAttr { uid: Some(uid), gid, ..SetAttr::default() }
            }
        };
        let attr = self.tree(mount).set_attr(caller(program), node, None, &change);
        let attr = attr.expect("anything is allowed");
        self.owes(mount, program, &Deed::Attributes(node), None);
        let look = &mut self.facts.model.objects[id].look;
        (look.perm, look.uid, look.gid) = (attr.perm, attr.uid, attr.gid);
        self.facts.done();
        self.facts.tell(|| format!("setattr {id} {change:?}"));
    }

    fn set_xattr(&mut self, program: usize) {
        let Some((_, _, id)) = self.named(|_| true) else { return };
        let mount = self.mount(&[id]);
        let node = self.node(mount, id);
        let name = self.pick(&["user.x", "user.y", "trusted.z"]);
        let plain = matches!(self.facts.model.kind(id), FileKind::Regular | FileKind::Directory);
        if !plain && name.starts_with("user.") {
            return;
        }
        let (tree, os) = (self.tree(mount), os_name(name.as_bytes()));
        let xattrs = &mut self.facts.model.objects[id].xattrs;
        if xattrs.contains_key(name) && self.random.one_in(2) {
            tree.remove_xattr(node, os).expect("it is there");
            xattrs.remove(name);
        } else {
            let value = vec![self.byte; self.random.index(20)];
            tree.set_xattr(caller(program), node, os, &value, 0).expect("there is room");
            xattrs.insert(name.to_owned(), value);
        }
        self.owes(mount, program, &Deed::Attributes(node), None);
        self.facts.done();
        self.facts.tell(|| format!("xattr {id} {name}"));
    }

    /// A kernel forgets an object.
    fn forget(&mut self) {
        let mount = self.random.index(self.mounts.len());
        let ids: Vec<Id> = self.mounts[mount].nodes.keys().copied().collect();
        let id = self.pick(&ids);
        let mount = &mut self.mounts[mount];
        if id != mount.root
            && let Some((node, references)) = mount.nodes.remove(&id)
        {
            mount.tree.forget(node, references);
        }
    }

    // ---- syncs ----

    fn sync_file(&mut self, program: usize, kind: SyncKind) -> Pause {
        let Some(opened) = self.open_file(false) else { return Pause::Nothing };
        self.blocked[program] = true;
        self.syncing[program] = Some(opened.file);
        let promise = self.facts.promise(Some(opened.id));
        self.facts.tell(|| format!("{program} syncs file {}", opened.id));
        Pause::Sync(Sync { program, promise, target: Target::File(opened, kind) })
    }

    fn sync_dir(&mut self, program: usize) -> Pause {
        let dir = self.dir();
        let mount = self.mount(&[dir]);
        let node = self.node(mount, dir);
        self.blocked[program] = true;
        let promise = self.facts.promise(None);
        self.facts.tell(|| format!("{program} syncs directory {dir}"));
        Pause::Sync(Sync { program, promise, target: Target::Dir(mount, node) })
    }

    /// A program closes a file, and waits in the modes that say so.
    fn close(&mut self, program: usize) {
        let writing = self.opened.iter().enumerate().filter(|(_, open)| open.writes);
        let writing: Vec<usize> = writing.map(|(index, _)| index).collect();
        if writing.is_empty() {
            return;
        }
        let index = self.pick(&writing);
        let Opened { id, mount, file, .. } = self.opened[index];
        if self.syncing.contains(&Some(file)) {
            return;
        }
        self.owes(mount, program, &Deed::Closed(file), Some(id));
        self.opened.swap_remove(index);
        self.tree(mount).release(file);
        self.facts.tell(|| format!("{program} closes {id}"));
    }

    fn opened(&mut self, opened: Opened) {
        self.opened.push(opened);
    }
}
