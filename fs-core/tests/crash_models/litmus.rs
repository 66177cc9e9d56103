//! The programs, and every outcome under every model.

use std::collections::BTreeSet;

use super::script::Script;

const ALL: [&str; 13] = [
    "seq",
    "ext3-ordered",
    "ext4",
    "ext4-strict",
    "xfs",
    "btrfs",
    "f2fs",
    "ext3-writeback",
    "posix-flush",
    "posix-min",
    "lazyfs",
    "lanefs",
    "lanefs-close",
];

/// Models and the outcomes that they allow, `|` between them.
type Table = &'static [(&'static [&'static str], &'static str)];

fn expect(name: &str, script: &Script, at_end: bool, table: Table) {
    let named: Vec<&str> = table.iter().flat_map(|(models, _)| *models).copied().collect();
    for model in ALL {
        assert!(named.contains(&model), "{name}: no line for {model}");
    }
    let mut wrong = String::new();
    for (models, expected) in table {
        let expected: BTreeSet<String> = expected.split('|').map(|o| o.trim().to_owned()).collect();
        for model in *models {
            let found = script.outcomes(model, at_end);
            if found != expected {
                let more: Vec<_> = found.difference(&expected).collect();
                let less: Vec<_> = expected.difference(&found).collect();
                wrong += &format!("{name}, {model}: also {more:?}; never {less:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

// Ferrite's PA: is what an append leaves always a prefix of it? Not on ext4 and f2fs, where
// the length may come before the bytes (in a block that has a place, on ext4).
#[test]
fn prefix_append() {
    let mut script = Script::new();
    let f = script.initial("f", &[b'a'; 2500]);
    script.write(f, 2500, &[b'b'; 2500]);
    // Two blocks: the rest of the first, and a new one.
    expect(
        "PA",
        &script,
        false,
        &[
            (&["seq", "ext3-ordered", "xfs", "btrfs", "lazyfs"], "f=a | f=ab"),
            // The first block's length without its bytes; the second only with both.
            (&["ext4"], "f=a | f=ab | f=a0 | f=a0b"),
            (
                &[
                    "ext4-strict",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lanefs",
                    "lanefs-close",
                ],
                "f=a | f=ab | f=a0 | f=a0b | f=ab0",
            ),
        ],
    );
}

// Ferrite's ARVR: replace a file by rename, without a sync. Old or new?
#[test]
fn atomic_replace_via_rename() {
    let mut script = Script::new();
    let g = script.initial("g", b"o");
    let f = script.create("f");
    script.write(f, 0, b"n");
    script.close(f);
    script.rename(f, "f", "g", Some(g));
    expect(
        "ARVR",
        &script,
        false,
        &[
            (&["seq", "ext3-ordered", "ext4", "btrfs"], "g=o | f= g=o | f=n g=o | g=n"),
            // What is not synced is as the backing filesystem has it; a rename is whole.
            (&["lanefs", "lanefs-close"], "g=o | f= g=o | f=n g=o | f=0 g=o | g=n"),
            (&["xfs", "lazyfs"], "g=o | f= g=o | f=n g=o | g=n | g="),
            // The length may come first: zeros. It is in the journal, in order with the names.
            (&["ext3-writeback"], "g=o | f= g=o | f=n g=o | f=0 g=o | g=n | g=0"),
            (
                &["ext4-strict", "f2fs", "posix-flush", "posix-min"],
                "g=o | f= g=o | f=n g=o | f=0 g=o | g=n | g= | g=0",
            ),
        ],
    );
}

// Ferrite's ACVR: the same without a file to replace. Nobody takes the bytes along.
#[test]
fn atomic_create_via_rename() {
    let mut script = Script::new();
    let f = script.create("f");
    script.write(f, 0, b"n");
    script.rename(f, "f", "g", None);
    expect(
        "ACVR",
        &script,
        false,
        &[
            (&["seq", "ext3-ordered"], " | f= | f=n | g=n"),
            // Ferrite counts five outcomes of create-rename on ext4, four with an fsync.
            (&["ext4", "xfs", "btrfs", "lazyfs"], " | f= | f=n | g=n | g="),
            (&["ext3-writeback"], " | f= | f=n | f=0 | g=n | g=0"),
            (
                &["ext4-strict", "f2fs", "posix-flush", "posix-min", "lanefs", "lanefs-close"],
                " | f= | f=n | f=0 | g=n | g= | g=0",
            ),
        ],
    );
    let mut script = Script::new();
    let f = script.create("f");
    script.write(f, 0, b"n");
    script.fsync(f);
    script.rename(f, "f", "g", None);
    expect(
        "ACVR with fsync",
        &script,
        false,
        &[
            (&["seq", "ext3-ordered", "ext4", "xfs", "btrfs", "lazyfs"], " | f= | f=n | g=n"),
            (
                &[
                    "ext4-strict",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lanefs",
                    "lanefs-close",
                ],
                " | f= | f=n | f=0 | g=n",
            ),
        ],
    );
}

// An fsync keeps the file's name, except under the least model. Crashes at the end.
#[test]
fn fsync_and_the_name() {
    let mut script = Script::new();
    let f = script.create("f");
    script.write(f, 0, b"n");
    script.fsync(f);
    expect(
        "name of a new file",
        &script,
        true,
        &[
            (
                &[
                    "seq",
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "lazyfs",
                    "lanefs",
                    "lanefs-close",
                ],
                "f=n",
            ),
            (&["posix-min"], " | f=n"),
        ],
    );
}

// Ferrite's implied-directory-fsync: is a file's new directory kept by the file's fsync?
#[test]
fn implied_directory_fsync() {
    let mut script = Script::new();
    let d = script.mkdir("d");
    let f = script.create_in(d, "f");
    script.write(f, 0, b"n");
    script.fsync(f);
    expect(
        "implied directory fsync",
        &script,
        true,
        &[
            (
                &[
                    "seq",
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "lazyfs",
                    "lanefs",
                    "lanefs-close",
                ],
                "d/ d/f=n",
            ),
            (&["posix-min"], " | d/ | d/ d/f=n"),
        ],
    );
}

// A directory's fsync keeps its names, and not the bytes of what they stand for.
#[test]
fn directory_fsync() {
    let mut script = Script::new();
    let f = script.create("f");
    script.write(f, 0, b"n");
    script.fsync(fs_core::crash::trace::Ino::ROOT);
    expect(
        "directory fsync",
        &script,
        true,
        &[
            // In order with the bytes: those too.
            (&["seq"], "f=n"),
            (&["ext4", "xfs", "btrfs", "lazyfs", "ext3-ordered"], "f= | f=n"),
            (
                &[
                    "ext4-strict",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lanefs",
                    "lanefs-close",
                ],
                "f= | f=n | f=0",
            ),
        ],
    );
}

// Ferrite's ordered-two-files: two files overwritten one after the other.
#[test]
fn overwrites_of_two_files() {
    let mut script = Script::new();
    let a = script.initial("a", b"o");
    let b = script.initial("b", b"o");
    script.write(a, 0, b"n");
    script.write(b, 0, b"n");
    expect(
        "overwrites",
        &script,
        false,
        &[
            (&["seq"], "a=o b=o | a=n b=o | a=n b=n"),
            (
                &[
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lazyfs",
                    "lanefs",
                    "lanefs-close",
                ],
                "a=o b=o | a=n b=o | a=o b=n | a=n b=n",
            ),
        ],
    );
}

// Ferrite's ordered-same-file: two blocks of one file; and one block twice, which is in
// order everywhere.
#[test]
fn overwrites_of_one_file() {
    let mut script = Script::new();
    let content = [[b'o'; 4096], [b'p'; 4096]].concat();
    let a = script.initial("a", &content);
    script.write(a, 0, &[b'x'; 4096]);
    script.write(a, 4096, &[b'y'; 4096]);
    script.write(a, 0, &[b'z'; 4096]);
    expect(
        "one file",
        &script,
        false,
        &[
            (&["seq"], "a=op | a=xp | a=xy | a=zy"),
            (
                &[
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lazyfs",
                    "lanefs",
                    "lanefs-close",
                ],
                "a=op | a=xp | a=oy | a=xy | a=zp | a=zy",
            ),
        ],
    );
}

// Two names in two directories: in order where the journal is, free elsewhere.
#[test]
fn order_of_names() {
    let mut script = Script::new();
    let d = script.mkdir("d");
    script.fsync(fs_core::crash::trace::Ino::ROOT);
    script.create_in(d, "f");
    script.create("g");
    expect(
        "names",
        &script,
        true,
        &[
            (
                &[
                    "seq",
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "lanefs",
                ],
                "d/ | d/ d/f= | d/ d/f= g=",
            ),
            (&["posix-flush", "posix-min"], "d/ | d/ d/f= | d/ g= | d/ d/f= g="),
            // Each change of a name is durable at once.
            (&["lazyfs"], "d/ d/f= g="),
            // A create is made durable by the close of the file, which is not here.
            (&["lanefs-close"], "d/ | d/ d/f= | d/ d/f= g="),
        ],
    );
}

// fsync of another file: a journal keeps all names before it; btrfs' log does not.
#[test]
fn fsync_of_another_file() {
    let mut script = Script::new();
    let b = script.initial("b", b"o");
    script.create("a");
    script.write(b, 0, b"n");
    script.fsync(b);
    expect(
        "fsync of another file",
        &script,
        true,
        &[
            (
                &[
                    "seq",
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "ext3-writeback",
                    "lazyfs",
                    "lanefs",
                    "lanefs-close",
                ],
                "a= b=n",
            ),
            (&["btrfs", "f2fs", "posix-flush", "posix-min"], "b=n | a= b=n"),
        ],
    );
}

// fdatasync of a pure overwrite keeps the bytes and no name of somebody else.
#[test]
fn fdatasync_of_an_overwrite() {
    let mut script = Script::new();
    let b = script.initial("b", b"o");
    script.create("a");
    script.write(b, 0, b"n");
    script.fdatasync(b);
    expect(
        "fdatasync",
        &script,
        true,
        &[
            (&["seq", "lazyfs"], "a= b=n"),
            (
                &[
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lanefs",
                    "lanefs-close",
                ],
                "b=n | a= b=n",
            ),
        ],
    );
}

// Truncate and write again without a sync, then a change elsewhere: only ext4's heuristic
// takes the bytes along, and nobody keeps the old ones.
#[test]
fn rewrite_in_place() {
    let mut script = Script::new();
    let f = script.initial("f", b"o");
    script.resize(f, 0);
    script.write(f, 0, b"n");
    script.close(f);
    script.create("g");
    expect(
        "rewrite",
        &script,
        false,
        &[
            (&["seq", "ext3-ordered", "ext4"], "f=o | f= | f=n | f=n g="),
            // All or nothing, until it is closed.
            (&["lanefs", "lanefs-close"], "f=o | f=n | f=n g="),
            (&["xfs", "btrfs", "lazyfs"], "f=o | f= | f=n | f= g= | f=n g="),
            // The length is in the journal, in order with the names.
            (&["ext3-writeback"], "f=o | f= | f=0 | f=n | f=0 g= | f=n g="),
            (&["ext4-strict", "f2fs"], "f=o | f= | f=0 | f=n | f= g= | f=0 g= | f=n g="),
            (
                &["posix-flush", "posix-min"],
                "f=o | f= | f=0 | f=n | f=o g= | f= g= | f=0 g= | f=n g=",
            ),
        ],
    );
}

// A length that is set on bytes that were not written yet: ext4 has zeros in their place (found on
// Linux 6.18 by the soundness test, `tests/tests/crash_lab/soundness.rs`).
#[test]
fn truncate_of_unwritten_bytes() {
    let mut script = Script::new();
    let f = script.create("f");
    script.write(f, 0, &[b'n'; 4000]);
    script.resize(f, 2000);
    expect(
        "truncate of unwritten bytes",
        &script,
        true,
        &[
            (&["seq", "ext3-ordered", "btrfs"], " | f= | f=n"),
            // The rest of the block is zeroed in place, maybe before the length is shorter.
            (&["xfs"], " | f= | f=n | f=n0"),
            (
                &[
                    "ext4",
                    "ext4-strict",
                    "f2fs",
                    "ext3-writeback",
                    "posix-flush",
                    "posix-min",
                    "lanefs",
                    "lanefs-close",
                ],
                " | f= | f=n | f=0 | f=n0",
            ),
            (&["lazyfs"], "f=n"),
        ],
    );
}

// Removing a name: in order with what is done later, or not.
#[test]
fn unlink_and_create() {
    let mut script = Script::new();
    let a = script.initial("a", b"o");
    script.link(a, "b");
    script.unlink(a, "a");
    expect(
        "link and unlink",
        &script,
        true,
        &[
            (
                &[
                    "seq",
                    "ext3-ordered",
                    "ext4",
                    "ext4-strict",
                    "xfs",
                    "btrfs",
                    "f2fs",
                    "ext3-writeback",
                    "lanefs",
                ],
                "a=o | a=o b=o | b=o",
            ),
            // The old name may go before the new one comes: the file is lost.
            (&["posix-flush", "posix-min"], "a=o | a=o b=o | b=o | "),
            (&["lazyfs"], "b=o"),
            // The last operation may be under way, its group not durable yet.
            (&["lanefs-close"], "a=o b=o | b=o"),
        ],
    );
}
