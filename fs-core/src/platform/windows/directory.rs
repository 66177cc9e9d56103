//! Open directories.
//!
//! Windows has no cookie from which a listing can be continued later. A listing is therefore read
//! whole when it begins, and its offsets are places in it: an entry that is removed or made
//! meanwhile does not move the others. About 100 bytes for each entry, as long as it is open.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::OwnedHandle;
use std::sync::{Mutex, PoisonError};

use super::{attr, nt};
use crate::error::Result;
use crate::types::DirEntry;

/// Bytes for one call: some hundred entries.
const BATCH_BYTES: usize = 64 * 1024;

/// Where the members of `FILE_ID_BOTH_DIR_INFORMATION` lie.
mod member {
    pub const ATTRIBUTES: usize = 56;
    pub const NAME_BYTES: usize = 60;
    pub const ID: usize = 96;
    pub const NAME: usize = 104;
}

/// An open directory.
pub struct Dir {
    handle: OwnedHandle,
    listing: Mutex<Vec<DirEntry>>,
}

impl Dir {
    pub(super) const fn new(handle: OwnedHandle) -> Self {
        Self { handle, listing: Mutex::new(Vec::new()) }
    }

    pub(super) const fn handle(&self) -> &OwnedHandle {
        &self.handle
    }

    /// Visits entries from `offset`; see [`crate::platform::Backing::read_dir`].
    pub(super) fn read(&self, offset: u64, visit: &mut dyn FnMut(DirEntry) -> bool) -> Result<()> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *listing = self.list()?;
        }
        for entry in listing.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if !visit(entry.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<DirEntry>> {
        let mut buffer = vec![0_u64; BATCH_BYTES / 8];
        let mut listing = Vec::new();
        while nt::read_dir(&self.handle, &mut buffer, listing.is_empty())? {
            let before = listing.len();
            parse(nt::bytes_of(&buffer), &mut listing);
            if listing.len() == before {
                break;
            }
        }
        Ok(listing)
    }
}

/// Takes the entries out of a buffer that the system has filled. Names that are not valid Unicode
/// are left out: nobody could open them here (`nt::units`).
fn parse(bytes: &[u8], listing: &mut Vec<DirEntry>) {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map_or(0, u32::from_le_bytes) as usize
    };
    let mut at = 0;
    loop {
        let name_bytes = word(at + member::NAME_BYTES);
        let begin = at + member::NAME;
        let Some(name) = bytes.get(begin..begin + name_bytes) else { return };
        let units: Vec<u16> =
            name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let id = bytes.get(at + member::ID..at + member::ID + 8);
        let id = id.and_then(|id| id.try_into().ok()).map_or(0, u64::from_le_bytes);
        let name = OsString::from_wide(&units);
        if !name.is_empty() && name.to_str().is_some() {
            let kind = attr::entry_kind(word(at + member::ATTRIBUTES) as u32);
            let next_offset = listing.len() as u64 + 1;
            listing.push(DirEntry { name, ino: id, kind, next_offset });
        } else if !name.is_empty() {
            tracing::warn!(?name, "a name that is no Unicode is not shown");
        }
        match word(at) {
            0 => return,
            next => at += next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Wdk::Storage::FileSystem::FILE_ID_BOTH_DIR_INFORMATION as Entry;

    #[test]
    fn members_lie_where_the_system_puts_them() {
        assert_eq!(std::mem::offset_of!(Entry, FileAttributes), member::ATTRIBUTES);
        assert_eq!(std::mem::offset_of!(Entry, FileNameLength), member::NAME_BYTES);
        assert_eq!(std::mem::offset_of!(Entry, FileId), member::ID);
        assert_eq!(std::mem::offset_of!(Entry, FileName), member::NAME);
    }

    /// Whatever the bytes are, nothing is read beyond them.
    #[test]
    fn a_damaged_buffer_ends_the_listing() {
        let mut bytes = vec![0xff; 300];
        parse(&bytes, &mut Vec::new());
        bytes[member::NAME_BYTES..member::NAME_BYTES + 4].copy_from_slice(&4_u32.to_le_bytes());
        bytes[member::NAME..member::NAME + 4].copy_from_slice(&[b'a', 0, b'b', 0]);
        bytes[..4].copy_from_slice(&200_u32.to_le_bytes());
        let mut listing = Vec::new();
        parse(&bytes, &mut listing);
        assert_eq!(listing.len(), 1);
        assert_eq!(listing[0].name, "ab");
    }
}
