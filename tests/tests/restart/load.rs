//! Under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::replace::{Replacer, version_found};
use tests::run::Running;
use tests::subject::{self, Subject};
use tests::{require, run, tools};

use super::{mounted, restart};

const RESTARTS: usize = 50;
/// Programs do something between two of them.
const BETWEEN: Duration = Duration::from_millis(100);
const WRITERS: u64 = 2;
const DEADLINE: Duration = Duration::from_secs(300);

// One SQLite process for the whole time; each row is a transaction, and its number is printed when
// it is committed. EXTRA: with a rollback journal a transaction is durable when the removal of the
// journal is, and FULL does not sync that.
fn start_sqlite(directory: &Path, journal: &str, stop: &Path, acknowledged: &Path) -> Running {
    let text = r#"
        db="data-$1.db"
        test "$(sqlite3 "$db" "PRAGMA journal_mode=$1;")" = "${1,,}"
        sqlite3 "$db" 'CREATE TABLE t(number INTEGER PRIMARY KEY, filler BLOB);'
        insert() {
            echo '.bail on'; echo '.timeout 60000'; echo 'PRAGMA synchronous=EXTRA;'
            n=0
            while [ ! -e "$1" ]; do
                n=$((n + 1))
                echo "INSERT INTO t VALUES($n, randomblob(300)); SELECT $n;"
                sleep 0.01
            done
        }
        insert "$2" | sqlite3 "$db" > "$3"
    "#;
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", text, "test", journal]).arg(stop).arg(acknowledged);
    run::start(command.current_dir(directory))
}

// Rounds of fsx, each with one file open all the time, until told to stop; how many.
fn fsx_until(program: &Path, subject: &Subject, ended: &AtomicBool) -> usize {
    let artifacts = subject.filesystem().scratch();
    let configuration = artifacts.join("fsx.toml");
    let text = "nomsyncafterwrite = true\n[weights]\nmapread = 10\nmapwrite = 10\nread = 20\n\
                write = 20\ntruncate = 6\nfsync = 4\nfdatasync = 4\nclose_open = 2\n\
                punch_hole = 4\ncopy_file_range = 4\n";
    fs::write(&configuration, text).expect("the configuration");
    let mut rounds = 0;
    while !ended.load(Ordering::Relaxed) {
        let mut command = Command::new(program);
        command.arg("-f").arg(&configuration).arg("-P").arg(artifacts);
        command.args(["-S", &(rounds + 1).to_string(), "-N", "4000"]);
        command.arg(subject.path().join("fsx"));
        let outcome = run::run(&mut command, DEADLINE).expect_success();
        assert!(outcome.stdout.contains("A-OK"), "{}", outcome.describe());
        rounds += 1;
    }
    rounds
}

// Tells everybody at work to come to an end.
struct Ends<'a>(&'a AtomicBool, &'a Path);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = fs::write(self.1, "");
    }
}

/// Fifty times, with fsx and SQLite at work: no error, nothing acknowledged lost.
#[test]
fn fifty_restarts_under_fsx_and_sqlite() {
    if !require::mount_support() || subject::is_bare() {
        return;
    }
    tools::debian("sqlite3", "sqlite3");
    let fsx = tools::cargo_tool("fsx", "0.3.2");
    let mut subject = Subject::over(LoopFs::ext4(512), |tree| {
        Mounted::new(tree, &format!("{DEFAULT_OPTIONS},transport=classic"))
    });
    let outside = subject.filesystem().scratch().to_path_buf();
    let (stop, ended) = (outside.join("stop"), AtomicBool::new(false));
    let journals = ["WAL", "DELETE"];
    let lists = journals.map(|journal| outside.join(format!("acknowledged-{journal}")));
    let databases: Vec<Running> = journals
        .iter()
        .zip(&lists)
        .map(|(journal, list)| start_sqlite(subject.path(), journal, &stop, list))
        .collect();
    let written: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let pid = mounted(&subject).daemon_pid();

    let mut pauses = thread::scope(|scope| {
        let rounds = scope.spawn(|| fsx_until(&fsx, &subject, &ended));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (root, written, ended) = (subject.path(), &written, &ended);
                scope.spawn(move || {
                    let replacer = Replacer::new(root, writer).expect("a directory");
                    for sequence in 1.. {
                        if ended.load(Ordering::Relaxed) {
                            break;
                        }
                        replacer.replace(sequence).expect("a replaced file");
                        written[writer as usize].store(sequence, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        // Also if a restart fails: nobody waits for ever then.
        let ends = Ends(&ended, &stop);
        let mut pauses = Vec::new();
        for _ in 0..RESTARTS {
            thread::sleep(BETWEEN);
            pauses.push(restart(subject.path()));
        }
        drop(ends);
        writers.into_iter().for_each(|writer| writer.join().expect("no error"));
        let rounds = rounds.join().expect("fsx saw no error");
        println!("fsx: {rounds} rounds of 4000 operations");
        pauses
    });

    for database in databases {
        database.finish(DEADLINE).expect_success();
    }
    let status = mounted(&subject).status();
    assert_eq!(status["restarts"].as_u64(), Some(RESTARTS as u64));
    assert_eq!(status["pid"].as_i64(), Some(i64::from(pid)), "the same process");
    pauses.sort_unstable();
    let (middle, longest) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    println!("{RESTARTS} restarts: {middle:?} without answers in the middle, {longest:?} at most");

    // All that was acknowledged is there: now, in the directory itself, and after a power cut.
    check(subject.path(), &journals, &lists, &written);
    let cut = subject.filesystem().after_power_cut();
    check_after_cut(&cut.path().join("tree"), &journals, &lists, &written);
    subject.unmount();
    check(subject.path(), &journals, &lists, &written);
}

#[track_caller]
fn check_after_cut(tree: &Path, journals: &[&str], lists: &[PathBuf], written: &[AtomicU64]) {
    let mut command = Command::new(tests::binary::lanefs());
    run::run(command.arg("recover").arg(tree), DEADLINE).expect_success();
    check(tree, journals, lists, written);
}

#[track_caller]
fn check(root: &Path, journals: &[&str], lists: &[PathBuf], written: &[AtomicU64]) {
    for (journal, list) in journals.iter().zip(lists) {
        let text = fs::read_to_string(list).expect("the numbers");
        let acknowledged: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let last = acknowledged.last().copied().expect("rows were inserted");
        assert_eq!(acknowledged.len() as u64, last, "each was told once");
        let query = r#"sqlite3 "data-$1.db" 'PRAGMA integrity_check; SELECT count(*) FROM t;
                       SELECT max(number) FROM t;'"#;
        let outcome = run::script(root, query, &[journal], DEADLINE).expect_success();
        let answers: Vec<&str> = outcome.stdout.split_whitespace().collect();
        let last = last.to_string();
        assert_eq!(answers, ["ok", &last, &last], "{journal}: {}", outcome.describe());
        println!("SQLite {journal}: {last} transactions, all there in {}", root.display());
    }
    for (writer, written) in written.iter().enumerate() {
        let found = version_found(root, writer as u64).expect("a whole file");
        assert_eq!(found, Some(written.load(Ordering::Relaxed)), "writer {writer}");
    }
}
