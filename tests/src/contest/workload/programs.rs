//! Programs that sync because their users trust them: SQLite, git, and what dpkg does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Advice;

use super::{Worker, bytes};
use crate::random::Random;
use crate::tools;

const ROW_BYTES: usize = 100;

/// A kind of journal of SQLite; everything else is as the shell has it: `synchronous=FULL`.
pub(super) struct Sqlite {
    journal_mode: &'static str,
}

impl Sqlite {
    pub const DELETE: Sqlite = Sqlite { journal_mode: "DELETE" };
    pub const WAL: Sqlite = Sqlite { journal_mode: "WAL" };

    pub fn prepare(&self, root: &Path, number: usize) -> io::Result<()> {
        let mode = self.journal_mode;
        let mut shell = self.shell(root, number);
        shell.arg(format!("PRAGMA journal_mode={mode}; CREATE TABLE IF NOT EXISTS t (data BLOB);"));
        succeed(&mut shell)
    }

    pub fn start(&self, root: &Path, number: usize) -> io::Result<Transactions> {
        let mut shell = self.shell(root, number);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = shell.stdin.take().expect("it is a pipe");
        let output = BufReader::new(shell.stdout.take().expect("it is a pipe")).lines();
        Ok(Transactions { shell, input: Some(input), output })
    }

    fn shell(&self, root: &Path, number: usize) -> Command {
        let mut command = Command::new(tools::debian("sqlite3", "sqlite3"));
        let name = format!("{}-{number}.db", self.journal_mode.to_lowercase());
        command.arg("-batch").arg("-bail").arg(root.join(name));
        command
    }
}

/// A shell that is told one transaction after the other.
pub(super) struct Transactions {
    shell: Child,
    // `None` only while dropping.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker for Transactions {
    fn operate(&mut self) -> io::Result<()> {
        let input = self.input.as_mut().expect("there until dropped");
        // One write: the shell must not wake for half of it. The answer comes after the commit.
        let text =
            format!("INSERT INTO t VALUES (randomblob({ROW_BYTES}));\nSELECT 'committed';\n");
        input.write_all(text.as_bytes())?;
        match self.output.next() {
            Some(Ok(line)) if line == "committed" => Ok(()),
            answer => Err(io::Error::other(format!("sqlite3 answered {answer:?}"))),
        }
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        // The end of its input is the end of the shell; it closes the database properly.
        drop(self.input.take());
        let _ = self.shell.wait();
    }
}

const GIT_FILES: usize = 40;
const GIT_CHANGES: usize = 4;
/// Nobody's settings; every kind of sync, by fsync; nothing left to a background process.
const GIT_ENVIRONMENT: [(&str, &str); 6] = [
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_AUTHOR_NAME", "tests"),
    ("GIT_AUTHOR_EMAIL", "tests@localhost"),
    ("GIT_COMMITTER_NAME", "tests"),
    ("GIT_COMMITTER_EMAIL", "tests@localhost"),
];
const GIT_SETTINGS: [&str; 4] =
    ["core.fsync=all", "core.fsyncMethod=fsync", "gc.auto=0", "maintenance.auto=false"];

/// A repository.
pub(super) struct Git {
    folder: PathBuf,
    random: Random,
}

impl Git {
    pub fn prepare(root: &Path, number: usize) -> io::Result<()> {
        let this = Self::new(root, number);
        if this.folder.join(".git").exists() {
            return Ok(());
        }
        fs::create_dir_all(&this.folder)?;
        (0..GIT_FILES).try_for_each(|file| this.write(file, file as u64))?;
        succeed(this.git().args(["init", "-q", "-b", "main"]))?;
        succeed(this.git().args(["add", "."]))?;
        succeed(this.git().args(["commit", "-q", "-m", "first"]))
    }

    pub fn new(root: &Path, number: usize) -> Self {
        // Each another, or a second one on the same repository would change nothing.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let random = Random::new(COUNT.fetch_add(1, Ordering::Relaxed));
        Git { folder: root.join(format!("git-{number}")), random }
    }

    fn write(&self, file: usize, chance: u64) -> io::Result<()> {
        fs::write(self.folder.join(format!("file-{file}")), format!("{file}\n{chance:x}\n"))
    }

    fn git(&self) -> Command {
        let mut command = Command::new(tools::debian("git", "git"));
        command.arg("-C").arg(&self.folder).envs(GIT_ENVIRONMENT);
        command.args(GIT_SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command
    }
}

impl Worker for Git {
    fn operate(&mut self) -> io::Result<()> {
        for _ in 0..GIT_CHANGES {
            let (file, chance) = (self.random.below(GIT_FILES), self.random.word());
            self.write(file, chance)?;
        }
        succeed(self.git().args(["commit", "-q", "-a", "-m", "next"]))
    }
}

const PACKAGE_FILES: usize = 300;
const PACKAGE_DIRECTORIES: usize = 20;
const PACKAGE_FILE_BYTES_MAX: usize = 16 << 10;

/// A package, unpacked again and again.
pub(super) struct Unpack {
    folder: PathBuf,
    random: Random,
    content: Vec<u8>,
}

impl Unpack {
    pub fn prepare(root: &Path, number: usize) -> io::Result<()> {
        let this = Self::new(root, number);
        this.directories().try_for_each(fs::create_dir_all)
    }

    pub fn new(root: &Path, number: usize) -> Self {
        let folder = root.join(format!("package-{number}"));
        let content = bytes(PACKAGE_FILE_BYTES_MAX, number);
        Unpack { folder, random: Random::new(number as u64), content }
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        (0..PACKAGE_DIRECTORIES).map(|directory| self.folder.join(format!("directory-{directory}")))
    }

    // The old name and the new one.
    fn paths(&self) -> impl Iterator<Item = [PathBuf; 2]> + use<> {
        let directories = self.directories().collect::<Vec<_>>();
        (0..PACKAGE_FILES).map(move |file| {
            let directory = &directories[file % PACKAGE_DIRECTORIES];
            ["", ".dpkg-new"].map(|suffix| directory.join(format!("file-{file}{suffix}")))
        })
    }
}

impl Worker for Unpack {
    fn operate(&mut self) -> io::Result<()> {
        for [_, new] in self.paths() {
            let length = 1 + self.random.below(PACKAGE_FILE_BYTES_MAX);
            let mut file = File::create(new)?;
            file.write_all(&self.content[..length])?;
            // Starts write-back without waiting, as dpkg does by sync_file_range(2).
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        for [old, new] in self.paths() {
            OpenOptions::new().write(true).open(&new)?.sync_all()?;
            fs::rename(new, old)?;
        }
        self.directories().try_for_each(|directory| File::open(directory)?.sync_all())
    }
}

fn succeed(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let (program, said) = (command.get_program().to_string_lossy(), String::from_utf8_lossy(&said));
    Err(io::Error::other(format!("{program} failed: {}", said.trim())))
}
