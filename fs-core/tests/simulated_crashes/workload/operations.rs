//! What the programs do: one operation for each step, told to the facts as soon
//! as the engine has answered.

use fs_core::error::{Errno, Result};
use fs_core::platform::{OpenMode, RenameMode};
use fs_core::types::{NewMode, SetAttr, SyncKind};

use super::{DIRECTORY, Opened, PROGRAMS, READ_WRITE, Sync, Target, World, caller, os};
use crate::facts::Promise;
use crate::walk::Key;

const FILE_BYTES_MAX: usize = 12_000;
const DIRS_MAX: usize = 8;
const FILE: NewMode = NewMode { mode: 0o644, umask: 0 };

impl World {
    /// One operation of a program that is not blocked; a sync is only prepared.
    pub(super) fn step(&mut self) -> Option<Sync> {
        let free: Vec<usize> = (0..PROGRAMS).filter(|&program| !self.blocked[program]).collect();
        if free.is_empty() {
            return None;
        }
        let program = self.pick(&free);
        self.steps_left -= 1;
        self.outcome.steps += 1;
        match self.random.below(100) {
            0..14 => self.create(program),
            14..34 => self.write(program),
            34..38 => self.truncate(program),
            38..47 => self.rename(false),
            47..51 => self.rename(true),
            51..54 => self.exchange(),
            54..58 => self.link(),
            58..63 => self.unlink(),
            63..68 => self.make_dir(program),
            68..71 => self.remove_dir(),
            71..73 => self.set_permission(program),
            73..75 => self.forget(),
            75..83 => return self.sync_file(program, SyncKind::Full),
            83..88 => return self.sync_file(program, SyncKind::Data),
            _ => return Some(self.sync_dir(program)),
        }
        None
    }

    fn create(&mut self, program: usize) {
        let (dir, name) = (self.dir(), self.name());
        let old = self.facts.entries(dir).get(name).copied();
        let mode = OpenMode { truncate: self.random.one_in(4), ..READ_WRITE };
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let made = self.tree(mount).create(caller(program), parent, os(name), FILE, mode, false);
        if old.is_some_and(|old| self.facts.is_dir(old)) {
            assert_eq!(made.map(drop), Err(Errno::ISDIR));
            return;
        }
        let (entry, file) = made.expect("a file can be made");
        let key = self.mounts[mount].know(&entry);
        if old.is_none() {
            self.facts.born(key, false);
            self.facts.changed_names(&[(dir, name, Some(key))], &[key]);
        } else if mode.truncate {
            self.facts.set_content(key, Vec::new());
        }
        self.opened.push(Opened { key, mount, file });
    }

    fn write(&mut self, program: usize) {
        let Some(Opened { key, mount, file }) = self.open_file() else { return };
        let mut content = Vec::clone(self.facts.content(key));
        let offset = match self.random.below(4) {
            0 => self.random.index(FILE_BYTES_MAX),
            1 => self.random.index(content.len() + 1),
            _ => content.len(),
        };
        if offset >= FILE_BYTES_MAX {
            return;
        }
        let most = if self.random.one_in(3) { 5000 } else { 700 };
        let bytes = self.random.index(most).min(FILE_BYTES_MAX - offset) + 1;
        self.byte = self.byte % 200 + 1;
        let data = vec![self.byte; bytes];
        let written = self.tree(mount).write(caller(program), file, &data, offset as u64, false);
        assert_eq!(written, Ok(bytes));
        content.resize(content.len().max(offset + bytes), 0);
        content[offset..offset + bytes].copy_from_slice(&data);
        self.facts.set_content(key, content);
    }

    fn truncate(&mut self, program: usize) {
        let Some(Opened { key, mount, file }) = self.open_file() else { return };
        let mut content = Vec::clone(self.facts.content(key));
        let size = if self.random.one_in(3) { 0 } else { self.random.index(FILE_BYTES_MAX) };
        content.resize(size, 0);
        let change = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        // A removed file that the kernel has forgotten has no number any more.
        let Some(&(node, _)) = self.mounts[mount].nodes.get(&key) else { return };
        let set = self.tree(mount).set_attr(caller(program), node, Some(file), &change);
        set.expect("any length is fine");
        self.facts.set_content(key, content);
    }

    fn rename(&mut self, is_dir: bool) {
        let Some((from, old_name, moved)) = self.named(is_dir) else { return };
        let (to, new_name) = (self.dir(), self.name());
        let victim = self.facts.entries(to).get(new_name).copied();
        if self.rename_as((from, &old_name), (to, new_name), RenameMode::default()).is_err()
            // Both names are the same file already: nothing is done.
            || victim == Some(moved)
        {
            return;
        }
        let names = [(to, new_name, Some(moved)), (from, old_name.as_str(), None)];
        let mut changed = vec![moved];
        changed.extend(victim);
        self.facts.changed_names(&names, &changed);
    }

    fn exchange(&mut self) {
        let (one_is_dir, other_is_dir) = (self.random.one_in(2), self.random.one_in(2));
        let (Some(one), Some(other)) = (self.named(one_is_dir), self.named(other_is_dir)) else {
            return;
        };
        let mode = RenameMode { exchange: true, ..RenameMode::default() };
        if self.rename_as((one.0, &one.1), (other.0, &other.1), mode).is_err() || one.2 == other.2 {
            return;
        }
        let names =
            [(one.0, one.1.as_str(), Some(other.2)), (other.0, other.1.as_str(), Some(one.2))];
        self.facts.changed_names(&names, &[one.2, other.2]);
    }

    fn rename_as(&mut self, from: (Key, &str), to: (Key, &str), mode: RenameMode) -> Result<()> {
        let mount = self.mount(&[from.0, to.0]);
        let (source, target) = (self.node(mount, from.0), self.node(mount, to.0));
        self.tree(mount).rename((source, os(from.1)), (target, os(to.1)), mode)
    }

    fn link(&mut self) {
        let Some((_, _, key)) = self.named(false) else { return };
        let (dir, name) = (self.dir(), self.name());
        let mount = self.mount(&[key, dir]);
        let (node, parent) = (self.node(mount, key), self.node(mount, dir));
        if let Ok(entry) = self.tree(mount).link(node, parent, os(name)) {
            self.mounts[mount].know(&entry);
            self.facts.changed_names(&[(dir, name, Some(key))], &[key]);
        }
    }

    fn unlink(&mut self) {
        let Some((dir, name, key)) = self.named(false) else { return };
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        self.tree(mount).unlink(parent, os(&name)).expect("a file's name can be removed");
        self.facts.changed_names(&[(dir, &name, None)], &[key]);
    }

    fn make_dir(&mut self, program: usize) {
        let (dir, name) = (self.dir(), self.name());
        if self.dirs().len() > DIRS_MAX {
            return;
        }
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let made = self.tree(mount).make_dir(caller(program), parent, os(name), DIRECTORY);
        if let Ok(entry) = made {
            let key = self.mounts[mount].know(&entry);
            self.facts.born(key, true);
            self.facts.changed_names(&[(dir, name, Some(key))], &[key]);
        }
    }

    fn remove_dir(&mut self) {
        let Some((dir, name, key)) = self.named(true) else { return };
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let is_mounted = self.mounts.iter().any(|mount| mount.root == key);
        if !is_mounted && self.tree(mount).remove_dir(parent, os(&name)).is_ok() {
            self.facts.changed_names(&[(dir, &name, None)], &[key]);
        }
    }

    fn set_permission(&mut self, program: usize) {
        let key = self.dir();
        let mount = self.mount(&[key]);
        let node = self.node(mount, key);
        let change = SetAttr { perm: Some(0o750), ..SetAttr::default() };
        let set = self.tree(mount).set_attr(caller(program), node, None, &change);
        set.expect("any permission is fine");
        self.facts.changed(&[key]);
    }

    fn sync_file(&mut self, program: usize, kind: SyncKind) -> Option<Sync> {
        let opened = self.open_file()?;
        // Of two syncs of one open file at once, Linux tells only one that
        // write-back failed; what the other promised then is nobody's fault.
        if self.fail_one_in > 0 && self.syncing.contains(&Some(opened.file)) {
            return None;
        }
        self.syncing[program] = Some(opened.file);
        let promise = self.facts.promise(opened.key, kind);
        Some(self.sync(program, promise, Target::File(opened, kind)))
    }

    fn sync_dir(&mut self, program: usize) -> Sync {
        let again = self.synced.filter(|key| self.dirs().contains(key));
        let key = match again {
            Some(key) if self.random.one_in(2) => key,
            _ => self.dir(),
        };
        self.synced = Some(key);
        let mount = self.mount(&[key]);
        let node = self.node(mount, key);
        let promise = self.facts.promise(key, SyncKind::Full);
        self.sync(program, promise, Target::Dir(mount, node))
    }

    fn sync(&mut self, program: usize, promise: Promise, target: Target) -> Sync {
        self.blocked[program] = true;
        if self.random.one_in(self.fail_one_in) {
            self.backing.fail_sync(1);
        }
        Sync { program, promise, target }
    }
}
