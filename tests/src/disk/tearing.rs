//! Where a write may be torn by a power cut.
//!
//! Between any two sectors of 512 bytes, as a disk promises no more. Filesystems mostly agree, with
//! one exception each that a test of *lanefs* must know: the superblock of ext4 (1 KiB with one
//! checksum, read before the journal is replayed) and that of btrfs (4 KiB) make the filesystem
//! unmountable when torn, whatever runs on top. Found by tearing them.

use std::ops::Range;

use super::page::{PAGE_BYTES, SECTOR_BYTES};

/// The places where writes may be torn.
#[derive(Clone, Debug)]
pub struct Tearing {
    unit_bytes: u64,
    whole: Vec<Range<u64>>,
}

impl Default for Tearing {
    fn default() -> Self {
        Tearing { unit_bytes: SECTOR_BYTES as u64, whole: Vec::new() }
    }
}

impl Tearing {
    /// Between sectors of 512 bytes, but not in the superblock of this filesystem.
    ///
    /// # Panics
    /// The filesystem is not ext4, xfs or btrfs.
    pub fn sparing_superblock(filesystem: &str) -> Self {
        match filesystem {
            "ext4" => Tearing::default().whole(0..4096),
            "btrfs" => {
                Tearing::default().whole(65536..65536 + 4096).whole(64 << 20..(64 << 20) + 4096)
            }
            "xfs" => Tearing::default(),
            other => panic!("where is the superblock of {other}?"),
        }
    }

    /// Only between units of this size, at most a page: as a disk with sectors of 4096 bytes does.
    ///
    /// # Panics
    /// It is not a power of two from 512 to 4096.
    #[must_use]
    pub fn unit(self, unit_bytes: usize) -> Self {
        let valid =
            unit_bytes.is_power_of_two() && (SECTOR_BYTES..=PAGE_BYTES).contains(&unit_bytes);
        assert!(valid, "writes torn in units of {unit_bytes} bytes");
        Tearing { unit_bytes: unit_bytes as u64, ..self }
    }

    /// Never inside these bytes of the disk, which lie in one page.
    #[must_use]
    pub fn whole(mut self, bytes: Range<u64>) -> Self {
        self.whole.push(bytes);
        self
    }

    pub(super) fn unit_bytes(&self) -> u64 {
        self.unit_bytes
    }

    // What is torn from its neighbours as a whole has a name: the offset of its beginning.
    pub(super) fn piece_of(&self, page: u64, sector: usize) -> u64 {
        let offset = page * PAGE_BYTES as u64 + (sector * SECTOR_BYTES) as u64;
        match self.whole.iter().find(|bytes| bytes.contains(&offset)) {
            Some(bytes) => bytes.start,
            None => offset - offset % self.unit_bytes,
        }
    }
}
