//! The locks of what several threads decide together: the lanes and the batch queue.
//!
//! They are the standard library's. In unit tests with `--cfg shuttle` they are those of
//! shuttle, which runs a test's threads in thousands of random orders, switches between
//! them at every lock, and reports orders that end in a deadlock:
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test -p fs-core --lib --target-dir target/shuttle shuttle
//! ```
//!
//! A wait with a deadline never times out there.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
