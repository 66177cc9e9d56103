//! Objects: known by file id.

use std::os::windows::io::OwnedHandle;
use std::sync::{Mutex, PoisonError};

use windows_sys::Wdk::Storage::FileSystem as wdk;

use super::nt::{self, Opening, Which};
use crate::error::{Errno, Result};
use crate::platform::{HANDLE_BYTES_MAX, ObjectKey};

/// What tells our keys from other platforms' handles in a log.
const KIND: i32 = 0x4e54;

/// An object of the backing filesystem.
pub struct Object {
    /// 128 bits; on NTFS the lower half is the file reference number with its sequence number, so
    /// that a number that is used again is another id, and the upper half is zero.
    id: [u8; 16],
    /// Keeps a file that has lost its last name.
    pinned: Mutex<Option<OwnedHandle>>,
}

impl Object {
    pub(super) const fn new(id: [u8; 16]) -> Self {
        Self { id, pinned: Mutex::new(None) }
    }

    pub(super) const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Opens it for itself: by id, or through the handle that keeps it.
    pub(super) fn open(&self, volume: &OwnedHandle, opening: Opening) -> Result<OwnedHandle> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*pinned
            && let Ok((opened, _)) = nt::open(handle, Which::Itself, opening)
        {
            return Ok(opened);
        }
        drop(pinned);
        // The id of a volume's root, and of whatever the handle is of, is found at once.
        match nt::open(volume, Which::Id(&self.id), opening) {
            Ok((handle, _)) => Ok(handle),
            Err(Errno::INVAL | Errno::NOENT) if self.is_of(volume) => {
                Ok(nt::open(volume, Which::Itself, opening)?.0)
            }
            Err(Errno::INVAL) => Err(Errno::STALE),
            Err(error) => Err(error),
        }
    }

    fn is_of(&self, handle: &OwnedHandle) -> bool {
        identity(handle).is_ok_and(|(id, _)| id == self.id)
    }

    pub(super) fn pin(&self, handle: OwnedHandle) {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    pub(super) fn unpin(&self) {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// File id and serial number of the volume.
pub(super) fn identity(handle: &OwnedHandle) -> Result<([u8; 16], u64)> {
    let id: wdk::FILE_ID_INFORMATION = nt::query(handle, wdk::FileIdInformation)?;
    Ok((id.FileId.Identifier, id.VolumeSerialNumber))
}

/// The number that programs see.
pub(super) fn number(id: &[u8; 16]) -> u64 {
    u64::from_le_bytes(*id.first_chunk().expect("it is longer"))
}

/// The key of an object. The volume's serial number is not in it: a key must be the same after a
/// volume was copied, and an engine has one volume.
pub(super) fn key(id: &[u8; 16], dev: u64) -> ObjectKey {
    let mut handle = [0; HANDLE_BYTES_MAX];
    handle[..16].copy_from_slice(id);
    ObjectKey { dev, ino: number(id), handle: (handle, 16, KIND) }
}

/// The id in a key.
pub(super) fn id_of(key: &ObjectKey) -> Result<[u8; 16]> {
    let (handle, bytes, kind) = &key.handle;
    match handle.first_chunk() {
        Some(id) if (*bytes, *kind) == (16, KIND) => Ok(*id),
        _ => Err(Errno::STALE),
    }
}
