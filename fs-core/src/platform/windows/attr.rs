//! Attributes, times, lengths; what of them Unix has and Windows has otherwise.

use std::ops::Range;
use std::os::windows::io::OwnedHandle;

use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::Ioctl::{FSCTL_GET_REPARSE_POINT, FSCTL_QUERY_ALLOCATED_RANGES};
use windows_sys::Win32::System::SystemServices::{
    IO_REPARSE_TAG_MOUNT_POINT, IO_REPARSE_TAG_SYMLINK,
};

use super::{nt, object};
use crate::error::{Errno, Result};
use crate::types::{Attr, FileKind, FsStats, SetAttr, SetTime, Time};

/// From 1601, where Windows counts from, to 1970.
const EPOCH_SECONDS: i64 = 11_644_473_600;
const TICKS_PER_SECOND: i64 = 10_000_000;
const NANOS_PER_TICK: u32 = 100;

/// A time of Windows as one of ours.
#[must_use]
pub(super) const fn time(ticks: i64) -> Time {
    Time {
        secs: ticks.div_euclid(TICKS_PER_SECOND) - EPOCH_SECONDS,
        nanos: ticks.rem_euclid(TICKS_PER_SECOND) as u32 * NANOS_PER_TICK,
    }
}

/// One of our times as Windows has it; never 0, which would mean "leave it".
#[must_use]
pub(super) fn ticks(time: Time) -> i64 {
    let ticks = time
        .secs
        .saturating_add(EPOCH_SECONDS)
        .saturating_mul(TICKS_PER_SECOND)
        .saturating_add(i64::from(time.nanos / NANOS_PER_TICK));
    ticks.max(1)
}

/// Attributes of an open object.
pub(super) fn read(handle: &OwnedHandle, id: &[u8; 16]) -> Result<Attr> {
    let basic: wdk::FILE_BASIC_INFORMATION = nt::query(handle, wdk::FileBasicInformation)?;
    let standard: wdk::FILE_STANDARD_INFORMATION = nt::query(handle, wdk::FileStandardInformation)?;
    let kind = kind_of(handle, basic.FileAttributes)?;
    let is_dir = kind == FileKind::Directory;
    let is_read_only = basic.FileAttributes & fs::FILE_ATTRIBUTE_READONLY != 0;
    Ok(Attr {
        ino: object::number(id),
        size: if is_dir { 0 } else { standard.EndOfFile.max(0).cast_unsigned() },
        blocks: standard.AllocationSize.max(0).cast_unsigned() / 512,
        atime: time(basic.LastAccessTime),
        mtime: time(basic.LastWriteTime),
        ctime: time(basic.ChangeTime),
        kind,
        perm: match (is_dir, is_read_only) {
            (true, _) => 0o777,
            (false, true) => 0o444,
            (false, false) => 0o666,
        },
        nlink: standard.NumberOfLinks,
        uid: 0,
        gid: 0,
        rdev_major: 0,
        rdev_minor: 0,
        block_bytes: 4096,
    })
}

/// What an open object is.
pub(super) fn kind(handle: &OwnedHandle) -> Result<FileKind> {
    let basic: wdk::FILE_BASIC_INFORMATION = nt::query(handle, wdk::FileBasicInformation)?;
    kind_of(handle, basic.FileAttributes)
}

fn kind_of(handle: &OwnedHandle, attributes: u32) -> Result<FileKind> {
    if attributes & fs::FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        let tag: fs::FILE_ATTRIBUTE_TAG_INFO = nt::query(handle, wdk::FileAttributeTagInformation)?;
        if is_link(tag.ReparseTag) {
            return Ok(FileKind::Symlink);
        }
    }
    Ok(kind_of_attributes(attributes))
}

/// What a directory says of an entry; with a reparse point in it only opening tells.
pub(super) const fn entry_kind(attributes: u32) -> Option<FileKind> {
    if attributes & fs::FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        return None;
    }
    Some(kind_of_attributes(attributes))
}

const fn kind_of_attributes(attributes: u32) -> FileKind {
    if attributes & fs::FILE_ATTRIBUTE_DIRECTORY != 0 {
        FileKind::Directory
    } else {
        FileKind::Regular
    }
}

/// Names somewhere else. Other reparse points (of clouds, of deduplication) are files.
const fn is_link(tag: u32) -> bool {
    matches!(tag, IO_REPARSE_TAG_SYMLINK | IO_REPARSE_TAG_MOUNT_POINT)
}

/// The attributes of a new file with these permission bits.
pub(super) const fn attributes_of_mode(mode: u32) -> u32 {
    if mode & 0o7777 != 0 && mode & 0o222 == 0 {
        fs::FILE_ATTRIBUTE_READONLY
    } else {
        fs::FILE_ATTRIBUTE_NORMAL
    }
}

/// Changes times and the read-only attribute.
pub(super) fn set(handle: &OwnedHandle, change: &SetAttr) -> Result<()> {
    let now: wdk::FILE_BASIC_INFORMATION = nt::query(handle, wdk::FileBasicInformation)?;
    let mut basic = wdk::FILE_BASIC_INFORMATION {
        CreationTime: 0,
        LastAccessTime: change.atime.map_or(0, when),
        LastWriteTime: change.mtime.map_or(0, when),
        ChangeTime: 0,
        FileAttributes: 0,
    };
    let is_dir = now.FileAttributes & fs::FILE_ATTRIBUTE_DIRECTORY != 0;
    if let Some(perm) = change.perm.filter(|_| !is_dir) {
        let others =
            now.FileAttributes & !(fs::FILE_ATTRIBUTE_READONLY | fs::FILE_ATTRIBUTE_NORMAL);
        let read_only = if perm & 0o222 == 0 { fs::FILE_ATTRIBUTE_READONLY } else { 0 };
        // 0 would leave them alone.
        basic.FileAttributes = match others | read_only {
            0 => fs::FILE_ATTRIBUTE_NORMAL,
            some => some,
        };
        if basic.FileAttributes == now.FileAttributes {
            basic.FileAttributes = 0;
        }
    }
    let nothing = basic.FileAttributes == 0 && change.atime.is_none() && change.mtime.is_none();
    if nothing { Ok(()) } else { nt::set_basic(handle, &basic) }
}

fn when(time: SetTime) -> i64 {
    match time {
        SetTime::At(time) => ticks(time),
        SetTime::Now => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now = now.unwrap_or_default();
            ticks(Time { secs: now.as_secs().cast_signed(), nanos: now.subsec_nanos() })
        }
    }
}

pub(super) fn is_read_only(handle: &OwnedHandle) -> bool {
    let basic: Result<wdk::FILE_BASIC_INFORMATION> = nt::query(handle, wdk::FileBasicInformation);
    basic.is_ok_and(|basic| basic.FileAttributes & fs::FILE_ATTRIBUTE_READONLY != 0)
}

/// Length in bytes.
pub(super) fn length(file: &OwnedHandle) -> Result<u64> {
    let standard: wdk::FILE_STANDARD_INFORMATION = nt::query(file, wdk::FileStandardInformation)?;
    Ok(standard.EndOfFile.max(0).cast_unsigned())
}

pub(super) fn set_length(file: &OwnedHandle, bytes: u64) -> Result<()> {
    let bytes = i64::try_from(bytes).map_err(|_| Errno::FBIG)?;
    nt::set(file, wdk::FileEndOfFileInformation, &bytes.to_ne_bytes())
}

/// Ranges of a file that have clusters of their own.
pub(super) fn allocated(file: &OwnedHandle, within: Range<u64>) -> Result<Vec<Range<u64>>> {
    if within.is_empty() {
        return Ok(Vec::new());
    }
    let basic: wdk::FILE_BASIC_INFORMATION = nt::query(file, wdk::FileBasicInformation)?;
    if basic.FileAttributes & fs::FILE_ATTRIBUTE_SPARSE_FILE == 0 {
        return Ok(vec![within]);
    }
    let mut input = within.start.to_ne_bytes().to_vec();
    input.extend((within.end - within.start).to_ne_bytes());
    // 4,096 ranges; what is behind them counts as a hole, which is the safe mistake.
    let mut output = vec![0_u64; 2 * 4096];
    let bytes = match nt::control(file, FSCTL_QUERY_ALLOCATED_RANGES, &input, &mut output) {
        Ok(bytes) => bytes,
        // There were more: those that fit are there.
        Err(Errno::RANGE) => size_of_val(&*output),
        Err(error) => return Err(error),
    };
    let ranges = output[..bytes / 8].chunks_exact(2);
    Ok(ranges.map(|range| range[0]..range[0].saturating_add(range[1])).collect())
}

/// The target of a symbolic link or junction, as text.
pub(super) fn read_link(handle: &OwnedHandle) -> Result<Vec<u8>> {
    link_target(&reparse_point(handle)?)
}

/// The reparse point as `REPARSE_DATA_BUFFER`.
pub(super) fn reparse_point(handle: &OwnedHandle) -> Result<Vec<u8>> {
    // MAXIMUM_REPARSE_DATA_BUFFER_SIZE.
    let mut buffer = vec![0_u64; 16 * 1024 / 8];
    let bytes = nt::control(handle, FSCTL_GET_REPARSE_POINT, &[], &mut buffer)?;
    Ok(nt::bytes_of(&buffer)[..bytes].to_vec())
}

/// The substitute name in a `REPARSE_DATA_BUFFER` of a link.
fn link_target(point: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| Some(u16::from_le_bytes(point.get(at..at + 2)?.try_into().ok()?));
    let tag = point.first_chunk().map(|tag| u32::from_le_bytes(*tag)).ok_or(Errno::INVAL)?;
    // Offset and length of the substitute name; a symbolic link has flags before the names.
    let names = match tag {
        IO_REPARSE_TAG_SYMLINK => 20,
        IO_REPARSE_TAG_MOUNT_POINT => 16,
        _ => return Err(Errno::INVAL),
    };
    let at = names + usize::from(word(8).ok_or(Errno::INVAL)?);
    let bytes = usize::from(word(10).ok_or(Errno::INVAL)?);
    let name = point.get(at..at + bytes).ok_or(Errno::INVAL)?;
    let units: Vec<u16> =
        name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).map_err(|_| Errno::INVAL)?;
    Ok(text.trim_start_matches(r"\??\").to_owned().into_bytes())
}

/// Notes a number as the time of last writing: ticks since 1970, so that small ones are times
/// that every filesystem can keep.
pub(super) fn set_marker(file: &OwnedHandle, number: u64) -> Result<()> {
    let since = i64::try_from(number).map_err(|_| Errno::RANGE)?;
    let ticks = since.checked_add(EPOCH_SECONDS * TICKS_PER_SECOND).ok_or(Errno::RANGE)?;
    let basic = wdk::FILE_BASIC_INFORMATION { LastWriteTime: ticks, ..Default::default() };
    nt::set_basic(file, &basic)
}

/// The number that [`set_marker`] noted.
pub(super) fn marker(file: &OwnedHandle) -> Result<u64> {
    let basic: wdk::FILE_BASIC_INFORMATION = nt::query(file, wdk::FileBasicInformation)?;
    let since = basic.LastWriteTime - EPOCH_SECONDS * TICKS_PER_SECOND;
    u64::try_from(since).map_err(|_| Errno::RANGE)
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_le_bytes)
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u32::from_le_bytes)
}

/// Sizes of the volume (`FILE_FS_FULL_SIZE_INFORMATION`).
pub(super) fn filesystem_stats(root: &OwnedHandle) -> Result<FsStats> {
    let bytes = nt::volume(root, wdk::FileFsFullSizeInformation)?;
    let unit = word_at(&bytes, 24).saturating_mul(word_at(&bytes, 28)).max(512);
    Ok(FsStats {
        blocks: number_at(&bytes, 0),
        blocks_available: number_at(&bytes, 8),
        blocks_free: number_at(&bytes, 16),
        // NTFS makes files as long as there is room.
        files: 0,
        files_free: 0,
        block_bytes: unit,
        fragment_bytes: unit,
        name_bytes_max: nt::NAME_UNITS_MAX as u32,
    })
}

/// Name of the filesystem (`FILE_FS_ATTRIBUTE_INFORMATION`).
pub(super) fn filesystem_name(root: &OwnedHandle) -> Result<String> {
    let bytes = nt::volume(root, wdk::FileFsAttributeInformation)?;
    let length = (word_at(&bytes, 8) as usize).min(64);
    let name = bytes.get(12..12 + length).unwrap_or_default();
    let units: Vec<u16> =
        name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for (secs, nanos) in [(0, 0), (1_700_000_000, 123_456_700), (-1, 999_999_900)] {
            assert_eq!(time(ticks(Time { secs, nanos })), Time { secs, nanos });
        }
        assert_eq!(ticks(Time { secs: 0, nanos: 0 }), 116_444_736_000_000_000);
        assert_eq!(ticks(Time { secs: i64::MIN, nanos: 0 }), 1, "0 would change nothing");
    }

    #[test]
    fn link_targets_are_read_from_their_buffers() {
        let target: Vec<u8> = r"\??\C:\x".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut point = IO_REPARSE_TAG_MOUNT_POINT.to_le_bytes().to_vec();
        point.extend([0; 4]);
        point.extend([0, 0]);
        point.extend((target.len() as u16).to_le_bytes());
        point.extend([0; 4]);
        point.extend(&target);
        assert_eq!(link_target(&point), Ok(br"C:\x".to_vec()));
        for length in 0..point.len() {
            assert_eq!(link_target(&point[..length]), Err(Errno::INVAL), "{length}");
        }
    }
}
