//! What a device carries, so that nothing is overwritten by mistake.
//!
//! Knows labels by their magic numbers, in the first and the last mebibyte, where
//! all of these lie, and runs no program. Another filesystem's label counts for
//! more than ours: mkfs leaves the first bytes of a device alone as a rule, and
//! whoever finds a log under an ext4 wants to hear of the ext4.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno as Os;

use super::path::{LogPathError, device_bytes, open_to_read};
use crate::error::{Errno, Result};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceContent {
    /// Zeros, as far as was looked.
    Empty,
    /// A log of lanefs.
    Log,
    /// A filesystem, partition table or part of a volume; its name.
    Foreign(&'static str),
    /// Bytes that nobody here knows.
    Unknown,
}

/// Looked at, at the beginning and at the end.
const LOOK_BYTES: u64 = 1 << 20;

/// What a block device (or an image file) carries. `log_magic` is what a log
/// begins with.
///
/// # Errors
/// See [`LogPathError`]; a device that is mounted or otherwise held is
/// [in use](LogPathError::InUse).
pub fn inspect_device(
    path: &Path,
    log_magic: &[u8],
) -> std::result::Result<DeviceContent, LogPathError> {
    let file = open_to_read(path)?;
    let look = || -> Result<DeviceContent> {
        let bytes = device_bytes(file.as_fd())?;
        let ends = Ends {
            head: read(&file, 0, bytes.min(LOOK_BYTES))?,
            tail: read(&file, bytes.saturating_sub(LOOK_BYTES), bytes.min(LOOK_BYTES))?,
            bytes,
        };
        Ok(ends.content(log_magic))
    };
    look().map_err(|source| LogPathError::of(path, source))
}

fn read(file: &OwnedFd, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0; bytes as usize];
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            // Somebody makes the file shorter.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Os::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(buffer)
}

/// Both ends of a device; of a small one, twice the same.
struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
}

/// Labels at a fixed place: name, offset, bytes.
const LABELS: &[(&str, usize, &[u8])] = &[
    ("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    ("an encrypted volume (BitLocker)", 3, b"-FVE-FS-"),
    ("a physical volume of LVM", 0, b"LABELONE"),
    ("a physical volume of LVM", 512, b"LABELONE"),
    ("a physical volume of LVM", 1024, b"LABELONE"),
    ("a physical volume of LVM", 1536, b"LABELONE"),
    ("a part of a RAID (md 1.1)", 0, &0xa92b_4efc_u32.to_le_bytes()),
    ("a part of a RAID (md 1.2)", 4096, &0xa92b_4efc_u32.to_le_bytes()),
    ("an ext2, ext3 or ext4 filesystem", 1024 + 0x38, b"\x53\xef"),
    ("an XFS filesystem", 0, b"XFSB"),
    ("a btrfs filesystem", 0x1_0040, b"_BHRfS_M"),
    ("an f2fs filesystem", 1024, &0xf2f5_2010_u32.to_le_bytes()),
    ("a bcachefs filesystem", 4096 + 24, &BCACHEFS_MAGIC),
    ("a cache (bcache)", 4096 + 24, &BCACHE_MAGIC),
    ("an NTFS filesystem", 3, b"NTFS    "),
    ("an exFAT filesystem", 3, b"EXFAT   "),
    ("a FAT filesystem", 54, b"FAT12   "),
    ("a FAT filesystem", 54, b"FAT16   "),
    ("a FAT filesystem", 54, b"FAT     "),
    ("a FAT filesystem", 82, b"FAT32   "),
    ("an erofs filesystem", 1024, &0xe0f5_e1e2_u32.to_le_bytes()),
    ("a squashfs filesystem", 0, b"hsqs"),
    ("an ISO 9660 filesystem", 0x8001, b"CD001"),
    ("a UDF filesystem", 0x8001, b"BEA01"),
    ("a JFS filesystem", 0x8000, b"JFS1"),
    ("a ReiserFS filesystem", 0x1_0034, b"ReIsEr"),
    ("a NILFS filesystem", 1024 + 6, b"\x34\x34"),
    ("an OCFS2 filesystem", 2 * 1024, b"OCFSV2"),
    ("an OCFS2 filesystem", 4 * 1024, b"OCFSV2"),
    ("a GFS2 filesystem", 0x1_0000, &0x0116_1970_u32.to_be_bytes()),
    ("an HFS filesystem", 1024, b"H+\0\x04"),
    ("an HFS filesystem", 1024, b"HX\0\x05"),
    ("an APFS container", 32, b"NXSB"),
    ("a Ceph store", 0, b"bluestore block device"),
    ("a Stratis pool", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("a partition table (GPT)", 512, b"EFI PART"),
    ("a partition table (GPT)", 4096, b"EFI PART"),
];

const BCACHEFS_MAGIC: [u8; 16] = 0xc685_73f6_66ce_90a9_d96a_60cf_803d_f7ef_u128.to_be_bytes();
const BCACHE_MAGIC: [u8; 16] = 0xc685_73f6_4e1a_45ca_8265_f57f_48ba_6d81_u128.to_be_bytes();

impl Ends {
    fn content(&self, log_magic: &[u8]) -> DeviceContent {
        let labels = LABELS.iter().find(|(_, at, magic)| self.head_has(*at as u64, magic));
        if let Some(&(name, ..)) = labels {
            return DeviceContent::Foreign(name);
        }
        let found = [
            (self.has_swap(), "swap space"),
            (self.has_zfs(), "a part of a ZFS pool"),
            (self.has_raid_at_end(), "a part of a RAID"),
            (self.has_second_gpt(), "a partition table (GPT, its copy at the end)"),
            (self.has_partitions(), "a partition table (MBR)"),
        ];
        if let Some((_, name)) = found.iter().find(|(is_there, _)| *is_there) {
            return DeviceContent::Foreign(name);
        }
        if !log_magic.is_empty() && self.head_has(0, log_magic) {
            return DeviceContent::Log;
        }
        let zeros = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        match zeros(&self.head) && zeros(&self.tail) {
            true => DeviceContent::Empty,
            false => DeviceContent::Unknown,
        }
    }

    fn head_has(&self, at: u64, magic: &[u8]) -> bool {
        let rest = usize::try_from(at).ok().and_then(|at| self.head.get(at..));
        rest.is_some_and(|rest| rest.starts_with(magic))
    }

    /// The same, counted from the beginning of the device.
    fn tail_has(&self, at: Option<u64>, magic: &[u8]) -> bool {
        let start = self.bytes - self.tail.len() as u64;
        let at = at.and_then(|at| usize::try_from(at.checked_sub(start)?).ok());
        let rest = at.and_then(|at| self.tail.get(at..));
        rest.is_some_and(|rest| rest.starts_with(magic))
    }

    /// Swap's label ends the first page, whatever the machine's page size is.
    fn has_swap(&self) -> bool {
        [4096, 8192, 16384, 65536].into_iter().any(|page| {
            self.head_has(page - 10, b"SWAPSPACE2") || self.head_has(page - 10, b"SWAP-SPACE")
        })
    }

    /// Four labels of 256 KiB, two at each end; in each, from 128 KiB on, uberblocks
    /// in either byte order.
    fn has_zfs(&self) -> bool {
        const LABEL: u64 = 256 << 10;
        const MAGIC: u64 = 0x00ba_b10c;
        let end = self.bytes / LABEL * LABEL;
        let uberblocks = |label: u64| (label + LABEL / 2..label + LABEL).step_by(1024);
        let (little, big) = (MAGIC.to_le_bytes(), MAGIC.to_be_bytes());
        let mut head = [0, LABEL].into_iter().flat_map(uberblocks);
        let tail = [2 * LABEL, LABEL].into_iter().filter_map(|back| end.checked_sub(back));
        head.any(|at| self.head_has(at, &little) || self.head_has(at, &big))
            || tail
                .flat_map(uberblocks)
                .any(|at| self.tail_has(Some(at), &little) || self.tail_has(Some(at), &big))
    }

    /// md 1.0 and 0.90, and what firmware makes (Intel, DDF).
    fn has_raid_at_end(&self) -> bool {
        let magic = 0xa92b_4efc_u32;
        let version_1 = self.bytes.checked_sub(8 << 10).map(|at| at / 4096 * 4096);
        let version_0 = (self.bytes / 65536 * 65536).checked_sub(65536);
        let (sector, two) = (self.bytes.checked_sub(512), self.bytes.checked_sub(1024));
        self.tail_has(version_1, &magic.to_le_bytes())
            || self.tail_has(version_0, &magic.to_le_bytes())
            || self.tail_has(version_0, &magic.to_be_bytes())
            || self.tail_has(two, b"Intel Raid ISM Cfg Sig. ")
            || self.tail_has(sector, &0xde11_de11_u32.to_be_bytes())
    }

    fn has_second_gpt(&self) -> bool {
        [512, 4096].into_iter().any(|back| self.tail_has(self.bytes.checked_sub(back), b"EFI PART"))
    }

    /// The boot signature alone stands on much: one entry must make sense, and none
    /// must be nonsense.
    fn has_partitions(&self) -> bool {
        const ENTRIES: u64 = 446;
        let entry = |number: u64| {
            let at = (ENTRIES + 16 * number) as usize;
            let bytes = self.head.get(at..at + 16)?;
            let (status, kind) = (bytes[0], bytes[4]);
            let sectors = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
            Some((status & 0x7f == 0, kind != 0 && sectors != 0))
        };
        let entries: Vec<_> = (0..4).filter_map(entry).collect();
        self.head_has(510, b"\x55\xaa")
            && entries.iter().all(|(valid, _)| *valid)
            && entries.iter().any(|(_, used)| *used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const BYTES: u64 = 16 << 20;
    const MAGIC: &[u8] = b"A LOG OF OURS";

    fn image(pieces: &[(u64, &[u8])]) -> DeviceContent {
        let file = tempfile::NamedTempFile::new().expect("an image");
        file.as_file().set_len(BYTES).expect("an image");
        for (at, bytes) in pieces {
            file.as_file().write_all_at(bytes, *at).expect("an image");
        }
        inspect_device(file.path(), MAGIC).expect("it can be read")
    }

    #[test]
    fn labels_are_known() {
        for (name, at, magic) in LABELS {
            match image(&[(*at as u64, magic)]) {
                DeviceContent::Foreign(found) => assert_eq!(found, *name),
                other => panic!("{name}: {other:?}"),
            }
        }
        let partition: &[u8] = b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0";
        let foreign: &[&[(u64, &[u8])]] = &[
            &[(4086, b"SWAPSPACE2")],
            &[(65526, b"SWAPSPACE2")],
            &[((128 << 10) + 5 * 1024, &0x00ba_b10c_u64.to_le_bytes())],
            &[(BYTES - (128 << 10), &0x00ba_b10c_u64.to_be_bytes())],
            &[(BYTES - 8192, &0xa92b_4efc_u32.to_le_bytes())],
            &[(BYTES - 65536, &0xa92b_4efc_u32.to_le_bytes())],
            &[(BYTES - 1024, b"Intel Raid ISM Cfg Sig. ")],
            &[(BYTES - 512, b"EFI PART")],
            &[(510, b"\x55\xaa"), (446 + 16, partition)],
            // Ours below, theirs above.
            &[(0, MAGIC), (1080, b"\x53\xef")],
        ];
        for pieces in foreign {
            assert!(matches!(image(pieces), DeviceContent::Foreign(_)), "{pieces:?}");
        }
    }

    #[test]
    fn what_is_no_label() {
        assert_eq!(image(&[]), DeviceContent::Empty);
        assert_eq!(image(&[(0, MAGIC)]), DeviceContent::Log);
        assert_eq!(image(&[(5000, b"something")]), DeviceContent::Unknown);
        assert_eq!(image(&[(BYTES - 1, b"!")]), DeviceContent::Unknown);
        // A boot sector without partitions.
        assert_eq!(image(&[(510, b"\x55\xaa")]), DeviceContent::Unknown);
        // Very small, and nothing at all.
        for bytes in [0, 1, 511, 4096] {
            let file = tempfile::NamedTempFile::new().expect("an image");
            file.as_file().set_len(bytes).expect("an image");
            let found = inspect_device(file.path(), MAGIC).expect("it can be read");
            assert_eq!(found, DeviceContent::Empty);
        }
    }
}
