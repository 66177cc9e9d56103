//! What the kernel has of a file in memory: `cachestat(2)`, Linux 6.5.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Errno, Result};

/// Number of the system call on all architectures; the libc crate names it on few.
const SYS_CACHESTAT: libc::c_long = 451;

/// Bytes of a file that are dirty or under write-back, in whole pages.
pub(super) fn unwritten_bytes(file: BorrowedFd<'_>) -> Result<u64> {
    // struct cachestat_range: offset and length, where 0 means to the end.
    let range = [0_u64; 2];
    // struct cachestat: cached, dirty, under write-back, evicted, recently evicted.
    let mut pages = [0_u64; 5];
    // SAFETY: both structures have the layout that the call expects and live through it.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0_u32)
    };
    if result < 0 {
        return Err(Errno::from(std::io::Error::last_os_error()));
    }
    Ok((pages[1] + pages[2]) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_written_and_not_synced_is_seen() {
        let mut file = tempfile::tempfile_in("/var/tmp").expect("scratch file");
        match unwritten_bytes(file.as_fd()) {
            Err(error) if error.raw() == libc::ENOSYS => return,
            found => assert_eq!(found, Ok(0)),
        }
        file.write_all(&[1; 10_000]).expect("write");
        let page = rustix::param::page_size() as u64;
        assert_eq!(unwritten_bytes(file.as_fd()), Ok(10_000_u64.next_multiple_of(page)));
        file.sync_all().expect("fsync");
        assert_eq!(unwritten_bytes(file.as_fd()), Ok(0));
    }
}
