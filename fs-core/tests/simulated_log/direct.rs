//! Single cases, by hand: damage to a log, and bugs that the campaign has found. Each
//! of those was a loss in a few thousand crashes; here is the shortest way to it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs_core::engine::{Engine, FileId, NameChange, NodeId, Tree};
use fs_core::error::{Errno, Result};
use fs_core::log::format::{LogError, read_superblock, scan};
use fs_core::log::recovery::recover;
use fs_core::log::{HOME_NAME, LogConfig, OpenLogError};
use fs_core::platform::sim::{DurabilityModel, FencePoint, SimBacking, SimLog, SimOptions};
use fs_core::platform::{Backing, LOG_BLOCK_BYTES, LogBuffer, LogStore, OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind, type_bits};

use crate::disk::{LogShape, new_disk, start};
use crate::shape::{NOBODY, Walk};

mod ahead;
mod damage;
mod delayed;
mod failing;
mod fixed;
mod parts;
mod whole;

const SHAPE: LogShape = LogShape { segments: 4, segment_bytes: 32 << 10, elsewhere: false };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const CUTTING: OpenMode = OpenMode { truncate: true, ..READ_WRITE };
const FILE: NewMode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
const DIRECTORY: NewMode = NewMode { mode: 0o755, umask: 0 };
const CRASHES: u64 = 300;

/// A disk, and an engine on it with one tree.
struct Lab {
    backing: SimBacking,
    engine: Arc<Engine<SimBacking>>,
    tree: Arc<Tree<SimBacking>>,
}

impl Lab {
    fn new() -> Self {
        Self::on(new_disk(SimOptions::new(DurabilityModel::Ext4Ordered, 7), SHAPE))
    }

    fn on(backing: SimBacking) -> Self {
        Self::with(backing, SHAPE)
    }

    fn with(backing: SimBacking, shape: LogShape) -> Self {
        // A truncation is an operation like others.
        Self::rewriting(backing, shape, 0)
    }

    /// With files that are rewritten all or nothing.
    fn rewriting(backing: SimBacking, shape: LogShape, rewrite_bytes_max: u64) -> Self {
        let config = LogConfig { bytes: shape.bytes(), background: false, ..LogConfig::default() };
        let config = LogConfig { rewrite_bytes_max, ..config };
        let config = LogConfig { inline_bytes_max: Some(1 << 20), probe: None, ..config };
        let (engine, _) = start(&backing, &config, shape, &mut |_| {}).expect("a log opens");
        let tree = engine.add_tree(backing.clone()).expect("a tree");
        Self { backing, engine, tree }
    }

    /// A lab whose file "a" held `old`, durably, and was just cut by a program that opened it to
    /// rewrite it.
    fn while_rewriting(old: &[u8]) -> (Self, NodeId, FileId) {
        let options = SimOptions::new(DurabilityModel::Ext4Ordered, 7);
        let lab = Self::rewriting(new_disk(options, SHAPE), SHAPE, 1 << 20);
        let (node, file) = lab.create("a");
        lab.write(file, 0, old);
        assert_eq!(lab.sync(file), Ok(()));
        lab.tree.release(file);
        let file = lab.tree.open(NOBODY, node, CUTTING, false).expect("it opens");
        (lab, node, file)
    }

    fn create(&self, text: &str) -> (NodeId, FileId) {
        let made = self.tree.create(NOBODY, NodeId::ROOT, name(text), FILE, READ_WRITE, true);
        let (entry, file) = made.expect("a file");
        (entry.id, file)
    }

    fn write(&self, file: FileId, offset: u64, data: &[u8]) {
        assert_eq!(self.tree.write(NOBODY, file, data, offset, true), Ok(data.len()));
    }

    fn cut(&self, node: NodeId, size: u64) {
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        self.tree.set_attr(NOBODY, node, None, &change).expect("any length is fine");
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) {
        let (from, to) = ((NodeId::ROOT, name(from)), (NodeId::ROOT, name(to)));
        self.tree.rename(from, to, mode).expect("a rename");
    }

    fn sync(&self, file: FileId) -> Result<()> {
        let (sender, answer) = channel();
        let done = Box::new(move |result| sender.send(result).expect("somebody listens"));
        self.tree.sync_file(NOBODY, file, SyncKind::Full, done);
        // At once, but for a large file, which a thread of its own writes first.
        answer.recv_timeout(Duration::from_secs(60)).expect("an answer")
    }

    /// What crashes leave, recovered; all of it must pass the look.
    fn all(&self, look: impl Fn(&SimBacking)) {
        for seed in 0..CRASHES {
            let crashed = self.backing.crash(seed);
            recover(&crashed, None, &mut |_| {}).expect("a recovery");
            look(&crashed);
        }
    }

    /// What crashes leave when their recovery is interrupted by another crash, anywhere,
    /// and begun again; all of it must pass the look.
    fn all_interrupted(&self, look: impl Fn(&SimBacking)) {
        for seed in 0..40 {
            let crashed = self.backing.crash(seed);
            let images = RefCell::new(Vec::new());
            recover(&crashed, None, &mut |_| {
                // Others each time: a seed always chooses alike.
                images.borrow_mut().extend((0..20).map(|n| crashed.crash(20 * seed + n)));
            })
            .expect("a recovery");
            for image in images.into_inner() {
                recover(&image, None, &mut |_| {}).expect("a second recovery");
                look(&image);
            }
        }
    }

    /// Syncs a file, and cuts the power when its group is in the log and not flushed: what "a" holds
    /// then, recovered, must pass the look. Of both outcomes there are some.
    fn all_while_flushing(&self, file: FileId, look: impl Fn(Vec<u8>) -> bool) {
        let (backing, images) = (self.backing.clone(), Arc::new(Mutex::new(Vec::new())));
        let taken = Arc::clone(&images);
        self.within(FencePoint::LogFlush, move || {
            let crashed = (0..CRASHES).map(|seed| backing.crash(seed));
            taken.lock().expect("one thread").extend(crashed);
        });
        assert_eq!(self.sync(file), Ok(()));
        self.backing.on_fence(None);
        let images = std::mem::take(&mut *images.lock().expect("one thread"));
        let mut kinds = HashSet::new();
        for disk in images {
            recover(&disk, None, &mut |_| {}).expect("a recovery");
            let found = content(&disk, "a").expect("it is there");
            kinds.insert(found.clone());
            let (bytes, last) = (found.len(), found.last().copied());
            assert!(look(found), "{bytes} bytes, the last is {last:?}");
        }
        assert_eq!(kinds.len(), 2, "only one outcome");
    }

    /// Runs something once within the next fence, at this point.
    fn within(&self, at: FencePoint, act: impl Fn() + Send + Sync + 'static) {
        self.within_nth(at, 1, act);
    }

    /// As [`Self::within`], when that point is met for the nth time.
    fn within_nth(&self, at: FencePoint, nth: u32, act: impl Fn() + Send + Sync + 'static) {
        let met = AtomicU32::new(0);
        self.backing.on_fence(Some(Arc::new(move |point| {
            if point == at && met.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                act();
            }
        })));
    }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// A file's content; `None` if there is no such name.
fn content(backing: &SimBacking, text: &str) -> Option<Vec<u8>> {
    let root = backing.root().expect("a root").object;
    let found = backing.lookup(&root, name(text)).ok()?;
    let file = backing.open(NOBODY, &found.object, READ_WRITE).expect("it opens");
    let mut content = vec![0; found.attr.size as usize];
    backing.read(&file, &mut content, 0).expect("it can be read");
    Some(content)
}

/// So many operations wait that a group is due: that is for somebody else to lead, too.
#[test]
fn an_overdue_group_is_led_elsewhere() {
    let lab = Lab::new();
    let (node, _) = lab.create("a");
    let (sender, duties) = channel();
    lab.engine.lead_elsewhere(Box::new(move |duty| sender.send(duty).expect("it listens")));
    for round in 0..40_u8 {
        lab.tree.set_xattr(NOBODY, node, name("user.a"), &[round; 60_000], 0).expect("a value");
    }
    let duty = duties.try_recv().expect("more than a group waits");
    assert!(!lab.engine.drain(Duration::ZERO), "nobody leads yet");
    duty.run(&mut || {});
    assert!(lab.engine.drain(Duration::ZERO));
    assert!(duties.try_recv().is_err(), "one leader at a time");
}

/// For front-ends whose threads must not wait for the disk: what waits is known before.
#[test]
fn what_would_wait_is_not_begun() {
    let lab = Lab::new();
    let (_, old) = lab.create("old");
    let (_, new) = lab.create("new");
    assert_eq!(lab.sync(old), Ok(()));
    lab.write(new, 0, b"unsynced");
    let mode = RenameMode::default();
    let (source, target) = ((NodeId::ROOT, name("new")), (NodeId::ROOT, name("old")));
    assert_eq!(lab.tree.rename_without_waiting(source, target, mode), Ok(false));
    assert!(lab.tree.lookup(NodeId::ROOT, name("new")).is_ok(), "nothing was done");
    assert_eq!(lab.sync(new), Ok(()));
    assert_eq!(lab.tree.rename_without_waiting(source, target, mode), Ok(true));
    assert_eq!(lab.tree.lookup(NodeId::ROOT, name("new")).err(), Some(Errno::NOENT));

    let (node, file) = lab.create("cut");
    lab.write(file, 0, b"first");
    assert!(!lab.tree.release_may_wait(file));
    assert_eq!(lab.sync(file), Ok(()));
    lab.cut(node, 0);
    assert!(lab.tree.release_may_wait(file), "cut to nothing: its content comes with the close");
}

/// What other trees do meanwhile is nothing that the sync of a directory waits for, in a tree that
/// is apart; what was done in its own tree is.
#[test]
fn a_tree_that_is_apart_waits_for_its_own_operations_only() {
    let lab = Lab::new();
    let new_mode = NewMode { mode: 0o755, umask: 0 };
    let trees = ["one", "two"].map(|text| {
        let made = lab.tree.make_dir(NOBODY, NodeId::ROOT, name(text), new_mode);
        made.expect("a directory");
        let root = lab.backing.root().expect("a root").object;
        let found = lab.backing.lookup(&root, name(text)).expect("it is there");
        let backing = lab.backing.subtree(&found.object).expect("a directory");
        lab.engine.add_tree(backing).expect("a tree")
    });
    let create = |tree: &Tree<SimBacking>, text| {
        tree.create(NOBODY, NodeId::ROOT, name(text), FILE, READ_WRITE, true).expect("a file")
    };
    let sync_dir = |tree: &Tree<SimBacking>| {
        let (sender, answer) = channel();
        let dir = tree.open_dir(NodeId::ROOT).expect("a directory");
        let done = Box::new(move |result| sender.send(result).expect("somebody listens"));
        tree.sync_dir(NOBODY, dir, done);
        assert_eq!(answer.try_recv().expect("one thread"), Ok(()));
        tree.release_dir(dir);
    };
    let groups = || lab.engine.status().lanes.groups;
    trees[0].set_apart();
    create(&trees[0], "a");
    sync_dir(&trees[0]);
    assert_eq!(groups(), 1, "its own operation");
    create(&trees[1], "b");
    sync_dir(&trees[0]);
    assert_eq!(groups(), 1, "another tree's");
    lab.all(|crashed| {
        let root = crashed.root().expect("a root").object;
        let one = crashed.lookup(&root, name("one")).expect("it was durable with its file");
        crashed.lookup(&one.object, name("a")).expect("it was synced");
    });
    sync_dir(&trees[1]);
    assert_eq!(groups(), 2, "a tree that is not apart covers everything");
    create(&trees[0], "c");
    sync_dir(&trees[1]);
    assert_eq!(groups(), 3);
    sync_dir(&trees[0]);
    assert_eq!(groups(), 3, "the group of the other tree took it along");
}
