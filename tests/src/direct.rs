//! Direct I/O against a model: what fsx cannot do.
//!
//! `fsx` 0.3.2 has no O_DIRECT. This is its shape with it: one file, random aligned operations from
//! a seed, a copy of the expected bytes in memory, every read compared. Direct and buffered reads
//! and writes, truncation, hole punching and syncs are mixed, because what goes wrong with direct
//! I/O is mostly its agreement with the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use crate::random::Random;

/// Unit and alignment of all offsets, lengths and buffers.
pub const BLOCK_BYTES: usize = 4096;
const FILE_BLOCKS_MAX: usize = 64;
const OPERATION_BLOCKS_MAX: usize = 16;

/// True when files in `directory` can be opened with O_DIRECT.
pub fn is_supported(directory: &Path) -> bool {
    let path = directory.join("direct-probe");
    let opened = open_direct(&path).is_ok();
    let _ = std::fs::remove_file(path);
    opened
}

/// Does `operations` random operations on `path`; the first disagreement is the error.
pub fn exercise(path: &Path, seed: u64, operations: u64) -> Result<(), String> {
    let direct = open_direct(path).map_err(|error| format!("open with O_DIRECT: {error}"))?;
    let buffered = OpenOptions::new().read(true).write(true).open(path);
    let buffered = buffered.map_err(|error| format!("open: {error}"))?;
    let mut state = State { direct, buffered, expected: Vec::new(), random: Random::new(seed) };
    for number in 0..operations {
        let mut what = String::new();
        state
            .step(&mut what)
            .map_err(|error| format!("seed {seed}, operation {number}, {what}: {error}"))?;
    }
    Ok(())
}

struct State {
    direct: File,
    buffered: File,
    expected: Vec<u8>,
    random: Random,
}

impl State {
    fn step(&mut self, what: &mut String) -> io::Result<()> {
        let choice = self.random.below(20);
        let offset = self.random.below(FILE_BLOCKS_MAX) * BLOCK_BYTES;
        let room = FILE_BLOCKS_MAX * BLOCK_BYTES - offset;
        let length = (1 + self.random.below(OPERATION_BLOCKS_MAX)) * BLOCK_BYTES;
        let length = length.min(room);
        *what = format!("choice {choice} at {offset} for {length} of {}", self.expected.len());
        match choice {
            0..6 => self.write(true, offset, length),
            6..8 => self.write(false, offset, length),
            8..13 => self.read(true, offset, length),
            13..15 => self.read(false, offset, length),
            15 => self.set_length(offset),
            16 => self.punch(offset, length),
            17 => self.direct.sync_data(),
            18 => self.buffered.sync_all(),
            _ => self.compare_whole(),
        }
    }

    fn write(&mut self, direct: bool, offset: usize, length: usize) -> io::Result<()> {
        let mut buffer = Aligned::new(length);
        self.random.fill(buffer.bytes());
        let file = if direct { &self.direct } else { &self.buffered };
        file.write_all_at(buffer.bytes(), offset as u64)?;
        if self.expected.len() < offset + length {
            self.expected.resize(offset + length, 0);
        }
        self.expected[offset..offset + length].copy_from_slice(buffer.bytes());
        Ok(())
    }

    fn read(&mut self, direct: bool, offset: usize, length: usize) -> io::Result<()> {
        let mut buffer = Aligned::new(length);
        let file = if direct { &self.direct } else { &self.buffered };
        let count = file.read_at(buffer.bytes(), offset as u64)?;
        let end = self.expected.len().min(offset + length);
        let expected = self.expected.get(offset..end).unwrap_or_default();
        agree(&buffer.bytes()[..count], expected)
    }

    fn set_length(&mut self, length: usize) -> io::Result<()> {
        self.direct.set_len(length as u64)?;
        self.expected.resize(length, 0);
        Ok(())
    }

    fn punch(&mut self, offset: usize, length: usize) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.direct, mode, offset as u64, length as u64)?;
        let end = self.expected.len().min(offset + length);
        if let Some(hole) = self.expected.get_mut(offset..end) {
            hole.fill(0);
        }
        Ok(())
    }

    fn compare_whole(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut again = &self.buffered;
        io::Seek::rewind(&mut again)?;
        again.read_to_end(&mut bytes)?;
        agree(&bytes, &self.expected)
    }
}

fn agree(found: &[u8], expected: &[u8]) -> io::Result<()> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(left, right)| left != right);
    Err(io::Error::other(format!(
        "read {} bytes where {} were expected, first difference at {at:?}",
        found.len(),
        expected.len()
    )))
}

fn open_direct(path: &Path) -> io::Result<File> {
    let flag = OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).custom_flags(flag).open(path)
}

/// A buffer whose bytes begin at a multiple of [`BLOCK_BYTES`], as O_DIRECT wants it.
struct Aligned {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let storage = vec![0; length + BLOCK_BYTES];
        let start = storage.as_ptr().align_offset(BLOCK_BYTES);
        Aligned { storage, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}
