//! The queue with jobs that do nothing.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

type Told = (u32, &'static str);

/// Tells when it is advanced and submitted; takes several slices.
struct Toy {
    name: u32,
    slices: usize,
    told: Sender<Told>,
}

impl Job for Toy {
    type Ready = (Self, Turn<Self>);

    fn advance(mut self, turn: Turn<Self>) -> Advanced<Self> {
        assert_ne!(self.name, 13, "planned by the test");
        self.slices -= 1;
        if self.slices > 0 {
            return Advanced::More(self, turn);
        }
        drop(turn.applying());
        self.tell("applied");
        Advanced::Ready((self, turn))
    }

    fn submit(ready: Vec<Self::Ready>) {
        for (toy, turn) in ready {
            drop(turn);
            toy.tell("answered");
        }
    }

    fn refuse(self) {
        self.tell("refused");
    }
}

impl Toy {
    fn tell(&self, what: &'static str) {
        self.told.send((self.name, what)).expect("the test listens");
    }
}

fn need(path: u64) -> Need {
    Need { ops: 1, bytes: 0, paths: [path].into() }
}

struct Bench {
    queue: Arc<Queue<Toy>>,
    told: (Sender<Told>, Receiver<Told>),
}

impl Bench {
    fn new(config: &FilesConfig, spawn: Spawn) -> Self {
        Self { queue: Queue::with(config, IDLE, spawn), told: channel() }
    }

    fn enter(&self, name: u32, path: u64, slices: usize) -> Option<Ticket> {
        let told = self.told.0.clone();
        self.queue.enter_job(need(path), Toy { name, slices, told })
    }

    fn next(&self) -> Told {
        self.told.1.recv_timeout(Duration::from_secs(20)).expect("something happens")
    }
}

/// fsys S11: a thread that could not be started left its shard dead for ever, and
/// everything that came to it was refused.
#[test]
fn s11_without_a_thread_the_caller_does_the_work() {
    let config = FilesConfig { shards: 2, ..FilesConfig::default() };
    let bench = Bench::new(&config, |_| Err(std::io::ErrorKind::WouldBlock.into()));
    for name in 1..4 {
        bench.enter(name, 1, 3);
        assert_eq!(bench.next(), (name, "applied"));
        assert_eq!(bench.next(), (name, "answered"));
    }
    assert_eq!(bench.queue.load().threads, 0);
}

#[test]
fn a_job_of_several_slices_lets_a_short_one_pass() {
    let config = FilesConfig { shards: 1, ..FilesConfig::default() };
    let bench = Bench::new(&config, spawn);
    let turn = bench.queue.enter_and_wait(need(9)).expect("it is open");
    bench.enter(1, 9, 1000);
    bench.enter(2, 9, 1);
    bench.enter(3, 8, 1);
    assert_eq!([bench.next(), bench.next()], [(3, "applied"), (3, "answered")]);
    drop(turn);
    assert_eq!(bench.next(), (1, "applied"), "the same path keeps its order");
    let rest: Vec<_> = (0..3).map(|_| bench.next()).collect();
    assert!(rest.contains(&(2, "answered")), "{rest:?}");
}

#[test]
fn a_job_that_panics_gives_its_turn_back() {
    let bench = Bench::new(&FilesConfig::default(), spawn);
    bench.enter(13, 1, 1);
    bench.enter(2, 1, 1);
    assert_eq!(bench.next(), (2, "applied"));
}

#[test]
fn closing_refuses_those_outside_and_ends_all_threads() {
    let config = FilesConfig { queue_ops_max: 1, ..FilesConfig::default() };
    let bench = Bench::new(&config, spawn);
    let turn = bench.queue.enter_and_wait(need(1)).expect("it is open");
    bench.enter(2, 2, 1);
    let load = bench.queue.close(Duration::from_millis(10));
    assert_eq!((load.batches, load.threads), (1, 0));
    assert_eq!(bench.next(), (2, "refused"));
    drop(turn);
    assert_eq!(bench.enter(3, 3, 1), None);
    assert_eq!(bench.next(), (3, "refused"));
    assert!(bench.queue.enter_and_wait(need(1)).is_err());
    assert!(bench.queue.enter_solo().is_err());
    assert_eq!(bench.queue.close(Duration::ZERO).batches, 0);
}
