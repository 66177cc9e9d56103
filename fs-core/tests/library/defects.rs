//! One test for each defect of the crate that the idea comes from (fsys 1.1, its numbers)
//! that could be made again here. Those of its journal (C4 to C7, C10 to C13) and of its
//! hardware paths have nothing here that they could be in; S12 was the cost of a lock.
//! S11 (a thread that cannot be started) is tested beside the queue, `batch/queue.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use fs_core::batch::{CloseError, FileError, Files, FilesConfig, Method};
use fs_core::error::Errno;
use fs_core::platform::sim::{DurabilityModel, FencePoint};

use crate::batches::run;
use crate::bench::{Bench, content};
use crate::*;

const MODELS: [DurabilityModel; 2] = [DurabilityModel::Ext4Ordered, DurabilityModel::PosixMin];

/// Crashes after each of which a check must hold.
fn after_crashes(bench: &Bench, check: impl Fn(&fs_core::platform::sim::SimBacking)) {
    (0..200).for_each(|seed| check(&bench.backing.crash(seed)));
}

/// S1: one fdatasync, one directory sync per operation, one after another: 2 commits for
/// each at any number of threads.
#[test]
fn s1_callers_share_their_flushes() {
    const CALLERS: u64 = 24;
    let bench = Bench::with_log(FilesConfig::default());
    let files = bench.files();
    files.write("first", "x").unwrap();
    let before = bench.backing.figures().log_flushes;
    let hold = bench.hold(FencePoint::LogFlush);
    std::thread::scope(|scope| {
        scope.spawn(|| files.write("leader", "x").unwrap());
        hold.await_fence();
        for number in 0..CALLERS {
            scope.spawn(move || {
                let (one, other) = (format!("a{number}"), format!("b{number}"));
                files.batch().write(one, "x").write(other, "y").commit().unwrap();
            });
        }
        // All names are there before any of them is durable: they are applied, and wait.
        let start = Instant::now();
        while (0..CALLERS).any(|n| content(&bench.backing, &format!("b{n}")).is_none()) {
            assert!(start.elapsed() < LONG, "nobody waits for the fence to apply");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        hold.let_go();
    });
    let flushes = bench.backing.figures().log_flushes - before;
    // Two or three; some callers may have been too late on a busy machine.
    assert!(flushes <= CALLERS / 2, "{flushes} flushes for 1 write and {CALLERS} batches of 2");
}

/// S1, for callers that do not wait: what one thread of the library has applied leaves
/// together.
#[test]
fn s1_batches_of_one_thread_share_their_flushes() {
    let bench = Bench::with_log(FilesConfig { shards: 1, ..FilesConfig::default() });
    let hold = bench.hold(FencePoint::LogFlush);
    let (sender, results) = channel();
    let commit = |number: usize| {
        let sender = sender.clone();
        let batch = bench.files().batch().write(format!("f{number}"), "x");
        batch.commit_then(move |result| sender.send(result).unwrap());
    };
    commit(0);
    hold.await_fence();
    let before = bench.backing.figures().log_flushes;
    (1..30).for_each(commit);
    hold.let_go();
    (0..30).for_each(|_| results.recv_timeout(LONG).unwrap().unwrap());
    let flushes = bench.backing.figures().log_flushes - before;
    assert!(flushes <= 3, "{flushes} flushes for 30 batches");
}

/// S2: a window of up to 1 ms although nobody is expected.
#[test]
fn s2_a_lone_caller_is_never_held() {
    let bench = Bench::with_log(FilesConfig::default());
    for number in 0..200 {
        bench.files().batch().write("a", vec![number; 100]).commit().unwrap();
    }
    let lanes = bench.files().status().engine.lanes;
    assert_eq!(lanes.hold_us_p99, 0.0);
}

/// S3: content that went past the page cache was never flushed.
#[test]
fn s3_direct_content_is_durable_with_its_length() {
    for model in MODELS {
        let config = FilesConfig { method: Method::Direct, ..FilesConfig::default() };
        let bench = Bench::without_log(model, config);
        let bytes = vec![5; 3 * 4096 + 77];
        bench.files().write("a", &bytes).unwrap();
        assert!(bench.files().status().direct_bytes > 0);
        after_crashes(&bench, |crashed| {
            assert_eq!(content(crashed, "a").as_ref(), Some(&bytes), "{model:?}");
        });
    }
}

/// S4: the error of a directory's sync was thrown away, and all was said to be durable.
#[test]
fn s4_an_error_of_a_shared_directory_sync_reaches_every_caller() {
    let bench = Bench::without_log(DurabilityModel::Ext4Ordered, FilesConfig::default());
    let files = bench.files();
    let hold = bench.hold(FencePoint::Target(0));
    std::thread::scope(|scope| {
        let batch = files.batch().delete("a").delete("b");
        let first = scope.spawn(move || batch.commit());
        hold.await_fence();
        let others: Vec<_> =
            (0..4).map(|number| scope.spawn(move || files.delete(format!("x{number}")))).collect();
        std::thread::sleep(Duration::from_millis(100));
        bench.backing.abort_journal();
        hold.let_go();
        let error = first.join().unwrap().unwrap_err();
        assert_eq!((error.failed_at, error.completed), (2, 0));
        assert!(matches!(error.source, FileError::NotDurable(Errno::IO)), "{error}");
        for other in others {
            let error = other.join().unwrap().unwrap_err();
            assert!(matches!(error, FileError::NotDurable(Errno::IO)), "{error}");
        }
    });
}

/// S5: a delete was never followed by a sync of its directory.
#[test]
fn s5_a_deleted_file_stays_deleted() {
    for model in MODELS {
        let bench = Bench::without_log(model, FilesConfig::default());
        bench.files().write("a", "x").unwrap();
        bench.files().delete("a").unwrap();
        after_crashes(&bench, |crashed| assert_eq!(content(crashed, "a"), None, "{model:?}"));
    }
}

/// S6: when an operation failed, those before it were never synced, though said to be
/// durable.
#[test]
fn s6_what_was_done_before_a_failure_is_durable() {
    for model in MODELS {
        let bench = Bench::without_log(model, FilesConfig::default());
        let batch = bench.files().batch().write("a", "1").write("no/b", "2").write("c", "3");
        let error = batch.commit().unwrap_err();
        assert_eq!((error.failed_at, error.completed), (1, 1));
        after_crashes(&bench, |crashed| {
            assert_eq!(content(crashed, "a"), Some(b"1".to_vec()), "{model:?}");
            assert_eq!(content(crashed, "c"), None, "{model:?}");
        });
    }
}

/// S7: a delete in a batch was durable only if a write shared its directory.
#[test]
fn s7_a_delete_needs_no_write_beside_it() {
    for model in MODELS {
        let bench = Bench::without_log(model, FilesConfig::default());
        bench.files().create_dirs("d").unwrap();
        bench.files().batch().write("d/a", "x").write("b", "x").commit().unwrap();
        bench.files().batch().write("c", "x").delete("d/a").commit().unwrap();
        after_crashes(&bench, |crashed| {
            let tree = Bench::names(crashed, "d");
            assert_eq!(tree, Vec::<String>::new(), "{model:?}");
        });
    }
}

/// S8: temporary names were a counter from 0: two processes, or a crash before, made
/// writes fail.
#[test]
fn s8_names_of_temporary_files_are_never_met_again() {
    let names: Vec<_> = (0..2)
        .map(|_| {
            let bench = Bench::without_log(DurabilityModel::Ext4Ordered, FilesConfig::default());
            bench.files().write("first", "x").unwrap();
            let hold = bench.hold(FencePoint::WriteBack);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let batch = bench.files().batch().write("a", "x");
                    batch.commit().unwrap();
                });
                hold.await_fence();
                // A file is written back before it gets its name.
                let name = Bench::names(&bench.backing, "")
                    .into_iter()
                    .find(|name| name.starts_with(".lanefs-tmp-") && name != ".lanefs-tmp-open");
                hold.let_go();
                name.expect("the temporary file")
            })
        })
        .collect();
    assert_ne!(names[0], names[1]);
}

/// S9: nothing ever removed the temporary files that a crash had left.
#[test]
fn s9_leftovers_are_removed_by_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("d/e")).unwrap();
    for name in [".lanefs-tmp-open", ".lanefs-tmp-1", "d/.lanefs-tmp-2", "d/e/.lanefs-tmp-3"] {
        std::fs::write(place.path().join(name), "x").unwrap();
    }
    std::fs::write(place.path().join("d/mine"), "x").unwrap();
    let files = Files::open(place.path(), plain()).unwrap();
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    assert!(place.path().join("d/mine").exists());
    files.write("a", "x").unwrap();
    assert!(place.path().join(".lanefs-tmp-open").exists(), "until the library is closed");
    files.close(LONG).unwrap();
    assert!(!place.path().join(".lanefs-tmp-open").exists());
}

/// S10: a future whose queue was full tried again and again.
#[test]
fn s10_a_future_with_a_full_queue_parks() {
    let bench = Bench::with_log(FilesConfig { queue_ops_max: 1, ..FilesConfig::default() });
    let files = bench.files();
    let hold = bench.hold(FencePoint::LogFlush);
    std::thread::scope(|scope| {
        scope.spawn(|| files.batch().write("a", "1").commit().unwrap());
        hold.await_fence();
        let waiting = scope.spawn(|| run(files.batch().write("b", "2").commit_async()));
        std::thread::sleep(Duration::from_millis(300));
        hold.let_go();
        let (result, polls) = waiting.join().unwrap();
        result.unwrap();
        assert!(polls <= 2, "{polls} polls");
    });
}

/// A payload that is not read before somebody says so: the first reading is for its length.
struct Late(AtomicUsize, Arc<AtomicUsize>);

impl AsRef<[u8]> for Late {
    fn as_ref(&self) -> &[u8] {
        let start = Instant::now();
        while self.0.load(Ordering::SeqCst) > 0 && self.1.load(Ordering::SeqCst) == 0 {
            assert!(start.elapsed() < LONG, "somebody says so");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        b"x"
    }
}

/// S13: a batch of one waited behind one of ten thousand: seconds.
#[test]
fn s13_a_small_batch_is_not_behind_a_large_one() {
    let (_place, files) = files_with(FilesConfig { shards: 1, ..plain() });
    let (sender, done) = channel();
    let submitted = Arc::new(AtomicUsize::new(0));
    // Under way, but not far, when the small one comes.
    let first = Late(AtomicUsize::new(0), Arc::clone(&submitted));
    let mut large = files.batch().write("first", first);
    for number in 0..1000 {
        large = large.write(format!("f{number}"), "x");
    }
    let tell = |name: &'static str| {
        let sender = sender.clone();
        move |result: Result<(), fs_core::batch::BatchError>| {
            result.unwrap();
            sender.send(name).unwrap();
        }
    };
    large.commit_then(tell("large"));
    files.batch().write("small", "x").commit_then(tell("small"));
    submitted.store(1, Ordering::SeqCst);
    let order: Vec<_> = (0..2).map(|_| done.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(order, ["small", "large"]);
}

/// S15: closing waited 5 s for each thread in turn, then left them to be cut by the
/// process's end, with temporary files.
#[test]
fn s15_one_deadline_and_nothing_half_written() {
    let mut bench = Bench::with_log(FilesConfig::default());
    let files = bench.files.take().unwrap();
    let hold = bench.hold(FencePoint::LogFlush);
    let (sender, done) = channel();
    for number in 0..20 {
        let sender = sender.clone();
        let batch = files.batch().write(format!("f{number}"), vec![7; 5000]);
        batch.commit_then(move |result| sender.send(result).unwrap());
    }
    hold.await_fence();
    let start = Instant::now();
    let closed = files.close(Duration::from_millis(200));
    assert!(matches!(closed, Err(CloseError::StillBusy { batches: 1..=20, .. })), "{closed:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
    hold.let_go();
    (0..20).for_each(|_| done.recv_timeout(LONG).unwrap().unwrap());
    for number in 0..20 {
        assert_eq!(content(&bench.backing, &format!("f{number}")), Some(vec![7; 5000]));
    }
}

/// A payload that cannot be copied, and tells when it is dropped.
struct Payload(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// S16: every payload was copied, and the queue knew no bytes.
#[test]
fn s16_payloads_are_not_copied_and_bytes_are_bounded() {
    let config = FilesConfig { queue_bytes_max: 1000, ..FilesConfig::default() };
    let bench = Bench::with_log(config);
    let files = bench.files();
    let hold = bench.hold(FencePoint::LogFlush);
    let dropped = Arc::new(AtomicUsize::new(0));
    let payload = || Payload(vec![1; 600], Arc::clone(&dropped));
    std::thread::scope(|scope| {
        scope.spawn(|| files.batch().write("a", payload()).commit().unwrap());
        hold.await_fence();
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "no longer kept than needed");
        let second = scope.spawn(|| files.batch().write("b", payload()).commit().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        assert!(!second.is_finished(), "600 more bytes are too many");
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        hold.let_go();
    });
    assert_eq!(content(&bench.backing, "b"), Some(vec![1; 600]));
}

/// S17: a path that a batch wrote many times was replaced, durably, as many times.
#[test]
fn s17_only_the_last_write_of_a_path_leaves_a_trace() {
    let bench = Bench::with_log(FilesConfig::default());
    let files = bench.files();
    files.batch().write("a", "x").write("b", "x").commit().unwrap();
    let before = bench.backing.figures().log_flushes;
    let mut batch = files.batch();
    for number in 0..500 {
        batch = batch.write("a", format!("{number}"));
    }
    batch.write("b", "y").commit().unwrap();
    assert_eq!(content(&bench.backing, "a"), Some(b"499".to_vec()));
    assert_eq!(bench.backing.figures().log_flushes - before, 1);
    let left = Bench::names(&bench.backing, "");
    assert_eq!(left, [".lanefs", ".lanefs-tmp-open", "a", "b"]);
}

/// C2: hard links were split without a word, and a link was replaced by a file.
#[test]
fn c2_hard_links_keep_their_meaning() {
    let (place, files) = files();
    std::fs::write(place.path().join("a"), "old").unwrap();
    std::fs::hard_link(place.path().join("a"), place.path().join("b")).unwrap();
    let error = files.write("a", "new").unwrap_err();
    assert!(matches!(error, FileError::HardLinked { names: 2, .. }), "{error}");
    assert!(error.to_string().contains("HardLinks::Split"), "{error}");
    assert_eq!((text(&place, "a"), text(&place, "b")), ("old".into(), "old".into()));
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
}

/// C8: copies, and directories that were made, were not durable; nor was a new
/// directory's own name.
#[test]
fn c8_copies_and_new_directories_are_durable() {
    for model in MODELS {
        let bench = Bench::without_log(model, FilesConfig::default());
        let files = bench.files();
        files.create_dirs("d/e").unwrap();
        files.write("a", vec![3; 9000]).unwrap();
        files.copy("a", "b").unwrap();
        files.write("d/e/f", "x").unwrap();
        after_crashes(&bench, |crashed| {
            assert_eq!(content(crashed, "b"), Some(vec![3; 9000]), "{model:?}");
            assert_eq!(Bench::names(crashed, "d"), ["e"], "{model:?}");
        });
    }
}

/// C9: a sync of a newly opened file may not be told what writing it has met.
#[test]
fn c9_a_failed_write_back_is_told_and_the_old_content_stays() {
    for logged in [false, true] {
        let bench = if logged {
            Bench::with_log(FilesConfig::default())
        } else {
            Bench::without_log(DurabilityModel::Ext4Ordered, FilesConfig::default())
        };
        bench.files().write("a", "old").unwrap();
        bench.backing.fail_sync(1);
        let error = bench.files().write("a", "new").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::IO), "{error}");
        assert_eq!(content(&bench.backing, "a"), Some(b"old".to_vec()));
        bench.backing.fail_sync(1);
        let batch = bench.files().batch().write("b", "new").write("c", "new");
        let error = batch.commit().unwrap_err();
        assert_eq!((error.failed_at, error.completed), (0, 0));
        bench.files().write("a", "newer").unwrap();
        assert_eq!(content(&bench.backing, "a"), Some(b"newer".to_vec()));
        let names = Bench::names(&bench.backing, "");
        assert!(!names.iter().any(|name| name == "b" || name == "c"), "{names:?}");
    }
}
