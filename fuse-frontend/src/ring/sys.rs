//! The unsafe part: memory that is shared with the kernel, and commands that name it.
//!
//! Who may touch an entry's buffers is a matter of ownership here. The kernel has them
//! from REGISTER, or COMMIT_AND_FETCH, to the completion; that completion makes a
//! [`Lease`], and [`Ring::commit`] takes it back. So a lease is the only way to the
//! buffers, and there is never more than one for an entry.

#![expect(unsafe_code, reason = "buffers that the kernel writes, and io_uring submissions")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use super::abi::{self, BUFFERS_PER_ENTRY, HEADER_BYTES, OP_IN, PART_BYTES};
use crate::skin::wire;

/// Room for a header, and some distance between two.
const HEADER_STRIDE_BYTES: usize = 512;
const _: () = assert!(HEADER_STRIDE_BYTES >= HEADER_BYTES);
/// The device's place in the ring's table of files.
const DEVICE: types::Fixed = types::Fixed(0);
/// Marks completions of the wake-up; entries are marked by their number.
const WAKE_UP: u64 = u64::MAX;

/// The buffers of a queue's entries: address space, of which memory is taken only
/// where a request or a reply has been.
struct Buffers {
    base: NonNull<u8>,
    entries: u16,
    payload_bytes: usize,
}

// SAFETY: the mapping belongs to nobody's thread; access to it goes through leases, of
// which there is one at most for each entry.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}

impl Buffers {
    fn new(entries: u16, payload_bytes: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let bytes = Self::bytes(entries, payload_bytes);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice disturbs nothing.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, entries, payload_bytes })
    }

    fn bytes(entries: u16, payload_bytes: usize) -> usize {
        usize::from(entries) * (HEADER_STRIDE_BYTES + payload_bytes)
    }

    fn header(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.entries);
        // SAFETY: within the mapping, which begins with a header for each entry.
        unsafe { self.base.add(usize::from(index) * HEADER_STRIDE_BYTES) }
    }

    fn payload(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.entries);
        let headers = usize::from(self.entries) * HEADER_STRIDE_BYTES;
        // SAFETY: within the mapping, whose headers are followed by the payloads.
        unsafe { self.base.add(headers + usize::from(index) * self.payload_bytes) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let bytes = Self::bytes(self.entries, self.payload_bytes);
        // SAFETY: this is the mapping of `new`; ring and leases, which refer to it, own a
        // count of the `Arc` that has just become zero.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
    }
}

/// The right to an entry's buffers, between a request's arrival and its answer.
pub(super) struct Lease {
    buffers: Arc<Buffers>,
    index: u16,
}

impl Lease {
    /// `in_out`, `op_in` and the rest.
    fn header(&self) -> &[u8] {
        // SAFETY: the mapping has a whole header there, and lives as long as `self`,
        // which has it to itself.
        unsafe {
            std::slice::from_raw_parts(self.buffers.header(self.index).as_ptr(), HEADER_BYTES)
        }
    }

    fn header_mut(&mut self) -> &mut [u8] {
        let header = self.buffers.header(self.index).as_ptr();
        // SAFETY: as in `header`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(header, HEADER_BYTES) }
    }

    /// The request's `struct fuse_in_header`.
    pub(super) fn in_header(&self) -> &[u8] {
        &self.header()[..PART_BYTES]
    }

    /// The operation's own structure.
    pub(super) fn op_in(&self) -> &[u8] {
        &self.header()[OP_IN..OP_IN + PART_BYTES]
    }

    /// What else came with the request.
    pub(super) fn payload(&self) -> &[u8] {
        let bytes = abi::u32_at(self.header(), abi::PAYLOAD_SIZE) as usize;
        let bytes = bytes.min(self.buffers.payload_bytes);
        // SAFETY: no more than the mapping has for this entry; see `header`.
        unsafe { std::slice::from_raw_parts(self.buffers.payload(self.index).as_ptr(), bytes) }
    }

    /// Room for a reply: the request's payload is in the same place.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let payload = self.buffers.payload(self.index).as_ptr();
        // SAFETY: exactly what the mapping has for this entry; see `header_mut`.
        unsafe { std::slice::from_raw_parts_mut(payload, self.buffers.payload_bytes) }
    }

    /// Writes a reply's header; its body is in the payload.
    pub(super) fn set_reply(&mut self, unique: u64, error: i32, payload_bytes: usize) {
        let reply = wire::out_header(unique, error, payload_bytes);
        let size = (payload_bytes as u32).to_ne_bytes();
        let header = self.header_mut();
        header[..reply.len()].copy_from_slice(&reply);
        header[abi::PAYLOAD_SIZE..abi::PAYLOAD_SIZE + 4].copy_from_slice(&size);
    }
}

/// Leases of entries that no kernel knows, for tests of what is done with a lease.
#[cfg(test)]
pub(super) fn leases(count: u16) -> Vec<Lease> {
    let buffers = Arc::new(Buffers::new(count, 4096).expect("a mapping"));
    (0..count).map(|index| Lease { buffers: Arc::clone(&buffers), index }).collect()
}

/// What has come out of a ring.
pub(super) enum Event {
    /// A request.
    Request(Lease),
    /// The kernel has given an entry up.
    Gone(io::Error),
    /// Somebody has called [`rustix::event::eventfd`]'s descriptor.
    WakeUp,
}

/// The io_uring of one queue. It belongs to the thread that made it.
pub(super) struct Ring {
    uring: IoUring<Entry128, cqueue::Entry>,
    buffers: Arc<Buffers>,
    queue: u16,
    /// Both are named by commands that are under way.
    wake_up: Option<OwnedFd>,
    _device: Option<OwnedFd>,
    /// Entries that the kernel has.
    lent: usize,
}

impl Ring {
    /// A ring for queue number `queue`, not registered yet.
    pub(super) fn new(queue: u16, entries: u16, payload_bytes: usize) -> io::Result<Self> {
        // Task work runs when this thread asks for completions and not before: no
        // interrupt, and one round for all that has come (Linux 6.1).
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(u32::from(entries) + 2)?;
        let buffers = Arc::new(Buffers::new(entries, payload_bytes)?);
        Ok(Self { uring, buffers, queue, wake_up: None, _device: None, lent: 0 })
    }

    /// Gives all entries to the kernel. What it refuses comes as [`Event::Gone`].
    pub(super) fn register(&mut self, device: BorrowedFd<'_>, wake_up: OwnedFd) -> io::Result<()> {
        let device = device.try_clone_to_owned()?;
        self.uring.submitter().register_files(&[device.as_raw_fd()])?;
        (self._device, self.wake_up) = (Some(device), Some(wake_up));
        self.ask_for_wake_up();
        let iovec = |base: NonNull<u8>, bytes| libc::iovec {
            iov_base: base.as_ptr().cast(),
            iov_len: bytes,
        };
        let iovecs: Vec<[libc::iovec; BUFFERS_PER_ENTRY as usize]> = (0..self.buffers.entries)
            .map(|index| {
                let (header, payload) = (self.buffers.header(index), self.buffers.payload(index));
                [iovec(header, HEADER_BYTES), iovec(payload, self.buffers.payload_bytes)]
            })
            .collect();
        for (index, pair) in iovecs.iter().enumerate() {
            let command = opcode::UringCmd80::new(DEVICE, abi::CMD_REGISTER)
                .cmd(abi::command(0, self.queue))
                .addr(Some(pair.as_ptr() as u64));
            let mut entry = command.build().user_data(index as u64);
            set_len(&mut entry, BUFFERS_PER_ENTRY);
            self.push(&entry);
            self.lent += 1;
        }
        // The kernel reads `iovecs` while it takes the commands in, which is now.
        while !self.uring.submission().is_empty() {
            match self.uring.submit() {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
        }
        drop(iovecs);
        Ok(())
    }

    /// Answers a request, whose reply is set, with the next [`Self::wait`].
    pub(super) fn commit(&mut self, lease: Lease) {
        let commit_id = abi::u64_at(lease.header(), abi::COMMIT_ID);
        let command = opcode::UringCmd80::new(DEVICE, abi::CMD_COMMIT_AND_FETCH)
            .cmd(abi::command(commit_id, self.queue));
        self.push(&command.build().user_data(u64::from(lease.index)));
        self.lent += 1;
        drop(lease); // The kernel has the buffers now.
    }

    /// How many entries the kernel has.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// Hands over what was pushed and waits until something has come, or for a time.
    pub(super) fn wait(&mut self, time: Option<Duration>, out: &mut Vec<Event>) -> io::Result<()> {
        let waited = match time {
            None => self.uring.submit_and_wait(1),
            Some(time) => {
                let time = types::Timespec::from(time);
                let arguments = types::SubmitArgs::new().timespec(&time);
                self.uring.submitter().submit_with_args(1, &arguments)
            }
        };
        match waited {
            Err(error) if !is_passing(&error) => return Err(error),
            _ => {}
        }
        self.reap(out);
        Ok(())
    }

    /// Takes what has come, without waiting.
    pub(super) fn reap(&mut self, out: &mut Vec<Event>) {
        let mut is_heard = true;
        for completion in self.uring.completion() {
            let (mark, result) = (completion.user_data(), completion.result());
            if mark == WAKE_UP {
                is_heard &= cqueue::more(completion.flags());
                out.push(Event::WakeUp);
                continue;
            }
            self.lent -= 1;
            out.push(if result < 0 {
                Event::Gone(io::Error::from_raw_os_error(-result))
            } else {
                Event::Request(Lease { buffers: Arc::clone(&self.buffers), index: mark as u16 })
            });
        }
        if !is_heard {
            self.ask_for_wake_up();
        }
    }

    /// One request for all wake-ups: each write to the descriptor makes a completion, and
    /// what it counts need not be read.
    fn ask_for_wake_up(&mut self) {
        let Some(wake_up) = &self.wake_up else { return };
        let descriptor = types::Fd(wake_up.as_raw_fd());
        let poll = opcode::PollAdd::new(descriptor, libc::POLLIN as u32).multi(true);
        self.push(&Entry128::from(poll.build().user_data(WAKE_UP)));
    }

    fn push(&mut self, entry: &Entry128) {
        // SAFETY: the command names descriptors that `self` owns. Of memory it names the
        // buffers of an entry: for REGISTER iovecs that outlive the submission, and a
        // mapping that stays until ring and leases are gone. Once the ring is closed
        // the kernel writes to none: it does so in this thread only (`fuse_uring_send_in_task`).
        let pushed = unsafe { self.uring.submission().push(entry) };
        // An entry has one command at most, and the wake-up one.
        pushed.expect("the ring has room for a command of each entry");
    }
}

/// Whether the same call may succeed a moment later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME))
}

/// Sets `len` of `struct io_uring_sqe`, for which io-uring 0.7 has no setter on a
/// URING_CMD.
fn set_len(entry: &mut Entry128, len: u32) {
    const LEN: usize = 24;
    // SAFETY: `Entry128` is `repr(C)` and begins with a `struct io_uring_sqe`, whose
    // bytes 24 to 27 are `len`; any value is valid for it.
    unsafe { (&raw mut *entry).cast::<u8>().add(LEN).cast::<u32>().write(len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(entry: &Entry128) -> &[u8] {
        // SAFETY: plain data of 128 bytes, fully initialized, borrowed with the entry.
        unsafe { std::slice::from_raw_parts((&raw const *entry).cast(), 128) }
    }

    #[test]
    fn the_length_is_where_other_commands_have_it() {
        let read = opcode::Read::new(types::Fd(3), std::ptr::null_mut(), 0x1234_5678).build();
        assert_eq!(abi::u32_at(bytes(&Entry128::from(read)), 24), 0x1234_5678);
        let mut entry = opcode::UringCmd80::new(DEVICE, 7).cmd(abi::command(9, 3)).build();
        set_len(&mut entry, 2);
        assert_eq!(abi::u32_at(bytes(&entry), 24), 2);
        assert_eq!((abi::u32_at(bytes(&entry), 8), abi::u64_at(bytes(&entry), 48 + 8)), (7, 9));
        assert_eq!(
            abi::u32_at(bytes(&entry), 48 + 16),
            3,
            "the command continues behind the entry"
        );
    }

    #[test]
    fn entries_have_buffers_of_their_own() {
        let mut leases = leases(3);
        for (number, lease) in leases.iter_mut().enumerate() {
            lease.room().fill(number as u8 + 1);
            lease.set_reply(number as u64, 0, 5);
        }
        for (number, lease) in leases.iter().enumerate() {
            assert_eq!(lease.payload(), [number as u8 + 1; 5]);
            assert_eq!(abi::u64_at(lease.in_header(), 8), number as u64);
            assert!(lease.op_in().iter().all(|byte| *byte == 0));
        }
    }
}
