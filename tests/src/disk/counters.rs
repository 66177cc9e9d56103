//! What a disk was asked for, counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a disk has done so far, or, after [`Counters::since`], in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flushes that were done.
    pub flushes: u64,
    /// What these flushes took, from their arrival to the answer.
    pub flush_time: Duration,
    /// Writes that were done.
    pub writes: u64,
    /// Bytes of these writes.
    pub written_bytes: u64,
    /// Reads that were done.
    pub reads: u64,
    /// Bytes of these reads.
    pub read_bytes: u64,
    /// Discards, and writes of zeros without data.
    pub discards: u64,
    /// Bytes of these discards.
    pub discarded_bytes: u64,
    /// Writes, discards and flushes that failed, on command.
    pub failures: u64,
}

impl Counters {
    /// What was added since `earlier`.
    pub fn since(self, earlier: Counters) -> Counters {
        Counters {
            flushes: self.flushes - earlier.flushes,
            flush_time: self.flush_time - earlier.flush_time,
            writes: self.writes - earlier.writes,
            written_bytes: self.written_bytes - earlier.written_bytes,
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            discards: self.discards - earlier.discards,
            discarded_bytes: self.discarded_bytes - earlier.discarded_bytes,
            failures: self.failures - earlier.failures,
        }
    }
}

#[derive(Default)]
pub(super) struct LiveCounters {
    flushes: AtomicU64,
    flush_time_ns: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    discards: AtomicU64,
    discarded_bytes: AtomicU64,
    failures: AtomicU64,
}

impl LiveCounters {
    pub fn flush_done(&self, time: Duration) {
        add(&self.flushes, 1);
        add(&self.flush_time_ns, u64::try_from(time.as_nanos()).expect("less than 500 years"));
    }

    pub fn write_done(&self, bytes: u64) {
        add(&self.writes, 1);
        add(&self.written_bytes, bytes);
    }

    pub fn read_done(&self, bytes: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
    }

    pub fn discard_done(&self, bytes: u64) {
        add(&self.discards, 1);
        add(&self.discarded_bytes, bytes);
    }

    /// Everything to zero.
    pub fn reset(&self) {
        let LiveCounters { flushes, flush_time_ns, writes, written_bytes, .. } = self;
        let LiveCounters { reads, read_bytes, discards, discarded_bytes, failures, .. } = self;
        let one = [flushes, flush_time_ns, writes, written_bytes];
        let other = [reads, read_bytes, discards, discarded_bytes, failures];
        one.into_iter().chain(other).for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    pub fn failed(&self) {
        add(&self.failures, 1);
    }

    pub fn read(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            flushes: get(&self.flushes),
            flush_time: Duration::from_nanos(get(&self.flush_time_ns)),
            writes: get(&self.writes),
            written_bytes: get(&self.written_bytes),
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            discards: get(&self.discards),
            discarded_bytes: get(&self.discarded_bytes),
            failures: get(&self.failures),
        }
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}
