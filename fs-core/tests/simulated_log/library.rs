//! The library for Rust programs: power cuts at every point within its syncs, and right
//! after each answer. The disk's kernel writes back and commits by itself meanwhile, so
//! that every place between two of its operations is met.
//!
//! Content has a generation in it: what is found must be all of one generation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fs_core::batch::{Files, FilesConfig, Method, TEMPORARY_PREFIX};
use fs_core::engine::{Engine, EngineConfig};
use fs_core::error::Errno;
use fs_core::log::recovery::recover;
use fs_core::log::{LogConfig, PlantedBugs};
use fs_core::platform::Backing;
use fs_core::platform::sim::{DurabilityModel, FencePoint, Random, SimBacking, SimOptions};
use fs_core::types::{FileKind, NewMode, SetAttr};

use crate::disk::{LogShape, new_disk, start};
use crate::shape::{NOBODY, Walk};

const SHAPE: LogShape = LogShape { segments: 4, segment_bytes: 64 << 10, elsewhere: false };
const LOGGED: [DurabilityModel; 2] = [DurabilityModel::Ext4Ordered, DurabilityModel::Xfs];
const RUNS: u64 = if cfg!(debug_assertions) { 20 } else { 200 };
const GENERATIONS: u64 = 8;
/// Crashes at one point.
const CUTS: u64 = 6;

type State = BTreeMap<String, Vec<u8>>;

/// Whether a state may be found when so many generations were answered and begun.
type Rule = dyn Fn(&State, u64, u64) -> Result<(), String> + Send + Sync;

/// How a run is made.
struct Lab {
    backing: SimBacking,
    files: Files<SimBacking>,
    logged: bool,
}

impl Lab {
    fn new(model: DurabilityModel, seed: u64, logged: bool, bugs: PlantedBugs) -> Self {
        let mut random = Random::new(seed);
        let options = SimOptions {
            shared_commit: model.keeps_prefix() && random.one_in(2),
            flusher_one_in: [None, Some(3)][random.index(2)],
            commit_one_in: [None, Some(2), Some(5), Some(20)][random.index(4)],
            ..SimOptions::new(model, random.word())
        };
        let config = FilesConfig {
            method: [Method::Auto, Method::Direct, Method::Sync][random.index(3)],
            ..FilesConfig::default()
        };
        let (backing, engine) = if logged {
            let backing = new_disk(options, SHAPE);
            let inline_bytes_max = Some([1 << 20, 6 << 10][random.index(2)]);
            let log = LogConfig {
                bytes: SHAPE.bytes(),
                inline_bytes_max,
                probe: None,
                background: false,
                bugs,
                ..LogConfig::default()
            };
            let (engine, _) = start(&backing, &log, SHAPE, &mut |_| {}).expect("a log opens");
            (backing, engine)
        } else {
            let backing = SimBacking::new(options);
            let lanes = config.lanes();
            let engine = Engine::new(&backing, EngineConfig { lanes, ..EngineConfig::default() });
            (backing, engine)
        };
        let tree = engine.add_tree(backing.clone()).expect("a tree");
        let files = Files::on(tree, NOBODY, config).expect("valid settings");
        Self { backing, files, logged }
    }
}

/// What crashes leave, against what may be there.
struct Judge {
    backing: SimBacking,
    logged: bool,
    /// Generations that were answered, and that were begun.
    answered: AtomicU64,
    begun: AtomicU64,
    random: Mutex<Random>,
    crashes: AtomicU64,
    loss: Mutex<Option<String>>,
    may_be: Box<Rule>,
}

impl Judge {
    fn on(
        lab: &Lab,
        seed: u64,
        may_be: impl Fn(&State, u64, u64) -> Result<(), String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let judge = Arc::new(Self {
            backing: lab.backing.clone(),
            logged: lab.logged,
            answered: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            random: Mutex::new(Random::new(seed)),
            crashes: AtomicU64::new(0),
            loss: Mutex::new(None),
            may_be: Box::new(may_be),
        });
        let hook = Arc::downgrade(&judge);
        lab.backing.on_fence(Some(Arc::new(move |_| {
            hook.upgrade().into_iter().for_each(|judge| judge.cut());
        })));
        judge
    }

    fn cut(&self) {
        for _ in 0..CUTS {
            let seed = self.random.lock().expect("no panic").word();
            let crashed = self.backing.crash(seed);
            if self.logged {
                recover(&crashed, None, &mut |_| {}).expect("a recovery");
            }
            self.crashes.fetch_add(1, Ordering::Relaxed);
            let found = state_of(&crashed);
            let (from, to) =
                (self.answered.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            if let Err(loss) = (self.may_be)(&found, from, to) {
                let mut first = self.loss.lock().expect("no panic");
                first.get_or_insert(format!("answered {from}, begun {to}: {loss}"));
            }
        }
    }

    /// Runs a generation, with cuts within and after it.
    fn generation(&self, number: u64, run: impl FnOnce()) {
        self.begun.store(number, Ordering::Relaxed);
        run();
        self.answered.store(number, Ordering::Relaxed);
        self.cut();
    }

    fn end(&self) -> (u64, Option<String>) {
        self.backing.on_fence(None);
        (self.crashes.load(Ordering::Relaxed), self.loss.lock().expect("no panic").clone())
    }
}

/// Names and contents, without the library's own.
fn state_of(backing: &SimBacking) -> State {
    let walk = Walk::of(backing, false);
    let mut state = State::new();
    for (_, name, number) in &walk.names {
        if !name.starts_with(TEMPORARY_PREFIX) {
            let mut content = Vec::new();
            if walk.objects[*number].attr.kind == FileKind::Regular {
                walk.content(backing, *number, &mut content);
            }
            state.insert(name.clone(), content);
        }
    }
    state
}

fn content(generation: u64, salt: u64) -> Vec<u8> {
    let bytes = 1 + (generation * 1777 + salt * 2903) % 9000;
    vec![generation as u8 + 1; bytes as usize]
}

/// What stands there after a generation's batch.
fn batch_state(generation: u64) -> State {
    if generation == 0 {
        return State::new();
    }
    let mut state = State::new();
    for (salt, name) in ["a", "b", "c", "e"].iter().enumerate() {
        state.insert((*name).to_owned(), content(generation, salt as u64));
    }
    state.insert("copy".to_owned(), content(generation, 1));
    if generation.is_multiple_of(2) {
        state.remove("e");
    }
    state
}

fn run_batches(lab: &Lab, judge: &Judge) {
    for generation in 1..=GENERATIONS {
        let batch = lab.files.batch();
        let batch = batch.write("c", "not for long").write("a", content(generation, 0));
        let batch = batch.write("b", content(generation, 1)).copy("b", "copy");
        let batch = batch.write("c", content(generation, 2)).write("e", content(generation, 3));
        let batch = if generation.is_multiple_of(2) { batch.delete("e") } else { batch };
        judge.generation(generation, || batch.commit().expect("nothing fails"));
    }
}

/// Every run's crashes, and the first loss.
fn batches(bugs: PlantedBugs) -> (u64, Option<String>) {
    let mut crashes = 0;
    for seed in 0..RUNS {
        let lab = Lab::new(LOGGED[seed as usize % 2], seed, true, bugs);
        let judge = Judge::on(&lab, seed, |found, from, to| {
            if (from..=to).any(|generation| *found == batch_state(generation)) {
                return Ok(());
            }
            let found: Vec<_> = found.iter().map(|(n, c)| (n, c.len(), c.first())).collect();
            Err(format!("of no one generation: {found:?}"))
        });
        run_batches(&lab, &judge);
        let (more, loss) = judge.end();
        crashes += more;
        if let Some(loss) = loss {
            return (crashes, Some(format!("seed {seed}: {loss}")));
        }
    }
    (crashes, None)
}

#[test]
fn a_batch_is_all_or_nothing_at_every_point() {
    let (crashes, loss) = batches(PlantedBugs::default());
    println!("{crashes} crashes");
    assert_eq!(loss, None);
    assert!(crashes > 1000);
}

/// The same test, and batches that are not written down before they are applied.
#[test]
fn a_batch_that_is_not_written_down_is_found() {
    let bugs = PlantedBugs { no_batch_marks: true, ..PlantedBugs::default() };
    let (crashes, loss) = batches(bugs);
    println!("found within {crashes} crashes: {loss:?}");
    assert!(loss.is_some());
}

/// And contents that do not travel with their names.
#[test]
fn content_that_is_not_written_back_is_found() {
    let bugs = PlantedBugs { trust_uncommitted: true, ..PlantedBugs::default() };
    let (crashes, loss) = batches(bugs);
    println!("found within {crashes} crashes: {loss:?}");
    assert!(loss.is_some());
}

/// A single write, on every filesystem there is, with a log and without: old or new,
/// whole, with the mode, owner and attributes of the file that was there; new when it was
/// answered.
#[test]
fn a_write_is_old_or_new_on_every_filesystem() {
    let mut crashes = 0;
    let ways = DurabilityModel::ALL.map(|model| (model, false)).into_iter();
    for (model, logged) in ways.chain(LOGGED.map(|model| (model, true))) {
        for seed in 0..RUNS {
            let lab = Lab::new(model, seed, logged, PlantedBugs::default());
            lab.files.write("f", content(0, 0)).expect("nothing fails");
            give_attributes(&lab.backing);
            lab.files.write("g", "durable from here on").expect("nothing fails");
            lab.backing.sync_all().expect("a sync");
            let judge = Judge::on(&lab, seed, |found, from, to| {
                let found = found.get("f").ok_or("it is gone")?;
                let is_one = (from..=to).any(|generation| *found == content(generation, 0));
                if is_one { Ok(()) } else { Err(format!("{} bytes of none", found.len())) }
            });
            for generation in 1..=3 {
                let content = content(generation, 0);
                judge.generation(generation, || lab.files.write("f", content).expect("none"));
                keeps_attributes(&lab.backing.crash(seed), logged, (model, seed));
            }
            let (more, loss) = judge.end();
            crashes += more;
            assert_eq!(loss, None, "{model:?}, logged {logged}, seed {seed}");
        }
    }
    println!("{crashes} crashes");
}

const PERM: u16 = 0o641;
const OWNER: (u32, u32) = (7, 8);

fn give_attributes(backing: &SimBacking) {
    let root = backing.root().expect("a root").object;
    let file = backing.lookup(&root, OsStr::new("f")).expect("a file").object;
    let owner = SetAttr { uid: Some(OWNER.0), gid: Some(OWNER.1), ..SetAttr::default() };
    backing.set_attr(NOBODY, &file, None, &owner).expect("root may");
    let perm = SetAttr { perm: Some(PERM.into()), ..SetAttr::default() };
    backing.set_attr(NOBODY, &file, None, &perm).expect("root may");
    backing.set_xattr(NOBODY, &file, OsStr::new("user.x"), b"kept", 0).expect("there is room");
}

fn keeps_attributes(crashed: &SimBacking, logged: bool, of: (DurabilityModel, u64)) {
    if logged {
        recover(crashed, None, &mut |_| {}).expect("a recovery");
    }
    let root = crashed.root().expect("a root").object;
    let found = crashed.lookup(&root, OsStr::new("f")).expect("a file");
    let attr = found.attr;
    assert_eq!((attr.perm, attr.uid, attr.gid), (PERM, OWNER.0, OWNER.1), "{of:?}");
    let value = crashed.xattr(&found.object, OsStr::new("user.x"));
    assert_eq!(value, Ok(b"kept".to_vec()), "{of:?}");
}

/// Without a log, where the journal keeps its order: what is found of a batch is its
/// beginning, and all of it when it was answered.
#[test]
fn without_a_log_a_batch_is_kept_in_order() {
    for seed in 0..RUNS {
        let lab = Lab::new(LOGGED[seed as usize % 2], seed, false, PlantedBugs::default());
        let judge = Judge::on(&lab, seed, |found, from, to| {
            let kept = (0..6).take_while(|number| found.contains_key(&format!("f{number}")));
            let kept = kept.count();
            let whole = found.iter().all(|(_, bytes)| *bytes == content(1, 0));
            let enough = kept == 6 || (from < to && kept == found.len());
            if whole && enough { Ok(()) } else { Err(format!("{:?}", found.keys())) }
        });
        let mut batch = lab.files.batch();
        for number in 0..6 {
            batch = batch.write(format!("f{number}"), content(1, 0));
        }
        judge.generation(1, || batch.commit().expect("nothing fails"));
        assert_eq!(judge.end().1, None, "seed {seed}");
    }
}

/// With a batch of more files than are kept open, the others are committed before.
#[test]
fn a_large_batch_is_all_or_nothing() {
    for seed in 0..RUNS / 10 {
        let lab = Lab::new(LOGGED[seed as usize % 2], seed, true, PlantedBugs::default());
        let judge = Judge::on(&lab, seed, |found, from, to| {
            let whole = found.values().all(|bytes| *bytes == content(1, 3));
            let count = found.len();
            let is_one = count == 150 || (from < to && count == 0);
            if whole && is_one { Ok(()) } else { Err(format!("{count} files, whole {whole}")) }
        });
        let mut batch = lab.files.batch();
        for number in 0..150 {
            batch = batch.write(format!("f{number}"), content(1, 3));
        }
        judge.generation(1, || batch.commit().expect("nothing fails"));
        assert_eq!(judge.end().1, None, "seed {seed}");
    }
}

/// What a crash leaves of temporary files is removed by the next start.
#[test]
fn leftovers_are_removed_after_a_crash() {
    for logged in [true, false] {
        for seed in 0..RUNS {
            let lab = Lab::new(DurabilityModel::Ext4Ordered, seed, logged, PlantedBugs::default());
            let images = Arc::new(Mutex::new(Vec::new()));
            let (hook, backing) = (Arc::clone(&images), lab.backing.clone());
            lab.backing.on_fence(Some(Arc::new(move |_| {
                hook.lock().expect("no panic").push(backing.crash(seed));
            })));
            lab.files.batch().write("a", content(2, 1)).write("b", "b").commit().expect("none");
            lab.backing.on_fence(None);
            let images = std::mem::take(&mut *images.lock().expect("no panic"));
            for crashed in images {
                if logged {
                    recover(&crashed, None, &mut |_| {}).expect("a recovery");
                }
                let engine = Engine::new(&crashed, EngineConfig::default());
                let tree = engine.add_tree(crashed.clone()).expect("a tree");
                let files = Files::on(tree, NOBODY, FilesConfig::default()).expect("it opens");
                let walk = Walk::of(&crashed, false);
                let left = walk.names.iter().find(|(_, n, _)| n.starts_with(TEMPORARY_PREFIX));
                assert_eq!(left, None);
                drop(files);
            }
        }
    }
}

/// Somebody else puts a directory where a file of a batch is to stand, after it was
/// prepared. The batch ends there; no recovery completes it behind the caller's back, and
/// none fails on it.
#[test]
fn a_batch_that_fails_while_it_is_applied_is_not_completed_later() {
    for seed in 0..RUNS {
        let lab = Lab::new(LOGGED[seed as usize % 2], seed, true, PlantedBugs::default());
        lab.files.write("before", "x").expect("nothing fails");
        let (backing, in_way) = (lab.backing.clone(), AtomicU64::new(0));
        lab.backing.on_fence(Some(Arc::new(move |point| {
            if point == FencePoint::WriteBack && in_way.fetch_add(1, Ordering::Relaxed) == 0 {
                let root = backing.root().expect("a root").object;
                let mode = NewMode { mode: 0o755, umask: 0 };
                let made = backing.make_dir(NOBODY, &root, OsStr::new("b"), mode);
                made.expect("the name is free");
            }
            for cut in 0..CUTS {
                let crashed = backing.crash(seed * 100 + cut);
                recover(&crashed, None, &mut |_| {}).expect("a recovery");
            }
        })));
        let batch = lab.files.batch().write("a", "1").write("b", "2").write("c", "3");
        let error = batch.commit().expect_err("a directory is in the way");
        lab.backing.on_fence(None);
        assert_eq!((error.failed_at, error.completed), (1, 1), "{error}");
        assert_eq!(error.source.errno(), Some(Errno::ISDIR));
        for cut in 0..20 {
            let crashed = lab.backing.crash(cut);
            recover(&crashed, None, &mut |_| {}).expect("a recovery");
            let found = state_of(&crashed);
            assert_eq!(found.get("a"), Some(&b"1".to_vec()), "seed {seed}: said to be durable");
            assert_eq!(found.get("c"), None, "seed {seed}: said not to be done");
        }
        // And everything goes on.
        lab.files.batch().write("d", "4").write("e", "5").commit().expect("nothing fails");
        let crashed = lab.backing.crash(seed);
        recover(&crashed, None, &mut |_| {}).expect("a recovery");
        assert_eq!(state_of(&crashed).get("e"), Some(&b"5".to_vec()));
    }
}
