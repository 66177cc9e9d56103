//! Work that is handed to a thread of its own, where there can be one.

use std::sync::{Arc, Mutex, PoisonError};

/// Has a new thread of this name `carry` work out. Gives the work back, and warns, if the system has
/// no thread to give.
pub fn hand_over<W: Send + 'static>(
    name: &str,
    work: W,
    carry: impl FnOnce(W) + Send + 'static,
) -> Option<W> {
    // A thread that does not start takes its closure with it.
    let work = Arc::new(Mutex::new(Some(work)));
    let its = Arc::clone(&work);
    let run = move || {
        if let Some(work) = take(&its) {
            carry(work);
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).err().and_then(|error| {
        tracing::warn!(%error, name, "no thread for work that takes long; others wait for it");
        take(&work)
    })
}

fn take<W>(work: &Mutex<Option<W>>) -> Option<W> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}
