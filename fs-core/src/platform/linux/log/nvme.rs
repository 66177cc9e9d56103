//! A log on an NVMe namespace, by commands of our own: the generic character
//! device (`/dev/ngXnY`, Linux 5.19) takes them through io_uring, past the block
//! layer.
//!
//! Asked for by naming that device. What it saves is the block layer's way of a
//! flush; what it costs is care, which is all here:
//! - The result of a command is its NVMe status: zero, or a *positive* number for
//!   an error that the device reported. Negative numbers are the kernel's.
//! - Nobody splits a transfer for us: larger ones go in pieces.
//! - The device has no order between commands: a flush covers writes that have
//!   *completed* before it is submitted, so io_uring holds it back until then.
//! - A command is never tried again. What a flush that failed had to make durable
//!   may be lost already, and the next flush would not say so.
//! - The character device can be opened by anybody any time; we claim its block
//!   device meanwhile, as for a log there.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use io_uring::squeue::Flags;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fs::{FileType, Mode, OFlags};

use super::path::LogPathError;
use crate::error::{Errno, Result};
use crate::platform::LOG_BLOCK_BYTES;

/// Commands in flight at once; more go in rounds.
const RING_ENTRIES: u32 = 64;

/// Most bytes of one command, if the device does not ask for less: so few that
/// the list of their pages fits any queue, and that a large write keeps several
/// commands under way.
const PIECE_BYTES_MAX: u64 = 128 << 10;

/// `struct nvme_uring_cmd` and `struct nvme_passthru_cmd` of the kernel's
/// `nvme_ioctl.h`: the same, but for the name of the last field.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    /// Words 10 to 15.
    words: [u32; 6],
    /// 0: the kernel's (30 s).
    timeout_ms: u32,
    result: u32,
}

impl Command {
    const FLUSH: u8 = 0x00;
    const WRITE: u8 = 0x01;
    const READ: u8 = 0x02;
    const IDENTIFY: u8 = 0x06;

    /// As io_uring wants it in its submission entry.
    fn to_bytes(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&[self.opcode, self.flags]);
        put(&self.reserved.to_ne_bytes());
        put(&self.namespace.to_ne_bytes());
        self.words_2_3.iter().for_each(|word| put(&word.to_ne_bytes()));
        put(&self.metadata.to_ne_bytes());
        put(&self.address.to_ne_bytes());
        put(&self.metadata_bytes.to_ne_bytes());
        put(&self.data_bytes.to_ne_bytes());
        self.words.iter().for_each(|word| put(&word.to_ne_bytes()));
        put(&self.timeout_ms.to_ne_bytes());
        put(&self.result.to_ne_bytes());
        bytes
    }
}

/// `NVME_URING_CMD_IO`.
const URING_CMD_IO: u32 = rustix::ioctl::opcode::read_write::<Command>(b'N', 0x80);
/// `NVME_IOCTL_ADMIN_CMD`.
const IOCTL_ADMIN: u32 = rustix::ioctl::opcode::read_write::<Command>(b'N', 0x41);
/// `NVME_IOCTL_ID`.
const IOCTL_ID: u32 = rustix::ioctl::opcode::none(b'N', 0x40);

/// A namespace, open for us alone.
pub(super) struct Namespace {
    device: OwnedFd,
    /// Nobody mounts or formats the namespace while this is open.
    _claim: OwnedFd,
    ring: Mutex<Ring>,
    number: u32,
    /// Of one logical block, as a power of two.
    block_shift: u8,
    bytes: u64,
    piece_bytes: u64,
}

type Ring = IoUring<squeue::Entry128, cqueue::Entry32>;

impl Namespace {
    /// Opens the namespace behind a generic character device.
    pub(super) fn open(path: &Path) -> std::result::Result<Self, LogPathError> {
        let failed = |source: Errno| LogPathError::of(path, source);
        let unfit = |reason: &'static str| LogPathError::Unfit { path: path.to_owned(), reason };
        let name = block_name(path)?;
        let claim = claim(path, &name)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let ring = make_ring().map_err(|error| {
            tracing::debug!(%error, "no io_uring for NVMe commands");
            unfit("the kernel takes no NVMe commands through io_uring: name the block device")
        })?;

        let number = namespace_number(device.as_fd()).map_err(failed)?;
        let about = identify(device.as_fd(), number, 0).map_err(failed)?;
        let controller = identify(device.as_fd(), 0, 1).map_err(failed)?;
        let format = Format::of(&about);
        if format.metadata_bytes != 0 {
            return Err(unfit("its blocks have metadata: format the namespace without"));
        }
        if !(9..=LOG_BLOCK_BYTES.trailing_zeros() as u8).contains(&format.block_shift) {
            return Err(unfit("its blocks are larger than 4096 bytes: format the namespace anew"));
        }
        let blocks = u64_at(&about, 0);
        let bytes = blocks.checked_mul(1 << format.block_shift).ok_or_else(|| failed(Errno::IO))?;
        let piece_bytes = piece_bytes(&controller, &name);
        if piece_bytes == 0 {
            return Err(unfit("it takes less than 4096 bytes at a time"));
        }
        Ok(Self {
            device,
            _claim: claim,
            ring: Mutex::new(ring),
            number,
            block_shift: format.block_shift,
            bytes,
            piece_bytes,
        })
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let address = buffer.as_mut_ptr() as u64;
        let commands = self.transfer(Command::READ, address, buffer.len() as u64, offset);
        // SAFETY: the commands fill `buffer`, which is ours until they are done.
        unsafe { self.run(commands, None) }
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let address = data.as_ptr() as u64;
        let commands = self.transfer(Command::WRITE, address, data.len() as u64, offset);
        // SAFETY: the commands read `data`, which is borrowed until they are done.
        unsafe { self.run(commands, None) }
    }

    pub(super) fn flush(&self) -> Result<()> {
        // SAFETY: a flush has no memory.
        unsafe { self.run([].into_iter(), Some(self.flush_command())) }
    }

    /// Write and flush with one system call, if the write fits one round.
    pub(super) fn write_and_flush(&self, data: &[u8], offset: u64) -> Result<()> {
        let address = data.as_ptr() as u64;
        let commands = self.transfer(Command::WRITE, address, data.len() as u64, offset);
        // SAFETY: the commands read `data`, which is borrowed until they are done.
        unsafe { self.run(commands, Some(self.flush_command())) }
    }

    /// The commands that move `bytes` (whole blocks) from or to memory.
    fn transfer(
        &self,
        opcode: u8,
        address: u64,
        bytes: u64,
        offset: u64,
    ) -> impl Iterator<Item = Command> {
        (0..bytes).step_by(self.piece_bytes as usize).map(move |done| {
            let piece = self.piece_bytes.min(bytes - done);
            let block = (offset + done) >> self.block_shift;
            // The number of blocks counts from zero; no other bit of word 12 is set,
            // force unit access (bit 30) least of all.
            let last = ((piece >> self.block_shift) - 1) as u32;
            Command {
                opcode,
                namespace: self.number,
                address: address + done,
                data_bytes: piece as u32,
                words: [block as u32, (block >> 32) as u32, last, 0, 0, 0],
                ..Command::default()
            }
        })
    }

    fn flush_command(&self) -> Command {
        Command { opcode: Command::FLUSH, namespace: self.number, ..Command::default() }
    }

    /// Carries out commands in any order, then one more. All have ended when it
    /// returns; the first error is told, and nothing is begun after a round with one.
    ///
    /// # Safety
    /// The memory that the commands name must be valid, and not otherwise used,
    /// until this function returns.
    unsafe fn run(
        &self,
        commands: impl Iterator<Item = Command>,
        mut last: Option<Command>,
    ) -> Result<()> {
        let ring = &mut *self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut commands = commands.peekable();
        loop {
            // SAFETY: our caller keeps the memory until `collect` has seen the end of
            // every command.
            let mut push = |command: Command, flags: Flags| unsafe {
                self.push(ring, command, flags);
            };
            let mut count = 0;
            // One entry is left for the last command.
            for command in commands.by_ref().take(RING_ENTRIES as usize - 1) {
                push(command, Flags::empty());
                count += 1;
            }
            let is_last_round = commands.peek().is_none();
            if is_last_round && let Some(command) = last.take() {
                // Not before all others of the round have ended.
                push(command, if count > 0 { Flags::IO_DRAIN } else { Flags::empty() });
                count += 1;
            }
            if count > 0 {
                collect(ring, count)?;
            }
            if is_last_round {
                return Ok(());
            }
        }
    }

    /// Puts a command into the ring.
    ///
    /// # Safety
    /// The memory that the command names must be valid, and not otherwise used,
    /// until its completion was seen.
    unsafe fn push(&self, ring: &mut Ring, command: Command, flags: Flags) {
        let device = types::Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd80::new(device, URING_CMD_IO).cmd(command.to_bytes());
        // SAFETY: the caller's, for the memory; the descriptor lives as long as `self`.
        let pushed = unsafe { ring.submission().push(&entry.build().flags(flags)) };
        pushed.expect("a round has no more commands than the ring has entries");
    }
}

/// Submits what was pushed and waits for the end of all of it: the device reads
/// and writes memory until then.
fn collect(ring: &mut Ring, count: u32) -> Result<()> {
    let mut missing = count;
    let mut outcome = Ok(());
    while missing > 0 {
        if let Err(error) = ring.submit_and_wait(missing as usize) {
            match error.raw_os_error() {
                // Interrupted, or short of memory for the moment.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                // The ring is ours and valid: nothing else leaves commands under way.
                // If it did, memory that they still use would be given away by
                // returning and by unwinding alike.
                _ => {
                    tracing::error!(%error, "io_uring_enter failed with NVMe commands under way");
                    std::process::abort();
                }
            }
        }
        for completion in ring.completion() {
            missing -= 1;
            outcome = outcome.and(status(completion.result()));
        }
    }
    outcome
}

/// The outcome of one command: zero, the kernel's error, or the device's.
fn status(result: i32) -> Result<()> {
    match result {
        0 => Ok(()),
        // A reset of the controller ended the command (`NVME_REQ_CANCELLED`), not a
        // signal: nobody may take it for harmless.
        result if result == -libc::EINTR => Err(Errno::IO),
        result if result < 0 => Err(Errno::from_raw(-result)),
        status => {
            tracing::error!(
                status = format_args!("{status:#x}"),
                "the NVMe device reports an error"
            );
            Err(Errno::IO)
        }
    }
}

fn make_ring() -> std::io::Result<Ring> {
    let ring = Ring::builder().build(RING_ENTRIES)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match probe.is_supported(opcode::UringCmd80::CODE) {
        true => Ok(ring),
        false => Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
    }
}

/// Whether a path is a generic NVMe device: `/dev/ngXnY`.
pub(super) fn is_generic(path: &Path) -> bool {
    block_name(path).is_ok()
}

/// The block device of the same namespace.
pub(super) fn block_path(path: &Path) -> std::result::Result<PathBuf, LogPathError> {
    Ok(Path::new("/dev").join(block_name(path)?))
}

/// Kernel's name of that block device.
fn block_name(path: &Path) -> std::result::Result<String, LogPathError> {
    let wrong = || LogPathError::WrongKind(path.to_owned());
    let stat = rustix::fs::stat(path).map_err(|e| LogPathError::of(path, e.into()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_char_device() {
        return Err(wrong());
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let link = std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}"));
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    let digits = name.as_deref().and_then(|name| name.strip_prefix("ng")).ok_or_else(wrong)?;
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    Ok(format!("nvme{digits}"))
}

/// Claims the block device of a namespace.
fn claim(path: &Path, name: &str) -> std::result::Result<OwnedFd, LogPathError> {
    let block = Path::new("/dev").join(name);
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |source: rustix::io::Errno| match source {
        rustix::io::Errno::NOENT => LogPathError::Unfit {
            path: path.to_owned(),
            reason: "there is no block device beside it that could be claimed",
        },
        other => LogPathError::of(path, other.into()),
    };
    let claim = rustix::fs::open(&block, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&claim).map_err(failed)?;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    // What stands in /dev under the name must be what the kernel means by it.
    let number = std::fs::read_to_string(format!("/sys/class/block/{name}/dev"));
    if number.is_ok_and(|number| number.trim() == format!("{major}:{minor}")) {
        Ok(claim)
    } else {
        Err(LogPathError::WrongKind(block))
    }
}

/// One `ioctl(2)` whose return value matters: an NVMe status, or a number.
struct Call<'a, const OPCODE: u32> {
    command: Option<&'a mut Command>,
}

// SAFETY: both opcodes for which this is used take a pointer to a `Command`, or no
// argument (`IOCTL_ID`, for which it is null); neither keeps it.
unsafe impl<const OPCODE: u32> rustix::ioctl::Ioctl for Call<'_, OPCODE> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        let command = self.command.as_deref_mut();
        command.map_or(std::ptr::null_mut(), |command| std::ptr::from_mut(command).cast())
    }

    unsafe fn output_from_ptr(
        output: rustix::ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

fn namespace_number(device: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: the call has no argument.
    let number = unsafe { rustix::ioctl::ioctl(device, Call::<IOCTL_ID> { command: None }) }?;
    u32::try_from(number).map_err(|_| Errno::IO)
}

/// What the device says of a namespace (`what` 0) or of its controller (1).
fn identify(device: BorrowedFd<'_>, namespace: u32, what: u32) -> Result<Vec<u8>> {
    const IDENTIFY_BYTES: usize = 4096;
    let mut answer = vec![0_u8; IDENTIFY_BYTES];
    let mut command = Command {
        opcode: Command::IDENTIFY,
        namespace,
        address: answer.as_mut_ptr() as u64,
        data_bytes: IDENTIFY_BYTES as u32,
        words: [what, 0, 0, 0, 0, 0],
        ..Command::default()
    };
    let call = Call::<IOCTL_ADMIN> { command: Some(&mut command) };
    // SAFETY: the kernel copies as many bytes to `answer` as the command says it
    // has, and has done so when the call returns.
    status(unsafe { rustix::ioctl::ioctl(device, call) }?)?;
    Ok(answer)
}

/// How a namespace's blocks are formatted.
struct Format {
    block_shift: u8,
    metadata_bytes: u16,
}

impl Format {
    /// From "Identify Namespace": FLBAS says which of the formats from byte 128 on.
    fn of(about: &[u8]) -> Self {
        let flbas = about[26];
        let index = usize::from((flbas & 0x0f) | ((flbas >> 1) & 0x30));
        let at = 128 + 4 * index;
        let metadata_bytes = u16::from_le_bytes([about[at], about[at + 1]]);
        Self { block_shift: about[at + 2], metadata_bytes }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// Bytes of one command: what the controller takes (MDTS, in pages of 4 KiB or
/// more), what the queue takes, and what we want; whole blocks of the log.
fn piece_bytes(controller: &[u8], block_name: &str) -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let mdts = controller[77];
    let device = if mdts == 0 { u64::MAX } else { PAGE_BYTES << mdts.min(32) };
    let limit = |name: &str, unit: u64| {
        let path = format!("/sys/class/block/{block_name}/queue/{name}");
        let value = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        value.map_or(u64::MAX, |value: u64| value.saturating_mul(unit))
    };
    let queue = limit("max_hw_sectors_kb", 1024).min(limit("max_segments", PAGE_BYTES));
    PIECE_BYTES_MAX.min(device).min(queue) / LOG_BLOCK_BYTES as u64 * LOG_BLOCK_BYTES as u64
}
