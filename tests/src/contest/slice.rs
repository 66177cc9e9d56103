//! One slice: all threads of one side work, and after a moment the clock runs.
//!
//! The first moment is not timed: it takes a few commits until the threads have found their
//! rhythm (on ext4 two convoys that alternate). An operation that is only partly inside the slice
//! counts with that part: when one takes 30 ms, whole ones would make the rate of a short slice
//! a matter of luck. Operations that would outlast any slice are not cut: then a slice is one.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::End;
use super::workload::Worker;

/// Long enough for the slowest cell to do some operations.
const SLICE_MAX: Duration = Duration::from_millis(600);
/// Operations that take seconds: more of them would outlast the watchdog of a mount.
const LONG_OPERATIONS_MAX: u32 = 25;
/// A median of fewer is not one.
const SLICES_MIN: u32 = 5;
const WARM_UP: Duration = Duration::from_millis(60);
/// And a few commits on top.
const WARM_UP_FLUSHES: u32 = 10;
/// How soon a signal or a failure is noticed.
const CHECK: Duration = Duration::from_millis(20);

/// How long a contest goes on.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Slices of each side; odd, so that the median is one of them.
    pub slices: u32,
    length: Length,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Time { slice: Duration, warm_up: Duration },
    OneOperation,
}

impl Timing {
    /// `seconds` for each side, without warm-ups.
    pub fn new(seconds: f64, flush_time: Duration) -> Self {
        let slices = slices_in(seconds);
        let slice = Duration::from_secs_f64(seconds / f64::from(slices));
        let warm_up = WARM_UP + WARM_UP_FLUSHES * flush_time;
        Timing { slices, length: Length::Time { slice, warm_up } }
    }

    /// For long operations: one in each slice, as many as there would be slices otherwise.
    pub fn one_operation_each(seconds: f64) -> Self {
        let slices = slices_in(seconds).min(LONG_OPERATIONS_MAX);
        Timing { slices, length: Length::OneOperation }
    }
}

fn slices_in(seconds: f64) -> u32 {
    ((seconds / SLICE_MAX.as_secs_f64()).ceil() as u32).max(SLICES_MIN) | 1
}

/// What one side did in one slice.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Operations per second.
    pub ops_per_s: f64,
    /// What each operation took that ended inside.
    pub latencies_us: Vec<f64>,
    /// Operations from the first to the last, warm-up included.
    pub all_ops: u64,
}

struct Operation {
    started: Instant,
    ended: Instant,
}

/// Lets all workers work.
pub(crate) fn run_slice(
    workers: &mut [Box<dyn Worker>],
    timing: Timing,
    stop: &AtomicBool,
) -> Result<Slice, End> {
    let over = AtomicBool::new(false);
    let slice = thread::scope(|scope| {
        let over = &over;
        let threads = workers
            .iter_mut()
            .map(|worker| scope.spawn(|| work(&mut **worker, timing.length, over)));
        let mut begin = Instant::now();
        let threads = threads.collect::<Vec<_>>();
        let mut end = None;
        if let Length::Time { slice, warm_up } = timing.length {
            rest(warm_up, &[stop, over]);
            begin = Instant::now();
            rest(slice, &[stop, over]);
            end = Some(Instant::now());
            over.store(true, Ordering::Relaxed);
        }
        let mut operations = Vec::new();
        for thread in threads {
            operations.extend(thread.join().expect("workers do not panic")?);
        }
        io::Result::Ok(count(&operations, begin, end.unwrap_or_else(Instant::now)))
    });
    if stop.load(Ordering::Relaxed) {
        return Err(End::Interrupted);
    }
    slice.map_err(|error| End::Failed(error.to_string()))
}

fn work(worker: &mut dyn Worker, length: Length, over: &AtomicBool) -> io::Result<Vec<Operation>> {
    let mut operations = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let started = Instant::now();
        // One failure ends the slice for all.
        worker.operate().inspect_err(|_| over.store(true, Ordering::Relaxed))?;
        operations.push(Operation { started, ended: Instant::now() });
        if matches!(length, Length::OneOperation) {
            break;
        }
    }
    Ok(operations)
}

// Sleeps, unless one of the flags says that it is of no use any more.
fn rest(time: Duration, flags: &[&AtomicBool]) {
    let end = Instant::now() + time;
    while !flags.iter().any(|flag| flag.load(Ordering::Relaxed)) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(CHECK));
    }
}

fn count(operations: &[Operation], begin: Instant, end: Instant) -> Slice {
    let part = |operation: &Operation| {
        let from = operation.started.max(begin);
        let inside = operation.ended.min(end).saturating_duration_since(from);
        let whole = operation.ended - operation.started;
        if whole.is_zero() { 0.0 } else { inside.as_secs_f64() / whole.as_secs_f64() }
    };
    let ops = operations.iter().map(part).sum::<f64>();
    let ended_inside =
        operations.iter().filter(|operation| (begin..end).contains(&operation.ended));
    let latency_us =
        |operation: &Operation| (operation.ended - operation.started).as_secs_f64() * 1e6;
    Slice {
        ops_per_s: ops / (end - begin).as_secs_f64(),
        latencies_us: ended_inside.map(latency_us).collect(),
        all_ops: operations.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_with_its_part_inside() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let operation = |from: u64, to: u64| Operation { started: at(from), ended: at(to) };
        let operations = [
            operation(0, 50),    // before
            operation(50, 150),  // half
            operation(150, 250), // whole
            operation(150, 350), // three quarters
            operation(300, 400), // after
        ];
        let slice = count(&operations, at(100), at(300));
        assert!((slice.ops_per_s - 2.25 / 0.2).abs() < 1e-9, "{}", slice.ops_per_s);
        assert_eq!((slice.latencies_us.len(), slice.all_ops), (2, 5));
    }

    #[test]
    fn slices_are_odd_in_number_and_fill_the_time() {
        for (seconds, slices) in [(0.5, 5), (3.0, 5), (4.0, 7), (60.0, 101)] {
            let timing = Timing::new(seconds, Duration::ZERO);
            assert_eq!(timing.slices, slices);
            let Length::Time { slice, .. } = timing.length else { panic!("{timing:?}") };
            assert!((slice.as_secs_f64() * f64::from(slices) - seconds).abs() < 1e-3);
            assert_eq!(Timing::one_operation_each(seconds).slices, slices.min(25));
        }
    }
}
