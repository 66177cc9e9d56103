//! Programs that work on one filesystem, and power cuts in between.
//!
//! Six programs take turns as the seed says. A program whose sync is under way
//! is blocked; the others go on meanwhile, within the fence, so that their syncs
//! wait for the next group and their changes fall between the parts of this one.
//! One thread runs it all. Now and then a checkpoint is made, somebody calls
//! sync(2), the daemon is killed and started again. At the end the power fails, and
//! the next life goes on with what was recovered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fs_core::durability::{Durability, Policy};
use fs_core::engine::{Deed, Engine, FileId, NamesChanged, NodeId, Owed, Tree};
use fs_core::error::Result;
use fs_core::log::LogConfig;
use fs_core::platform::Backing;
use fs_core::platform::sim::{FencePoint, Random, SimBacking, SimOptions};
use fs_core::types::{Caller, NewMode, SyncKind};

use crate::disk::{self, LogShape};
use crate::facts::{Facts, Promise};
use crate::model::{Id, ROOT};

mod crashes;
mod operations;

const PROGRAMS: usize = 6;
const MOUNTED: &str = "mounted";
const DIRECTORY: NewMode = NewMode { mode: 0o755, umask: 0 };

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub options: SimOptions,
    pub shape: LogShape,
    pub log: LogConfig,
    /// What is promised without being asked for.
    pub durability: Durability,
    /// Operations of all programs together.
    pub steps: usize,
    /// Boots, each ended by a power cut.
    pub lives: u32,
    /// Once in so many syncs something fails; 0 for never.
    pub fail_one_in: u64,
    /// That is a sync of a file, which loses its dirty pages; else a journal commit,
    /// a write of the log, or its flush.
    pub fail_write_back: bool,
    /// A directory is exported by a second tree of the same engine.
    pub two_trees: bool,
    /// Once in so many steps; 0 for never.
    pub checkpoint_one_in: u64,
    pub sync_all_one_in: u64,
    pub kill_one_in: u64,
    /// Crashes at one moment.
    pub cuts: u64,
    /// Every recovery is an engine's start, which has the planted bugs.
    pub always_by_engine: bool,
    /// Everything is written down.
    pub in_words: bool,
}

/// What came out of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub crashes: u64,
    /// Of them, while an earlier crash was recovered, or right after.
    pub nested: u64,
    pub steps: usize,
    pub groups: u64,
    pub group_ops_max: u64,
    pub commits: u64,
    pub full: u64,
    pub checkpoints: u64,
    pub marks: u64,
    pub compared: u64,
    pub syncs_kept: u64,
    /// Operations that were not answered before they were durable.
    pub owed: u64,
    pub syncs_failed: u64,
    pub kills: u64,
    pub given_up: u64,
    /// Recoveries that redid an operation, and that filled something.
    pub redone: u64,
    pub filled: u64,
    /// What was lost first, where, and how.
    pub loss: Option<String>,
}

impl Outcome {
    /// Takes in what came out of another run.
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.nested += other.nested;
        self.steps += other.steps;
        self.groups += other.groups;
        self.group_ops_max = self.group_ops_max.max(other.group_ops_max);
        self.commits += other.commits;
        self.full += other.full;
        self.checkpoints += other.checkpoints;
        self.marks += other.marks;
        self.compared += other.compared;
        self.syncs_kept += other.syncs_kept;
        self.owed += other.owed;
        self.syncs_failed += other.syncs_failed;
        self.kills += other.kills;
        self.given_up += other.given_up;
        self.redone += other.redone;
        self.filled += other.filled;
        self.loss = self.loss.take().or_else(|| other.loss.clone());
    }
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
    /// A batch, and what was promised of its files.
    Names(NamesChanged, Vec<Promise>),
    /// What an operation is not answered before.
    Owed(Owed<SimBacking>),
}

/// What comes between two operations.
enum Pause {
    Nothing,
    Sync(Sync),
    Checkpoint,
    Flush,
    Kill,
}

/// A file that is open.
#[derive(Clone, Copy)]
struct Opened {
    id: Id,
    mount: usize,
    file: FileId,
    writes: bool,
}

/// A mount: its tree, and what its kernel knows.
struct Mount {
    tree: Arc<Tree<SimBacking>>,
    root: Id,
    /// Objects that the kernel knows, and how many references it holds.
    nodes: BTreeMap<Id, (NodeId, u64)>,
}

struct World {
    plan: Plan,
    backing: SimBacking,
    engine: Option<Arc<Engine<SimBacking>>>,
    /// The whole filesystem, and perhaps a directory of it by itself.
    mounts: Vec<Mount>,
    random: Random,
    facts: Facts,
    opened: Vec<Opened>,
    blocked: [bool; PROGRAMS],
    /// Of the operation that was just made, and the file whose content it promises.
    owed: Option<(Owed<SimBacking>, Option<Id>)>,
    /// The open files that blocked programs sync.
    syncing: [Option<FileId>; PROGRAMS],
    steps_left: usize,
    /// Somebody holds the log outside of a group: a sync would wait for him for ever.
    log_is_held: bool,
    /// But for that of a commit.
    is_committing: bool,
    /// Such syncs, until nobody does.
    held: Vec<Sync>,
    /// Next byte to write: never zero, so that a hole is told from data.
    byte: u8,
    outcome: Outcome,
}

struct Run {
    world: Mutex<World>,
}

/// Runs the programs of this seed on a new filesystem.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let options = SimOptions { seed: random.word(), ..plan.options.clone() };
    let mut backing = disk::new_disk(options, plan.shape);
    let mut sum = Outcome::default();
    let mut before: Option<Facts> = None;
    for life in 1..=plan.lives {
        let (mut outcome, facts) = live(plan, &backing, before.as_ref(), random.word());
        if let Some(loss) = &mut outcome.loss {
            *loss = format!("life {life} {loss}\n{}", facts.trace.join("\n"));
        }
        sum.add(&outcome);
        if sum.loss.is_some() {
            break;
        }
        backing = backing.crash(random.word());
        before = Some(facts);
    }
    sum
}

/// One boot: an engine on a filesystem until its programs have done their steps.
/// `before` is what the last one was promised.
fn live(plan: &Plan, backing: &SimBacking, before: Option<&Facts>, seed: u64) -> (Outcome, Facts) {
    let mut outcome = Outcome::default();
    let started = disk::start(backing, &plan.log, plan.shape, &mut |_| {});
    let loss = match &started {
        Err(error) => Some(format!("at its start: {error}")),
        Ok(_) => before.and_then(|facts| facts.check(backing).err()),
    };
    let mut facts = Facts::new(backing, plan.in_words);
    if let Some(loss) = loss {
        outcome.loss = Some(loss);
        facts.trace = before.map(|facts| facts.trace.clone()).unwrap_or_default();
        return (outcome, facts);
    }
    let (engine, _) = started.expect("it was just looked at");
    let world = World {
        plan: plan.clone(),
        backing: backing.clone(),
        engine: Some(engine),
        mounts: Vec::new(),
        random: Random::new(seed),
        facts,
        opened: Vec::new(),
        blocked: [false; PROGRAMS],
        owed: None,
        syncing: [None; PROGRAMS],
        steps_left: plan.steps,
        log_is_held: false,
        is_committing: false,
        held: Vec::new(),
        byte: 1,
        outcome,
    };
    let run = Arc::new(Run { world: Mutex::new(world) });
    run.world().mount_all();
    let weak = Arc::downgrade(&run);
    backing.on_fence(Some(Arc::new(move |point| {
        weak.upgrade().into_iter().for_each(|run| run.within_fence(point));
    })));
    while run.world().goes_on() {
        run.step(true);
        run.world().maybe_crash();
    }
    backing.on_fence(None);
    let mut world = run.world();
    world.dismount();
    let outcome = std::mem::take(&mut world.outcome);
    let facts = std::mem::replace(&mut world.facts, Facts::nothing());
    (outcome, facts)
}

impl Run {
    fn world(&self) -> MutexGuard<'_, World> {
        // The lanes catch panics of fences and completions: the poison tells.
        self.world.lock().expect("an assertion failed, see above")
    }

    /// One operation of one program that is not blocked; outside of fences more can
    /// happen.
    fn step(self: &Arc<Self>, outside: bool) {
        let pause = self.world().step(outside);
        let engine = self.world().engine.clone();
        let Some(engine) = engine else { return };
        match pause {
            Pause::Nothing => {}
            Pause::Sync(sync) => {
                let mut world = self.world();
                if world.log_is_held && !world.is_committing {
                    return world.held.push(sync);
                }
                drop(world);
                self.submit(sync);
            }
            Pause::Checkpoint => {
                let log = engine.log().expect("there is a log");
                self.world().log_is_held = true;
                let result = log.checkpoint();
                self.world().log_is_held = false;
                self.world().facts.tell(|| format!("checkpoint {result:?}"));
                self.let_go();
            }
            Pause::Flush => {
                let promise = self.world().facts.promise_all();
                self.world().log_is_held = true;
                let result = engine.flush(Duration::ZERO);
                let mut world = self.world();
                world.log_is_held = false;
                world.facts.tell(|| format!("flush {result:?}"));
                match result {
                    Ok(()) => world.facts.kept_all(&promise),
                    Err(_) => world.facts.all_broken(),
                }
                drop(world);
                self.let_go();
            }
            Pause::Kill => {
                drop(engine);
                self.kill();
            }
        }
    }

    /// Nobody holds the log any more.
    fn let_go(self: &Arc<Self>) {
        let held = std::mem::take(&mut self.world().held);
        held.into_iter().for_each(|sync| self.submit(sync));
    }

    fn submit(self: &Arc<Self>, sync: Sync) {
        let Sync { program, promise, target } = sync;
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
            Target::Names(changed, more) => {
                let tree = tree(0);
                let run = Arc::clone(self);
                let done = Box::new(move |result: Result<()>| {
                    run.world().answered_more(more, result);
                    done(result);
                });
                let orders = tree.orders_for_names(&changed, done);
                // One thread runs it all.
                tree.submit_as_worker(caller(program), orders);
            }
            Target::Owed(owed) => owed.settle(done),
        }
    }

    /// What the others do while a fence runs, and cuts of the power in it.
    fn within_fence(self: &Arc<Self>, point: FencePoint) {
        // A hook within an operation of a program: nobody acts.
        let Ok(mut world) = self.world.try_lock() else { return };
        // A checkpoint keeps no lock while it writes files in place or commits.
        let is_open = matches!(point, FencePoint::Commit | FencePoint::WriteBack);
        let steps = if world.log_is_held && !is_open { 0 } else { world.random.below(3) };
        let was_committing =
            std::mem::replace(&mut world.is_committing, point == FencePoint::Commit);
        drop(world);
        for _ in 0..steps {
            if self.world().goes_on() {
                self.step(false);
            }
        }
        let mut world = self.world();
        world.is_committing = was_committing;
        world.maybe_crash();
    }

    /// The daemon is killed and started again; the kernel lives on. Nothing that is
    /// visible may change by it.
    fn kill(self: &Arc<Self>) {
        let (backing, plan) = {
            let mut world = self.world();
            world.dismount();
            world.outcome.kills += 1;
            // What was to fail does not any more.
            world.backing.fail_sync(0);
            world.backing.fail_commit(0);
            world.backing.fail_log_write(0);
            world.backing.fail_log_flush(0);
            world.facts.tell(|| "kill".to_owned());
            (world.backing.clone(), world.plan.clone())
        };
        let started = disk::start(&backing, &plan.log, plan.shape, &mut |_| {});
        let mut world = self.world();
        let visible = world.facts.check_live(&backing);
        let loss = match (&started, visible) {
            (Err(error), _) => Some(format!("a restart fails: {error}")),
            (_, Err(loss)) => Some(format!("a restart changes something: {loss}")),
            (Ok((_, Some(report))), _) if !report.is_nothing() => {
                Some(format!("a restart redoes something: {report:?}"))
            }
            _ => None,
        };
        if loss.is_some() {
            world.lose(loss);
            return;
        }
        world.engine = started.ok().map(|(engine, _)| engine);
        // Whoever opens a log makes everything durable first.
        world.facts.all_kept();
        world.mount_all();
    }
}

fn caller(program: usize) -> Caller {
    Caller { uid: 0, gid: 0, thread: program as u32 + 1 }
}

impl World {
    fn goes_on(&self) -> bool {
        self.steps_left > 0 && self.outcome.loss.is_none()
    }

    fn answered(&mut self, program: usize, promise: Promise, result: Result<()>) {
        self.blocked[program] = false;
        self.syncing[program] = None;
        self.facts.tell(|| format!("{program} is answered {result:?} for {promise:?}"));
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

    /// What else a sync has promised.
    fn answered_more(&mut self, promises: Vec<Promise>, result: Result<()>) {
        for promise in promises {
            match result {
                Ok(()) => self.facts.kept(promise),
                Err(_) => self.facts.broken(promise),
            }
        }
    }

    fn lose(&mut self, loss: Option<String>) {
        let (step, crash) = (self.outcome.steps, self.outcome.crashes);
        let told = loss.map(|loss| format!("after step {step}, crash {crash}: {loss}"));
        self.outcome.loss = self.outcome.loss.take().or(told);
    }

    /// Notes what is owed for an operation that was just made.
    fn owes(&mut self, mount: usize, program: usize, deed: &Deed<'_>, file: Option<Id>) {
        let owed = self.mounts[mount].tree.owed(caller(program), deed);
        let owed = owed.expect("what was just named is there");
        self.owed = (!owed.is_nothing()).then_some((owed, file));
    }

    // ---- mounts ----

    fn mount_all(&mut self) {
        let engine = self.engine.clone().expect("an engine is there");
        let whole = engine.add_tree(self.backing.clone()).expect("the engine's own filesystem");
        whole.set_policy(Policy::uniform(self.plan.durability));
        self.mounts.push(Mount::new(whole, ROOT));
        if !self.plan.two_trees {
            return;
        }
        let Some(&id) = self.facts.model.entries(ROOT).get(MOUNTED) else { return };
        let root = self.backing.root().expect("a root").object;
        let name = fs_core::platform::os_name(MOUNTED.as_bytes());
        let found = self.backing.lookup(&root, name).expect("it is there");
        if let Ok(directory) = self.backing.subtree(&found.object) {
            let tree = engine.add_tree(directory).expect("the engine's own filesystem");
            tree.set_policy(Policy::uniform(self.plan.durability));
            self.mounts.push(Mount::new(tree, id));
        }
    }

    /// Ends the daemon without telling anybody.
    fn dismount(&mut self) {
        if let Some(engine) = self.engine.take() {
            let status = engine.status();
            self.outcome.groups += status.lanes.groups;
            self.outcome.group_ops_max = self.outcome.group_ops_max.max(status.lanes.group_ops_max);
            let log = status.log.expect("there is a log");
            self.outcome.commits += log.commits;
            self.outcome.full += log.full;
            self.outcome.checkpoints += log.checkpoints;
            self.outcome.marks += log.marks;
            self.outcome.compared += log.compared_pages;
            self.outcome.given_up += u64::from(log.failure.is_some());
        }
        self.owed = None;
        self.opened.clear();
        self.mounts.clear();
    }

    /// A mount in which all of these can be reached.
    fn mount(&mut self, ids: &[Id]) -> usize {
        let model = &self.facts.model;
        let usable: Vec<usize> = (0..self.mounts.len())
            .filter(|&mount| {
                let root = self.mounts[mount].root;
                root == ROOT || ids.iter().all(|&id| model.is_below(root, id))
            })
            .collect();
        usable[self.random.index(usable.len())]
    }

    /// The number of an object, looked up by one of its names if need be.
    fn node(&mut self, mount: usize, id: Id) -> NodeId {
        if let Some((node, _)) = self.mounts[mount].nodes.get(&id) {
            return *node;
        }
        let root = self.mounts[mount].root;
        let named = self.facts.model.named_below(root);
        let found = named.into_iter().find(|place| place.2 == id);
        let (dir, name) = found.map(|(dir, name, _)| (dir, name.to_owned())).expect("a name");
        let dir = self.node(mount, dir);
        let name = fs_core::platform::os_name(name.as_bytes());
        let mount = &mut self.mounts[mount];
        let entry = mount.tree.lookup(dir, name).expect("a name that is there");
        mount.know(id, entry.id);
        entry.id
    }

    fn tree(&self, mount: usize) -> Arc<Tree<SimBacking>> {
        Arc::clone(&self.mounts[mount].tree)
    }
}

impl Mount {
    fn new(tree: Arc<Tree<SimBacking>>, root: Id) -> Self {
        Self { tree, root, nodes: BTreeMap::from([(root, (NodeId::ROOT, 0))]) }
    }

    /// The engine has found it: one reference more.
    fn know(&mut self, id: Id, node: NodeId) {
        self.nodes.entry(id).or_insert((node, 0)).1 += 1;
    }
}
