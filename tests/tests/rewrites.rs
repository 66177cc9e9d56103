//! Promise: what programs do to replace a file's content in place is seen as that on a mount with a
//! log, whatever way they open the file, and what cannot be protected is counted.
//!
//! That it is all or nothing in a power cut is shown by `powercut` and the simulator.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::mounted::Mounted;
use tests::require;
use tests::run;
use tests::subject::is_bare;

const FILESYSTEM_MIB: u64 = 128;
const DEADLINE: Duration = Duration::from_secs(60);
const OLD: &[u8] = b"what was there before";

struct Stage {
    mount: Mounted,
    backing: PathBuf,
    _filesystem: LoopFs,
}

impl Stage {
    fn new() -> Self {
        let filesystem = LoopFs::ext4(FILESYSTEM_MIB);
        let backing = filesystem.path().join("backing");
        fs::create_dir(&backing).expect("mkdir");
        let mount = Mounted::new(&backing, "fence=log,log_size=4M");
        Self { mount, backing, _filesystem: filesystem }
    }

    /// A file that holds something.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.mount.path().join(name);
        fs::write(&path, OLD).expect("a file");
        path
    }

    fn count(&self, what: &str) -> u64 {
        let status = self.mount.status();
        let count = status["engine"]["log"]["rewrites"][what].as_u64();
        count.unwrap_or_else(|| panic!("status counts {what}: {status}"))
    }

    /// Copies that wait for the end of their rewrite.
    fn copies(&self) -> usize {
        fs::read_dir(self.backing.join(".lanefs/undo")).expect("a directory").count()
    }

    /// The kernel closes files a little later than programs do.
    fn wait_for_no_copies(&self) {
        let gone = run::poll(DEADLINE, || (self.copies() == 0).then_some(()));
        assert!(gone.is_some(), "{} copies are left", self.copies());
    }
}

fn can_run() -> bool {
    require::mount_support() && !is_bare()
}

fn shell(script: &str, file: &Path) {
    let mut command = Command::new("/bin/sh");
    run::run(command.arg("-c").arg(script).arg("sh").arg(file), DEADLINE).expect_success();
}

#[test]
fn each_way_to_rewrite_a_file_is_protected() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    let open = |path: &Path, options: &mut OpenOptions| options.open(path).expect("it opens");
    type Way<'a> = (&'a str, &'a dyn Fn(&Path));
    let ways: [Way<'_>; 5] = [
        ("O_WRONLY | O_TRUNC", &|path| fs::write(path, b"new").expect("a write")),
        ("O_RDWR | O_TRUNC", &|path| {
            let mut file = open(path, OpenOptions::new().read(true).write(true).truncate(true));
            file.write_all(b"new").expect("a write");
        }),
        ("O_WRONLY, then ftruncate", &|path| {
            let mut file = open(path, OpenOptions::new().write(true));
            file.set_len(0).and_then(|()| file.write_all(b"new")).expect("a write");
        }),
        ("a shell's redirection", &|path| shell("echo -n ne > \"$1\"; echo -n w >> \"$1\"", path)),
        ("truncate(2), then opened", &|path| {
            nix::unistd::truncate(path, 0).expect("it can be cut");
            open(path, OpenOptions::new().write(true)).write_all(b"new").expect("a write");
        }),
    ];
    for (index, (name, rewrite)) in ways.iter().enumerate() {
        let path = stage.file(&format!("file-{index}"));
        let before = stage.count("protected");
        rewrite(&path);
        assert_eq!(stage.count("protected"), before + 1, "{name}");
        assert_eq!(fs::read(&path).expect("it is there"), b"new", "{name}");
        stage.wait_for_no_copies();
    }
    assert_eq!((stage.count("unseen"), stage.count("failed")), (0, 0));
}

/// From the truncation to the close the copy holds what was there.
#[test]
fn the_copy_is_there_until_the_close() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    let path = stage.file("a");
    let mut file = File::create(&path).expect("it is cut");
    file.write_all(b"half").expect("a write");
    assert_eq!(stage.copies(), 1);
    let name = fs::read_dir(stage.backing.join(".lanefs/undo")).expect("it is there").next();
    let copy = fs::read(name.expect("one").expect("an entry").path()).expect("readable");
    assert!(copy.starts_with(OLD), "{copy:?}");
    // A sync of another file is no end, one of this is.
    File::create(stage.mount.path().join("b")).expect("a file").sync_all().expect("a sync");
    assert_eq!(stage.copies(), 1);
    file.sync_all().expect("a sync");
    assert_eq!(stage.copies(), 0);
    // What is written after it is not protected, nor is there anything to go back to.
    file.write_all(b" and half").expect("a write");
    drop(file);
    assert_eq!(fs::read(&path).expect("it is there"), b"half and half");
}

#[test]
fn what_cannot_be_protected_is_counted() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    // The kernel writes it by itself for this one, and may sync it without our knowing.
    let path = stage.file("mapped");
    let other = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    fs::write(&path, b"new").expect("a write");
    assert_eq!((stage.count("unseen"), stage.copies()), (1, 0));
    drop(other);

    let path = stage.mount.path().join("large");
    let file = File::create(&path).expect("a file");
    file.write_all_at(&[1; 4096], (16 << 20) + 1).expect("a sparse file");
    drop(file);
    fs::write(&path, b"new").expect("a write");
    assert_eq!((stage.count("too_large"), stage.count("protected")), (1, 0));

    // Somebody opens it to write while it is rewritten.
    let path = stage.file("joined");
    let mut file = File::create(&path).expect("it is cut");
    file.write_all(b"half").expect("a write");
    assert_eq!(stage.copies(), 1);
    let other = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    assert_eq!((stage.count("unseen"), stage.copies()), (2, 0));
    drop((file, other));
}

/// Under direct I/O, which makes the writes seen, a file is what it is otherwise.
#[test]
fn a_rewritten_file_is_written_as_usual() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    let path = stage.file("a");
    let reader = File::open(&path).expect("it opens");
    let mut file = File::create(&path).expect("it is cut");
    for piece in 0..100_u8 {
        file.write_all(&[piece; 777]).expect("a write");
    }
    file.seek(std::io::SeekFrom::Start(777)).expect("a seek");
    file.write_all(&[200; 10]).expect("a write");
    let mut expected: Vec<u8> = (0..100_u8).flat_map(|piece| [piece; 777]).collect();
    expected[777..787].fill(200);
    // Who had it open before sees it, and so does who opens it now.
    let mut found = vec![0; expected.len()];
    reader.read_exact_at(&mut found, 0).expect("all of it");
    assert!(found == expected);
    assert!(fs::read(&path).expect("it is there") == expected);
    drop(file);
    assert!(fs::read(stage.backing.join("a")).expect("it is there") == expected);
}
