//! The workloads in which every thread has files of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Worker, bytes};
use crate::random::Random;
use crate::replace::Replacer;

pub(super) const BLOCK_BYTES: usize = 4096;
const OVERWRITTEN_BLOCKS: usize = 1024;
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

pub(super) struct Overwrite {
    file: File,
    block: Vec<u8>,
    random: Random,
}

impl Overwrite {
    pub fn prepare(root: &Path, number: usize) -> io::Result<()> {
        let path = Self::path(root, number);
        let length = BLOCK_BYTES * OVERWRITTEN_BLOCKS;
        match fs::metadata(&path) {
            Ok(found) if found.len() == length as u64 => Ok(()),
            _ => fs::write(path, bytes(length, number)),
        }
    }

    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(Self::path(root, number))?;
        let random = Random::new(number as u64);
        Ok(Overwrite { file, block: bytes(BLOCK_BYTES, number), random })
    }

    fn path(root: &Path, number: usize) -> PathBuf {
        root.join(format!("overwrite-{number}"))
    }
}

impl Worker for Overwrite {
    fn operate(&mut self) -> io::Result<()> {
        let offset = self.random.below(OVERWRITTEN_BLOCKS) * BLOCK_BYTES;
        self.file.write_all_at(&self.block, offset as u64)?;
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
