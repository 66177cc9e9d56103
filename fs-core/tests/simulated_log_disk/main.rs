//! What the simulated disk does with what a log asks of it. A log that is right
//! on a disk that is too kind proves nothing, so here are the rules, each with
//! what a power cut must show now and then and what it must never show.
//!
//! - [`data`]: the device's volatile cache, write-out, settled ranges, what the
//!   kernel does by itself.
//! - [`log`]: blocks of a log, and how fast a crash is with one.
//! - [`metadata`]: markers, keys, boots, order.
//! - [`failures`]: what fails, and bugs that are planted.

mod data;
mod failures;
mod log;
mod metadata;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use fs_core::error::Result;
use fs_core::platform::sim::{
    DurabilityModel, STALE_BYTE, SimBacking, SimFile, SimLog, SimObject, SimOptions,
};
use fs_core::platform::{
    Backing, FenceMethod, Fencer, LOG_BLOCK_BYTES, LogBuffer, LogStore, OpenMode, SyncTarget,
};
use fs_core::types::{Caller, NewMode, SyncKind};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const CRASHES: u64 = if cfg!(debug_assertions) { 250 } else { 400 };
const PAGE: u64 = 4096;
const BLOCK: usize = LOG_BLOCK_BYTES;
/// Models on which a log can be kept.
const LOGGED: [DurabilityModel; 2] = [DurabilityModel::Ext4Ordered, DurabilityModel::Xfs];

/// A filesystem with short ways to use it; what is not asked whether it works
/// must work.
struct Disk(SimBacking);

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

impl Disk {
    fn new(model: DurabilityModel) -> Self {
        Self::with(model, |_| {})
    }

    fn with(model: DurabilityModel, set: impl FnOnce(&mut SimOptions)) -> Self {
        let mut options = SimOptions::new(model, 7);
        set(&mut options);
        Self(SimBacking::new(options))
    }

    fn root(&self) -> SimObject {
        self.0.root().expect("a root").object
    }

    fn file(&self, text: &str) -> Arc<SimFile> {
        let new = NewMode { mode: 0o644, umask: 0 };
        let made = self.0.create(ME, &self.root(), name(text), new, READ_WRITE, true);
        Arc::new(made.expect("a file").1)
    }

    /// A file of one page of this byte, durable.
    fn durable_file(&self, text: &str, byte: u8) -> Arc<SimFile> {
        let file = self.file(text);
        self.fill(&file, 0, byte);
        self.0.sync_all().expect("a sync");
        file
    }

    fn find(&self, text: &str) -> Option<SimObject> {
        self.0.lookup(&self.root(), name(text)).ok().map(|found| found.object)
    }

    fn open(&self, text: &str) -> Arc<SimFile> {
        let object = self.find(text).expect("a name");
        Arc::new(self.0.open(ME, &object, READ_WRITE).expect("a file opens"))
    }

    /// Fills one page.
    fn fill(&self, file: &SimFile, page: u64, byte: u8) {
        self.write(file, page * PAGE, &[byte; PAGE as usize]);
    }

    fn write(&self, file: &SimFile, offset: u64, data: &[u8]) {
        assert_eq!(self.0.write(ME, file, data, offset, false), Ok(data.len()));
    }

    fn write_out(&self, file: &SimFile) {
        self.0.finish_write_back(file).expect("write-back");
    }

    fn sync(&self, file: &Arc<SimFile>) -> Result<()> {
        let target = SyncTarget::File(Arc::clone(file), SyncKind::Full);
        self.0.fencer().run(FenceMethod::Parallel, &[target])[0]
    }

    fn commit(&self) -> Result<()> {
        self.0.fencer().commit()
    }

    fn log(&self, blocks: usize) -> SimLog {
        let bytes = (blocks * BLOCK) as u64;
        self.0.make_log(&self.root(), name("log"), bytes, &mut |_| {}).expect("a log")
    }

    /// A file's content in runs, "a100.50": a hundred times `a`, then fifty
    /// zeros; "-" if there is no file.
    fn look(&self, text: &str) -> String {
        let Some(object) = self.find(text) else { return "-".to_owned() };
        let file = self.0.open(ME, &object, READ_WRITE).expect("a file opens");
        let mut content = vec![0; self.0.attr(&object).expect("attributes").size as usize];
        self.0.read(&file, &mut content, 0).expect("a file can be read");
        runs(&content)
    }

    /// Everything that power cuts leave under these names.
    fn outcomes(&self, texts: &[&str]) -> BTreeSet<String> {
        self.after_crashes(|crashed| {
            texts.iter().map(|text| crashed.look(text)).collect::<Vec<_>>().join(" ")
        })
    }

    fn after_crashes(&self, look: impl Fn(&Self) -> String) -> BTreeSet<String> {
        (0..CRASHES).map(|seed| look(&Self(self.0.crash(seed)))).collect()
    }

    /// Whether some power cut leaves this under a name; asked often, so only
    /// some are tried: for what is left often.
    fn may_leave(&self, text: &str, outcome: &str) -> bool {
        (0..40).any(|seed| Self(self.0.crash(seed)).look(text) == outcome)
    }
}

fn runs(content: &[u8]) -> String {
    let show = |run: &[u8]| match run[0] {
        0 => format!(".{}", run.len()),
        STALE_BYTE => format!("?{}", run.len()),
        byte => format!("{}{}", char::from(byte), run.len()),
    };
    if content.is_empty() {
        return "empty".to_owned();
    }
    content.chunk_by(|one, other| one == other).map(show).collect()
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&outcome| outcome.to_owned()).collect()
}

/// Whole blocks, each of one byte.
fn blocks(bytes: &[u8]) -> LogBuffer {
    let mut buffer = LogBuffer::new();
    bytes.iter().for_each(|&byte| buffer.grow(BLOCK).fill(byte));
    buffer
}

/// All of a log, in runs.
fn read(log: &SimLog) -> String {
    let mut buffer = LogBuffer::new();
    log.read(&mut buffer, 0, log.bytes() as usize).expect("a log can be read");
    runs(buffer.bytes())
}
