//! `platform/windows` on whatever filesystem the temporary directory is on (under wine: wine's): what
//! the library and the front-end rely on.

#![cfg(windows)]

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use fs_core::batch::{Files, FilesConfig, LogUse, OpenFilesError};
use fs_core::engine::{Engine, EngineConfig, NodeId};
use fs_core::error::Errno;
use fs_core::log::LogConfig;
use fs_core::log::format::LOG_BYTES_MIN;
use fs_core::platform::windows::{ATTRIBUTES, BackingOptions, OpenError, SECURITY, WindowsBacking};
use fs_core::platform::{Backing, OpenMode, RenameMode};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind};
use tempfile::TempDir;

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const FILE: NewMode = NewMode { mode: 0o666, umask: 0 };
const WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const LONG: Duration = Duration::from_secs(20);

fn open(place: &TempDir) -> WindowsBacking {
    WindowsBacking::open(place.path(), BackingOptions::default()).expect("a plain directory opens")
}

fn backing() -> (TempDir, WindowsBacking) {
    let place = tempfile::tempdir().expect("a scratch directory");
    let backing = open(&place);
    (place, backing)
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

#[test]
fn a_directory_is_served_once() {
    let (place, first) = backing();
    let again = || WindowsBacking::open(place.path(), BackingOptions::default());
    assert!(matches!(again(), Err(OpenError::Locked(_))));
    first.release_lock();
    assert!(again().is_ok());
    drop(first);
    let missing = WindowsBacking::open(&place.path().join("no"), BackingOptions::default());
    assert!(matches!(missing, Err(OpenError::Missing(_))));
    std::fs::write(place.path().join("file"), "").expect("a file");
    let file = WindowsBacking::open(&place.path().join("file"), BackingOptions::default());
    assert!(matches!(file, Err(OpenError::NotADirectory(_))));
}

/// Objects are known by id: under every name, and never as another.
#[test]
fn an_object_is_found_by_its_id_as_long_as_it_lives() {
    let (place, backing) = backing();
    let root = backing.root().expect("a root").object;
    let (made, file, is_new) =
        backing.create(ME, &root, name("a"), FILE, WRITE, true).expect("a file");
    assert!(is_new);
    backing.write(ME, &file, b"content", 0, true).expect("a write");
    backing.rename((&root, name("a")), (&root, name("b")), RenameMode::default()).expect("a move");
    let found = backing.by_key(&made.key.portable()).expect("it lives");
    assert_eq!((found.key, found.attr.size), (made.key, 7));
    assert_eq!(backing.lookup(&root, name("B")).expect("case means nothing").key, made.key);
    drop(file);
    backing.unlink(&root, name("b")).expect("it goes");
    assert_eq!(backing.by_key(&made.key).err(), Some(Errno::STALE));
    assert_eq!(backing.lookup(&root, name("b")).err(), Some(Errno::NOENT));
    assert!(!place.path().join("b").exists());
}

#[test]
fn what_is_no_name_is_refused() {
    use std::os::windows::ffi::OsStringExt;
    let (_place, backing) = backing();
    let root = backing.root().expect("a root").object;
    let surrogate = OsString::from_wide(&[0xd800]);
    for bad in [name("a\\b"), name("a/b"), name("a:b"), name(""), &surrogate] {
        assert_eq!(backing.lookup(&root, bad).err(), Some(Errno::INVAL), "{bad:?}");
        let made = backing.create(ME, &root, bad, FILE, WRITE, true);
        assert_eq!(made.err(), Some(Errno::INVAL), "{bad:?}");
    }
    let long = "n".repeat(256);
    assert_eq!(backing.lookup(&root, name(&long)).err(), Some(Errno::NAMETOOLONG));
    assert_eq!(backing.make_symlink(ME, &root, name("l"), name("t")).err(), Some(Errno::OPNOTSUPP));
}

/// Whoever reads meanwhile sees the old file or the new one, whole.
#[test]
fn a_replace_is_never_seen_half() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let config = FilesConfig { log: LogUse::Never, ..FilesConfig::default() };
    let files = Files::open(place.path(), config).expect("a plain directory opens");
    let content = |number: u32| number.to_string().repeat(2000);
    files.write("f", content(0)).expect("a write");
    let done = AtomicBool::new(false);
    let path = place.path().join("f");
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let found = std::fs::read_to_string(&path).expect("there is always one");
                let first = &found[..found.len() / 2000];
                assert_eq!(found, first.repeat(2000), "half a file");
                seen.insert(first.to_owned());
                std::thread::sleep(Duration::from_millis(3));
            }
            seen
        });
        for number in 10..60 {
            // Where there are no POSIX semantics a reader can be in the way for long.
            while files.write("f", content(number)).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("the reader sees whole files")
    });
    assert!(seen.len() > 1, "{seen:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("the last one"), content(59));
}

/// What Windows has instead of modes and owners is the new file's, too.
#[test]
fn a_replaced_file_keeps_attributes_and_security() {
    let place = tempfile::tempdir().expect("a scratch directory");
    std::fs::write(place.path().join("f"), "old").expect("a file");
    let told = |backing: &WindowsBacking| {
        let root = backing.root().expect("a root").object;
        let file = backing.lookup(&root, name("f")).expect("the file").object;
        let attributes = backing.xattr(&file, name(ATTRIBUTES)).expect("attributes");
        (attributes, backing.xattr(&file, name(SECURITY)).ok())
    };
    let before = {
        let backing = open(&place);
        let root = backing.root().expect("a root").object;
        let file = backing.lookup(&root, name("f")).expect("the file").object;
        // Hidden and archive.
        backing.set_xattr(ME, &file, name(ATTRIBUTES), &[0x22, 0, 0, 0], 0).expect("attributes");
        told(&backing)
    };
    let config = FilesConfig { log: LogUse::Never, ..FilesConfig::default() };
    let files = Files::open(place.path(), config).expect("a plain directory opens");
    files.write("f", "new").expect("a write");
    files.close(LONG).expect("it closes");
    let after = told(&open(&place));
    assert_eq!(std::fs::read_to_string(place.path().join("f")).expect("the file"), "new");
    assert_eq!(after.0[0] & 0x02, before.0[0] & 0x02, "hidden: {before:?} {after:?}");
    assert_eq!(after.1, before.1, "the security descriptor");
}

/// Everything that was changed is flushed by the one call, also what cannot be opened for writing
/// any more, and what is gone.
#[test]
fn all_that_was_changed_can_be_flushed() {
    let (_place, backing) = backing();
    let root = backing.root().expect("a root").object;
    for file in ["a", "b", "c"] {
        let made = backing.create(ME, &root, name(file), FILE, WRITE, true);
        let (_, open, _) = made.expect("a file");
        backing.write(ME, &open, b"content", 0, true).expect("a write");
    }
    let read_only = SetAttr { perm: Some(0o444), ..SetAttr::default() };
    let b = backing.lookup(&root, name("b")).expect("a file").object;
    assert_eq!(backing.set_attr(ME, &b, None, &read_only).expect("it may").perm, 0o444);
    backing.unlink(&root, name("c")).expect("it goes");
    backing.sync_all().expect("all is flushed");
    backing.sync_all().expect("there is nothing to be flushed");
    let options = BackingOptions { read_only: true };
    backing.release_lock();
    drop(backing);
    let (_place, reader) = {
        let place = tempfile::tempdir().expect("a scratch directory");
        let reader = WindowsBacking::open(place.path(), options).expect("a directory");
        (place, reader)
    };
    let root = reader.root().expect("a root").object;
    let made = reader.create(ME, &root, name("x"), FILE, WRITE, true);
    assert_eq!(made.err(), Some(Errno::ROFS));
}

/// No log is kept for anybody; asked for, the reason is told. The store itself and recovery work as
/// far as this filesystem shows: what a log holds is found by the next start.
#[test]
fn a_log_is_written_and_recovered_where_a_test_asks_for_one() {
    let place = tempfile::tempdir().expect("a scratch directory");
    let config = FilesConfig { log: LogUse::Always, ..FilesConfig::default() };
    let refused = Files::open(place.path(), config);
    let Err(OpenFilesError::NoLog { reason, .. }) = refused else { panic!("it is refused") };
    assert!(reason.contains("order"), "{reason}");

    let log = || LogConfig {
        bytes: LOG_BYTES_MIN,
        probe: None,
        background: false,
        ..LogConfig::default()
    };
    let begin = || {
        let backing = Arc::new(open(&place));
        let config = EngineConfig { commit_interval: None, ..EngineConfig::default() };
        let made = Engine::with_log(&backing, config, log(), None, &mut |_| {});
        let (engine, report) = made.expect("a log opens");
        (engine.add_tree(backing).expect("a tree"), report)
    };
    let (tree, report) = begin();
    assert!(report.is_none_or(|report| report.is_nothing()), "there was none");
    let made = tree.create(ME, NodeId::ROOT, name("f"), FILE, WRITE, true);
    let (_, file) = made.expect("a file");
    tree.write(ME, file, b"logged", 0, true).expect("a write");
    let (sender, answer) = channel();
    tree.sync_file(
        ME,
        file,
        SyncKind::Full,
        Box::new(move |result| {
            sender.send(result).expect("it is awaited");
        }),
    );
    answer.recv_timeout(LONG).expect("an answer").expect("it is durable");
    assert_eq!(tree.engine().status().fence, "log");
    // The process ends without a checkpoint: its lock and its log are free, and not empty.
    tree.backing().release_lock();
    tree.release(file);
    drop(tree);
    let (tree, report) = begin();
    let report = report.expect("there is a log now");
    assert!(report.groups > 0 && report.records > 0, "{report:?}");
    let found = tree.lookup(NodeId::ROOT, name("f")).expect("the file");
    assert_eq!(found.attr.size, 6);
    assert_eq!(std::fs::read(place.path().join("f")).expect("the file"), b"logged");
    tree.engine().close(LONG).expect("it ends");
}
