//! Promise: when the daemon is killed, nothing that was acknowledged is lost, and the mount point
//! can be used again.
//!
//! Writers do crash-safe replaces and appends; in the middle the daemon gets SIGKILL. The mount is
//! dead then (ENOTCONN); `lanefs umount` clears it with exit code 0, and a new mount serves the same
//! directory. Every replace that had returned is there, whole, or a later one; every appended record
//! that had been synced is there. Several rounds on one directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tests::replace::{Replacer, version_found};
use tests::subject::Subject;
use tests::{require, run};

const WRITERS: usize = 8;
const APPENDERS: usize = 2;
const ROUNDS: u64 = 4;
// Enough for every writer to have come around a few times.
const ACKNOWLEDGED_BEFORE_KILL: u64 = 300;
const DEADLINE: Duration = Duration::from_secs(60);
const RECORD_BYTES: u64 = 32;

/// What each writer was promised so far.
#[derive(Default)]
struct Promises {
    replaced: [AtomicU64; WRITERS],
    appended: [AtomicU64; APPENDERS],
    stop: AtomicBool,
}

impl Promises {
    fn total(&self) -> u64 {
        let all = self.replaced.iter().chain(&self.appended);
        all.map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

#[test]
fn a_killed_daemon_loses_nothing_acknowledged() {
    if !require::mount_support() {
        return;
    }
    let mut subject = Subject::ext4(512);
    let promises = Promises::default();
    for round in 0..ROUNDS {
        promises.stop.store(false, Ordering::SeqCst);
        let start = promises.total();
        let root = subject.path().to_path_buf();
        std::thread::scope(|scope| {
            // Whatever happens below, the writers must end, or the scope waits for them for ever.
            let _stop = StopAtEnd(&promises.stop);
            let (root, promises) = (root.as_path(), &promises);
            for writer in 0..WRITERS {
                scope.spawn(move || replace_until_failure(root, writer, promises));
            }
            for appender in 0..APPENDERS {
                scope.spawn(move || append_until_failure(root, appender, promises));
            }
            let goal = start + ACKNOWLEDGED_BEFORE_KILL * (round + 1);
            run::poll(DEADLINE, || (promises.total() >= goal).then_some(()))
                .unwrap_or_else(|| panic!("only {} of {goal} acknowledged", promises.total()));
            if let Some(dead) = subject.kill_daemon() {
                expect_dead(&dead);
            }
        });
        println!("round {round}: {} acknowledged", promises.total());
        // Clears the dead mount: exit code 0 and nothing mounted, or the test fails here.
        subject.unmount();
        verify(subject.backing(), &promises, "in the backing directory");
        subject.mount_again();
        verify(subject.path(), &promises, "in the new mount");
    }
}

/// Asks writers to stop when dropped, also by a panic.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

// The kernel ends the connection when the last descriptor of the dead process is closed, a moment
// after the process is gone.
fn expect_dead(mount_point: &Path) {
    let dead = || match fs::symlink_metadata(mount_point.join("anything")) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => Some(()),
        _ => None,
    };
    run::poll(DEADLINE, dead).expect("ENOTCONN from the mount of a killed daemon");
}

// Continues after the last round, skipping one number: a replace that failed half-way may have
// happened all the same, and no version must be written twice with different fates.
fn replace_until_failure(root: &Path, writer: usize, promises: &Promises) {
    let acknowledged = &promises.replaced[writer];
    let result = Replacer::new(root, writer as u64).and_then(|replacer| {
        let mut next = acknowledged.load(Ordering::SeqCst) + 2;
        while !promises.stop.load(Ordering::SeqCst) {
            replacer.replace(next)?;
            acknowledged.store(next, Ordering::SeqCst);
            next += 1;
        }
        Ok(())
    });
    explain("replace", result);
}

fn append_until_failure(root: &Path, appender: usize, promises: &Promises) {
    let acknowledged = &promises.appended[appender];
    let result = open_log(root, appender).and_then(|mut file| {
        // After a crash the log may be longer than was acknowledged, as any log; cut it back.
        file.set_len(acknowledged.load(Ordering::SeqCst) * RECORD_BYTES)?;
        while !promises.stop.load(Ordering::SeqCst) {
            let number = acknowledged.load(Ordering::SeqCst);
            file.write_all(&record(appender, number))?;
            file.sync_data()?;
            acknowledged.store(number + 1, Ordering::SeqCst);
        }
        Ok(())
    });
    explain("append", result);
}

fn open_log(root: &Path, appender: usize) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(root.join(format!("log-{appender}")))
}

fn record(appender: usize, number: u64) -> Vec<u8> {
    let text = format!("appender {appender} record {number:010}");
    let mut bytes = text.into_bytes();
    bytes.resize(usize::try_from(RECORD_BYTES).expect("small") - 1, b'.');
    bytes.push(b'\n');
    bytes
}

// A dying mount says ENOTCONN to new requests and ECONNABORTED to those under way (on rings also
// ECANCELED, to those on their way to a thread that is gone: `fuse_uring_send_in_task`, Linux 6.18);
// the write-back of a file may say EIO. Anything else is not from the kill.
fn explain(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        let (aborted, canceled) = (Errno::CONNABORTED, Errno::CANCELED);
        let known = [Errno::NOTCONN, aborted, canceled, Errno::IO, Errno::INTR];
        let errno = Errno::from_io_error(&error);
        assert!(errno.is_some_and(|errno| known.contains(&errno)), "{what}: {error}");
    }
}

fn verify(root: &Path, promises: &Promises, place: &str) {
    for (writer, acknowledged) in promises.replaced.iter().enumerate() {
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        let found = version_found(root, writer as u64).unwrap_or_else(|torn| panic!("{torn}"));
        assert!(
            found.unwrap_or_default() >= acknowledged,
            "{place}: writer {writer} has version {found:?}, acknowledged was {acknowledged}"
        );
    }
    for (appender, acknowledged) in promises.appended.iter().enumerate() {
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        let bytes = fs::read(root.join(format!("log-{appender}"))).expect("a log");
        let expected: Vec<u8> = (0..acknowledged).flat_map(|n| record(appender, n)).collect();
        assert!(
            bytes.starts_with(&expected),
            "{place}: log {appender} lost an acknowledged record"
        );
    }
}
