//! The varmail-like loop: many threads, one directory, as a mail server works.
//!
//! After filebench's varmail: a thousand files of 16 KiB in one directory; a loop deletes a file,
//! creates one, appends to one and reads one, each time another, with two fsyncs. Two differences:
//! an append is always 16 KiB, not up to 16 KiB, and the files that a loop uses are all chosen
//! beforehand. A file that is in use is nobody else's to choose.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Worker, bytes};
use crate::random::Random;

const FILES: usize = 1000;
const APPEND_BYTES: usize = 16 << 10;

/// The shared directory.
pub(super) struct Mailbox {
    directory: PathBuf,
    // Numbers of the files that exist and that nobody uses.
    idle: Mutex<Vec<u64>>,
    next: AtomicU64,
}

impl Mailbox {
    pub fn prepare(root: &Path) -> io::Result<()> {
        let directory = root.join("mail");
        fs::create_dir_all(&directory)?;
        let found = Self::numbers(&directory)?;
        let next = Self::next_after(&found);
        let missing = FILES.saturating_sub(found.len()) as u64;
        let message = bytes(APPEND_BYTES, 0);
        (next..next + missing).try_for_each(|n| fs::write(directory.join(n.to_string()), &message))
    }

    pub fn open(root: &Path) -> io::Result<Arc<Self>> {
        let directory = root.join("mail");
        let idle = Self::numbers(&directory)?;
        let next = AtomicU64::new(Self::next_after(&idle));
        Ok(Arc::new(Mailbox { directory, idle: Mutex::new(idle), next }))
    }

    fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
        let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
        let number = |name: io::Result<std::ffi::OsString>| {
            name.map(|name| name.to_str().and_then(|name| name.parse().ok())).transpose()
        };
        names.filter_map(number).collect()
    }

    fn next_after(numbers: &[u64]) -> u64 {
        numbers.iter().max().map_or(0, |number| number + 1)
    }

    // Three different files that nobody else uses now.
    fn take(&self, random: &mut Random) -> [u64; 3] {
        let mut idle = self.idle();
        std::array::from_fn(|_| {
            let index = random.below(idle.len());
            idle.swap_remove(index)
        })
    }

    fn put_back(&self, numbers: [u64; 3]) {
        self.idle().extend(numbers);
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<u64>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Varmail {
    mailbox: Arc<Mailbox>,
    random: Random,
    message: Vec<u8>,
    read: Vec<u8>,
}

impl Varmail {
    pub fn new(mailbox: &Arc<Mailbox>, number: usize) -> Self {
        Varmail {
            mailbox: Arc::clone(mailbox),
            random: Random::new(number as u64),
            message: bytes(APPEND_BYTES, number),
            read: Vec::new(),
        }
    }

    fn append(&self, file: &mut File) -> io::Result<()> {
        file.write_all(&self.message)?;
        file.sync_all()
    }

    fn read_whole(&mut self, file: &mut File) -> io::Result<()> {
        self.read.clear();
        file.read_to_end(&mut self.read).map(drop)
    }
}

impl Worker for Varmail {
    fn operate(&mut self) -> io::Result<()> {
        let [deleted, extended, opened] = self.mailbox.take(&mut self.random);
        let created = self.mailbox.next.fetch_add(1, Ordering::Relaxed);

        fs::remove_file(self.mailbox.path(deleted))?;
        self.append(&mut File::create_new(self.mailbox.path(created))?)?;
        let extended_path = self.mailbox.path(extended);
        let mut file = OpenOptions::new().read(true).append(true).open(extended_path)?;
        self.read_whole(&mut file)?;
        self.append(&mut file)?;
        drop(file);
        self.read_whole(&mut File::open(self.mailbox.path(opened))?)?;

        self.mailbox.put_back([created, extended, opened]);
        Ok(())
    }
}
