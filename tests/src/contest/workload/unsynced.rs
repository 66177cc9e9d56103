//! The workloads that sync nothing: what they cost beyond the page cache is lanefs' own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Worker, bytes};

/// What one operation writes.
pub(super) const OPERATION_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 4096;
/// Then it begins again at the beginning: the files of all threads must fit in memory.
const FILE_BYTES: u64 = 128 << 20;

pub(super) struct Write {
    file: File,
    data: Vec<u8>,
    piece_bytes: usize,
    offset: u64,
}

impl Write {
    pub fn small(root: &Path, number: usize) -> io::Result<Self> {
        Self::new(&root.join(format!("write-small-{number}")), number, PIECE_BYTES)
    }

    pub fn large(root: &Path, number: usize) -> io::Result<Self> {
        Self::new(&root.join(format!("write-large-{number}")), number, OPERATION_BYTES)
    }

    fn new(path: &Path, number: usize, piece_bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        Ok(Write { file, data: bytes(OPERATION_BYTES, number), piece_bytes, offset: 0 })
    }
}

impl Worker for Write {
    fn operate(&mut self) -> io::Result<()> {
        for piece in self.data.chunks(self.piece_bytes) {
            self.file.write_all_at(piece, self.offset)?;
            self.offset += piece.len() as u64;
        }
        self.offset %= FILE_BYTES;
        Ok(())
    }

    // Also so that it need not be written to the disk.
    fn tidy_up(&mut self) -> io::Result<()> {
        self.offset = 0;
        self.file.set_len(0)
    }
}
