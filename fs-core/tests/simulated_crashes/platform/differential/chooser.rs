//! Which operation comes next: on names and objects that are known to be there,
//! mostly, and on some that are not.

use fs_core::engine::{FileId, NodeId};
use fs_core::platform::sim::{Random, SimBacking};
use fs_core::platform::{Backing, OpenMode, RenameMode, Seek};
use fs_core::types::{Attr, Caller, FileKind, NewMode, SetAttr, SetTime, Time, type_bits};

use super::{Machine, Outcome, Side, name};

/// An operation with everything it needs; ids are the same in both engines.
#[derive(Debug, Clone)]
pub enum Op {
    Lookup(NodeId, String),
    MakeDir(Caller, NodeId, String, NewMode),
    MakeNode(Caller, NodeId, String, NewMode),
    MakeSymlink(Caller, NodeId, String, String),
    Link(NodeId, NodeId, String),
    Unlink(NodeId, String),
    RemoveDir(NodeId, String),
    Rename((NodeId, String), (NodeId, String), RenameMode),
    SetAttr(Caller, NodeId, Option<FileId>, SetAttr),
    ReadLink(NodeId),
    Xattr(NodeId, String),
    SetXattr(Caller, NodeId, String, Vec<u8>, u32),
    RemoveXattr(NodeId, String),
    Create(Caller, NodeId, String, NewMode, OpenMode, bool),
    Open(Caller, NodeId, OpenMode),
    Release(FileId),
    Read(Caller, FileId, usize, u64),
    Write(Caller, FileId, Vec<u8>, u64, bool),
    Allocate(Caller, FileId, u32, u64, u64),
    Seek(Caller, FileId, u64, Seek),
    CopyRange(Caller, (FileId, u64), (FileId, u64), u64),
    ReadDir(NodeId),
}

/// Chooses operations on what is known so far.
pub struct Chooser {
    pub random: Random,
    pub machine: Machine,
    pub nodes: Vec<NodeId>,
    pub dirs: Vec<NodeId>,
    pub files: Vec<FileId>,
    /// Look for holes, and reserve no blocks: those look like data or like
    /// holes, as each filesystem likes.
    pub seeks: bool,
}

impl Chooser {
    fn caller(&mut self) -> Caller {
        if self.machine.root && self.random.one_in(3) {
            return Caller { uid: 1000, gid: 1000, thread: 2 };
        }
        self.machine.me
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.index(from.len())]
    }

    fn dir(&mut self) -> NodeId {
        // Now and then something that may not be a directory.
        let from = if self.random.one_in(20) { self.nodes.clone() } else { self.dirs.clone() };
        self.pick(&from)
    }

    fn node(&mut self) -> NodeId {
        let nodes = self.nodes.clone();
        self.pick(&nodes)
    }

    fn name(&mut self) -> String {
        match self.random.below(40) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            word => String::from(self.pick(&["a", "b", "c", "d", "e"][..(word % 5) as usize + 1])),
        }
    }

    fn mode(&mut self) -> NewMode {
        let mode = self.pick(&[0o644, 0o600, 0o755, 0o2755, 0o4755, 0o6777, 0o2644]);
        NewMode { mode, umask: self.pick(&[0, 0o022]) }
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(4) * 4096,
            _ => self.random.below(16_000),
        }
    }

    /// The next operation.
    pub fn op(&mut self) -> Op {
        let caller = self.caller();
        match self.random.below(100) {
            0..6 => Op::Lookup(self.dir(), self.name()),
            6..14 => Op::MakeDir(caller, self.dir(), self.name(), self.mode()),
            14..17 => self.make_node(caller),
            17..20 => {
                let long = "t".repeat(4096);
                let target = self.pick(&["x", "", "../x", &long[..4095], &long]).to_owned();
                Op::MakeSymlink(caller, self.dir(), self.name(), target)
            }
            20..26 => Op::Link(self.node(), self.dir(), self.name()),
            26..32 => Op::Unlink(self.dir(), self.name()),
            32..37 => Op::RemoveDir(self.dir(), self.name()),
            37..50 => {
                let mode = self.rename_mode();
                Op::Rename((self.dir(), self.name()), (self.dir(), self.name()), mode)
            }
            50..56 => self.set_attr(caller),
            56..58 => Op::ReadLink(self.node()),
            58..63 if self.machine.xattrs => self.xattr(caller),
            58..61 => Op::ReadDir(self.dir()),
            61..70 => {
                let mode = self.open_mode();
                let exclusive = self.random.one_in(3);
                Op::Create(caller, self.dir(), self.name(), self.mode(), mode, exclusive)
            }
            70..73 => Op::Open(caller, self.node(), self.open_mode()),
            _ if self.files.is_empty() => Op::ReadDir(self.dir()),
            _ => self.op_on_file(caller),
        }
    }

    fn op_on_file(&mut self, caller: Caller) -> Op {
        let files = self.files.clone();
        let (file, offset) = (self.pick(&files), self.offset());
        match self.random.below(20) {
            0..2 => Op::Release(file),
            2..6 => Op::Read(caller, file, self.random.index(9000), offset),
            6..14 => {
                let data = vec![self.random.below(255) as u8 + 1; self.random.index(6000)];
                Op::Write(caller, file, data, offset, self.random.one_in(4))
            }
            14..16 => {
                let modes = [3, 2, 0x4000, 0, 1, 0x10, 0x11];
                let mode = self.pick(&modes[..if self.seeks { 3 } else { 7 }]);
                Op::Allocate(caller, file, mode, offset, self.random.below(9000))
            }
            16..18 if self.seeks => {
                let what = if self.random.one_in(2) { Seek::Data } else { Seek::Hole };
                Op::Seek(caller, file, offset, what)
            }
            _ => {
                let (other, at) = (self.pick(&files), self.offset());
                Op::CopyRange(caller, (file, offset), (other, at), self.random.below(5000))
            }
        }
    }

    fn make_node(&mut self, caller: Caller) -> Op {
        let kinds = [
            0,
            type_bits::S_IFREG,
            type_bits::S_IFSOCK,
            type_bits::S_IFDIR,
            type_bits::S_IFLNK,
            0o030_000,
        ];
        let kind = self.pick(if self.machine.root { &kinds } else { &kinds[..3] });
        let mode = self.mode();
        let mode = NewMode { mode: mode.mode | kind, ..mode };
        Op::MakeNode(caller, self.dir(), self.name(), mode)
    }

    fn rename_mode(&mut self) -> RenameMode {
        let mut mode = RenameMode::default();
        match self.random.below(10) {
            0 => mode.no_replace = true,
            1..3 => mode.exchange = true,
            3 => mode.whiteout = self.machine.root,
            4 => (mode.exchange, mode.no_replace) = (true, self.random.one_in(2)),
            _ => {}
        }
        mode
    }

    fn open_mode(&mut self) -> OpenMode {
        let (read, write) = self.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        OpenMode { read, write, truncate: write && self.random.one_in(4), no_atime: false }
    }

    fn set_attr(&mut self, caller: Caller) -> Op {
        let mut change = SetAttr::default();
        let mut file = None;
        match self.random.below(6) {
            0..2 => change.perm = Some(self.mode().mode),
            2 if self.machine.root => {
                change.uid = Some(self.random.below(2) as u32 * 1000);
                change.gid = self.random.one_in(2).then_some(1000);
            }
            3 => {
                let time = Time { secs: self.random.below(1 << 30) as i64, nanos: 5 };
                change.mtime = Some(SetTime::At(time));
                change.atime = self.random.one_in(2).then_some(SetTime::Now);
            }
            _ => {
                change.size = Some(self.offset());
                file = self.random.one_in(2).then(|| self.files.first().copied()).flatten();
            }
        }
        Op::SetAttr(caller, self.node(), file, change)
    }

    fn xattr(&mut self, caller: Caller) -> Op {
        let names = ["user.one", "user.two", "trusted.three", "nonsense", "user."];
        let text = self.pick(if self.machine.root { &names } else { &names[..2] }).to_owned();
        match self.random.below(5) {
            0 => Op::Xattr(self.node(), text),
            1 => Op::RemoveXattr(self.node(), text),
            _ => {
                let value = vec![7; self.random.index(50)];
                Op::SetXattr(caller, self.node(), text, value, self.random.below(5) as u32)
            }
        }
    }

    /// Whether the operation would open what only a real filesystem can open.
    pub fn opens_special(&self, sim: &Side<SimBacking>, op: &Op) -> bool {
        let special = |attr: Attr| {
            !matches!(attr.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink)
        };
        let is_dir = |attr: Attr| attr.kind == FileKind::Directory;
        let attr = |node: &NodeId| sim.tree.attr(*node);
        match op {
            Op::Open(_, node, mode) => {
                attr(node).is_ok_and(|attr| special(attr) || is_dir(attr) && !mode.write)
            }
            Op::SetAttr(_, node, _, change) => {
                change.size.is_some() && attr(node).is_ok_and(special)
            }
            Op::Create(_, dir, text, _, mode, _) => {
                // Not by the tree: it would give the object a number.
                let found = sim.tree.with_object(*dir, |backing, dir| {
                    backing.lookup(dir, name(text)).map(|found| found.attr)
                });
                found
                    .and_then(|found| found)
                    .is_ok_and(|attr| special(attr) || is_dir(attr) && !mode.write)
            }
            _ => false,
        }
    }

    /// Takes in what an operation made known.
    pub fn learn(&mut self, op: &Op, outcome: &Outcome, sim: &Side<SimBacking>) {
        if let Op::Release(file) = op {
            self.files.retain(|known| known != file);
        }
        self.files.extend(outcome.file);
        let Some(node) = outcome.node.filter(|node| !self.nodes.contains(node)) else { return };
        self.nodes.push(node);
        if sim.tree.attr(node).is_ok_and(|attr| attr.kind == FileKind::Directory) {
            self.dirs.push(node);
        }
    }
}
