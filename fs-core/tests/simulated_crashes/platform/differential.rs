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
use fs_core::platform::{Backing, OpenMode};
use fs_core::types::{Attr, Caller, FileKind, NewMode, SetAttr, Time, type_bits};

mod chooser;

use chooser::{Chooser, Op};

const SEEDS: u64 = 30;
const STEPS: usize = 400;

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
        seeks: seed.is_multiple_of(2),
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
    let mode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
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
