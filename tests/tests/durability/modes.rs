//! Power cuts right after calls have returned.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};
use tests::disk::Position;
use tests::filesystem::Filesystem;
use tests::mapping::SharedMapping;
use tests::require;
use tests::uring::Switch;

use super::stage::Stage;

/// Whose promise it is.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Close,
    Always,
}

/// Something that a program does without any sync, and what must be there after it.
struct Step {
    what: &'static str,
    by: By,
    run: fn(&Path) -> Option<File>,
    holds: fn(&Path) -> bool,
}

const CONTENT: &str = "written and closed";
const PAGE: usize = 4096;

fn is(path: &Path, content: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found == content)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0, |found| found.mode() & 0o7777)
}

fn value(path: &Path) -> Option<Vec<u8>> {
    let mut buffer = [0; 64];
    let bytes = rustix::fs::getxattr(path, "user.test", &mut buffer[..]).ok()?;
    Some(buffer[..bytes].to_vec())
}

/// Open for writing until the end of the run: no close helps.
fn opened(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

const STEPS: &[Step] = &[
    Step {
        what: "a new file at close",
        by: By::Close,
        run: |root| {
            fs::write(root.join("new"), CONTENT).expect("write");
            None
        },
        holds: |tree| is(&tree.join("new"), CONTENT),
    },
    Step {
        what: "an append at close",
        by: By::Close,
        run: |root| {
            let mut file = OpenOptions::new().append(true).open(root.join("grown")).expect("open");
            file.write_all(b" and more").expect("write");
            None
        },
        holds: |tree| is(&tree.join("grown"), "prepared and more"),
    },
    Step {
        what: "a large file at close",
        by: By::Close,
        run: |root| {
            fs::write(root.join("large"), vec![7; 3 << 20]).expect("write");
            None
        },
        holds: |tree| fs::read(tree.join("large")).is_ok_and(|found| found == vec![7; 3 << 20]),
    },
    Step {
        what: "an overwrite through a descriptor that a child closes too",
        by: By::Close,
        run: |root| {
            let file = opened(&root.join("shared"));
            let copy = file.try_clone().expect("dup");
            copy.write_all_at(b"PREPARED", 0).expect("write");
            drop(copy);
            Some(file)
        },
        holds: |tree| is(&tree.join("shared"), "PREPARED"),
    },
    Step {
        what: "a store through a mapping at close",
        by: By::Close,
        run: |root| {
            let file = opened(&root.join("mapped"));
            let mapping = SharedMapping::new(&file, PAGE).expect("mmap");
            mapping.write(100, b"stored");
            drop(mapping);
            drop(file);
            None
        },
        holds: |tree| {
            fs::read(tree.join("mapped")).is_ok_and(|found| &found[100..106] == b"stored")
        },
    },
    Step {
        what: "a file opened for reading and made so",
        by: By::Close,
        run: |root| {
            let mut options = OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_CREAT);
            drop(options.read(true).open(root.join("lock")).expect("open"));
            None
        },
        holds: |tree| is(&tree.join("lock"), ""),
    },
    Step {
        what: "a truncation by name",
        by: By::Close,
        run: |root| {
            let path =
                std::ffi::CString::new(root.join("cut").into_os_string().into_encoded_bytes());
            let path = path.expect("a path");
            nix::unistd::truncate(path.as_c_str(), 3).expect("truncate");
            None
        },
        holds: |tree| is(&tree.join("cut"), "pre"),
    },
    Step {
        what: "mkdir",
        by: By::Close,
        run: |root| {
            fs::create_dir(root.join("directory")).expect("mkdir");
            None
        },
        holds: |tree| tree.join("directory").is_dir(),
    },
    Step {
        what: "rename",
        by: By::Close,
        run: |root| {
            fs::rename(root.join("old name"), root.join("new name")).expect("rename");
            None
        },
        holds: |tree| is(&tree.join("new name"), "prepared") && !tree.join("old name").exists(),
    },
    Step {
        what: "rename into another directory, over a file",
        by: By::Close,
        run: |root| {
            fs::rename(root.join("moved"), root.join("sub/target")).expect("rename");
            None
        },
        holds: |tree| is(&tree.join("sub/target"), "prepared") && !tree.join("moved").exists(),
    },
    Step {
        what: "exchange",
        by: By::Close,
        run: |root| {
            let (one, two) = (root.join("one"), root.join("sub/two"));
            let flags = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(CWD, one, CWD, two, flags).expect("exchange");
            None
        },
        holds: |tree| is(&tree.join("one"), "other") && is(&tree.join("sub/two"), "prepared"),
    },
    Step {
        what: "link",
        by: By::Close,
        run: |root| {
            fs::hard_link(root.join("linked"), root.join("sub/link")).expect("link");
            None
        },
        holds: |tree| is(&tree.join("sub/link"), "prepared"),
    },
    Step {
        what: "symlink",
        by: By::Close,
        run: |root| {
            symlink("linked", root.join("symlink")).expect("symlink");
            None
        },
        holds: |tree| is(&tree.join("symlink"), "prepared"),
    },
    Step {
        what: "mknod",
        by: By::Close,
        run: |root| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).expect("mknod");
            None
        },
        holds: |tree| {
            fs::metadata(tree.join("fifo")).is_ok_and(|found| found.file_type().is_fifo())
        },
    },
    Step {
        what: "unlink",
        by: By::Close,
        run: |root| {
            fs::remove_file(root.join("removed")).expect("unlink");
            None
        },
        holds: |tree| !tree.join("removed").exists(),
    },
    Step {
        what: "rmdir",
        by: By::Close,
        run: |root| {
            fs::remove_dir(root.join("empty")).expect("rmdir");
            None
        },
        holds: |tree| !tree.join("empty").exists(),
    },
    Step {
        what: "a file made and still open",
        by: By::Always,
        run: |root| Some(File::create(root.join("made")).expect("create")),
        holds: |tree| is(&tree.join("made"), ""),
    },
    Step {
        what: "a write to an open file",
        by: By::Always,
        run: |root| {
            let file = opened(&root.join("open"));
            file.write_all_at(b"written", 0).expect("write");
            Some(file)
        },
        holds: |tree| is(&tree.join("open"), "writtend"),
    },
    Step {
        what: "an append of 2 MiB to an open file",
        by: By::Always,
        run: |root| {
            let file = opened(&root.join("open 2"));
            file.write_all_at(&vec![9; 2 << 20], 8).expect("write");
            Some(file)
        },
        holds: |tree| fs::metadata(tree.join("open 2")).is_ok_and(|m| m.len() == (2 << 20) + 8),
    },
    Step {
        what: "a cut by opening",
        by: By::Always,
        run: |root| {
            let mut options = OpenOptions::new();
            Some(options.write(true).truncate(true).open(root.join("emptied")).expect("open"))
        },
        holds: |tree| is(&tree.join("emptied"), ""),
    },
    Step {
        what: "ftruncate",
        by: By::Always,
        run: |root| {
            let file = opened(&root.join("shortened"));
            file.set_len(4).expect("ftruncate");
            Some(file)
        },
        holds: |tree| is(&tree.join("shortened"), "prep"),
    },
    Step {
        what: "a punched hole",
        by: By::Always,
        run: |root| {
            let file = opened(&root.join("punched"));
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, mode, 0, 3).expect("fallocate");
            Some(file)
        },
        holds: |tree| is(&tree.join("punched"), "\0\0\0pared"),
    },
    Step {
        what: "copy_file_range",
        by: By::Always,
        run: |root| {
            let (from, to) = (opened(&root.join("linked")), opened(&root.join("copy")));
            let copied = rustix::fs::copy_file_range(from, Some(&mut 0), &to, Some(&mut 8), 8);
            assert_eq!(copied, Ok(8));
            Some(to)
        },
        holds: |tree| is(&tree.join("copy"), "preparedprepared"),
    },
    Step {
        what: "chmod of a file",
        by: By::Always,
        run: |root| {
            fs::set_permissions(root.join("mode"), Permissions::from_mode(0o640)).expect("chmod");
            None
        },
        holds: |tree| mode(&tree.join("mode")) == 0o640,
    },
    Step {
        what: "chmod of a directory",
        by: By::Always,
        run: |root| {
            fs::set_permissions(root.join("sub"), Permissions::from_mode(0o711)).expect("chmod");
            None
        },
        holds: |tree| mode(&tree.join("sub")) == 0o711,
    },
    Step {
        what: "chown of a symbolic link",
        by: By::Always,
        run: |root| {
            std::os::unix::fs::lchown(root.join("pointer"), Some(7), Some(8)).expect("lchown");
            None
        },
        holds: |tree| {
            let found = fs::symlink_metadata(tree.join("pointer")).expect("prepared");
            (found.uid(), found.gid()) == (7, 8)
        },
    },
    Step {
        what: "utimensat",
        by: By::Always,
        run: |root| {
            let file = File::open(root.join("dated")).expect("open");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("utimensat");
            None
        },
        holds: |tree| fs::metadata(tree.join("dated")).is_ok_and(|m| m.mtime() == 1_000_000),
    },
    Step {
        what: "setxattr",
        by: By::Always,
        run: |root| {
            let flags = XattrFlags::empty();
            rustix::fs::setxattr(root.join("named"), "user.test", b"value", flags).expect("set");
            None
        },
        holds: |tree| value(&tree.join("named")).as_deref() == Some(b"value"),
    },
    Step {
        what: "removexattr",
        by: By::Always,
        run: |root| {
            rustix::fs::removexattr(root.join("unnamed"), "user.test").expect("removexattr");
            None
        },
        holds: |tree| value(&tree.join("unnamed")).is_none(),
    },
];

const PREPARED: &[&str] = &[
    "grown",
    "shared",
    "cut",
    "old name",
    "moved",
    "one",
    "linked",
    "removed",
    "open",
    "open 2",
    "emptied",
    "shortened",
    "punched",
    "copy",
    "mode",
    "dated",
    "named",
    "unnamed",
    "sub/target",
];

fn prepare(tree: &Path) {
    fs::create_dir(tree.join("sub")).expect("mkdir");
    fs::create_dir(tree.join("empty")).expect("mkdir");
    for name in PREPARED {
        fs::write(tree.join(name), "prepared").expect("write");
    }
    fs::write(tree.join("sub/two"), "other").expect("write");
    fs::write(tree.join("mapped"), vec![0; PAGE]).expect("write");
    symlink("linked", tree.join("pointer")).expect("symlink");
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(tree.join("unnamed"), "user.test", b"old", flags).expect("setxattr");
}

/// Runs all steps in the mode of `options`; for each of those `judged` whether a cut right after it
/// has left what it did.
fn survived(filesystem: Filesystem, options: &str, judged: &[By]) -> Vec<(&'static Step, bool)> {
    let stage = Stage::new(filesystem, options, prepare);
    let mut kept_open = Vec::new();
    let run = |step: &'static Step| {
        kept_open.extend((step.run)(stage.root()));
        (step, stage.disk.position())
    };
    let cuts: Vec<(&Step, Position)> = STEPS.iter().map(run).collect();
    drop(kept_open);
    let ended = stage.end();
    let judge = |(step, position): &(&'static Step, Position)| {
        (*step, ended.after_cut(*position, |tree| (step.holds)(tree)))
    };
    let wanted = |(step, _): &&(&Step, Position)| judged.contains(&step.by);
    cuts.iter().filter(wanted).map(judge).collect()
}

fn expect_kept(filesystem: Filesystem, options: &str, promised: &[By]) {
    let survived = survived(filesystem, options, promised);
    let lost = survived.iter().filter(|(_, holds)| !holds);
    let lost: Vec<_> = lost.map(|(step, _)| step.what).collect();
    assert!(
        lost.is_empty(),
        "{}, {options}: lost after it had returned: {lost:?}",
        filesystem.name()
    );
}

fn in_mode(mode: &str, promised: &[By]) {
    if !require::mount_support() {
        return;
    }
    for (filesystem, options) in [
        (Filesystem::Ext4, "fence=log,transport=classic"),
        (Filesystem::Ext4, "fence=log,transport=classic,no_passthrough"),
        (Filesystem::Xfs, "fence=backing,transport=classic"),
        (Filesystem::Ext4, "fence=backing,sync_by=threads,transport=classic"),
    ] {
        expect_kept(filesystem, &format!("durability={mode},{options}"), promised);
    }
    let Some(_switch) = Switch::set(true) else { return };
    for (filesystem, fence) in [(Filesystem::Ext4, "backing"), (Filesystem::Xfs, "log")] {
        let options = format!("durability={mode},fence={fence},transport=ring");
        expect_kept(filesystem, &options, promised);
    }
}

#[test]
fn close_keeps_what_was_closed_and_every_name() {
    in_mode("close", &[By::Close]);
}

#[test]
fn always_keeps_everything() {
    in_mode("always", &[By::Close, By::Always]);
}

// What is lost here is what the modes are for: each step loses its work in the mode `fsync`.
#[test]
fn fsync_keeps_none_of_it() {
    if !require::mount_support() {
        return;
    }
    let options = "durability=fsync,fence=log,transport=classic,commit_interval=0";
    let kept = survived(Filesystem::Ext4, options, &[By::Close, By::Always]);
    let kept = kept.iter().filter(|(_, holds)| *holds).map(|(step, _)| step.what);
    let kept: Vec<_> = kept.collect();
    assert!(kept.is_empty(), "no sync was asked for, and yet it is there: {kept:?}");
}
