//! What Windows wants to know of an object.

use std::ffi::OsStr;

use fs_core::engine::NodeId;
use fs_core::error::{Errno, Result};
use fs_core::platform::windows::{ATTRIBUTES, REPARSE, TIMES};
use windows_sys::Win32::Security::{GetSecurityDescriptorLength, MakeSelfRelativeSD};
use windows_sys::Win32::Storage::FileSystem as fs;
use winfsp::filesystem::{FileInfo, ModificationDescriptor};

use super::MountedTree;

/// An object's attributes.
pub(super) fn attributes(tree: &MountedTree, node: NodeId) -> Result<u32> {
    let value = tree.xattr(node, OsStr::new(ATTRIBUTES))?;
    value.first_chunk().map(|value| u32::from_le_bytes(*value)).ok_or(Errno::IO)
}

/// Everything at once.
pub(super) fn fill(tree: &MountedTree, node: NodeId, info: &mut FileInfo) -> Result<()> {
    let attr = tree.attr(node)?;
    let attributes = attributes(tree, node)?;
    let times = tree.xattr(node, OsStr::new(TIMES))?;
    // Creation, writing, access, change.
    let time = |place: usize| {
        let value = times.get(8 * place..8 * place + 8).and_then(|value| value.try_into().ok());
        value.map_or(0, u64::from_le_bytes)
    };
    info.file_attributes = attributes;
    info.reparse_tag = 0;
    if attributes & fs::FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        let point = tree.xattr(node, OsStr::new(REPARSE))?;
        info.reparse_tag = point.first_chunk().map_or(0, |tag| u32::from_le_bytes(*tag));
    }
    info.file_size = attr.size;
    info.allocation_size = (attr.blocks * 512).max(attr.size);
    info.creation_time = time(0);
    info.last_write_time = time(1);
    info.last_access_time = time(2);
    info.change_time = time(3);
    info.index_number = attr.ino;
    info.hard_links = attr.nlink;
    info.ea_size = 0;
    Ok(())
}

/// The security descriptor that WinFsp brings, self-relative: as bytes.
pub(super) fn descriptor(given: &ModificationDescriptor) -> Result<Vec<u8>> {
    /// `SE_SELF_RELATIVE`, in the control word.
    const SELF_RELATIVE: u16 = 0x8000;
    let pointer = given.as_mut_ptr();
    if pointer.is_null() {
        return Err(Errno::INVAL);
    }
    // SAFETY: WinFsp gives a valid descriptor, whose header both forms have.
    let control = unsafe { pointer.cast::<u16>().add(1).read_unaligned() };
    // SAFETY: valid, as above.
    let mut length = unsafe { GetSecurityDescriptorLength(pointer.cast()) };
    if control & SELF_RELATIVE != 0 {
        // SAFETY: a self-relative descriptor is that many bytes in one piece.
        let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length as usize) };
        return Ok(bytes.to_vec());
    }
    let mut bytes = vec![0_u8; length as usize];
    // SAFETY: the descriptor is valid, and the buffer as long as is said.
    let made =
        unsafe { MakeSelfRelativeSD(pointer.cast(), bytes.as_mut_ptr().cast(), &raw mut length) };
    if made == 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(bytes) }
}
