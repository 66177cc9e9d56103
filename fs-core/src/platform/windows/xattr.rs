//! What objects of Windows have and Unix does not, under names of extended attributes: so it
//! passes through the engine, and a file that is put in another's place takes it over.
//!
//! The names are those of ntfs-3g, and so are the values.
//!
//! | name | value |
//! | --- | --- |
//! | `system.ntfs_acl` | the security descriptor, self-relative: owner, group, access list |
//! | `system.ntfs_acl.4` | to be set only: the parts of it that the number names |
//! | `system.ntfs_attrib` | the attributes (hidden, system, archive ...), 4 bytes |
//! | `system.ntfs_times` | times of creation, last writing, last access, change; 8 bytes each |
//! | `system.ntfs_reparse_data` | the reparse point (`REPARSE_DATA_BUFFER`) |
//! | any other | an extended attribute of NTFS, whose names are upper case and have 254 bytes at most |
//!
//! Times are not listed among an object's names, so that nothing takes them over by itself; nor is
//! a reparse point: a file with one is not replaced by its content.

use std::ffi::OsStr;
use std::os::windows::io::OwnedHandle;

use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION,
};
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::Ioctl::{FSCTL_DELETE_REPARSE_POINT, FSCTL_SET_REPARSE_POINT};

use super::{attr, nt};
use crate::error::{Errno, Result};

/// The security descriptor.
pub const SECURITY: &str = "system.ntfs_acl";
/// Before a number in hexadecimal: to set parts of the security descriptor only, those in
/// `SECURITY_INFORMATION`.
pub const SECURITY_PARTS: &str = "system.ntfs_acl.";
/// The attributes.
pub const ATTRIBUTES: &str = "system.ntfs_attrib";
/// Times of creation, last writing, last access, change.
pub const TIMES: &str = "system.ntfs_times";
/// The reparse point.
pub const REPARSE: &str = "system.ntfs_reparse_data";

/// Attributes that somebody may set; the others say what the filesystem did.
const SETTABLE: u32 = fs::FILE_ATTRIBUTE_READONLY
    | fs::FILE_ATTRIBUTE_HIDDEN
    | fs::FILE_ATTRIBUTE_SYSTEM
    | fs::FILE_ATTRIBUTE_ARCHIVE
    | fs::FILE_ATTRIBUTE_TEMPORARY
    | fs::FILE_ATTRIBUTE_OFFLINE
    | fs::FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

/// Without the audit list, which needs a privilege.
const PARTS: u32 =
    OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;

/// Opens the object with the given rights.
type Open<'a> = &'a dyn Fn(u32) -> Result<OwnedHandle>;

fn text(name: &OsStr) -> Result<&str> {
    name.to_str().filter(|name| !name.is_empty()).ok_or(Errno::INVAL)
}

/// A value.
pub(super) fn get(open: Open<'_>, name: &OsStr) -> Result<Vec<u8>> {
    let basic = || -> Result<wdk::FILE_BASIC_INFORMATION> {
        nt::query(&open(fs::FILE_READ_ATTRIBUTES)?, wdk::FileBasicInformation)
    };
    match text(name)? {
        SECURITY => nt::security(&open(fs::READ_CONTROL)?, PARTS),
        ATTRIBUTES => Ok(basic()?.FileAttributes.to_le_bytes().to_vec()),
        TIMES => {
            let basic = basic()?;
            let times =
                [basic.CreationTime, basic.LastWriteTime, basic.LastAccessTime, basic.ChangeTime];
            Ok(times.iter().flat_map(|time| time.to_le_bytes()).collect())
        }
        REPARSE => attr::reparse_point(&open(fs::FILE_READ_ATTRIBUTES)?),
        other => {
            let list = all(open)?;
            let found = list.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(other));
            found.map(|(_, value)| value).ok_or(Errno::NODATA)
        }
    }
}

/// All names, each ended by a zero byte.
pub(super) fn names(open: Open<'_>) -> Result<Vec<u8>> {
    let basic: wdk::FILE_BASIC_INFORMATION =
        nt::query(&open(fs::FILE_READ_ATTRIBUTES)?, wdk::FileBasicInformation)?;
    let mut names = Vec::new();
    let mut add = |name: &str| {
        names.extend(name.as_bytes());
        names.push(0);
    };
    // The read-only attribute is in the permission bits.
    if basic.FileAttributes & SETTABLE & !fs::FILE_ATTRIBUTE_READONLY != 0 {
        add(ATTRIBUTES);
    }
    let security = open(fs::READ_CONTROL).and_then(|file| nt::security(&file, PARTS));
    match security {
        Ok(_) => add(SECURITY),
        // Nobody may read it, or there is none (FAT).
        Err(Errno::ACCES | Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error),
    }
    match all(open) {
        Ok(list) => list.iter().for_each(|(name, _)| add(name)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error),
    }
    Ok(names)
}

/// Whether setting this makes a file read-only.
pub(super) fn makes_read_only(name: &OsStr, value: &[u8]) -> bool {
    let attributes = value.first_chunk().map_or(0, |value| u32::from_le_bytes(*value));
    name == ATTRIBUTES && attributes & fs::FILE_ATTRIBUTE_READONLY != 0
}

/// Sets a value.
pub(super) fn set(open: Open<'_>, name: &OsStr, value: &[u8]) -> Result<()> {
    match text(name)? {
        SECURITY => set_security(open, PARTS, value),
        parts if parts.starts_with(SECURITY_PARTS) => {
            let parts = u32::from_str_radix(&parts[SECURITY_PARTS.len()..], 16);
            set_security(open, parts.map_err(|_| Errno::INVAL)?, value)
        }
        ATTRIBUTES => {
            let attributes = u32::from_le_bytes(value.try_into().map_err(|_| Errno::INVAL)?);
            let attributes = match attributes & SETTABLE {
                0 => fs::FILE_ATTRIBUTE_NORMAL,
                some => some,
            };
            let file = open(fs::FILE_READ_ATTRIBUTES | fs::FILE_WRITE_ATTRIBUTES)?;
            let basic =
                wdk::FILE_BASIC_INFORMATION { FileAttributes: attributes, ..Default::default() };
            nt::set_basic(&file, &basic)
        }
        TIMES => {
            // Creation, writing, access, change: as many as are given; 0 leaves one alone.
            let mut times = [0_i64; 4];
            for (time, bytes) in times.iter_mut().zip(value.chunks_exact(8)) {
                *time = i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            }
            let basic = wdk::FILE_BASIC_INFORMATION {
                CreationTime: times[0],
                LastWriteTime: times[1],
                LastAccessTime: times[2],
                ChangeTime: times[3],
                FileAttributes: 0,
            };
            nt::set_basic(&open(fs::FILE_WRITE_ATTRIBUTES)?, &basic)
        }
        REPARSE => {
            let file = open(fs::FILE_WRITE_ATTRIBUTES | fs::FILE_WRITE_DATA)?;
            nt::control(&file, FSCTL_SET_REPARSE_POINT, value, &mut []).map(drop)
        }
        other => nt::set_ea(&open(fs::FILE_WRITE_EA)?, &entry(other, value)?),
    }
}

/// Sets parts of the security descriptor. Where the owner may not be set and is the same, the rest
/// is set: a file's owner need not be the one who writes it.
fn set_security(open: Open<'_>, parts: u32, value: &[u8]) -> Result<()> {
    let rights = |parts: u32| {
        let owner = parts & (OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION) != 0;
        let list = parts & DACL_SECURITY_INFORMATION != 0;
        let of = |is: bool, right: u32| if is { right } else { 0 };
        fs::READ_CONTROL | of(owner, fs::WRITE_OWNER) | of(list, fs::WRITE_DAC)
    };
    let refused = |error: Errno| {
        use windows_sys::Win32::Foundation::STATUS_INVALID_OWNER;
        matches!(error, Errno::PERM | Errno::ACCES) || error.raw() == STATUS_INVALID_OWNER
    };
    let all = open(rights(parts)).and_then(|file| nt::set_security(&file, parts, value));
    match all {
        Err(error) if refused(error) && parts == PARTS => {
            let only = OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION;
            let given = nt::owner_and_group(value)?;
            let now = nt::security(&open(fs::READ_CONTROL)?, only)?;
            if nt::owner_and_group(&now)? != given {
                return Err(error);
            }
            set_security(open, DACL_SECURITY_INFORMATION, value)
        }
        other => other,
    }
}

/// Removes a value.
pub(super) fn remove(open: Open<'_>, name: &OsStr) -> Result<()> {
    match text(name)? {
        SECURITY | TIMES => Err(Errno::OPNOTSUPP),
        ATTRIBUTES => set(open, name, &0_u32.to_le_bytes()),
        REPARSE => {
            // The tag must be told, and nothing behind it.
            let point = attr::reparse_point(&open(fs::FILE_READ_ATTRIBUTES)?)?;
            let mut header = point.get(..8).ok_or(Errno::NODATA)?.to_vec();
            header[4..].fill(0);
            let file = open(fs::FILE_WRITE_ATTRIBUTES | fs::FILE_WRITE_DATA)?;
            nt::control(&file, FSCTL_DELETE_REPARSE_POINT, &header, &mut []).map(drop)
        }
        other => {
            get(open, name)?;
            nt::set_ea(&open(fs::FILE_WRITE_EA)?, &entry(other, &[])?)
        }
    }
}

/// NTFS's own extended attributes.
fn all(open: Open<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    match nt::query_ea(&open(fs::FILE_READ_EA)?) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(Errno::NODATA) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Takes apart a list of `FILE_FULL_EA_INFORMATION`.
fn parse(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut at, mut list) = (0, Vec::new());
    loop {
        let Some(header) = bytes.get(at..at + 8) else { return list };
        let next = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let name_bytes = usize::from(header[5]);
        let value_bytes = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let name = bytes.get(at + 8..at + 8 + name_bytes);
        let begin = at + 8 + name_bytes + 1;
        let value = bytes.get(begin..begin + value_bytes);
        if let (Some(name), Some(value)) = (name, value)
            && let Ok(name) = std::str::from_utf8(name)
            && !name.is_empty()
        {
            list.push((name.to_owned(), value.to_vec()));
        }
        if next == 0 {
            return list;
        }
        at += next;
    }
}

/// One `FILE_FULL_EA_INFORMATION`.
fn entry(name: &str, value: &[u8]) -> Result<Vec<u64>> {
    let name_bytes = u8::try_from(name.len()).ok().filter(|&bytes| bytes < 255);
    let name_bytes = name_bytes.ok_or(Errno::RANGE)?;
    if !name.is_ascii() {
        return Err(Errno::INVAL);
    }
    let value_bytes = u16::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let mut bytes = vec![0, 0, 0, 0, 0, name_bytes];
    bytes.extend(value_bytes.to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.extend(value);
    let words = bytes.chunks(8).map(|piece| {
        let mut whole = [0; 8];
        whole[..piece.len()].copy_from_slice(piece);
        u64::from_ne_bytes(whole)
    });
    Ok(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_are_written() {
        let words = entry("USER.TEST", b"value").expect("it fits");
        let bytes = nt::bytes_of(&words);
        assert_eq!(parse(bytes), [("USER.TEST".to_owned(), b"value".to_vec())]);
        for length in 0..bytes.len() {
            parse(&bytes[..length]);
        }
        assert_eq!(entry("a", &vec![0; 70_000]), Err(Errno::TOOBIG));
        assert_eq!(entry(&"n".repeat(255), b""), Err(Errno::RANGE));
    }
}
