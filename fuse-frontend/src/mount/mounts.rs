//! What is mounted, from /proc/self/mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type under which the kernel lists our mounts.
pub const FILESYSTEM_TYPE: &str = "fuse.lanefs";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Device number as `major:minor`; never shared by two live mounts.
    pub device: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Filesystem type.
    pub filesystem: String,
    /// What is mounted.
    pub source: PathBuf,
    /// User who made a FUSE mount; 0 where the table does not say.
    pub user_id: u32,
    /// Whether it refuses changes.
    pub read_only: bool,
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// /proc is not mounted or not readable.
pub fn all() -> std::io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts of a table in the form of /proc/PID/mountinfo.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// The mount that a path shows: the last one made at exactly that place.
///
/// # Errors
/// As [`all`].
pub fn at(mount_point: &Path) -> std::io::Result<Option<MountEntry>> {
    Ok(all()?.into_iter().rfind(|mount| mount.mount_point == mount_point))
}

/// Our mounts.
///
/// # Errors
/// As [`all`].
pub fn ours() -> std::io::Result<Vec<MountEntry>> {
    Ok(all()?.into_iter().filter(|mount| mount.filesystem == FILESYSTEM_TYPE).collect())
}

/// `36 35 98:0 /root /mount/point rw,opts shared:1 - ext4 /dev/source rw`,
/// see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let mount_point = fields.nth(1)?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (filesystem, source) = (rest.next()?, rest.next()?);
    let options = String::from_utf8_lossy(rest.next().unwrap_or_default());
    let user_id = options.split(',').find_map(|word| word.strip_prefix("user_id=")?.parse().ok());
    Some(MountEntry {
        device: String::from_utf8_lossy(device).into_owned(),
        mount_point: unescape(mount_point),
        filesystem: String::from_utf8_lossy(filesystem).into_owned(),
        source: unescape(source),
        user_id: user_id.unwrap_or(0),
        read_only: options.split(',').any(|word| word == "ro"),
    })
}

/// Blanks and backslashes in names are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes() {
        let line = br"36 35 0:45 / /mnt/two\040words\134x rw,noatime shared:1 master:2 - fuse.lanefs /srv/a\040b rw,user_id=7,group_id=0";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.device, "0:45");
        assert_eq!(mount.mount_point, Path::new(r"/mnt/two words\x"));
        assert_eq!(mount.filesystem, FILESYSTEM_TYPE);
        assert_eq!(mount.source, Path::new("/srv/a b"));
        assert_eq!(mount.user_id, 7);
        assert!(!mount.read_only);
        assert_eq!(parse_line(b"").map(|m| m.device), None);
        assert_eq!(parse_line(b"1 2 3").map(|m| m.device), None);
    }

    #[test]
    fn the_machines_own_table_has_a_root() {
        assert!(all().unwrap().iter().any(|mount| mount.mount_point == Path::new("/")));
    }
}
