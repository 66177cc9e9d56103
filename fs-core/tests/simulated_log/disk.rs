//! Disks with logs: small ones, so that they wrap, fill, and are read fast.

use std::ffi::OsStr;
use std::sync::Arc;

use fs_core::engine::{Engine, EngineConfig};
use fs_core::lane::LaneConfig;
use fs_core::lane::policy::PolicyConfig;
use fs_core::log::format::{LOG_BYTES_MIN, SEGMENTS_OFFSET, Superblock, read_superblock, scan};
use fs_core::log::record::Change;
use fs_core::log::recovery::{RecoveryReport, recover};
use fs_core::log::{HOME_NAME, LogConfig, OpenLogError, Progress};
use fs_core::platform::sim::{SimBacking, SimLog, SimOptions};
use fs_core::platform::{Backing, LogStore};
use fs_core::types::NewMode;

use crate::shape::NOBODY;

/// Name of a log that does not lie in the engine's directory.
pub const LOG_NAME: &str = "elsewhere.log";

/// How a log is divided.
#[derive(Debug, Clone, Copy)]
pub struct LogShape {
    pub segments: u32,
    pub segment_bytes: u64,
    /// It does not lie in the engine's directory.
    pub elsewhere: bool,
}

impl LogShape {
    /// The smallest that users can have.
    pub const SMALLEST: Self = Self { segments: 0, segment_bytes: 0, elsewhere: false };

    pub const fn bytes(self) -> u64 {
        if self.segments == 0 {
            return LOG_BYTES_MIN;
        }
        SEGMENTS_OFFSET + self.segments as u64 * self.segment_bytes
    }

    fn superblock(self) -> Superblock {
        let mut superblock = Superblock::new(*b"simulated power!", LOG_BYTES_MIN);
        if self.segments > 0 {
            superblock.log_bytes = self.bytes();
            superblock.segment_bytes = self.segment_bytes;
            superblock.segments = self.segments;
        }
        superblock.clean = true;
        superblock
    }
}

/// A disk with an empty log of this shape.
pub fn new_disk(options: SimOptions, shape: LogShape) -> SimBacking {
    let backing = SimBacking::new(options);
    let root = backing.root().expect("a root").object;
    let (dir, name) = if shape.elsewhere {
        (root, LOG_NAME)
    } else {
        let mode = NewMode { mode: 0o700, umask: 0 };
        let home = backing.make_dir(NOBODY, &root, OsStr::new(HOME_NAME), mode);
        (home.expect("a directory").object, "log")
    };
    let log = backing.make_log(&dir, OsStr::new(name), shape.bytes(), &mut |_| {});
    let log = log.expect("a log");
    let mut superblock = shape.superblock();
    for _ in 0..2 {
        superblock.counter += 1;
        log.write(&superblock.encode(), superblock.slot_offset()).expect("a write");
    }
    log.flush().expect("a flush");
    backing.sync_all().expect("a sync");
    backing
}

/// The log, if it does not lie in the engine's directory.
pub fn elsewhere(backing: &SimBacking, shape: LogShape) -> Option<SimLog> {
    shape.elsewhere.then(|| {
        let root = backing.root().expect("a root").object;
        backing.open_log(&root, OsStr::new(LOG_NAME)).expect("the log is there")
    })
}

/// An engine with a log.
pub fn start(
    backing: &SimBacking,
    config: &LogConfig,
    shape: LogShape,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Arc<Engine<SimBacking>>, Option<RecoveryReport>), OpenLogError> {
    // Nobody comes while one thread waits: never hold a group.
    let policy = PolicyConfig { hold_ratio_max: 0.0, round_trip_ns: 0, ..PolicyConfig::default() };
    let lanes = LaneConfig { policy, ..LaneConfig::default() };
    let backing = Arc::new(backing.clone());
    let log = elsewhere(&backing, shape);
    Engine::with_log(
        &backing,
        EngineConfig { lanes, ..EngineConfig::default() },
        config.clone(),
        log,
        progress,
    )
}

/// Recovers a disk, as `lanefs recover` or as an engine that starts.
pub fn mend(
    backing: &SimBacking,
    config: &LogConfig,
    shape: LogShape,
    by_engine: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<RecoveryReport>, OpenLogError> {
    if by_engine {
        return start(backing, config, shape, progress).map(|(_, report)| report);
    }
    recover(backing, elsewhere(backing, shape), progress)
}

/// As [`describe`], for who asks.
pub fn describe_if(asked: bool, backing: &SimBacking, shape: LogShape) -> String {
    if asked { describe(backing, shape) } else { String::new() }
}

/// What is in a log, for people.
pub fn describe(backing: &SimBacking, shape: LogShape) -> String {
    let root = backing.root().expect("a root").object;
    let Ok(home) = backing.lookup(&root, OsStr::new(HOME_NAME)) else { return String::new() };
    let log = elsewhere(backing, shape)
        .or_else(|| backing.open_log(&home.object, OsStr::new("log")).ok())
        .expect("there is a log");
    let Ok(superblock) = read_superblock(&log) else { return "no superblock".to_owned() };
    let mut text = format!(
        "the log: tail {} lsn {}, recovery marker {:?}, clean {}\n",
        superblock.tail_group, superblock.tail_lsn, superblock.recovery_marker, superblock.clean
    );
    if let Ok(found) = backing.lookup(&home.object, OsStr::new("marker")) {
        text += &format!("marker {:?}\n", found.attr.mtime);
    }
    for directory in ["marks", "undo"] {
        let Ok(found) = backing.lookup(&home.object, OsStr::new(directory)) else { continue };
        let dir = backing.open_dir(&found.object).expect("a directory");
        let listed = backing.read_dir(&dir, 0, &mut |entry| {
            if !entry.name.as_encoded_bytes().starts_with(b".") {
                text += &format!("{directory}/{}\n", entry.name.display());
            }
            true
        });
        listed.expect("a directory can be read");
    }
    let contents = match scan(&log, &superblock) {
        Ok(contents) => contents,
        Err(error) => return text + &error.to_string(),
    };
    for group in &contents.groups {
        text += &format!("group {} to {}\n", group.header.number, group.header.last_lsn);
        for record in &group.records {
            let short = |change: &Change| format!("{change:?}");
            text += &format!("  {} {}\n", record.lsn, shorten(&short(&record.change)));
        }
    }
    text
}

/// Keys as inode numbers.
fn shorten(text: &str) -> String {
    let mut parts = text.split("ObjectKey { dev: 0, ino: ");
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ino = part.split(',').next().unwrap_or_default();
        let generation = part.split('[').nth(1).unwrap_or_default();
        let generation = generation.split(", ").nth(8).unwrap_or_default();
        let rest = part.split_once(") }").map_or("", |(_, rest)| rest);
        short += &format!("i{ino}g{generation}{rest}");
    }
    short
}
