//! Carrying operations out: first everything that takes time, where nobody sees it, then
//! all names at once.
//!
//! 1. Each operation in turn is *prepared*: a write or a copy makes a temporary file with
//!    the new content, a delete is only noted. What the batch has done so far is what the
//!    next operation of it finds.
//! 2. The temporary files are *settled*: written back, with all that the disk needs so
//!    that their names can follow.
//! 3. The names are *applied*, in order. With a log that is one change to a power cut, so
//!    of several operations on one name only the last leaves a trace.
//!
//! The first operation that fails ends the batch; those before it are applied.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::config::{HardLinks, Method};
use super::error::{BatchError, FileError};
use super::path::{Held, NameKey, Pending, Place, resolve};
use super::preserve::{Birth, carry_over};
use super::shared::{Answer, Shared, sync_dir};
use super::temporary::Temporary;
use crate::engine::{FileId, NameChange, NodeId, SyncOrder};
use crate::error::{Errno, Result};
use crate::platform::{Backing, OpenMode};
use crate::types::{Caller, FileKind, SyncKind};

/// Temporary files that one batch keeps open until their names are durable. With more,
/// files are made durable by themselves before, and closed.
const OPEN_FILES_MAX: usize = 64;

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, no_atime: false };

type Tried<T> = std::result::Result<T, FileError>;

/// What is asked for.
pub(super) enum Operation {
    Write { path: PathBuf, bytes: Box<dyn AsRef<[u8]> + Send>, length: u64 },
    Delete { path: PathBuf },
    Copy { from: PathBuf, to: PathBuf },
}

impl Operation {
    /// How much it writes, as far as that is known before.
    pub(super) const fn bytes(&self) -> u64 {
        match self {
            Self::Write { length, .. } => *length,
            Self::Delete { .. } | Self::Copy { .. } => 0,
        }
    }
}

/// Operations on their way.
pub(super) struct Execution<B: Backing> {
    shared: Arc<Shared<B>>,
    caller: Caller,
    /// In order; `None` where a later one has taken its place.
    steps: Vec<Option<Step<B>>>,
    /// The last step for each name.
    targets: HashMap<NameKey, usize>,
    /// Operations begun.
    begun: usize,
    /// Temporary files that are open.
    open: usize,
    /// Some were closed after they had been written back.
    closed: bool,
    failure: Option<(usize, FileError)>,
}

struct Step<B: Backing> {
    /// Which operation.
    operation: usize,
    path: PathBuf,
    what: What<B>,
}

enum What<B: Backing> {
    New { temporary: Temporary<B>, name: OsString, kind: SyncKind, settled: bool },
    Gone { dir: Arc<Held<B>>, name: OsString },
}

impl<B: Backing> Step<B> {
    fn change(&self) -> NameChange {
        match &self.what {
            What::New { temporary, name, .. } => NameChange::Replace {
                file: temporary.open_file(),
                dir: temporary.dir.id,
                temporary: temporary.name.clone(),
                name: name.clone(),
            },
            What::Gone { dir, name } => NameChange::Remove { dir: dir.id, name: name.clone() },
        }
    }

    fn failed(&self, what: &'static str, source: Errno) -> (usize, FileError) {
        (self.operation, FileError::io(what, &self.path, source))
    }
}

impl<B: Backing> Execution<B> {
    pub(super) fn new(shared: &Arc<Shared<B>>) -> Self {
        Self {
            shared: Arc::clone(shared),
            caller: shared.caller(),
            steps: Vec::new(),
            targets: HashMap::new(),
            begun: 0,
            open: 0,
            closed: false,
            failure: None,
        }
    }

    /// Whether an operation has failed: nothing more is to be tried.
    pub(super) const fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Prepares an operation, unless one has failed before. A panic in it is a failure.
    pub(super) fn prepare(&mut self, operation: &Operation) {
        self.attempt(|execution| match operation {
            Operation::Write { path, bytes, .. } => execution.write(path, (**bytes).as_ref()),
            Operation::Delete { path } => execution.delete(path),
            Operation::Copy { from, to } => execution.copy(from, to),
        });
    }

    pub(super) fn attempt(&mut self, operation: impl FnOnce(&mut Self) -> Tried<()>) {
        if self.failure.is_some() {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| operation(self)));
        let result = result.unwrap_or_else(|panic| Err(FileError::Panicked(text_of(&*panic))));
        if let Err(error) = result {
            // Settling may have found an earlier one.
            self.failure.get_or_insert((self.begun, error));
        } else {
            self.begun += 1;
        }
    }

    // ---- operations ----

    /// Prepares to put a file with these bytes under a name.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8]) -> Tried<()> {
        let place = self.place_of_file(path)?;
        let birth = self.birth(&place, self.shared.config.new_file_mode);
        let temporary = self.new_file(path, &place.dir, birth)?;
        self.fill(&temporary, bytes).map_err(|error| FileError::io("write", path, error))?;
        self.put(path, place, temporary, birth)
    }

    /// Prepares to remove a name; that it is missing is no failure.
    pub(super) fn delete(&mut self, path: &Path) -> Tried<()> {
        let place = match self.resolve(path, false) {
            Ok(place) => place,
            // Its directory is missing: so is it.
            Err(FileError::Io { source: Errno::NOENT, .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if place.existing.as_ref().is_some_and(|old| old.attr.kind == FileKind::Directory) {
            return Err(FileError::NotAFile(path.to_owned()));
        }
        self.push(place.key(), path, What::Gone { dir: place.dir, name: place.name });
        Ok(())
    }

    /// Prepares to put a copy of a file under a name.
    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> Tried<()> {
        let source = self.resolve(from, true)?.existing;
        let source = source.ok_or_else(|| FileError::io("copy", from, Errno::NOENT))?;
        if source.attr.kind != FileKind::Regular {
            return Err(FileError::NotAFile(from.to_owned()));
        }
        let place = self.place_of_file(to)?;
        let birth = self.birth(&place, u32::from(source.attr.perm) & 0o777);
        let temporary = self.new_file(to, &place.dir, birth)?;
        let failed = |error| FileError::io("copy", from, error);
        let tree = &self.shared.tree;
        let file = tree.open(self.caller, source.id, READ, false).map_err(failed)?;
        let copied = self.copy_content(file, &temporary);
        tree.release(file);
        copied.map_err(failed)?;
        self.put(to, place, temporary, birth)
    }

    // ---- parts of them ----

    fn resolve(&self, path: &Path, follows: bool) -> Tried<Place<B>> {
        let pending = |dir, name: &OsStr| self.pending(dir, name);
        resolve(&self.shared.tree, path, follows, &pending)
    }

    fn pending(&self, dir: u64, name: &OsStr) -> Option<Pending> {
        // Most batches name each path once.
        let step = self.targets.get(&(dir, name.to_owned()))?;
        Some(match &self.steps[*step].as_ref()?.what {
            What::New { temporary, .. } => Pending::New(temporary.name.clone()),
            What::Gone { .. } => Pending::Gone,
        })
    }

    /// Where a file may be put.
    fn place_of_file(&self, path: &Path) -> Tried<Place<B>> {
        let place = self.resolve(path, true)?;
        let Some(old) = &place.existing else { return Ok(place) };
        if old.attr.kind != FileKind::Regular {
            return Err(FileError::NotAFile(path.to_owned()));
        }
        let names = old.attr.nlink;
        if names > 1 && self.shared.config.hard_links == HardLinks::Refuse {
            return Err(FileError::HardLinked { path: path.to_owned(), names });
        }
        Ok(place)
    }

    /// How the file for a place is made: as the one there, else with these permission bits.
    fn birth(&self, place: &Place<B>, mode: u32) -> Birth {
        place.existing.as_ref().map_or(Birth::with(mode), |old| {
            Birth::instead_of(&self.shared.tree, self.caller, &place.dir, old)
        })
    }

    /// Makes a temporary file.
    fn new_file(&mut self, path: &Path, dir: &Arc<Held<B>>, birth: Birth) -> Tried<Temporary<B>> {
        let failed = |error| FileError::io("make a temporary file beside", path, error);
        if self.open >= OPEN_FILES_MAX {
            self.close_files()?;
        }
        let (shared, caller) = (&self.shared, self.caller);
        let sync = || sync_dir(&shared.tree, caller, NodeId::ROOT);
        shared.open_note.make(&shared.tree, caller, sync).map_err(failed)?;
        Temporary::make(&shared.tree, caller, Arc::clone(dir), birth.mode).map_err(failed)
    }

    fn fill(&self, temporary: &Temporary<B>, bytes: &[u8]) -> Result<()> {
        let (tree, file) = (&self.shared.tree, temporary.file()?);
        let mut done = 0;
        if self.shared.config.method == Method::Direct {
            done = tree.write_direct(self.caller, file, bytes, 0)?;
            self.shared.note_direct(done, bytes.len());
        }
        self.write_all(file, &bytes[done..], done as u64)
    }

    fn write_all(&self, file: FileId, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            // Short before an error, which comes again.
            let written = self.shared.tree.write(self.caller, file, bytes, offset, true)?;
            if written == 0 {
                return Err(Errno::IO);
            }
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }

    fn copy_content(&self, source: FileId, temporary: &Temporary<B>) -> Result<()> {
        /// Most that is asked for at once.
        const PIECE_BYTES: u64 = 64 << 20;
        const BUFFER_BYTES: usize = 256 << 10;
        let (tree, file) = (&self.shared.tree, temporary.file()?);
        let mut done = 0;
        loop {
            match tree.copy_range(self.caller, (source, done), (file, done), PIECE_BYTES) {
                Ok(0) => return Ok(()),
                Ok(bytes) => done += bytes,
                // The filesystem leaves it to us.
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => break,
                Err(error) => return Err(error),
            }
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = tree.read(self.caller, source, &mut buffer, done)?;
            if read == 0 {
                return Ok(());
            }
            self.write_all(file, &buffer[..read], done)?;
            done += read as u64;
        }
    }

    /// Notes that a file will stand at a place, with what the one there has.
    fn put(
        &mut self,
        path: &Path,
        place: Place<B>,
        temporary: Temporary<B>,
        birth: Birth,
    ) -> Tried<()> {
        let mut kind = match self.shared.config.method {
            Method::Sync => SyncKind::Full,
            _ => SyncKind::Data,
        };
        if let Some(old) = &place.existing {
            kind = SyncKind::Full;
            let (tree, caller) = (&self.shared.tree, self.caller);
            carry_over(tree, caller, old, &temporary, birth).map_err(|(what, source)| {
                FileError::CannotKeep { what, path: path.to_owned(), source }
            })?;
        }
        let settled = self.replaces_a_step(&place.key());
        if settled {
            // What it takes the place of is gone then.
            let written =
                temporary.file().and_then(|file| self.shared.tree.write_back(self.caller, file));
            written.map_err(|error| FileError::io("write", path, error))?;
        }
        self.open += 1;
        let key = place.key();
        self.push(key, path, What::New { temporary, name: place.name, kind, settled });
        Ok(())
    }

    /// Whether an earlier operation on this name leaves no trace.
    fn replaces_a_step(&self, key: &NameKey) -> bool {
        self.shared.has_log() && self.targets.contains_key(key)
    }

    fn push(&mut self, key: NameKey, path: &Path, what: What<B>) {
        let replaces = self.replaces_a_step(&key);
        let step = Step { operation: self.begun, path: path.to_owned(), what };
        self.steps.push(Some(step));
        let before = self.targets.insert(key, self.steps.len() - 1);
        if let Some(before) = before.filter(|_| replaces)
            && let Some(Step { what: What::New { temporary, .. }, .. }) = self.steps[before].take()
        {
            self.open -= usize::from(temporary.open_file().is_some());
        }
    }

    // ---- settling ----

    fn new_files(
        &mut self,
    ) -> impl Iterator<Item = (usize, &mut Temporary<B>, &mut bool, SyncKind)> {
        self.steps.iter_mut().flatten().filter_map(|step| match &mut step.what {
            What::New { temporary, kind, settled, .. } => {
                Some((step.operation, temporary, settled, *kind))
            }
            What::Gone { .. } => None,
        })
    }

    /// Writes back what is open; where the filesystem keeps no order, makes it durable.
    /// What cannot be is the first failure.
    fn settle(&mut self) {
        let (shared, caller) = (Arc::clone(&self.shared), self.caller);
        let durable = !shared.tree.engine().keeps_order();
        let open: Vec<(usize, FileId, SyncKind)> = self
            .new_files()
            .filter(|(_, _, settled, _)| !**settled)
            .filter_map(|(at, temporary, _, kind)| Some((at, temporary.open_file()?, kind)))
            .collect();
        // All at once, then each is waited for.
        if open.len() > 1 {
            open.iter().for_each(|(_, file, _)| shared.tree.start_write_back(caller, *file));
        }
        let failed = if durable {
            // Their syncs write and wait themselves, in parallel.
            if open.is_empty() { None } else { shared.sync_files(caller, &open) }
        } else {
            open.iter().find_map(|(operation, file, _)| {
                let written = shared.tree.write_back(caller, *file);
                written.err().map(|error| (*operation, error))
            })
        };
        self.new_files().for_each(|(_, temporary, settled, _)| {
            *settled = true;
            // Nobody reads it any more, and there are filesystems on which a file that is open
            // cannot be replaced: by a later operation of the batch, say.
            if durable {
                temporary.close();
            }
        });
        if let Some((operation, error)) = failed {
            self.fail_at(operation, error);
        }
    }

    fn fail_at(&mut self, operation: usize, error: Errno) {
        let step = self.steps.iter().flatten().find(|step| step.operation == operation);
        let path = step.map(|step| step.path.clone()).unwrap_or_default();
        self.failure = Some((operation, FileError::io("write", &path, error)));
        self.steps.retain(|step| step.as_ref().is_some_and(|step| step.operation < operation));
        // Nothing is prepared any more: places in the list are not asked for.
        self.targets.clear();
    }

    /// Settles and closes all files, so that there are not too many.
    fn close_files(&mut self) -> Tried<()> {
        self.settle();
        self.new_files().for_each(|(_, temporary, ..)| temporary.close());
        self.open = 0;
        self.closed = true;
        match &self.failure {
            // Told again by whoever asks for the next file.
            Some((_, error)) => Err(error.clone()),
            None => Ok(()),
        }
    }

    // ---- applying ----

    /// Applies all names. Gives what is to be submitted; `answer` is called when all of it
    /// is durable, or at once if nothing was done.
    pub(super) fn apply(mut self, answer: Answer) -> Vec<SyncOrder<B>> {
        self.settle();
        let mut steps: Vec<Step<B>> =
            std::mem::take(&mut self.steps).into_iter().flatten().collect();
        let changes: Vec<_> = steps.iter().map(Step::change).collect();
        let tree = Arc::clone(&self.shared.tree);
        let in_place = self.closed && self.shared.has_log();
        let committed = if in_place { tree.commit_in_place() } else { Ok(()) };
        let changed = match committed.and_then(|()| tree.change_names(&changes)) {
            Ok(changed) => changed,
            Err(error) => {
                let failed = steps.first().map(|step| step.failed("replace or remove", error));
                drop(steps);
                let (failed_at, source) = failed.unwrap_or((0, FileError::NotDurable(error)));
                answer.give(Err(BatchError { failed_at, completed: 0, source }));
                return Vec::new();
            }
        };
        if let (Err(error), Some(step)) = (changed.result, steps.get(changed.done)) {
            self.failure = Some(step.failed("replace or remove", error));
        }
        // What was not placed is removed here.
        steps.truncate(changed.done);
        for step in &mut steps {
            if let What::New { temporary, .. } = &mut step.what {
                temporary.placed();
            }
        }
        let (begun, failure) = (self.begun, self.failure.take());
        let done = move |synced: Result<()>| {
            // Open until now, so that the log can read them.
            answer.give_with(outcome(begun, failure, synced), Some(Box::new(steps)));
        };
        tree.orders_for_names(&changed, Box::new(done))
    }
}

fn outcome(
    begun: usize,
    failure: Option<(usize, FileError)>,
    synced: Result<()>,
) -> std::result::Result<(), BatchError> {
    match (synced, failure) {
        (Err(error), _) => {
            let source = FileError::NotDurable(error);
            Err(BatchError { failed_at: begun, completed: 0, source })
        }
        (Ok(()), Some((failed_at, source))) => {
            Err(BatchError { failed_at, completed: failed_at, source })
        }
        (Ok(()), None) => Ok(()),
    }
}

/// What a panic said.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

impl<B: Backing> Shared<B> {
    /// Makes open files durable by themselves, and waits; the first failure, by
    /// operation.
    fn sync_files(
        &self,
        caller: Caller,
        files: &[(usize, FileId, SyncKind)],
    ) -> Option<(usize, Errno)> {
        let (sender, answers) = channel();
        let mut orders = Vec::new();
        for &(operation, file, kind) in files {
            let sender = sender.clone();
            let done = Box::new(move |result| {
                let _ = sender.send((operation, result));
            });
            orders.extend(self.tree.order_for_file(caller, file, kind, done));
        }
        drop(sender);
        self.tree.submit(caller, orders, true);
        let failed = answers
            .iter()
            .filter_map(|(at, result): (usize, Result<()>)| result.err().map(|error| (at, error)));
        failed.min_by_key(|(at, _)| *at)
    }
}
