//! Waiting exactly.
//!
//! A sleep ends late by the timer slack (50 us unless set) and by what the scheduler needs. So: no
//! slack, sleep until shortly before the end, and spin the rest.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

/// What a sleep is late by, mostly: more after a long one, when the processor went deeper to sleep.
const LATE: Duration = Duration::from_micros(60);
const LATE_AFTER_LONG: Duration = Duration::from_micros(130);
const LONG: Duration = Duration::from_micros(800);

/// Lets sleeps of this thread and of those it will start end as exactly as the kernel can.
pub(super) fn sleep_exactly() {
    // A machine that refuses only gives less exact flush times, and a test says so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Waits until `deadline`.
pub(super) fn wait_until(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let late = if left > LONG { LATE_AFTER_LONG } else { LATE };
    if left > late {
        thread::sleep(left - late);
    }
    while Instant::now() < deadline {
        std::hint::spin_loop();
    }
}
