//! Programs that change names: editors, mail servers, package managers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::tree::{Step, Thing, Tree, check};
use super::{Place, Workload, run_actors};
use crate::powercut::notes::{Notes, Promised};
use crate::random::Random;

/// Actors with a directory each, which start from the same tree.
struct NamesWorkload {
    seed: u64,
    start: Tree,
    actors: Vec<Vec<Step>>,
}

/// Crash-safe replaces of a few files.
pub fn replace(seed: u64) -> Box<dyn Workload> {
    NamesWorkload::boxed(seed, 4, 140, &[], |random, _, _| Step::Replace {
        at: format!("file-{}", random.below(3)),
        sectors: 1 + random.below(16) as u64,
    })
}

/// Mail delivery: written in `tmp`, moved to `new`, later to `cur`, removed at last.
pub fn maildir(seed: u64) -> Box<dyn Workload> {
    NamesWorkload::boxed(seed, 3, 190, &["tmp", "new", "cur"], |random, tree, number| {
        let waiting = |place: &str| names(tree, |path| path.starts_with(place));
        if let Some(message) = waiting("tmp/").first() {
            return Step::Rename { from: message.clone(), to: message.replacen("tmp", "new", 1) };
        }
        let (new, cur) = (waiting("new/"), waiting("cur/"));
        match random.below(4) {
            0 if !new.is_empty() => {
                let from = pick(random, &new);
                Step::Rename { to: from.replacen("new", "cur", 1), from }
            }
            1 if !cur.is_empty() => Step::Unlink { at: pick(random, &cur) },
            _ => Step::Create {
                at: format!("tmp/message-{number}"),
                sectors: 1 + random.below(16) as u64,
            },
        }
    })
}

/// Creations, renames, links, removals over several directories.
pub fn mixed(seed: u64) -> Box<dyn Workload> {
    NamesWorkload::boxed(seed, 3, 200, &["a", "b", "b/c"], |random, tree, number| {
        let files = names(tree, |path| matches!(tree.things[path], Thing::File { .. }));
        let directories = names(tree, |path| tree.things[path] == Thing::Directory);
        let place = pick(random, &directories);
        let fresh = format!("{place}/n{number}");
        if files.is_empty() {
            return Step::Create { at: fresh, sectors: 2 };
        }
        let file = pick(random, &files);
        match random.below(10) {
            0 | 1 => Step::Create { at: fresh, sectors: 1 + random.below(8) as u64 },
            2 => Step::Replace { at: file, sectors: 1 + random.below(8) as u64 },
            3 | 4 => Step::Rename { from: file, to: fresh },
            5 => rename_over(random, tree, &files, file, fresh),
            6 => Step::Link { from: file, to: fresh },
            7 => Step::MakeDir { at: format!("{place}/d{number}") },
            8 => removable(tree).map_or(Step::Unlink { at: file }, |at| Step::RemoveDir { at }),
            _ => Step::Unlink { at: file },
        }
    })
}

/// Over another file; not over a name of the same inode, which POSIX says does nothing.
fn rename_over(
    random: &mut Random,
    tree: &Tree,
    files: &[String],
    from: String,
    fresh: String,
) -> Step {
    let to = pick(random, files);
    let to = if tree.things[&to] == tree.things[&from] { fresh } else { to };
    Step::Rename { from, to }
}

/// An empty directory that was not there from the start.
fn removable(tree: &Tree) -> Option<String> {
    let made = |path: &&String| path.rsplit('/').next().is_some_and(|name| name.starts_with('d'));
    let empty = |path: &&String| {
        let inside = format!("{path}/");
        tree.things.keys().all(|other| !other.starts_with(&inside))
    };
    let is_directory = |path: &&String| tree.things[*path] == Thing::Directory;
    tree.things.keys().filter(made).filter(is_directory).find(empty).cloned()
}

fn names(tree: &Tree, keep: impl Fn(&str) -> bool) -> Vec<String> {
    tree.things.keys().filter(|path| keep(path)).cloned().collect()
}

fn pick(random: &mut Random, names: &[String]) -> String {
    names[random.below(names.len())].clone()
}

impl NamesWorkload {
    fn boxed(
        seed: u64,
        actors: u32,
        count: u64,
        directories: &[&str],
        draw: impl Fn(&mut Random, &Tree, u64) -> Step,
    ) -> Box<dyn Workload> {
        let things = directories.iter().map(|name| ((*name).to_owned(), Thing::Directory));
        let start = Tree { things: things.collect() };
        let steps_of = |actor: u32| {
            let mut random = Random::new(seed ^ u64::from(actor) << 40);
            let mut tree = start.clone();
            let mut steps = Vec::new();
            for number in 1..=count {
                let step = draw(&mut random, &tree, number);
                tree.apply(number, &step);
                steps.push(step);
            }
            steps
        };
        let actors = (0..actors).map(steps_of).collect();
        Box::new(NamesWorkload { seed, start, actors })
    }

    fn place(root: &Path, actor: usize) -> PathBuf {
        root.join(format!("actor-{actor}"))
    }

    fn run_actor(&self, root: &Path, actor: usize, notes: &Notes<'_>) -> io::Result<()> {
        let number = u32::try_from(actor).expect("few actors");
        let place = Self::place(root, actor);
        for (step_number, step) in (1..).zip(&self.actors[actor]) {
            notes.acked(number, step_number, || {
                step.run(&place, (self.seed, number, step_number))
            })?;
        }
        Ok(())
    }
}

impl Workload for NamesWorkload {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        for actor in 0..self.actors.len() {
            let place = Self::place(root, actor);
            fs::create_dir(&place)?;
            self.start.things.keys().try_for_each(|path| fs::create_dir(place.join(path)))?;
        }
        Ok(())
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        run_actors(self.actors.len(), |actor| self.run_actor(&place.root, actor, notes))
    }

    fn steps(&self, actor: u32) -> Vec<String> {
        super::in_words(&self.actors, actor)
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        for (actor, steps) in self.actors.iter().enumerate() {
            let number = u32::try_from(actor).expect("few actors");
            let progress = promised.of(number);
            let window = (progress.acked, progress.begun);
            let place = Self::place(root, actor);
            check(&place, &self.start, steps, (self.seed, number), window, promised.log)
                .map_err(|error| format!("actor-{actor}: {error}"))?;
        }
        Ok(())
    }
}
