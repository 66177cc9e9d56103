//! The recorder on the simulated filesystem: what passes the engine is noted, in order, with who did
//! it; the recording needs no disk, no FUSE and no real filesystem.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use fs_core::crash::law::Subject;
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::{Actor, Operation, Trace};
use fs_core::crash::words::Names;
use fs_core::engine::{Engine, EngineConfig, NodeId, Tree};
use fs_core::platform::record::{RecordPlan, Recorder, Witness, WriteCall, acting};
use fs_core::platform::sim::{DurabilityModel, SimBacking, SimOptions};
use fs_core::platform::{Backing, OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind};

type Recorded = Arc<Tree<Recorder<SimBacking>>>;

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const FILE: NewMode = NewMode { mode: 0o644, umask: 0 };

/// Every thread is a process of its own number; all write 10,000 bytes at a time.
struct Numbers;

impl Witness for Numbers {
    fn actor(&self, thread: u32) -> Actor {
        Actor { process: thread, thread, comm: format!("p{thread}") }
    }

    fn write_call(&self, thread: u32) -> Option<WriteCall> {
        Some(WriteCall { call: [1, 3, u64::from(thread)], bytes: 10_000 })
    }
}

fn caller(thread: u32) -> Caller {
    Caller { uid: 0, gid: 0, thread }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn recorded() -> Recorded {
    let simulated = SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, 1));
    let root = simulated.root().expect("a root").object;
    let new = NewMode { mode: 0o755, umask: 0 };
    let tree = simulated.make_dir(caller(1), &root, name("tree"), new).expect("mkdir").object;
    let mode = READ_WRITE;
    let (_, file, _) =
        simulated.create(caller(1), &tree, name("there"), FILE, mode, true).expect("create");
    simulated.write(caller(1), &file, b"before", 4090, true).expect("write");
    let plan = RecordPlan::of("tree");
    let recorder = Arc::new(Recorder::new(simulated, plan, Box::new(Numbers)).expect("readable"));
    let engine = Engine::new(&*recorder, EngineConfig::default());
    engine.add_tree(recorder).expect("its own directory")
}

fn calls(trace: &Trace) -> Vec<String> {
    let names = Names::new(trace);
    let number = |number: usize| {
        let actor = trace.actor(number).map_or(0, |actor| actor.process);
        format!("{actor} {}", names.call(trace, number))
    };
    (0..trace.operations.len()).map(number).collect()
}

#[test]
fn operations_are_noted_in_order_with_who_did_them() {
    let tree = recorded();
    let dir = tree.lookup(NodeId::ROOT, name("tree")).expect("there").id;
    let (entry, file) =
        tree.create(caller(7), dir, name("a"), FILE, READ_WRITE, true).expect("create");
    // One call of 10,000 bytes, which the kernel has split.
    tree.write(caller(7), file, &[b'x'; 4096], 0, true).expect("write");
    tree.write(caller(7), file, &[b'y'; 5904], 4096, true).expect("write");
    // Another call, though it goes on where the first ended.
    tree.write(caller(7), file, &[b'z'; 10_000], 10_000, true).expect("write");
    // Another thread's, though it is the same file.
    tree.write(caller(8), file, &[b'q'; 5], 20_000, true).expect("write");
    let cut = SetAttr { size: Some(9000), perm: Some(0o600), ..SetAttr::default() };
    tree.set_attr(caller(9), entry.id, Some(file), &cut).expect("truncate");
    let (sender, synced) = channel();
    let done = Box::new(move |result| sender.send(result).expect("awaited"));
    tree.sync_file(caller(7), file, SyncKind::Data, done);
    synced.recv().expect("answered").expect("synced");
    tree.release(file);
    acting(caller(5), || {
        let (from, to) = ((dir, name("a")), (dir, name("there")));
        tree.rename(from, to, RenameMode::default()).expect("rename");
        tree.unlink(dir, name("there")).expect("unlink");
    });
    // What is beside the recorded directory is served and not recorded.
    tree.create(caller(7), NodeId::ROOT, name("beside"), FILE, READ_WRITE, true).expect("create");
    let trace = tree.backing().trace();
    assert_eq!(
        calls(&trace),
        [
            "7 create(a)",
            "7 write(a, 10000 bytes at 0)",
            "7 write(a, 10000 bytes at 10000)",
            "8 write(a, 5 bytes at 20000)",
            "9 truncate(a, 9000)",
            "9 setattr(a, mode 600)",
            "7 fdatasync(a)",
            "7 close(a)",
            "5 rename(a -> there)",
            "5 unlink(there)",
        ]
    );
    let Operation::Rename { replaced, .. } = trace.operations[8].operation else {
        panic!("a rename");
    };
    assert!(replaced.is_some(), "it replaced a file");
}

// The tree before, holes included, and the tree after.
#[test]
fn a_recording_replays_to_what_is_there() {
    let tree = recorded();
    let dir = tree.lookup(NodeId::ROOT, name("tree")).expect("there").id;
    let there = tree.lookup(dir, name("there")).expect("there").id;
    let file = tree.open(caller(7), there, READ_WRITE, false).expect("open");
    tree.write(caller(7), file, b"after", 10, true).expect("write");
    let trace = tree.backing().trace();
    let mut blocks = Blocks::default();
    let subject = Subject::new(&trace, &mut blocks);
    for (state, start) in
        [(subject.initial().clone(), [0; 5]), (subject.last(&mut blocks), *b"after")]
    {
        let mut found = Vec::new();
        state.visit(&mut |path, _, node| {
            if path.len() == 1 {
                let mut content = vec![0; node.bytes as usize];
                for (offset, bytes) in node.content(&blocks) {
                    content[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                found.push(content);
            }
        });
        let [content] = &found[..] else { panic!("one file") };
        assert_eq!(content.len(), 4096);
        assert_eq!((&content[4090..], &content[10..15]), (&b"before"[..], &start[..]));
    }
}

// Modes of fallocate that move bytes, and whiteouts, are refused: programs fall back.
#[test]
fn what_cannot_be_recorded_is_refused() {
    let tree = recorded();
    let dir = tree.lookup(NodeId::ROOT, name("tree")).expect("there").id;
    let there = tree.lookup(dir, name("there")).expect("there").id;
    let file = tree.open(caller(7), there, READ_WRITE, false).expect("open");
    for mode in [0x08, 0x20, 0x40] {
        assert!(tree.allocate(caller(7), file, mode, 0, 4096).is_err(), "mode {mode:#x}");
    }
    let mode = RenameMode { whiteout: true, ..RenameMode::default() };
    assert!(tree.rename((dir, name("there")), (dir, name("x")), mode).is_err());
    tree.release(file);
    // Nothing was changed, so that its close means nothing.
    assert_eq!(calls(&tree.backing().trace()), [""; 0]);
}
