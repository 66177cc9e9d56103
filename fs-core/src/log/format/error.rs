//! What can be wrong with a log: a piece of it, and the whole.

use crate::engine::Lsn;
use crate::error::Errno;

/// Why a superblock or a group is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Something else than what is looked for.
    #[error("it does not begin with the magic bytes")]
    Magic,
    /// Fewer bytes than it says itself, or than its kind needs.
    #[error("it has {have} bytes and needs {need}")]
    Short {
        /// So many there are.
        have: u64,
        /// So many there should be.
        need: u64,
    },
    /// Torn, damaged, or not made by lanefs.
    #[error("its checksum is {stored:08x}, that of its content {computed:08x}")]
    Checksum {
        /// What is written there.
        stored: u32,
        /// What should be.
        computed: u32,
    },
    /// Made by another version of lanefs.
    #[error("its format version is {found}, this program knows {}", super::FORMAT_VERSION)]
    Version {
        /// The version.
        found: u32,
    },
    /// Made by a lanefs that knows more.
    #[error("it uses features that this program does not know: flags {flags:#x}")]
    Flags {
        /// All flags.
        flags: u32,
    },
    /// Intact, but a number in it cannot be.
    #[error("{field} cannot be {value}")]
    Field {
        /// Which number.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Intact, but a record in it cannot be.
    #[error("record {index} (LSN {lsn}): {problem}")]
    Record {
        /// Its place in the group, from 0.
        index: u32,
        /// Its number, as far as it could be read.
        lsn: Lsn,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Why a log cannot be used: cause and remedy.
///
/// Nothing was changed. Where acknowledged data may be lost, the remedy is
/// always a copy first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The device or file could not be read.
    #[error(
        "cannot read the log at byte {offset}: {source}; \
         look for the device's errors in the kernel's messages"
    )]
    Read {
        /// Where.
        offset: u64,
        /// What the system said.
        source: Errno,
    },
    /// There is no superblock, not even a damaged one.
    #[error("this is not a lanefs log: name the file or device that was made for it")]
    NotALog,
    /// The log was made by another version.
    #[error(
        "the log has format version {found}, this lanefs knows {}: \
         recover it with the lanefs that wrote it",
        super::FORMAT_VERSION
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// The log was made by a lanefs that knows more.
    #[error(
        "the log uses features that this lanefs does not know (flags {flags:#x}): \
         recover it with the lanefs that wrote it"
    )]
    Flags {
        /// All flags.
        flags: u32,
    },
    /// Both superblocks are there and neither is intact.
    #[error(
        "both superblocks of the log are damaged (the first: {first}; the second: {second}): \
         copy the log before anything else, synced data may be in it"
    )]
    Superblocks {
        /// What is wrong with the first.
        first: FormatError,
        /// What is wrong with the second.
        second: FormatError,
    },
    /// Both superblocks are intact and contradict each other.
    #[error(
        "the two superblocks are of different logs: \
         the log was made over an older one and not finished; make it again"
    )]
    TwoLogs,
    /// A superblock that cannot be, though its checksum is right.
    #[error("the superblock makes no sense ({source}): this is an error of lanefs, please report")]
    Superblock {
        /// What is wrong.
        source: FormatError,
    },
    /// The file or device is shorter than the log.
    #[error(
        "the log is cut: it was made with {need} bytes and has {have}; \
         bring the whole file or device back, synced data may be in what is missing"
    )]
    Cut {
        /// Bytes that are there.
        have: u64,
        /// Bytes that were there.
        need: u64,
    },
    /// A group is missing in front of an intact one: it had been durable, and
    /// what it held had been acknowledged.
    #[error(
        "the log is damaged: group {expected_group} at byte {offset} is not intact, \
         group {found_group} at byte {found_offset} is, so synced data was lost; \
         nothing was changed: copy the log, and restore the files from a backup"
    )]
    Damaged {
        /// Where the missing group should begin.
        offset: u64,
        /// Its number.
        expected_group: u64,
        /// An intact group that was written later ...
        found_group: u64,
        /// ... and where it begins.
        found_offset: u64,
    },
    /// A group is intact and does not continue the one before it.
    #[error(
        "the log is damaged: group {group} at byte {offset} does not continue the group before it \
         ({field} is {found}, not {expected}); nothing was changed: copy the log, \
         and restore the files from a backup"
    )]
    Chain {
        /// Where the group begins.
        offset: u64,
        /// Its number.
        group: u64,
        /// What does not fit.
        field: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A group is intact and its records cannot be read.
    #[error(
        "group {group} at byte {offset} is intact but cannot be read ({source}): \
         this is an error of lanefs, please report; nothing was changed"
    )]
    Unreadable {
        /// Where the group begins.
        offset: u64,
        /// Its number.
        group: u64,
        /// What is wrong.
        source: FormatError,
    },
    /// Groups of a later epoch than the superblock's: the newer superblock was
    /// durable and is lost.
    #[error(
        "the log's newer superblock is damaged: the older one is of epoch {epoch}, \
         group {found_group} at byte {found_offset} of epoch {found_epoch}; nothing was changed: \
         copy the log, and restore the files from a backup"
    )]
    SuperblockLost {
        /// The superblock's epoch.
        epoch: u64,
        /// The group's epoch.
        found_epoch: u64,
        /// The group's number.
        found_group: u64,
        /// Where it begins.
        found_offset: u64,
    },
}
