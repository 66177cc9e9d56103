//! The simulated filesystem does what the filesystem of this machine does: the
//! same operations through two engines, one on each, give the same results, the
//! same errors, the same contents, and change the times of the same objects.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{Debug, Write};
use std::path::Path;
use std::sync::Arc;

use fs_core::engine::{Engine, EngineConfig, Entry, FileId, NodeId, Tree};
use fs_core::error::{Errno, Result};
use fs_core::platform::linux::{BackingOptions, LinuxBacking, running_as_root};
use fs_core::platform::sim::{DurabilityModel, Random, SimBacking, SimOptions};
use fs_core::platform::{Backing, OpenMode, RenameMode, Seek};
use fs_core::types::{Attr, Caller, FileKind, NewMode, SetAttr, SetTime, Time};

const SEEDS: u64 = 40;
const STEPS: usize = 400;

/// An operation with everything it needs; ids are the same in both engines.
#[derive(Debug, Clone)]
enum Op {
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

/// What an operation gave: text to compare, and what it made known.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    text: String,
    node: Option<NodeId>,
    file: Option<FileId>,
}

fn show(attr: &Attr) -> String {
    let Attr { kind, perm, nlink, uid, gid, .. } = attr;
    // The length of a directory is each filesystem's own business.
    let size = if *kind == FileKind::Directory { 0 } else { attr.size };
    let rdev = (attr.rdev_major, attr.rdev_minor);
    format!("{kind:?} {perm:o} links {nlink} owner {uid}:{gid} size {size} device {rdev:?}")
}

fn plain<T: Debug>(result: &Result<T>) -> Outcome {
    Outcome { text: format!("{result:?}"), ..Outcome::default() }
}

fn entry(result: &Result<Entry>) -> Outcome {
    let text = match result {
        Ok(entry) => show(&entry.attr),
        Err(error) => format!("{error:?}"),
    };
    Outcome { text, node: result.as_ref().ok().map(|entry| entry.id), file: None }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// One engine on one backing.
struct Side<B: Backing> {
    tree: Arc<Tree<B>>,
    times: BTreeMap<NodeId, (Time, Time)>,
}

impl<B: Backing> Side<B> {
    fn new(backing: B) -> Self {
        let engine = Engine::new(&backing, EngineConfig::default());
        let tree = engine.add_tree(backing).expect("its own directory can be added");
        Self { tree, times: BTreeMap::new() }
    }

    fn run(&self, op: &Op) -> Outcome {
        let tree = &self.tree;
        match op {
            Op::Lookup(dir, text) => entry(&tree.lookup(*dir, name(text))),
            Op::MakeDir(caller, dir, text, mode) => {
                entry(&tree.make_dir(*caller, *dir, name(text), *mode))
            }
            Op::MakeNode(caller, dir, text, mode) => {
                entry(&tree.make_node(*caller, *dir, name(text), *mode, (3, 7)))
            }
            Op::MakeSymlink(caller, dir, text, target) => {
                entry(&tree.make_symlink(*caller, *dir, name(text), name(target)))
            }
            Op::Link(node, dir, text) => entry(&tree.link(*node, *dir, name(text))),
            Op::Unlink(dir, text) => plain(&tree.unlink(*dir, name(text))),
            Op::RemoveDir(dir, text) => plain(&tree.remove_dir(*dir, name(text))),
            Op::Rename(from, to, mode) => {
                plain(&tree.rename((from.0, name(&from.1)), (to.0, name(&to.1)), *mode))
            }
            Op::SetAttr(caller, node, file, change) => {
                let result = tree.set_attr(*caller, *node, *file, change);
                plain(&result.map(|attr| show(&attr)))
            }
            Op::ReadLink(node) => plain(&tree.read_link(*node)),
            Op::Xattr(node, text) => plain(&tree.xattr(*node, name(text))),
            Op::SetXattr(caller, node, text, value, flags) => {
                plain(&tree.set_xattr(*caller, *node, name(text), value, *flags))
            }
            Op::RemoveXattr(node, text) => plain(&tree.remove_xattr(*node, name(text))),
            other => self.run_on_file(other),
        }
    }

    fn run_on_file(&self, op: &Op) -> Outcome {
        let tree = &self.tree;
        match op {
            Op::Create(caller, dir, text, new, mode, exclusive) => {
                let result = tree.create(*caller, *dir, name(text), *new, *mode, *exclusive);
                let file = result.as_ref().ok().map(|made| made.1);
                Outcome { file, ..entry(&result.map(|made| made.0)) }
            }
            Op::Open(caller, node, mode) => {
                let result = tree.open(*caller, *node, *mode, false);
                Outcome { file: result.ok(), ..plain(&result) }
            }
            Op::Release(file) => {
                tree.release(*file);
                Outcome::default()
            }
            Op::Read(caller, file, bytes, offset) => {
                let mut buffer = vec![0; *bytes];
                let result = tree.read(*caller, *file, &mut buffer, *offset);
                plain(&result.map(|bytes| buffer[..bytes].to_vec()))
            }
            Op::Write(caller, file, data, offset, keep) => {
                plain(&tree.write(*caller, *file, data, *offset, *keep))
            }
            Op::Allocate(caller, file, mode, offset, bytes) => {
                plain(&tree.allocate(*caller, *file, *mode, *offset, *bytes))
            }
            Op::Seek(caller, file, offset, what) => {
                plain(&tree.seek(*caller, *file, *offset, *what))
            }
            Op::CopyRange(caller, from, to, bytes) => {
                plain(&tree.copy_range(*caller, *from, *to, *bytes))
            }
            Op::ReadDir(node) => plain(&self.list(*node)),
            _ => unreachable!("the operations on names are run above"),
        }
    }

    /// All names of a directory with their kinds, sorted.
    fn list(&self, node: NodeId) -> Result<Vec<(String, Option<FileKind>)>> {
        let dir = self.tree.open_dir(node)?;
        let mut names = Vec::new();
        let result = self.tree.read_dir(dir, 0, &mut |entry| {
            names.push((entry.name.to_string_lossy().into_owned(), entry.kind));
            true
        });
        self.tree.release_dir(dir);
        names.sort_by(|one, other| one.0.cmp(&other.0));
        result.map(|()| names)
    }

    /// Which of the known objects have changed, by their times, since last asked.
    fn changed(&mut self, nodes: &[NodeId]) -> String {
        let mut text = String::new();
        for &node in nodes {
            let Ok(attr) = self.tree.attr(node) else { continue };
            let new = (attr.mtime, attr.ctime);
            let old = self.times.insert(node, new).unwrap_or(new);
            if old != new {
                let content = if old.0 == new.0 { "inode" } else { "content" };
                write!(text, " {}:{content}", node.0).expect("a string takes everything");
            }
        }
        text
    }

    /// All objects below a directory, with attributes and contents.
    fn dump(&self, me: Caller, dir: NodeId, path: &str, lines: &mut Vec<String>) {
        for (text, _) in self.list(dir).expect("a directory can be listed") {
            if text == "." || text == ".." {
                continue;
            }
            let found = self.tree.lookup(dir, name(&text)).expect("a listed name is there");
            let path = format!("{path}/{text}");
            let mut line = format!("{path} node {} {}", found.id.0, show(&found.attr));
            let xattrs = self.tree.xattr_names(me, found.id).map(|names| {
                let mut names: Vec<Vec<u8>> =
                    names.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
                names.sort();
                names
            });
            write!(line, " {xattrs:?}").expect("a string takes everything");
            if found.attr.kind == FileKind::Regular {
                let mode = OpenMode { read: true, write: false, truncate: false, no_atime: false };
                let file = self.tree.open(me, found.id, mode, false).expect("a file opens");
                let mut content = vec![0; found.attr.size as usize];
                self.tree.read(me, file, &mut content, 0).expect("a file can be read");
                write!(line, " {content:?}").expect("a string takes everything");
                self.tree.release(file);
            }
            lines.push(line);
            if found.attr.kind == FileKind::Directory {
                self.dump(me, found.id, &path, lines);
            }
        }
    }
}

/// What this machine's filesystem is able to.
#[derive(Debug, Clone, Copy)]
struct Machine {
    me: Caller,
    root: bool,
    xattrs: bool,
    /// Any two changes have different times.
    fine_clock: bool,
}

impl Machine {
    fn probe(place: &Path) -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let me = Caller { uid: uid.as_raw(), gid: gid.as_raw(), thread: 1 };
        let side = Side::new(open(place));
        let mode = NewMode { mode: 0o755, umask: 0 };
        let dir = side.tree.make_dir(me, NodeId::ROOT, name("probe"), mode).unwrap().id;
        let xattrs = side.tree.set_xattr(me, dir, name("user.probe"), b"", 0).is_ok();
        let change = SetAttr { perm: Some(0o700), ..SetAttr::default() };
        let times: Vec<Time> =
            (0..100).map(|_| side.tree.set_attr(me, dir, None, &change).unwrap().ctime).collect();
        let fine_clock = times.windows(2).all(|pair| pair[0] != pair[1]);
        side.tree.remove_dir(NodeId::ROOT, name("probe")).unwrap();
        Self { me, root: running_as_root(), xattrs, fine_clock }
    }
}

fn open(place: &Path) -> LinuxBacking {
    LinuxBacking::open(place, BackingOptions::default()).expect("a plain directory can be opened")
}

/// Chooses operations on what is known so far.
struct Chooser {
    random: Random,
    machine: Machine,
    nodes: Vec<NodeId>,
    dirs: Vec<NodeId>,
    files: Vec<FileId>,
    /// Look for holes, and reserve no blocks: those look like data or like
    /// holes, as each filesystem likes.
    seeks: bool,
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

    fn op(&mut self) -> Op {
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
        let kinds = [0, libc::S_IFREG, libc::S_IFSOCK, libc::S_IFDIR, libc::S_IFLNK, 0o030_000];
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
    fn opens_special(&self, sim: &Side<SimBacking>, op: &Op) -> bool {
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

    fn learn(&mut self, op: &Op, outcome: &Outcome, sim: &Side<SimBacking>) {
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

fn compare(seed: u64) {
    let place = tempfile::tempdir().expect("scratch directory");
    let machine = Machine::probe(place.path());
    let mut real = Side::new(open(place.path()));
    let mut sim = Side::new(SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, seed)));
    let me = machine.me;
    // Scratch directories are nobody else's: mode 0700.
    let same =
        SetAttr { perm: Some(0o755), uid: Some(me.uid), gid: Some(me.gid), ..SetAttr::default() };
    for result in [
        real.tree.set_attr(me, NodeId::ROOT, None, &same),
        sim.tree.set_attr(me, NodeId::ROOT, None, &same),
    ] {
        result.expect("the root's attributes can be set");
    }
    let root = vec![NodeId::ROOT];
    let random = Random::new(seed);
    let mut chooser = Chooser {
        random,
        machine,
        nodes: root.clone(),
        dirs: root,
        files: Vec::new(),
        seeks: seed % 2 == 0,
    };
    let mut history = Vec::new();
    for step in 0..STEPS {
        let op = chooser.op();
        if chooser.opens_special(&sim, &op) {
            continue;
        }
        let outcomes = (real.run(&op), sim.run(&op));
        let mut line = format!("{op:?}");
        line.truncate(line.floor_char_boundary(300));
        history.push(format!("{step}: {line} -> {:.200}", outcomes.0.text));
        let told = || history[history.len().saturating_sub(8)..].join("\n");
        assert_eq!(outcomes.0, outcomes.1, "seed {seed} step {step}\n{}", told());
        let changed = (real.changed(&chooser.nodes), sim.changed(&chooser.nodes));
        // ext4 stamps the source's directory before it gives such a rename up.
        let whiteout = matches!(&op, Op::Rename(_, _, mode) if mode.whiteout);
        if machine.fine_clock && !(whiteout && outcomes.0.text != "Ok(())") {
            assert_eq!(changed.0, changed.1, "seed {seed} step {step}: times\n{}", told());
        }
        chooser.learn(&op, &outcomes.1, &sim);
    }
    let (mut real_lines, mut sim_lines) = (Vec::new(), Vec::new());
    real.dump(me, NodeId::ROOT, "", &mut real_lines);
    sim.dump(me, NodeId::ROOT, "", &mut sim_lines);
    assert_eq!(real_lines, sim_lines, "seed {seed}");
}

#[test]
fn the_same_operations_give_the_same_results() {
    (0..SEEDS).for_each(compare);
}

/// A name that is not there any more keeps nothing else from being read.
#[test]
fn reading_goes_on_while_entries_come_and_go() {
    let backing = SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, 1));
    let side = Side::new(backing);
    let me = Caller { uid: 0, gid: 0, thread: 1 };
    let mode = NewMode { mode: 0o644 | libc::S_IFREG, umask: 0 };
    for index in 0..1000 {
        side.tree.make_node(me, NodeId::ROOT, name(&index.to_string()), mode, (0, 0)).unwrap();
    }
    let dir = side.tree.open_dir(NodeId::ROOT).unwrap();
    let mut names = std::collections::HashSet::new();
    let mut offset = 0;
    loop {
        let (mut taken, from) = (Vec::new(), offset);
        side.tree
            .read_dir(dir, from, &mut |entry| {
                if taken.len() == 7 {
                    return false;
                }
                offset = entry.next_offset;
                taken.push(entry.name);
                true
            })
            .unwrap();
        if taken.is_empty() {
            break;
        }
        // What was read is removed, and something else comes.
        for text in taken.iter().filter(|text| *text != "." && *text != "..") {
            assert!(names.insert(text.clone()), "{text:?} came twice");
            side.tree.unlink(NodeId::ROOT, text).unwrap();
        }
        let missing = side.tree.unlink(NodeId::ROOT, &taken[0]);
        assert!(missing == Err(Errno::NOENT) || missing == Err(Errno::INVAL), "{missing:?}");
    }
    assert_eq!(names.len(), 1000);
}
