//! A directory as a program sees it, to be compared with what is seen later.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

/// What lanefs keeps in a backing directory, and hides on the mount.
pub const LANEFS_HOME: &str = ".lanefs";

/// Everything below a directory: names, kinds, modes, contents. Without the log's own directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    things: BTreeMap<String, Thing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    mode: u32,
    // Names and length of a directory are its filesystem's business: 0.
    links: u64,
    size: u64,
    // Last change of the content, in nanoseconds.
    mtime_ns: i64,
    // Of the content, or of a symbolic link's target.
    hash: u64,
}

impl Snapshot {
    /// What is below `root` now.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn take(root: &Path) -> io::Result<Self> {
        let mut snapshot = Snapshot::default();
        snapshot.read(root, "")?;
        Ok(snapshot)
    }

    fn read(&mut self, root: &Path, below: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if below.is_empty() && name == LANEFS_HOME {
                continue;
            }
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let metadata = fs::symlink_metadata(entry.path())?;
            let thing = Thing::of(&entry.path(), &metadata)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            self.things.insert(path.clone(), thing);
            if metadata.is_dir() {
                self.read(root, &path)?;
            }
        }
        Ok(())
    }

    /// Whether the file at `path` had this content.
    pub fn held(&self, path: &str, content: &[u8]) -> bool {
        let thing = self.things.get(path);
        thing.is_some_and(|thing| thing.size == content.len() as u64 && thing.hash == hash(content))
    }

    /// How `later` differs, if it does; at most a few differences.
    pub fn difference(&self, later: &Snapshot) -> Option<String> {
        const SHOWN_MAX: usize = 4;
        let names = self.things.keys().chain(later.things.keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        let differing = names.into_iter().filter_map(|name| {
            match (self.things.get(name), later.things.get(name)) {
                (Some(_), None) => Some(format!("{name} is gone")),
                (None, Some(_)) => Some(format!("{name} has come")),
                (Some(then), Some(now)) if then != now => {
                    Some(format!("{name} was {}, is {}", then.describe(), now.describe()))
                }
                _ => None,
            }
        });
        let differing: Vec<_> = differing.collect();
        let more = differing.len().saturating_sub(SHOWN_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let shown = differing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("; ");
        (!differing.is_empty()).then(|| shown + &more)
    }

    /// For the file of a kept case.
    pub fn to_json(&self) -> Value {
        let things = self.things.iter();
        let things = things.map(|(name, thing)| {
            let Thing { mode, links, size, mtime_ns, hash } = thing;
            json!([name, mode, links, size, mtime_ns, hash])
        });
        Value::Array(things.collect())
    }

    /// The inverse of [`Snapshot::to_json`].
    pub fn from_json(value: &Value) -> Option<Self> {
        let thing = |entry: &Value| {
            let number = |index: usize| entry.get(index)?.as_u64();
            let thing = Thing {
                mode: u32::try_from(number(1)?).ok()?,
                links: number(2)?,
                size: number(3)?,
                mtime_ns: entry.get(4)?.as_i64()?,
                hash: number(5)?,
            };
            Some((entry.get(0)?.as_str()?.to_owned(), thing))
        };
        let things = value.as_array()?.iter().map(thing).collect::<Option<_>>()?;
        Some(Snapshot { things })
    }
}

impl Thing {
    fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        let content = if metadata.is_file() {
            fs::read(path)?
        } else if metadata.is_symlink() {
            fs::read_link(path)?.into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        let counts = !metadata.is_dir();
        Ok(Thing {
            mode: metadata.mode(),
            links: if counts { metadata.nlink() } else { 0 },
            size: if counts { metadata.size() } else { 0 },
            mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            hash: hash(&content),
        })
    }

    fn describe(&self) -> String {
        let Thing { mode, links, size, mtime_ns, hash } = self;
        let hash = hash >> 48;
        format!("{mode:o} {links} links {size} bytes, changed {mtime_ns}, content {hash:04x}")
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_and_the_log_is_not_looked_at() {
        let place = tempfile::tempdir().expect("scratch directory");
        let root = place.path();
        fs::create_dir_all(root.join("d/e")).expect("scratch");
        fs::write(root.join("d/file"), "one").expect("scratch");
        std::os::unix::fs::symlink("target", root.join("d/link")).expect("scratch");
        let then = Snapshot::take(root).expect("it can be read");
        fs::create_dir(root.join(LANEFS_HOME)).expect("scratch");
        fs::write(root.join(LANEFS_HOME).join("log"), "secret").expect("scratch");
        assert_eq!(then.difference(&Snapshot::take(root).expect("it can be read")), None);
        assert_eq!(Snapshot::from_json(&then.to_json()), Some(then.clone()));
        assert!(then.held("d/file", b"one"));
        assert!(!then.held("d/file", b"two") && !then.held("d/other", b"one"));

        fs::write(root.join("d/file"), "two").expect("scratch");
        fs::remove_file(root.join("d/link")).expect("scratch");
        fs::write(root.join("new"), "").expect("scratch");
        let now = Snapshot::take(root).expect("it can be read");
        let difference = then.difference(&now).expect("there are some");
        for part in ["d/file was", "d/link is gone", "new has come"] {
            assert!(difference.contains(part), "{difference}");
        }
    }
}
