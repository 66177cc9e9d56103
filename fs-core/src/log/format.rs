//! How a log looks on disk: writing it, reading it, and telling its end from
//! damage. `docs/log-format.md` draws it byte by byte.
//!
//! Two [superblocks](Superblock), then equal segments, then nothing. A *group* is
//! what one flush makes durable: a header and records, in one piece, inside one
//! segment. Its checksum is the commit: a group counts if all of it is there.
//! Groups lie one behind the other, from segment to segment, round and round;
//! nothing is erased, an old lap is told by its lower group numbers.
//!
//! - [`GroupBuilder`] makes a group in the buffer that is written.
//! - [`read_superblock`] and [`scan()`] find everything that counts, or say what is
//!   wrong. They trust nothing that they read, and change nothing.
//!
//! What makes damage visible, and must hold for every writer:
//!
//! 1. Group n + 1 is not written before group n is durable, and never if the
//!    write or the flush of group n failed. So an intact group proves that all
//!    groups before it were durable, and a hole in front of it is damage.
//! 2. A superblock is durable before anything relies on it: before the space in
//!    front of its tail is written again, before the first group of its epoch.
//! 3. A group number is never used twice, not in another epoch either.
//!
//! What reading refuses must not be written: [`check_record`] is the one rule for
//! both sides.

mod builder;
mod cursor;
mod error;
mod group;
mod records;
mod scan;
mod superblock;

pub use self::builder::{GroupBuilder, Seal};
pub use self::error::{FormatError, LogError};
pub use self::group::{GROUP_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader, group_bytes, parse_group};
pub use self::records::{check_record, encode_record};
pub use self::scan::{Group, LogContents, read_superblock, scan};
pub use self::superblock::{
    LOG_BYTES_DEFAULT, LOG_BYTES_MAX, LOG_BYTES_MIN, SEGMENT_COUNT, SEGMENTS_OFFSET,
    SUPERBLOCK_MAGIC, Superblock,
};

/// Version of everything described here; any change of the layout is another.
pub const FORMAT_VERSION: u32 = 1;
