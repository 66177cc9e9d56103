//! `--check auto`: a checker made from what the program left.
//!
//! Databases, which change in place, are judged by the program that knows them, if it is
//! installed; every other file must be as it was at some quiet moment ([`Versions`]), which
//! is more than what `gzip -t` or a parser would ask.

use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use fs_core::crash::law::Subject;
use fs_core::crash::oracle::Versions;
use fs_core::crash::state::{Blocks, State};
use fs_core::crash::steps::Steps;

/// A checker made from a recording.
#[derive(Clone)]
pub struct Oracle {
    versions: Arc<Versions>,
    /// Run by `sh -c` where the versions are good; empty if no program is asked.
    pub script: String,
    /// What is asked, for people.
    pub asked: Vec<String>,
}

/// A format, how it is known, and the command that judges a file of it.
struct Format {
    name: &'static str,
    program: &'static str,
    is_known_by: fn(&str, &[u8]) -> bool,
    /// `$f` is the file.
    command: &'static str,
}

const FORMATS: &[Format] = &[
    Format {
        name: "SQLite",
        program: "sqlite3",
        is_known_by: |_, head| head.starts_with(b"SQLite format 3\0"),
        command: "test ! -e \"$f\" || sqlite3 \"$f\" 'pragma integrity_check' | grep -qx ok",
    },
    Format {
        name: "LMDB",
        program: "mdb_stat",
        is_known_by: |_, head| head.get(16..20) == Some(&[0xde, 0xc0, 0xef, 0xbe]),
        command: "test ! -e \"$f\" || mdb_stat -n \"$f\" > /dev/null",
    },
];

/// Files that belong to a database beside them.
const COMPANIONS: &[&str] = &["-journal", "-wal", "-shm", "-lock"];

impl Oracle {
    /// Looks at what the program left.
    #[must_use]
    pub fn new(subject: &Subject<'_>, blocks: &mut Blocks) -> Self {
        let (mut script, mut asked) = (String::new(), Vec::new());
        let mut has_git = false;
        let mut judged = |path: &str, head: &[u8]| {
            // A repository judges itself, index and all.
            if path.starts_with(".git/") || path.contains("/.git/") {
                has_git |= path == ".git/HEAD";
                return is_installed("git");
            }
            if COMPANIONS.iter().any(|end| path.ends_with(end)) {
                return true;
            }
            let known = FORMATS.iter().find(|format| (format.is_known_by)(path, head));
            let Some(format) = known.filter(|format| is_installed(format.program)) else {
                return false;
            };
            asked.push(format!("{path}: {}", format.name));
            let command = format.command;
            let _ = writeln!(script, "f={}; {{ {command}; }} || exit 1", quoted(path));
            true
        };
        let log = &subject.log;
        let versions = Versions::new(log, subject.initial(), blocks, &mut judged);
        if has_git && is_installed("git") {
            asked.push(".git: git fsck".to_owned());
            script.push_str(
                "find .git -name '*.lock' -delete; git fsck --full > /dev/null || exit 1\n",
            );
        }
        Self { versions: Arc::new(versions), script, asked }
    }

    /// What is wrong with a state, without asking a program.
    #[must_use]
    pub fn judge(&self, log: &Steps<'_>, state: &State, blocks: &RwLock<Blocks>) -> Option<String> {
        let mut blocks = blocks.write().unwrap_or_else(PoisonError::into_inner);
        self.versions.judge(log, state, &mut blocks)
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn quoted(path: &str) -> String {
    let safe = Path::new(path).display().to_string().replace('\'', "'\\''");
    format!("'./{safe}'")
}
