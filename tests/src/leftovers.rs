//! What a finished test must not leave: mounts, loop devices, daemons.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::scratch;

/// Everything of ours that still exists: mounts of lanefs or below a test's scratch directory, and
/// loop devices with their image in one. Other test processes may own some of it; a test checks its
/// own directory with [`below`].
pub fn all() -> Vec<String> {
    let ours = |path: &Path| path.to_string_lossy().contains(scratch::PREFIX);
    let mounts =
        mounts().into_iter().filter(|mount| mount.kind == "fuse.lanefs" || ours(&mount.at));
    let mounts = mounts.map(|mount| format!("mount {} at {}", mount.kind, mount.at.display()));
    let devices = loop_devices().into_iter().filter(|device| ours(&device.image));
    let devices = devices.map(|device| format!("{} on {}", device.path, device.image.display()));
    mounts.chain(devices).collect()
}

/// What of ours is still below `directory`.
pub fn below(directory: &Path) -> Vec<String> {
    let mounts = mounts_below(directory).into_iter().map(|at| format!("mount {}", at.display()));
    let devices = loop_devices_below(directory).into_iter().map(|path| format!("device {path}"));
    mounts.chain(devices).collect()
}

/// Mount points below `directory`, in the order they were mounted.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let at = mounts().into_iter().map(|mount| mount.at);
    at.filter(|path| path.starts_with(directory)).collect()
}

/// Loop devices whose image lies below `directory`.
pub fn loop_devices_below(directory: &Path) -> Vec<String> {
    let devices = loop_devices().into_iter().filter(|device| device.image.starts_with(directory));
    devices.map(|device| device.path).collect()
}

/// True while something is mounted exactly at `path`. Never touches the path itself, which hangs or
/// fails on a dead mount.
pub fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|mount| mount.at == path)
}

/// True while a lanefs (or another FUSE filesystem) is mounted exactly at `path`.
pub fn is_lanefs(path: &Path) -> bool {
    mounts().iter().any(|mount| mount.at == path && mount.kind.starts_with("fuse"))
}

struct Mount {
    at: PathBuf,
    kind: String,
}

fn mounts() -> Vec<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    table.lines().filter_map(parse_mount).collect()
}

// "36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/loop0 rw": the optional fields end
// at the lone dash.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let at = before.split(' ').nth(4)?;
    let kind = after.split(' ').next()?;
    Some(Mount { at: unescape(at), kind: kind.to_owned() })
}

// The kernel writes blanks and the like as "\040".
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

struct LoopDevice {
    path: String,
    image: PathBuf,
}

fn loop_devices() -> Vec<LoopDevice> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let devices = entries.flatten().filter_map(|entry| {
        // A loop device without an image has no such file.
        let image = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let path = format!("/dev/{}", entry.file_name().to_string_lossy());
        Some(LoopDevice { path, image: PathBuf::from(image.trim_end()) })
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_understood() {
        let line = r"36 35 0:9 / /a\040b\134c rw,noatime shared:1 - fuse.lanefs /x rw,user_id=0";
        let mount = parse_mount(line).expect("a mount");
        assert_eq!(mount.at, Path::new(r"/a b\c"));
        assert_eq!(mount.kind, "fuse.lanefs");
    }
}
