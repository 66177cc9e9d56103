//! Batches: operations on names that a power cut leaves all or none of.
//!
//! Operations are applied one at a time, and the backing journal may commit between any
//! two of them, long before the group with their records is durable. So before the first
//! one is applied, the whole batch is written down in `.lanefs/marks`: a file whose
//! content is the batch's records. It is written in place under a name that means
//! nothing; then, under the stream's lock, it gets the name that makes it valid, the
//! operations are applied and numbered, and it is removed. All of that are changes of one
//! journal, which keeps their order. So whatever a power cut (or a kill) leaves:
//!
//! | the journal kept | what recovery finds |
//! | --- | --- |
//! | not the valid name | no operation of the batch; the log has all records of it, or none |
//! | the valid name | the file, complete: what is behind the marker is redone from it |
//! | its removal | every operation of the batch |
//!
//! The log's group holds the records all the same, and content that joined them: all of
//! it is taken from the stream at once. A record that both have is the same one.
//!
//! Nobody waits for a flush here, and nobody else is kept out for longer than the
//! operations take. A batch of one needs none of this.

use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{GroupBuilder, Seal, parse_group};
use super::marks::{Mark, Marks, OURSELVES};
use super::record::{Change, Record};
use super::tracked::Tracked;
use super::{Applied, Log, PENDING_BYTES_MAX};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::platform::{Backing, LogBuffer, OpenMode};
use crate::types::NewMode;

/// Begins the name of a batch that counts: number before its first operation, count.
const VALID: &str = "t";
/// Begins the name of one that does not count yet.
const PREPARED: &str = "prepared";

const FILE: NewMode = NewMode { mode: 0o600, umask: 0 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: true };

/// Distinguishes batches that are prepared at the same time.
static NEXT_PREPARED: AtomicU64 = AtomicU64::new(1);

/// A batch that is written down.
pub(crate) struct Prepared {
    name: OsString,
    operations: u64,
}

/// An operation of a batch that was applied, and the file whose content must be durable
/// with it.
pub(crate) struct Step<B: Backing> {
    pub(crate) change: Change,
    pub(crate) joined: Option<Arc<Tracked<B>>>,
}

/// What became of a batch.
pub(crate) struct Together {
    /// Operations that were applied.
    pub(crate) done: usize,
    /// Why the next one was not, if one was not.
    pub(crate) result: Result<()>,
}

impl<B: Backing> Marks<B> {
    /// Writes a batch down.
    fn prepare(&self, backing: &B, changes: &[Change]) -> Result<Prepared> {
        let number = NEXT_PREPARED.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{PREPARED}-{number:x}"));
        let prepared = Prepared { name, operations: changes.len() as u64 };
        let written = self.write(backing, &prepared.name, &encode(changes));
        if let Err(error) = written {
            self.discard(backing, &prepared);
            return Err(error);
        }
        Ok(prepared)
    }

    fn write(&self, backing: &B, name: &OsStr, content: &[u8]) -> Result<()> {
        let made = backing.create(OURSELVES, &self.directory, name, FILE, READ_WRITE, true);
        let (_, file, _) = made?;
        if backing.write(OURSELVES, &file, content, 0, true)? < content.len() {
            return Err(Errno::NOSPC);
        }
        backing.finish_write_back(&file)
    }

    /// Removes a batch that never counted.
    fn discard(&self, backing: &B, prepared: &Prepared) {
        let _ = backing.unlink(&self.directory, &prepared.name);
    }

    /// From now on the batch counts, with numbers from `before + 1` on.
    fn make_valid(&self, backing: &B, prepared: &mut Prepared, before: Lsn) -> Result<()> {
        let name = OsString::from(format!("{VALID}-{before:x}-{:x}", prepared.operations));
        let (from, to) = ((&self.directory, &*prepared.name), (&self.directory, &*name));
        backing.rename(from, to, crate::platform::RenameMode::default())?;
        prepared.name = name;
        Ok(())
    }

    /// Operations of batches that count, by number, of those batches that end behind
    /// `marker`.
    pub(super) fn of_batches(&self, backing: &B, marker: Lsn) -> Result<Vec<Mark>> {
        let mut found = Vec::new();
        for (name, before, operations) in self.batches(backing)? {
            if before.saturating_add(operations) <= marker {
                continue;
            }
            let records = self.read(backing, &name)?;
            if records.len() as u64 != operations {
                return Err(Errno::IO);
            }
            let mark = |record: Record| Mark { lsn: before + record.lsn, change: record.change };
            found.extend(records.into_iter().map(mark));
        }
        Ok(found)
    }

    fn read(&self, backing: &B, name: &OsStr) -> Result<Vec<Record>> {
        let found = backing.lookup(&self.directory, name)?;
        let file = backing.open(OURSELVES, &found.object, READ_WRITE)?;
        let mut content = vec![0; found.attr.size as usize];
        let bytes = backing.read(&file, &mut content, 0)?;
        let parsed = parse_group(&content[..bytes]);
        // It was in place before its name was valid: the filesystem has lost it.
        parsed.map(|(_, records)| records).map_err(|error| {
            tracing::error!(?name, %error, "a batch in .lanefs/marks is damaged");
            Errno::IO
        })
    }

    /// Name, number before the first operation, count.
    fn batches(&self, backing: &B) -> Result<Vec<(OsString, Lsn, u64)>> {
        let mut found = Vec::new();
        self.each_name(backing, &mut |name| {
            let mut words = name.to_str().unwrap_or_default().split('-');
            let is_one = words.next() == Some(VALID);
            let mut number = || u64::from_str_radix(words.next()?, 16).ok();
            if let (true, Some(before), Some(count)) = (is_one, number(), number()) {
                found.push((name.to_owned(), before, count));
            }
        })?;
        Ok(found)
    }

    /// Removes all batches: everything in them is done and durable, or never counted.
    pub(super) fn forget_batches(&self, backing: &B) -> Result<()> {
        let mut names = Vec::new();
        self.each_name(backing, &mut |name| {
            let word = name.to_str().and_then(|name| name.split('-').next());
            names.extend(matches!(word, Some(VALID | PREPARED)).then(|| name.to_owned()));
        })?;
        names.iter().try_for_each(|name| backing.unlink(&self.directory, name))
    }

    fn each_name(&self, backing: &B, visit: &mut dyn FnMut(&OsStr)) -> Result<()> {
        let directory = backing.open_dir(&self.directory)?;
        backing.read_dir(&directory, 0, &mut |entry| {
            visit(&entry.name);
            true
        })
    }
}

/// The records as a group of the log has them, numbered from 1.
fn encode(changes: &[Change]) -> Vec<u8> {
    let mut group = GroupBuilder::new(LogBuffer::new());
    for (change, lsn) in changes.iter().zip(1..) {
        group.record(&Record { lsn, change: change.clone() });
    }
    group.seal(&Seal {
        uuid: [0; 16],
        epoch: 0,
        number: 0,
        first_lsn: 1,
        last_lsn: changes.len() as u64,
        previous_crc: 0,
        boot_id: [0; 16],
        wall_time_ns: 0,
    });
    group.buffer().bytes().to_vec()
}

impl<B: Backing> Log<B> {
    /// Writes a batch down, so that [`Self::apply_together`] can make it all or nothing
    /// in a power cut; `None` for a single operation, which is that anyway.
    ///
    /// # Errors
    /// The backing filesystem's.
    pub(crate) fn prepare_together(&self, changes: &[Change]) -> Result<Option<Prepared>> {
        if changes.len() < 2 || self.config.bugs.no_batch_marks {
            return Ok(None);
        }
        self.home.marks.prepare(&*self.backing, changes).map(Some)
    }

    /// Applies operations one after another, with nothing of others in between, and takes
    /// them into the stream. `apply` applies the one with an index and says what it did:
    /// what was `prepared`. It ends with the first that fails: how many were applied, and
    /// that error. `None`, and nothing done, if `is_as_prepared` says so.
    ///
    /// # Errors
    /// The batch could not be made valid: nothing was applied.
    pub(crate) fn apply_together(
        &self,
        mut prepared: Option<Prepared>,
        operations: usize,
        is_as_prepared: impl FnOnce() -> bool,
        mut apply: impl FnMut(usize) -> Result<Step<B>>,
    ) -> Result<Option<Applied<Together>>> {
        let mut stream = self.lock_stream();
        let before = stream.last();
        let ready = is_as_prepared();
        if let Some(prepared) = &mut prepared {
            let marks = &self.home.marks;
            let valid = ready.then(|| marks.make_valid(&*self.backing, prepared, before));
            if !matches!(valid, Some(Ok(()))) {
                marks.discard(&*self.backing, prepared);
                valid.transpose()?;
            }
        }
        if !ready {
            return Ok(None);
        }
        let mut result = Ok(());
        let mut done = 0;
        while done < operations && result.is_ok() {
            // A panic must not leave the batch valid and its numbers free for others.
            let applied = catch_unwind(AssertUnwindSafe(|| apply(done)));
            match applied.unwrap_or(Err(Errno::IO)) {
                Ok(Step { change, joined }) => {
                    stream.push(change);
                    joined.into_iter().for_each(|file| stream.join(file));
                    self.note_applied(stream.last());
                    done += 1;
                }
                Err(error) => result = Err(error),
            }
        }
        // Numbers that the batch has in its mark are nobody else's.
        let skipped = prepared.is_some() && done < operations;
        if skipped {
            while stream.last() < before + operations as u64 {
                stream.take_number();
            }
            self.note_applied(stream.last());
        }
        if let Some(prepared) = &prepared {
            self.home.marks.discard(&*self.backing, prepared);
        }
        let lsn = stream.last();
        let is_overdue = stream.pending_bytes() > PENDING_BYTES_MAX;
        drop(stream);
        if skipped {
            // The rest must not be redone behind the back of who hears of the failure.
            result = self.fence.commit().and(result);
        }
        Ok(Some(Applied { value: Together { done, result }, lsn, is_overdue }))
    }

    /// Makes durable, by a journal commit, what was written in place.
    ///
    /// # Errors
    /// The commit's.
    pub(crate) fn commit_in_place(&self) -> Result<()> {
        self.fence.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineConfig};
    use crate::log::LogConfig;
    use crate::log::format::LOG_BYTES_MIN;
    use crate::platform::sim::{DurabilityModel, SimBacking, SimOptions};
    use crate::platform::{HANDLE_BYTES_MAX, ObjectKey, RenameMode};

    fn engine(backing: &Arc<SimBacking>) -> Arc<Engine<SimBacking>> {
        let log = LogConfig {
            bytes: LOG_BYTES_MIN,
            probe: None,
            background: false,
            ..LogConfig::default()
        };
        Engine::with_log(backing, EngineConfig::default(), log, None, &mut |_| {})
            .expect("a log opens")
            .0
    }

    /// The daemon, or the program that uses the library, is killed between two operations
    /// of a batch, and the kernel lives on.
    #[test]
    fn a_batch_that_a_kill_interrupts_is_completed_by_the_next_start() {
        let options = SimOptions::new(DurabilityModel::Ext4Ordered, 3);
        let backing = Arc::new(SimBacking::new(options));
        let root = backing.root().expect("a root");
        let first = engine(&backing);
        let mut changes = Vec::new();
        for name in ["a", "b", "c"] {
            let new = NewMode { mode: crate::types::type_bits::S_IFREG | 0o644, umask: 0 };
            let made = backing.make_node(OURSELVES, &root.object, OsStr::new(name), new, (0, 0));
            changes.push(Change::Rename {
                from_dir: root.key.portable(),
                from: name.as_bytes().to_vec(),
                to_dir: root.key.portable(),
                to: [b"new-", name.as_bytes()].concat(),
                object: made.expect("a file").key.portable(),
                displaced: None,
                exchange: false,
                whiteout: false,
            });
        }
        let log = first.log().expect("there is one");
        let mut prepared = log.prepare_together(&changes).expect("it is written").expect("of 3");
        let before = log.last_lsn();
        log.home.marks.make_valid(&backing, &mut prepared, before).expect("it gets its name");
        let (from, to) = (OsStr::new("a"), OsStr::new("new-a"));
        let mode = RenameMode::default();
        backing.rename((&root.object, from), (&root.object, to), mode).expect("a rename");
        // And the kill comes before the marker is set.
        drop(first);
        let _second = engine(&backing);
        for name in ["a", "b", "c"] {
            assert!(backing.lookup(&root.object, OsStr::new(name)).is_err(), "{name}");
            let new = format!("new-{name}");
            assert!(backing.lookup(&root.object, OsStr::new(&new)).is_ok(), "{new}");
        }
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let object = ObjectKey { dev: 0, ino: 7, handle: ([3; HANDLE_BYTES_MAX], 40, 1) };
        let remove = |name: &str| Change::Remove {
            dir: object,
            name: name.as_bytes().to_vec(),
            object,
            is_dir: false,
        };
        let changes = [remove("a"), remove(&"b".repeat(255))];
        let bytes = encode(&changes);
        let (_, records) = parse_group(&bytes).expect("it was just encoded");
        let read: Vec<_> = records.into_iter().map(|record| record.change).collect();
        assert_eq!(read, changes);
        let mut damaged = bytes;
        damaged[200] ^= 1;
        assert!(parse_group(&damaged).is_err());
    }
}
