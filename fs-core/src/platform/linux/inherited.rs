//! Descriptors that outlive the program: what a daemon leaves to the one that replaces it.
//!
//! `execve(2)` keeps every descriptor without `FD_CLOEXEC` under its number. A program that
//! replaces itself therefore clears that flag on what shall survive and writes the numbers
//! down; its successor takes them by number, once.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

use crate::error::{Errno, Result};

/// Numbers below are the standard streams'.
const FIRST: RawFd = 3;

/// The descriptors of a predecessor, taken over.
pub struct Inherited {
    files: Mutex<HashMap<RawFd, OwnedFd>>,
}

impl Inherited {
    /// Takes over all descriptors with these numbers. Only once in a process, and before it
    /// opens anything that could have got one of the numbers.
    ///
    /// # Errors
    /// `EEXIST` on a second call or a number that is given twice; `EBADF` if there is no
    /// such descriptor.
    pub fn take(numbers: impl IntoIterator<Item = RawFd>) -> Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(Errno::EXIST);
        }
        let mut files = HashMap::new();
        for number in numbers {
            if number < FIRST {
                return Err(Errno::BADF);
            }
            if files.contains_key(&number) {
                return Err(Errno::EXIST);
            }
            // SAFETY: nothing is closed by it before the check has shown that the number is
            // a descriptor's. That nobody else owns it: it came over execve, this process
            // takes such numbers once (`TAKEN`), and each of them once.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
            // SAFETY: as above.
            files.insert(number, unsafe { OwnedFd::from_raw_fd(number) });
        }
        Ok(Self { files: Mutex::new(files) })
    }

    /// The descriptor with this number.
    ///
    /// # Errors
    /// `EBADF` if it was not taken over, or was given out before.
    pub fn get(&self, number: RawFd) -> Result<OwnedFd> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&number).ok_or(Errno::BADF)
    }
}

/// Has a descriptor survive `execve(2)`, or not.
///
/// # Errors
/// `EBADF` if it is none.
pub fn keep_over_exec(number: RawFd, keep: bool) -> Result<()> {
    let flags = if keep { FdFlags::empty() } else { FdFlags::CLOEXEC };
    // SAFETY: the number is only used for a call that changes a flag of the descriptor, or
    // fails if there is none.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_setfd(borrowed, flags)?)
}

/// Puts another file under a number: whoever reads or writes by that number meets `by` from
/// now on. The number stays its owner's.
///
/// # Errors
/// `EBADF` if there is no such descriptor.
pub fn replace_file(number: RawFd, by: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a system call on numbers; that the number is in use is checked first, so that
    // no descriptor comes into being that nobody owns.
    let result = unsafe {
        if libc::fcntl(number, libc::F_GETFD) < 0 {
            -1
        } else {
            libc::dup3(by.as_raw_fd(), number, libc::O_CLOEXEC)
        }
    };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

/// Interrupts a thread of this process in a system call that waits, by a signal that has a
/// handler (else its default action is taken).
///
/// # Errors
/// `ESRCH` if there is no such thread any more.
pub fn interrupt_thread(thread: u32, signal: i32) -> Result<()> {
    // SAFETY: a system call on numbers; a thread of this process is meant by it.
    let result = unsafe { libc::tgkill(std::process::id() as i32, thread as i32, signal) };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_number_is_given_another_file() {
        let (mut first, one) = std::io::pipe().expect("a pipe");
        let (mut second, mut two) = std::io::pipe().expect("a pipe");
        replace_file(first.as_raw_fd(), second.as_fd()).expect("both are open");
        two.write_all(b"x").expect("its reader is open");
        let mut read = [0; 1];
        first.read_exact(&mut read).expect("what the other was sent");
        assert_eq!(&read, b"x");
        drop((one, two));
        assert_eq!(second.read(&mut read).expect("the end"), 0);
        assert_eq!(replace_file(1_000_000, second.as_fd()), Err(Errno::BADF));
    }

    #[test]
    fn what_is_taken_over_is_given_out_once() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").expect("there is one"));
        let number = std::os::fd::IntoRawFd::into_raw_fd(file);
        let inherited = Inherited::take([number]).expect("it is open");
        assert_eq!(inherited.get(number).map(|file| file.as_raw_fd()), Ok(number));
        assert_eq!(inherited.get(number).map(drop), Err(Errno::BADF));
        assert_eq!(Inherited::take([]).map(drop), Err(Errno::EXIST), "once in a process");
    }
}
