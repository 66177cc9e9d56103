//! What the log's device costs: measured once, before the log is used.
//!
//! From these figures follows up to which size bytes are worth writing to the
//! log, and whether a log is worth anything: a device that flushes at once gains
//! nothing by it.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// Enough for a figure at a mount, short enough not to be noticed there.
pub const DEFAULT_TIME_MAX: Duration = Duration::from_millis(500);

/// Pairs of a small write and a flush, if the time allows.
const PAIRS_MAX: usize = 16;

/// Fewer than these are no measurement: made even if the time is over.
const PAIRS_MIN: usize = 3;

/// Size of one write of the sequential part.
const SEQUENTIAL_PIECE_BYTES: u64 = 1 << 20;

/// Written at most by the sequential part: fast devices have told enough then,
/// and are not worn for more.
const SEQUENTIAL_BYTES_MAX: u64 = 32 << 20;

/// What a device costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeFigures {
    /// One flush after a write of 4 KiB: the median.
    pub flush: Duration,
    /// The same, the 99th percentile; of so few samples it is the slowest.
    pub flush_p99: Duration,
    /// One write of 4 KiB: the median.
    pub write_4k: Duration,
    /// Large writes one after another, what a flush after them takes longer than
    /// after a small one included.
    pub bandwidth_bytes_per_s: f64,
}

/// Measures a store in about `time_max` at most, unless a single write or flush
/// takes longer. Overwrites `area`, and nothing else, with zeros; its ends need
/// not be block borders.
///
/// # Errors
/// `EINVAL` if `area` holds no block of the store; else the device's.
pub fn measure(
    store: &impl LogStore,
    area: Range<u64>,
    time_max: Duration,
) -> Result<ProbeFigures> {
    let block = LOG_BLOCK_BYTES as u64;
    let start = area.start.checked_next_multiple_of(block).ok_or(Errno::INVAL)?;
    let end = area.end.min(store.bytes()) / block * block;
    if start >= end {
        return Err(Errno::INVAL);
    }
    let began = Instant::now();
    let mut places = Places { area: start..end, next: start };
    let (write_4k, mut flushes) = measure_pairs(store, &mut places, began, time_max / 2)?;
    let flush = median(&mut flushes);
    let bandwidth_bytes_per_s = measure_bandwidth(store, &mut places, began, time_max, flush)?;
    let slowest = (flushes.len() * 99).div_ceil(100) - 1;
    Ok(ProbeFigures { flush, flush_p99: flushes[slowest], write_4k, bandwidth_bytes_per_s })
}

/// Successive pieces of the area, from its start again at its end.
struct Places {
    area: Range<u64>,
    next: u64,
}

impl Places {
    /// Where to write next, and how much of `bytes`.
    fn take(&mut self, bytes: u64) -> (u64, u64) {
        if self.next >= self.area.end {
            self.next = self.area.start;
        }
        let offset = self.next;
        let bytes = bytes.min(self.area.end - offset);
        self.next += bytes;
        (offset, bytes)
    }
}

fn measure_pairs(
    store: &impl LogStore,
    places: &mut Places,
    began: Instant,
    time_max: Duration,
) -> Result<(Duration, Vec<Duration>)> {
    let mut small = LogBuffer::new();
    small.grow(LOG_BLOCK_BYTES);
    // What was written before us is not ours to be charged with.
    store.flush()?;
    let (mut writes, mut flushes) = (Vec::new(), Vec::new());
    while flushes.len() < PAIRS_MAX && (flushes.len() < PAIRS_MIN || began.elapsed() < time_max) {
        let (offset, _) = places.take(LOG_BLOCK_BYTES as u64);
        let start = Instant::now();
        store.write(&small, offset)?;
        let written = Instant::now();
        store.flush()?;
        writes.push(written - start);
        flushes.push(written.elapsed());
    }
    Ok((median(&mut writes), flushes))
}

fn measure_bandwidth(
    store: &impl LogStore,
    places: &mut Places,
    began: Instant,
    time_max: Duration,
    small_flush: Duration,
) -> Result<f64> {
    let mut large = LogBuffer::new();
    let mut total = 0;
    let start = Instant::now();
    while total == 0 || (total < SEQUENTIAL_BYTES_MAX && began.elapsed() < time_max) {
        let (offset, bytes) = places.take(SEQUENTIAL_PIECE_BYTES);
        large.clear();
        large.grow(bytes as usize);
        store.write(&large, offset)?;
        total += bytes;
    }
    let written = start.elapsed();
    let flushing = Instant::now();
    store.flush()?;
    let taken = written + flushing.elapsed().saturating_sub(small_flush);
    // A store that takes no time at all (a simulated one) is very fast, not infinitely.
    Ok(total as f64 / taken.max(Duration::from_nanos(1)).as_secs_f64())
}

/// Sorts, too.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Notes what is written, and takes its time.
    struct Slow {
        touched: Mutex<Vec<Range<u64>>>,
        write: Duration,
        flush: Duration,
    }

    impl LogStore for Slow {
        fn bytes(&self) -> u64 {
            8 << 20
        }

        fn read(&self, _: &mut LogBuffer, _: u64, _: usize) -> Result<()> {
            Err(Errno::NOSYS)
        }

        fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
            std::thread::sleep(self.write);
            self.touched.lock().unwrap().push(offset..offset + data.len() as u64);
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            std::thread::sleep(self.flush);
            Ok(())
        }

        fn shares_device(&self) -> bool {
            true
        }
    }

    fn slow(write: u64, flush: u64) -> Slow {
        let (write, flush) = (Duration::from_millis(write), Duration::from_millis(flush));
        Slow { touched: Mutex::new(Vec::new()), write, flush }
    }

    #[test]
    fn figures_are_the_devices() {
        let store = slow(1, 4);
        let figures = measure(&store, 0..8 << 20, DEFAULT_TIME_MAX).expect("a measurement");
        assert!(figures.flush >= Duration::from_millis(4), "{figures:?}");
        assert!(figures.flush_p99 >= figures.flush, "{figures:?}");
        assert!(figures.write_4k >= Duration::from_millis(1), "{figures:?}");
        assert!(figures.bandwidth_bytes_per_s <= f64::from(1 << 20) * 1000.0, "{figures:?}");
        assert!(figures.bandwidth_bytes_per_s > 0.0);
    }

    /// Only whole blocks inside the area, wherever it lies.
    #[test]
    fn nothing_else_is_touched() {
        let store = slow(0, 0);
        for (area, blocks) in [
            (100..10_000, 4096..8192),
            (0..4096, 0..4096),
            (1 << 20..(3 << 20) + 4096, 1 << 20..(3 << 20) + 4096),
            (7 << 20..1 << 40, 7 << 20..8 << 20),
        ] {
            measure(&store, area, DEFAULT_TIME_MAX).expect("a measurement");
            for range in store.touched.lock().unwrap().drain(..) {
                assert!(range.start >= blocks.start && range.end <= blocks.end, "{range:?}");
                assert!(range.start % 4096 == 0 && range.end % 4096 == 0 && !range.is_empty());
            }
        }
        for nothing in [0..0, 100..4000, 8 << 20..9 << 20, u64::MAX..u64::MAX] {
            assert_eq!(measure(&store, nothing, DEFAULT_TIME_MAX), Err(Errno::INVAL));
        }
    }

    /// A device that is slow beyond measure holds nobody up for long.
    #[test]
    fn time_is_bounded() {
        let store = slow(5, 40);
        let start = Instant::now();
        measure(&store, 0..8 << 20, Duration::from_millis(100)).expect("a measurement");
        // The flush before, three pairs, one large write and its flush, and patience.
        assert!(start.elapsed() < Duration::from_millis(1000), "{:?}", start.elapsed());
    }
}
