//! Opening the log of a backing directory: find or make it, recover, begin anew.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::checkpoint::Checkpointer;
use super::format::{LOG_BYTES_DEFAULT, LogError, Superblock, read_superblock};
use super::home::Home;
use super::probe::{self, ProbeFigures};
use super::recovery::{self, RecoveryError, RecoveryReport};
use super::rewrites::RewriteCounts;
use super::stream::Stream;
use super::tracked::TrackedFiles;
use super::waiting::Waiting;
use super::writer::Writer;
use super::{Counts, Log};
use crate::error::Errno;
use crate::fence::BackingFence;
use crate::platform::{Backing, LogStore};

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Length of a log that is made, in bytes.
    pub bytes: u64,
    /// New content of one file beyond this goes without the log: writing it twice
    /// would take longer than the flush that the log saves. `None`: from what the
    /// device is measured to take, see [`inline_bytes_for`].
    pub inline_bytes_max: Option<u64>,
    /// A file that is in more parts than this, with holes between them, goes without the log:
    /// each sync would ask for each hole whether something is in it now.
    pub file_parts_max: usize,
    /// How long the device is measured; `None`: not at all.
    pub probe: Option<Duration>,
    /// A background thread makes checkpoints. Off: somebody calls
    /// [`Log::checkpoint`].
    pub background: bool,
    /// A checkpoint follows the first group after this time at the latest.
    pub checkpoint_interval: Duration,
    /// Longest content that is copied when a file is about to be cut to nothing, so that
    /// rewriting it in place is all or nothing over a power cut, in bytes; 0: none is.
    pub rewrite_bytes_max: u64,
    /// A file that is cut again so shortly after is still in one rewrite.
    pub rewrite_kept: Duration,
    /// Rules that are left out, so that tests can be seen to fail.
    pub bugs: PlantedBugs,
}

/// How long a device is measured when its log is opened.
const PROBE_TIME_MAX: Duration = Duration::from_millis(150);

/// As much as a program writes in a few hundredths of a second.
const REWRITE_BYTES_DEFAULT: u64 = 16 << 20;

/// What goes through the log of a device that nobody measured.
const INLINE_BYTES_DEFAULT: u64 = 512 << 10;
const INLINE_BYTES_MIN: u64 = 64 << 10;

/// As many questions to the kernel as a fast flush takes, a tenth of a millisecond.
const FILE_PARTS_DEFAULT: usize = 128;

/// How much new content of a file the log is good for: so much that writing it
/// once more takes half a flush. A quarter of a segment at most, so that a group
/// holds several files.
#[must_use]
pub fn inline_bytes_for(figures: &ProbeFigures, segment_bytes: u64) -> u64 {
    let half_flush = figures.bandwidth_bytes_per_s * figures.flush.as_secs_f64() / 2.0;
    (half_flush as u64).clamp(INLINE_BYTES_MIN, (segment_bytes / 4).max(INLINE_BYTES_MIN))
}

/// Rules against losing data, each to be left out on purpose: what tests of tests
/// plant. See `docs/power-cuts.md`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlantedBugs {
    /// Recovery writes old bytes over blocks that the backing filesystem kept.
    pub replay_over_blocks: bool,
    /// Log space is free after a checkpoint that failed.
    pub free_after_failed_checkpoint: bool,
    /// Data in place is not waited for before the log's flush.
    pub no_write_back: bool,
    /// A group is answered before its flush.
    pub answer_before_flush: bool,
    /// A damaged group ends the log, even if later ones are there.
    pub damage_is_the_end: bool,
    /// A log of the same boot is replayed as after a power cut, from its beginning.
    pub replay_same_boot: bool,
    /// Truncations leave no mark.
    pub no_marks: bool,
    /// Truncations leave no copy.
    pub no_undo: bool,
    /// Blocks that no journal commit covers count as committed.
    pub trust_uncommitted: bool,
    /// Live pages are not compared again.
    pub no_compare: bool,
    /// The other device is not flushed when the log has its own.
    pub no_device_flush: bool,
    /// Content is left to the log although it has blocks.
    pub leave_placed: bool,
    /// A journal commit instead of the log covers a group whose content was left to the log.
    pub commit_delayed: bool,
    /// What waits for its blocks is not written before the log is free.
    pub free_delayed: bool,
    /// Batches are not written down before they are applied.
    pub no_batch_marks: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            bytes: LOG_BYTES_DEFAULT,
            inline_bytes_max: None,
            file_parts_max: FILE_PARTS_DEFAULT,
            probe: Some(PROBE_TIME_MAX),
            background: true,
            checkpoint_interval: Duration::from_secs(5),
            rewrite_bytes_max: REWRITE_BYTES_DEFAULT,
            rewrite_kept: Duration::from_secs(1),
            bugs: PlantedBugs::default(),
        }
    }
}

/// Why a log cannot be opened: cause and remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenLogError {
    /// The backing filesystem is not one on which a log is safe.
    #[error("no log can be kept here: {0}")]
    Unsuitable(String),
    /// `.lanefs` cannot be read or made.
    #[error("cannot {what} in the backing directory's .lanefs: {source}")]
    Home {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// The log lies elsewhere.
    #[error(
        "this directory's log (UUID {0}) lies elsewhere and may not be empty: \
         name it with --log PATH"
    )]
    Elsewhere(String),
    /// The log that was named belongs to another directory.
    #[error(
        "the log named with --log has UUID {found}, this directory's log has {expected}: \
         name the right one"
    )]
    WrongLog {
        /// The directory's.
        expected: String,
        /// The named one's.
        found: String,
    },
    /// The log that was named is in use by another directory.
    #[error(
        "the log named with --log (UUID {0}) is not empty and belongs to another directory:          recover that one first (`lanefs recover DIRECTORY --log PATH`)"
    )]
    Foreign(String),
    /// The directory's own log is not empty, and another one was named.
    #[error(
        "the log in this directory's .lanefs is not empty:          run `lanefs recover DIRECTORY` before using another log"
    )]
    OwnLogInUse,
    /// The log is not one, or damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Recovery failed; nothing is lost by it, it can be tried again.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl<B: Backing> Log<B> {
    /// Opens the log of a backing directory, or makes one. What is in it is
    /// recovered first. `elsewhere` is a log that does not lie in `.lanefs`.
    ///
    /// Everything on the backing filesystem is durable when this returns.
    ///
    /// # Errors
    /// See [`OpenLogError`]. Nothing of a log that is there is lost.
    pub fn open(
        backing: Arc<B>,
        fence: Arc<BackingFence<B>>,
        elsewhere: Option<B::Log>,
        config: LogConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Arc<Self>, Option<RecoveryReport>), OpenLogError> {
        if let Some(obstacle) = backing.log_obstacle() {
            return Err(OpenLogError::Unsuitable(obstacle));
        }
        let home = Home::find_or_make(&*backing).map_err(home_error("make a directory"))?;
        let is_elsewhere = elsewhere.is_some();
        let store = match elsewhere {
            Some(store) => store,
            None => open_inside(&*backing, &home, &config, progress)?,
        };
        let mut superblock = superblock_of(&store, is_elsewhere)?;
        check_place(&*backing, &home, &superblock, is_elsewhere)?;

        let report =
            recovery::recover_in(&*backing, &home, &store, &superblock, &config, progress)?;
        let marker = backing.marker(&home.marker).map_err(home_error("read the marker"))?;
        let next = report.as_ref().map_or(superblock.tail_lsn, |report| report.last_lsn);
        let last = marker.max(next).max(superblock.tail_lsn);
        // The newer of the two superblocks, with what recovery wrote into it.
        superblock = read_superblock(&store)?;
        superblock.epoch += 1;
        superblock.clean = false;
        superblock.recovery_marker = None;
        superblock.tail_lsn = last;
        if let Some(report) = &report {
            superblock.tail_group = superblock.tail_group.max(report.next_group);
        }
        superblock.boot_id = backing.boot_id();
        superblock.mount_id = backing.mount_id();

        home.set_readme(&*backing, true).map_err(home_error("write README"))?;
        let uuid = hex(&superblock.uuid);
        if is_elsewhere {
            let noted = home.note_log_elsewhere(&*backing, &uuid, true);
            noted.map_err(home_error("note where the log is"))?;
        }
        // What was written before must not count as unsynced: files that nobody has
        // written through this engine are taken for durable as they are.
        backing.sync_all().map_err(home_error("sync"))?;
        let boot_id = superblock.boot_id;
        let area = superblock.segment_start(0)
            ..superblock.segment_start(0)
                + superblock.segment_bytes * u64::from(superblock.segments);
        let segment_bytes = superblock.segment_bytes;
        let failed = |source| LogError::Read { offset: 0, source };
        let mut writer = Writer::start(store, superblock).map_err(failed)?;
        if config.bugs.answer_before_flush {
            writer.answer_before_flush();
        }
        // Not before: as long as the old groups count, so do the marks.
        home.marks.remove_through(&*backing, last).map_err(home_error("remove marks"))?;
        home.marks.forget_renewed(&*backing).map_err(home_error("remove marks"))?;
        home.marks.forget_batches(&*backing).map_err(home_error("remove marks"))?;
        if home.undo.clear(&*backing).map_err(home_error("remove copies"))? {
            // Durably, before anybody changes these files.
            backing.sync_all().map_err(home_error("sync"))?;
        }
        // Nothing in the log is needed now, durably: it may be written over.
        let figures = match config.probe {
            Some(time_max) => Some(probe::measure(writer.store(), area, time_max).map_err(failed)?),
            None => None,
        };
        let measured = figures.as_ref().map(|figures| inline_bytes_for(figures, segment_bytes));
        let inline_bytes_max = config.inline_bytes_max.or(measured).unwrap_or(INLINE_BYTES_DEFAULT);
        let log = Arc::new(Self {
            durable: AtomicU64::new(last),
            durable_tail: AtomicU64::new(last),
            files: TrackedFiles::new(),
            stream: Mutex::new(Stream::new(last)),
            writer: Mutex::new(writer),
            checkpointer: Checkpointer::new(),
            counts: Counts::default(),
            rewrites: RewriteCounts::default(),
            waiting: Waiting::default(),
            failure: Mutex::default(),
            elsewhere: is_elsewhere,
            figures,
            inline_bytes_max,
            boot_id,
            uuid,
            home,
            fence,
            backing,
            config,
        });
        Ok((log, report))
    }
}

/// How far a long step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of a new log that are written, of all.
    Making(u64, u64),
    /// Steps of a recovery that are done, of all.
    Recovering(u64, u64),
}

/// The log in `.lanefs`, made if there is none.
fn open_inside<B: Backing>(
    backing: &B,
    home: &Home<B>,
    config: &LogConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<B::Log, OpenLogError> {
    if home.has_log(backing).map_err(home_error("look for the log"))? {
        let store = home.open_log(backing).map_err(home_error("open the log"))?;
        match read_superblock(&store) {
            // Making it was interrupted before its first superblock.
            Err(LogError::NotALog) => drop(store),
            Err(error) => return Err(error.into()),
            Ok(superblock) => {
                // Another size was asked for, and the log is empty.
                if superblock.log_bytes == config.bytes || !superblock.clean {
                    return Ok(store);
                }
                drop(store);
            }
        }
    }
    let all = config.bytes;
    let made = home.make_log(backing, all, &mut |done| progress(Progress::Making(done, all)));
    let store = made.map_err(home_error("make the log"))?;
    format_store(&store)?;
    Ok(store)
}

/// Writes the first superblock of an empty log.
///
/// # Errors
/// The device's.
pub fn format_store(store: &impl LogStore) -> Result<Superblock, LogError> {
    let random = [0_u64, 1].map(|word| RandomState::new().hash_one(word));
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&random[0].to_le_bytes());
    uuid[8..].copy_from_slice(&random[1].to_le_bytes());
    let failed = |source| LogError::Read { offset: 0, source };
    // Both: what another log has left must not be taken for this one's.
    let mut superblock = Superblock::new(uuid, store.bytes());
    superblock.clean = true;
    for _ in 0..2 {
        superblock.counter += 1;
        store.write(&superblock.encode(), superblock.slot_offset()).map_err(failed)?;
    }
    store.flush().map_err(failed)?;
    Ok(superblock)
}

fn superblock_of(store: &impl LogStore, elsewhere: bool) -> Result<Superblock, LogError> {
    match read_superblock(store) {
        // A file that was made for a log and never used; a device must have been
        // formatted by its owner.
        Err(LogError::NotALog) if !elsewhere => format_store(store),
        other => other,
    }
}

/// Whether this log and this directory belong together.
fn check_place<B: Backing>(
    backing: &B,
    home: &Home<B>,
    superblock: &Superblock,
    elsewhere: bool,
) -> Result<(), OpenLogError> {
    let expected = home.log_elsewhere(backing).map_err(home_error("read the directory"))?;
    let found = hex(&superblock.uuid);
    match expected {
        Some(expected) if !elsewhere => Err(OpenLogError::Elsewhere(expected)),
        Some(expected) if found != expected => Err(OpenLogError::WrongLog { expected, found }),
        None if elsewhere && !superblock.clean => Err(OpenLogError::Foreign(found)),
        None if elsewhere && has_unclean_log(backing, home)? => Err(OpenLogError::OwnLogInUse),
        _ => Ok(()),
    }
}

/// Whether the log in `.lanefs`, if there is one, may hold something.
fn has_unclean_log<B: Backing>(backing: &B, home: &Home<B>) -> Result<bool, OpenLogError> {
    if !home.has_log(backing).map_err(home_error("look for the log"))? {
        return Ok(false);
    }
    let store = home.open_log(backing).map_err(home_error("open the log"))?;
    match read_superblock(&store) {
        Ok(superblock) => Ok(!superblock.clean),
        Err(LogError::NotALog) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn home_error(what: &'static str) -> impl Fn(Errno) -> OpenLogError {
    move |source| OpenLogError::Home { what, source }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
