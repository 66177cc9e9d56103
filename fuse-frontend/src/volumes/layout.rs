//! Where things lie below the root, and which directories can be volumes.
//!
//! ```text
//! ROOT/volumes.json      which volumes there are, who uses them
//! ROOT/volumes/NAME      the files of a volume without source=DIR
//! ROOT/mounts/NAME       where a volume is mounted; empty directories otherwise
//! ROOT/removed/          what purge=true is about to remove
//! ROOT/.lanefs           the engine's log, shared by all volumes
//! ROOT/lock              held by the plugin
//! ```

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_core::log::HOME_NAME;

use super::options::VolumeOptions;
use crate::failure::Failure;

/// Longest name of a volume in bytes: that of a file.
const NAME_BYTES_MAX: usize = 255;

/// The root directory of a plugin.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below an existing directory.
    ///
    /// # Errors
    /// There is no directory at the path, or what is needed below it cannot be made.
    pub fn new(root: &Path) -> Result<Self, Failure> {
        let shown = root.display();
        let root = root.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::usage(format!(
                "root {shown} does not exist: create it with `mkdir -p {shown}`, or check the path"
            )),
            _ => Failure::new(format!("cannot use root {shown}: {error}")),
        })?;
        if !root.is_dir() {
            return Err(Failure::usage(format!(
                "root {shown} is not a directory: name a directory"
            )));
        }
        let layout = Self { root };
        for directory in [layout.volumes(), layout.mounts(), layout.removed()] {
            // As Docker keeps its own volumes: what they hold is nobody else's.
            let made = std::fs::DirBuilder::new().mode(0o711).recursive(true).create(&directory);
            made.map_err(|error| {
                Failure::new(format!("cannot make {}: {error}", directory.display()))
            })?;
        }
        Ok(layout)
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The state file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.root.join("volumes.json")
    }

    /// Directories of volumes that have no other source.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Mount points.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// What is about to be removed.
    #[must_use]
    pub fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }

    /// Where a volume is mounted.
    #[must_use]
    pub fn mount_point(&self, name: &str) -> PathBuf {
        self.mounts().join(name)
    }

    /// The files of a volume.
    #[must_use]
    pub fn source(&self, name: &str, options: &VolumeOptions) -> PathBuf {
        options.source.clone().unwrap_or_else(|| self.volumes().join(name))
    }

    /// Takes the root for this process; dropped, it is free again.
    ///
    /// # Errors
    /// Another plugin has it.
    pub fn lock(&self) -> Result<File, Failure> {
        let path = self.root.join("lock");
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot lock {}: {error}", path.display()))
        };
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(format!(
                "another volume plugin serves {}: stop that one first, or choose another root",
                self.root.display()
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Checks a volume's name: it becomes the name of a directory.
///
/// # Errors
/// The name has characters that Docker does not allow either, or is too long.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "volume name `{}`: use letters, digits, `_`, `.` and `-`, at most {NAME_BYTES_MAX}, \
         beginning with a letter or a digit",
        name.escape_default()
    )))
}

/// Checks that a new volume's directory is apart from those of the others: two mounts of the
/// same files would know of each other's changes only late.
///
/// `others` are the directories that are taken, each with what to call it.
///
/// # Errors
/// One of them is the same, above or below.
pub fn check_apart(source: &Path, others: &[(String, PathBuf)]) -> Result<(), Failure> {
    for (whose, other) in others {
        let relation = if is_within(source, other) {
            "is or lies in"
        } else if is_within(other, source) {
            "contains"
        } else {
            continue;
        };
        return Err(Failure::usage(format!(
            "source {} {relation} {}, {whose}: two volumes cannot share files; \
             use that volume in both containers, or choose another directory",
            source.display(),
            other.display()
        )));
    }
    Ok(())
}

/// Checks that a directory has no log of its own: it would be replayed over newer files when the
/// directory is mounted by itself again. Its content is not looked at, because containers may have
/// written it.
///
/// # Errors
/// It has one.
pub fn check_no_log(source: &Path) -> Result<(), Failure> {
    if source.join(HOME_NAME).join("log").symlink_metadata().is_err() {
        return Ok(());
    }
    let shown = source.display();
    Err(Failure::usage(format!(
        "{shown} has a log of its own, from a mount of its own: run `lanefs recover {shown}`, then \
         `rm -r {shown}/{HOME_NAME}`"
    )))
}

/// Whether `inner` is `outer` or lies in it, also by way of links. Directories on the way are
/// compared by number too: a bind mount shows one at several places.
fn is_within(inner: &Path, outer: &Path) -> bool {
    let number = |path: &Path| path.metadata().ok().map(|stat| (stat.dev(), stat.ino()));
    if inner.starts_with(outer) {
        return true;
    }
    let Some(outer) = number(outer) else { return false };
    inner.ancestors().any(|ancestor| number(ancestor) == Some(outer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_names_of_files_are_refused() {
        for name in ["a", "db-1.data_x", "0", &"n".repeat(255)] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "\u{e4}", &"n".repeat(256)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn overlapping_directories_are_refused_under_any_name() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(place.path().join("apart")).unwrap();
        std::os::unix::fs::symlink(place.path().join("a"), place.path().join("link")).unwrap();
        let taken = |path: &str| vec![("volume x".to_owned(), place.path().join(path))];
        for (source, other) in
            [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("link/b", "a"), ("a", "link")]
        {
            assert!(
                check_apart(&place.path().join(source), &taken(other)).is_err(),
                "{source} {other}"
            );
        }
        check_apart(&place.path().join("apart"), &taken("a")).unwrap();
    }
}
