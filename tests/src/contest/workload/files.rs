//! The workloads in which every thread has files of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Worker, bytes};
use crate::random::Random;
use crate::replace::Replacer;

pub(super) const BLOCK_BYTES: usize = 4096;
/// From here on a file starts anew after the slice: 64 of them must find room.
pub(super) const APPENDED_BYTES_MAX: u64 = 16 << 20;

pub(super) struct Append {
    file: File,
    block: Vec<u8>,
}

impl Append {
    pub fn prepare(root: &Path, number: usize) -> io::Result<()> {
        File::create(Self::path(root, number)).map(drop)
    }

    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(Self::path(root, number))?;
        Ok(Append { file, block: bytes(BLOCK_BYTES, number) })
    }

    fn path(root: &Path, number: usize) -> PathBuf {
        root.join(format!("append-{number}"))
    }
}

impl Worker for Append {
    fn operate(&mut self) -> io::Result<()> {
        self.file.write_all(&self.block)?;
        self.file.sync_data()
    }

    fn tidy_up(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > APPENDED_BYTES_MAX {
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

/// A file some blocks of which are there, at equal distances, to be overwritten.
pub(super) struct Blocks {
    name: &'static str,
    count: usize,
    /// From the beginning of one to that of the next, in blocks.
    distance: usize,
}

impl Blocks {
    /// Without holes.
    pub const DENSE: Self = Self { name: "overwrite", count: 1024, distance: 1 };
    /// With a hole behind each block.
    pub const SPARSE: Self = Self { name: "sparse", count: 3000, distance: 2 };

    pub fn prepare(&self, root: &Path, number: usize) -> io::Result<()> {
        let path = self.path(root, number);
        let length = self.offset(self.count - 1) + BLOCK_BYTES as u64;
        if fs::metadata(&path).is_ok_and(|found| found.len() == length) {
            return Ok(());
        }
        let (file, block) = (File::create(path)?, bytes(BLOCK_BYTES, number));
        (0..self.count).try_for_each(|index| file.write_all_at(&block, self.offset(index)))
    }

    pub fn worker(&'static self, root: &Path, number: usize) -> io::Result<Overwrite> {
        let file = OpenOptions::new().write(true).open(self.path(root, number))?;
        let random = Random::new(number as u64);
        Ok(Overwrite { blocks: self, file, block: bytes(BLOCK_BYTES, number), random })
    }

    fn path(&self, root: &Path, number: usize) -> PathBuf {
        root.join(format!("{}-{number}", self.name))
    }

    fn offset(&self, index: usize) -> u64 {
        (index * self.distance * BLOCK_BYTES) as u64
    }
}

pub(super) struct Overwrite {
    blocks: &'static Blocks,
    file: File,
    block: Vec<u8>,
    random: Random,
}

impl Worker for Overwrite {
    fn operate(&mut self) -> io::Result<()> {
        let offset = self.blocks.offset(self.random.below(self.blocks.count));
        self.file.write_all_at(&self.block, offset)?;
        self.file.sync_data()
    }
}

pub(super) struct Replace {
    replacer: Replacer,
    sequence: u64,
}

impl Replace {
    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        Ok(Replace { replacer: Replacer::new(root, number as u64)?, sequence: 0 })
    }
}

impl Worker for Replace {
    fn operate(&mut self) -> io::Result<()> {
        self.sequence += 1;
        self.replacer.replace(self.sequence)
    }
}
