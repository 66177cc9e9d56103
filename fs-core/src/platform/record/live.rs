//! Failures on purpose of a recorded directory, and what they leave.
//!
//! A failed fsync may leave a page cache that is newer than anything that will ever be
//! written ([`Pages`]). In the recording that is a write of the old bytes by the kernel: the
//! disk has them from then on, and later syncs cover that. What programs still read
//! is the real file, until [`Recorder::evict`] lets it forget.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::tape::Guard;
use super::{Backing, Object, Recorder};
use crate::crash::state::{Blocks, Node, State};
use crate::crash::steps::{BLOCK_BYTES, Steps};
use crate::crash::trace::{Ino, Operation};
use crate::error::{Errno, Result};
use crate::faults::{FaultKind, Faults, Lose, Pages, PowerCut, Then};
use crate::platform::OpenMode;
use crate::types::{Caller, SetAttr};

/// When and how the power fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashPoint {
    /// Operations before this one had been answered.
    pub at: usize,
    /// What is lost of them.
    pub cut: PowerCut,
}

type PowerFails = Box<dyn Fn(CrashPoint) + Send + Sync>;

/// The failures of a recorder.
pub struct Live {
    /// Which.
    pub faults: Faults,
    power_fails: PowerFails,
    is_off: AtomicBool,
}

/// What an operation is about.
pub(super) enum About<'o, B: Backing> {
    File(Option<Ino>),
    Name(&'o Object<B>, &'o OsStr),
    Names([(&'o Object<B>, &'o OsStr); 2]),
}

/// Who writes what was never written.
const KERNEL: Caller = Caller { uid: 0, gid: 0, thread: 0 };
const WRITE_ONLY: OpenMode =
    OpenMode { read: false, write: true, truncate: false, no_atime: false };

impl Live {
    /// No failures yet. `power_fails` is called, once, on the thread of the operation in which
    /// the power fails; that one and all later ones are answered with EIO.
    pub fn new(power_fails: impl Fn(CrashPoint) + Send + Sync + 'static) -> Self {
        Self {
            faults: Faults::default(),
            power_fails: Box::new(power_fails),
            is_off: AtomicBool::new(false),
        }
    }

    fn crash(&self, point: CrashPoint) {
        if !self.is_off.swap(true, Ordering::AcqRel) {
            (self.power_fails)(point);
        }
    }
}

impl<B: Backing> Recorder<B> {
    /// The failures of this recorder, if it can have any.
    #[must_use]
    pub fn live(&self) -> Option<&Live> {
        self.live.as_deref()
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.tape.lock().trace.operations.len()
    }

    /// Counts an operation that is about to be done, and fails it if a rule says so. Of a
    /// write that shall be torn it gives the bytes that are done.
    pub(super) fn before(
        &self,
        kind: FaultKind,
        thread: u32,
        about: &About<'_, B>,
    ) -> Result<Option<u64>> {
        let Some(live) = self.live.as_deref() else { return Ok(None) };
        if live.is_off.load(Ordering::Acquire) {
            return Err(Errno::IO);
        }
        if !live.faults.is_armed() {
            return Ok(None);
        }
        let (effect, ino) = {
            let tape = self.tape.lock();
            let (paths, ino) = about.paths(&tape);
            let paths = paths.iter().flatten().map(String::as_str).collect::<Vec<_>>();
            let actor = tape.who(thread);
            (live.faults.strike(kind, &paths, &actor), ino)
        };
        if !effect.delay.is_zero() {
            thread::sleep(effect.delay);
        }
        match effect.then {
            Then::Done => Ok(None),
            Then::Torn(bytes) => Ok(Some(bytes)),
            Then::Fail(errno, pages) => {
                if let (FaultKind::Fsync, Some(ino)) = (kind, ino) {
                    self.drop_pages(ino, pages)?;
                }
                Err(errno)
            }
            Then::Crash(cut) => {
                live.crash(CrashPoint { at: self.operations(), cut });
                Err(Errno::IO)
            }
        }
    }

    /// The power fails after a part of a write; nothing else is lost.
    pub(super) fn torn(&self) -> Errno {
        if let Some(live) = self.live.as_deref() {
            let cut = PowerCut { lose: Lose::None, ..PowerCut::default() };
            live.crash(CrashPoint { at: self.operations(), cut });
        }
        Errno::IO
    }

    /// Lets the page cache forget what failed syncs had left in it, as it does when memory is
    /// needed: files read as the disk has them. Gives the number of bytes.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn evict(&self) -> Result<u64> {
        let mut tape = self.tape.lock();
        let dropped = std::mem::take(&mut tape.dropped);
        let mut bytes = 0;
        for (ino, blocks) in dropped {
            let Some((_, file)) = self.reopen(&tape, ino)? else { continue };
            for (offset, old) in blocks {
                self.inner.write(KERNEL, &file, &old, offset, true)?;
                bytes += old.len() as u64;
            }
        }
        Ok(bytes)
    }

    /// None if the file has no name any more.
    fn reopen(&self, tape: &Guard<'_>, ino: Ino) -> Result<Option<(B::Object, B::File)>> {
        let Some(key) = tape.key_of(ino) else { return Ok(None) };
        let Ok(found) = self.inner.by_key(&key) else { return Ok(None) };
        let file = self.inner.open(KERNEL, &found.object, WRITE_ONLY)?;
        Ok(Some((found.object, file)))
    }

    /// A sync of the file has failed.
    fn drop_pages(&self, ino: Ino, pages: Pages) -> Result<()> {
        if pages == Pages::Kept {
            return Ok(());
        }
        let mut tape = self.tape.lock();
        let (durable, now) = contents(&tape, ino);
        if pages == Pages::Btrfs {
            if let Some((object, file)) = self.reopen(&tape, ino)? {
                let change = SetAttr { size: Some(durable.len() as u64), ..SetAttr::default() };
                self.inner.set_attr(KERNEL, &object, Some(&file), &change)?;
                self.inner.write(KERNEL, &file, &durable, 0, true)?;
            }
            if durable.len() != now.len() {
                let bytes = durable.len() as u64;
                tape.note_by_kernel(Operation::Resize { ino, bytes });
            }
        }
        // Of a file that has grown, ext4 and XFS keep the length.
        let end = if pages == Pages::Btrfs { durable.len() } else { now.len() };
        let mut dropped = Vec::new();
        for start in (0..end).step_by(BLOCK_BYTES as usize) {
            let bytes = (end - start).min(BLOCK_BYTES as usize);
            let (old, new) = (padded(&durable, start, bytes), padded(&now, start, bytes));
            if old != new {
                dropped.push((start as u64, old));
            }
        }
        for (offset, old) in &dropped {
            let data = tape.blob(old);
            tape.note_by_kernel(Operation::Write { ino, offset: *offset, data, mapped: false });
        }
        if pages != Pages::Btrfs && !dropped.is_empty() {
            tape.dropped.entry(ino).or_default().extend(dropped);
        }
        Ok(())
    }
}

impl<B: Backing> About<'_, B> {
    fn paths(&self, tape: &Guard<'_>) -> ([Option<String>; 2], Option<Ino>) {
        let named = |(dir, name): (&Object<B>, &OsStr)| {
            let path = tape.path_of(dir.ino?)?;
            let name = name.to_string_lossy();
            Some(if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") })
        };
        match *self {
            About::File(ino) => ([ino.and_then(|ino| tape.path_of(ino)), None], ino),
            About::Name(dir, name) => ([named((dir, name)), None], None),
            About::Names([one, two]) => ([named(one), named(two)], None),
        }
    }
}

/// What of a file is durable for certain, and what it holds now.
fn contents(tape: &Guard<'_>, ino: Ino) -> (Vec<u8>, Vec<u8>) {
    let trace = &tape.trace;
    let is_sync =
        |operation: &Operation| matches!(operation, Operation::Sync { ino: of, .. } if *of == ino);
    let synced = trace.operations.iter().rposition(|recorded| is_sync(&recorded.operation));
    let log = Steps::new(trace);
    let first = synced.map_or(0, |synced| log.first[synced] as usize);
    let mut blocks = Blocks::default();
    let mut state = State::initial(&log, &mut blocks);
    let mut durable = None;
    for (number, step) in log.steps.iter().enumerate() {
        if number == first {
            durable = Some(bytes(state.node(ino), &blocks));
        }
        if step.ino() == Some(ino) {
            state.apply(&log, &mut blocks, number as u32, step);
        }
    }
    let now = bytes(state.node(ino), &blocks);
    (durable.unwrap_or_else(|| now.clone()), now)
}

fn bytes(node: Option<&Node>, blocks: &Blocks) -> Vec<u8> {
    let Some(node) = node else { return Vec::new() };
    let mut all = vec![0; node.bytes as usize];
    for (offset, part) in node.content(blocks) {
        all[offset as usize..][..part.len()].copy_from_slice(part);
    }
    all
}

/// A part of a file; zeros behind its end.
fn padded(all: &[u8], start: usize, bytes: usize) -> Vec<u8> {
    let part = all.get(start..).unwrap_or(&[]);
    let mut part = part[..part.len().min(bytes)].to_vec();
    part.resize(bytes, 0);
    part
}
