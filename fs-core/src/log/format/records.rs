//! Records as bytes: `LSN, length of the body, type, 0`, then the body.
//!
//! Values are packed without gaps. What is read is checked twice: its lengths
//! while it is read, its meaning by [`check_record`].

use super::cursor::{
    Cursor, Problem, put_key, put_name, put_time, put_u8, put_u16, put_u32, put_u64,
};
use super::{FormatError, GROUP_HEADER_BYTES, GroupHeader};
use crate::engine::Lsn;
use crate::log::record::{Change, Part, Record};
use crate::platform::{HANDLE_BYTES_MAX, ObjectKey};
use crate::types::{FileKind, Time};

pub(super) const RECORD_HEADER_BYTES: usize = 16;
/// Where the length of the body stands in a record's header.
const BODY_BYTES_AT: usize = 8;

const MAKE: u16 = 1;
const LINK: u16 = 2;
const REMOVE: u16 = 3;
const RENAME: u16 = 4;
const ATTRS: u16 = 5;
const RESIZE: u16 = 6;
const ALLOCATE: u16 = 7;
const SET_XATTR: u16 = 8;
const REMOVE_XATTR: u16 = 9;
pub(super) const DATA: u16 = 10;
const EXPIRE: u16 = 11;
const CHECKPOINT: u16 = 12;
const REWRITE: u16 = 13;

const RENAME_EXCHANGE: u8 = 1;
const RENAME_WHITEOUT: u8 = 2;
const RENAME_DISPLACED: u8 = 4;

const ATTRS_PERM: u8 = 1;
const ATTRS_UID: u8 = 2;
const ATTRS_GID: u8 = 4;
const ATTRS_ATIME: u8 = 8;
const ATTRS_MTIME: u8 = 16;

/// `i64::MAX`: no file reaches further.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

// ---- writing ----

/// Adds a record's bytes to `out`, ready for [`GroupBuilder::raw`](super::GroupBuilder::raw).
///
/// The record must pass [`check_record`]: what does not is written in a form that
/// no reader accepts.
///
/// # Panics
/// If the record has [parts](Part): their bytes are written through
/// [`GroupBuilder::begin_data`](super::GroupBuilder::begin_data).
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    debug_assert_eq!(check_record(record), Ok(()), "{record:?}");
    let kind = kind_of(&record.change);
    let start = begin_record(out, record.lsn, kind);
    put_body(out, &record.change);
    let body_bytes = out.len() - start - RECORD_HEADER_BYTES;
    set_body_bytes(&mut out[start..], body_bytes);
}

/// Writes the header of a record whose length is not known yet; returns where it begins.
pub(super) fn begin_record(out: &mut Vec<u8>, lsn: Lsn, kind: u16) -> usize {
    let start = out.len();
    put_u64(out, lsn);
    put_u32(out, 0);
    put_u16(out, kind);
    put_u16(out, 0);
    start
}

/// Completes the header that `record` begins with.
pub(super) fn set_body_bytes(record: &mut [u8], body_bytes: usize) {
    let body_bytes = u32::try_from(body_bytes).expect("a record is shorter than a group may be");
    record[BODY_BYTES_AT..BODY_BYTES_AT + 4].copy_from_slice(&body_bytes.to_le_bytes());
}

/// The body of a record of data up to the number of its parts, which comes last.
pub(super) fn put_data_head(out: &mut Vec<u8>, object: &ObjectKey, size: u64, mtime: Time) {
    put_key(out, object);
    put_u64(out, size);
    put_time(out, mtime);
    put_u32(out, 0);
}

/// Visits the LSNs of encoded records.
pub(super) fn visit_lsns(encoded: &[u8], mut visit: impl FnMut(Lsn)) -> Result<(), Problem> {
    let mut cursor = Cursor::new(encoded, 0);
    while !cursor.is_at_end() {
        let lsn = cursor.u64()?;
        let body_bytes = cursor.u32()? as usize;
        // Type and 0, then the body.
        cursor.take(4)?;
        cursor.take(body_bytes)?;
        visit(lsn);
    }
    Ok(())
}

const fn kind_of(change: &Change) -> u16 {
    match change {
        Change::Make { .. } => MAKE,
        Change::Link { .. } => LINK,
        Change::Remove { .. } => REMOVE,
        Change::Rename { .. } => RENAME,
        Change::Attrs { .. } => ATTRS,
        Change::Resize { .. } => RESIZE,
        Change::Rewrite { .. } => REWRITE,
        Change::Allocate { .. } => ALLOCATE,
        Change::SetXattr { .. } => SET_XATTR,
        Change::RemoveXattr { .. } => REMOVE_XATTR,
        Change::Data { .. } => DATA,
        Change::Expire { .. } => EXPIRE,
        Change::Checkpoint { .. } => CHECKPOINT,
    }
}

fn put_body(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Make { dir, name, object, kind, perm, uid, gid, device, target } => {
            put_key(out, dir);
            put_name(out, name);
            put_key(out, object);
            put_u8(out, kind_code(*kind));
            put_u16(out, *perm);
            put_u32(out, *uid);
            put_u32(out, *gid);
            put_u32(out, device.0);
            put_u32(out, device.1);
            put_bytes(out, target);
        }
        Change::Link { object, dir, name } => {
            put_key(out, object);
            put_key(out, dir);
            put_name(out, name);
        }
        Change::Remove { dir, name, object, is_dir } => {
            put_key(out, dir);
            put_name(out, name);
            put_key(out, object);
            put_u8(out, u8::from(*is_dir));
        }
        Change::Rename { .. } => put_rename(out, change),
        Change::Attrs { .. } => put_attrs(out, change),
        Change::Resize { object, size } => {
            put_key(out, object);
            put_u64(out, *size);
        }
        Change::Allocate { object, mode, offset, bytes } => {
            put_key(out, object);
            put_u32(out, *mode);
            put_u64(out, *offset);
            put_u64(out, *bytes);
        }
        Change::SetXattr { object, name, value } => {
            put_key(out, object);
            put_name(out, name);
            put_bytes(out, value);
        }
        Change::RemoveXattr { object, name } => {
            put_key(out, object);
            put_name(out, name);
        }
        Change::Data { object, size, mtime, parts } => {
            assert!(parts.is_empty(), "the bytes of parts go through `begin_data`");
            put_data_head(out, object, *size, *mtime);
        }
        Change::Expire { object } | Change::Rewrite { object } => put_key(out, object),
        Change::Checkpoint { through } => put_u64(out, *through),
    }
}

fn put_rename(out: &mut Vec<u8>, change: &Change) {
    let Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, whiteout } =
        change
    else {
        return;
    };
    put_key(out, from_dir);
    put_name(out, from);
    put_key(out, to_dir);
    put_name(out, to);
    put_key(out, object);
    let mut flags = 0;
    flags |= if *exchange { RENAME_EXCHANGE } else { 0 };
    flags |= if *whiteout { RENAME_WHITEOUT } else { 0 };
    flags |= if displaced.is_some() { RENAME_DISPLACED } else { 0 };
    put_u8(out, flags);
    if let Some(displaced) = displaced {
        put_key(out, displaced);
    }
}

fn put_attrs(out: &mut Vec<u8>, change: &Change) {
    let Change::Attrs { object, perm, uid, gid, atime, mtime } = change else {
        return;
    };
    put_key(out, object);
    let mut flags = 0;
    flags |= if perm.is_some() { ATTRS_PERM } else { 0 };
    flags |= if uid.is_some() { ATTRS_UID } else { 0 };
    flags |= if gid.is_some() { ATTRS_GID } else { 0 };
    flags |= if atime.is_some() { ATTRS_ATIME } else { 0 };
    flags |= if mtime.is_some() { ATTRS_MTIME } else { 0 };
    put_u8(out, flags);
    if let Some(perm) = perm {
        put_u16(out, *perm);
    }
    for id in [uid, gid].into_iter().flatten() {
        put_u32(out, *id);
    }
    for time in [atime, mtime].into_iter().flatten() {
        put_time(out, *time);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("targets and values are far below 4 GiB");
    put_u32(out, length);
    out.extend_from_slice(bytes);
}

const fn kind_code(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::Symlink => 3,
        FileKind::Fifo => 4,
        FileKind::Socket => 5,
        FileKind::CharDevice => 6,
        FileKind::BlockDevice => 7,
    }
}

// ---- reading ----

/// Reads all records of a group whose checksum is right; `bytes` hold at least
/// its header and records.
pub(super) fn decode_all(bytes: &[u8], header: &GroupHeader) -> Result<Vec<Record>, FormatError> {
    let content = &bytes[..header.content_bytes()];
    let mut cursor = Cursor::new(content, GROUP_HEADER_BYTES);
    let mut records = Vec::new();
    for index in 0..header.records {
        let mut lsn = 0;
        let record = decode(content, &mut cursor, &mut lsn)
            .and_then(|record| within(record, header))
            .map_err(|problem| FormatError::Record { index, lsn, problem })?;
        records.push(record);
    }
    if !cursor.is_at_end() {
        let field = "payload length";
        return Err(FormatError::Field { field, value: header.payload_bytes.into() });
    }
    Ok(records)
}

fn within(record: Record, header: &GroupHeader) -> Result<Record, Problem> {
    if (header.first_lsn..=header.last_lsn).contains(&record.lsn) {
        Ok(record)
    } else {
        Err("its LSN is not within the group's")
    }
}

fn decode(content: &[u8], cursor: &mut Cursor<'_>, lsn: &mut Lsn) -> Result<Record, Problem> {
    *lsn = cursor.u64()?;
    let body_bytes = cursor.u32()? as usize;
    let kind = cursor.u16()?;
    if cursor.u16()? != 0 {
        return Err("its header does not end with 0");
    }
    let begin = cursor.position();
    cursor.take(body_bytes)?;
    let mut body = Cursor::new(&content[..begin + body_bytes], begin);
    let change = take_body(&mut body, kind)?;
    if !body.is_at_end() {
        return Err("it is longer than what it holds");
    }
    check(&change)?;
    Ok(Record { lsn: *lsn, change })
}

fn take_body(body: &mut Cursor<'_>, kind: u16) -> Result<Change, Problem> {
    Ok(match kind {
        MAKE => Change::Make {
            dir: body.key()?,
            name: body.name()?,
            object: body.key()?,
            kind: take_kind(body)?,
            perm: body.u16()?,
            uid: body.u32()?,
            gid: body.u32()?,
            device: (body.u32()?, body.u32()?),
            target: take_bytes(body)?,
        },
        LINK => Change::Link { object: body.key()?, dir: body.key()?, name: body.name()? },
        REMOVE => Change::Remove {
            dir: body.key()?,
            name: body.name()?,
            object: body.key()?,
            is_dir: body.bool()?,
        },
        RENAME => take_rename(body)?,
        ATTRS => take_attrs(body)?,
        RESIZE => Change::Resize { object: body.key()?, size: body.u64()? },
        ALLOCATE => Change::Allocate {
            object: body.key()?,
            mode: body.u32()?,
            offset: body.u64()?,
            bytes: body.u64()?,
        },
        SET_XATTR => {
            Change::SetXattr { object: body.key()?, name: body.name()?, value: take_bytes(body)? }
        }
        REMOVE_XATTR => Change::RemoveXattr { object: body.key()?, name: body.name()? },
        DATA => take_data(body)?,
        EXPIRE => Change::Expire { object: body.key()? },
        REWRITE => Change::Rewrite { object: body.key()? },
        CHECKPOINT => Change::Checkpoint { through: body.u64()? },
        _ => return Err("its type is unknown"),
    })
}

fn take_rename(body: &mut Cursor<'_>) -> Result<Change, Problem> {
    let (from_dir, from) = (body.key()?, body.name()?);
    let (to_dir, to) = (body.key()?, body.name()?);
    let object = body.key()?;
    let flags = body.u8()?;
    if flags & !(RENAME_EXCHANGE | RENAME_WHITEOUT | RENAME_DISPLACED) != 0 {
        return Err("a flag of the rename is unknown");
    }
    let displaced = (flags & RENAME_DISPLACED != 0).then(|| body.key()).transpose()?;
    let exchange = flags & RENAME_EXCHANGE != 0;
    let whiteout = flags & RENAME_WHITEOUT != 0;
    Ok(Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, whiteout })
}

fn take_attrs(body: &mut Cursor<'_>) -> Result<Change, Problem> {
    let object = body.key()?;
    let flags = body.u8()?;
    if flags & !(ATTRS_PERM | ATTRS_UID | ATTRS_GID | ATTRS_ATIME | ATTRS_MTIME) != 0 {
        return Err("a flag of the attributes is unknown");
    }
    Ok(Change::Attrs {
        object,
        perm: (flags & ATTRS_PERM != 0).then(|| body.u16()).transpose()?,
        uid: (flags & ATTRS_UID != 0).then(|| body.u32()).transpose()?,
        gid: (flags & ATTRS_GID != 0).then(|| body.u32()).transpose()?,
        atime: (flags & ATTRS_ATIME != 0).then(|| body.time()).transpose()?,
        mtime: (flags & ATTRS_MTIME != 0).then(|| body.time()).transpose()?,
    })
}

fn take_data(body: &mut Cursor<'_>) -> Result<Change, Problem> {
    let (object, size, mtime) = (body.key()?, body.u64()?, body.time()?);
    let count = body.u32()?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (offset, bytes) = (body.u64()?, body.u32()?);
        let at = u32::try_from(body.position()).map_err(|_| "it lies too far back")?;
        body.take(bytes as usize)?;
        parts.push(Part { offset, bytes, at });
    }
    Ok(Change::Data { object, size, mtime, parts })
}

fn take_bytes(body: &mut Cursor<'_>) -> Result<Vec<u8>, Problem> {
    let length = body.u32()?;
    body.take(length as usize).map(<[u8]>::to_vec)
}

fn take_kind(body: &mut Cursor<'_>) -> Result<FileKind, Problem> {
    Ok(match body.u8()? {
        1 => FileKind::Regular,
        2 => FileKind::Directory,
        3 => FileKind::Symlink,
        4 => FileKind::Fifo,
        5 => FileKind::Socket,
        6 => FileKind::CharDevice,
        7 => FileKind::BlockDevice,
        _ => return Err("the kind of the new object is unknown"),
    })
}

// ---- meaning ----

/// Whether a record can be: what this refuses, no reader accepts, so a writer
/// must not put it into a group.
///
/// # Errors
/// [`FormatError::Record`] says what is wrong.
pub fn check_record(record: &Record) -> Result<(), FormatError> {
    check(&record.change).map_err(|problem| FormatError::Record {
        index: 0,
        lsn: record.lsn,
        problem,
    })
}

fn check(change: &Change) -> Result<(), Problem> {
    match change {
        Change::Make { dir, name, object, perm, .. } => {
            check_keys(&[dir, object])?;
            check_name(name)?;
            check_perm(*perm)
        }
        Change::Link { object, dir, name } | Change::Remove { object, dir, name, .. } => {
            check_keys(&[object, dir])?;
            check_name(name)
        }
        Change::Rename { from_dir, from, to_dir, to, object, displaced, .. } => {
            check_keys(&[from_dir, to_dir, object])?;
            check_keys(&displaced.iter().collect::<Vec<_>>())?;
            check_name(from)?;
            check_name(to)
        }
        Change::Attrs { object, perm, atime, mtime, .. } => {
            check_keys(&[object])?;
            check_perm(perm.unwrap_or(0))?;
            check_time(atime.unwrap_or_default())?;
            check_time(mtime.unwrap_or_default())
        }
        Change::SetXattr { object, name, .. } | Change::RemoveXattr { object, name } => {
            check_keys(&[object])?;
            check_xattr_name(name)
        }
        Change::Data { object, mtime, parts, .. } => {
            check_keys(&[object])?;
            check_time(*mtime)?;
            check_parts(parts)
        }
        Change::Resize { object, .. }
        | Change::Rewrite { object }
        | Change::Allocate { object, .. }
        | Change::Expire { object } => check_keys(&[object]),
        Change::Checkpoint { .. } => Ok(()),
    }
}

fn check_keys(keys: &[&ObjectKey]) -> Result<(), Problem> {
    let too_long = keys.iter().any(|key| usize::from(key.handle.1) > HANDLE_BYTES_MAX);
    if too_long { Err("a file handle is too long") } else { Ok(()) }
}

fn check_name(name: &[u8]) -> Result<(), Problem> {
    check_xattr_name(name)?;
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err("a name is a path");
    }
    Ok(())
}

fn check_xattr_name(name: &[u8]) -> Result<(), Problem> {
    if name.is_empty() || name.len() > usize::from(u8::MAX) || name.contains(&0) {
        return Err("a name is empty, longer than 255 bytes, or has a zero byte");
    }
    Ok(())
}

fn check_perm(perm: u16) -> Result<(), Problem> {
    if perm > 0o7777 { Err("permission bits are more than 0o7777") } else { Ok(()) }
}

fn check_time(time: Time) -> Result<(), Problem> {
    if time.nanos >= 1_000_000_000 {
        Err("a time has a second or more of nanoseconds")
    } else {
        Ok(())
    }
}

fn check_parts(parts: &[Part]) -> Result<(), Problem> {
    let mut end = 0;
    for part in parts {
        if part.bytes == 0 {
            return Err("a part is empty");
        }
        if part.offset < end {
            return Err("parts overlap or are out of order");
        }
        end = part.offset.checked_add(part.bytes.into()).ok_or("a part ends nowhere")?;
        if end > FILE_BYTES_MAX {
            return Err("a part ends nowhere");
        }
    }
    Ok(())
}
