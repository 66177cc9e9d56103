//! The workloads in which all threads meet: in one file, or in one directory.
//!
//! The kernel holds a file's lock while its fsync is under way, and a directory's while it is
//! synced: who comes then waits before lanefs hears of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{APPENDED_BYTES_MAX, BLOCK_BYTES};
use super::{Worker, bytes};

pub(super) struct SharedFile {
    file: File,
    block: Vec<u8>,
    offset: u64,
}

impl SharedFile {
    pub fn prepare(root: &Path, threads: usize) -> io::Result<()> {
        fs::write(Self::path(root), bytes(BLOCK_BYTES * threads, 0))
    }

    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(Self::path(root))?;
        let offset = (BLOCK_BYTES * number) as u64;
        Ok(SharedFile { file, block: bytes(BLOCK_BYTES, number), offset })
    }

    fn path(root: &Path) -> PathBuf {
        root.join("shared-file")
    }
}

impl Worker for SharedFile {
    fn operate(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.block, self.offset)?;
        self.file.sync_data()
    }
}

pub(super) struct SharedAppend {
    file: File,
    block: Vec<u8>,
}

impl SharedAppend {
    pub fn prepare(root: &Path) -> io::Result<()> {
        File::create(Self::path(root)).map(drop)
    }

    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(Self::path(root))?;
        Ok(SharedAppend { file, block: bytes(BLOCK_BYTES, number) })
    }

    fn path(root: &Path) -> PathBuf {
        root.join("shared-append")
    }
}

impl Worker for SharedAppend {
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

pub(super) struct SharedDirectory {
    directory: PathBuf,
    block: Vec<u8>,
    number: usize,
    // Numbers of the files made in this slice.
    made: u64,
}

impl SharedDirectory {
    pub fn prepare(root: &Path) -> io::Result<()> {
        let directory = Self::directory(root);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(directory)
    }

    pub fn new(root: &Path, number: usize) -> io::Result<Self> {
        let directory = Self::directory(root);
        Ok(SharedDirectory { directory, block: bytes(BLOCK_BYTES, number), number, made: 0 })
    }

    fn directory(root: &Path) -> PathBuf {
        root.join("shared-directory")
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.directory.join(format!("{}-{sequence}", self.number))
    }
}

impl Worker for SharedDirectory {
    fn operate(&mut self) -> io::Result<()> {
        let mut file = File::create_new(self.path(self.made))?;
        self.made += 1;
        file.write_all(&self.block)?;
        file.sync_all()?;
        drop(file);
        File::open(&self.directory)?.sync_all()
    }

    fn tidy_up(&mut self) -> io::Result<()> {
        let made = std::mem::take(&mut self.made);
        (0..made).try_for_each(|sequence| fs::remove_file(self.path(sequence)))
    }
}
