//! Open files, and what is done to contents.

use fs_core::error::Errno;

use super::*;

const FILE_BYTES_MAX: usize = 40_000;
const OPEN_MAX: usize = 8;
const FILE: NewMode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
const PUNCH_HOLE: u32 = 0x03;
const ZERO_RANGE: u32 = 0x10;
const KEEP_SIZE: u32 = 0x01;

impl World {
    pub(super) fn create(&mut self, program: usize) {
        let (dir, name) = (self.dir(), self.name());
        let old = self.facts.model.entries(dir).get(name).copied();
        let mode = OpenMode { truncate: self.random.one_in(4), ..READ_WRITE };
        if old.is_some_and(|old| self.facts.model.kind(old) != FileKind::Regular) {
            return;
        }
        let mount = self.mount(&[dir]);
        let parent = self.node(mount, dir);
        let (by, os) = (caller(program), os_name(name.as_bytes()));
        let made = self.tree(mount).create(by, parent, os, FILE, mode, false);
        let (entry, file) = made.expect("a file can be made");
        let id = match old {
            Some(id) => {
                self.mounts[mount].know(id, entry.id);
                if mode.truncate {
                    self.cut(id, 0);
                }
                id
            }
            None => {
                let object = Object::new(FileKind::Regular, 0o644, (0, 0));
                let id = self.made(mount, dir, name, &entry, object);
                self.facts.files.insert(id, crate::content::FileFacts::new(Vec::new()));
                id
            }
        };
        self.facts.tell(|| format!("create {dir}/{name} = {id}, truncate {}", mode.truncate));
        self.opened(Opened { id, mount, file, writes: true });
        self.owes(mount, program, &Deed::Opened(file), Some(id));
    }

    /// A file that is open; now and then another one is opened or one is closed.
    pub(super) fn open_file(&mut self, to_write: bool) -> Option<Opened> {
        if self.opened.len() > OPEN_MAX || (!self.opened.is_empty() && self.random.one_in(12)) {
            let index = self.random.index(self.opened.len());
            let Opened { file, mount, id, .. } = self.opened.swap_remove(index);
            self.tree(mount).release(file);
            self.facts.tell(|| format!("close {id}"));
        }
        if self.opened.is_empty() || self.random.one_in(3) {
            let (_, _, id) = self.file()?;
            let writes = to_write || !self.random.one_in(4);
            let mount = self.mount(&[id]);
            let node = self.node(mount, id);
            let mode = OpenMode { write: writes, ..READ_WRITE };
            let lazy = self.random.one_in(2);
            let file = self.tree(mount).open(caller(0), node, mode, lazy).expect("a file opens");
            self.facts.tell(|| format!("open {id} to write {writes}"));
            self.opened(Opened { id, mount, file, writes });
        }
        let fit: Vec<Opened> =
            self.opened.iter().copied().filter(|open| open.writes || !to_write).collect();
        if fit.is_empty() { None } else { Some(self.pick(&fit)) }
    }

    /// Opening cuts a file.
    pub(super) fn open_cut(&mut self, program: usize) {
        let Some((_, _, id)) = self.file() else { return };
        let mount = self.mount(&[id]);
        let node = self.node(mount, id);
        let mode = OpenMode { truncate: true, ..READ_WRITE };
        let file = self.tree(mount).open(caller(program), node, mode, true).expect("it opens");
        self.cut(id, 0);
        self.facts.tell(|| format!("open {id} and cut it"));
        self.opened(Opened { id, mount, file, writes: true });
    }

    /// The facts of a new length.
    fn cut(&mut self, id: Id, size: usize) {
        let mut content = self.facts.content(id).to_vec();
        content.resize(size, 0);
        let effect = Effect::Cut { range: size..usize::MAX, sets_length: true };
        self.facts.content_done(id, content, effect);
    }

    fn place(&mut self, bytes: usize) -> usize {
        match self.random.below(5) {
            0 => self.random.index(FILE_BYTES_MAX),
            1 => self.random.index(bytes + 1),
            2 => self.random.index(bytes + 1) / 4096 * 4096,
            _ => bytes,
        }
    }

    fn length(&mut self) -> usize {
        let most = match self.random.below(12) {
            0 => 30_000,
            1..5 => 6_000,
            _ => 700,
        };
        1 + self.random.index(most)
    }

    pub(super) fn write(&mut self, program: usize) {
        let Some(Opened { id, mount, file, .. }) = self.open_file(true) else { return };
        let mut content = self.facts.content(id).to_vec();
        let offset = self.place(content.len());
        if offset >= FILE_BYTES_MAX {
            return;
        }
        let bytes = self.length().min(FILE_BYTES_MAX - offset);
        self.byte = self.byte % 250 + 1;
        let data = vec![self.byte; bytes];
        let written = self.tree(mount).write(caller(program), file, &data, offset as u64, true);
        assert_eq!(written, Ok(bytes));
        content.resize(content.len().max(offset + bytes), 0);
        content[offset..offset + bytes].copy_from_slice(&data);
        self.facts.write(id, content);
        self.owes(mount, program, &Deed::Content(file), Some(id));
        self.facts.tell(|| format!("write {id} {offset}..{} of {}", offset + bytes, data[0]));
    }

    pub(super) fn copy(&mut self, program: usize) {
        let (Some(from), Some(to)) = (self.open_file(false), self.open_file(true)) else { return };
        // The first of them may have been closed to open the second.
        if from.mount != to.mount
            || from.id == to.id
            || !self.opened.iter().any(|open| (open.mount, open.file) == (from.mount, from.file))
        {
            return;
        }
        let source = self.facts.content(from.id).to_vec();
        let mut content = self.facts.content(to.id).to_vec();
        let (start, offset) = (self.random.index(source.len() + 1), self.place(content.len()));
        let bytes = self.length().min(source.len() - start);
        if bytes == 0 || offset + bytes > FILE_BYTES_MAX {
            return;
        }
        let by = caller(program);
        let (one, other) = ((from.file, start as u64), (to.file, offset as u64));
        let copied = self.tree(to.mount).copy_range(by, one, other, bytes as u64);
        // A file that is only read is opened when that is needed. This kernel, unlike a real
        // one, forgets what is open, and then its last name may go.
        let is_forgotten = !self.mounts[from.mount].nodes.contains_key(&from.id);
        if copied == Err(Errno::STALE) && is_forgotten {
            return;
        }
        assert_eq!(copied, Ok(bytes as u64));
        content.resize(content.len().max(offset + bytes), 0);
        content[offset..offset + bytes].copy_from_slice(&source[start..start + bytes]);
        self.facts.write(to.id, content);
        self.owes(to.mount, program, &Deed::Content(to.file), Some(to.id));
        self.facts.tell(|| format!("copy {} {start} to {} {offset}, {bytes}", from.id, to.id));
    }

    pub(super) fn truncate(&mut self, program: usize) {
        let Some(Opened { id, mount, file, .. }) = self.open_file(true) else { return };
        let size = match self.random.below(4) {
            0 => 0,
            1 => self.random.index(FILE_BYTES_MAX / 4096) * 4096,
            2 => self.random.index(self.facts.content(id).len() + 1),
            _ => self.random.index(FILE_BYTES_MAX),
        };
        let change = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        // A removed file that the kernel has forgotten has no number any more.
        let Some(&(node, _)) = self.mounts[mount].nodes.get(&id) else { return };
        let file = self.random.one_in(2).then_some(file);
        let deed = file.map_or(Deed::Cut(node), Deed::Content);
        let set = self.tree(mount).set_attr(caller(program), node, file, &change);
        set.expect("any length is fine");
        self.cut(id, size);
        self.owes(mount, program, &deed, None);
        self.facts.tell(|| format!("truncate {id} to {size}"));
    }

    pub(super) fn allocate(&mut self, program: usize) {
        let Some(Opened { id, mount, file, .. }) = self.open_file(true) else { return };
        let mode = self.pick(&[PUNCH_HOLE, PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, 0, 1]);
        let mut content = self.facts.content(id).to_vec();
        let (mut offset, mut bytes) = (self.random.index(FILE_BYTES_MAX / 2), self.length());
        if self.random.one_in(2) {
            offset = offset / 4096 * 4096;
            bytes = bytes.next_multiple_of(4096);
        }
        let (from, to) = (offset as u64, bytes as u64);
        let done = self.tree(mount).allocate(caller(program), file, mode, from, to);
        done.expect("there is room");
        let range = offset..offset + bytes;
        let old = content.len();
        if mode & KEEP_SIZE == 0 {
            content.resize(old.max(range.end), 0);
        }
        let takes = mode & !KEEP_SIZE != 0;
        if takes {
            let end = range.end.min(content.len());
            content[range.start.min(end)..end].fill(0);
        }
        let taken = if takes { range.clone() } else { 0..0 };
        let sets_length = content.len() > old;
        self.facts.content_done(id, content, Effect::Cut { range: taken, sets_length });
        self.owes(mount, program, &Deed::Content(file), Some(id));
        self.facts.tell(|| format!("allocate {id} {mode:#x} {range:?}"));
    }
}
