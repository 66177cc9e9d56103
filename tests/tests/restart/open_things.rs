//! Every kind of open thing goes on.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fstat};
use tests::loopfs::LoopFs;
use tests::mapping::SharedMapping;
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::require;
use tests::subject::{Subject, is_bare};

use super::{mounted, restart, subject};

#[test]
fn by_handles_and_passthrough() {
    on("");
}

#[test]
fn by_descriptors() {
    on(",no_handles");
}

#[test]
fn without_passthrough_and_without_a_log() {
    on(",no_passthrough,fence=backing");
}

#[test]
fn without_passthrough_with_a_log() {
    on(",no_passthrough,fence=log");
}

/// Where the mount hides the directory that it shows.
#[test]
fn over_itself() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let filesystem = LoopFs::ext4_in_memory(160);
    let tree = filesystem.path().join("tree");
    fs::create_dir(&tree).expect("a directory");
    let lanefs = |words: &[&str]| {
        let mut command = std::process::Command::new(tests::binary::lanefs());
        tests::run::run(command.args(words), super::DEADLINE).expect_success()
    };
    let path = tree.to_str().expect("a plain path");
    lanefs(&["mount", path, path, "--daemon", "-o", "transport=classic"]);
    let result = std::panic::catch_unwind(|| {
        let mut file = File::create(tree.join("file")).expect("a file");
        file.write_all(b"one").expect("a write");
        restart(&tree);
        file.write_all(b" two").expect("a write");
        file.sync_all().expect("a sync");
        assert_eq!(fs::read(tree.join("file")).expect("the file"), b"one two");
    });
    lanefs(&["umount", path]);
    result.expect("it goes on");
    assert_eq!(fs::read(tree.join("file")).expect("the file"), b"one two");
}

fn on(options: &str) {
    if !require::mount_support() || is_bare() {
        return;
    }
    let options = format!("{DEFAULT_OPTIONS},transport=classic{options}");
    let mount = |tree: &Path| Mounted::new(tree, &options);
    let mut subject = Subject::over(LoopFs::ext4_in_memory(128), mount);
    everything_stays(&subject);
    let kept = [("plain", "one two three"), ("rewritten", "newer"), ("appended", "abc")];
    subject.unmount();
    for (name, content) in kept {
        let found = fs::read_to_string(subject.path().join(name)).expect(name);
        assert_eq!(found, content, "{name} in the backing directory");
    }
}

fn everything_stays(subject: &Subject) {
    let root = subject.path();
    let (at, both) =
        (|name: &str| root.join(name), OpenOptions::new().read(true).write(true).clone());
    let made = |name: &str, content: &str| {
        fs::write(at(name), content).expect(name);
        at(name)
    };

    let mut plain = File::create(at("plain")).expect("a file");
    plain.write_all(b"one").expect("a write");
    let inode = plain.metadata().expect("attributes").ino();
    let mut nameless =
        both.clone().create(true).truncate(true).open(at("nameless")).expect("a file");
    nameless.write_all(b"no name").expect("a write");
    fs::remove_file(at("nameless")).expect("removed");
    // Read by the kernel only, perhaps: the daemon has not opened it.
    let reader = File::open(made("read", &"x".repeat(10_000))).expect("a file");
    let nameless_reader = File::open(made("read, nameless", "only read")).expect("a file");
    fs::remove_file(at("read, nameless")).expect("removed");
    let mapped = both.open(made("mapped", &"m".repeat(8192))).expect("a file");
    let mapping = SharedMapping::new(&mapped, 8192).expect("a mapping");
    mapping.write(0, b"before");
    let mut rewritten = File::create(made("rewritten", "a file of before")).expect("a file");
    rewritten.write_all(b"new").expect("a write");
    let mut appended =
        OpenOptions::new().append(true).create(true).open(at("appended")).expect("a file");
    appended.write_all(b"a").expect("a write");
    let synced = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::SYNC.bits().cast_signed())
        .open(at("synced"))
        .expect("a file");
    synced.write_all_at(b"durable", 0).expect("a write");
    let locked = File::create(at("locked")).expect("a file");
    locked.lock().expect("nobody else has it");

    let many = at("many");
    fs::create_dir(&many).expect("a directory");
    let names: BTreeSet<String> = (0..2000).map(|number| format!("entry {number:04}")).collect();
    names.iter().for_each(|name| drop(File::create(many.join(name)).expect("a file")));
    let mut listing = fs::read_dir(&many).expect("a directory");
    let mut listed: Vec<String> = Vec::new();
    let mut take = |listing: &mut fs::ReadDir, count| {
        for entry in listing.take(count) {
            listed.push(entry.expect("an entry").file_name().into_string().expect("text"));
        }
        listed.len()
    };
    take(&mut listing, 700);
    fs::create_dir(at("removed")).expect("a directory");
    let removed = File::open(at("removed")).expect("a directory");
    fs::remove_dir(at("removed")).expect("removed");
    let mut command = std::process::Command::new(tests::binary::lanefs());
    command.arg("set").arg(root).args(["durability=close", "commit-interval=700ms"]);
    tests::run::run(&mut command, super::DEADLINE).expect_success();
    let before = mounted(subject).status();

    for round in 1..=3_u64 {
        restart(root);
        let status = mounted(subject).status();
        assert_eq!((&status["restarts"], &status["pid"]), (&round.into(), &before["pid"]));
    }

    plain.write_all(b" two").expect("a write");
    plain.sync_all().expect("a sync");
    plain.write_all(b" three").expect("a write");
    assert_eq!(fs::read_to_string(at("plain")).expect("the file"), "one two three");
    assert_eq!(fs::metadata(at("plain")).expect("attributes").ino(), inode, "its inode number");
    nameless.write_all(b", still").expect("a write");
    nameless.sync_all().expect("a sync of a file without a name");
    nameless.seek(SeekFrom::Start(0)).expect("a seek");
    let mut text = String::new();
    nameless.read_to_string(&mut text).expect("a read");
    assert_eq!(text, "no name, still");
    assert_eq!(fstat(&nameless).expect("attributes").st_nlink, 0);
    // Asks the daemon, who opens it now.
    assert_eq!(rustix::fs::seek(&reader, rustix::fs::SeekFrom::Hole(0)), Ok(10_000));
    let end = rustix::fs::seek(&nameless_reader, rustix::fs::SeekFrom::Hole(0));
    assert_eq!(end, Ok(9), "a file without a name that was only read");
    let mut bytes = [0; 9];
    nameless_reader.read_exact_at(&mut bytes, 0).expect("a read");
    assert_eq!(&bytes, b"only read");
    mapping.write(6, b" and after");
    mapping.sync().expect("msync");
    assert_eq!(&fs::read(at("mapped")).expect("the file")[..16], b"before and after");
    rewritten.write_all(b"er").expect("a write");
    drop(rewritten);
    assert_eq!(fs::read_to_string(at("rewritten")).expect("the file"), "newer");
    appended.write_all(b"b").expect("a write");
    let mut other = OpenOptions::new().append(true).open(at("appended")).expect("the file");
    other.write_all(b"c").expect("a write");
    synced.write_all_at(b", again", 7).expect("a write");
    assert_eq!(fs::read_to_string(at("synced")).expect("the file"), "durable, again");
    let second = File::open(at("locked")).expect("the file");
    assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)), "the lock is held");
    locked.unlock().expect("it was ours");
    second.try_lock().expect("free now");

    take(&mut listing, usize::MAX);
    assert_eq!(listed.len(), names.len(), "each entry once");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    assert!(fstat(&removed).expect("a directory without a name").st_nlink < 2);
    let after = mounted(subject).status();
    assert_eq!(after["durability"], before["durability"], "what was set stays");
    assert_eq!(after["passthrough"], before["passthrough"]);
    let requests = |status: &serde_json::Value| status["requests"]["create"].as_u64();
    assert!(requests(&after) >= requests(&before), "counters go on");
}

/// Restarts do not pile anything up.
#[test]
fn descriptors_and_threads_are_as_before() {
    if !require::mount_support() || is_bare() {
        return;
    }
    let subject = subject(160);
    let open: Vec<File> = (0..20)
        .map(|n| File::create(subject.path().join(n.to_string())).expect("a file"))
        .collect();
    let process = format!("/proc/{}", mounted(&subject).daemon_pid());
    let count = |what: &str| fs::read_dir(format!("{process}/{what}")).expect(what).count();
    restart(subject.path());
    mounted(&subject).status();
    let before = ["fd", "task"].map(count);
    for _ in 0..8 {
        restart(subject.path());
    }
    mounted(&subject).status();
    let after = ["fd", "task"].map(count);
    for (before, after) in before.iter().zip(after) {
        // Threads that have something to do for a moment come and go.
        assert!(after <= before + 4, "{before} before, {after} after");
    }
    drop(open);
}
