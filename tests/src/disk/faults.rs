//! What can be made to go wrong with a disk while it runs.

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
        *self = Faults { power_is_cut: self.power_is_cut, ..Faults::default() };
    }

    /// How long the disk will go on not answering.
    pub fn stuck(&self) -> Option<Duration> {
        let left = self.stuck_until?.saturating_duration_since(Instant::now());
        (!left.is_zero() && !self.power_is_cut).then_some(left)
    }

    pub fn power(&self) -> Result<(), Refusal> {
        if self.power_is_cut { Err(Refusal::Io) } else { Ok(()) }
    }

    /// A write or discard begins; `grows` when it needs a page that was never written.
    pub fn write(&mut self, grows: bool) -> Result<(), Refusal> {
        self.power()?;
        count_down(&mut self.writes)?;
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
