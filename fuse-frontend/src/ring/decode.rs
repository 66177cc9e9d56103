//! Requests as the kernel lays them into an entry's buffers.
//!
//! A structure of the operation, if it has one, is in `op_in`; names (each ended by a
//! zero byte) and data are in the payload. Structures: `include/uapi/linux/fuse.h`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fs_core::engine::{Deed, DirId, FileId, NodeId};
use fs_core::error::{Errno, Result};
use fs_core::types::{NewMode, SetAttr, SetTime, SyncKind, Time};

use super::abi::{opcode, u32_at, u64_at};
use crate::skin::convert::attributes_set;
use crate::skin::{Op, Write};

/// `FUSE_WRITE_KILL_SUIDGID`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`.
const FSYNC_FDATASYNC: u32 = 1 << 0;

/// Bits of `fuse_setattr_in.valid`.
mod fattr {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const FH: u32 = 1 << 6;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
}

/// A request in our own values. The node that it is about is in the header.
pub(super) enum Request<'a> {
    Lookup { name: &'a OsStr },
    GetAttr,
    SetAttr { file: Option<FileId>, change: SetAttr },
    ReadLink,
    Symlink { name: &'a OsStr, target: &'a OsStr },
    MkNod { name: &'a OsStr, new: NewMode, rdev: u32 },
    MkDir { name: &'a OsStr, new: NewMode },
    Unlink { name: &'a OsStr },
    RmDir { name: &'a OsStr },
    Rename { name: &'a OsStr, new_parent: NodeId, new_name: &'a OsStr, flags: u32 },
    Link { node: NodeId, name: &'a OsStr },
    Open { flags: i32 },
    Create { name: &'a OsStr, new: NewMode, flags: i32 },
    Read { file: FileId, offset: u64, bytes: u32 },
    Write(Write<'a>),
    StatFs,
    Flush { file: FileId },
    Release { file: FileId },
    Fsync { file: FileId, kind: SyncKind },
    SetXattr { name: &'a OsStr, value: &'a [u8], flags: u32 },
    GetXattr { name: &'a OsStr, bytes: u32 },
    ListXattr { bytes: u32 },
    RemoveXattr { name: &'a OsStr },
    OpenDir,
    ReadDir { dir: DirId, offset: u64, bytes: u32 },
    ReadDirPlus { dir: DirId, offset: u64, bytes: u32 },
    ReleaseDir { dir: DirId },
    FsyncDir { dir: DirId },
    Access,
    Fallocate { file: FileId, offset: u64, bytes: u64, mode: u32 },
    Lseek { file: FileId, offset: u64, whence: i32 },
    CopyFileRange { source: (FileId, u64), target: (FileId, u64), bytes: u64 },
}

/// Decodes a request.
///
/// # Errors
/// `ENOSYS` for operations that we do not have, as fuser answers them on the classic
/// transport; `EINVAL` if names or data are not where they must be.
pub(super) fn decode<'a>(opcode: u32, op_in: &[u8], payload: &'a [u8]) -> Result<Request<'a>> {
    let (word, long) = (|at| u32_at(op_in, at), |at| u64_at(op_in, at));
    let signed = |at| word(at).cast_signed();
    let (file, dir) = (|at| FileId(long(at)), || DirId(long(0)));
    let mut names = Names(payload);
    Ok(match opcode {
        opcode::LOOKUP => Request::Lookup { name: names.next()? },
        opcode::GETATTR => Request::GetAttr,
        opcode::SETATTR => set_attr(op_in),
        opcode::READLINK => Request::ReadLink,
        opcode::SYMLINK => Request::Symlink { name: names.next()?, target: names.next()? },
        opcode::MKNOD => {
            let new = NewMode { mode: word(0), umask: word(8) };
            Request::MkNod { name: names.next()?, new, rdev: word(4) }
        }
        opcode::MKDIR => {
            let new = NewMode { mode: word(0), umask: word(4) };
            Request::MkDir { name: names.next()?, new }
        }
        opcode::UNLINK => Request::Unlink { name: names.next()? },
        opcode::RMDIR => Request::RmDir { name: names.next()? },
        opcode::RENAME | opcode::RENAME2 => {
            let flags = if opcode == opcode::RENAME2 { word(8) } else { 0 };
            let (name, new_name) = (names.next()?, names.next()?);
            Request::Rename { name, new_parent: NodeId(long(0)), new_name, flags }
        }
        opcode::LINK => Request::Link { node: NodeId(long(0)), name: names.next()? },
        opcode::OPEN => Request::Open { flags: signed(0) },
        opcode::CREATE => {
            let new = NewMode { mode: word(4), umask: word(8) };
            Request::Create { name: names.next()?, new, flags: signed(0) }
        }
        opcode::READ => Request::Read { file: file(0), offset: long(8), bytes: word(16) },
        opcode::WRITE => {
            let data = payload.get(..word(16) as usize).ok_or(Errno::INVAL)?;
            let keep_suid = word(20) & WRITE_KILL_SUIDGID == 0;
            let (file, offset, flags) = (file(0), long(8), signed(32));
            Request::Write(Write { file, offset, data, keep_suid, flags })
        }
        opcode::STATFS => Request::StatFs,
        opcode::FLUSH => Request::Flush { file: file(0) },
        opcode::RELEASE => Request::Release { file: file(0) },
        opcode::FSYNC => {
            let is_data = word(8) & FSYNC_FDATASYNC != 0;
            let kind = if is_data { SyncKind::Data } else { SyncKind::Full };
            Request::Fsync { file: file(0), kind }
        }
        opcode::SETXATTR => {
            let name = names.next()?;
            let value = names.0.get(..word(0) as usize).ok_or(Errno::INVAL)?;
            Request::SetXattr { name, value, flags: word(4) }
        }
        opcode::GETXATTR => Request::GetXattr { name: names.next()?, bytes: word(0) },
        opcode::LISTXATTR => Request::ListXattr { bytes: word(0) },
        opcode::REMOVEXATTR => Request::RemoveXattr { name: names.next()? },
        opcode::OPENDIR => Request::OpenDir,
        opcode::READDIR => Request::ReadDir { dir: dir(), offset: long(8), bytes: word(16) },
        opcode::READDIRPLUS => {
            Request::ReadDirPlus { dir: dir(), offset: long(8), bytes: word(16) }
        }
        opcode::RELEASEDIR => Request::ReleaseDir { dir: dir() },
        opcode::FSYNCDIR => Request::FsyncDir { dir: dir() },
        opcode::ACCESS => Request::Access,
        opcode::FALLOCATE => {
            let (offset, bytes, mode) = (long(8), long(16), word(24));
            Request::Fallocate { file: file(0), offset, bytes, mode }
        }
        opcode::LSEEK => Request::Lseek { file: file(0), offset: long(8), whence: signed(16) },
        opcode::COPY_FILE_RANGE => {
            let (source, target) = ((file(0), long(8)), (file(24), long(32)));
            Request::CopyFileRange { source, target, bytes: long(40) }
        }
        _ => return Err(Errno::NOSYS),
    })
}

/// `struct fuse_setattr_in`.
fn set_attr(op_in: &[u8]) -> Request<'static> {
    let (word, long) = (|at| u32_at(op_in, at), |at| u64_at(op_in, at));
    let given = |bit| word(0) & bit != 0;
    let time = |bit, now, secs, nanos| {
        given(bit).then(|| match given(now) {
            true => SetTime::Now,
            false => SetTime::At(Time { secs: long(secs).cast_signed(), nanos: word(nanos) }),
        })
    };
    let change = SetAttr {
        perm: given(fattr::MODE).then(|| word(68) & 0o7777),
        uid: given(fattr::UID).then(|| word(76)),
        gid: given(fattr::GID).then(|| word(80)),
        size: given(fattr::SIZE).then(|| long(16)),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, 32, 56),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, 40, 60),
    };
    Request::SetAttr { file: given(fattr::FH).then(|| FileId(long(8))), change }
}

/// Names one after another, and what follows them.
struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    fn next(&mut self) -> Result<&'a OsStr> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(OsStr::from_bytes(name))
    }
}

impl Request<'_> {
    /// Its kind, for the counters.
    pub(super) fn op(&self) -> Op {
        match self {
            Self::Lookup { .. } => Op::Lookup,
            Self::GetAttr => Op::GetAttr,
            Self::SetAttr { .. } => Op::SetAttr,
            Self::ReadLink => Op::ReadLink,
            Self::Symlink { .. } => Op::Symlink,
            Self::MkNod { .. } => Op::MkNod,
            Self::MkDir { .. } => Op::MkDir,
            Self::Unlink { .. } => Op::Unlink,
            Self::RmDir { .. } => Op::RmDir,
            Self::Rename { .. } => Op::Rename,
            Self::Link { .. } => Op::Link,
            Self::Open { .. } => Op::Open,
            Self::Create { .. } => Op::Create,
            Self::Read { .. } => Op::Read,
            Self::Write(_) => Op::Write,
            Self::StatFs => Op::StatFs,
            Self::Flush { .. } => Op::Flush,
            Self::Release { .. } => Op::Release,
            Self::Fsync { .. } => Op::Fsync,
            Self::SetXattr { .. } => Op::SetXattr,
            Self::GetXattr { .. } => Op::GetXattr,
            Self::ListXattr { .. } => Op::ListXattr,
            Self::RemoveXattr { .. } => Op::RemoveXattr,
            Self::OpenDir => Op::OpenDir,
            Self::ReadDir { .. } => Op::ReadDir,
            Self::ReadDirPlus { .. } => Op::ReadDirPlus,
            Self::ReleaseDir { .. } => Op::ReleaseDir,
            Self::FsyncDir { .. } => Op::FsyncDir,
            Self::Access => Op::Access,
            Self::Fallocate { .. } => Op::Fallocate,
            Self::Lseek { .. } => Op::Lseek,
            Self::CopyFileRange { .. } => Op::CopyFileRange,
        }
    }

    /// What it did to the object that its header names, for what is promised of that.
    pub(super) fn deed(&self, node: NodeId) -> Option<Deed<'_>> {
        Some(match *self {
            Self::SetAttr { file, ref change } => attributes_set(node, file, change),
            Self::SetXattr { .. } | Self::RemoveXattr { .. } => Deed::Attributes(node),
            Self::Symlink { name, .. }
            | Self::MkNod { name, .. }
            | Self::MkDir { name, .. }
            | Self::Unlink { name }
            | Self::RmDir { name }
            | Self::Link { name, .. } => Deed::Name(node, name),
            Self::Rename { name, new_parent, new_name, .. } => {
                Deed::Moved((node, name), (new_parent, new_name))
            }
            Self::Flush { file } => Deed::Closed(file),
            Self::Fallocate { file, .. } => Deed::Content(file),
            Self::CopyFileRange { target, .. } => Deed::Content(target.0),
            _ => return None,
        })
    }

    /// Whether it may wait for the disk, or take long, and so must not be carried out by
    /// the thread that all requests of a processor go through. Syncs are not among these:
    /// they are parked.
    pub(super) fn may_wait(&self) -> bool {
        match self {
            Self::Read { .. }
            | Self::Write(_)
            | Self::Fallocate { .. }
            | Self::CopyFileRange { .. }
            | Self::ReadDir { .. }
            | Self::ReadDirPlus { .. } => true,
            Self::SetAttr { change, .. } => change.size.is_some(),
            request => request.cuts(),
        }
    }

    /// Whether it cuts a file to nothing, without making one.
    pub(super) fn cuts(&self) -> bool {
        match self {
            Self::SetAttr { change, .. } => change.size == Some(0),
            Self::Open { flags } => flags & libc::O_TRUNC != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
