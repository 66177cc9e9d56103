//! What can be made to go wrong with a disk while it runs.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Why a disk did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// EINVAL: not in whole sectors, or outside of the disk. The kernel never asks for that.
    Invalid,
}

/// A fault to inject; see `Disk::inject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th write (or discard) from now fails with EIO and changes nothing; 1 is the next one.
    WriteError(u64),
    /// The n-th write from now that touches a watched byte (`Disk::watch`) fails in the same way.
    WatchedWriteError(u64),
    /// The n-th write from now that touches no watched byte does.
    UnwatchedWriteError(u64),
    /// The n-th flush from now fails with EIO and makes nothing durable; 1 is the next one.
    FlushError(u64),
    /// Every write from now on fails.
    AllWritesFail,
    /// Every flush from now on fails.
    AllFlushesFail,
    /// The file below the disk cannot grow: writes to pages never written fail with ENOSPC.
    NoSpace,
    /// Nothing is answered for this long.
    Stuck(Duration),
    /// From now on everything fails with EIO and nothing is recorded. `Disk::load` ends it.
    PowerCut,
}

/// Faults that are waiting for their moment.
#[derive(Debug, Default)]
pub(super) struct Faults {
    writes: Option<Countdown>,
    watched_writes: Option<Countdown>,
    unwatched_writes: Option<Countdown>,
    // Bytes of the disk that somebody cares about.
    watched: Vec<Range<u64>>,
    flushes: Option<Countdown>,
    no_space: bool,
    power_is_cut: bool,
    stuck_until: Option<Instant>,
}

#[derive(Debug)]
enum Countdown {
    // Requests to let pass before the one that fails.
    After(u64),
    All,
}

impl Faults {
    pub fn inject(&mut self, fault: Fault) {
        let after = |nth: u64| Some(Countdown::After(nth.saturating_sub(1)));
        match fault {
            Fault::WriteError(nth) => self.writes = after(nth),
            Fault::WatchedWriteError(nth) => self.watched_writes = after(nth),
            Fault::UnwatchedWriteError(nth) => self.unwatched_writes = after(nth),
            Fault::FlushError(nth) => self.flushes = after(nth),
            Fault::AllWritesFail => self.writes = Some(Countdown::All),
            Fault::AllFlushesFail => self.flushes = Some(Countdown::All),
            Fault::NoSpace => self.no_space = true,
            Fault::Stuck(time) => self.stuck_until = Some(Instant::now() + time),
            Fault::PowerCut => self.power_is_cut = true,
        }
    }

    /// Everything but a power cut is over.
    pub fn clear(&mut self) {
        let watched = std::mem::take(&mut self.watched);
        *self = Faults { power_is_cut: self.power_is_cut, watched, ..Faults::default() };
    }

    /// From now on these bytes are the watched ones.
    pub fn watch(&mut self, bytes: Vec<Range<u64>>) {
        self.watched = bytes;
    }

    /// How long the disk will go on not answering.
    pub fn stuck(&self) -> Option<Duration> {
        let left = self.stuck_until?.saturating_duration_since(Instant::now());
        (!left.is_zero() && !self.power_is_cut).then_some(left)
    }

    pub fn power(&self) -> Result<(), Refusal> {
        if self.power_is_cut { Err(Refusal::Io) } else { Ok(()) }
    }

    /// A write or discard of these bytes begins; `grows` when it needs a page that was never
    /// written.
    pub fn write(&mut self, bytes: Range<u64>, grows: bool) -> Result<(), Refusal> {
        self.power()?;
        count_down(&mut self.writes)?;
        if self.watched.iter().any(|range| range.start < bytes.end && bytes.start < range.end) {
            count_down(&mut self.watched_writes)?;
        } else {
            count_down(&mut self.unwatched_writes)?;
        }
        if self.no_space && grows { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    /// A flush begins; whether it will succeed.
    pub fn flush(&mut self) -> Result<(), Refusal> {
        self.power()?;
        count_down(&mut self.flushes)
    }
}

fn count_down(countdown: &mut Option<Countdown>) -> Result<(), Refusal> {
    match countdown {
        None => return Ok(()),
        Some(Countdown::All) => {}
        Some(Countdown::After(0)) => *countdown = None,
        Some(Countdown::After(left)) => {
            *left -= 1;
            return Ok(());
        }
    }
    Err(Refusal::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_may_wait_for_a_write_of_certain_bytes() {
        let mut faults = Faults::default();
        faults.watch(vec![100..200, 500..600]);
        faults.inject(Fault::WatchedWriteError(2));
        assert_eq!(faults.write(0..100, false), Ok(()), "beside them");
        assert_eq!(faults.write(150..160, false), Ok(()), "the first");
        assert_eq!(faults.write(200..500, false), Ok(()), "between them");
        assert_eq!(faults.write(0..501, false), Err(Refusal::Io), "the second");
        assert_eq!(faults.write(0..501, false), Ok(()));
        faults.inject(Fault::UnwatchedWriteError(1));
        assert_eq!(faults.write(199..300, false), Ok(()));
        assert_eq!(faults.write(600..700, false), Err(Refusal::Io));
        faults.inject(Fault::WatchedWriteError(1));
        faults.clear();
        assert_eq!(faults.write(100..200, false), Ok(()));
        faults.inject(Fault::WatchedWriteError(1));
        assert_eq!(faults.write(100..200, false), Err(Refusal::Io), "watched until told otherwise");
    }
}
