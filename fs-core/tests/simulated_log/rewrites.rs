//! Programs that rewrite their files in place, and power cuts: each file is as it was
//! before a rewrite or as it is after it, never empty, short or mixed.
//!
//! A rewrite cuts a file to nothing in one of the ways that programs use, writes it in
//! some pieces and closes it; others sync, replace files by rename and go on meanwhile,
//! also within a fence, and daemons are killed.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fs_core::engine::{Engine, FileId, NodeId, Tree};
use fs_core::log::recovery::recover;
use fs_core::log::{LogConfig, PlantedBugs};
use fs_core::platform::sim::{Random, SimBacking};
use fs_core::platform::{Backing, OpenMode, RenameMode};
use fs_core::types::{NewMode, SetAttr, SyncKind, type_bits};

use crate::campaign::{MODELS, number, plan};
use crate::disk::{self, LogShape, new_disk};
use crate::shape::NOBODY;

const FILES: usize = 4;
const BYTES_MAX: u64 = 20_000;
const STEPS: usize = 90;
const CUTS: u64 = 3;
/// Seeds of one test run.
const SEEDS: u64 = if cfg!(debug_assertions) { 20 } else { 2000 };
const FILE: NewMode = NewMode { mode: 0o644 | type_bits::S_IFREG, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const WRITE: OpenMode = OpenMode { read: false, ..READ_WRITE };

/// One file, by its name.
struct Rewritten {
    /// What it has held, whole.
    versions: Vec<Vec<u8>>,
    /// The last of them that a sync has promised.
    promised: usize,
    /// Being rewritten.
    under_way: Option<Rewrite>,
    made: u64,
    /// Once there was no copy of it, on a disk that fails: that is counted, and promises nothing.
    unprotected: bool,
}

struct Rewrite {
    file: FileId,
    content: Vec<u8>,
    written: usize,
    /// Through its open file.
    has_cut: bool,
}

struct World {
    backing: SimBacking,
    config: LogConfig,
    shape: LogShape,
    engine: Arc<Engine<SimBacking>>,
    tree: Arc<Tree<SimBacking>>,
    files: Vec<Rewritten>,
    random: Random,
    /// Written, to be closed.
    open: Vec<(usize, FileId)>,
    /// Programs cut their file again in the middle of writing it.
    starts_over: bool,
    /// Writing in place fails now and then.
    fails: bool,
    kill_one_in: u64,
    tells_mounts: bool,
    crashes: u64,
    in_words: bool,
    loss: Option<String>,
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn file_name(index: usize) -> String {
    format!("file-{index}")
}

/// Other bytes in every sector, version and file.
fn content(index: usize, version: u64, bytes: u64) -> Vec<u8> {
    let mut random = Random::new(version << 8 | index as u64);
    let mut content = Vec::with_capacity(bytes as usize);
    while (content.len() as u64) < bytes {
        let word = random.word();
        let sector = (bytes as usize - content.len()).min(512);
        content.extend(word.to_le_bytes().iter().cycle().take(sector));
    }
    content
}

fn read(backing: &SimBacking, index: usize) -> Vec<u8> {
    let root = backing.root().expect("a root").object;
    let Ok(found) = backing.lookup(&root, name(&file_name(index))) else { return Vec::new() };
    let file = backing.open(NOBODY, &found.object, READ_WRITE).expect("it opens");
    let mut content = vec![0; found.attr.size as usize];
    backing.read(&file, &mut content, 0).expect("it can be read");
    content
}

/// What is done while nobody holds the world.
#[derive(Clone, Copy)]
enum Pause {
    Nothing,
    Checkpoint,
    /// Syncs an open file, then closes it.
    Sync {
        index: usize,
        file: FileId,
    },
    Close {
        index: usize,
        file: FileId,
    },
}

impl World {
    fn new(seed: u64, bugs: PlantedBugs, fails: bool) -> Self {
        let mut plan = plan(MODELS[seed as usize % 2], seed);
        let mut random = Random::new(seed ^ 0x2e11);
        plan.log.bugs = bugs;
        plan.log.rewrite_bytes_max = BYTES_MAX;
        let starts_over = random.one_in(2);
        plan.log.rewrite_kept = Duration::from_secs(if starts_over { 60 } else { 0 });
        let backing = new_disk(plan.options.clone(), plan.shape);
        let started = disk::start(&backing, &plan.log, plan.shape, &mut |_| {});
        let engine = started.expect("a log opens").0;
        let tree = engine.add_tree(backing.clone()).expect("a tree");
        let mut world = Self {
            backing,
            config: plan.log,
            shape: plan.shape,
            engine,
            tree,
            files: Vec::new(),
            random,
            open: Vec::new(),
            starts_over,
            fails,
            // Everything is written anew then, which a test cannot tell from a lie.
            kill_one_in: if fails { 0 } else { plan.kill_one_in },
            tells_mounts: plan.options.tells_mounts,
            crashes: 0,
            in_words: plan.in_words,
            loss: None,
        };
        for index in 0..FILES {
            let bytes = 1 + world.random.below(BYTES_MAX);
            let first = content(index, 0, bytes);
            let file = world.create(&file_name(index));
            world.write(file, &first, 0);
            world.tree.release(file);
            let versions = vec![first];
            let under_way = None;
            let file = Rewritten { versions, promised: 0, under_way, made: 0, unprotected: false };
            world.files.push(file);
        }
        world.engine.flush(Duration::ZERO).expect("a sync of everything");
        world
    }

    fn create(&self, text: &str) -> FileId {
        let made = self.tree.create(NOBODY, NodeId::ROOT, name(text), FILE, READ_WRITE, false);
        made.expect("a file").1
    }

    fn write(&self, file: FileId, data: &[u8], offset: usize) {
        let written = self.tree.write(NOBODY, file, data, offset as u64, true);
        assert_eq!(written, Ok(data.len()));
    }

    fn node(&self, index: usize) -> NodeId {
        self.tree.lookup(NodeId::ROOT, name(&file_name(index))).expect("it is there").id
    }

    fn step(&mut self, outside: bool) -> Pause {
        let index = self.random.index(FILES);
        if self.fails && self.random.one_in(6) {
            self.backing.fail_sync(1 + self.random.below(3));
        }
        if self.files[index].under_way.is_some() {
            return self.go_on(index, outside);
        }
        match self.random.below(12) {
            0..7 => self.begin(index),
            7 => self.replace(index),
            8 | 9 if outside => {
                let node = self.node(index);
                let file = self.tree.open(NOBODY, node, READ_WRITE, false).expect("it opens");
                return Pause::Sync { index, file };
            }
            10 if outside => return Pause::Checkpoint,
            _ => {}
        }
        Pause::Nothing
    }

    /// Cuts the file to nothing, as programs do.
    fn begin(&mut self, index: usize) {
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        let text = file_name(index);
        let unprotected = self.unprotected();
        let way = self.random.below(4);
        let file = match way {
            0 => {
                let mode = OpenMode { truncate: true, ..WRITE };
                self.tree.open(NOBODY, self.node(index), mode, false)
            }
            1 => {
                let mode = OpenMode { truncate: true, ..READ_WRITE };
                let made = self.tree.create(NOBODY, NodeId::ROOT, name(&text), FILE, mode, false);
                made.map(|(_, file)| file)
            }
            2 => {
                let node = self.node(index);
                let file = self.tree.open(NOBODY, node, WRITE, false).expect("it opens");
                self.tree.set_attr(NOBODY, node, Some(file), &cut).map(|_| file)
            }
            _ => {
                let node = self.node(index);
                self.tree.set_attr(NOBODY, node, None, &cut).expect("it can be cut");
                self.tree.open(NOBODY, node, WRITE, false)
            }
        };
        let bytes = 1 + self.random.below(BYTES_MAX);
        let has_no_copy = self.unprotected() > unprotected;
        let state = &mut self.files[index];
        state.unprotected |= has_no_copy;
        state.made += 1;
        let content = content(index, state.made, bytes);
        let file = file.expect("it opens");
        state.under_way = Some(Rewrite { file, content, written: 0, has_cut: way < 3 });
    }

    /// Rewrites so far that had to go without a copy.
    fn unprotected(&self) -> u64 {
        self.engine.log().expect("a log").rewrite_status().failed
    }

    /// Writes a piece; when all is written, the file is to be closed.
    fn go_on(&mut self, index: usize, outside: bool) -> Pause {
        let Some(mut rewrite) = self.files[index].under_way.take() else { return Pause::Nothing };
        if self.starts_over && rewrite.has_cut && rewrite.written > 0 && self.random.one_in(12) {
            let cut = SetAttr { size: Some(0), ..SetAttr::default() };
            let node = self.node(index);
            self.tree.set_attr(NOBODY, node, Some(rewrite.file), &cut).expect("it can be cut");
            rewrite.written = 0;
        }
        let rest = rewrite.content.len() - rewrite.written;
        if rest > 0 {
            let bytes = 1 + self.random.index(rest);
            let piece: Range<usize> = rewrite.written..rewrite.written + bytes;
            self.write(rewrite.file, &rewrite.content[piece], rewrite.written);
            rewrite.written += bytes;
            self.files[index].under_way = Some(rewrite);
            return Pause::Nothing;
        }
        let file = rewrite.file;
        // From here on it may be found.
        self.files[index].versions.push(rewrite.content);
        match outside && self.random.one_in(5) {
            true => Pause::Sync { index, file },
            false => Pause::Close { index, file },
        }
    }

    fn replace(&mut self, index: usize) {
        let bytes = 1 + self.random.below(BYTES_MAX);
        self.files[index].made += 1;
        let content = content(index, self.files[index].made, bytes);
        let temporary = format!("new-{index}");
        let file = self.create(&temporary);
        // In pieces: the kernel may write some of it, and commit its journal, in between.
        let mut written = 0;
        while written < content.len() {
            let end = written + 1 + self.random.index(content.len() - written);
            self.write(file, &content[written..end], written);
            written = end;
        }
        self.tree.release(file);
        self.files[index].versions.push(content);
        let (from, to) = (name(&temporary).to_owned(), file_name(index));
        let names = ((NodeId::ROOT, &*from), (NodeId::ROOT, name(&to)));
        let renamed = self.tree.rename(names.0, names.1, RenameMode::default());
        if self.fails && renamed.is_err() {
            // The old file stays, and who could not replace it begins anew.
            self.files[index].versions.pop();
            self.tree.unlink(NodeId::ROOT, name(&temporary)).expect("it can be removed");
            return;
        }
        renamed.expect("a rename");
    }

    /// The daemon dies, and is started again; what it was rewriting stays as it was.
    fn kill(&mut self) {
        let before: Vec<_> = (0..FILES).map(|index| read(&self.backing, index)).collect();
        // Written, and not closed: what happens while others are closed is for the next round.
        let still_open: Vec<_> = self.open.drain(..).map(|(index, _)| index).collect();
        let started = disk::start(&self.backing, &self.config, self.shape, &mut |_| {});
        self.engine = started.expect("it starts again").0;
        self.tree = self.engine.add_tree(self.backing.clone()).expect("a tree");
        for (index, before) in before.into_iter().enumerate() {
            let now = read(&self.backing, index);
            let state = &mut self.files[index];
            let was_whole = state.under_way.take().is_none() && !still_open.contains(&index);
            if now != before && (was_whole || self.tells_mounts) {
                self.loss = Some(format!("a restart changes {}", file_name(index)));
            } else if now != before && !state.versions.contains(&now) {
                self.loss = Some(format!("a restart mixes {}", file_name(index)));
            }
            state.versions.push(now);
            if !was_whole {
                self.mend(index);
            }
        }
        self.engine.flush(Duration::ZERO).expect("a sync of everything");
        for state in &mut self.files {
            state.promised = state.versions.len() - 1;
        }
    }

    /// An empty file is like a new one: what is written to it has nothing to go back to.
    fn mend(&mut self, index: usize) {
        let file = self.tree.open(NOBODY, self.node(index), WRITE, false).expect("it opens");
        self.write(file, b"mended", 0);
        self.tree.release(file);
        self.files[index].versions.push(read(&self.backing, index));
    }

    fn cut_power(&mut self) {
        for _ in 0..CUTS {
            let crashed = self.backing.crash(self.random.word());
            let nested = self.random.one_in(6);
            let images = Mutex::new(Vec::new());
            let take = || {
                let mut images = images.lock().expect("one thread");
                if nested && images.len() < 8 {
                    let image = crashed.crash(images.len() as u64);
                    images.push(image);
                }
            };
            let by_engine = self.random.one_in(3);
            let before = disk::describe_if(self.in_words, &crashed, self.shape);
            let recovered =
                disk::mend(&crashed, &self.config, self.shape, by_engine, &mut |_| take());
            recovered.expect("a recovery");
            self.judge(&crashed, &before);
            take();
            for image in images.into_inner().expect("one thread") {
                let before = disk::describe_if(self.in_words, &image, self.shape);
                let log = disk::elsewhere(&image, self.shape);
                recover(&image, log, &mut |_| {}).expect("a second recovery");
                self.judge(&image, &format!("after an interrupted recovery\n{before}"));
            }
        }
    }

    fn judge(&mut self, disk: &SimBacking, how: &str) {
        self.crashes += 1;
        for index in 0..FILES {
            let found = read(disk, index);
            let state = &self.files[index];
            if state.unprotected || state.versions[state.promised..].contains(&found) {
                continue;
            }
            let old = state.versions.iter().position(|version| *version == found);
            let what = match old {
                Some(version) => {
                    format!("has version {version}, {} was promised", state.promised)
                }
                None => format!("has {} bytes of no version", found.len()),
            };
            let under_way = state.under_way.is_some();
            let told = format!("{} {what}, rewriting {under_way}\n{how}", file_name(index));
            self.loss.get_or_insert(told);
        }
    }
}

/// A world that what runs within its own fences works on, too.
#[derive(Clone)]
struct Run(Arc<Mutex<World>>);

impl Run {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("an assertion failed, see above")
    }

    fn step(&self) {
        let pause = self.world().step(true);
        self.carry_out(pause);
    }

    fn carry_out(&self, pause: Pause) {
        let tree = Arc::clone(&self.world().tree);
        let engine = Arc::clone(&self.world().engine);
        match pause {
            Pause::Nothing => {}
            Pause::Close { file, .. } => tree.release(file),
            Pause::Checkpoint => {
                let _ = engine.log().expect("a log").checkpoint();
            }
            Pause::Sync { index, file } => {
                let version = self.world().files[index].versions.len() - 1;
                let run = self.clone();
                let done = move |result: fs_core::error::Result<()>| {
                    let state = &mut run.world().files[index];
                    if result.is_ok() {
                        state.promised = version.max(state.promised);
                    }
                };
                tree.sync_file(NOBODY, file, SyncKind::Full, Box::new(done));
                tree.release(file);
            }
        }
    }

    /// What others do within a fence, and cuts of the power in it.
    fn within_fence(&self) {
        // Within a step: nobody acts.
        let Ok(mut world) = self.0.try_lock() else { return };
        for _ in 0..world.random.below(3) {
            // What would wait is for later: its file stays open.
            if let Pause::Close { index, file } = world.step(false) {
                world.open.push((index, file));
            }
        }
        if world.random.one_in(3) {
            world.cut_power();
        }
    }
}

/// One seed; crashes, or what was lost.
fn run(seed: u64, bugs: PlantedBugs, fails: bool) -> Result<u64, String> {
    let run = Run(Arc::new(Mutex::new(World::new(seed, bugs, fails))));
    let backing = run.world().backing.clone();
    let hook = run.clone();
    backing.on_fence(Some(Arc::new(move |_| hook.within_fence())));
    for step in 0..STEPS {
        run.step();
        let left_open = std::mem::take(&mut run.world().open);
        for (index, file) in left_open {
            run.carry_out(Pause::Close { index, file });
        }
        let mut world = run.world();
        if world.kill_one_in > 0 && world.random.one_in(20) {
            world.kill();
        }
        if world.random.one_in(3) {
            world.cut_power();
        }
        if let Some(loss) = world.loss.take() {
            backing.on_fence(None);
            return Err(format!("seed {seed}, step {step}: {loss}"));
        }
    }
    backing.on_fence(None);
    let crashes = run.world().crashes;
    Ok(crashes)
}

fn campaign(test: &str, fails: bool) {
    if let Some(seed) = number("LANEFS_SIM_SEED") {
        println!("{:?}", run(seed, PlantedBugs::default(), fails));
        return;
    }
    let wanted = number("LANEFS_SIM_CRASHES");
    let first = number("LANEFS_SIM_FIRST").unwrap_or(0);
    let (mut crashes, mut seed) = (0, first);
    while wanted.map_or(seed < first + SEEDS, |wanted| crashes < wanted) {
        match run(seed, PlantedBugs::default(), fails) {
            Ok(more) => crashes += more,
            Err(loss) => panic!("{test}: {loss}"),
        }
        seed += 1;
    }
    println!("{test}: {crashes} crashes, {} seeds", seed - first);
}

#[test]
fn rewrites_are_all_or_nothing() {
    campaign("rewrites_are_all_or_nothing", false);
}

/// Also when the new content cannot be written in place, and counts as clean afterwards.
#[test]
fn rewrites_that_cannot_be_written_leave_the_old_content() {
    campaign("rewrites_that_cannot_be_written_leave_the_old_content", true);
}

/// Without a copy of what was there before, a rewrite is not: the campaign sees it.
#[test]
fn rewrites_without_a_copy_are_found() {
    let bugs = PlantedBugs { no_undo: true, ..PlantedBugs::default() };
    let found = (0..50).find_map(|seed| run(seed, bugs, false).err());
    assert!(found.is_some(), "50 seeds lost nothing");
}
