//! Operations on names and attributes that no sync follows, and now and then a sync of something
//! else: with a log it covers everything that had been done before, and the order of operations holds.
//!
//! After a power cut the names, modes, attributes and links must be exactly as after one of the steps
//! from the last covered one up to the last that had begun. Contents are promised only to files that
//! were synced themselves; of the others each sector holds what was written there or zeros, and a
//! truncation counts as an operation like the others.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};

use super::contents::{SECTOR_BYTES, sectors};
use super::history::{Change, FileHistory, Window};
use super::{Place, Workload, run_actors};
use crate::powercut::notes::{Notes, Progress, Promised};
use crate::random::Random;

/// The file that is synced for the sake of the others.
const ANCHOR: &str = "anchor";
const XATTR: &str = "user.order";
/// With so many names things are removed rather than made.
const NAMES_MAX: usize = 60;
/// Created with these: no umask takes anything away.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Create {
        at: String,
        sectors: u64,
    },
    MakeDir {
        at: String,
    },
    Symlink {
        at: String,
    },
    Link {
        from: String,
        to: String,
    },
    /// Also of directories, and over files.
    Rename {
        from: String,
        to: String,
    },
    /// RENAME_EXCHANGE.
    Exchange {
        one: String,
        other: String,
    },
    Unlink {
        at: String,
    },
    RemoveDir {
        at: String,
    },
    Chmod {
        at: String,
        mode: u32,
    },
    Xattr {
        at: String,
    },
    Truncate {
        at: String,
        sectors: u64,
    },
    Append {
        at: String,
        first: u64,
        sectors: u64,
    },
    /// After appending so much; of a directory, too.
    Sync {
        at: String,
        first: u64,
        sectors: u64,
        data_only: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Symlink,
}

/// What a name stands for, as far as the order of operations decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    kind: Kind,
    mode: u32,
    /// The step that set the attribute.
    xattr: Option<u64>,
}

/// Names and what they stand for; a node's number is the step that made it.
#[derive(Clone, Debug, Default)]
struct Model {
    names: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    contents: BTreeMap<u64, Content>,
}

/// A file's content and the steps that synced it.
#[derive(Clone, Debug)]
struct Content {
    history: FileHistory,
    syncs: Vec<u64>,
}

impl Model {
    /// What `prepare` leaves.
    fn start() -> Self {
        let mut model = Model::default();
        model.make(0, ANCHOR, Kind::File, FILE_MODE);
        model
    }

    fn make(&mut self, step: u64, at: &str, kind: Kind, mode: u32) {
        self.names.insert(at.to_owned(), step);
        self.nodes.insert(step, Node { kind, mode, xattr: None });
        if kind == Kind::File {
            self.contents.insert(step, Content { history: FileHistory::new(), syncs: Vec::new() });
        }
    }

    fn node(&self, at: &str) -> &Node {
        &self.nodes[&self.names[at]]
    }

    fn node_mut(&mut self, at: &str) -> &mut Node {
        self.nodes.get_mut(&self.names[at]).expect("every name has a node")
    }

    fn content(&mut self, at: &str) -> Option<&mut Content> {
        self.contents.get_mut(&self.names[at])
    }

    fn change(&mut self, step: u64, at: &str, change: Change) {
        if let Some(content) = self.content(at) {
            content.history.apply(step, change);
        }
    }

    fn apply(&mut self, step: u64, act: &Act) {
        let write = |first, count| Change::Write { first, count };
        match act {
            Act::Create { at, sectors } => {
                self.make(step, at, Kind::File, FILE_MODE);
                if *sectors > 0 {
                    self.change(step, at, write(0, *sectors));
                }
            }
            Act::MakeDir { at } => self.make(step, at, Kind::Directory, DIRECTORY_MODE),
            Act::Symlink { at } => self.make(step, at, Kind::Symlink, 0o777),
            Act::Link { from, to } => {
                self.names.insert(to.clone(), self.names[from]);
            }
            Act::Rename { from, to } => self.rename(from, to),
            Act::Exchange { one, other } => {
                let (left, right) = (self.names[one], self.names[other]);
                self.names.insert(one.clone(), right);
                self.names.insert(other.clone(), left);
            }
            Act::Unlink { at } | Act::RemoveDir { at } => {
                self.names.remove(at);
            }
            Act::Chmod { at, mode } => self.node_mut(at).mode = *mode,
            Act::Xattr { at } => self.node_mut(at).xattr = Some(step),
            Act::Truncate { at, sectors } => {
                self.change(step, at, Change::Truncate { sectors: *sectors });
            }
            Act::Append { at, first, sectors } => self.change(step, at, write(*first, *sectors)),
            Act::Sync { at, first, sectors, .. } => {
                if *sectors > 0 {
                    self.change(step, at, write(*first, *sectors));
                }
                // The actor's own directory has no name here.
                if !at.is_empty()
                    && let Some(content) = self.content(at)
                {
                    content.syncs.push(step);
                }
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let node = self.names.remove(from).expect("drawn from what is there");
        self.names.insert(to.to_owned(), node);
        let inside = format!("{from}/");
        let below: Vec<_> = self.names.keys().filter(|n| n.starts_with(&inside)).cloned().collect();
        for name in below {
            let node = self.names.remove(&name).expect("just seen");
            self.names.insert(format!("{to}/{}", &name[inside.len()..]), node);
        }
    }

    fn of(&self, keep: impl Fn(Kind) -> bool) -> Vec<String> {
        let names = self.names.iter().filter(|(name, _)| *name != ANCHOR);
        names
            .filter(|(_, node)| keep(self.nodes[node].kind))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn length(&self, at: &str) -> u64 {
        self.contents.get(&self.names[at]).map_or(0, |content| content.history.length())
    }
}

/// Actors with a directory each.
struct Order {
    seed: u64,
    actors: Vec<Vec<Act>>,
}

/// One program: everything in one order.
pub fn single(seed: u64) -> Box<dyn Workload> {
    Order::boxed(seed, 1, 1400)
}

/// Several programs, whose syncs cover each other's operations.
pub fn threads(seed: u64) -> Box<dyn Workload> {
    Order::boxed(seed, 4, 450)
}

impl Order {
    fn boxed(seed: u64, actors: u32, count: u64) -> Box<dyn Workload> {
        let acts_of = |actor: u32| {
            let mut random = Random::new(seed ^ u64::from(actor) << 44);
            let mut model = Model::start();
            let acts = (1..=count).map(|step| {
                let act = draw(&mut random, &model, step);
                model.apply(step, &act);
                act
            });
            acts.collect()
        };
        Box::new(Order { seed, actors: (0..actors).map(acts_of).collect() })
    }

    fn place(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("actor-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let number = u32::try_from(actor).expect("few actors");
        let place = Self::place(root, actor);
        for (step, act) in (1..).zip(&self.actors[actor]) {
            let run = || act.run(&place, (self.seed, number, step));
            match act {
                Act::Sync { .. } => notes.covering(number, step, run)?,
                _ => notes.unacked(number, step, run)?,
            }
        }
        Ok(())
    }
}

fn draw(random: &mut Random, model: &Model, step: u64) -> Act {
    let files = model.of(|kind| kind == Kind::File);
    let directories = model.of(|kind| kind == Kind::Directory);
    if random.below(14) == 0 {
        return draw_sync(random, model, &files, &directories);
    }
    let place = match random.below(directories.len() + 1) {
        0 => String::new(),
        number => format!("{}/", directories[number - 1]),
    };
    let fresh = |letter: char| format!("{place}{letter}{step}");
    if files.len() < 4 {
        return Act::Create { at: fresh('f'), sectors: 2 };
    }
    let leaves = model.of(|kind| kind != Kind::Directory);
    if model.names.len() > NAMES_MAX {
        return Act::Unlink { at: pick(random, &leaves) };
    }
    let file = pick(random, &files);
    let anything = model.of(|kind| kind != Kind::Symlink);
    let at = pick(random, &anything);
    match random.below(24) {
        0..4 => Act::Create { at: fresh('f'), sectors: random.below(12) as u64 },
        4 | 5 => Act::MakeDir { at: fresh('d') },
        6 => Act::Symlink { at: fresh('s') },
        7 | 8 => Act::Link { from: file, to: fresh('l') },
        9..12 => Act::Rename { from: pick(random, &leaves), to: fresh('r') },
        12 | 13 => over_another(random, model, &leaves, file, fresh('r')),
        14 => match moved_directory(random, &directories, &place, step) {
            Some((from, to)) => Act::Rename { from, to },
            None => Act::Chmod { at, mode: draw_mode(random) },
        },
        15 => Act::Chmod { at, mode: draw_mode(random) },
        16 => Act::Xattr { at },
        17 | 18 => Act::Truncate { at: file, sectors: random.below(16) as u64 },
        19 => {
            let (first, sectors) = (model.length(&file), 1 + random.below(8) as u64);
            Act::Append { at: file, first, sectors }
        }
        20 => empty_directory(model).map_or(Act::Xattr { at }, |at| Act::RemoveDir { at }),
        _ => Act::Unlink { at: pick(random, &leaves) },
    }
}

fn draw_mode(random: &mut Random) -> u32 {
    [0o600, 0o644, 0o755, 0o700, 0o640, 0o666][random.below(6)]
}

/// Of the anchor with something new in it, of the clean anchor, of a directory, of a file.
fn draw_sync(random: &mut Random, model: &Model, files: &[String], directories: &[String]) -> Act {
    let of = |at: &str, sectors: u64, data_only| {
        let first = if sectors == 0 { 0 } else { model.length(at) };
        Act::Sync { at: at.to_owned(), first, sectors, data_only }
    };
    match random.below(8) {
        0..3 => of(ANCHOR, 1 + random.below(4) as u64, false),
        3 => of(ANCHOR, 1 + random.below(4) as u64, true),
        4 => of(ANCHOR, 0, false),
        5 => of("", 0, false),
        6 if !directories.is_empty() => of(&pick(random, directories), 0, false),
        _ if !files.is_empty() => of(&pick(random, files), random.below(3) as u64, false),
        _ => of(ANCHOR, 1, false),
    }
}

/// Renamed over, or exchanged with, a name of another inode.
fn over_another(
    random: &mut Random,
    model: &Model,
    leaves: &[String],
    from: String,
    fresh: String,
) -> Act {
    let to = pick(random, leaves);
    if model.names[&to] == model.names[&from] {
        return Act::Rename { from, to: fresh };
    }
    match random.below(3) {
        0 => Act::Exchange { one: from, other: to },
        _ => Act::Rename { from, to },
    }
}

/// A directory and a new name for it that is not below itself.
fn moved_directory(
    random: &mut Random,
    directories: &[String],
    place: &str,
    step: u64,
) -> Option<(String, String)> {
    let from = directories.get(random.below(directories.len() + 1))?;
    let below_itself = place.starts_with(&format!("{from}/"));
    (!below_itself).then(|| (from.clone(), format!("{place}d{step}")))
}

fn empty_directory(model: &Model) -> Option<String> {
    let empty = |path: &String| {
        let inside = format!("{path}/");
        model.names.keys().all(|name| !name.starts_with(&inside))
    };
    model.of(|kind| kind == Kind::Directory).into_iter().find(empty)
}

fn pick(random: &mut Random, names: &[String]) -> String {
    names[random.below(names.len())].clone()
}

impl Act {
    fn run(&self, root: &Path, (seed, actor, step): (u64, u32, u64)) -> io::Result<()> {
        let path = |at: &str| root.join(at);
        let append = |file: &File, first: u64, count: u64| {
            let bytes = sectors(seed, actor, step, first, count);
            file.write_all_at(&bytes, first * SECTOR_BYTES as u64)
        };
        match self {
            Act::Create { at, sectors } => {
                let options = &mut OpenOptions::new();
                let file = options.write(true).create_new(true).mode(FILE_MODE).open(path(at))?;
                append(&file, 0, *sectors)
            }
            Act::MakeDir { at } => DirBuilder::new().mode(DIRECTORY_MODE).create(path(at)),
            Act::Symlink { at } => std::os::unix::fs::symlink(target(step), path(at)),
            Act::Link { from, to } => fs::hard_link(path(from), path(to)),
            Act::Rename { from, to } => fs::rename(path(from), path(to)),
            Act::Exchange { one, other } => {
                let (one, other) = (path(one), path(other));
                Ok(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)?)
            }
            Act::Unlink { at } => fs::remove_file(path(at)),
            Act::RemoveDir { at } => fs::remove_dir(path(at)),
            Act::Chmod { at, mode } => {
                fs::set_permissions(path(at), fs::Permissions::from_mode(*mode))
            }
            Act::Xattr { at } => {
                let value = step.to_string();
                Ok(rustix::fs::setxattr(path(at), XATTR, value.as_bytes(), XattrFlags::empty())?)
            }
            Act::Truncate { at, sectors } => {
                let file = OpenOptions::new().write(true).open(path(at))?;
                file.set_len(sectors * SECTOR_BYTES as u64)
            }
            Act::Append { at, first, sectors } => {
                let file = OpenOptions::new().write(true).open(path(at))?;
                append(&file, *first, *sectors)
            }
            Act::Sync { at, first, sectors, data_only } => {
                if *sectors == 0 {
                    return File::open(path(at))?.sync_all();
                }
                let file = OpenOptions::new().write(true).open(path(at))?;
                append(&file, *first, *sectors)?;
                if *data_only { file.sync_data() } else { file.sync_all() }
            }
        }
    }
}

fn target(step: u64) -> String {
    format!("target-{step}")
}

/// What is below an actor's directory.
type Found = BTreeMap<String, Thing>;

struct Thing {
    node: Node,
    inode: u64,
    links: u64,
    bytes: Vec<u8>,
    target: Option<String>,
}

fn read(root: &Path, below: &str, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let metadata = fs::symlink_metadata(entry.path())?;
        let (mut bytes, mut target) = (Vec::new(), None);
        let kind = if metadata.is_dir() {
            Kind::Directory
        } else if metadata.is_symlink() {
            target = Some(fs::read_link(entry.path())?.to_string_lossy().into_owned());
            Kind::Symlink
        } else {
            bytes = fs::read(entry.path())?;
            Kind::File
        };
        let xattr = if kind == Kind::Symlink { None } else { read_xattr(&entry.path())? };
        let node = Node { kind, mode: metadata.mode() & 0o7777, xattr };
        let (inode, links) = (metadata.ino(), metadata.nlink());
        found.insert(path.clone(), Thing { node, inode, links, bytes, target });
        if kind == Kind::Directory {
            read(root, &path, found)?;
        }
    }
    Ok(())
}

fn read_xattr(path: &Path) -> io::Result<Option<u64>> {
    let mut value = [0; 32];
    match rustix::fs::getxattr(path, XATTR, &mut value[..]) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&value[..length]).into_owned();
            text.parse().map(Some).map_err(|_| io::Error::other(format!("{XATTR} is {text:?}")))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Model {
    /// Whether names and attributes are these.
    fn is(&self, found: &Found) -> Result<(), String> {
        if let Some(name) = found.keys().find(|name| !self.names.contains_key(*name)) {
            return Err(format!("{name} should not be there"));
        }
        let mut inodes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (name, number) in &self.names {
            let Some(thing) = found.get(name) else { return Err(format!("{name} is missing")) };
            let node = self.node(name);
            if thing.node != *node {
                return Err(format!("{name} is {:?}, not {node:?}", thing.node));
            }
            if thing.target.as_ref().is_some_and(|found| *found != target(*number)) {
                return Err(format!("{name} leads to {:?}", thing.target));
            }
            let (inode, count) = inodes.entry(*number).or_insert((thing.inode, 0));
            *count += 1;
            if *inode != thing.inode {
                return Err(format!("{name} is not the file that it is a link of"));
            }
        }
        for (name, number) in &self.names {
            let (thing, (_, count)) = (&found[name], inodes[number]);
            if thing.node.kind != Kind::Directory && thing.links != count {
                return Err(format!("{name} has {} links, not {count}", thing.links));
            }
        }
        Ok(())
    }

    /// Whether the files hold what they may hold.
    fn holds(
        &self,
        found: &Found,
        contents: &BTreeMap<u64, Content>,
        who: (u64, u32),
        progress: Progress,
    ) -> Result<(), String> {
        let is_file = |(_, number): &(&String, &u64)| self.nodes[*number].kind == Kind::File;
        for (name, number) in self.names.iter().filter(is_file) {
            let content = &contents[number];
            let synced = content.syncs.iter().filter(|step| **step <= progress.acked).max();
            let window = Window {
                synced: synced.copied().unwrap_or(0),
                covered: progress.covered,
                begun: progress.begun,
            };
            let judged = content.history.check(&found[name].bytes, who, window);
            judged.map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }
}

/// Judges an actor's directory.
fn check(root: &Path, acts: &[Act], who: (u64, u32), progress: Progress) -> Result<(), String> {
    let mut found = Found::new();
    read(root, "", &mut found).map_err(|error| format!("{}: {error}", root.display()))?;
    let Progress { covered, begun, .. } = progress;
    // Contents are judged with all that had begun: data needs no order.
    let mut last = Model::start();
    let (before, after) = acts.split_at(covered.min(acts.len() as u64) as usize);
    (1..).zip(before).for_each(|(step, act)| last.apply(step, act));
    let mut models = vec![last.clone()];
    for (step, act) in (covered + 1..=begun).zip(after) {
        last.apply(step, act);
        models.push(last.clone());
    }
    // Names alone may agree with several steps: whose content it is, they do not tell.
    let mut differences = Vec::new();
    for (model, step) in models.iter().zip(covered..) {
        match model.is(&found).and_then(|()| model.holds(&found, &last.contents, who, progress)) {
            Ok(()) => return Ok(()),
            Err(difference) => differences.push(format!("after step {step}, {difference}")),
        }
    }
    let agrees = models.iter().position(|model| model.is(&found).is_ok());
    let first = agrees.map_or(&differences[0], |index| &differences[index]);
    let newest = differences.last().expect("one for each model");
    Err(format!("as after none of the steps {covered} to {begun}: {first}; {newest}"))
}

impl Workload for Order {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        (0..self.actors.len()).try_for_each(|actor| {
            let place = Self::place(root, actor);
            fs::create_dir(&place)?;
            let options = &mut OpenOptions::new();
            let anchor = place.join(ANCHOR);
            options.write(true).create_new(true).mode(FILE_MODE).open(anchor).map(drop)
        })
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        run_actors(self.actors.len(), |actor| self.run_actor(&place.root, actor, notes))
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        super::in_words(&self.actors, actor)
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        (0..).zip(&self.actors).try_for_each(|(number, acts)| {
            let place = Self::place(root, number as usize);
            check(&place, acts, (self.seed, number), promised.of(number))
                .map_err(|error| format!("actor-{number}: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: (u64, u32) = (9, 0);

    fn progress(covered: u64, begun: u64) -> Progress {
        Progress { acked: covered, begun, covered }
    }

    // Step by step against the kernel: after each one the model is what is there, and what is there is
    // no state that the promise excludes.
    #[test]
    fn the_model_is_that_of_the_kernel() {
        let place = tempfile::tempdir_in("/tmp").expect("scratch directory");
        let order = single(WHO.0);
        order.prepare(place.path()).expect("a directory");
        let root = place.path().join("actor-0");
        let mut random = Random::new(WHO.0);
        let (mut model, mut acts) = (Model::start(), Vec::new());
        for step in 1..=600 {
            let act = draw(&mut random, &model, step);
            model.apply(step, &act);
            act.run(&root, (WHO.0, WHO.1, step)).unwrap_or_else(|e| panic!("{step} {act:?}: {e}"));
            acts.push(act);
            if step % 7 == 0 {
                let judged = |covered, begun| check(&root, &acts, WHO, progress(covered, begun));
                assert_eq!(judged(step, step), Ok(()), "{:?}", acts.last());
                assert_eq!(judged(step - 5, step), Ok(()));
            }
        }
        let kinds: std::collections::HashSet<_> = acts.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 13, "every kind of operation was drawn");
    }

    #[test]
    fn a_covered_operation_that_is_gone_is_a_loss_and_others_are_not() {
        let place = tempfile::tempdir_in("/tmp").expect("scratch directory");
        single(WHO.0).prepare(place.path()).expect("a directory");
        let root = place.path().join("actor-0");
        let at = |name: &str| name.to_owned();
        let acts = [
            Act::Create { at: at("a"), sectors: 3 },
            Act::Truncate { at: at("a"), sectors: 1 },
            Act::Link { from: at("a"), to: at("b") },
            Act::Chmod { at: at("b"), mode: 0o644 },
        ];
        let run = |number: usize| {
            acts[number].run(&root, (WHO.0, WHO.1, number as u64 + 1)).expect("a step");
        };
        run(0);
        let judged = |covered, begun| check(&root, &acts, WHO, progress(covered, begun));
        assert_eq!(judged(1, 1), Ok(()));
        assert!(judged(2, 2).is_err(), "the truncation is covered");
        assert_eq!(judged(1, 4), Ok(()), "nothing else is covered");
        fs::write(root.join("a"), "").expect("scratch");
        assert_eq!(judged(1, 1), Ok(()), "its content was never synced");
        fs::write(root.join("a"), [1; 512]).expect("scratch");
        assert!(judged(1, 1).is_err(), "nobody wrote that");
        fs::remove_file(root.join("a")).expect("scratch");
        run(0);
        run(1);
        run(2);
        assert_eq!(judged(3, 4), Ok(()));
        let error = judged(4, 4).unwrap_err();
        assert!(error.contains("384") || error.contains("mode"), "{error}");
    }
}
