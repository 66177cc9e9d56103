//! Programs that work on one tree, and power cuts in between.
//!
//! Six programs take turns as the seed says. A program whose sync is under way
//! is blocked; the others go on meanwhile, within the fence, so that their syncs
//! wait for the next group and their changes fall between the parts of this one.
//! One thread runs it all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};

use fs_core::engine::{Engine, EngineConfig, Entry, FileId, NodeId, Tree};
use fs_core::error::Result;
use fs_core::lane::LaneConfig;
use fs_core::lane::policy::PolicyConfig;
use fs_core::platform::sim::{Random, SimBacking, SimOptions};
use fs_core::platform::{Backing, OpenMode};
use fs_core::types::{Caller, NewMode, SyncKind};

use crate::facts::{Facts, Promise};
use crate::walk::{Key, Walk};

mod operations;

const PROGRAMS: usize = 6;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const DIRECTORY: NewMode = NewMode { mode: 0o755, umask: 0 };

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub options: SimOptions,
    /// Operations of all programs together.
    pub steps: usize,
    /// One sync in so many fails; 0 for none.
    pub fail_one_in: u64,
    /// A directory is exported by a second tree of the same engine.
    pub two_trees: bool,
}

/// What came out of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub crashes: u64,
    pub steps: usize,
    pub groups: u64,
    pub group_ops_max: u64,
    pub syncs_kept: u64,
    pub syncs_failed: u64,
    /// Syncs of directories that the engine answered without I/O.
    pub skipped: u64,
    /// What was lost first, where, and how.
    pub loss: Option<String>,
}

/// A sync that a program asks for, to be submitted without holding the world.
struct Sync {
    program: usize,
    promise: Promise,
    target: Target,
}

enum Target {
    File(Opened, SyncKind),
    Dir(usize, NodeId),
}

/// A file that is open.
#[derive(Clone, Copy)]
struct Opened {
    key: Key,
    mount: usize,
    file: FileId,
}

/// A mount: its tree, and what its kernel knows.
struct Mount {
    tree: Arc<Tree<SimBacking>>,
    root: Key,
    /// Objects that the kernel knows, and how many references it holds.
    nodes: BTreeMap<Key, (NodeId, u64)>,
}

struct World {
    backing: SimBacking,
    /// The whole filesystem, and perhaps a directory of it by itself.
    mounts: Vec<Mount>,
    random: Random,
    facts: Facts,
    opened: Vec<Opened>,
    /// The directory that was synced last: it is often synced again.
    synced: Option<Key>,
    blocked: [bool; PROGRAMS],
    /// The open files that blocked programs sync.
    syncing: [Option<FileId>; PROGRAMS],
    steps_left: usize,
    fail_one_in: u64,
    /// Next byte to write: never zero, so that a hole is told from data.
    byte: u8,
    /// Boots of this filesystem so far.
    life: u32,
    outcome: Outcome,
}

struct Run {
    world: Mutex<World>,
}

/// Runs the programs of this seed on a new filesystem, and then, for a second
/// life, on what a crash has left of it.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let options = SimOptions { seed: random.word(), ..plan.options.clone() };
    let backing = SimBacking::new(options);
    let first = live(plan, &backing, random.word(), 1);
    if first.loss.is_some() {
        return first;
    }
    let crashed = backing.crash(random.word());
    let shorter = Plan { steps: plan.steps / 3, ..plan.clone() };
    let second = live(&shorter, &crashed, random.word(), 2);
    let mut both = first;
    both.add(&second);
    both
}

impl Outcome {
    /// Takes in what came out of another run.
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.steps += other.steps;
        self.groups += other.groups;
        self.group_ops_max = self.group_ops_max.max(other.group_ops_max);
        self.syncs_kept += other.syncs_kept;
        self.syncs_failed += other.syncs_failed;
        self.skipped += other.skipped;
        self.loss = self.loss.take().or_else(|| other.loss.clone());
    }
}

/// One boot: an engine on a filesystem until its programs have done their steps.
fn live(plan: &Plan, backing: &SimBacking, seed: u64, life: u32) -> Outcome {
    // Nobody comes while one thread waits: never hold a group.
    let policy = PolicyConfig { hold_ratio_max: 0.0, round_trip_ns: 0, ..PolicyConfig::default() };
    let lanes = LaneConfig { policy, ..LaneConfig::default() };
    let engine = Engine::new(backing, EngineConfig { lanes, ..EngineConfig::default() });
    let mut mounts = vec![Mount::new(&engine, backing.clone())];
    if plan.two_trees {
        mounts.extend(Mount::of_a_directory(&engine, backing));
    }
    let world = World {
        facts: Facts::new(plan.options.model, Walk::of(backing)),
        backing: backing.clone(),
        mounts,
        random: Random::new(seed),
        opened: Vec::new(),
        synced: None,
        blocked: [false; PROGRAMS],
        syncing: [None; PROGRAMS],
        steps_left: plan.steps,
        fail_one_in: plan.fail_one_in,
        byte: 1,
        life,
        outcome: Outcome::default(),
    };
    let run = Arc::new(Run { world: Mutex::new(world) });
    let weak = Arc::downgrade(&run);
    backing.on_fence(Some(Arc::new(move |_| {
        weak.upgrade().into_iter().for_each(|run| run.within_fence());
    })));
    while run.world().goes_on() {
        run.step();
        run.world().maybe_crash();
    }
    let lanes = engine.status().lanes;
    let mut outcome = run.world().outcome.clone();
    outcome.groups = lanes.groups;
    outcome.group_ops_max = lanes.group_ops_max;
    outcome.skipped = lanes.skipped;
    outcome
}

impl Mount {
    fn new(engine: &Arc<Engine<SimBacking>>, backing: SimBacking) -> Self {
        let root = backing.root().expect("there is always a root");
        let tree = engine.add_tree(backing).expect("the engine's own filesystem");
        let root = Key::from(root.key);
        Self { tree, root, nodes: BTreeMap::from([(root, (NodeId::ROOT, 0))]) }
    }

    /// A mount of a directory that is made for it, or found from an earlier life
    /// if it still is one.
    fn of_a_directory(engine: &Arc<Engine<SimBacking>>, backing: &SimBacking) -> Option<Self> {
        let root = backing.root().expect("there is always a root").object;
        let name = os("mounted");
        let found = backing
            .lookup(&root, name)
            .or_else(|_| backing.make_dir(caller(0), &root, name, DIRECTORY))
            .expect("a directory can be made");
        backing.sync_all().expect("nothing fails yet");
        let directory = backing.subtree(&found.object).ok()?;
        Some(Self::new(engine, directory))
    }

    /// Takes in what the engine has found: one reference more.
    fn know(&mut self, entry: &Entry) -> Key {
        let key = self.tree.with_object(entry.id, SimBacking::key_of);
        let key = Key::from(key.and_then(|key| key).expect("it was just found"));
        self.nodes.entry(key).or_insert((entry.id, 0)).1 += 1;
        key
    }
}

impl Run {
    fn world(&self) -> MutexGuard<'_, World> {
        // The lanes catch panics of fences and completions: the poison tells.
        self.world.lock().expect("an assertion failed, see above")
    }

    /// One operation of one program that is not blocked.
    fn step(self: &Arc<Self>) {
        let sync = self.world().step();
        let Some(Sync { program, promise, target }) = sync else { return };
        let tree = |mount: usize| Arc::clone(&self.world().mounts[mount].tree);
        let run = Arc::clone(self);
        let done = Box::new(move |result| run.world().answered(program, promise, result));
        match target {
            Target::File(opened, kind) => {
                tree(opened.mount).sync_file(caller(program), opened.file, kind, done);
            }
            Target::Dir(mount, node) => {
                let tree = tree(mount);
                let dir = tree.open_dir(node).expect("a named directory opens");
                tree.sync_dir(caller(program), dir, done);
                tree.release_dir(dir);
            }
        }
    }

    /// What the others do while a fence runs, and cuts of the power in it.
    fn within_fence(self: &Arc<Self>) {
        let steps = self.world().random.below(3);
        for _ in 0..steps {
            if self.world().goes_on() {
                self.step();
            }
        }
        self.world().maybe_crash();
    }
}

fn caller(program: usize) -> Caller {
    Caller { uid: 0, gid: 0, thread: program as u32 + 1 }
}

fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

impl World {
    fn goes_on(&self) -> bool {
        self.steps_left > 0 && self.outcome.loss.is_none()
    }

    fn answered(&mut self, program: usize, promise: Promise, result: Result<()>) {
        self.blocked[program] = false;
        self.syncing[program] = None;
        match result {
            Ok(()) => {
                self.outcome.syncs_kept += 1;
                self.facts.kept(promise);
            }
            Err(_) => {
                self.outcome.syncs_failed += 1;
                self.facts.broken(promise);
            }
        }
        self.maybe_crash();
    }

    // ---- power cuts ----

    fn maybe_crash(&mut self) {
        if self.outcome.loss.is_some() || self.random.one_in(4) {
            return;
        }
        let seed = self.random.word();
        let crashed = self.backing.crash(seed);
        self.outcome.crashes += 1;
        if let Err(loss) = self.facts.check(&Walk::of(&crashed)) {
            let (step, crash) = (self.outcome.steps, self.outcome.crashes);
            let place = format!("life {} after step {step}, crash {crash}", self.life);
            self.outcome.loss = Some(format!("{place}: {loss}"));
        }
    }

    // ---- choices ----

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.random.index(from.len())].clone()
    }

    fn name(&mut self) -> &'static str {
        self.pick(&NAMES)
    }

    fn dirs(&self) -> Vec<Key> {
        let named = self.facts.named().into_iter().map(|(_, _, target)| target);
        let mut dirs: Vec<Key> = named.filter(|&key| self.facts.is_dir(key)).collect();
        dirs.push(self.facts.root());
        dirs
    }

    fn dir(&mut self) -> Key {
        let dirs = self.dirs();
        self.pick(&dirs)
    }

    /// Something with a name: its directory, name and key.
    fn named(&mut self, is_dir: bool) -> Option<(Key, String, Key)> {
        let mut named = self.facts.named();
        named.retain(|(_, _, target)| self.facts.is_dir(*target) == is_dir);
        if named.is_empty() { None } else { Some(self.pick(&named)) }
    }

    /// A file that is open; now and then another one is opened or one is closed.
    fn open_file(&mut self) -> Option<Opened> {
        if self.opened.len() > 8 || (!self.opened.is_empty() && self.random.one_in(12)) {
            let index = self.random.index(self.opened.len());
            let Opened { file, mount, .. } = self.opened.swap_remove(index);
            self.mounts[mount].tree.release(file);
        }
        if self.opened.is_empty() || self.random.one_in(3) {
            let (_, _, key) = self.named(false)?;
            let mount = self.mount(&[key]);
            let node = self.node(mount, key);
            let file = self.mounts[mount].tree.open(caller(0), node, READ_WRITE, false);
            self.opened.push(Opened { key, mount, file: file.expect("a file opens") });
        }
        Some(self.opened[self.random.index(self.opened.len())])
    }

    // ---- mounts, and objects that their kernels know ----

    /// A mount in which all of these can be reached.
    fn mount(&mut self, keys: &[Key]) -> usize {
        let usable = |mount: &Mount| {
            let mut reached: Vec<Key> =
                self.facts.named_below(mount.root).into_iter().map(|place| place.2).collect();
            reached.push(mount.root);
            keys.iter().all(|key| reached.contains(key))
        };
        let usable: Vec<usize> =
            (0..self.mounts.len()).filter(|&mount| usable(&self.mounts[mount])).collect();
        self.pick(&usable)
    }

    /// The number of an object, looked up by one of its names if need be.
    fn node(&mut self, mount: usize, key: Key) -> NodeId {
        if let Some((node, _)) = self.mounts[mount].nodes.get(&key) {
            return *node;
        }
        let mut named = self.facts.named_below(self.mounts[mount].root).into_iter();
        let (dir, name, _) = named.find(|place| place.2 == key).expect("it can be reached");
        let dir = self.node(mount, dir);
        let mount = &mut self.mounts[mount];
        let found = mount.tree.lookup(dir, os(&name)).expect("a name that is there");
        assert_eq!(mount.know(&found), key, "the name stands for what the test thinks");
        found.id
    }

    /// A kernel forgets an object.
    fn forget(&mut self) {
        let mount = self.random.index(self.mounts.len());
        let keys: Vec<Key> = self.mounts[mount].nodes.keys().copied().collect();
        let key = self.pick(&keys);
        let mount = &mut self.mounts[mount];
        if key != mount.root
            && let Some((node, references)) = mount.nodes.remove(&key)
        {
            mount.tree.forget(node, references);
        }
    }

    fn tree(&self, mount: usize) -> &Tree<SimBacking> {
        &self.mounts[mount].tree
    }
}
