//! Bytes: allocation, holes, copies, mappings, and writes from several sides.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom as Position, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use tests::mapping::SharedMapping;
use tests::random::Random;
use tests::require;
use tests::subject::Subject;

use crate::transcript::{Transcript, root_actor, same_on_both};

const BLOCK: u64 = 4096;

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

// A number that stands for the content, and the length.
fn content(path: &Path) -> (usize, u64) {
    let bytes = fs::read(path).expect("read");
    let sum =
        bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    (bytes.len(), sum)
}

fn fill(file: &File, blocks: u64, seed: u64) {
    let mut bytes = vec![0; usize::try_from(blocks * BLOCK).expect("small")];
    Random::new(seed).fill(&mut bytes);
    file.write_all_at(&bytes, 0).expect("write");
}

#[test]
fn allocation_of_every_kind() {
    same_on_both(|directory, transcript| {
        let keep = FallocateFlags::KEEP_SIZE;
        let modes = [
            ("plain", FallocateFlags::empty()),
            ("keep", keep),
            ("punch", FallocateFlags::PUNCH_HOLE | keep),
            ("punch without keep", FallocateFlags::PUNCH_HOLE),
            ("zero", FallocateFlags::ZERO_RANGE),
            ("zero keep", FallocateFlags::ZERO_RANGE | keep),
            ("unshare", FallocateFlags::UNSHARE_RANGE),
            ("punch and zero", FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE | keep),
        ];
        let ranges = [(0, 4 * BLOCK), (BLOCK, BLOCK), (100, 5000), (7 * BLOCK, 4 * BLOCK), (5, 0)];
        for (name, mode) in modes {
            for (start, length) in ranges {
                let path = directory.join("file");
                let file = open(&path);
                fill(&file, 8, 1);
                let step = format!("{name} {start} {length}");
                transcript.call(&step, fallocate(&file, mode, start, length));
                transcript.note(&step, content(&path));
                file.sync_all().expect("sync");
                transcript.note(&step, fs::metadata(&path).expect("stat").blocks());
                fs::remove_file(&path).expect("unlink");
            }
        }
        let file = open(&directory.join("file"));
        let huge = 1 << 40;
        transcript.call("beyond the space", fallocate(&file, keep, 0, huge));
        // What it got before it failed, it keeps; the other side needs the space.
        file.set_len(0).expect("truncate");
        transcript.call("beyond the limit", fallocate(&file, keep, 1 << 62, BLOCK));
        let reader = File::open(directory.join("file")).expect("open");
        transcript.call("read only", fallocate(&reader, keep, 0, BLOCK));
        transcript
            .call("directory", fallocate(File::open(directory).expect("opendir"), keep, 0, 1));
    });
}

// The kernel refuses these for every FUSE filesystem before the server is asked.
#[test]
fn collapse_and_insert_are_refused() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4_in_memory(128);
    let attempt = |directory: &Path, mode: FallocateFlags| {
        let file = open(&directory.join("file"));
        fill(&file, 8, 2);
        fallocate(&file, mode, BLOCK, BLOCK)
    };
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(attempt(subject.plain(), mode), Ok(()), "{mode:?} on ext4");
        if subject.mounted().is_some() {
            assert_eq!(attempt(subject.path(), mode), Err(Errno::OPNOTSUPP), "{mode:?}");
            assert_eq!(content(&subject.path().join("file")).0, 8 * 4096);
        }
    }
}

#[test]
fn holes_and_data() {
    same_on_both(|directory, transcript| {
        let path = directory.join("sparse");
        let file = open(&path);
        file.set_len(100 * BLOCK).expect("truncate");
        for block in [3, 4, 50, 90] {
            file.write_all_at(b"data", block * BLOCK + 10).expect("write");
        }
        // ext4 shows delayed allocation as data or as a hole depending on the moment.
        file.sync_all().expect("sync");
        for offset in [
            0,
            BLOCK,
            3 * BLOCK,
            4 * BLOCK + 1,
            5 * BLOCK,
            90 * BLOCK,
            91 * BLOCK,
            99 * BLOCK,
            100 * BLOCK,
            1 << 40,
        ] {
            transcript.value(&format!("data {offset}"), seek(&file, SeekFrom::Data(offset)));
            transcript.value(&format!("hole {offset}"), seek(&file, SeekFrom::Hole(offset)));
        }
        let metadata = fs::metadata(&path).expect("stat");
        transcript.note("stat", (metadata.len(), metadata.blocks(), metadata.blksize()));
        transcript.note("content", content(&path));
        let mut file = file;
        for position in
            [Position::End(-1), Position::Current(5), Position::End(10), Position::Start(0)]
        {
            transcript.value(&format!("{position:?}"), file.seek(position));
        }
        transcript.value("before the start", file.seek(Position::Current(-1)));
        transcript.call("too long", file.set_len(1 << 62));
        transcript.call("shorter", file.set_len(3 * BLOCK + 12));
        transcript.call("longer", file.set_len(10 * BLOCK));
        transcript.note("zeroes after", content(&path));
    });
}

#[test]
fn copies_within_the_kernel() {
    same_on_both(|directory, transcript| {
        let (source, target) = (directory.join("source"), directory.join("target"));
        let (from, to) = (open(&source), open(&target));
        fill(&from, 16, 3);
        let steps = [
            (0, 0, 16 * 4096),
            (100, 70_000, 5000),
            (60_000, 0, 100_000),
            (70_000, 0, 10),
            (5, 1 << 20, 4096),
            (0, 3, 0),
        ];
        for (input, output, length) in steps {
            let step = format!("{input} {output} {length}");
            transcript.value(&step, copy_all(&from, input, &to, output, length));
            transcript.note(&step, content(&target));
        }
        transcript.value("within", copy_all(&to, 0, &to, 40_000, 10_000));
        transcript.value("overlapping", copy_all(&to, 0, &to, 100, 10_000));
        transcript.note("within", content(&target));
        let reader = File::open(&target).expect("open");
        transcript.value("to a reader", copy_all(&from, 0, &reader, 0, 10));
        let append = File::options().append(true).open(&target).expect("open");
        transcript.value("to an appender", copy_all(&from, 0, &append, 0, 10));
        transcript.value("through read and write", std::io::copy(&mut &from, &mut &to));
    });
}

// The kernel may copy less at a time; how much is not ours to compare.
fn copy_all(
    from: &File,
    input: u64,
    to: &File,
    output: u64,
    length: usize,
) -> Result<usize, Errno> {
    let (mut input, mut output, mut done) = (input, output, 0);
    loop {
        let count = copy_file_range(from, Some(&mut input), to, Some(&mut output), length - done)?;
        done += count;
        if count == 0 || done == length {
            return Ok(done);
        }
    }
}

#[test]
fn mappings_and_calls_see_each_other() {
    same_on_both(|directory, transcript| {
        let path = directory.join("mapped");
        let file = open(&path);
        file.set_len(64 * 1024).expect("truncate");
        let mapping = SharedMapping::new(&file, 64 * 1024).expect("mmap");
        let other = File::options().read(true).write(true).open(&path).expect("open");
        let second = SharedMapping::new(&other, 64 * 1024).expect("mmap");
        let read = |offset: u64| {
            let mut bytes = [0; 8];
            other.read_exact_at(&mut bytes, offset).expect("read");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        mapping.write(5000, b"mapped  ");
        transcript.note("map to read", read(5000));
        transcript.note("map to map", second.read(5000, 8));
        other.write_all_at(b"written ", 20_000).expect("write");
        transcript.note("write to map", mapping.read(20_000, 8));
        second.write(20_004, b"both");
        transcript.note("mixed", read(20_000));
        transcript.call("msync", mapping.sync());
        transcript.call("fsync", other.sync_all());
        let mut actor = root_actor();
        transcript.ask(&mut actor, directory, "write @mapped 30000 process");
        transcript.note("another process", mapping.read(30_000, 7));
        // What is cut off must be gone, and come back as zeroes.
        file.set_len(10_000).expect("truncate");
        file.set_len(64 * 1024).expect("truncate");
        transcript.note("after truncation", (mapping.read(5000, 8), mapping.read(20_000, 8)));
        drop((mapping, second));
        transcript.note("in the end", content(&path));
    });
}

#[test]
fn appends_of_two_processes_do_not_mix() {
    same_on_both(|directory, transcript| {
        const LINES: usize = 3000;
        let path = directory.join("log");
        fs::write(&path, "").expect("a file");
        let mut actors = [root_actor(), root_actor()];
        for (actor, letter) in actors.iter_mut().zip(["a", "b"]) {
            actor.tell(&format!("append {} {LINES} {}", path.display(), letter.repeat(99)));
        }
        for actor in &mut actors {
            transcript.note("append", actor.answer());
        }
        let text = fs::read_to_string(&path).expect("read");
        for letter in ["a", "b"] {
            let whole = text.lines().filter(|line| *line == letter.repeat(99)).count();
            transcript.note(letter, whole);
            assert_eq!(whole, LINES, "lines of {letter} that arrived whole");
        }
        transcript.note("length", text.len());
        let mut append = File::options().append(true).open(&path).expect("open");
        append.rewind().expect("seek");
        transcript.call("write after a seek", append.write_all(b"end"));
        transcript.note("length", fs::metadata(&path).expect("stat").len());
    });
}

#[test]
fn synchronous_and_direct_writes() {
    same_on_both(|directory, transcript| {
        for (name, flag) in [("O_SYNC", OFlags::SYNC), ("O_DSYNC", OFlags::DSYNC)] {
            let path = directory.join(name);
            let mut options = OpenOptions::new();
            options.write(true).create(true).custom_flags(flag.bits().cast_signed());
            let file = options.open(&path).expect("open");
            for number in 0..20 {
                transcript.call(name, file.write_all_at(&[number; 1000], u64::from(number) * 1000));
            }
            transcript.note(name, content(&path));
        }
        direct(directory, transcript);
        transcript.call("fdatasync", open(&directory.join("O_SYNC")).sync_data());
        transcript.call("fsync of a directory", File::open(directory).expect("open").sync_all());
    });
}

fn direct(directory: &Path, transcript: &mut Transcript) {
    let path = directory.join("direct");
    fs::write(&path, vec![7; 64 * 1024]).expect("a file");
    let flag = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flag).open(&path);
    transcript.value(
        "F_GETFL",
        file.as_ref()
            .map(|file| rustix::fs::fcntl_getfl(file).expect("fcntl").contains(OFlags::DIRECT))
            .map_err(|error| std::io::Error::from(error.kind())),
    );
    drop(file);
    transcript
        .value("exercise", tests::direct::exercise(&path, 8, 500).map_err(std::io::Error::other));
    transcript.note("content", content(&path));
}
