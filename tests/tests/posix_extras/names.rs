//! Names: renames with flags, long names, links, directories, files without a name.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use tests::require;
use tests::subject::Subject;

use crate::transcript::same_on_both;

fn kind(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            format!("{:?} {:o} {}", metadata.file_type(), metadata.mode(), metadata.rdev())
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn rename_with_flags() {
    same_on_both(|directory, transcript| {
        let at = |name: &str| directory.join(name);
        for name in ["a", "b"] {
            fs::write(at(name), name).expect("a file");
        }
        fs::create_dir(at("d")).expect("a directory");
        fs::write(at("d/inside"), "inside").expect("a file");
        let flags = [
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
            RenameFlags::WHITEOUT,
            RenameFlags::NOREPLACE | RenameFlags::WHITEOUT,
            RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
            RenameFlags::EXCHANGE | RenameFlags::WHITEOUT,
        ];
        let pairs =
            [("a", "b"), ("a", "new"), ("missing", "a"), ("d", "a"), ("a", "d/inside"), ("d", "d")];
        for flag in flags {
            for (from, to) in pairs {
                let result = renameat_with(CWD, at(from), CWD, at(to), flag);
                transcript.call(&format!("{flag:?} {from} {to}"), result);
                for name in ["a", "b", "new", "d", "d/inside"] {
                    transcript.note(name, kind(&at(name)));
                    transcript.note(name, fs::read_to_string(at(name)).ok());
                }
            }
        }
        let unknown = RenameFlags::from_bits_retain(1 << 10);
        transcript.call("unknown flag", renameat_with(CWD, at("a"), CWD, at("b"), unknown));
    });
}

#[test]
fn long_names_and_links() {
    same_on_both(|directory, transcript| {
        for length in [254, 255, 256] {
            let path = directory.join("n".repeat(length));
            transcript.call(&format!("create {length}"), File::create(&path));
            transcript.call(&format!("stat {length}"), fs::metadata(&path));
            transcript.call(
                &format!("mkdir {length}"),
                fs::create_dir(directory.join("d".repeat(length))),
            );
        }
        // 255 bytes, not characters.
        transcript.call("umlauts 127", File::create(directory.join("ä".repeat(127))));
        transcript.call("umlauts 128", File::create(directory.join("ä".repeat(128))));
        for length in [1, 59, 60, 4095, 4096] {
            let path = directory.join(format!("link-{length}"));
            transcript.call(&format!("symlink {length}"), symlink("t".repeat(length), &path));
            let target = fs::read_link(&path).map(|target| target.as_os_str().len());
            transcript.value(&format!("readlink {length}"), target);
            let size = fs::symlink_metadata(&path).map(|metadata| metadata.len());
            transcript.value(&format!("size {length}"), size);
        }
        let odd = ["new\nline", "back\\slash", "\u{1}", " ", "-", "..."];
        for name in odd {
            transcript.call(name, fs::write(directory.join(name), name));
            transcript.value(name, fs::read_to_string(directory.join(name)));
        }
        let mut names: Vec<_> = fs::read_dir(directory).expect("opendir").flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        transcript.note("listing", names.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>());
    });
}

#[test]
fn hard_links_are_one_file() {
    same_on_both(|directory, transcript| {
        let at = |name: &str| directory.join(name);
        fs::create_dir(at("d")).expect("a directory");
        fs::write(at("one"), "1").expect("a file");
        fs::hard_link(at("one"), at("two")).expect("a link");
        fs::hard_link(at("two"), at("d/three")).expect("a link");
        let names = ["one", "two", "d/three"];
        let seen = || names.map(|name| fs::metadata(at(name)).map(|m| (m.nlink(), m.len())).ok());
        transcript.note("links", seen());
        let numbers = names.map(|name| fs::metadata(at(name)).expect("stat").ino());
        assert_eq!(numbers, [numbers[0]; 3], "one file, one number");
        // A change by one name shows by the others at once, attributes included.
        File::options()
            .append(true)
            .open(at("two"))
            .expect("open")
            .write_all(b"23")
            .expect("write");
        transcript.note("after write", seen());
        fs::remove_file(at("one")).expect("unlink");
        transcript.note("after unlink", seen());
        fs::rename(at("two"), at("d/three")).expect("a rename of a file onto itself");
        transcript.note("after rename onto itself", seen());
        transcript.call("directory", fs::hard_link(at("d"), at("e")));
        symlink("d/three", at("s")).expect("a symlink");
        transcript.call("link to a symlink", fs::hard_link(at("s"), at("s2")));
        transcript.note("symlink", kind(&at("s2")));
    });
}

#[test]
fn open_files_without_a_name() {
    same_on_both(|directory, transcript| {
        let path = directory.join("gone");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.as_mut().expect("a file");
        file.write_all(b"before ").expect("write");
        fs::remove_file(&path).expect("unlink");
        transcript.call("name", fs::metadata(&path));
        transcript.call("write", file.write_all(b"after"));
        transcript.call("sync", file.sync_all());
        transcript.value("stat", file.metadata().map(|m| (m.nlink(), m.len())));
        transcript.call("chmod", file.set_permissions(mode(0o600)));
        transcript.value("mode", file.metadata().map(|m| format!("{:o}", m.mode())));
        transcript.call("truncate", file.set_len(8));
        let mut text = String::new();
        file.rewind().expect("rewind");
        transcript.value("read", file.read_to_string(&mut text));
        transcript.note("text", text);
        // A new file of that name is another one.
        fs::write(&path, "new").expect("a file");
        transcript.value("old", file.metadata().map(|m| m.len()));
        // Replaced by a rename while open.
        let other = directory.join("other");
        fs::write(&other, "other").expect("a file");
        let mut replaced = File::open(&path).expect("open");
        fs::rename(&other, &path).expect("rename");
        let mut text = String::new();
        transcript.value("replaced", replaced.read_to_string(&mut text));
        transcript.note("replaced text", (text, fs::read_to_string(&path).ok()));
        // A directory that is gone while open.
        let directory = directory.join("d");
        fs::create_dir(&directory).expect("mkdir");
        let open = File::open(&directory).expect("opendir");
        fs::remove_dir(&directory).expect("rmdir");
        let made = openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::from(0o600));
        transcript.call("create in it", made);
        transcript.call("sync of it", open.sync_all());
    });
}

fn mode(bits: u32) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(bits)
}

#[test]
fn directories_count_and_show_themselves() {
    same_on_both(|directory, transcript| {
        let top = directory.join("top");
        fs::create_dir(&top).expect("mkdir");
        let links = || fs::metadata(&top).expect("stat").nlink();
        transcript.note("empty", links());
        for name in ["a", "b", "c"] {
            fs::create_dir(top.join(name)).expect("mkdir");
        }
        File::create(top.join("file")).expect("a file");
        transcript.note("three", links());
        fs::rename(top.join("c"), directory.join("c")).expect("rename");
        fs::remove_dir(top.join("b")).expect("rmdir");
        transcript.note("one", links());
        transcript.note("the other", fs::metadata(directory).expect("stat").nlink());
        // "." and ".." are there, with the right numbers.
        let handle = File::open(top.join("a")).expect("opendir");
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut entries = rustix::fs::RawDir::new(&handle, &mut buffer);
        let mut found = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.expect("getdents");
            found.push((entry.file_name().to_owned(), entry.ino(), entry.file_type()));
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        let number = |path: &Path| fs::metadata(path).expect("stat").ino();
        assert_eq!(found[0].1, number(&top.join("a")));
        assert_eq!(found[1].1, number(&top), "the number of \"..\"");
        assert_eq!(number(&top.join("a/..")), number(&top));
        transcript
            .note("entries", found.iter().map(|entry| (&entry.0, entry.2)).collect::<Vec<_>>());
        transcript.call("rmdir full", fs::remove_dir(&top));
        transcript.call("unlink directory", fs::remove_file(&top));
        transcript.call("rmdir .", rustix::fs::rmdir(top.join("a/.")));
        transcript.call("rename into itself", fs::rename(&top, top.join("a/x")));
    });
}

#[test]
fn numbers_are_those_of_the_backing_filesystem() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4_in_memory(128);
    fs::create_dir(subject.path().join("d")).expect("mkdir");
    fs::write(subject.path().join("d/file"), "x").expect("a file");
    symlink("d", subject.path().join("link")).expect("a symlink");
    let number =
        |root: &Path, name: &str| fs::symlink_metadata(root.join(name)).expect("stat").ino();
    for name in ["d", "d/file", "link"] {
        assert_eq!(number(subject.path(), name), number(subject.backing(), name), "{name}");
    }
    for entry in fs::read_dir(subject.path()).expect("opendir").flatten() {
        let name = entry.file_name().into_string().expect("ASCII");
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), number(subject.backing(), &name));
    }
}

#[test]
fn nameless_temporary_files_are_refused() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4_in_memory(128);
    let open = |directory: &Path| {
        openat(CWD, directory, OFlags::TMPFILE | OFlags::RDWR, Mode::from(0o600)).map(drop)
    };
    assert_eq!(open(subject.plain()), Ok(()));
    // Documented; programs fall back to a name. If it works one day, say so in the documents.
    if subject.mounted().is_some() {
        assert_eq!(open(subject.path()), Err(rustix::io::Errno::OPNOTSUPP));
    }
}
