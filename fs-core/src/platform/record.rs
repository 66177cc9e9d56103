//! A door that records: every operation that passes is noted, in the order in which it
//! was applied, with who asked for it.
//!
//! [`Recorder`] is a [`Backing`] over another one. It applies one change at a time, so
//! that the order that it notes is the order that was. What it makes is a
//! [`Trace`](crate::crash::trace::Trace), for the crash lab.
//!
//! The recorded tree is one directory of the backing; what lies beside it is served and
//! not recorded, except for the files that programs tell things through
//! ([`RecordPlan::told`]): what is written there is an acknowledgement.
//!
//! Not offered while recording, so that programs fall back to what is: `fallocate` modes
//! that move bytes, and renames that leave a whiteout.

use std::cell::Cell;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::fence::RecordingFencer;
use self::live::About;
pub use self::live::{CrashPoint, Live};
use self::tape::Tape;
pub use self::tape::{RecordPlan, Witness, WriteCall};
use super::{
    Backing, FenceMethod, Fencer, Found, ObjectKey, OpenMode, RenameMode, Seek, SyncTarget,
};
use crate::crash::trace::{Ino, Made, Operation, Place, Trace};
use crate::error::{Errno, Result};
use crate::faults::FaultKind;
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr};

mod fence;
mod live;
mod scan;
mod tape;

/// Modes of `fallocate(2)` that are recorded: KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
const ALLOCATE_MODES: u32 = 0x01 | 0x02 | 0x10;

thread_local! {
    /// Who this thread acts for, where the operation itself does not say.
    static ACTING: Cell<u32> = const { Cell::new(0) };
}

/// Runs `act` on behalf of `caller`: for operations that carry no caller.
pub fn acting<T>(caller: Caller, act: impl FnOnce() -> T) -> T {
    let before = ACTING.replace(caller.thread);
    let done = act();
    ACTING.set(before);
    done
}

/// A backing that records.
pub struct Recorder<B: Backing> {
    inner: B,
    tape: Arc<Tape>,
    live: Option<Arc<Live>>,
}

/// An object, and its number in the recording.
pub struct Object<B: Backing> {
    inner: B::Object,
    ino: Option<Ino>,
}

/// An open file.
pub struct File<B: Backing> {
    inner: Arc<B::File>,
    id: tape::Known,
    /// Changed through this open since its last close was noted.
    is_changed: AtomicBool,
    /// Made or cut by the opening itself. A shell that redirects a command to a file copies
    /// the descriptor and closes the first one: only the last close counts for that, unless
    /// one was noted.
    is_begun: AtomicBool,
    thread: u32,
    tape: Arc<Tape>,
}

/// An open directory.
pub struct Dir<B: Backing> {
    inner: Arc<B::Dir>,
    ino: Option<Ino>,
    thread: u32,
}

impl<B: Backing> File<B> {
    fn changed(&self) {
        self.is_changed.store(true, Ordering::Relaxed);
    }

    /// Notes a close, once for what was changed before it. The kernel tells of each close
    /// before it returns (FLUSH), and of the last one once more, later (RELEASE).
    fn note_close(&self, is_last: bool) {
        let is_changed = self.is_changed.swap(false, Ordering::Relaxed);
        if !is_changed && !is_last {
            return;
        }
        let is_begun = self.is_begun.swap(false, Ordering::Relaxed);
        if let Some(ino) = self.id.ino.filter(|_| is_changed || is_begun) {
            self.tape.lock().note(self.thread, Operation::Close { ino });
        }
    }
}

impl<B: Backing> Drop for File<B> {
    fn drop(&mut self) {
        self.note_close(true);
    }
}

impl<B: Backing> Recorder<B> {
    /// A recorder over `inner`, whose tree is read once from end to end.
    ///
    /// # Errors
    /// Something in the tree cannot be read.
    pub fn new(inner: B, plan: RecordPlan, witness: Box<dyn Witness>) -> Result<Self> {
        let scanned = scan::scan(&inner, &plan)?;
        Ok(Self { inner, tape: Arc::new(Tape::new(scanned, plan, witness)), live: None })
    }

    /// The same, with failures on purpose.
    #[must_use]
    pub fn failing(self, live: Arc<Live>) -> Self {
        Self { live: Some(live), ..self }
    }

    /// What was recorded so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.tape.lock().trace.compacted()
    }

    /// What records.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn found(&self, found: Found<B>) -> Found<Self> {
        let ino = self.tape.lock().find(&found.key).ino;
        let Found { key, object, attr } = found;
        Found { key, object: Object { inner: object, ino }, attr }
    }

    /// Makes an object and notes it.
    fn make(
        &self,
        thread: u32,
        dir: &Object<B>,
        name: &OsStr,
        target: &OsStr,
        make: impl FnOnce() -> Result<Found<B>>,
    ) -> Result<Found<Self>> {
        self.before(FaultKind::Create, thread, &About::Name(dir, name))?;
        let mut tape = self.tape.lock();
        let Found { key, object, attr } = make()?;
        let known = tape.made(thread, key, dir.ino, name, made(&attr, target));
        Ok(Found { key, object: Object { inner: object, ino: known.ino }, attr })
    }

    fn file(
        &self,
        inner: B::File,
        id: tape::Known,
        mode: OpenMode,
        thread: u32,
        is_begun: bool,
    ) -> File<B> {
        if mode.write {
            self.tape.lock().opened(id, thread);
        }
        let (tape, is_changed) = (Arc::clone(&self.tape), AtomicBool::new(false));
        let is_begun = AtomicBool::new(is_begun);
        File { inner: Arc::new(inner), id, is_changed, is_begun, thread, tape }
    }

    /// A change of a file's content, and of the bits that it takes.
    fn write_through<T>(
        &self,
        caller: Caller,
        file: &File<B>,
        change: impl FnOnce() -> Result<T>,
        note: impl FnOnce(&mut tape::Guard<'_>, &T) -> Option<Operation>,
    ) -> Result<T> {
        let mut tape = self.tape.lock();
        let value = change()?;
        file.changed();
        if let Some(operation) = note(&mut tape, &value) {
            tape.note(caller.thread, operation);
        }
        if let (Some(ino), Ok(attr)) = (file.id.ino, self.inner.file_attr(&file.inner)) {
            tape.note_attrs(caller.thread, ino, &attr);
        }
        Ok(value)
    }

    fn remove(
        &self,
        dir: &Object<B>,
        name: &OsStr,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.before(FaultKind::Remove, ACTING.get(), &About::Name(dir, name))?;
        let mut tape = self.tape.lock();
        let victim = self.inner.lookup(&dir.inner, name);
        remove()?;
        if let (Some(dir), Ok(victim)) = (dir.ino, victim)
            && let Some(ino) = tape.find(&victim.key).ino
        {
            let at = Place { dir, name: bytes(name).into() };
            tape.note(ACTING.get(), Operation::Remove { at, ino });
        }
        Ok(())
    }
}

fn made(attr: &Attr, target: &OsStr) -> Made {
    Made {
        kind: attr.kind,
        perm: attr.perm,
        uid: attr.uid,
        gid: attr.gid,
        device: (attr.rdev_major, attr.rdev_minor),
        target: bytes(target).to_vec(),
    }
}

fn bytes(name: &OsStr) -> &[u8] {
    name.as_encoded_bytes()
}

impl<B: Backing> Backing for Recorder<B> {
    type Object = Object<B>;
    type File = File<B>;
    type Dir = Dir<B>;
    type Fencer = RecordingFencer<B>;
    type Log = B::Log;

    fn root(&self) -> Result<Found<Self>> {
        Ok(self.found(self.inner.root()?))
    }

    fn lookup(&self, dir: &Object<B>, name: &OsStr) -> Result<Found<Self>> {
        Ok(self.found(self.inner.lookup(&dir.inner, name)?))
    }

    fn pin(&self, object: &Object<B>) -> Result<()> {
        self.inner.pin(&object.inner)
    }

    fn unpin(&self, object: &Object<B>) {
        self.inner.unpin(&object.inner);
    }

    fn kind_at(&self, dir: &Object<B>, name: &OsStr) -> Result<FileKind> {
        self.inner.kind_at(&dir.inner, name)
    }

    fn attr(&self, object: &Object<B>) -> Result<Attr> {
        self.inner.attr(&object.inner)
    }

    fn set_attr(
        &self,
        caller: Caller,
        object: &Object<B>,
        file: Option<&File<B>>,
        change: &SetAttr,
    ) -> Result<Attr> {
        if change.size.is_some() {
            self.before(FaultKind::Truncate, caller.thread, &About::File(object.ino))?;
        }
        let mut tape = self.tape.lock();
        let before = self.inner.attr(&object.inner)?.size;
        let inner = file.map(|file| &*file.inner);
        let attr = self.inner.set_attr(caller, &object.inner, inner, change)?;
        if let Some(file) = file.filter(|_| change.size.is_some()) {
            file.changed();
        }
        if let Some(ino) = object.ino {
            if let Some(bytes) = change.size.filter(|bytes| *bytes != before) {
                tape.note(caller.thread, Operation::Resize { ino, bytes });
            }
            tape.note_attrs(caller.thread, ino, &attr);
        }
        Ok(attr)
    }

    fn read_link(&self, object: &Object<B>) -> Result<Vec<u8>> {
        self.inner.read_link(&object.inner)
    }

    fn make_node(
        &self,
        caller: Caller,
        dir: &Object<B>,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Found<Self>> {
        self.make(caller.thread, dir, name, OsStr::new(""), || {
            self.inner.make_node(caller, &dir.inner, name, mode, device)
        })
    }

    fn make_dir(
        &self,
        caller: Caller,
        dir: &Object<B>,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Found<Self>> {
        self.make(caller.thread, dir, name, OsStr::new(""), || {
            self.inner.make_dir(caller, &dir.inner, name, mode)
        })
    }

    fn make_symlink(
        &self,
        caller: Caller,
        dir: &Object<B>,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Found<Self>> {
        self.make(caller.thread, dir, name, target, || {
            self.inner.make_symlink(caller, &dir.inner, name, target)
        })
    }

    fn link(&self, object: &Object<B>, dir: &Object<B>, name: &OsStr) -> Result<Found<Self>> {
        self.before(FaultKind::Create, ACTING.get(), &About::Name(dir, name))?;
        let mut tape = self.tape.lock();
        let found = self.inner.link(&object.inner, &dir.inner, name)?;
        if let (Some(ino), Some(dir)) = (object.ino, dir.ino) {
            let at = Place { dir, name: bytes(name).into() };
            tape.note(ACTING.get(), Operation::Link { at, ino });
        }
        drop(tape);
        Ok(self.found(found))
    }

    fn unlink(&self, dir: &Object<B>, name: &OsStr) -> Result<()> {
        self.remove(dir, name, || self.inner.unlink(&dir.inner, name))
    }

    fn remove_dir(&self, dir: &Object<B>, name: &OsStr) -> Result<()> {
        self.remove(dir, name, || self.inner.remove_dir(&dir.inner, name))
    }

    fn rename(
        &self,
        source: (&Object<B>, &OsStr),
        target: (&Object<B>, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        if mode.whiteout {
            return Err(Errno::INVAL);
        }
        self.before(FaultKind::Rename, ACTING.get(), &About::Names([source, target]))?;
        let mut tape = self.tape.lock();
        let find = |(dir, name): (&Object<B>, &OsStr)| self.inner.lookup(&dir.inner, name).ok();
        let (moved, replaced) = (find(source), find(target));
        self.inner.rename((&source.0.inner, source.1), (&target.0.inner, target.1), mode)?;
        let replaced = replaced.and_then(|found| tape.find(&found.key).ino);
        let moved = moved.and_then(|found| tape.find(&found.key).ino);
        // Two names of one object: nothing was done (`vfs_rename`).
        if let (Some(from), Some(to), Some(ino)) = (source.0.ino, target.0.ino, moved)
            && replaced != Some(ino)
        {
            let from = Place { dir: from, name: bytes(source.1).into() };
            let to = Place { dir: to, name: bytes(target.1).into() };
            let exchange = mode.exchange;
            tape.note(ACTING.get(), Operation::Rename { from, to, ino, replaced, exchange });
        }
        Ok(())
    }

    fn open(&self, caller: Caller, object: &Object<B>, mode: OpenMode) -> Result<File<B>> {
        self.before(FaultKind::Open, caller.thread, &About::File(object.ino))?;
        if mode.truncate {
            self.before(FaultKind::Truncate, caller.thread, &About::File(object.ino))?;
        }
        let mut tape = self.tape.lock();
        let cut = mode.truncate && self.inner.attr(&object.inner)?.size > 0;
        let file = self.inner.open(caller, &object.inner, mode)?;
        if let (true, Some(ino)) = (cut, object.ino) {
            tape.note(caller.thread, Operation::Resize { ino, bytes: 0 });
            if let Ok(attr) = self.inner.file_attr(&file) {
                tape.note_attrs(caller.thread, ino, &attr);
            }
        }
        let id = match object.ino {
            Some(ino) => tape::Known { ino: Some(ino), told: None },
            None => self
                .inner
                .attr(&object.inner)
                .map_or(tape::Known::NOTHING, |attr| tape.told_by(attr.ino)),
        };
        drop(tape);
        Ok(self.file(file, id, mode, caller.thread, cut))
    }

    fn create(
        &self,
        caller: Caller,
        dir: &Object<B>,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Found<Self>, File<B>, bool)> {
        self.before(FaultKind::Create, caller.thread, &About::Name(dir, name))?;
        let mut tape = self.tape.lock();
        let (found, file, is_new) =
            self.inner.create(caller, &dir.inner, name, new, mode, exclusive)?;
        let Found { key, object, attr } = found;
        let id = if is_new {
            tape.made(caller.thread, key, dir.ino, name, made(&attr, OsStr::new("")))
        } else {
            tape.find(&key)
        };
        drop(tape);
        let file = self.file(file, id, mode, caller.thread, is_new && mode.write);
        Ok((Found { key, object: Object { inner: object, ino: id.ino }, attr }, file, is_new))
    }

    fn descriptor_closed(&self, file: &File<B>) {
        file.note_close(false);
    }

    fn read(&self, file: &File<B>, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.before(FaultKind::Read, ACTING.get(), &About::File(file.id.ino))?;
        self.inner.read(&file.inner, buffer, offset)
    }

    fn write(
        &self,
        caller: Caller,
        file: &File<B>,
        data: &[u8],
        offset: u64,
        keep_suid: bool,
    ) -> Result<usize> {
        let torn = self.before(FaultKind::Write, caller.thread, &About::File(file.id.ino))?;
        let bytes = torn.and_then(|bytes| usize::try_from(bytes).ok());
        let data = &data[..bytes.unwrap_or(data.len()).min(data.len())];
        let write = || self.inner.write(caller, &file.inner, data, offset, keep_suid);
        let written = self.write_through(caller, file, write, |tape, written| {
            tape.written(file.id, caller.thread, offset, &data[..*written])
        })?;
        if torn.is_some() { Err(self.torn()) } else { Ok(written) }
    }

    fn allocate(
        &self,
        caller: Caller,
        file: &File<B>,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        if mode & !ALLOCATE_MODES != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        self.before(FaultKind::Write, caller.thread, &About::File(file.id.ino))?;
        let allocate = || self.inner.allocate(caller, &file.inner, mode, offset, length);
        self.write_through(caller, file, allocate, |_, ()| {
            file.id.ino.map(|ino| Operation::Allocate { ino, mode, offset, bytes: length })
        })
    }

    fn seek(&self, file: &File<B>, offset: u64, what: Seek) -> Result<u64> {
        self.inner.seek(&file.inner, offset, what)
    }

    fn copy_range(
        &self,
        caller: Caller,
        source: (&File<B>, u64),
        target: (&File<B>, u64),
        length: u64,
    ) -> Result<u64> {
        self.before(FaultKind::Write, caller.thread, &About::File(target.0.id.ino))?;
        let (from, to) = ((&*source.0.inner, source.1), (&*target.0.inner, target.1));
        let copy = || self.inner.copy_range(caller, from, to, length);
        self.write_through(caller, target.0, copy, |tape, copied| {
            let mut data = vec![0; *copied as usize];
            let read = self.inner.read(from.0, &mut data, from.1).unwrap_or(0);
            tape.written(target.0.id, caller.thread, to.1, &data[..read])
        })
    }

    fn open_dir(&self, object: &Object<B>) -> Result<Dir<B>> {
        let inner = Arc::new(self.inner.open_dir(&object.inner)?);
        Ok(Dir { inner, ino: object.ino, thread: ACTING.get() })
    }

    fn read_dir(
        &self,
        dir: &Dir<B>,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        self.inner.read_dir(&dir.inner, offset, visit)
    }

    fn xattr(&self, object: &Object<B>, name: &OsStr) -> Result<Vec<u8>> {
        self.inner.xattr(&object.inner, name)
    }

    fn xattr_names(&self, object: &Object<B>) -> Result<Vec<u8>> {
        self.inner.xattr_names(&object.inner)
    }

    fn set_xattr(
        &self,
        caller: Caller,
        object: &Object<B>,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let mut tape = self.tape.lock();
        self.inner.set_xattr(caller, &object.inner, name, value, flags)?;
        if let Some(ino) = object.ino {
            // An ACL that says no more than the permission bits is not kept as one.
            let is_acl = bytes(name).starts_with(b"system.posix_acl_");
            let value = if is_acl {
                self.inner.xattr(&object.inner, name).ok()
            } else {
                Some(value.to_vec())
            };
            let name = bytes(name).into();
            tape.note(caller.thread, Operation::Xattr { ino, name, value });
            // An access ACL is permission bits, too.
            if let Ok(attr) = self.inner.attr(&object.inner) {
                tape.note_attrs(caller.thread, ino, &attr);
            }
        }
        Ok(())
    }

    fn remove_xattr(&self, object: &Object<B>, name: &OsStr) -> Result<()> {
        let mut tape = self.tape.lock();
        self.inner.remove_xattr(&object.inner, name)?;
        if let Some(ino) = object.ino {
            let name = bytes(name).into();
            tape.note(ACTING.get(), Operation::Xattr { ino, name, value: None });
        }
        Ok(())
    }

    fn asked_to_sync(&self, caller: Caller, target: &SyncTarget<Self>) -> Result<()> {
        let (kind, ino) = match target {
            SyncTarget::File(file, _) => (FaultKind::Fsync, file.id.ino),
            SyncTarget::Dir(dir) => (FaultKind::FsyncDir, dir.ino),
        };
        self.before(kind, caller.thread, &About::File(ino)).map(drop)
    }

    fn fencer(&self) -> RecordingFencer<B> {
        RecordingFencer { inner: self.inner.fencer(), tape: Arc::clone(&self.tape) }
    }

    fn filesystem_id(&self) -> u64 {
        self.inner.filesystem_id()
    }

    fn stats(&self) -> Result<FsStats> {
        self.inner.stats()
    }

    fn sync_all(&self) -> Result<()> {
        self.inner.sync_all()
    }

    // ---- no log is kept while recording ----

    fn log_obstacle(&self) -> Option<String> {
        Some("operations are recorded".to_owned())
    }

    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>> {
        Ok(self.found(self.inner.by_key(key)?))
    }

    fn file_attr(&self, file: &File<B>) -> Result<Attr> {
        self.inner.file_attr(&file.inner)
    }

    fn known_bytes(&self, file: &File<B>) -> u64 {
        self.inner.known_bytes(&file.inner)
    }

    fn start_write_back(&self, file: &File<B>) -> Result<()> {
        self.inner.start_write_back(&file.inner)
    }

    fn finish_write_back(&self, file: &File<B>) -> Result<()> {
        self.inner.finish_write_back(&file.inner)
    }

    fn start_write_back_within(&self, file: &File<B>, within: Range<u64>) -> Result<()> {
        self.inner.start_write_back_within(&file.inner, within)
    }

    fn finish_write_back_within(&self, file: &File<B>, within: Range<u64>) -> Result<()> {
        self.inner.finish_write_back_within(&file.inner, within)
    }

    fn delays_allocation(&self) -> bool {
        self.inner.delays_allocation()
    }

    fn delayed(&self, file: &File<B>, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.inner.delayed(&file.inner, within)
    }

    fn settled(&self, file: &File<B>, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.inner.settled(&file.inner, within)
    }

    fn set_marker(&self, file: &File<B>, lsn: u64) -> Result<()> {
        self.inner.set_marker(&file.inner, lsn)
    }

    fn marker(&self, file: &File<B>) -> Result<u64> {
        self.inner.marker(&file.inner)
    }

    fn flush_device(&self, file: &File<B>) -> Result<()> {
        self.inner.flush_device(&file.inner)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.inner.boot_id()
    }

    fn mount_id(&self) -> u64 {
        self.inner.mount_id()
    }

    fn make_log(
        &self,
        dir: &Object<B>,
        name: &OsStr,
        length: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<B::Log> {
        self.inner.make_log(&dir.inner, name, length, progress)
    }

    fn open_log(&self, dir: &Object<B>, name: &OsStr) -> Result<B::Log> {
        self.inner.open_log(&dir.inner, name)
    }
}
