//! Reads and writes at a place that end with what was asked for, where the system may do less.

use std::os::fd::OwnedFd;

use rustix::io::Errno as Os;

use crate::error::Result;

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    repeat(buffer.len(), |done| rustix::io::pread(file, &mut buffer[done..], offset + done as u64))
}

/// Writes all of `data`, or as much as fits before an error.
pub(super) fn write_full(file: &OwnedFd, data: &[u8], offset: u64) -> Result<usize> {
    repeat(data.len(), |done| rustix::io::pwrite(file, &data[done..], offset + done as u64))
}

/// Goes on behind what is done until that is all, or a step does nothing.
fn repeat(
    bytes: usize,
    mut step: impl FnMut(usize) -> std::result::Result<usize, Os>,
) -> Result<usize> {
    let mut done = 0;
    while done < bytes {
        match step(done) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(Os::INTR) => {}
            // What was done before the error is good; the error comes again.
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}
