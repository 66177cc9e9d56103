//! Requests that take long, on threads of their own.
//!
//! The classic transport has a few workers, the rings a pool of as many threads. What a large file makes wait (it is
//! written in place when it replaces another, or is closed after it was rewritten, and copied before it is cut to
//! nothing) would hold one of them up for as long as the disk takes, and a few of those all others: six renames over 200 MiB each kept `stat` waiting for 570 ms (seen).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_core::thread;

/// Threads at the same time; more requests wait with their workers.
const THREADS_MAX: usize = 16;

/// Counts them.
#[derive(Clone, Default)]
pub(crate) struct Apart(Arc<AtomicUsize>);

/// One of them.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Apart {
    /// Has a thread of its own `carry` work out; gives the work back if there can be none.
    pub(crate) fn run<W: Send + 'static>(
        &self,
        work: W,
        carry: impl FnOnce(W) + Send + 'static,
    ) -> Option<W> {
        let Some(place) = self.place() else { return Some(work) };
        thread::hand_over("lanefs-apart", work, move |work| {
            let _place = place;
            carry(work);
        })
    }

    fn place(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.0));
        // Beyond the limit its drop takes it back.
        (self.0.fetch_add(1, Ordering::Relaxed) < THREADS_MAX).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn there_are_so_many_threads_and_no_more() {
        let (apart, (go, gone)) = (Apart::default(), channel::<()>());
        let gone = Arc::new(Mutex::new(gone));
        let (sender, threads) = channel();
        let run = |number: usize| {
            let (gone, sender) = (Arc::clone(&gone), sender.clone());
            apart.run(number, move |_| {
                sender.send(std::thread::current().id()).expect("the test listens");
                let _ = gone.lock().expect("no panic").recv();
            })
        };
        assert!((0..THREADS_MAX).all(|number| run(number).is_none()));
        let ours = std::thread::current().id();
        assert!(threads.iter().take(THREADS_MAX).all(|thread| thread != ours));
        assert_eq!(run(17), Some(17), "one too many");
        drop(go);
        while apart.0.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(run(18), None, "there is room again");
    }
}
