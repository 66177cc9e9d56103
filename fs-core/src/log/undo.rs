//! Undo copies: what a file held before it was cut to nothing to be written anew.
//!
//! Many programs replace a file's content in place: they open it with `O_TRUNC` (or
//! truncate it), write, and close. A power cut in between leaves an empty or a mixed
//! file. So before such a truncation the old content is copied into a file in
//! `.lanefs/undo` and written in place there; and when the new content is complete (the
//! file is closed, or synced) and written in place, the copy is removed.
//!
//! Neither costs a flush, because the copy, the truncation and the removal are changes
//! of one journal, which keeps a prefix of them:
//!
//! | what the journal kept | the copy | recovery |
//! | --- | --- | --- |
//! | not all of the copy | torn or not there | the file has its old content; the copy goes |
//! | the copy, with or without the truncation | intact | puts the old content back |
//! | the removal too | not there | the file has its new content |
//!
//! If the log says that the new content was synced, that counts ([`super::recovery`]).
//!
//! A copy says by its checksums whether it is intact: the truncation came after all of
//! it, so that a torn one means that nothing was truncated.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};

use super::marks::{OURSELVES, key_words, parse_key};
use super::tracked::Synced;
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::platform::{Backing, ObjectKey, OpenMode, RenameMode};
use crate::types::{NewMode, Time, type_bits};

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: true };
const READ: OpenMode = OpenMode { write: false, ..READ_WRITE };
const FILE: NewMode = NewMode { mode: type_bits::S_IFREG | 0o600, umask: 0 };

/// Begins the name of a copy that belongs to no truncation yet.
const UNCLAIMED: &str = "new";
/// Longest piece that is copied at once.
const PIECE_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"LANEFSUN";
/// Behind the content: magic, length (8), time of change (8 + 4), checksum of the
/// content (4), checksum of this up to here (4).
const TRAILER_BYTES: usize = 36;

/// The directory of the copies.
pub(super) struct Undo<B: Backing> {
    directory: Option<B::Object>,
    next: AtomicU64,
}

/// A copy of what a file holds, for a truncation that has not come yet.
pub(crate) struct Copy {
    name: OsString,
    /// The file when it was copied.
    pub(super) of: Synced,
}

/// A copy that recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    name: OsString,
    /// The truncation that it belongs to.
    pub(super) lsn: Lsn,
    pub(super) object: ObjectKey,
}

/// What an intact copy holds.
pub(super) struct Old<B: Backing> {
    pub(super) file: B::File,
    pub(super) bytes: u64,
    pub(super) mtime: Time,
}

impl<B: Backing> Undo<B> {
    pub(super) const fn new(directory: Option<B::Object>) -> Self {
        Self { directory, next: AtomicU64::new(1) }
    }

    /// Whether there is a directory.
    pub(super) const fn is_there(&self) -> bool {
        self.directory.is_some()
    }

    fn directory(&self) -> Result<&B::Object> {
        self.directory.as_ref().ok_or(Errno::NOENT)
    }

    /// Copies what an open file holds, and has the copy written in place.
    ///
    /// # Errors
    /// The backing filesystem's; nothing is left then.
    pub(super) fn copy(&self, backing: &B, file: &B::File) -> Result<Copy> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{UNCLAIMED}-{number:x}"));
        let made = backing.create(OURSELVES, self.directory()?, &name, FILE, READ_WRITE, false)?;
        let copied = fill(backing, file, &made.1);
        match copied {
            Ok(of) => Ok(Copy { name, of }),
            Err(error) => {
                let _ = self.remove(backing, &name);
                Err(error)
            }
        }
    }

    /// Makes a copy that of truncation `lsn`, which is about to be applied; gives its
    /// name.
    pub(super) fn claim(
        &self,
        backing: &B,
        copy: &Copy,
        lsn: Lsn,
        object: &ObjectKey,
    ) -> Result<OsString> {
        let name = OsString::from(format!("{lsn:x}-{}", key_words(&object.portable())));
        let directory = self.directory()?;
        let (from, to) = ((directory, &*copy.name), (directory, &*name));
        backing.rename(from, to, RenameMode::default())?;
        Ok(name)
    }

    /// Removes a copy that was not claimed.
    pub(super) fn discard(&self, backing: &B, copy: &Copy) {
        if let Err(error) = self.remove(backing, &copy.name) {
            tracing::warn!(%error, "an unused copy of a file stays until the next mount");
        }
    }

    /// Removes a copy.
    pub(super) fn remove(&self, backing: &B, name: &OsStr) -> Result<()> {
        match backing.unlink(self.directory()?, name) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// As [`Self::remove`], a copy that recovery found.
    pub(super) fn forget(&self, backing: &B, kept: &Kept) -> Result<()> {
        self.remove(backing, &kept.name)
    }

    /// All copies that belong to truncations, oldest first.
    pub(super) fn list(&self, backing: &B) -> Result<Vec<Kept>> {
        let mut kept: Vec<_> =
            self.names(backing)?.into_iter().filter_map(|name| Kept::parse(&name)).collect();
        kept.sort_by_key(|kept| kept.lsn);
        Ok(kept)
    }

    /// Removes everything; says whether there was anything.
    pub(super) fn clear(&self, backing: &B) -> Result<bool> {
        let names = self.names(backing)?;
        for name in &names {
            self.remove(backing, name)?;
        }
        Ok(!names.is_empty())
    }

    fn names(&self, backing: &B) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        let Some(directory) = &self.directory else { return Ok(names) };
        let directory = backing.open_dir(directory)?;
        backing.read_dir(&directory, 0, &mut |entry| {
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name);
            }
            true
        })?;
        Ok(names)
    }

    /// Opens a copy; `None` if it is torn.
    pub(super) fn open(&self, backing: &B, kept: &Kept) -> Result<Option<Old<B>>> {
        let object = backing.lookup(self.directory()?, &kept.name)?.object;
        let file = backing.open(OURSELVES, &object, READ)?;
        let all = backing.file_attr(&file)?.size;
        let Some(bytes) = all.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        read_all(backing, &file, &mut trailer, bytes)?;
        let Some((mtime, crc)) = parse_trailer(&trailer, bytes) else { return Ok(None) };
        let mut found = 0;
        visit(backing, &file, bytes, &mut |piece, _| {
            found = crc32c::crc32c_append(found, piece);
            Ok(())
        })?;
        Ok((found == crc).then_some(Old { file, bytes, mtime }))
    }
}

impl Kept {
    fn parse(name: &OsStr) -> Option<Self> {
        let mut words = name.to_str()?.split('-');
        let lsn = u64::from_str_radix(words.next()?, 16).ok()?;
        let object = parse_key(&mut words)?;
        words.next().is_none().then_some(Self { lsn, object, name: name.to_owned() })
    }
}

impl<B: Backing> Old<B> {
    /// Visits the content in pieces, each with its offset.
    pub(super) fn visit(
        &self,
        backing: &B,
        visit_piece: &mut dyn FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        visit(backing, &self.file, self.bytes, visit_piece)
    }
}

/// Copies a file, with what tells that the copy is whole, and waits until it is written.
fn fill<B: Backing>(backing: &B, from: &B::File, to: &B::File) -> Result<Synced> {
    let attr = backing.file_attr(from)?;
    let mut crc = 0;
    visit(backing, from, attr.size, &mut |piece, offset| {
        crc = crc32c::crc32c_append(crc, piece);
        write_all(backing, to, piece, offset)
    })?;
    write_all(backing, to, &trailer(attr.size, attr.mtime, crc), attr.size)?;
    backing.finish_write_back(to)?;
    Ok(Synced::from(&attr))
}

fn trailer(bytes: u64, mtime: Time, crc: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&bytes.to_le_bytes());
    out[16..24].copy_from_slice(&mtime.secs.to_le_bytes());
    out[24..28].copy_from_slice(&mtime.nanos.to_le_bytes());
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    let own = crc32c::crc32c(&out[..32]);
    out[32..].copy_from_slice(&own.to_le_bytes());
    out
}

/// Time of change and checksum of the content, if this is the trailer of so many bytes.
fn parse_trailer(trailer: &[u8; TRAILER_BYTES], bytes: u64) -> Option<(Time, u32)> {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| trailer[at + byte]));
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let whole = trailer.starts_with(MAGIC)
        && word(32) == crc32c::crc32c(&trailer[..32])
        && long(8) == bytes
        && word(24) < 1_000_000_000;
    whole.then(|| (Time { secs: long(16).cast_signed(), nanos: word(24) }, word(28)))
}

/// Visits the first `bytes` of a file in pieces.
fn visit<B: Backing>(
    backing: &B,
    file: &B::File,
    bytes: u64,
    visit_piece: &mut dyn FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES_MAX.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(piece.len() as u64) as usize;
        read_all(backing, file, &mut piece[..length], offset)?;
        visit_piece(&piece[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}

fn read_all<B: Backing>(backing: &B, file: &B::File, buffer: &mut [u8], offset: u64) -> Result<()> {
    // Short: somebody has cut it meanwhile.
    let read = backing.read(file, buffer, offset)?;
    if read == buffer.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Writes all of it; what does not fit is an error, as it is with the first byte.
pub(super) fn write_all<B: Backing>(
    backing: &B,
    file: &B::File,
    bytes: &[u8],
    offset: u64,
) -> Result<()> {
    let written = backing.write(OURSELVES, file, bytes, offset, true)?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_tells_its_own_damage() {
        let mtime = Time { secs: -5, nanos: 999_999_999 };
        let whole = trailer(77, mtime, 0x1234_5678);
        assert_eq!(parse_trailer(&whole, 77), Some((mtime, 0x1234_5678)));
        assert_eq!(parse_trailer(&whole, 78), None, "of another length");
        for bit in 0..TRAILER_BYTES * 8 {
            let mut damaged = whole;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_trailer(&damaged, 77), None, "bit {bit}");
        }
    }

    #[test]
    fn a_name_tells_the_truncation() {
        let object = ObjectKey { dev: 0, ino: 7, handle: ([9; 40], 40, -2) };
        let name = OsString::from(format!("{:x}-{}", 0x1234_5678_u64, key_words(&object)));
        let kept = Kept::parse(&name).expect("it is one");
        assert_eq!((kept.lsn, kept.object), (0x1234_5678, object));
        assert_eq!(Kept::parse(OsStr::new("new-1")), None);
        assert_eq!(Kept::parse(OsStr::new("1-2")), None);
    }
}
