//! Removing a volume's files, for `purge=true`.
//!
//! First the directory gets another name, in one step: from then on no volume has it. Then it is
//! removed, by descriptors and never through a link or into another filesystem: a mount that is
//! stuck somewhere in it stops the removal instead of being emptied.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::mount::mounts;

/// Puts a directory aside, to be removed; where it is now.
///
/// # Errors
/// Something is mounted in it, or it cannot be renamed. It is left as it was.
pub(super) fn put_aside(directory: &Path, removed: &Path) -> Result<Option<PathBuf>, Failure> {
    let shown = directory.display();
    let failed = |error: std::io::Error| Failure::new(format!("cannot remove {shown}: {error}"));
    let table = mounts::all().map_err(failed)?;
    if let Some(mount) = table.iter().find(|mount| mount.mount_point.starts_with(directory)) {
        return Err(Failure::new(format!(
            "something is mounted at {}: unmount it before the volume is removed",
            mount.mount_point.display()
        )));
    }
    let name = directory.file_name().expect("a volume's directory has a name");
    for number in 0.. {
        let mut aside = name.to_owned();
        aside.push(format!(".{number}"));
        let aside = removed.join(aside);
        let renamed = rustix::fs::renameat_with(
            rustix::fs::CWD,
            directory,
            rustix::fs::CWD,
            &aside,
            rustix::fs::RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => return Ok(Some(aside)),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        }
    }
    unreachable!("the numbers do not end")
}

/// Removes what was put aside, now and by plugins that did not come to it.
///
/// # Errors
/// The first that cannot be removed; the others are.
pub(super) fn remove_all(removed: &Path) -> Result<(), Failure> {
    let shown = removed.display();
    let failed = |error: Errno| Failure::new(format!("cannot remove all of {shown}: {error}"));
    let directory = rustix::fs::open(removed, DIRECTORY, Mode::empty()).map_err(failed)?;
    empty(&directory).map_err(failed)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Removes everything in a directory, deepest first, without recursion: containers choose how deep.
fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let mut first_error = None;
    let mut open: Vec<(OwnedFd, Vec<(CString, FileType)>)> = vec![level(directory.as_fd())?];
    let mut names: Vec<CString> = Vec::new();
    while let Some((parent, entries)) = open.last_mut() {
        let Some((name, kind)) = entries.pop() else {
            open.pop();
            // The directory that was just emptied, in the one above.
            if let (Some((parent, _)), Some(name)) = (open.last(), names.pop()) {
                let done = rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR);
                note(&mut first_error, done);
            }
            continue;
        };
        if kind != FileType::Directory {
            let done = rustix::fs::unlinkat(&*parent, &name, AtFlags::empty());
            note(&mut first_error, done);
            continue;
        }
        match below(parent, &name).and_then(|below| level(below.as_fd())) {
            Ok(level) => {
                names.push(name);
                open.push(level);
            }
            Err(error) => note(&mut first_error, Err(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn note(first: &mut Option<Errno>, result: Result<(), Errno>) {
    if let Err(error) = result {
        first.get_or_insert(error);
    }
}

/// A directory in another one, on the same mount (`EXDEV` otherwise).
fn below(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    rustix::fs::openat2(parent, name, DIRECTORY, Mode::empty(), resolve)
}

fn level(
    directory: std::os::fd::BorrowedFd<'_>,
) -> Result<(OwnedFd, Vec<(CString, FileType)>), Errno> {
    let own = rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in Dir::read_from(&own)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        // Some filesystems do not tell.
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(&own, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        entries.push((name.to_owned(), kind));
    }
    Ok((own, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_is_removed_and_links_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for directory in ["volumes", "removed", "precious", "volumes/a", "volumes/a/deep/er"] {
            std::fs::create_dir_all(path(directory)).unwrap();
        }
        std::fs::write(path("precious/file"), "kept").unwrap();
        std::fs::write(path("volumes/a/deep/er/file"), "gone").unwrap();
        std::os::unix::fs::symlink(path("precious"), path("volumes/a/link")).unwrap();
        std::os::unix::fs::symlink(path("precious"), path("volumes/a/deep/link")).unwrap();
        let aside = put_aside(&path("volumes/a"), &path("removed")).unwrap().unwrap();
        assert!(aside.is_dir() && !path("volumes/a").exists());
        assert_eq!(put_aside(&path("volumes/a"), &path("removed")).unwrap(), None);
        remove_all(&path("removed")).unwrap();
        assert_eq!(std::fs::read_dir(path("removed")).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(path("precious/file")).unwrap(), "kept");
    }

    #[test]
    fn a_mount_inside_stops_the_removal() {
        assert!(put_aside(Path::new("/proc/sys"), Path::new("/tmp")).is_err());
        assert!(put_aside(Path::new("/dev"), Path::new("/tmp")).is_err());
    }
}
