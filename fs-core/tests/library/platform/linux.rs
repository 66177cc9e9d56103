//! Links, modes, owners, attributes, filesystems of Linux.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::channel;

use fs_core::batch::{FileError, Files, FilesConfig, Method};
use fs_core::error::Errno;

use crate::*;

#[test]
fn links_do_not_lead_out() {
    let (place, files) = files();
    symlink("/etc", place.path().join("absolute")).unwrap();
    symlink("../..", place.path().join("up")).unwrap();
    symlink("loop", place.path().join("loop")).unwrap();
    for path in ["absolute/x", "up/x"] {
        let error = files.write(path, "x").unwrap_err();
        assert!(matches!(error, FileError::Outside(_)), "{path}: {error}");
    }
    assert_eq!(files.write("loop", "x").unwrap_err().errno(), Some(Errno::LOOP));
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
}

#[test]
fn the_file_behind_a_link_is_replaced_and_the_link_removed() {
    let (place, files) = files();
    std::fs::create_dir(place.path().join("d")).unwrap();
    symlink("d/target", place.path().join("link")).unwrap();
    files.write("link", "through").unwrap();
    assert_eq!(text(&place, "d/target"), "through");
    assert!(place.path().join("link").is_symlink());
    files.delete("link").unwrap();
    assert_eq!(text(&place, "d/target"), "through");
    assert!(!place.path().join("link").is_symlink());
}

#[test]
fn only_regular_files_are_replaced() {
    let (place, files) = files();
    std::fs::create_dir(place.path().join("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
    for path in ["d", "socket"] {
        let error = files.write(path, "x").unwrap_err();
        assert!(matches!(error, FileError::NotAFile(_)), "{path}: {error}");
        assert!(files.copy(path, "x").is_err());
    }
    assert!(matches!(files.delete("d"), Err(FileError::NotAFile(_))));
    files.delete("socket").unwrap();
}

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves() {
    let (place, files) = files();
    files.write("lib", "x").unwrap();
    std::fs::write(place.path().join("std"), "x").unwrap();
    let mode = |name: &str| std::fs::metadata(place.path().join(name)).unwrap().mode();
    assert_eq!(mode("lib"), mode("std"));
    // And the thread's umask is as it was.
    std::fs::write(place.path().join("later"), "x").unwrap();
    assert_eq!(mode("later"), mode("std"));
}

#[test]
fn another_filesystem_below_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounting needs root");
    }
    let place = tempfile::tempdir().unwrap();
    let mounted = RamFs::mount(&place.path().join("m"));
    let files = Files::open(place.path(), plain()).unwrap();
    assert_eq!(files.write("m/x", "x").unwrap_err().errno(), Some(Errno::XDEV));
    drop((files, mounted));
}

/// A ramfs, which refuses `O_DIRECT`, keeps no attributes and has no journal.
pub struct RamFs(std::path::PathBuf);

impl RamFs {
    pub fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("lanefs-test", at, "ramfs", flags, None).unwrap();
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at, all).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for RamFs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// S18, C3: where `O_DIRECT` is refused, the file had been made by the refused call: the
/// write failed and left up to 8 temporary files, each time, and nobody was told.
#[test]
fn s18_c3_refused_direct_writes_fall_back_and_are_counted() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounting needs root");
    }
    let place = tempfile::tempdir().unwrap();
    let mounted = RamFs::mount(place.path());
    let files = Files::open(place.path(), FilesConfig { method: Method::Direct, ..plain() });
    let files = files.unwrap();
    for number in 0..10 {
        files.write("f", vec![number; 10_000]).unwrap();
    }
    files.batch().write("g", vec![1; 5000]).copy("g", "h").commit().unwrap();
    assert_eq!(std::fs::read(place.path().join("h")).unwrap(), vec![1; 5000]);
    let status = files.status();
    assert_eq!((status.direct_bytes, status.direct_refused), (0, 11));
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    files.close(LONG).unwrap();
    drop(mounted);
}

/// C1: every written file had mode 0600 and belonged to the writer.
#[test]
fn c1_mode_owner_and_attributes_are_kept() {
    let (place, files) = files();
    let path = place.path().join("f");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4741)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&path, Some(1234), Some(567)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4741)).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, "user.kept", b"value", flags).unwrap();
    let acl = acl();
    rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, flags).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    for round in ["new", "newer"] {
        files.write("f", round).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        let mode = if is_root { before.mode() } else { before.mode() & !0o6000 };
        assert_eq!(after.mode(), mode, "{:o}", after.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        let mut value = [0; 100];
        let mut read = |name: &str| {
            let bytes = rustix::fs::getxattr(&path, name, &mut value[..]).unwrap();
            value[..bytes].to_vec()
        };
        assert_eq!(read("user.kept"), b"value");
        assert_eq!(read("system.posix_acl_access"), acl);
    }
    // And a default ACL of the directory is not for a file that had none.
    let default = "system.posix_acl_default";
    rustix::fs::setxattr(place.path(), default, &acl, flags).unwrap();
    std::fs::write(place.path().join("plain"), "x").unwrap();
    let plain = place.path().join("plain");
    rustix::fs::removexattr(&plain, "system.posix_acl_access").unwrap();
    files.write("plain", "y").unwrap();
    let mut value = [0; 100];
    let acl_now = rustix::fs::getxattr(&plain, "system.posix_acl_access", &mut value[..]);
    assert_eq!(acl_now, Err(rustix::io::Errno::NODATA));
}

/// A new file is born with the mode of the old one where nothing else distinguishes them. Where the
/// umask takes bits away, or owner, group or the directory's group are other ones, it is given
/// them afterwards.
#[test]
fn c1_modes_are_kept_however_a_file_is_born() {
    let (place, files) = files();
    let dir = place.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("f");
    let is_root = rustix::process::geteuid().is_root();
    let ours = rustix::process::getegid().as_raw();
    let groups =
        if is_root { vec![(ours, ours), (ours, 567), (567, ours), (567, 567)] } else { vec![] };
    for (dir_gid, gid) in [(ours, ours)].into_iter().chain(groups) {
        for (dir_mode, mode) in [0o755, 0o2755].into_iter().flat_map(|dir_mode| {
            [0o644, 0o600, 0o666, 0o775, 0o400, 0o0, 0o4755, 0o2755].map(|mode| (dir_mode, mode))
        }) {
            for uid in if is_root { vec![None, Some(1234)] } else { vec![None] } {
                std::os::unix::fs::chown(&dir, None, Some(dir_gid)).unwrap();
                std::fs::set_permissions(&dir, PermissionsExt::from_mode(dir_mode)).unwrap();
                std::fs::write(&path, "old").unwrap();
                std::os::unix::fs::chown(&path, uid, Some(gid)).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                let of = || {
                    let now = std::fs::metadata(&path).unwrap();
                    (now.mode() & 0o7777, now.uid(), now.gid())
                };
                let (mode, uid, gid) = of();
                files.write("dir/f", "new").unwrap();
                let mode = if is_root { mode } else { mode & !0o6000 };
                assert_eq!(of(), (mode, uid, gid), "directory {dir_mode:o}, group {dir_gid}");
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}

/// An access ACL: owner rwx, user 99 r--, group r--, mask r--, others --x.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 4, 99), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 1, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// C2: a link was replaced by a file.
#[test]
fn c2_symbolic_links_keep_their_meaning() {
    let (place, files) = files();
    std::fs::write(place.path().join("target"), "old").unwrap();
    symlink("target", place.path().join("link")).unwrap();
    files.batch().write("link", "new").commit().unwrap();
    assert_eq!(text(&place, "target"), "new");
    assert!(place.path().join("link").is_symlink());
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
}

/// S9: links are not followed on the way to leftovers.
#[test]
fn s9_leftovers_are_looked_for_below_only() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("d/e")).unwrap();
    for name in [".lanefs-tmp-open", "d/e/.lanefs-tmp-3"] {
        std::fs::write(place.path().join(name), "x").unwrap();
    }
    symlink("..", place.path().join("d/up")).unwrap();
    let files = Files::open(place.path(), plain()).unwrap();
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    files.close(LONG).unwrap();
}

/// S14: a file that two batches reached by different paths was on two shards: which
/// write was the last was left to chance.
#[test]
fn s14_one_file_by_several_paths_is_one_path() {
    let (place, files) = files();
    std::fs::create_dir(place.path().join("d")).unwrap();
    symlink("../a", place.path().join("d/link")).unwrap();
    symlink("d", place.path().join("e")).unwrap();
    let paths = ["a", "./a", "d/../a", "d/link", "e/link", "e/../a"];
    for round in 0..30 {
        let (sender, done) = channel();
        for (number, path) in paths.iter().enumerate() {
            let sender = sender.clone();
            let batch = files.batch().write(format!("other{number}"), vec![0; 9000 - number]);
            let batch = batch.write(path, format!("{round} {number}"));
            batch.commit_then(move |result| sender.send(result).unwrap());
        }
        paths.iter().for_each(|_| done.recv_timeout(LONG).unwrap().unwrap());
        assert_eq!(text(&place, "a"), format!("{round} 5"));
    }
    assert!(place.path().join("d/link").is_symlink());
}
