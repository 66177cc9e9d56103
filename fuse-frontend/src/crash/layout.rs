//! States as directories: laid out, and compared with one that is there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_core::crash::state::{Blocks, Node, State};
use fs_core::crash::steps::{NameId, Steps};
use fs_core::crash::trace::Ino;
use fs_core::types::FileKind;
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};

use crate::failure::Failure;

/// Lays a state out in an empty directory.
///
/// # Errors
/// What the filesystem says; it must have room, and what the state has: extended
/// attributes, owners, device nodes.
pub fn lay_out(log: &Steps<'_>, state: &State, blocks: &Blocks, root: &Path) -> io::Result<()> {
    let mut known: HashMap<Ino, PathBuf> = HashMap::new();
    let mut result = Ok(());
    state.visit(&mut |path, ino, node| {
        if result.is_ok() {
            let place = place(log, root, path);
            result = make(log, &mut known, &place, ino, node, blocks).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", place.display()))
            });
        }
    });
    result?;
    // Permissions last, deepest first: a directory may forbid what is still to be done.
    let mut directories = Vec::new();
    state.visit(&mut |path, _, node| {
        if node.made.kind == FileKind::Directory {
            directories.push((place(log, root, path), node.made.perm));
        }
    });
    for (place, perm) in directories.iter().rev() {
        fs::set_permissions(place, fs::Permissions::from_mode(u32::from(*perm)))?;
    }
    Ok(())
}

fn place(log: &Steps<'_>, root: &Path, path: &[NameId]) -> PathBuf {
    let mut place = root.to_owned();
    for name in path {
        place.push(OsStr::from_bytes(&log.names[name.0 as usize]));
    }
    place
}

fn make(
    log: &Steps<'_>,
    known: &mut HashMap<Ino, PathBuf>,
    place: &Path,
    ino: Ino,
    node: &Node,
    blocks: &Blocks,
) -> io::Result<()> {
    let made = &node.made;
    if made.kind != FileKind::Directory
        && let Some(first) = known.get(&ino)
    {
        return fs::hard_link(first, place);
    }
    match made.kind {
        FileKind::Directory if ino == Ino::ROOT => {}
        FileKind::Directory => fs::create_dir(place)?,
        FileKind::Regular => {
            let file = File::options().write(true).create_new(true).mode(0o600).open(place)?;
            for (offset, bytes) in node.content(blocks) {
                file.write_all_at(bytes, offset)?;
            }
            file.set_len(node.bytes)?;
            file.set_permissions(fs::Permissions::from_mode(u32::from(made.perm)))?;
        }
        FileKind::Symlink => {
            std::os::unix::fs::symlink(OsStr::from_bytes(&made.target), place)?;
        }
        kind => {
            let device = rustix::fs::makedev(made.device.0, made.device.1);
            let mode = Mode::from_raw_mode(u32::from(made.perm));
            rustix::fs::mknodat(CWD, place, file_type(kind), mode, device)?;
        }
    }
    let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    if (made.uid, made.gid) != (user, group) {
        std::os::unix::fs::lchown(place, Some(made.uid), Some(made.gid))?;
        // Giving a file away takes set-user-id bits.
        if made.kind == FileKind::Regular && made.perm & 0o6000 != 0 {
            fs::set_permissions(place, fs::Permissions::from_mode(u32::from(made.perm)))?;
        }
    }
    for (name, value) in &node.xattrs {
        let name = OsStr::from_bytes(&log.names[name.0 as usize]);
        rustix::fs::lsetxattr(place, name, value, XattrFlags::empty())?;
    }
    known.insert(ino, place.to_owned());
    Ok(())
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Compares a state with a directory: names, kinds, lengths, bytes, permissions, owners,
/// extended attributes. Says the first difference.
///
/// # Errors
/// The directory cannot be read.
pub fn difference(
    log: &Steps<'_>,
    state: &State,
    blocks: &Blocks,
    root: &Path,
    ignored: Option<&Path>,
) -> io::Result<Option<String>> {
    let mut expected: BTreeMap<PathBuf, (Ino, &Node)> = BTreeMap::new();
    let mut nodes = Vec::new();
    state.visit(&mut |path, ino, _| nodes.push((place(log, root, path), ino)));
    for (place, ino) in nodes {
        if let Some(node) = state.node(ino) {
            expected.insert(place, (ino, node));
        }
    }
    let mut there = Vec::new();
    list(root, &mut there)?;
    for place in there.iter().filter(|place| ignored != Some(place)) {
        if !expected.contains_key(place) {
            return Ok(Some(format!("{} is there and was not recorded", place.display())));
        }
    }
    for (place, (_, node)) in &expected {
        if let Some(what) = differs(log, node, blocks, place)? {
            return Ok(Some(format!("{}: {what}", place.display())));
        }
    }
    Ok(None)
}

/// Makes `directory` what `model` is.
///
/// # Errors
/// What cp(1) and the filesystem say; the directory may be half-way then.
pub fn replace(model: &Path, directory: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "cannot make {} what {} is: {error}",
            directory.display(),
            model.display()
        ))
    };
    // What is new first, so that nothing is gone before its replacement is there.
    let done = Command::new("cp")
        .args(["-a", "--remove-destination", "--"])
        .args([&*model.join("."), directory])
        .status()
        .map_err(|error| failed(&error))?;
    if !done.success() {
        return Err(failed(&done));
    }
    remove_others(model, directory).map_err(|error| failed(&error))
}

/// Removes from `directory` what is not in `model`, but for what lanefs itself keeps there.
///
/// # Errors
/// What the filesystem says.
pub fn remove_others(model: &Path, directory: &Path) -> io::Result<()> {
    let mut there = Vec::new();
    list(directory, &mut there)?;
    let home = directory.join(fs_core::log::HOME_NAME);
    // What is in a directory comes after it.
    for path in there.iter().rev().filter(|path| !path.starts_with(&home)) {
        let within = path.strip_prefix(directory).expect("listed there");
        if fs::symlink_metadata(model.join(within)).is_ok() {
            continue;
        }
        match fs::symlink_metadata(path)?.is_dir() {
            true => fs::remove_dir(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        found.push(entry.path());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn differs(
    log: &Steps<'_>,
    node: &Node,
    blocks: &Blocks,
    place: &Path,
) -> io::Result<Option<String>> {
    let meta = match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some("is missing".to_owned()));
        }
        meta => meta?,
    };
    let made = &node.made;
    if FileType::from_raw_mode(meta.mode()) != file_type(made.kind) {
        return Ok(Some(format!("is not a {:?}", made.kind)));
    }
    if made.kind != FileKind::Symlink && meta.mode() & 0o7777 != u32::from(made.perm) {
        return Ok(Some(format!("mode {:o}, recorded {:o}", meta.mode() & 0o7777, made.perm)));
    }
    if (meta.uid(), meta.gid()) != (made.uid, made.gid) {
        return Ok(Some(format!(
            "belongs to {}:{}, recorded {}:{}",
            meta.uid(),
            meta.gid(),
            made.uid,
            made.gid
        )));
    }
    if made.kind == FileKind::Symlink && fs::read_link(place)?.as_os_str().as_bytes() != made.target
    {
        return Ok(Some("points elsewhere".to_owned()));
    }
    if made.kind == FileKind::Regular {
        if meta.len() != node.bytes {
            return Ok(Some(format!("{} bytes, recorded {}", meta.len(), node.bytes)));
        }
        if let Some(offset) = content_differs(node, blocks, place)? {
            return Ok(Some(format!("differs at byte {offset}")));
        }
    }
    let mut expected = BTreeMap::new();
    for (name, value) in &node.xattrs {
        expected.insert(log.names[name.0 as usize].to_vec(), value.to_vec());
    }
    Ok((xattrs(place)? != expected).then(|| "extended attributes differ".to_owned()))
}

fn content_differs(node: &Node, blocks: &Blocks, place: &Path) -> io::Result<Option<u64>> {
    let real = fs::read(place)?;
    let mut end = 0;
    for (offset, bytes) in node.content(blocks) {
        let hole = &real[end as usize..offset as usize];
        if let Some(at) = hole.iter().position(|byte| *byte != 0) {
            return Ok(Some(end + at as u64));
        }
        let there = &real[offset as usize..][..bytes.len()];
        if let Some(at) = bytes.iter().zip(there).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
        end = offset + bytes.len() as u64;
    }
    let tail = real[end as usize..].iter().position(|byte| *byte != 0);
    Ok(tail.map(|at| end + at as u64))
}

fn xattrs(place: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut names = vec![0; 65536];
    let bytes = match rustix::fs::llistxattr(place, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(found),
        bytes => bytes?,
    };
    for name in names[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let bytes = rustix::fs::lgetxattr(place, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(bytes);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Owner and permissions of a directory that a state is laid out in.
///
/// # Errors
/// What the filesystem says.
pub fn own_root(state: &State, root: &Path) -> io::Result<()> {
    let Some(node) = state.node(Ino::ROOT) else { return Ok(()) };
    rustix::fs::chownat(
        CWD,
        root,
        Some(rustix::fs::Uid::from_raw(node.made.uid)),
        Some(rustix::fs::Gid::from_raw(node.made.gid)),
        AtFlags::empty(),
    )?;
    Ok(())
}
