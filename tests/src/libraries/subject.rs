//! Who replaces files, and how.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_core::batch::{Files, FilesConfig, LogUse};
use fsys::{Handle, Method};
use serde::Serialize;

use crate::contest::Worker;
use crate::random::Random;
use crate::replace::{CONTENT_BYTES, Replacer};

/// Files in one batch.
pub(super) const BATCH_FILES: usize = 16;
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// One way to replace files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Subject {
    /// Temporary file, fsync, rename, fsync of the directory.
    Std,
    /// `Handle::write` with `Method::Data`.
    Fsys,
    /// `Batch::commit_grouped` with 16 files.
    FsysBatch,
    /// `Files::write`.
    Library,
    /// `Batch::commit` with 16 files.
    LibraryBatch,
}

impl Subject {
    pub const ALL: [Subject; 5] =
        [Subject::Std, Subject::Fsys, Subject::FsysBatch, Subject::Library, Subject::LibraryBatch];

    /// Files that one operation of a worker replaces.
    pub const fn files(self) -> usize {
        match self {
            Subject::Std | Subject::Fsys | Subject::Library => 1,
            Subject::FsysBatch | Subject::LibraryBatch => BATCH_FILES,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Subject::Std => "std",
            Subject::Fsys => "fsys write",
            Subject::FsysBatch => "fsys batch of 16",
            Subject::Library => "lanefs write",
            Subject::LibraryBatch => "lanefs batch of 16",
        })
    }
}

/// A subject at work in a directory: its threads' workers, and what they share.
pub(super) struct Opened {
    pub workers: Vec<Box<dyn Worker>>,
    library: Option<Arc<Files>>,
}

impl Opened {
    pub fn new(subject: Subject, root: &Path, threads: usize) -> io::Result<Self> {
        let numbers = 0..threads;
        for number in numbers.clone() {
            fs::create_dir_all(root.join(directory(number)))?;
        }
        let mut library = None;
        let workers = match subject {
            Subject::Std => numbers
                .map(|number| {
                    let replacer = Replacer::new(root, number as u64)?;
                    Ok(Box::new(Std { replacer, sequence: 0 }) as Box<dyn Worker>)
                })
                .collect::<io::Result<Vec<_>>>()?,
            Subject::Fsys | Subject::FsysBatch => {
                let built = fsys::builder().root(root).method(Method::Data).build();
                let handle = Arc::new(built.map_err(io::Error::other)?);
                let worker = |number| -> Box<dyn Worker> {
                    let (handle, content) = (Arc::clone(&handle), Content::new(subject, number));
                    Box::new(Fsys { handle, content })
                };
                numbers.map(worker).collect()
            }
            Subject::Library | Subject::LibraryBatch => {
                let config = FilesConfig { log: LogUse::Always, ..FilesConfig::default() };
                let files = Arc::new(Files::open(root, config).map_err(io::Error::other)?);
                let worker = |number| -> Box<dyn Worker> {
                    let (files, content) = (Arc::clone(&files), Content::new(subject, number));
                    Box::new(Library { files, content })
                };
                let workers = numbers.map(worker).collect();
                library = Some(files);
                workers
            }
        };
        Ok(Self { workers, library })
    }

    /// Ends it: nobody else has the directory open then.
    pub fn close(self) -> io::Result<()> {
        drop(self.workers);
        let files = self.library.map(|files| Arc::into_inner(files).expect("workers are gone"));
        files.map_or(Ok(()), |files| files.close(CLOSE_DEADLINE).map_err(io::Error::other))
    }
}

fn directory(number: usize) -> String {
    format!("writer-{number}")
}

/// Files of one thread, and what they shall hold.
struct Content {
    paths: Vec<PathBuf>,
    bytes: Vec<u8>,
    sequence: u64,
}

impl Content {
    fn new(subject: Subject, number: usize) -> Self {
        let path = |file| PathBuf::from(directory(number)).join(format!("file-{file}"));
        let mut bytes = vec![0; CONTENT_BYTES];
        Random::new(number as u64).fill(&mut bytes);
        Self { paths: (0..subject.files()).map(path).collect(), bytes, sequence: 0 }
    }

    /// New bytes, the same for all files.
    fn next(&mut self) {
        self.sequence += 1;
        self.bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
    }
}

struct Std {
    replacer: Replacer,
    sequence: u64,
}

impl Worker for Std {
    fn operate(&mut self) -> io::Result<()> {
        self.sequence += 1;
        self.replacer.replace(self.sequence)
    }
}

struct Fsys {
    handle: Arc<Handle>,
    content: Content,
}

impl Worker for Fsys {
    fn operate(&mut self) -> io::Result<()> {
        let Self { handle, content } = self;
        content.next();
        if let [path] = &content.paths[..] {
            return handle.write(path, &content.bytes).map_err(io::Error::other);
        }
        let mut batch = handle.batch();
        for path in &content.paths {
            let _ = batch.write(path, &content.bytes);
        }
        batch.commit_grouped().map_err(io::Error::other)
    }
}

struct Library {
    files: Arc<Files>,
    content: Content,
}

impl Worker for Library {
    fn operate(&mut self) -> io::Result<()> {
        let Self { files, content } = self;
        content.next();
        if let [path] = &content.paths[..] {
            return files.write(path, &content.bytes).map_err(io::Error::other);
        }
        let batch = content.paths.iter().fold(files.batch(), |batch, path| {
            // Copied by the other as well.
            batch.write(path, content.bytes.clone())
        });
        batch.commit().map_err(io::Error::other)
    }
}
