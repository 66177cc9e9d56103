//! The superblock: which log this is, how it is divided, and where reading begins.
//!
//! There are two, in the blocks 0 and 1, written in turn: a torn write destroys
//! the older one, and the other still says what was true before it.

use std::ops::Range;

use super::cursor::{Cursor, Problem, put_u32, put_u64};
use super::{FORMAT_VERSION, FormatError, GROUP_BYTES_MAX};
use crate::engine::Lsn;
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer};

/// Smallest log.
pub const LOG_BYTES_MIN: u64 = 4 << 20;
/// Size of a log if nobody says otherwise.
pub const LOG_BYTES_DEFAULT: u64 = 64 << 20;
/// Largest log.
pub const LOG_BYTES_MAX: u64 = 1 << 40;

/// Where the first segment begins.
pub const SEGMENTS_OFFSET: u64 = 64 << 10;
/// How many segments a log is divided into. Space is freed by the segment: more
/// of them free it earlier, fewer leave room for larger groups.
pub const SEGMENT_COUNT: u32 = 16;

/// What a superblock begins with.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"LANEFSLG";
/// Where the checksum stands: in every version, so that a whole superblock of
/// another version can be told from a damaged one.
const CRC_AT: usize = 12;
const BLOCK: u64 = LOG_BLOCK_BYTES as u64;

const STATE_OPEN: u32 = 0;
const STATE_CLEAN: u32 = 1;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Which log this is; no other has the same.
    pub uuid: [u8; 16],
    /// Goes up by one with every write of a superblock: the higher one counts.
    pub counter: u64,
    /// Goes up when the log begins anew, which nothing that was written before survives.
    pub epoch: u64,
    /// Length of the whole log.
    pub log_bytes: u64,
    /// Length of a segment.
    pub segment_bytes: u64,
    /// Number of segments.
    pub segments: u32,
    /// Where the oldest group that is still needed begins (or will, if there is none).
    pub tail_offset: u64,
    /// Number of that group.
    pub tail_group: u64,
    /// Everything up to here is durable in the backing directory.
    pub tail_lsn: Lsn,
    /// The boot in which this was written.
    pub boot_id: [u8; 16],
    /// The log was closed in good order: everything in it is in the backing directory.
    pub clean: bool,
    /// The marker that was found by the first attempt of a recovery which has not ended.
    pub recovery_marker: Option<u64>,
    /// The mount of the backing filesystem then, see
    /// [`Backing::mount_id`](crate::platform::Backing::mount_id); 0: not known.
    pub mount_id: u64,
}

impl Superblock {
    /// The first superblock of an empty log of `log_bytes`, rounded down to whole blocks.
    ///
    /// # Panics
    /// If `log_bytes` is not within [`LOG_BYTES_MIN`] and [`LOG_BYTES_MAX`].
    #[must_use]
    pub fn new(uuid: [u8; 16], log_bytes: u64) -> Self {
        assert!(
            (LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&log_bytes),
            "a log of {log_bytes} bytes was asked for"
        );
        let segment_bytes = (log_bytes - SEGMENTS_OFFSET) / u64::from(SEGMENT_COUNT);
        Self {
            uuid,
            counter: 1,
            epoch: 1,
            log_bytes: log_bytes / BLOCK * BLOCK,
            segment_bytes: segment_bytes / BLOCK * BLOCK,
            segments: SEGMENT_COUNT,
            tail_offset: SEGMENTS_OFFSET,
            tail_group: 1,
            tail_lsn: 0,
            boot_id: [0; 16],
            clean: false,
            recovery_marker: None,
            mount_id: 0,
        }
    }

    /// The block to be written at [`Self::slot_offset`]. A tail at the end of the last
    /// segment is written as what it means, the beginning of the first.
    ///
    /// # Panics
    /// If the numbers do not pass [`Self::check`]: a log without a readable
    /// superblock is lost.
    #[must_use]
    pub fn encode(&self) -> LogBuffer {
        let wrapped = Self { tail_offset: self.wrapped(self.tail_offset), ..self.clone() };
        assert_eq!(wrapped.check(), Ok(()), "{self:?}");
        wrapped.put()
    }

    fn put(&self) -> LogBuffer {
        let mut out = Vec::with_capacity(LOG_BLOCK_BYTES);
        out.extend_from_slice(&SUPERBLOCK_MAGIC);
        put_u32(&mut out, FORMAT_VERSION);
        put_u32(&mut out, 0);
        put_u32(&mut out, 0);
        put_u32(&mut out, self.segments);
        out.extend_from_slice(&self.uuid);
        put_u64(&mut out, self.counter);
        put_u64(&mut out, self.epoch);
        put_u64(&mut out, self.log_bytes);
        put_u64(&mut out, self.segment_bytes);
        put_u64(&mut out, self.tail_offset);
        put_u64(&mut out, self.tail_group);
        put_u64(&mut out, self.tail_lsn);
        out.extend_from_slice(&self.boot_id);
        put_u32(&mut out, if self.clean { STATE_CLEAN } else { STATE_OPEN });
        put_u32(&mut out, u32::from(self.recovery_marker.is_some()));
        put_u64(&mut out, self.recovery_marker.unwrap_or(0));
        put_u64(&mut out, self.mount_id);
        out.resize(LOG_BLOCK_BYTES, 0);
        let crc = crc32c::crc32c(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let mut block = LogBuffer::new();
        block.extend(&out);
        block
    }

    /// Where this one is written: odd counters in block 1, even ones in block 0.
    #[must_use]
    pub const fn slot_offset(&self) -> u64 {
        self.counter % 2 * BLOCK
    }

    /// Reads one block.
    ///
    /// # Errors
    /// It is not an intact superblock of this version that can be true.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let short = FormatError::Short { have: block.len() as u64, need: BLOCK };
        let block = block.get(..LOG_BLOCK_BYTES).ok_or(short)?;
        if !block.starts_with(&SUPERBLOCK_MAGIC) {
            return Err(FormatError::Magic);
        }
        let mut cursor = Cursor::new(block, SUPERBLOCK_MAGIC.len());
        let header = |cursor: &mut Cursor<'_>| -> Result<_, Problem> {
            Ok((cursor.u32()?, cursor.u32()?, cursor.u32()?))
        };
        let cut = |_| FormatError::Short { have: 0, need: BLOCK };
        let (version, stored, flags) = header(&mut cursor).map_err(cut)?;
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        let computed = crc32c::crc32c_append(crc, &block[CRC_AT + 4..]);
        if computed != stored {
            return Err(FormatError::Checksum { stored, computed });
        }
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version });
        }
        if flags != 0 {
            return Err(FormatError::Flags { flags });
        }
        let (superblock, state, has_marker) = Self::fields(&mut cursor).map_err(cut)?;
        if state > STATE_CLEAN {
            return Err(FormatError::Field { field: "state", value: state.into() });
        }
        if has_marker > 1 {
            return Err(FormatError::Field {
                field: "marker's presence",
                value: has_marker.into(),
            });
        }
        superblock.check()?;
        Ok(superblock)
    }

    fn fields(cursor: &mut Cursor<'_>) -> Result<(Self, u32, u32), Problem> {
        let segments = cursor.u32()?;
        let mut superblock = Self {
            segments,
            uuid: cursor.array()?,
            counter: cursor.u64()?,
            epoch: cursor.u64()?,
            log_bytes: cursor.u64()?,
            segment_bytes: cursor.u64()?,
            tail_offset: cursor.u64()?,
            tail_group: cursor.u64()?,
            tail_lsn: cursor.u64()?,
            boot_id: cursor.array()?,
            clean: false,
            recovery_marker: None,
            mount_id: 0,
        };
        let state = cursor.u32()?;
        let has_marker = cursor.u32()?;
        let marker = cursor.u64()?;
        superblock.clean = state == STATE_CLEAN;
        superblock.recovery_marker = (has_marker == 1).then_some(marker);
        superblock.mount_id = cursor.u64()?;
        Ok((superblock, state, has_marker))
    }

    /// Whether the numbers fit each other: everything below relies on it.
    ///
    /// # Errors
    /// The first number that does not.
    pub fn check(&self) -> Result<(), FormatError> {
        let refuse = |field, value| Err(FormatError::Field { field, value });
        if self.counter == 0 {
            return refuse("counter", self.counter);
        }
        if self.epoch == 0 {
            return refuse("epoch", self.epoch);
        }
        if self.log_bytes > LOG_BYTES_MAX || !self.log_bytes.is_multiple_of(BLOCK) {
            return refuse("log length", self.log_bytes);
        }
        if self.segments < 2 {
            return refuse("number of segments", self.segments.into());
        }
        let room = self.log_bytes.saturating_sub(SEGMENTS_OFFSET) / u64::from(self.segments);
        if !(BLOCK..=room).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK)
        {
            return refuse("segment length", self.segment_bytes);
        }
        if !self.area().contains(&self.tail_offset) || !self.tail_offset.is_multiple_of(BLOCK) {
            return refuse("tail offset", self.tail_offset);
        }
        if self.tail_group == 0 {
            return refuse("tail group", self.tail_group);
        }
        Ok(())
    }

    /// All segments.
    #[must_use]
    pub const fn area(&self) -> Range<u64> {
        SEGMENTS_OFFSET..SEGMENTS_OFFSET + self.segments as u64 * self.segment_bytes
    }

    /// Where a segment begins; segments are counted from 0.
    #[must_use]
    pub const fn segment_start(&self, segment: u32) -> u64 {
        SEGMENTS_OFFSET + segment as u64 * self.segment_bytes
    }

    /// Which segment a place in [`Self::area`] belongs to.
    #[must_use]
    pub const fn segment_of(&self, offset: u64) -> u32 {
        // Fits: `area` ends after `segments` segments.
        ((offset - SEGMENTS_OFFSET) / self.segment_bytes) as u32
    }

    /// Where the segment of a place ends.
    #[must_use]
    pub const fn segment_end(&self, offset: u64) -> u64 {
        self.segment_start(self.segment_of(offset)) + self.segment_bytes
    }

    /// Where the segment after that of a place begins: after the last comes the first.
    #[must_use]
    pub const fn next_segment(&self, offset: u64) -> u64 {
        self.wrapped(self.segment_end(offset))
    }

    /// Where the group after one that ends at `end` begins, if it fits there.
    #[must_use]
    pub const fn wrapped(&self, end: u64) -> u64 {
        if end >= self.area().end { SEGMENTS_OFFSET } else { end }
    }

    /// Longest group that this log can hold, header and padding included.
    #[must_use]
    pub const fn group_bytes_max(&self) -> usize {
        if self.segment_bytes < GROUP_BYTES_MAX as u64 {
            self.segment_bytes as usize
        } else {
            GROUP_BYTES_MAX
        }
    }

    /// Where a group of `bytes` (whole blocks) goes, if the one before it left off
    /// at `offset`: there, or in the next segment. `None` if no group may be as long.
    #[must_use]
    pub const fn place(&self, offset: u64, bytes: u64) -> Option<u64> {
        if bytes > self.group_bytes_max() as u64 {
            return None;
        }
        if bytes <= self.segment_end(offset) - offset {
            return Some(offset);
        }
        Some(self.next_segment(offset))
    }
}
