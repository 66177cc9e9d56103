//! What each model lets a power cut do, and what not: small programs whose
//! outcomes are known. The first ones are Ferrite's (ASPLOS 2016), with what it
//! found on ext4 and XFS.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use fs_core::error::{Errno, Result};
use fs_core::platform::sim::{
    DurabilityModel, STALE_BYTE, SimBacking, SimFile, SimObject, SimOptions,
};
use fs_core::platform::{Backing, FenceMethod, Fencer, OpenMode, RenameMode, SyncTarget};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind};

use DurabilityModel::{Ext4Ordered, PosixMin, Writeback, Xfs};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const CRASHES: u64 = 400;

/// A filesystem with short ways to use it; every operation must succeed.
struct Disk(SimBacking);

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

impl Disk {
    fn new(model: DurabilityModel) -> Self {
        Self(SimBacking::new(SimOptions::new(model, 7)))
    }

    fn root(&self) -> SimObject {
        self.0.root().expect("a root").object
    }

    fn dir(&self, text: &str) -> SimObject {
        let mode = NewMode { mode: 0o755, umask: 0 };
        self.0.make_dir(ME, &self.root(), name(text), mode).expect("a directory").object
    }

    fn file_in(&self, dir: &SimObject, text: &str) -> Arc<SimFile> {
        let new = NewMode { mode: 0o644, umask: 0 };
        let made = self.0.create(ME, dir, name(text), new, READ_WRITE, true);
        Arc::new(made.expect("a file").1)
    }

    fn file(&self, text: &str) -> Arc<SimFile> {
        self.file_in(&self.root(), text)
    }

    /// A file with this content, all of it durable.
    fn durable_file(&self, text: &str, content: &[u8]) -> Arc<SimFile> {
        let file = self.file(text);
        self.write(&file, 0, content);
        self.0.sync_all().expect("a sync");
        file
    }

    fn open(&self, text: &str) -> Arc<SimFile> {
        let object = self.0.lookup(&self.root(), name(text)).expect("a name").object;
        Arc::new(self.0.open(ME, &object, READ_WRITE).expect("a file opens"))
    }

    fn write(&self, file: &SimFile, offset: u64, data: &[u8]) {
        assert_eq!(self.0.write(ME, file, data, offset, false), Ok(data.len()));
    }

    fn set_size(&self, text: &str, size: u64) {
        let object = self.0.lookup(&self.root(), name(text)).expect("a name").object;
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        self.0.set_attr(ME, &object, None, &change).expect("a length");
    }

    fn rename(&self, from: (&SimObject, &str), to: (&SimObject, &str)) {
        let mode = RenameMode::default();
        self.0.rename((from.0, name(from.1)), (to.0, name(to.1)), mode).expect("a rename");
    }

    fn fence(&self, target: SyncTarget<SimBacking>) -> Result<()> {
        self.0.fencer().run(FenceMethod::Parallel, &[target])[0]
    }

    fn sync(&self, file: &Arc<SimFile>) -> Result<()> {
        self.fence(SyncTarget::File(Arc::clone(file), SyncKind::Full))
    }

    fn sync_data(&self, file: &Arc<SimFile>) -> Result<()> {
        self.fence(SyncTarget::File(Arc::clone(file), SyncKind::Data))
    }

    fn sync_dir(&self, dir: &SimObject) -> Result<()> {
        self.fence(SyncTarget::Dir(Arc::new(self.0.open_dir(dir).expect("a directory opens"))))
    }

    /// What is found under a path: a file's content, "dir", or "-".
    fn look(&self, path: &str) -> String {
        let mut found = self.0.root().expect("a root");
        for part in path.split('/') {
            match self.0.lookup(&found.object, name(part)) {
                Ok(next) => found = next,
                Err(_) => return "-".to_owned(),
            }
        }
        let Ok(file) = self.0.open(ME, &found.object, READ_WRITE) else { return "dir".to_owned() };
        let mut content = vec![0; found.attr.size as usize];
        self.0.read(&file, &mut content, 0).expect("a file can be read");
        runs(&content)
    }

    /// Everything that power cuts leave under these paths.
    fn outcomes(&self, paths: &[&str]) -> BTreeSet<String> {
        let look = |seed| {
            let crashed = Self(self.0.crash(seed));
            paths.iter().map(|path| crashed.look(path)).collect::<Vec<_>>().join(" ")
        };
        (0..CRASHES).map(look).collect()
    }
}

/// "a100.50": a hundred times `a`, then fifty zeros; "empty" for nothing.
fn runs(content: &[u8]) -> String {
    let show = |run: &[u8]| match run[0] {
        0 => format!(".{}", run.len()),
        STALE_BYTE => format!("?{}", run.len()),
        byte => format!("{}{}", char::from(byte), run.len()),
    };
    if content.is_empty() {
        return "empty".to_owned();
    }
    content.chunk_by(|one, other| one == other).map(show).collect()
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&outcome| outcome.to_owned()).collect()
}

/// An append may show its length before its bytes: on ext4 within a block that
/// is there already, on XFS never.
#[test]
fn prefix_append() {
    for (model, extra) in [(Ext4Ordered, true), (Xfs, false), (Writeback, true), (PosixMin, true)] {
        let disk = Disk::new(model);
        let file = disk.durable_file("f", &[b'a'; 600]);
        disk.write(&file, 600, &[b'b'; 1000]);
        let outcomes = disk.outcomes(&["f"]);
        assert!(outcomes.is_superset(&set(&["a600", "a600b1000"])), "{model:?} {outcomes:?}");
        assert_eq!(outcomes.contains("a600.1000"), extra, "{model:?} {outcomes:?}");
        assert_eq!(disk.sync_data(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f"]), set(&["a600b1000"]), "{model:?}");
    }
}

/// Replace by rename without a sync: ext4 writes the new file first, XFS does
/// not. With a sync before the rename nobody shows anything else than old or new.
#[test]
fn atomic_replace_by_rename() {
    for (model, empty) in [(Ext4Ordered, false), (Xfs, true), (Writeback, false), (PosixMin, true)]
    {
        for synced in [false, true] {
            let disk = Disk::new(model);
            disk.durable_file("f", b"old");
            let new = disk.file("tmp");
            disk.write(&new, 0, b"nnnn");
            if synced {
                assert_eq!(disk.sync(&new), Ok(()));
            }
            let root = disk.root();
            disk.rename((&root, "tmp"), (&root, "f"));
            let outcomes = disk.outcomes(&["f"]);
            assert!(outcomes.is_superset(&set(&["o1l1d1", "n4"])), "{model:?} {outcomes:?}");
            assert_eq!(outcomes.contains("empty"), empty && !synced, "{model:?} {outcomes:?}");
            assert_eq!(disk.sync_dir(&root), Ok(()));
            let expected = disk.outcomes(&["f"]).contains("o1l1d1");
            assert!(!expected, "{model:?}: the rename is durable");
        }
    }
}

/// A new file by rename, without a sync: it may be empty everywhere.
#[test]
fn atomic_create_by_rename() {
    for model in [Ext4Ordered, Xfs, PosixMin] {
        let disk = Disk::new(model);
        let new = disk.file("tmp");
        disk.write(&new, 0, b"nnnn");
        let root = disk.root();
        disk.rename((&root, "tmp"), (&root, "f"));
        let outcomes = disk.outcomes(&["f"]);
        assert!(outcomes.is_superset(&set(&["-", "empty", "n4"])), "{model:?} {outcomes:?}");
    }
}

/// fsync of a file makes its name and everything earlier durable, where there is
/// a journal; what came after the file's last change is not promised.
#[test]
fn what_a_sync_of_a_file_covers() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        disk.file("before");
        let file = disk.file("f");
        disk.file("after");
        assert_eq!(disk.sync(&file), Ok(()));
        let outcomes = disk.outcomes(&["before", "f", "after"]);
        if model == PosixMin {
            assert!(outcomes.contains("- - -"), "{outcomes:?}");
            assert!(!outcomes.contains("- empty -"), "a directory keeps its own order");
        } else {
            assert_eq!(outcomes, set(&["empty empty -", "empty empty empty"]), "{model:?}");
        }
    }
}

/// A sync of a directory makes its names durable, but not the content of what
/// they name.
#[test]
fn what_a_sync_of_a_directory_covers() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        let dir = disk.dir("d");
        disk.0.sync_all().unwrap();
        let file = disk.file_in(&dir, "f");
        disk.write(&file, 0, b"xx");
        disk.file("other");
        assert_eq!(disk.sync_dir(&dir), Ok(()));
        let outcomes = disk.outcomes(&["d/f", "other"]);
        assert!(outcomes.contains("x2 empty") && outcomes.contains("x2 -"), "{model:?}");
        assert!(outcomes.iter().all(|outcome| !outcome.starts_with('-')), "{outcomes:?}");
        let content_lost = outcomes.iter().any(|outcome| !outcome.starts_with("x2"));
        assert!(content_lost, "{model:?} {outcomes:?}");
    }
}

/// fdatasync leaves out what the data does not need: here a rename.
#[test]
fn what_fdatasync_leaves_out() {
    for model in [Ext4Ordered, Xfs, Writeback] {
        let disk = Disk::new(model);
        let file = disk.durable_file("f", b"aa");
        let root = disk.root();
        disk.rename((&root, "f"), (&root, "g"));
        disk.write(&file, 0, b"bb");
        assert_eq!(disk.sync_data(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f", "g"]), set(&["b2 -", "- b2"]), "{model:?}");
        assert_eq!(disk.sync(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f", "g"]), set(&["- b2"]), "{model:?}");
    }
}

/// A rename between directories is one change in a journal, two without.
#[test]
fn a_rename_between_directories() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        let (one, other) = (disk.dir("one"), disk.dir("other"));
        disk.file_in(&one, "f");
        disk.0.sync_all().unwrap();
        disk.rename((&one, "f"), (&other, "f"));
        let outcomes = disk.outcomes(&["one/f", "other/f"]);
        let mut expected = set(&["empty -", "- empty"]);
        if model == PosixMin {
            expected.extend(set(&["- -", "empty empty"]));
        }
        assert_eq!(outcomes, expected, "{model:?}");
    }
}

/// Bytes that were cut off never come back when the file grows again: they are
/// zeros on disk before the cut commits. (So they may be zeros in the uncut file.)
#[test]
fn cut_off_bytes_stay_away() {
    for model in [Ext4Ordered, Xfs] {
        let disk = Disk::new(model);
        let file = disk.durable_file("f", &[b'a'; 3000]);
        disk.set_size("f", 1024);
        disk.set_size("f", 2048);
        let outcomes = disk.outcomes(&["f"]);
        let length = |outcome: &str| -> usize {
            let lengths = outcome.split(|c: char| !c.is_ascii_digit());
            lengths.filter_map(|length| length.parse::<usize>().ok()).sum()
        };
        let grown = outcomes.iter().filter(|outcome| length(outcome) == 2048);
        assert_eq!(grown.collect::<Vec<_>>(), ["a1024.1024"], "{model:?}");
        assert!(outcomes.is_superset(&set(&["a3000", "a1024", "a1024.1024"])), "{outcomes:?}");
        assert_eq!(disk.sync(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f"]), set(&["a1024.1024"]), "{model:?}");
    }
}

/// New blocks show their data, zeros or stale bytes, each model its own.
#[test]
fn what_new_blocks_show() {
    for (model, stale) in [(Ext4Ordered, false), (Xfs, false), (Writeback, true), (PosixMin, true)]
    {
        let mut outcomes = BTreeSet::new();
        let disk = Disk::new(model);
        // Whether a block is stale is decided when it is allocated.
        for index in 0..10 {
            let text = format!("f{index}");
            let file = disk.file(&text);
            disk.write(&file, 0, &[b'a'; 4096]);
            outcomes.extend(disk.outcomes(&[text.as_str()]));
        }
        assert_eq!(outcomes.contains("?4096"), stale, "{model:?}");
        assert!(outcomes.is_superset(&set(&["-", "empty", "a4096"])), "{model:?} {outcomes:?}");
        let in_parts = |outcome: &String| outcome.starts_with('a') && outcome != "a4096";
        assert_eq!(outcomes.iter().any(in_parts), stale, "torn blocks: {model:?} {outcomes:?}");
    }
}

/// A removed file that is still open can be used on, and is gone after a crash.
#[test]
fn a_removed_file_is_gone_after_a_crash() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        let file = disk.durable_file("f", b"aa");
        disk.0.unlink(&disk.root(), name("f")).unwrap();
        disk.write(&file, 0, b"bb");
        assert_eq!(disk.sync_dir(&disk.root()), Ok(()));
        assert_eq!(disk.sync(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f"]), set(&["-"]), "{model:?}");
        let mut buffer = [0; 4];
        assert_eq!(disk.0.read(&file, &mut buffer, 0), Ok(2));
    }
}

/// As on Linux (errseq): a failed sync is told once to each file that was open,
/// the pages count as clean, and a sync that succeeds later proves nothing.
#[test]
fn a_failed_sync() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        let (file, other) = (disk.durable_file("f", b"aa"), disk.open("f"));
        disk.write(&file, 0, b"bb");
        disk.0.fail_sync(1);
        assert_eq!(disk.sync(&file), Err(Errno::IO));
        assert_eq!(disk.sync(&file), Ok(()), "it was told");
        assert_eq!(disk.sync(&disk.open("f")), Ok(()), "it was opened after somebody was told");
        assert_eq!(disk.sync(&other), Err(Errno::IO), "it was open");
        assert_eq!(disk.sync(&other), Ok(()));
        assert_eq!(disk.look("f"), "b2", "readers see what is in memory");
        assert_eq!(disk.outcomes(&["f"]), set(&["a2", "b2"]), "{model:?}");
        disk.write(&file, 0, b"bb");
        assert_eq!(disk.sync(&file), Ok(()));
        assert_eq!(disk.outcomes(&["f"]), set(&["b2"]), "written again: {model:?}");
    }
}

/// An error that nobody was told meets the next one who opens the file.
#[test]
fn an_error_that_nobody_was_told() {
    let disk = Disk::new(Ext4Ordered);
    let file = disk.durable_file("f", b"aa");
    disk.write(&file, 0, b"bb");
    drop(file);
    disk.0.fail_sync(1);
    assert_eq!(disk.0.sync_all(), Err(Errno::IO));
    assert_eq!(disk.sync(&disk.open("f")), Err(Errno::IO));
    assert_eq!(disk.sync(&disk.open("f")), Ok(()));
}

#[test]
fn an_aborted_journal() {
    let disk = Disk::new(Ext4Ordered);
    let file = disk.durable_file("f", b"aa");
    let again = disk.open("f");
    disk.write(&file, 2, b"bb");
    disk.0.abort_journal();
    let refused = Err(Errno::ROFS);
    assert_eq!(disk.0.write(ME, &file, b"x", 0, false), refused);
    assert_eq!(disk.0.unlink(&disk.root(), name("f")), refused.map(drop));
    assert_eq!((disk.sync(&file), disk.sync(&again)), (Err(Errno::IO), Err(Errno::IO)));
    assert_eq!(disk.look("f"), "a2b2");
    assert!(disk.outcomes(&["f"]).contains("a2"));
}

/// The same seed leaves the same; what a crash has left does not change by
/// another one; and objects keep their keys.
#[test]
fn a_crash_is_final() {
    for model in DurabilityModel::ALL {
        let disk = Disk::new(model);
        for index in 0..5_u8 {
            let file = disk.file(&format!("f{index}"));
            disk.write(&file, 0, &[b'a' + index; 5000]);
        }
        let paths = ["f0", "f1", "f2", "f3", "f4"];
        let look = |disk: &Disk| paths.map(|path| disk.look(path));
        for seed in 0..50 {
            let (crashed, same) = (Disk(disk.0.crash(seed)), Disk(disk.0.crash(seed)));
            assert_eq!(look(&crashed), look(&same), "{model:?} {seed}");
            assert_eq!(look(&crashed), look(&Disk(crashed.0.crash(1))), "{model:?} {seed}");
            if let Ok(found) = crashed.0.lookup(&crashed.root(), name("f0")) {
                let before = disk.0.lookup(&disk.root(), name("f0")).unwrap();
                assert_eq!(found.key, before.key);
                assert_eq!(crashed.0.by_key(&before.key).unwrap().attr.ino, before.attr.ino);
            }
        }
    }
}

/// The number of a removed inode is used again, its key is not.
#[test]
fn numbers_come_again_and_keys_do_not() {
    let disk = Disk::new(Ext4Ordered);
    let find = |text| disk.0.lookup(&disk.root(), name(text)).unwrap();
    drop(disk.file("f"));
    let first = find("f");
    disk.0.unlink(&disk.root(), name("f")).unwrap();
    drop(disk.file("g"));
    let second = find("g");
    assert_eq!(first.attr.ino, second.attr.ino);
    assert_ne!(first.key, second.key);
    assert_eq!(disk.0.by_key(&first.key).map(drop), Err(Errno::STALE));
    assert_eq!(disk.0.attr(&first.object).map(drop), Err(Errno::STALE));
}
