//! SQLite with its own idea of durability: what it said was committed must be there.
//!
//! `synchronous=EXTRA` in DELETE mode: with FULL the directory is not synced after the rollback
//! journal is removed, so that a committed transaction may be rolled back after a power cut (SQLite's
//! documentation of the pragma).

use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Place, Workload};
use crate::powercut::notes::{Notes, Promised};
use crate::tools;

const TRANSACTIONS: u64 = 60;
/// Its journals have names that begin so.
const DATABASE: &str = "data.db";

struct Sqlite {
    journal_mode: &'static str,
    synchronous: &'static str,
}

/// With a rollback journal.
pub fn delete(_seed: u64) -> Box<dyn Workload> {
    Box::new(Sqlite { journal_mode: "DELETE", synchronous: "EXTRA" })
}

/// With a write-ahead log.
pub fn wal(_seed: u64) -> Box<dyn Workload> {
    Box::new(Sqlite { journal_mode: "WAL", synchronous: "FULL" })
}

/// A shell that answers each line of SQL with its result.
fn shell(root: &Path) -> Command {
    let mut command = Command::new(tools::debian("sqlite3", "sqlite3"));
    command.arg("-batch").arg("-bail").arg(root.join(DATABASE));
    command
}

fn ask(root: &Path, sql: &str) -> io::Result<String> {
    let output = shell(root).arg(sql).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The database and its journals in a directory with a real path, which SQLite insists on; a crash
/// image is mounted at none.
fn copy_out(root: &Path) -> io::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(DATABASE) {
            continue;
        }
        std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    Ok(copy)
}

impl Sqlite {
    /// Tells the shell all of them, waiting for the answer to each.
    fn transactions(&self, root: &Path, shell: &mut Child, notes: &Notes<'_>) -> io::Result<()> {
        let mut input = shell.stdin.take().expect("it is a pipe");
        let mut output = BufReader::new(shell.stdout.take().expect("it is a pipe")).lines();
        let (mode, synchronous) = (self.journal_mode, self.synchronous);
        writeln!(input, "PRAGMA synchronous={synchronous}; PRAGMA journal_mode={mode};")?;
        writeln!(input, "PRAGMA wal_autocheckpoint=20;")?;
        for step in 1..=TRANSACTIONS {
            notes.acked(0, step, || {
                writeln!(input, "INSERT INTO t VALUES ({step}, randomblob(3000));")?;
                writeln!(input, "SELECT 'acknowledged {step}';")?;
                let wanted = format!("acknowledged {step}");
                loop {
                    match output.next() {
                        Some(line) if line.as_ref().is_ok_and(|line| *line == wanted) => {
                            // SQLite says so too if it cannot open the directory that it
                            // would sync after the journal's unlink (`unixDelete`, 3.40):
                            // when the daemon dies in between.
                            return std::fs::File::open(root).map(drop);
                        }
                        Some(Ok(_)) => {}
                        _ => return Err(io::Error::other("the shell ended early")),
                    }
                }
            })?;
        }
        Ok(())
    }
}

impl Workload for Sqlite {
    fn prepare(&self, root: &Path) -> io::Result<()> {
        let mode = self.journal_mode;
        let sql = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB);"
        );
        ask(root, &sql).map(drop)
    }

    fn run(&self, place: &Place, notes: &Notes<'_>) -> io::Result<()> {
        let mut complaints = tempfile::tempfile()?;
        let mut shell = shell(&place.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?)
            .spawn()?;
        let outcome = self.transactions(&place.root, &mut shell, notes);
        // Its input is closed: it ends, whatever came of the transactions.
        let status = shell.wait()?;
        if outcome.is_ok() && status.success() {
            return Ok(());
        }
        let mut said = String::new();
        complaints.rewind().and_then(|()| complaints.read_to_string(&mut said))?;
        let outcome = outcome.err().map_or_else(|| status.to_string(), |error| error.to_string());
        Err(io::Error::other(format!("sqlite3: {outcome}: {}", said.trim())))
    }

    fn check(&self, root: &Path, promised: &Promised) -> Result<(), String> {
        let sql = "PRAGMA integrity_check; SELECT count(*), ifnull(max(id), 0) FROM t;";
        let copy = copy_out(root).map_err(|error| format!("copying the database: {error}"))?;
        let answer = ask(copy.path(), sql).map_err(|error| format!("sqlite3: {error}"))?;
        let progress = promised.of(0);
        let mut lines = answer.lines();
        if lines.next() != Some("ok") {
            return Err(format!("integrity_check: {answer}"));
        }
        let counts = lines.next().and_then(|line| line.split_once('|'));
        let number = |text: &str| text.parse::<u64>().ok();
        let counts = counts.and_then(|(count, max)| Some((number(count)?, number(max)?)));
        let Some((count, max)) = counts else { return Err(format!("sqlite3 said: {answer}")) };
        if count == max && (progress.acked..=progress.begun.max(progress.acked)).contains(&max) {
            return Ok(());
        }
        Err(format!("{count} rows up to {max}; {} were committed", progress.acked))
    }
}
