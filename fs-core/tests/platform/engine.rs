//! The engine on a real directory of this machine: nodes, names, syncs.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use fs_core::engine::{Engine, EngineConfig, NodeId, Tree};
use fs_core::error::{Errno, Result};
use fs_core::lane::LaneConfig;
use fs_core::lane::policy::PolicyConfig;
use fs_core::platform::linux::{BackingOptions, LinuxBacking, OpenError};
use fs_core::platform::{OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, SetTime, SyncKind, Time};

type TestTree = Arc<Tree<LinuxBacking>>;

const FILE: NewMode = NewMode { mode: 0o644, umask: 0o022 };
const DIRECTORY: NewMode = NewMode { mode: 0o755, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };

fn me() -> Caller {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Caller { uid: uid.as_raw(), gid: gid.as_raw(), thread: 1 }
}

fn tree_with(place: &Path, options: BackingOptions, config: EngineConfig) -> TestTree {
    let backing = LinuxBacking::open(place, options).expect("a plain directory can be opened");
    let engine = Engine::new(&backing, config);
    engine.add_tree(backing).expect("its own directory can be added")
}

/// Runs a check with file handles and with pinned objects: both ways of knowing
/// objects must look the same.
fn on_both(check: impl Fn(&TestTree, &Path)) {
    for pin_objects in [false, true] {
        let place = tempfile::tempdir().expect("scratch directory");
        // Few enough that tests can make the engine run out of them.
        let cached_fds_max = Some(16);
        let options = BackingOptions { pin_objects, cached_fds_max, ..BackingOptions::default() };
        check(&tree_with(place.path(), options, EngineConfig::default()), place.path());
    }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn sync_dir(tree: &TestTree, id: NodeId) -> Result<()> {
    let dir = tree.open_dir(id).expect("a directory opens");
    let (sender, answer) = channel();
    tree.sync_dir(me(), dir, Box::new(move |result| sender.send(result).expect("it is awaited")));
    tree.release_dir(dir);
    answer.recv_timeout(Duration::from_secs(20)).expect("a sync is answered")
}

#[test]
fn all_names_of_an_object_are_one_node() {
    on_both(|tree, _| {
        let (first, file) =
            tree.create(me(), NodeId::ROOT, name("a"), FILE, READ_WRITE, true).unwrap();
        let linked = tree.link(first.id, NodeId::ROOT, name("b")).unwrap();
        assert_eq!(linked.id, first.id);
        assert_eq!(linked.attr.nlink, 2);
        let renamed = tree.make_dir(me(), NodeId::ROOT, name("d"), DIRECTORY).unwrap();
        let mode = RenameMode::default();
        tree.rename((NodeId::ROOT, name("b")), (renamed.id, name("c")), mode).unwrap();
        assert_eq!(tree.lookup(renamed.id, name("c")).unwrap().id, first.id);
        tree.release(file);
    });
}

/// ext4 gives the inode number of a removed file to the next one. A number of
/// ours must not come back with it: a late FORGET of the old file would
/// otherwise forget the new one.
#[test]
fn a_node_number_is_never_used_twice() {
    on_both(|tree, _| {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            let (entry, file) =
                tree.create(me(), NodeId::ROOT, name("again"), FILE, READ_WRITE, true).unwrap();
            assert!(seen.insert(entry.id), "{:?} was used before", entry.id);
            tree.unlink(NodeId::ROOT, name("again")).unwrap();
            tree.release(file);
            tree.forget(entry.id, 1);
            assert_eq!(tree.attr(entry.id), Err(Errno::STALE), "a forgotten number is unknown");
        }
    });
}

#[test]
fn a_node_lives_until_its_last_reference_is_given_back() {
    on_both(|tree, place| {
        std::fs::write(place.join("f"), b"x").unwrap();
        let id = tree.lookup(NodeId::ROOT, name("f")).unwrap().id;
        assert_eq!(tree.lookup(NodeId::ROOT, name("f")).unwrap().id, id);
        tree.forget(id, 1);
        assert!(tree.attr(id).is_ok());
        tree.forget(id, 1);
        assert!(tree.attr(id).is_err());
        tree.forget(NodeId::ROOT, 1000);
        assert!(tree.attr(NodeId::ROOT).is_ok(), "the root is never forgotten");
    });
}

#[test]
fn an_unlinked_open_file_still_works() {
    on_both(|tree, _| {
        let (entry, file) =
            tree.create(me(), NodeId::ROOT, name("gone"), FILE, READ_WRITE, true).unwrap();
        tree.unlink(NodeId::ROOT, name("gone")).unwrap();
        assert_eq!(tree.write(me(), file, b"still here", 3, false), Ok(10));
        let mut buffer = [0; 32];
        assert_eq!(tree.read(me(), file, &mut buffer, 3), Ok(10));
        assert_eq!(tree.attr(entry.id).unwrap().nlink, 0);
        assert_eq!(tree.attr(entry.id).unwrap().size, 13);
        tree.release(file);
    });
}

/// A program may keep using a file or directory that has lost its last name, by
/// an O_PATH descriptor or as its current directory, without any open file on
/// our side. By file handle alone the backing filesystem would have freed it.
#[test]
fn a_removed_object_lives_as_long_as_its_node() {
    on_both(|tree, place| {
        std::fs::write(place.join("file"), b"12345").unwrap();
        std::fs::write(place.join("new"), b"").unwrap();
        std::fs::write(place.join("replaced"), b"123").unwrap();
        std::fs::create_dir(place.join("directory")).unwrap();
        let node = |text| tree.lookup(NodeId::ROOT, name(text)).unwrap().id;
        let (file, replaced, directory) = (node("file"), node("replaced"), node("directory"));
        tree.unlink(NodeId::ROOT, name("file")).unwrap();
        tree.remove_dir(NodeId::ROOT, name("directory")).unwrap();
        let mode = RenameMode::default();
        tree.rename((NodeId::ROOT, name("new")), (NodeId::ROOT, name("replaced")), mode).unwrap();
        // More objects than descriptors are cached, so that those are given up.
        for index in 0..100 {
            let entry = tree.make_dir(me(), NodeId::ROOT, name(&index.to_string()), DIRECTORY);
            tree.forget(entry.unwrap().id, 1);
        }
        let attr = |id| tree.attr(id).map(|attr| (attr.size, attr.nlink));
        assert_eq!(attr(file), Ok((5, 0)));
        assert_eq!(attr(replaced), Ok((3, 0)));
        assert_eq!(attr(directory).map(|(_, nlink)| nlink), Ok(0));
        // A name that could not be removed is not kept.
        std::fs::create_dir_all(place.join("full/inside")).unwrap();
        node("full");
        assert!(tree.remove_dir(NodeId::ROOT, name("full")).is_err());
    });
}

#[test]
fn create_without_exclusive_opens_what_is_there() {
    on_both(|tree, place| {
        std::fs::write(place.join("f"), b"old content").unwrap();
        let exclusive = tree.create(me(), NodeId::ROOT, name("f"), FILE, READ_WRITE, true);
        assert_eq!(exclusive.map(drop), Err(Errno::EXIST));
        let mode = OpenMode { truncate: true, ..READ_WRITE };
        let (entry, file) = tree.create(me(), NodeId::ROOT, name("f"), FILE, mode, false).unwrap();
        assert_eq!(tree.attr(entry.id).unwrap().size, 0, "O_TRUNC holds for it too");
        tree.release(file);
    });
}

#[test]
fn attributes_are_set_as_asked() {
    on_both(|tree, place| {
        std::fs::write(place.join("f"), b"0123456789").unwrap();
        let id = tree.lookup(NodeId::ROOT, name("f")).unwrap().id;
        let before = tree.attr(id).unwrap();
        let old = Time { secs: -2, nanos: 250_000_000 };
        let change = SetAttr {
            perm: Some(0o4711),
            size: Some(4),
            mtime: Some(SetTime::At(old)),
            ..SetAttr::default()
        };
        let after = tree.set_attr(me(), id, None, &change).unwrap();
        assert_eq!((after.size, after.mtime), (4, old), "the time is set after the length");
        assert_eq!(after.atime, before.atime, "what was not named stays");
        assert_eq!(std::fs::read(place.join("f")).unwrap(), b"0123");
    });
}

/// A directory that was made durable and has not changed since needs no I/O; any
/// change of it does, the move of a directory into another place included.
#[test]
fn a_clean_directory_is_answered_at_once() {
    on_both(|tree, place| {
        let skipped = || tree.engine().status().lanes.skipped;
        let dir = tree.make_dir(me(), NodeId::ROOT, name("d"), DIRECTORY).unwrap().id;
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 0, "a directory that nobody synced yet is not clean");
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 1);
        tree.make_dir(me(), dir, name("child"), DIRECTORY).unwrap();
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 1, "a new name makes it dirty");
        let change = SetAttr { perm: Some(0o700), ..SetAttr::default() };
        tree.set_attr(me(), dir, None, &change).unwrap();
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 1, "a new attribute makes it dirty");
        let mode = RenameMode::default();
        tree.rename((NodeId::ROOT, name("d")), (NodeId::ROOT, name("e")), mode).unwrap();
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 1, "its own move makes it dirty");
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 2);
        // Longer than a tick of the coarse clock that older kernels stamp with.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(place.join("e/behind"), b"").unwrap();
        sync_dir(tree, dir).unwrap();
        assert_eq!(skipped(), 2, "a change behind the engine makes it dirty");
    });
}

#[test]
fn a_directory_can_be_read_on_from_any_entry() {
    on_both(|tree, place| {
        for index in 0..3000 {
            std::fs::write(place.join(format!("entry-with-a-name-{index}")), b"").unwrap();
        }
        let dir = tree.open_dir(NodeId::ROOT).unwrap();
        let mut names = std::collections::HashSet::new();
        let mut offset = 0;
        // Seven at a time, one refused each time: a small reply buffer.
        loop {
            let mut taken = 0;
            let from = offset;
            tree.read_dir(dir, from, &mut |entry| {
                if taken == 7 {
                    return false;
                }
                taken += 1;
                offset = entry.next_offset;
                assert!(names.insert(entry.name.clone()), "{:?} came twice", entry.name);
                true
            })
            .unwrap();
            if taken == 0 {
                break;
            }
        }
        assert_eq!(names.len(), 3002, "all entries, . and .. included");
        tree.release_dir(dir);
    });
}

#[test]
fn two_trees_share_the_groups_of_one_engine() {
    let place = tempfile::tempdir().unwrap();
    let directories = [place.path().join("one"), place.path().join("two")];
    directories.iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
    let open = |directory| LinuxBacking::open(directory, BackingOptions::default()).unwrap();
    // A fixed window, so that both requests are there before the group leaves.
    let policy = PolicyConfig { window_ns: Some(300_000_000), ..PolicyConfig::default() };
    let lanes = LaneConfig { policy, ..LaneConfig::default() };
    let first = open(&directories[0]);
    let engine = Engine::new(&first, EngineConfig { lanes, ..EngineConfig::default() });
    let trees = [engine.add_tree(first).unwrap(), engine.add_tree(open(&directories[1])).unwrap()];
    std::thread::scope(|scope| {
        for tree in &trees {
            scope.spawn(move || {
                let (_, file) =
                    tree.create(me(), NodeId::ROOT, name("f"), FILE, READ_WRITE, true).unwrap();
                tree.write(me(), file, b"content", 0, false).unwrap();
                let (sender, answer) = channel();
                let done = Box::new(move |result| sender.send(result).unwrap());
                tree.sync_file(me(), file, SyncKind::Full, done);
                assert_eq!(answer.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(()));
                tree.release(file);
            });
        }
    });
    let lanes = engine.status().lanes;
    assert_eq!((lanes.sync_requests, lanes.groups, lanes.group_ops_max), (2, 1, 2));
    engine.flush(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_tree_on_another_filesystem_is_refused() {
    let here = tempfile::tempdir().unwrap();
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else { return };
    let open = |place: &Path| LinuxBacking::open(place, BackingOptions::default()).unwrap();
    let first = open(here.path());
    let engine = Engine::new(&first, EngineConfig::default());
    assert_eq!(engine.add_tree(open(there.path())).map(drop), Err(Errno::XDEV));
}

#[test]
fn a_backing_directory_has_one_server_and_must_be_one() {
    let place = tempfile::tempdir().unwrap();
    let open = |path: &Path| LinuxBacking::open(path, BackingOptions::default());
    let first = open(place.path()).unwrap();
    assert!(matches!(open(place.path()), Err(OpenError::Locked(_))));
    drop(first);
    assert!(open(place.path()).is_ok(), "the lock goes with its holder");
    assert!(matches!(open(&place.path().join("missing")), Err(OpenError::Missing(_))));
    std::fs::write(place.path().join("file"), b"").unwrap();
    assert!(matches!(open(&place.path().join("file")), Err(OpenError::NotADirectory(_))));
}

#[test]
fn extended_attributes_of_every_size() {
    on_both(|tree, place| {
        std::fs::write(place.join("f"), b"").unwrap();
        let id = tree.lookup(NodeId::ROOT, name("f")).unwrap().id;
        for bytes in [0, 1, 1023, 1024, 1025, 3000] {
            let value = vec![7; bytes];
            match tree.set_xattr(me(), id, name("user.test"), &value, 0) {
                // tmpfs before Linux 6.6 has no user attributes.
                Err(Errno::OPNOTSUPP) => return,
                result => result.unwrap(),
            }
            assert_eq!(tree.xattr(id, name("user.test")).unwrap(), value);
        }
        assert!(tree.xattr_names(me(), id).unwrap().starts_with(b"user.test\0"));
        tree.remove_xattr(id, name("user.test")).unwrap();
        assert_eq!(tree.xattr(id, name("user.test")), Err(Errno::NODATA));
    });
}
