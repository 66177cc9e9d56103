//! Recovery: from what a power cut left in the backing directory, and the log, to
//! what programs were promised.
//!
//! The backing journal kept the operations up to the marker, and perhaps the one
//! after it. From there on the log's records are *redone* in order. Then files are
//! *filled* from the log where they have no block of their own.
//!
//! | step | what it may meet |
//! | --- | --- |
//! | plan ([`overlay`]) | groups, records, marks in the order of their numbers; what of each file's content is still valid at the end |
//! | redo ([`redo`]) | the disk may be ahead of the log (then nothing is redone), behind it, or have one operation that the marker does not tell; what comes and goes behind the marker is left out ([`transient`]) |
//! | fill ([`fill`]) | blocks that are there are newer than the log, or the same; except where redoing took them |
//! | restore ([`restore`]) | files in the middle of being rewritten get their old content back |
//! | end | everything is synced; only then does the log begin anew |
//!
//! An interrupted recovery is begun again. The marker moves with what is redone, so
//! nothing is redone twice; what redoing takes from files is filled again, because
//! the superblock keeps the marker that was found first. Objects that redoing has
//! made have other handles than the log knows: they are found by the names that the
//! log gives them ([`objects`]).
//!
//! If only the daemon died and the filesystem has been mounted all the time, what it
//! shows is newer than the log: it is synced, nothing is redone, not even an operation
//! that was under way, except the rest of a batch; only where write-back had failed is
//! there something to fill.
//!
//! Nothing is ever invented: an object that is gone was removed later; what the log
//! says of it is counted and passed over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::overlay::Plan;
use super::format::{LogContents, LogError, Superblock, read_superblock, scan};
use super::home::Home;
use super::marks::Mark;
use super::open::{LogConfig, OpenLogError, Progress, hex, home_error};
use super::record::Change;
use crate::engine::Lsn;
use crate::error::Errno;
use crate::platform::{Backing, LogStore};

mod fill;
mod names;
mod objects;
mod overlay;
mod redo;
mod restore;
mod transient;

/// What recovery found and did; with `lanefs check`, what it would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RecoveryReport {
    /// UUID of the log.
    pub log: String,
    /// Groups in the log.
    pub groups: u64,
    /// Bytes of them.
    pub group_bytes: u64,
    /// Records in them.
    pub records: u64,
    /// The last operation that the backing filesystem had kept.
    pub marker: Lsn,
    /// The last operation in the log.
    pub last_lsn: Lsn,
    /// Operations that were not there and were carried out again.
    pub redone: u64,
    /// Operations on objects that were made and removed behind the marker: there would
    /// be nothing to see of them.
    pub left_out: u64,
    /// Operations behind the marker that were there already.
    pub found_done: u64,
    /// Operations on objects that do not exist any more.
    pub passed_over: u64,
    /// Files of which something was filled.
    pub files_filled: u64,
    /// Bytes filled.
    pub bytes_filled: u64,
    /// Files with content in the log that do not exist any more.
    pub files_gone: u64,
    /// Files that were being written anew when it happened, and have their old content.
    pub rewrites_undone: u64,
    /// An earlier recovery had been interrupted.
    pub interrupted_before: bool,
    /// The log was written in this very boot: no power cut, the daemon died.
    pub same_boot: bool,
    /// And the backing filesystem has been mounted all the time: what it shows is what
    /// programs saw last.
    pub same_mount: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Number for the next group.
    #[serde(skip)]
    pub(super) next_group: u64,
}

/// Why recovery ended: nothing is lost, it can be begun again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The backing filesystem refused something.
    #[error(
        "recovery cannot {what}: {source}; the log is kept: mend the cause \
         (a full disk, a read-only or failing filesystem) and run it again"
    )]
    Backing {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
}

impl RecoveryReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.redone == 0 && self.bytes_filled == 0 && self.rewrites_undone == 0
    }

    /// The last operation that must not be redone. If the filesystem was never away, an
    /// operation that it does not have was under way when the daemon died: nobody was
    /// told that it was done, and files may have been written since. A batch is
    /// completed all the same: a part of it may have been seen, and nothing else is under
    /// way beside it.
    fn kept(&self, marks: &[Mark]) -> Lsn {
        let batch = marks.iter().any(Mark::is_of_batch);
        if self.same_mount && !batch { Lsn::MAX } else { self.marker }
    }
}

/// Recovers a backing directory that has a log, without serving it, and leaves the
/// log empty; `None` if there is no log.
///
/// # Errors
/// See [`OpenLogError`].
pub fn recover<B: Backing>(
    backing: &B,
    elsewhere: Option<B::Log>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<RecoveryReport>, OpenLogError> {
    let Some((home, store)) = find(backing, elsewhere)? else { return Ok(None) };
    let superblock = read_superblock(&store)?;
    let config = LogConfig::default();
    let report = recover_in(backing, &home, &store, &superblock, &config, progress)?;
    let mut ended = read_superblock(&store)?;
    ended.counter += 1;
    ended.epoch += 1;
    ended.clean = true;
    ended.recovery_marker = None;
    let marker = backing.marker(&home.marker).map_err(home_error("read the marker"))?;
    ended.tail_lsn = ended.tail_lsn.max(marker);
    if let Some(report) = &report {
        ended.tail_lsn = ended.tail_lsn.max(report.last_lsn);
        ended.tail_group = ended.tail_group.max(report.next_group);
    }
    write_superblock(&store, &ended)?;
    home.marks.remove_through(backing, ended.tail_lsn).map_err(home_error("remove marks"))?;
    home.marks.forget_renewed(backing).map_err(home_error("remove marks"))?;
    home.undo.clear(backing).map_err(home_error("remove copies"))?;
    home.marks.forget_batches(backing).map_err(home_error("remove marks"))?;
    home.set_readme(backing, false).map_err(home_error("remove README"))?;
    let uuid = hex(&ended.uuid);
    home.note_log_elsewhere(backing, &uuid, false).map_err(home_error("write"))?;
    backing.sync_all().map_err(home_error("sync"))?;
    Ok(Some(report.unwrap_or_default()))
}

/// Says what recovery would do, and changes nothing; `None` if there is no log.
///
/// # Errors
/// See [`OpenLogError`].
pub fn check<B: Backing>(
    backing: &B,
    elsewhere: Option<B::Log>,
) -> Result<Option<RecoveryReport>, OpenLogError> {
    let Some((home, store)) = find(backing, elsewhere)? else { return Ok(None) };
    let superblock = read_superblock(&store)?;
    let contents = scan(&store, &superblock)?;
    let marker = backing.marker(&home.marker).map_err(home_error("read the marker"))?;
    let marks = all_marks(backing, &home, superblock.recovery_marker.unwrap_or(marker))?;
    let mut report = summary(backing, &superblock, &contents, marker);
    let marker = report.kept(&marks);
    let first_marker = superblock.recovery_marker.unwrap_or(marker);
    let kept = home.undo.list(backing).map_err(home_error("read the copies"))?;
    // What the kernel has in memory is whole as it is.
    let kept = if report.same_mount { Vec::new() } else { kept };
    let plan = Plan::new(&contents, &marks, first_marker, &restore::copied(&kept));
    report.redone = plan.to_redo(marker);
    fill::count(backing, &plan, &mut report);
    let unended = restore::unended(backing, &home, &kept, &restore::ends(&contents));
    report.rewrites_undone = unended.map_err(home_error("read the copies"))?.len() as u64;
    Ok(Some(report))
}

/// The engine's directory, and the log that belongs to it.
type Found<B> = (Home<B>, <B as Backing>::Log);

/// The directory and the log of a backing directory, if it has them.
fn find<B: Backing>(
    backing: &B,
    elsewhere: Option<B::Log>,
) -> Result<Option<Found<B>>, OpenLogError> {
    let home = match Home::find(backing) {
        Ok(home) => home,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(home_error("read")(error)),
    };
    if let Some(store) = elsewhere {
        return Ok(Some((home, store)));
    }
    if let Some(uuid) = home.log_elsewhere(backing).map_err(home_error("read"))? {
        return Err(OpenLogError::Elsewhere(uuid));
    }
    if !home.has_log(backing).map_err(home_error("look for the log"))? {
        return Ok(None);
    }
    let store = home.open_log(backing).map_err(home_error("open the log"))?;
    // A log whose making was interrupted has promised nothing.
    if matches!(read_superblock(&store), Err(LogError::NotALog)) {
        return Ok(None);
    }
    Ok(Some((home, store)))
}

/// Brings the backing directory up to date; everything is durable when it returns.
/// The log itself is left for the caller to begin anew. `None`: it was empty.
pub(super) fn recover_in<B: Backing>(
    backing: &B,
    home: &Home<B>,
    store: &impl LogStore,
    superblock: &Superblock,
    config: &LogConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<RecoveryReport>, OpenLogError> {
    let start = Instant::now();
    let contents = scan(store, superblock)?;
    let marker = backing.marker(&home.marker).map_err(home_error("read the marker"))?;
    let marks = all_marks(backing, home, superblock.recovery_marker.unwrap_or(marker))?;
    let kept = home.undo.list(backing).map_err(home_error("read the copies"))?;
    if contents.groups.is_empty() && marks.is_empty() && kept.is_empty() {
        return Ok(None);
    }
    let mut report = summary(backing, superblock, &contents, marker);
    if report.same_boot {
        // What waits for its block in the page cache is newer than the log.
        backing.sync_all().map_err(home_error("sync"))?;
    }
    let again = config.bugs.replay_same_boot && report.same_boot;
    let marker = if again { superblock.tail_lsn } else { report.kept(&marks) };
    let first_marker = superblock.recovery_marker.unwrap_or(marker);
    // What the kernel has in memory is whole as it is.
    let kept = if report.same_mount { Vec::new() } else { kept };
    let plan = Plan::new(&contents, &marks, first_marker, &restore::copied(&kept));
    let mut renewed = HashMap::new();
    if superblock.recovery_marker.is_some() {
        renewed = home.marks.renewed(backing).map_err(home_error("read the marks"))?;
    } else if plan.to_redo(marker) > 0 {
        begin_to_redo(backing, home, store, superblock, marker)?;
    }
    let known = (marker, renewed);
    let files = redo::redo(backing, home, &plan, known, &mut report, progress)?;
    let over_blocks = config.bugs.replay_over_blocks || again;
    fill::fill(backing, &plan, over_blocks, &files, &mut report, progress)?;
    let ends = restore::ends(&contents);
    restore::restore(backing, home, &kept, &ends, &mut report)?;
    report.last_lsn = marks.iter().map(|mark| mark.lsn).fold(report.last_lsn, Lsn::max);
    if backing.marker(&home.marker).map_err(home_error("read the marker"))? < report.last_lsn {
        // A mark whose operation was not carried out must not look like one that is to be.
        let marked = backing.set_marker(&home.marker, report.last_lsn);
        marked.map_err(|source| RecoveryError::Backing { what: "set the marker", source })?;
    }
    let sync = || {
        let synced = backing.sync_all();
        synced.map_err(|source| RecoveryError::Backing { what: "sync", source })
    };
    sync()?;
    // Only now, and before the log is emptied, which alone says that these have ended.
    if restore::forget_ended(backing, home, &kept, &ends)? {
        sync()?;
    }
    report.seconds = seconds(start.elapsed());
    Ok(Some(report))
}

/// What the log may not know: operations that took bytes from files, and those of
/// batches that may have been interrupted.
fn all_marks<B: Backing>(
    backing: &B,
    home: &Home<B>,
    marker: Lsn,
) -> Result<Vec<Mark>, OpenLogError> {
    let mut marks = home.marks.list(backing).map_err(home_error("read the marks"))?;
    let batches = home.marks.of_batches(backing, marker);
    marks.extend(batches.map_err(home_error("read a batch that was interrupted"))?);
    Ok(marks)
}

/// Notes that from here on the marker moves.
fn begin_to_redo<B: Backing>(
    backing: &B,
    home: &Home<B>,
    store: &impl LogStore,
    superblock: &Superblock,
    marker: Lsn,
) -> Result<(), OpenLogError> {
    // What an earlier recovery has noted must not be taken for this one's notes.
    if home.marks.forget_renewed(backing).map_err(home_error("remove marks"))? {
        backing.sync_all().map_err(home_error("sync"))?;
    }
    let mut begun = superblock.clone();
    begun.counter += 1;
    begun.recovery_marker = Some(marker);
    write_superblock(store, &begun)
}

fn summary<B: Backing>(
    backing: &B,
    superblock: &Superblock,
    contents: &LogContents,
    marker: Lsn,
) -> RecoveryReport {
    let same_boot = superblock.boot_id == backing.boot_id();
    // A recovery that was begun had found a break.
    let is_known = superblock.mount_id != 0 && superblock.recovery_marker.is_none();
    RecoveryReport {
        log: hex(&superblock.uuid),
        groups: contents.groups.len() as u64,
        group_bytes: contents.groups.iter().map(|group| group.bytes.len() as u64).sum(),
        records: contents.groups.iter().map(|group| group.records.len() as u64).sum(),
        marker,
        last_lsn: contents.last_lsn,
        interrupted_before: superblock.recovery_marker.is_some(),
        same_boot,
        same_mount: same_boot && is_known && superblock.mount_id == backing.mount_id(),
        // One more: a torn group may stand where the next one goes.
        next_group: contents.next_group + 1,
        ..RecoveryReport::default()
    }
}

fn write_superblock(store: &impl LogStore, superblock: &Superblock) -> Result<(), OpenLogError> {
    let written = store
        .write(&superblock.encode(), superblock.slot_offset())
        .and_then(|()| store.flush())
        .map_err(|source| LogError::Read { offset: superblock.slot_offset(), source });
    Ok(written?)
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 0x01;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 0x02;

/// The length that an operation sets.
const fn new_length(change: &Change) -> u64 {
    match change {
        Change::Resize { size, .. } => *size,
        // A rewrite begins with nothing.
        _ => 0,
    }
}

/// Whether an operation takes bytes from a file: which, if so.
fn taken_by(change: &Change) -> Option<std::ops::Range<u64>> {
    /// `FALLOC_FL_PUNCH_HOLE`, `FALLOC_FL_COLLAPSE_RANGE`, `FALLOC_FL_ZERO_RANGE`,
    /// `FALLOC_FL_INSERT_RANGE`.
    const PUNCH_OR_ZERO: u32 = 0x02 | 0x10;
    const MOVES_ALL: u32 = 0x08 | 0x20;
    match change {
        Change::Resize { .. } | Change::Rewrite { .. } => Some(new_length(change)..u64::MAX),
        Change::Allocate { mode, offset, .. } if mode & MOVES_ALL != 0 => Some(*offset..u64::MAX),
        Change::Allocate { mode, offset, bytes, .. } if mode & PUNCH_OR_ZERO != 0 => {
            Some(*offset..offset.saturating_add(*bytes))
        }
        _ => None,
    }
}

/// Records and marks in the order of their numbers; a mark whose operation has a
/// record is left out.
fn in_order<'a>(
    contents: &'a LogContents,
    marks: &'a [Mark],
) -> impl Iterator<Item = (Lsn, &'a Change, Option<usize>)> {
    let records = contents.groups.iter().enumerate().flat_map(|(group, g)| {
        g.records.iter().map(move |record| (record.lsn, &record.change, Some(group)))
    });
    let known: std::collections::HashSet<Lsn> =
        contents.groups.iter().flat_map(|g| g.records.iter().map(|r| r.lsn)).collect();
    let marks = marks
        .iter()
        .filter(move |mark| !known.contains(&mark.lsn))
        .map(|mark| (mark.lsn, &mark.change, None));
    let mut all: Vec<_> = records.chain(marks).collect();
    all.sort_by_key(|&(lsn, _, _)| lsn);
    all.into_iter()
}
