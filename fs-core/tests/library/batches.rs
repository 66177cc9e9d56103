//! Batches: order, results, limits, futures, panics, the end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use fs_core::batch::{CloseError, FileError, FilesConfig};
use fs_core::error::Errno;
use fs_core::platform::sim::{DurabilityModel, FencePoint};

use crate::bench::{Bench, content};
use crate::*;

/// Wakes a thread; counts.
pub struct Wakes {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Runs a future on this thread; its result, and how often it was polled.
pub fn run<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let thread = std::thread::current();
    let wakes = Arc::new(Wakes { thread, woken: AtomicBool::new(true) });
    let waker = Waker::from(Arc::clone(&wakes));
    let mut polls = 0;
    loop {
        if wakes.woken.swap(false, Ordering::SeqCst) {
            polls += 1;
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return (output, polls);
            }
        }
        std::thread::park_timeout(LONG);
    }
}

#[test]
fn everything_may_go_to_other_threads() {
    const fn is_shared<T: Send + Sync + 'static>() {}
    const fn is_sent<T: Send + 'static>() {}
    is_shared::<fs_core::batch::Files>();
    is_sent::<fs_core::batch::Batch>();
    is_sent::<fs_core::batch::Committing>();
    is_shared::<fs_core::batch::BatchError>();
}

#[test]
fn operations_of_a_batch_see_those_before() {
    let (place, files) = files();
    files.write("old", "old").unwrap();
    let batch = files
        .batch()
        .write("a", "1")
        .copy("a", "b")
        .write("a", "2")
        .copy("a", "c")
        .delete("old")
        .delete("old")
        .write("d", "x")
        .delete("d");
    assert_eq!(batch.len(), 8);
    batch.commit().unwrap();
    let all = ["a", "b", "c"].map(|name| text(&place, name));
    assert_eq!(all, ["2", "1", "2"]);
    assert!(!place.path().join("old").exists() && !place.path().join("d").exists());
    let error = files.batch().delete("a").copy("a", "e").commit().unwrap_err();
    assert_eq!((error.failed_at, error.completed), (1, 1));
    assert!(!place.path().join("a").exists(), "the first one is done");
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
}

#[test]
fn the_first_failure_ends_a_batch_and_is_told() {
    let (place, files) = files();
    let batch = files.batch().write("a", "1").write("no/b", "2").write("c", "3");
    let error = batch.commit().unwrap_err();
    assert_eq!((error.failed_at, error.completed), (1, 1));
    assert_eq!(error.source.errno(), Some(Errno::NOENT));
    let text_of = error.to_string();
    assert!(
        text_of.starts_with("operation 1 of the batch failed after 1 were done: "),
        "{text_of}"
    );
    assert_eq!(text(&place, "a"), "1");
    assert!(!place.path().join("c").exists());
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    files.batch().commit().unwrap();
}

#[test]
fn a_batch_of_more_files_than_may_be_open() {
    let (place, files) = files();
    let mut batch = files.batch();
    for number in 0..300 {
        batch = batch.write(format!("f{number}"), vec![number as u8; number]);
    }
    batch.commit().unwrap();
    for number in 0..300 {
        let found = std::fs::read(place.path().join(format!("f{number}"))).unwrap();
        assert_eq!(found, vec![number as u8; number]);
    }
    let bench = Bench::with_log(FilesConfig::default());
    let mut batch = bench.files().batch();
    for number in 0..300 {
        batch = batch.write(format!("f{number}"), vec![number as u8; number]);
    }
    batch.write("f7", "last").commit().unwrap();
    assert_eq!(content(&bench.backing, "f299"), Some(vec![43; 299]));
    assert_eq!(content(&bench.backing, "f7"), Some(b"last".to_vec()));
}

#[test]
fn the_same_path_is_written_in_the_order_of_the_batches() {
    for shards in [1, 2, 8] {
        let (place, files) = files_with(FilesConfig { shards, ..plain() });
        let done = Arc::new(Mutex::new(Vec::new()));
        let (sender, results) = channel();
        for number in 0..100 {
            let (done, sender) = (Arc::clone(&done), sender.clone());
            let batch = files.batch().write("same", number.to_string());
            batch.write(format!("own{}", number % 7), "x").commit_then(move |result| {
                done.lock().unwrap().push(number);
                sender.send(result).unwrap();
            });
        }
        for _ in 0..100 {
            results.recv_timeout(LONG).unwrap().unwrap();
        }
        assert_eq!(text(&place, "same"), "99", "{shards} shards");
        assert!(files.status().threads <= shards);
    }
}

#[test]
fn no_thread_without_work() {
    let (_place, files) = files();
    files.write("a", "1").unwrap();
    files.batch().write("a", "2").delete("b").commit().unwrap();
    assert_eq!(files.status().threads, 0, "who waits carries his batch out himself");
    run(files.batch().write("a", "3").commit_async()).0.unwrap();
    assert_eq!(files.status().threads, 1);
    let start = Instant::now();
    while files.status().threads > 0 {
        assert!(start.elapsed() < LONG, "an idle thread ends");
        std::thread::sleep(Duration::from_millis(50));
    }
    run(files.batch().write("a", "4").commit_async()).0.unwrap();
}

/// A payload that panics when it is read the second time: to be written.
struct Bomb(AtomicUsize);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) == 0, "planned by the test");
        b"12345"
    }
}

#[test]
fn a_panic_fails_its_batch_and_nobody_else() {
    let (place, files) = files();
    let bomb = || files.batch().write("a", "1").write("b", Bomb(AtomicUsize::new(0)));
    let errors = [bomb().commit(), run(bomb().commit_async()).0];
    for error in errors.map(Result::unwrap_err) {
        assert_eq!((error.failed_at, error.completed), (1, 1));
        let planned = |text: &str| text.contains("planned by the test");
        assert!(matches!(&error.source, FileError::Panicked(text) if planned(text)), "{error}");
    }
    run(files.batch().write("c", "3").commit_async()).0.unwrap();
    files.write("d", "4").unwrap();
    assert_eq!(text(&place, "a"), "1");
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    assert_eq!(files.status().batches_under_way, 0);
}

#[test]
fn a_full_queue_makes_callers_wait() {
    let config = FilesConfig { queue_ops_max: 2, ..FilesConfig::default() };
    let bench = Bench::with_log(config);
    let files = bench.files();
    let hold = bench.hold(FencePoint::LogFlush);
    let (sender, results) = channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| files.batch().write("a", "1").write("b", "1").commit());
        hold.await_fence();
        scope.spawn(move || sender.send(files.batch().write("c", "2").commit()).unwrap());
        assert!(results.recv_timeout(Duration::from_millis(200)).is_err(), "no room");
        assert_eq!(content(&bench.backing, "c"), None, "and nothing of it is done");
        hold.let_go();
        results.recv_timeout(LONG).unwrap().unwrap();
        first.join().unwrap().unwrap();
    });
}

#[test]
fn a_future_that_is_dropped_before_it_is_let_in_takes_its_batch_back() {
    let config = FilesConfig { queue_ops_max: 1, ..FilesConfig::default() };
    let bench = Bench::with_log(config);
    let files = bench.files();
    let hold = bench.hold(FencePoint::LogFlush);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| files.batch().write("a", "1").commit());
        hold.await_fence();
        let mut waiting = Box::pin(files.batch().write("b", "2").commit_async());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(context).is_pending());
        drop(waiting);
        hold.let_go();
        first.join().unwrap().unwrap();
    });
    files.batch().write("c", "3").commit().unwrap();
    assert_eq!(content(&bench.backing, "b"), None);
}

/// A thread that leads would never come back while others go on.
#[test]
fn a_thread_leads_no_longer_than_its_own_request_takes() {
    let bench = Bench::with_log(FilesConfig::default());
    let files = bench.files();
    bench.backing.on_fence(Some(Arc::new(|point| {
        if point == FencePoint::LogFlush {
            std::thread::sleep(Duration::from_millis(2));
        }
    })));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let done = &done;
            scope.spawn(move || {
                // Each has its turn, and goes on until all have had it.
                let mut round = 0_u32;
                while done.load(Ordering::Relaxed) < 4 {
                    files.write(format!("f{number}"), round.to_string()).unwrap();
                    round += 1;
                    if round == 20 {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let lanes = files.status().engine.lanes;
    assert!(lanes.groups < lanes.sync_requests, "{lanes:?}");
    assert!(files.status().engine.lanes.pending == 0);
}

#[test]
fn closing_drains_and_refuses_who_comes_late() {
    let mut bench = Bench::with_log(FilesConfig { queue_ops_max: 1, ..FilesConfig::default() });
    let files = bench.files.take().unwrap();
    let hold = bench.hold(FencePoint::LogFlush);
    let late = files.batch().write("late", "x");
    let (sender, waiting) = channel();
    let first = files.batch().write("a", "1");
    let second = files.batch().write("b", "1");
    let first = std::thread::spawn(move || first.commit());
    hold.await_fence();
    std::thread::spawn(move || second.commit_then(move |result| sender.send(result).unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    let closing = std::thread::spawn(move || files.close(LONG));
    let refused = waiting.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(matches!(refused.source, FileError::ShutdownInProgress), "it was not let in");
    let refused = late.commit().unwrap_err();
    assert!(matches!(refused.source, FileError::ShutdownInProgress));
    assert!(!closing.is_finished(), "the first one is under way");
    hold.let_go();
    assert_eq!(closing.join().unwrap(), Ok(()));
    first.join().unwrap().unwrap();
    assert_eq!(content(&bench.backing, "a"), Some(b"1".to_vec()));
    assert_eq!(content(&bench.backing, "b"), None);
}

#[test]
fn closing_gives_up_at_the_deadline() {
    let mut bench = Bench::without_log(DurabilityModel::Ext4Ordered, FilesConfig::default());
    let files = bench.files.take().unwrap();
    let hold = bench.hold(FencePoint::Begin(1));
    let batch = files.batch().write("a", "1");
    let first = std::thread::spawn(move || batch.commit());
    hold.await_fence();
    let start = Instant::now();
    let closed = files.close(Duration::from_millis(100));
    assert_eq!(closed, Err(CloseError::StillBusy { batches: 1, solos: 0 }));
    assert!(start.elapsed() < Duration::from_secs(5), "once, not for each thread");
    hold.let_go();
    first.join().unwrap().unwrap();
}
