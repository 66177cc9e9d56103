//! Where on its disk a file lies: what a fault must hit to hit this file.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::sys;

const EXTENT_LAST: u32 = 1;

/// The bytes of the disk that hold a file, on a filesystem that has the whole disk and says so
/// truthfully (ext4, XFS; btrfs has addresses of its own).
///
/// # Errors
/// The filesystem cannot tell.
pub fn file_extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    loop {
        let extents = sys::fiemap(file, start)?;
        let places = extents.iter().map(|extent| extent.physical..extent.physical + extent.length);
        ranges.extend(places);
        match extents.last() {
            Some(last) if last.flags & EXTENT_LAST == 0 => start = last.logical + last.length,
            _ => return Ok(ranges),
        }
    }
}
