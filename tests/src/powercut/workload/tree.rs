//! What a directory tree may look like after a power cut: as after the last acknowledged step, or as
//! after the one that had begun.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::contents::sectors;

/// One change of names, made durable by syncing every directory that it touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new file: written, fsynced.
    Create { at: String, sectors: u64 },
    /// Written beside (`NAME.tmp`), fsynced, renamed over.
    Replace { at: String, sectors: u64 },
    /// Moves a name; replaces a file that has the new one.
    Rename { from: String, to: String },
    /// One more name.
    Link { from: String, to: String },
    /// A name less.
    Unlink { at: String },
    /// A new directory.
    MakeDir { at: String },
    /// An empty one less.
    RemoveDir { at: String },
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A directory.
    Directory,
    /// A file, with what the step of this number wrote.
    File { step: u64, sectors: u64 },
}

/// Names and what they stand for, below an actor's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path.
    pub things: BTreeMap<String, Thing>,
}

impl Tree {
    /// Applies step `number`.
    pub fn apply(&mut self, number: u64, step: &Step) {
        match step {
            Step::Create { at, sectors } | Step::Replace { at, sectors } => {
                self.things.insert(at.clone(), Thing::File { step: number, sectors: *sectors });
            }
            Step::Rename { from, to } => {
                let thing = self.things.remove(from).expect("drawn from what is there");
                self.things.insert(to.clone(), thing);
            }
            Step::Link { from, to } => {
                let thing = self.things[from];
                self.things.insert(to.clone(), thing);
            }
            Step::Unlink { at } | Step::RemoveDir { at } => {
                self.things.remove(at);
            }
            Step::MakeDir { at } => {
                self.things.insert(at.clone(), Thing::Directory);
            }
        }
    }

    /// Whether what was found is this tree; names in `loose` may be there or not, with any content.
    fn is(&self, found: &Found, loose: &[String], (seed, actor): (u64, u32)) -> Result<(), String> {
        let strict = |path: &&String| !loose.contains(path);
        for (path, thing) in self.things.iter().filter(|(path, _)| strict(path)) {
            match (thing, found.get(path)) {
                (_, None) => return Err(format!("{path} is missing")),
                (Thing::Directory, Some(None)) => {}
                (Thing::File { step, sectors: count }, Some(Some(bytes))) => {
                    if *bytes != sectors(seed, actor, *step, 0, *count) {
                        let length = bytes.len();
                        return Err(format!(
                            "{path} ({length} bytes) is not what step {step} wrote"
                        ));
                    }
                }
                _ => return Err(format!("{path} is of another kind")),
            }
        }
        // A temporary's old name beside its new one breaks no promise about the file, and programs
        // clear such names away. (Bare btrfs leaves some when others commit in between.)
        let surplus = |path: &&String| !self.things.contains_key(*path) && !path.ends_with(".tmp");
        match found.keys().filter(strict).find(surplus) {
            Some(path) => Err(format!("{path} should not be there")),
            None => Ok(()),
        }
    }
}

impl Step {
    /// Makes the change below `root` and makes it durable.
    ///
    /// # Errors
    /// The filesystem's.
    pub fn run(&self, root: &Path, (seed, actor, number): (u64, u32, u64)) -> io::Result<()> {
        let write = |at: &str, count: u64| {
            let mut file = File::create(root.join(at))?;
            file.write_all(&sectors(seed, actor, number, 0, count))?;
            file.sync_all()
        };
        match self {
            Step::Create { at, sectors } => {
                write(at, *sectors)?;
                sync_parent(root, at)
            }
            Step::Replace { at, sectors } => {
                write(&temporary(at), *sectors)?;
                fs::rename(root.join(temporary(at)), root.join(at))?;
                sync_parent(root, at)
            }
            Step::Rename { from, to } => {
                fs::rename(root.join(from), root.join(to))?;
                sync_parent(root, to)?;
                sync_parent(root, from)
            }
            Step::Link { from, to } => {
                fs::hard_link(root.join(from), root.join(to))?;
                sync_parent(root, to)
            }
            Step::Unlink { at } => {
                fs::remove_file(root.join(at))?;
                sync_parent(root, at)
            }
            Step::MakeDir { at } => {
                fs::create_dir(root.join(at))?;
                sync_parent(root, at)
            }
            Step::RemoveDir { at } => {
                fs::remove_dir(root.join(at))?;
                sync_parent(root, at)
            }
        }
    }

    /// Names that may have any state while the step is under way.
    fn loose(&self, log: bool) -> Vec<String> {
        match self {
            Step::Create { at, .. } => vec![at.clone()],
            Step::Replace { at, .. } => vec![temporary(at)],
            // Between the syncs of two directories one may be ahead of the other (btrfs); with a log
            // a rename is one operation.
            Step::Rename { from, to } if parent(from) != parent(to) && !log => {
                vec![from.clone(), to.clone()]
            }
            _ => Vec::new(),
        }
    }
}

fn temporary(at: &str) -> String {
    format!("{at}.tmp")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn sync_parent(root: &Path, path: &str) -> io::Result<()> {
    File::open(root.join(parent(path)))?.sync_all()
}

/// What is below a directory: the bytes of files, none for directories.
type Found = BTreeMap<String, Option<Vec<u8>>>;

fn read(root: &Path, below: &str, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            found.insert(path.clone(), None);
            read(root, &path, found)?;
        } else {
            found.insert(path, Some(fs::read(entry.path())?));
        }
    }
    Ok(())
}

/// Judges what is below an actor's directory after `acked` acknowledged steps of `steps`, when
/// `begun` had begun (at most one more); `log` as in `Promised`.
///
/// # Errors
/// How it differs from the last acknowledged tree.
pub fn check(
    root: &Path,
    start: &Tree,
    steps: &[Step],
    who: (u64, u32),
    (acked, begun): (u64, u64),
    log: bool,
) -> Result<(), String> {
    let mut found = Found::new();
    read(root, "", &mut found).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut tree = start.clone();
    let mut number = 0;
    for step in steps.iter().take(usize::try_from(acked).expect("few steps")) {
        number += 1;
        tree.apply(number, step);
    }
    let next = steps.get(usize::try_from(acked).expect("few steps")).filter(|_| begun > acked);
    let loose = next.map(|step| step.loose(log)).unwrap_or_default();
    let difference = match tree.is(&found, &loose, who) {
        Ok(()) => return Ok(()),
        Err(difference) => difference,
    };
    let Some(next) = next else { return Err(format!("after step {acked}: {difference}")) };
    tree.apply(number + 1, next);
    tree.is(&found, &loose, who)
        .map_err(|other| format!("after step {acked}: {difference}; after {next:?}: {other}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: (u64, u32) = (3, 0);

    fn judge(root: &Path, steps: &[Step], acked: u64, begun: u64) -> Result<(), String> {
        check(root, &Tree::default(), steps, WHO, (acked, begun), true)
    }

    #[test]
    fn exactly_the_acknowledged_tree_or_the_next_one() {
        let place = tempfile::tempdir().expect("scratch directory");
        let root = place.path();
        let steps = [
            Step::MakeDir { at: "d".into() },
            Step::Create { at: "d/a".into(), sectors: 3 },
            Step::Rename { from: "d/a".into(), to: "d/b".into() },
            Step::Unlink { at: "d/b".into() },
        ];
        for (number, step) in (1..).zip(&steps) {
            step.run(root, (WHO.0, WHO.1, number)).expect("a step");
            assert_eq!(judge(root, &steps, number, number), Ok(()));
            assert_eq!(judge(root, &steps, number - 1, number), Ok(()), "under way");
            assert!(judge(root, &steps, number - 1, number - 1).is_err(), "had not begun");
        }
        assert!(judge(root, &steps, 3, 3).is_err(), "an acknowledged name is gone");
        assert!(judge(root, &steps, 2, 2).is_err());
    }

    #[test]
    fn contents_count() {
        let place = tempfile::tempdir().expect("scratch directory");
        let steps = [Step::Replace { at: "a".into(), sectors: 2 }];
        steps[0].run(place.path(), (WHO.0, WHO.1, 1)).expect("a step");
        assert_eq!(judge(place.path(), &steps, 1, 1), Ok(()));
        fs::write(place.path().join("a"), [0; 1024]).expect("scratch");
        assert!(judge(place.path(), &steps, 1, 1).is_err());
    }
}
