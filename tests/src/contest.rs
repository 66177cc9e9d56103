//! Bare and lanefs take turns: the machinery of `tests baseline` and `tests performance`.
//!
//! ```text
//!   ground    a filesystem on a disk of known flush time, or on the machine's own disk
//!   bench     two of them, equal or not: one for the bare side, one below lanefs
//!   workload  what a thread does again and again: append, replace, varmail, a transaction ...
//!   slice     W threads work for part of a second; the disk counts meanwhile
//!   session   both sides of one contest, slice by slice; requests counted, daemon paused
//!   outcome   medians, ratios of neighbouring slices, counts
//!   words     names, progress, printing
//! ```
//!
//! Times on a shared machine are noise, so a ratio is the median over pairs of neighbouring slices,
//! and what counts are counts: flushes as the disk saw them, requests as the daemon saw them.
//!
//! Each side has a disk of its own, because what lanefs puts off must not be paid by the bare side:
//! on one filesystem the bare side's next commit would carry lanefs' changes too. For the same
//! reason nothing is synced for a side between its slices, and the daemon is stopped (SIGSTOP) while
//! it is not lanefs' turn: what was put off is done, and paid for, in a slice of lanefs. Flushes
//! are counted from the first operation of a contest to the last, those between the turns too.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

pub use self::figures::{median, percentile, rounded, sorted};
pub use self::ground::{Bench, Ground};
pub use self::outcome::{Outcome, Record};
pub use self::session::{Contest, Session, Subject};
#[cfg(all(test, feature = "library"))]
pub(crate) use self::slice::Slice;
pub use self::slice::Timing;
#[cfg(feature = "library")]
pub(crate) use self::slice::run_slice;
#[cfg(feature = "library")]
pub(crate) use self::workload::Worker;
pub use self::workload::Workload;

mod figures;
mod ground;
mod outcome;
mod session;
mod slice;
pub mod words;
mod workload;

/// Below, a slice of a slow contest has hardly an operation in it.
const SECONDS_MIN: f64 = 0.5;
/// Above, a single contest would outlast the watchdog of a mount.
const SECONDS_MAX: f64 = 120.0;

/// Why measuring ended before its end.
#[derive(Debug)]
pub enum End {
    /// A signal came.
    Interrupted,
    /// Something did not work.
    Failed(String),
}

impl End {
    /// Says where it happened.
    #[must_use]
    pub fn at(self, place: &impl Display) -> End {
        match self {
            End::Failed(error) => End::Failed(format!("{place}: {error}")),
            End::Interrupted => End::Interrupted,
        }
    }
}

impl From<String> for End {
    fn from(error: String) -> End {
        End::Failed(error)
    }
}

impl From<End> for String {
    fn from(end: End) -> String {
        match end {
            End::Failed(error) => error,
            End::Interrupted => "interrupted; nothing is left mounted or running".to_owned(),
        }
    }
}

/// Who wants to hear how far it is, and who may end it.
#[derive(Clone, Copy)]
pub struct Watch<'w> {
    /// Set by a signal.
    pub stop: &'w AtomicBool,
    /// Goes on by one for each slice.
    pub progress: &'w ProgressBar,
}

impl Watch<'_> {
    /// An end if a signal came.
    ///
    /// # Errors
    /// It came.
    pub fn check(self) -> Result<(), End> {
        if self.stop.load(Ordering::Relaxed) { Err(End::Interrupted) } else { Ok(()) }
    }
}

/// Refuses to work for others than root.
///
/// # Errors
/// It is somebody else.
pub fn check_root() -> Result<(), String> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root { Ok(()) } else { Err("this needs root: it mounts filesystems".to_owned()) }
}

/// The command line's word for how long to measure each side, in seconds: 0.5 to 120.
///
/// # Errors
/// It is none; the message says what is.
pub fn seconds(text: &str) -> Result<f64, String> {
    between(text, SECONDS_MIN, SECONDS_MAX, "seconds")
}

/// A number from `min` to `max` on a command line.
///
/// # Errors
/// It is none; the message says what is.
pub fn between(text: &str, min: f64, max: f64, unit: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("expected {min} to {max} {unit}"))
}

/// Holds a whole contest.
///
/// # Errors
/// It was interrupted, or something failed on one of the sides.
pub fn hold(
    bench: &Bench,
    contest: Contest,
    options: &str,
    watch: Watch<'_>,
) -> Result<Outcome, End> {
    let mut session = Session::new(bench, contest, options)?;
    for _ in 0..contest.timing.slices {
        session.pair(watch)?;
    }
    session.finish()
}
