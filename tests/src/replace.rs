//! The crash-safe replace: what editors, package managers and databases do to change a file.
//!
//! Write a temporary file, fsync it, rename it over the old one, fsync the directory. When the last
//! step returns, the change is *acknowledged*: it must survive whatever happens next. Contents carry
//! their writer, their number and a checksum, so that any version found later can be judged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;

/// Length of every version of every file.
pub const CONTENT_BYTES: usize = 4096;

/// One writer with a directory of its own.
pub struct Replacer {
    writer: u64,
    directory: PathBuf,
}

impl Replacer {
    /// The writer number `writer` below `root`; makes its directory.
    pub fn new(root: &Path, writer: u64) -> io::Result<Self> {
        let directory = root.join(format!("writer-{writer}"));
        fs::create_dir_all(&directory)?;
        Ok(Replacer { writer, directory })
    }

    /// Makes version `sequence` current. When this returns `Ok`, it is acknowledged.
    pub fn replace(&self, sequence: u64) -> io::Result<()> {
        let temporary = self.directory.join("file.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&content(self.writer, sequence))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, self.directory.join("file"))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Which version of writer `writer`'s file is in the directory below `root`; `None` when there is
/// none, `Err` with the reason when it is not a whole version.
pub fn version_found(root: &Path, writer: u64) -> Result<Option<u64>, String> {
    let path = root.join(format!("writer-{writer}")).join("file");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let sequence = bytes.get(8..16).and_then(|field| field.try_into().ok()).map(u64::from_le_bytes);
    match sequence {
        Some(sequence) if bytes == content(writer, sequence) => Ok(Some(sequence)),
        _ => Err(format!("{}: {} bytes that are no version", path.display(), bytes.len())),
    }
}

/// `writers` threads do `rounds` replaces each, all starting at once; the time from start to the
/// last acknowledgement.
#[track_caller]
pub fn run_writers(root: &Path, writers: u64, rounds: u64) -> Duration {
    let replacers: Vec<_> = (0..writers)
        .map(|writer| Replacer::new(root, writer).expect("a directory for a writer"))
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for replacer in &replacers {
            scope.spawn(move || {
                for sequence in 1..=rounds {
                    replacer.replace(sequence).expect("a replace");
                }
            });
        }
    });
    start.elapsed()
}

// Writer, sequence, and then bytes that depend on both: nothing else has these bytes.
fn content(writer: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; CONTENT_BYTES];
    bytes[..8].copy_from_slice(&writer.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    Random::new(writer << 40 | sequence).fill(&mut bytes[16..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_recognised_and_a_torn_one_refused() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(version_found(root.path(), 3), Ok(None));
        Replacer::new(root.path(), 3).expect("a writer").replace(7).expect("a replace");
        assert_eq!(version_found(root.path(), 3), Ok(Some(7)));
        let path = root.path().join("writer-3/file");
        let mut bytes = fs::read(&path).expect("the file");
        bytes[4000] ^= 1;
        fs::write(&path, &bytes).expect("a write");
        assert!(version_found(root.path(), 3).is_err());
        fs::write(&path, b"").expect("a write");
        assert!(version_found(root.path(), 3).is_err());
    }
}
