//! Reading and writing the small pieces: numbers, keys, names. Reading never goes
//! past the end of what it was given, whatever the bytes say.

use crate::platform::{HANDLE_BYTES_MAX, ObjectKey};
use crate::types::Time;

/// What is wrong, in words for people.
pub(super) type Problem = &'static str;

/// A position in bytes that are not trusted.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Begins at `at`; `bytes` end where reading must.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or("it ends too early")?;
        self.at += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Problem> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Problem> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a yes-or-no is neither 0 nor 1"),
        }
    }

    pub(super) fn time(&mut self) -> Result<Time, Problem> {
        Ok(Time { secs: self.array().map(i64::from_le_bytes)?, nanos: self.u32()? })
    }

    pub(super) fn key(&mut self) -> Result<ObjectKey, Problem> {
        let ino = self.u64()?;
        let kind = self.array().map(i32::from_le_bytes)?;
        let length = self.u8()?;
        if usize::from(length) > HANDLE_BYTES_MAX {
            return Err("a file handle is too long");
        }
        let mut handle = [0; HANDLE_BYTES_MAX];
        handle[..usize::from(length)].copy_from_slice(self.take(length.into())?);
        Ok(ObjectKey { dev: 0, ino, handle: (handle, length, kind) })
    }

    /// A name, at most 255 bytes by the size of its length.
    pub(super) fn name(&mut self) -> Result<Vec<u8>, Problem> {
        let length = self.u8()?;
        self.take(length.into()).map(<[u8]>::to_vec)
    }
}

pub(super) fn put_u8(out: &mut Vec<u8>, value: u8) {
    out.push(value);
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.secs.to_le_bytes());
    put_u32(out, time.nanos);
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &ObjectKey) {
    let (handle, length, kind) = &key.handle;
    let handle = &handle[..usize::from(*length).min(HANDLE_BYTES_MAX)];
    put_u64(out, key.ino);
    out.extend_from_slice(&kind.to_le_bytes());
    out.push(handle.len() as u8);
    out.extend_from_slice(handle);
}

/// Cuts what is longer than its length can say, so that the group stays readable;
/// `check` is what refuses such a name.
pub(super) fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    let name = &name[..name.len().min(usize::from(u8::MAX))];
    out.push(name.len() as u8);
    out.extend_from_slice(name);
}
