//! A directory that nobody changed since its last sync is answered at once; any
//! change through the engine ends that, even if the clock stands still and the
//! directory's time of change with it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use fs_core::engine::{Engine, EngineConfig, NodeId, Tree};
use fs_core::platform::sim::{DurabilityModel, SimBacking, SimOptions};
use fs_core::platform::{OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, type_bits};

type SimTree = Arc<Tree<SimBacking>>;

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const FILE: NewMode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
const DIRECTORY: NewMode = NewMode { mode: 0o755, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };

/// The directory under test is the root's "d"; these are what changes it.
type Change = fn(&SimTree, NodeId);

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn rename(tree: &SimTree, from: (NodeId, &str), to: (NodeId, &str), exchange: bool) {
    let mode = RenameMode { exchange, ..RenameMode::default() };
    tree.rename((from.0, name(from.1)), (to.0, name(to.1)), mode).unwrap();
}

const CHANGES: [(&str, Change); 16] = [
    ("create", |tree, dir| {
        tree.create(ME, dir, name("new"), FILE, READ_WRITE, true).unwrap();
    }),
    ("mknod", |tree, dir| {
        tree.make_node(ME, dir, name("new"), FILE, (0, 0)).unwrap();
    }),
    ("mkdir", |tree, dir| {
        tree.make_dir(ME, dir, name("new"), DIRECTORY).unwrap();
    }),
    ("symlink", |tree, dir| {
        tree.make_symlink(ME, dir, name("new"), name("x")).unwrap();
    }),
    ("link", |tree, dir| {
        let file = tree.lookup(dir, name("file")).unwrap().id;
        tree.link(file, dir, name("new")).unwrap();
    }),
    ("unlink", |tree, dir| tree.unlink(dir, name("file")).unwrap()),
    ("rmdir", |tree, dir| tree.remove_dir(dir, name("sub")).unwrap()),
    ("a name moves in", |tree, dir| rename(tree, (NodeId::ROOT, "file"), (dir, "new"), false)),
    ("a name moves out", |tree, dir| rename(tree, (dir, "file"), (NodeId::ROOT, "new"), false)),
    ("a name moves within", |tree, dir| rename(tree, (dir, "file"), (dir, "new"), false)),
    ("a name is replaced", |tree, dir| rename(tree, (NodeId::ROOT, "file"), (dir, "file"), false)),
    ("names are exchanged", |tree, dir| rename(tree, (NodeId::ROOT, "file"), (dir, "file"), true)),
    ("it moves itself", |tree, _| rename(tree, (NodeId::ROOT, "d"), (NodeId::ROOT, "e"), false)),
    ("it is exchanged itself", |tree, _| {
        rename(tree, (NodeId::ROOT, "file"), (NodeId::ROOT, "d"), true);
    }),
    ("chmod", |tree, dir| {
        let change = SetAttr { perm: Some(0o700), ..SetAttr::default() };
        tree.set_attr(ME, dir, None, &change).unwrap();
    }),
    ("setxattr", |tree, dir| tree.set_xattr(ME, dir, name("user.x"), b"1", 0).unwrap()),
];

/// Syncs the directory and says whether that was answered without I/O.
fn is_skipped(tree: &SimTree, node: NodeId) -> bool {
    let skipped = || tree.engine().status().lanes.skipped;
    let before = skipped();
    let dir = tree.open_dir(node).unwrap();
    let (sender, answer) = channel();
    tree.sync_dir(ME, dir, Box::new(move |result| sender.send(result).unwrap()));
    assert_eq!(answer.try_recv(), Ok(Ok(())), "one thread: answered before the call returns");
    tree.release_dir(dir);
    skipped() > before
}

#[test]
fn every_change_ends_the_skipping() {
    for (what, change) in CHANGES {
        let mut options = SimOptions::new(DurabilityModel::Ext4Ordered, 1);
        options.changes_per_tick = u64::MAX;
        let backing = SimBacking::new(options);
        let engine = Engine::new(&backing, EngineConfig::default());
        let tree = engine.add_tree(backing).unwrap();
        let dir = tree.make_dir(ME, NodeId::ROOT, name("d"), DIRECTORY).unwrap().id;
        tree.make_dir(ME, dir, name("sub"), DIRECTORY).unwrap();
        for parent in [NodeId::ROOT, dir] {
            tree.make_node(ME, parent, name("file"), FILE, (0, 0)).unwrap();
        }
        assert!(!is_skipped(&tree, dir), "{what}: nobody synced it yet");
        assert!(is_skipped(&tree, dir), "{what}: nothing has changed");
        change(&tree, dir);
        assert!(!is_skipped(&tree, dir), "{what} is a change");
        assert!(is_skipped(&tree, dir), "{what}: nothing has changed since");
    }
}
