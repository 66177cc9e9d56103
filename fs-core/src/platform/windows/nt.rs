//! The system calls, made safe: handles that close themselves, buffers that are large enough.
//!
//! The native calls are used, not Win32's: they open relative to a directory's handle and by file
//! id, so that no path is built and no name is looked up twice; and their errors are NTSTATUS, which
//! programs on the mount are to get.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Foundation::{
    HANDLE, NTSTATUS, OBJ_CASE_INSENSITIVE, STATUS_BUFFER_OVERFLOW, STATUS_END_OF_FILE,
    UNICODE_STRING,
};
use windows_sys::Win32::Security::PSECURITY_DESCRIPTOR;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, SYNCHRONIZE,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

use super::native::of_status;
use crate::error::{Errno, Result};

/// Everybody may do everything with the file meanwhile: who may share it with whom is decided
/// between programs, on the mount, and not by our own handles.
const SHARE_ALL: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// Longest name in UTF-16 units, on all filesystems of Windows.
pub(super) const NAME_UNITS_MAX: usize = 255;

/// The result of a call; warnings (`STATUS_BUFFER_OVERFLOW`) are errors.
pub(super) fn check(status: NTSTATUS) -> Result<()> {
    if status >= 0 { Ok(()) } else { Err(of_status(status)) }
}

/// Runs a call that fills an IO_STATUS_BLOCK; what it says of how much was done.
fn with_io(call: impl FnOnce(*mut IO_STATUS_BLOCK) -> NTSTATUS) -> Result<usize> {
    let mut io = IO_STATUS_BLOCK::default();
    check(call(&raw mut io))?;
    Ok(io.Information)
}

fn raw(handle: &OwnedHandle) -> HANDLE {
    handle.as_raw_handle()
}

/// What is to be opened, relative to a handle.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    /// A name in the directory.
    Name(&'a OsStr),
    /// The object that the handle is of.
    Itself,
    /// Any object of the volume that the handle is on.
    Id(&'a [u8; 16]),
}

/// How it is to be opened.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    pub(super) access: u32,
    pub(super) disposition: u32,
    pub(super) options: u32,
    pub(super) attributes: u32,
}

impl Opening {
    /// An object that is there, with these rights; a reparse point is opened itself.
    pub(super) const fn existing(access: u32) -> Self {
        Self { access, disposition: wdk::FILE_OPEN, options: 0, attributes: FILE_ATTRIBUTE_NORMAL }
    }
}

/// A name as Windows has it.
///
/// # Errors
/// It is too long, or no name: the calls would take `a\b` as a path, and `a:b` as a stream.
fn units(name: &OsStr) -> Result<Vec<u16>> {
    let Some(text) = name.to_str() else { return Err(Errno::INVAL) };
    if text.is_empty() || text.contains(['\\', '/', ':', '\0']) {
        return Err(Errno::INVAL);
    }
    let units: Vec<u16> = name.encode_wide().collect();
    if units.len() > NAME_UNITS_MAX { Err(Errno::NAMETOOLONG) } else { Ok(units) }
}

/// What opening did, if it made the object (ntifs.h).
pub(super) const FILE_CREATED: usize = 2;

/// Opens something; the handle, and what was done ([`FILE_CREATED`] or something else).
pub(super) fn open(
    at: &OwnedHandle,
    which: Which<'_>,
    opening: Opening,
) -> Result<(OwnedHandle, usize)> {
    open_sharing(at, which, opening, SHARE_ALL)
}

/// As [`open`], if nobody else has it open, and nobody else can then.
pub(super) fn open_alone(
    at: &OwnedHandle,
    which: Which<'_>,
    opening: Opening,
) -> Result<(OwnedHandle, usize)> {
    open_sharing(at, which, opening, 0)
}

fn open_sharing(
    at: &OwnedHandle,
    which: Which<'_>,
    opening: Opening,
    sharing: u32,
) -> Result<(OwnedHandle, usize)> {
    let (mut name, by_id): (Vec<u16>, bool) = match which {
        Which::Name(name) => (units(name)?, false),
        Which::Itself => (Vec::new(), false),
        Which::Id(id) => {
            // NTFS's ids have 64 bits, and it takes 16 bytes for an object id.
            let length = if id[8..].iter().all(|&byte| byte == 0) { 8 } else { 16 };
            let pair = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
            (id[..length].chunks(2).map(pair).collect(), true)
        }
    };
    let bytes = (2 * name.len()) as u16;
    let name = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: name.as_mut_ptr() };
    let object = OBJECT_ATTRIBUTES {
        Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
        RootDirectory: raw(at),
        ObjectName: &raw const name,
        Attributes: OBJ_CASE_INSENSITIVE,
        ..OBJECT_ATTRIBUTES::default()
    };
    let by_id = if by_id { wdk::FILE_OPEN_BY_FILE_ID } else { 0 };
    let options = opening.options
        | by_id
        | wdk::FILE_OPEN_REPARSE_POINT
        | wdk::FILE_SYNCHRONOUS_IO_NONALERT
        | wdk::FILE_OPEN_FOR_BACKUP_INTENT;
    let mut handle: HANDLE = std::ptr::null_mut();
    // SAFETY: all pointers are to live values of the right types; the name's buffer outlives
    // the call; `at` is an open handle.
    let done = with_io(|io| unsafe {
        wdk::NtCreateFile(
            &raw mut handle,
            opening.access | SYNCHRONIZE,
            &raw const object,
            io,
            std::ptr::null(),
            opening.attributes,
            sharing,
            opening.disposition,
            options,
            std::ptr::null(),
            0,
        )
    })?;
    // SAFETY: the call has made a new handle, which nobody else owns.
    Ok((unsafe { OwnedHandle::from_raw_handle(handle) }, done))
}

/// A structure that the system fills: plain numbers, any bits are a value.
pub(super) trait Plain: Copy {}
impl Plain for wdk::FILE_BASIC_INFORMATION {}
impl Plain for wdk::FILE_STANDARD_INFORMATION {}
impl Plain for wdk::FILE_ID_INFORMATION {}
impl Plain for windows_sys::Win32::Storage::FileSystem::FILE_ATTRIBUTE_TAG_INFO {}

/// One of the fixed structures about a file.
pub(super) fn query<T: Plain>(file: &OwnedHandle, class: i32) -> Result<T> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the buffer is writable and as long as is said.
    with_io(|io| unsafe {
        wdk::NtQueryInformationFile(
            raw(file),
            io,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            class,
        )
    })?;
    // SAFETY: zeroed, then filled; every bit pattern is a `T` (`Plain`).
    Ok(unsafe { value.assume_init() })
}

/// Sets something about a file from bytes laid out as the class wants them.
pub(super) fn set(file: &OwnedHandle, class: i32, bytes: &[u8]) -> Result<()> {
    // The structures have 64-bit members.
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    for (word, piece) in aligned.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..piece.len()].copy_from_slice(piece);
        *word = u64::from_ne_bytes(whole);
    }
    // SAFETY: the buffer is aligned, readable and as long as is said.
    with_io(|io| unsafe {
        wdk::NtSetInformationFile(raw(file), io, aligned.as_ptr().cast(), bytes.len() as u32, class)
    })
    .map(drop)
}

/// Attributes and times; 0 leaves a value alone.
pub(super) fn set_basic(file: &OwnedHandle, basic: &wdk::FILE_BASIC_INFORMATION) -> Result<()> {
    let mut bytes = Vec::with_capacity(40);
    for time in [basic.CreationTime, basic.LastAccessTime, basic.LastWriteTime, basic.ChangeTime] {
        bytes.extend(time.to_ne_bytes());
    }
    bytes.extend(basic.FileAttributes.to_ne_bytes());
    bytes.extend([0; 4]);
    set(file, wdk::FileBasicInformation, &bytes)
}

/// Gives a file a name in a directory: by renaming, or as one more.
pub(super) fn set_name(
    file: &OwnedHandle,
    class: i32,
    flags: u32,
    dir: &OwnedHandle,
    name: &OsStr,
) -> Result<()> {
    let name = units(name)?;
    let mut bytes = Vec::with_capacity(24 + 2 * name.len());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(raw(dir).addr().to_ne_bytes());
    bytes.extend(((2 * name.len()) as u32).to_ne_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_ne_bytes()));
    // The structure ends in an array of one unit, and is never shorter.
    bytes.resize(bytes.len().max(24), 0);
    // `to_ne_bytes` of an address loses what it points to, which is a handle: a number.
    set(file, class, &bytes)
}

/// Longest piece that is read or written by one call.
const PIECE_BYTES: usize = 1 << 30;

/// Reads until the buffer is full or the file ends.
pub(super) fn read(file: &OwnedHandle, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let piece = &mut buffer[done..];
        let bytes = piece.len().min(PIECE_BYTES) as u32;
        let at = (offset + done as u64).cast_signed();
        // SAFETY: the buffer is writable and as long as is said; the handle is synchronous, so
        // the call returns when it is done with it.
        let read = with_io(|io| unsafe {
            wdk::NtReadFile(
                raw(file),
                std::ptr::null_mut(),
                None,
                std::ptr::null(),
                io,
                piece.as_mut_ptr().cast(),
                bytes,
                &raw const at,
                std::ptr::null(),
            )
        });
        match read {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error == of_status(STATUS_END_OF_FILE) => break,
            // What was read before the error is good; the error comes again.
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `data`, or as much as fits before an error.
pub(super) fn write(file: &OwnedHandle, data: &[u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < data.len() {
        let piece = &data[done..];
        let bytes = piece.len().min(PIECE_BYTES) as u32;
        let at = (offset + done as u64).cast_signed();
        // SAFETY: the buffer is readable and as long as is said; the handle is synchronous.
        let written = with_io(|io| unsafe {
            wdk::NtWriteFile(
                raw(file),
                std::ptr::null_mut(),
                None,
                std::ptr::null(),
                io,
                piece.as_ptr().cast(),
                bytes,
                &raw const at,
                std::ptr::null(),
            )
        });
        match written {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// FlushFileBuffers: the file's data and metadata, and the device's cache.
pub(super) fn flush(file: &OwnedHandle) -> Result<()> {
    // SAFETY: an open handle, and a status block that outlives the call.
    with_io(|io| unsafe { wdk::NtFlushBuffersFile(raw(file), io) }).map(drop)
}

/// Entries of a directory, as many as one call gives; empty at the end.
pub(super) fn read_dir(dir: &OwnedHandle, buffer: &mut [u64], restart: bool) -> Result<bool> {
    let bytes = size_of_val(buffer) as u32;
    buffer.fill(0);
    // SAFETY: the buffer is writable, aligned, and as long as is said.
    let read = with_io(|io| unsafe {
        wdk::NtQueryDirectoryFile(
            raw(dir),
            std::ptr::null_mut(),
            None,
            std::ptr::null(),
            io,
            buffer.as_mut_ptr().cast(),
            bytes,
            wdk::FileIdBothDirectoryInformation,
            false,
            std::ptr::null(),
            restart,
        )
    });
    match read {
        Ok(_) => Ok(true),
        Err(error) if error.raw() == windows_sys::Win32::Foundation::STATUS_NO_MORE_FILES => {
            Ok(false)
        }
        // An empty root of a volume has not even dots.
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A control code of a filesystem; how many bytes it gave.
pub(super) fn control(
    file: &OwnedHandle,
    code: u32,
    input: &[u8],
    output: &mut [u64],
) -> Result<usize> {
    let bytes = size_of_val(output) as u32;
    // SAFETY: both buffers are as long as is said, and outlive the synchronous call.
    with_io(|io| unsafe {
        wdk::NtFsControlFile(
            raw(file),
            std::ptr::null_mut(),
            None,
            std::ptr::null(),
            io,
            code,
            input.as_ptr().cast(),
            input.len() as u32,
            output.as_mut_ptr().cast(),
            bytes,
        )
    })
}

/// A structure about the volume, as bytes; what is longer is cut.
pub(super) fn volume(file: &OwnedHandle, class: i32) -> Result<Vec<u8>> {
    let mut buffer = [0_u64; 128];
    let mut io = IO_STATUS_BLOCK::default();
    // SAFETY: the buffer is writable, aligned, and as long as is said.
    let status = unsafe {
        wdk::NtQueryVolumeInformationFile(
            raw(file),
            &raw mut io,
            buffer.as_mut_ptr().cast(),
            size_of_val(&buffer) as u32,
            class,
        )
    };
    if status != STATUS_BUFFER_OVERFLOW {
        check(status)?;
    }
    Ok(bytes_of(&buffer).to_vec())
}

/// The bytes of numbers.
pub(super) fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: initialised memory is bytes, and these cover the same memory.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The extended attributes, as `FILE_FULL_EA_INFORMATION` one after another.
pub(super) fn query_ea(file: &OwnedHandle) -> Result<Vec<u8>> {
    // All of a file's attributes have 64 KiB at most.
    let mut buffer = vec![0_u64; 8192 + 8];
    // SAFETY: the buffer is writable, aligned, and as long as is said.
    with_io(|io| unsafe {
        wdk::NtQueryEaFile(
            raw(file),
            io,
            buffer.as_mut_ptr().cast(),
            size_of_val(&*buffer) as u32,
            false,
            std::ptr::null(),
            0,
            std::ptr::null(),
            true,
        )
    })?;
    Ok(bytes_of(&buffer).to_vec())
}

/// Sets extended attributes; an empty value removes one.
pub(super) fn set_ea(file: &OwnedHandle, list: &[u64]) -> Result<()> {
    // SAFETY: the buffer is aligned, readable, and as long as is said.
    with_io(|io| unsafe {
        wdk::NtSetEaFile(raw(file), io, list.as_ptr().cast(), size_of_val(list) as u32)
    })
    .map(drop)
}

/// The parts of a security descriptor that `which` names, self-relative.
pub(super) fn security(file: &OwnedHandle, which: u32) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u64; 64];
    loop {
        let (room, mut needed) = (size_of_val(&*buffer) as u32, 0);
        // SAFETY: the buffer is writable, aligned, and as long as is said.
        let status = unsafe {
            wdk::NtQuerySecurityObject(
                raw(file),
                which,
                buffer.as_mut_ptr().cast::<core::ffi::c_void>() as PSECURITY_DESCRIPTOR,
                room,
                &raw mut needed,
            )
        };
        if status >= 0 || needed <= room {
            check(status)?;
            let used = (needed as usize).min(room as usize);
            return Ok(bytes_of(&buffer)[..used].to_vec());
        }
        buffer = vec![0; (needed as usize).div_ceil(8)];
    }
}

/// Sets the parts of a security descriptor that `which` names.
///
/// # Errors
/// `EINVAL` if the bytes are no self-relative descriptor.
pub(super) fn set_security(file: &OwnedHandle, which: u32, descriptor: &[u8]) -> Result<()> {
    use windows_sys::Win32::Security::{GetSecurityDescriptorLength, IsValidSecurityDescriptor};
    /// Revision, control and four offsets: `SECURITY_DESCRIPTOR_RELATIVE`.
    const HEADER_BYTES: usize = 20;
    /// `SE_SELF_RELATIVE` in the control word: no pointers in it.
    const SELF_RELATIVE: u8 = 0x80;
    if descriptor.len() < HEADER_BYTES || descriptor[3] & SELF_RELATIVE == 0 {
        return Err(Errno::INVAL);
    }
    // Its offsets must not lead out of what was given: the calls do not know its length.
    let inside = |at: usize| {
        let offset = u32::from_le_bytes(descriptor[at..at + 4].try_into().expect("four bytes"));
        offset == 0 || (offset as usize) + 8 <= descriptor.len()
    };
    if ![4, 8, 12, 16].into_iter().all(inside) {
        return Err(Errno::INVAL);
    }
    // Whatever a length within it says ends in these zeros and not in foreign memory: SIDs have
    // 68 bytes at most, ACLs 64 KiB.
    let mut aligned = vec![0_u64; (descriptor.len() + (64 << 10) + 72).div_ceil(8)];
    for (word, piece) in aligned.iter_mut().zip(descriptor.chunks(8)) {
        let mut whole = [0; 8];
        whole[..piece.len()].copy_from_slice(piece);
        *word = u64::from_ne_bytes(whole);
    }
    let pointer = aligned.as_ptr().cast_mut().cast::<core::ffi::c_void>();
    // SAFETY: self-relative, its parts begin inside, and none can be longer than what follows.
    let valid = unsafe {
        IsValidSecurityDescriptor(pointer) != 0
            && GetSecurityDescriptorLength(pointer) as usize <= descriptor.len()
    };
    if !valid {
        return Err(Errno::INVAL);
    }
    // SAFETY: as above, and it was found valid.
    check(unsafe { wdk::NtSetSecurityObject(raw(file), which, pointer) })
}

/// The owner's and the group's SID in a self-relative security descriptor, as bytes.
pub(super) fn owner_and_group(descriptor: &[u8]) -> Result<[&[u8]; 2]> {
    let sid = |at: usize| {
        let offset = descriptor.get(at..at + 4)?;
        let offset = u32::from_le_bytes(offset.try_into().ok()?) as usize;
        if offset == 0 {
            return Some(&[][..]);
        }
        let count = usize::from(*descriptor.get(offset + 1)?);
        descriptor.get(offset..offset + 8 + 4 * count)
    };
    Ok([sid(4).ok_or(Errno::INVAL)?, sid(8).ok_or(Errno::INVAL)?])
}
