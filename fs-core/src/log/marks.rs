//! Marks: what must not be taken from the log any more although the log does not
//! say so.
//!
//! The backing journal may keep an operation whose log record is not durable yet.
//! For names that is no harm: recovery sees by the marker how far the journal got.
//! But if it kept a truncation, the log's older content of that file must not fill
//! the hole again. So before an operation takes bytes from a file whose content may
//! be in the log, an empty file is made in `.lanefs/marks` whose name tells the
//! operation. It is a change of the same journal, made before: whoever finds the
//! operation finds the mark. A mark whose operation is not there (the journal ended
//! between the two) is carried out by recovery.
//!
//! Marks cost no I/O, and go when the log has moved on.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::platform::{Backing, HANDLE_BYTES_MAX, ObjectKey};
use crate::types::{Caller, NewMode, type_bits};

use super::record::Change;

/// Who makes what the engine needs for itself.
pub(crate) const OURSELVES: Caller = Caller { uid: 0, gid: 0, thread: 0 };

/// An operation that took bytes from a file; or one of a batch (`together`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(super) lsn: Lsn,
    /// [`Change::Resize`] or [`Change::Allocate`]; or what a batch may hold.
    pub(super) change: Change,
}

impl Mark {
    /// Whether it is an operation of a batch: none of those takes bytes from a file.
    pub(super) const fn is_of_batch(&self) -> bool {
        !matches!(self.change, Change::Resize { .. } | Change::Allocate { .. })
    }

    /// The name of the file that is the mark: at most 150 bytes, ASCII.
    fn name(&self) -> Option<OsString> {
        let (object, words) = match &self.change {
            Change::Resize { object, size } => (object, format!("r-{size:x}")),
            Change::Allocate { object, mode, offset, bytes } => {
                (object, format!("a-{mode:x}-{offset:x}-{bytes:x}"))
            }
            _ => return None,
        };
        Some(OsString::from(format!("{:x}-{}-{words}", self.lsn, key_words(object))))
    }

    fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?;
        let mut words = name.split('-');
        let lsn = u64::from_str_radix(words.next()?, 16).ok()?;
        let object = parse_key(&mut words)?;
        let what = words.next()?;
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let change = match what {
            "r" => Change::Resize { object, size: number()? },
            "a" => Change::Allocate {
                object,
                mode: u32::try_from(number()?).ok()?,
                offset: number()?,
                bytes: number()?,
            },
            _ => return None,
        };
        words.next().is_none().then_some(Self { lsn, change })
    }
}

/// A key as a part of a name: three words.
pub(super) fn key_words(key: &ObjectKey) -> String {
    let (handle, length, kind) = key.handle;
    let mut words = format!("{:x}-{:x}-", key.ino, kind.cast_unsigned());
    for byte in &handle[..usize::from(length).min(HANDLE_BYTES_MAX)] {
        words.push_str(&format!("{byte:02x}"));
    }
    words
}

pub(super) fn parse_key<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<ObjectKey> {
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    let (ino, kind) = (number()?, u32::try_from(number()?).ok()?);
    let hex = words.next()?;
    if hex.len() > 2 * HANDLE_BYTES_MAX || !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let mut handle = [0; HANDLE_BYTES_MAX];
    for (index, byte) in handle.iter_mut().enumerate().take(hex.len() / 2) {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    let handle = (handle, (hex.len() / 2) as u8, kind.cast_signed());
    Some(ObjectKey { dev: 0, ino, handle })
}

/// Begins the name of a note of an object that recovery has made anew and is about to
/// exchange: at most 220 bytes.
const RENEWED: &str = "k";

fn renewed_name(in_log: &ObjectKey, here: &ObjectKey) -> OsString {
    OsString::from(format!("{RENEWED}-{}-{}", key_words(in_log), key_words(here)))
}

/// Key in the log, key on the disk.
fn parse_renewed(name: &OsStr) -> Option<(ObjectKey, ObjectKey)> {
    let mut words = name.to_str()?.split('-');
    if words.next()? != RENEWED {
        return None;
    }
    let pair = (parse_key(&mut words)?, parse_key(&mut words)?);
    words.next().is_none().then_some(pair)
}

/// The directory of the marks.
pub(super) struct Marks<B: Backing> {
    pub(super) directory: B::Object,
}

impl<B: Backing> Marks<B> {
    pub(super) const fn new(directory: B::Object) -> Self {
        Self { directory }
    }

    /// Makes a mark: to be called right before its operation is applied.
    ///
    /// # Errors
    /// The backing filesystem's: the operation must not be applied then.
    pub(super) fn make(&self, backing: &B, mark: &Mark) -> Result<()> {
        let Some(name) = mark.name() else { return Ok(()) };
        let mode = NewMode { mode: type_bits::S_IFREG | 0o600, umask: 0 };
        backing.make_node(OURSELVES, &self.directory, &name, mode, (0, 0)).map(drop)
    }

    /// Removes a mark.
    pub(super) fn remove(&self, backing: &B, mark: &Mark) -> Result<()> {
        let Some(name) = mark.name() else { return Ok(()) };
        backing.unlink(&self.directory, &name)
    }

    /// All marks, oldest first. What is no mark is passed over.
    pub(super) fn list(&self, backing: &B) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        let directory = backing.open_dir(&self.directory)?;
        backing.read_dir(&directory, 0, &mut |entry| {
            marks.extend(Mark::parse(&entry.name));
            true
        })?;
        marks.sort_unstable_by_key(|mark| mark.lsn);
        Ok(marks)
    }

    /// Notes which object on the disk is one of the log that recovery has made anew: a
    /// change of the same journal, in front of the operation that needs it.
    pub(super) fn note_renewed(
        &self,
        backing: &B,
        in_log: &ObjectKey,
        here: &ObjectKey,
    ) -> Result<()> {
        let mode = NewMode { mode: type_bits::S_IFREG | 0o600, umask: 0 };
        let name = renewed_name(in_log, here);
        match backing.make_node(OURSELVES, &self.directory, &name, mode, (0, 0)) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes [`Self::note_renewed`] back.
    pub(super) fn forget_note(
        &self,
        backing: &B,
        in_log: &ObjectKey,
        here: &ObjectKey,
    ) -> Result<()> {
        backing.unlink(&self.directory, &renewed_name(in_log, here))
    }

    /// What an interrupted recovery has noted: key in the log, key on the disk.
    pub(super) fn renewed(&self, backing: &B) -> Result<HashMap<ObjectKey, ObjectKey>> {
        let mut renewed = HashMap::new();
        let directory = backing.open_dir(&self.directory)?;
        backing.read_dir(&directory, 0, &mut |entry| {
            renewed.extend(parse_renewed(&entry.name));
            true
        })?;
        Ok(renewed)
    }

    /// Removes what [`Self::note_renewed`] has noted; says whether there was anything.
    pub(super) fn forget_renewed(&self, backing: &B) -> Result<bool> {
        let renewed = self.renewed(backing)?;
        for (in_log, here) in &renewed {
            self.forget_note(backing, in_log, here)?;
        }
        Ok(!renewed.is_empty())
    }

    /// Removes marks up to this number: the log has nothing that old any more.
    pub(super) fn remove_through(&self, backing: &B, through: Lsn) -> Result<()> {
        for mark in self.list(backing)?.iter().filter(|mark| mark.lsn <= through) {
            match self.remove(backing, mark) {
                // A checkpoint and a flush of everything come at the same time.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_its_name() {
        let mut handle = [0; HANDLE_BYTES_MAX];
        handle[..12].copy_from_slice(b"twelve bytes");
        let object = ObjectKey { dev: 0, ino: u64::MAX, handle: (handle, 12, -1) };
        let full = ObjectKey { dev: 0, ino: 7, handle: ([255; HANDLE_BYTES_MAX], 40, i32::MAX) };
        for change in [
            Change::Resize { object, size: 0 },
            Change::Resize { object: full, size: u64::MAX },
            Change::Allocate { object: full, mode: 3, offset: 4096, bytes: u64::MAX },
        ] {
            let mark = Mark { lsn: 0x1234_5678_9abc, change };
            let name = mark.name().expect("these operations have marks");
            assert!(name.len() <= 170, "{name:?}");
            assert_eq!(Mark::parse(&name), Some(mark));
        }
        let name = renewed_name(&object, &full);
        assert!(name.len() <= 220, "{name:?}");
        assert_eq!(parse_renewed(&name), Some((object, full)));
        assert_eq!(Mark::parse(&name), None);
        for no_mark in ["", "x", "1-2-3", "1-2-3-0-r-1", "1-2-3-00-r-1-1", "1-2-3-00-q-1"] {
            assert_eq!(Mark::parse(OsStr::new(no_mark)), None, "{no_mark}");
        }
    }
}
