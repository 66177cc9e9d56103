//! Syncs that took long, and who waited for them.
//!
//! The kernel gives the number of a thread with each request. As long as that one waits, /proc
//! says whose it is.

use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At most one warning in this time: a disk that has become slow is slow for everybody.
const BETWEEN: Duration = Duration::from_secs(1);

/// Notes syncs that take longer than a limit.
pub(crate) struct SlowSyncs {
    limit: Option<Duration>,
    count: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    at: Option<Instant>,
    /// Since then, without a warning of their own.
    more: u64,
}

impl SlowSyncs {
    /// `None`: nothing is slow.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, count: AtomicU64::new(0), told: Mutex::default() }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.limit.is_some()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A sync by this thread has taken so long. It still waits for its answer.
    pub(crate) fn note(&self, thread: u32, took: Duration, inode: impl FnOnce() -> Option<u64>) {
        if self.limit.is_none_or(|limit| took < limit) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| at.elapsed() < BETWEEN) {
            told.more += 1;
            return;
        }
        told.at = Some(Instant::now());
        let others = std::mem::take(&mut told.more);
        drop(told);
        let (pid, comm) = process_of(thread).unwrap_or((thread, "gone".to_owned()));
        let took_ms = took.as_millis() as u64;
        let inode = inode().unwrap_or_default();
        tracing::warn!(pid, comm, took_ms, inode, others, "a sync was slow");
    }
}

/// The process of a thread, and its name.
fn process_of(thread: u32) -> Option<(u32, String)> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process =
        status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let comm = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some((process, comm.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_counts() {
        let (slow, none) = (SlowSyncs::new(Some(Duration::from_millis(5))), SlowSyncs::new(None));
        for took in [1, 4, 5, 90].map(Duration::from_millis) {
            slow.note(std::process::id(), took, || Some(1));
            none.note(std::process::id(), took, || Some(1));
        }
        assert_eq!((slow.count(), none.count()), (2, 0));
        assert_eq!(slow.told.lock().expect("not poisoned").more, 1, "one warning for both");
    }

    #[test]
    fn a_thread_is_of_a_process() {
        let own = std::process::id();
        let found = std::thread::spawn(|| {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            process_of(thread.cast_unsigned())
        });
        let (pid, comm) = found.join().expect("no panic").expect("it is in /proc");
        assert_eq!(pid, own);
        assert!(!comm.is_empty());
    }
}
