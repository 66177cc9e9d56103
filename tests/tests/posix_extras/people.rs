//! People: whose files are made, who may what, and what a stranger's write takes away.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tests::actor::{Identity, NOBODY};

use crate::transcript::{Transcript, same_on_both, somebody};

// The same user with a supplementary group.
const NOBODY_IN_7: Identity = Identity { user: 65534, groups: &[65534, 7, 8] };
const STRANGER: Identity = Identity { user: 1234, groups: &[1234] };

fn owner_and_mode(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(metadata) => format!("{}:{} {:o}", metadata.uid(), metadata.gid(), metadata.mode()),
        Err(error) => error.to_string(),
    }
}

fn make_directory(path: &Path, owner: (u32, u32), mode: u32) {
    fs::create_dir(path).expect("mkdir");
    chown(path, Some(owner.0), Some(owner.1)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

// Never opened: the kernel tells the daemon of a close some time after the program went on, and
// a file that was open when it was given special bits loses them by the next write
// (docs/semantics.md, "Owners").
fn make_file(path: &Path, owner: (u32, u32), mode: u32) {
    let (kind, plain) = (FileType::RegularFile, Mode::from_raw_mode(0o600));
    mknodat(CWD, path, kind, plain, 0).expect("mknod");
    nix::unistd::truncate(path, 7).expect("truncate");
    chown(path, Some(owner.0), Some(owner.1)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

// What takes special bits away, when somebody without privilege does it.
const CHANGES: [&str; 8] = [
    "write @file 0 x",
    "append @file 1 x",
    "truncate @file 3",
    "truncate @file 7",
    "chmod @file 6711",
    "chown @file - 65534",
    "chown @file 65534 -",
    "touch @file",
];

fn change_as_nobody(directory: &Path, modes: &[u32], transcript: &mut Transcript) {
    let path = directory.join("file");
    let mut nobody = somebody(NOBODY);
    for mode in modes {
        for order in CHANGES {
            make_file(&path, (65534, 65534), *mode);
            transcript.ask(&mut nobody, directory, order);
            transcript.note(&format!("{mode:o}"), owner_and_mode(&path));
            fs::remove_file(&path).expect("unlink");
        }
    }
}

#[test]
fn special_bits_go_when_others_write() {
    same_on_both(|directory, transcript| {
        change_as_nobody(directory, &[0o6755, 0o2755, 0o4700, 0o4755, 0o1644], transcript);
        // A group that the owner is not in: chmod drops the group bit.
        let path = directory.join("file");
        make_file(&path, (65534, 9), 0o755);
        let mut nobody = somebody(NOBODY);
        transcript.ask(&mut nobody, directory, "chmod @file 2755");
        transcript.note("group of others", owner_and_mode(&path));
    });
}

// Without the group's right to execute, the group bit is no privilege: members may write.
#[test]
fn a_group_bit_that_gives_nothing_stays() {
    same_on_both(|directory, transcript| {
        change_as_nobody(directory, &[0o2745, 0o6644], transcript);
    });
}

#[test]
fn special_bits_stay_when_root_writes() {
    same_on_both(|directory, transcript| {
        let path = directory.join("file");
        for mode in [0o6755, 0o2755, 0o2745, 0o4700, 0o6644, 0o1644] {
            let steps: [(&str, &dyn Fn()); 4] = [
                ("writes", &|| {
                    let file = fs::File::options().write(true).open(&path).expect("open");
                    file.write_all_at(b"root", 0).expect("write");
                }),
                ("cuts", &|| {
                    let file = fs::File::options().write(true).open(&path).expect("open");
                    file.set_len(2).expect("truncate");
                }),
                ("opens and cuts", &|| fs::write(&path, "root").expect("write")),
                // Except when giving it away.
                ("gives away", &|| chown(&path, Some(1), Some(2)).expect("chown")),
            ];
            for (step, action) in steps {
                make_file(&path, (65534, 65534), mode);
                action();
                transcript.note(&format!("{mode:o} root {step}"), owner_and_mode(&path));
                fs::remove_file(&path).expect("unlink");
            }
        }
    });
}

#[test]
fn files_belong_to_who_made_them() {
    same_on_both(|directory, transcript| {
        for (name, owner, mode) in [
            ("open", (0, 0), 0o777),
            ("setgid", (0, 7), 0o2777),
            ("group", (0, 7), 0o770),
            ("other-group", (0, 9), 0o770),
            ("sticky", (0, 0), 0o1777),
            ("closed", (0, 0), 0o755),
        ] {
            make_directory(&directory.join(name), owner, mode);
        }
        for (who, identity) in [("nobody", NOBODY), ("in7", NOBODY_IN_7), ("stranger", STRANGER)] {
            let mut actor = somebody(identity);
            for umask in ["022", "000", "077"] {
                transcript.ask(&mut actor, directory, &format!("umask {umask}"));
                for place in ["open", "setgid", "group", "other-group", "sticky", "closed"] {
                    let name = format!("{place}/{who}{umask}");
                    transcript.ask(&mut actor, directory, &format!("create @{name} 2775"));
                    transcript.note(&name, owner_and_mode(&directory.join(&name)));
                    transcript.ask(&mut actor, directory, &format!("mkdir @{name}d 777"));
                    transcript.note(&name, owner_and_mode(&directory.join(format!("{name}d"))));
                }
            }
        }
        // Sticky: only one's own.
        let mut stranger = somebody(STRANGER);
        transcript.ask(&mut stranger, directory, "unlink @sticky/nobody022");
        transcript.ask(&mut stranger, directory, "rename @sticky/nobody022 @sticky/mine");
        transcript.ask(&mut stranger, directory, "unlink @sticky/stranger022");
        transcript.ask(&mut stranger, directory, "unlink @open/nobody022");
    });
}

#[test]
fn permissions_are_asked() {
    same_on_both(|directory, transcript| {
        make_directory(&directory.join("d"), (0, 0), 0o755);
        let modes =
            [("private", (0, 0), 0o600), ("group", (0, 7), 0o660), ("world", (0, 0), 0o604)];
        for (name, owner, mode) in modes {
            make_file(&directory.join("d").join(name), owner, mode);
        }
        make_file(&directory.join("d/own"), (65534, 65534), 0o400);
        make_directory(&directory.join("hidden"), (0, 0), 0o700);
        make_file(&directory.join("hidden/file"), (65534, 65534), 0o666);
        for identity in [NOBODY, NOBODY_IN_7, STRANGER] {
            let mut actor = somebody(identity);
            for name in ["d/private", "d/group", "d/world", "d/own", "hidden/file", "d/missing"] {
                for order in ["read @", "write @ 0 x", "truncate @ 3", "chmod @ 644", "touch @"] {
                    let order = order.replacen('@', &format!("@{name}"), 1);
                    transcript.ask(&mut actor, directory, &order);
                }
                transcript.ask(&mut actor, directory, &format!("chown @{name} - 7"));
                transcript.ask(&mut actor, directory, &format!("chown @{name} 1 -"));
                transcript.note(name, owner_and_mode(&directory.join(name)));
            }
            transcript.ask(&mut actor, directory, "unlink @d/world");
            transcript.ask(&mut actor, directory, "create @d/new 644");
        }
    });
}
