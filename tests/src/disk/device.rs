//! What the disk does, whoever asks: no FUSE and no loop device here.
//!
//! One lock guards the cached image and the record, so both always tell the same. What was answered
//! before a flush arrived is below the position that the flush takes on arrival, and therefore
//! durable when the flush is done; what arrives while it waits is not. An entry is in the record
//! before its request is answered.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::clock;
use super::counters::{Counters, LiveCounters};
use super::faults::{Fault, Faults, Refusal};
use super::image::Image;
use super::page::{PAGE_BYTES, Page, SECTOR_BYTES, spans};
use super::record::{Event, Log, Position, Record, write_to};

// A stuck request looks again this often whether it may go on.
const STUCK_CHECK: Duration = Duration::from_millis(2);
// Debts of transfer time below this are not worth a sleep; they add up.
const TRANSFER_DEBT_MIN: Duration = Duration::from_micros(100);

/// A disk's state and behaviour.
pub(super) struct Device {
    size_bytes: u64,
    state: Mutex<State>,
    // Held while a flush waits: a disk does one at a time.
    flush_turn: Mutex<()>,
    position: AtomicU64,
    flush_time_ns: AtomicU64,
    // 0: as fast as it goes.
    bytes_per_s: AtomicU64,
    counters: LiveCounters,
}

struct State {
    cached: Image,
    log: Log,
    faults: Faults,
    // How often another disk was put in the place of this one.
    loads: u64,
    // When the transfers accepted so far are through, at the configured bandwidth.
    transferred_at: Instant,
}

impl Device {
    pub fn new(image: Image, recording: bool) -> Self {
        let log = Log::new(&image, Position(0), recording);
        let (size_bytes, faults) = (image.size_bytes(), Faults::default());
        let transferred_at = Instant::now();
        let state = State { cached: image, log, faults, loads: 0, transferred_at };
        Device {
            size_bytes,
            state: Mutex::new(state),
            flush_turn: Mutex::new(()),
            position: AtomicU64::new(0),
            flush_time_ns: AtomicU64::new(0),
            bytes_per_s: AtomicU64::new(0),
            counters: LiveCounters::default(),
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn position(&self) -> Position {
        Position(self.position.load(Ordering::SeqCst))
    }

    pub fn counters(&self) -> Counters {
        self.counters.read()
    }

    pub fn set_flush_time(&self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).expect("less than 500 years");
        self.flush_time_ns.store(time_ns, Ordering::SeqCst);
    }

    pub fn set_bandwidth(&self, bytes_per_s: Option<u64>) {
        self.bytes_per_s.store(bytes_per_s.unwrap_or(0), Ordering::SeqCst);
    }

    pub fn inject(&self, fault: Fault) {
        self.lock().faults.inject(fault);
    }

    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    pub fn watch(&self, bytes: Vec<Range<u64>>) {
        self.lock().faults.watch(bytes);
    }

    pub fn record(&self) -> Option<Record> {
        let state = self.lock();
        state.log.snapshot(&state.cached)
    }

    pub fn cached(&self) -> Image {
        self.lock().cached.clone()
    }

    pub fn forget_durable(&self) {
        self.lock().log.forget_durable();
    }

    /// The disk's life begins here: what was asked while it was being set up does not count.
    pub fn begin(&self, recording: bool) {
        let mut state = self.lock();
        state.log = Log::new(&state.cached, Position(0), recording);
        self.position.store(0, Ordering::SeqCst);
        self.counters.reset();
    }

    /// Another disk in the place of this one: power on, no faults, all of `image` durable. Positions
    /// go on.
    pub fn load(&self, image: Image, recording: bool) {
        assert_eq!(image.size_bytes(), self.size_bytes, "another size needs another disk");
        let mut state = self.lock();
        state.log = Log::new(&image, state.log.position(), recording);
        state.cached = image;
        state.faults = Faults::default();
        state.loads += 1;
    }

    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.check(offset, buffer.len() as u64)?;
        let image = {
            let state = self.lock_when_not_stuck();
            state.faults.power()?;
            state.cached.clone()
        };
        image.read_at(offset, buffer);
        self.counters.read_done(buffer.len() as u64);
        Ok(())
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.check(offset, data.len() as u64)?;
        // The copy is made before the lock is taken, and before the request's buffer is reused.
        let spans = spans(offset, data.len() as u64).collect::<Vec<_>>();
        let mut done = 0;
        let pages = spans.iter().map(|span| {
            let part = &data[done..done + span.length()];
            done += span.length();
            if span.is_whole() { Page::new(part) } else { None }
        });
        let pages = pages.collect::<Vec<_>>();

        let mut state = self.lock_when_not_stuck();
        let grows = spans.iter().any(|span| state.cached.page(span.page).is_none());
        let bytes = offset..offset + data.len() as u64;
        state.faults.write(bytes, grows).inspect_err(|_| self.counters.failed())?;
        let State { cached, log, .. } = &mut *state;
        log.push(Event::Write(write_to(cached, &spans, pages, data)));
        self.position.store(log.position().0, Ordering::SeqCst);
        self.counters.write_done(data.len() as u64);
        let through_at = self.account_transfer(&mut state, data.len() as u64);
        drop(state);
        if let Some(through_at) = through_at {
            clock::wait_until(through_at);
        }
        Ok(())
    }

    /// Zeros a range: a discard, or a write of zeros without data.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), Refusal> {
        self.check(offset, length)?;
        let mut state = self.lock_when_not_stuck();
        let bytes = offset..offset + length;
        state.faults.write(bytes, false).inspect_err(|_| self.counters.failed())?;
        state.cached.zero(offset, length);
        state.log.push(Event::Discard { offset, length });
        self.position.store(state.log.position().0, Ordering::SeqCst);
        self.counters.discard_done(length);
        Ok(())
    }

    /// Makes durable what was written before the call.
    pub fn flush(&self) -> Result<(), Refusal> {
        let arrived = Instant::now();
        let (verdict, promise, loads) = {
            let mut state = self.lock_when_not_stuck();
            state.faults.power()?;
            (state.faults.flush(), state.log.flush_arrives(&state.cached), state.loads)
        };
        self.wait_for_flush(arrived);
        let mut state = self.lock();
        // The power may have gone meanwhile, or come again on another disk: then this flush never
        // came to its end.
        let same = if state.loads == loads { Ok(()) } else { Err(Refusal::Io) };
        let outcome = verdict.and(state.faults.power()).and(same);
        outcome.inspect_err(|_| self.counters.failed())?;
        state.log.flush_is_done(promise);
        self.position.store(state.log.position().0, Ordering::SeqCst);
        self.counters.flush_done(arrived.elapsed());
        Ok(())
    }

    // One at a time; a flush that found the disk idle counts from its arrival.
    fn wait_for_flush(&self, arrived: Instant) {
        let (_turn, start) = match self.flush_turn.try_lock() {
            Ok(turn) => (turn, arrived),
            Err(_) => {
                let turn = self.flush_turn.lock().unwrap_or_else(PoisonError::into_inner);
                (turn, Instant::now())
            }
        };
        let time = Duration::from_nanos(self.flush_time_ns.load(Ordering::SeqCst));
        clock::wait_until(start + time);
    }

    // When a request of this many bytes should be answered, if that is worth waiting for.
    fn account_transfer(&self, state: &mut State, bytes: u64) -> Option<Instant> {
        let bytes_per_s = self.bytes_per_s.load(Ordering::SeqCst);
        if bytes_per_s == 0 {
            return None;
        }
        let now = Instant::now();
        let time = Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        state.transferred_at = state.transferred_at.max(now) + time;
        (state.transferred_at - now > TRANSFER_DEBT_MIN).then_some(state.transferred_at)
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Refusal> {
        let sector = SECTOR_BYTES as u64;
        let end = offset.checked_add(length).ok_or(Refusal::Invalid)?;
        let whole = offset.is_multiple_of(sector) && length.is_multiple_of(sector);
        if whole && end <= self.size_bytes { Ok(()) } else { Err(Refusal::Invalid) }
    }

    fn lock_when_not_stuck(&self) -> MutexGuard<'_, State> {
        loop {
            let state = self.lock();
            let Some(left) = state.faults.stuck() else { return state };
            drop(state);
            thread::sleep(left.min(STUCK_CHECK));
        }
    }

    // A panic under the lock is a bug of ours and ends the server; the test that reports it still
    // wants to clean up.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Sizes are given in MiB or GiB; a size that ends inside a page would only cost special cases.
pub(super) fn is_valid_size(size_bytes: u64) -> bool {
    size_bytes > 0 && size_bytes.is_multiple_of(PAGE_BYTES as u64)
}
