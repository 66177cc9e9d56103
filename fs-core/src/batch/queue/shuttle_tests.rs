//! The queue in thousands of random orders of its threads: see `sync`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What all of a check's jobs share: who was applied last at each path.
type Seen = Arc<[AtomicUsize; 2]>;

struct Toy {
    path: usize,
    number: usize,
    slices: usize,
    seen: Seen,
    answers: Arc<AtomicUsize>,
}

impl Job for Toy {
    type Ready = (Self, Turn<Self>);

    fn advance(mut self, turn: Turn<Self>) -> Advanced<Self> {
        shuttle::thread::yield_now();
        self.slices -= 1;
        if self.slices > 0 {
            return Advanced::More(self, turn);
        }
        let applying = turn.applying();
        let before = self.seen[self.path].swap(self.number, Ordering::SeqCst);
        assert!(before < self.number, "{before} before {} at a path", self.number);
        drop(applying);
        Advanced::Ready((self, turn))
    }

    fn submit(ready: Vec<Self::Ready>) {
        for (toy, turn) in ready {
            shuttle::thread::yield_now();
            drop(turn);
            toy.answers.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn refuse(self) {
        panic!("nobody comes late");
    }
}

/// In any order of threads batches of one path are applied in order of arrival, each
/// is answered once though the queue has room for two only, and all threads end.
#[test]
fn shuttle_paths_keep_their_order_and_nothing_is_lost() {
    // Few batches: nobody comes later whose arrival would mend what was forgotten.
    for (threads, batches) in [(2, 1), (3, 3)] {
        for idle in [Duration::ZERO, IDLE] {
            shuttle::check_random(move || check(idle, threads, batches), 2000);
            shuttle::check_pct(move || check(idle, threads, batches), 2000, 3);
        }
    }
}

fn check(idle: Duration, threads: usize, batches: usize) {
    // With one thread that ends early, an arrival may meet its end.
    let shards = if idle.is_zero() { 1 } else { 2 };
    let config = FilesConfig { queue_ops_max: 2, shards, ..FilesConfig::default() };
    let queue = Queue::<Toy>::with(&config, idle, |work| {
        drop(shuttle::thread::spawn(work));
        Ok(())
    });
    let (seen, answers) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    // Who arrives gets the next number, under one lock with his arrival.
    let next = Arc::new(Mutex::new(0));
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let (queue, next) = (Arc::clone(&queue), Arc::clone(&next));
            let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
            shuttle::thread::spawn(move || {
                for batch in 0..batches {
                    let path = (thread + batch) % 2;
                    let need = Need { ops: 1, bytes: 0, paths: [path as u64].into() };
                    let mut next = next.lock().expect("no panic");
                    *next += 1;
                    let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                    let slices = 1 + batch % 2;
                    let toy = Toy { path, number: *next, slices, seen, answers };
                    let ticket = queue.enter_job(need, toy).expect("it is open");
                    drop(next);
                    queue.wait_inside(ticket);
                }
            })
        })
        .collect();
    if batches > 1 {
        // And one that does its own work.
        let need = Need { ops: 1, bytes: 0, paths: [0, 1].into() };
        drop(queue.enter_and_wait(need).expect("it is open"));
    }
    running.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let left = queue.close(Duration::from_secs(1000));
    assert_eq!((left.batches, left.threads), (0, 0));
    assert_eq!(answers.load(Ordering::SeqCst), threads * batches);
}
