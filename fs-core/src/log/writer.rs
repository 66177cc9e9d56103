//! The write side of the log: where the next group goes, and which part of the
//! log is free.
//!
//! Groups follow each other through equal segments, round and round; none crosses
//! a segment's end. The *tail* is the oldest group that recovery may need. It moves
//! when a journal commit has made the backing directory durable up to there, and
//! stands in the superblock. A superblock that was written becomes durable with the
//! flush of a later group; only then may what was before the new tail be
//! overwritten. One group at a time is under way.

use std::collections::VecDeque;

use super::format::{GroupBuilder, Seal, Superblock};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// What the writer needs to know of a group on disk.
#[derive(Debug, Clone, Copy)]
struct Written {
    number: u64,
    offset: u64,
    last_lsn: Lsn,
}

/// Why a group could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// No segment is free before a checkpoint.
    Full,
    /// The device failed: nothing may be written to this log any more.
    Failed(Errno),
}

/// The log, for the one who writes it.
pub(crate) struct Writer<L: LogStore> {
    store: L,
    superblock: Superblock,
    /// Where the next group goes if it fits there.
    position: u64,
    next_number: u64,
    previous_crc: u32,
    last_lsn: Lsn,
    /// Groups from the durable tail on, oldest first.
    groups: VecDeque<Written>,
    /// The superblock on disk is older than `superblock` until the next flush.
    superblock_is_durable: bool,
    /// The tail that is durable.
    durable_tail_lsn: Lsn,
    durable_tail_number: u64,
    buffer: LogBuffer,
    /// Set by the first failure, and never taken back.
    failed: Option<Errno>,
    /// A planted bug: groups are not flushed.
    answers_early: bool,
}

impl<L: LogStore> Writer<L> {
    /// A writer for an empty log, whose superblock is written and flushed first.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn start(store: L, superblock: Superblock) -> Result<Self> {
        let mut writer = Self {
            position: superblock.tail_offset,
            next_number: superblock.tail_group,
            previous_crc: 0,
            last_lsn: superblock.tail_lsn,
            groups: VecDeque::new(),
            superblock_is_durable: true,
            durable_tail_lsn: superblock.tail_lsn,
            durable_tail_number: superblock.tail_group,
            buffer: LogBuffer::new(),
            failed: None,
            answers_early: false,
            store,
            superblock,
        };
        writer.write_superblock()?;
        writer.flush()?;
        Ok(writer)
    }

    /// Plants a bug: groups are not flushed any more.
    pub(crate) const fn answer_before_flush(&mut self) {
        self.answers_early = true;
    }

    /// A builder for the next group; its memory is the last group's.
    pub(crate) fn builder(&mut self) -> GroupBuilder {
        GroupBuilder::new(std::mem::take(&mut self.buffer))
    }

    /// Takes a group back that is not to be written.
    pub(crate) fn give_back(&mut self, group: GroupBuilder) {
        self.buffer = group.into_buffer();
    }

    /// Longest group that fits into a segment, in bytes.
    pub(crate) const fn group_bytes_max(&self) -> usize {
        self.superblock.group_bytes_max()
    }

    /// Up to here nothing in the log is needed, durably.
    pub(crate) const fn durable_tail_lsn(&self) -> Lsn {
        self.durable_tail_lsn
    }

    /// Number of the last operation in the log.
    pub(crate) const fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Part of the log that is in use, from 0 to 1.
    pub(crate) fn used_ratio(&self) -> f64 {
        let Some(oldest) = self.groups.front() else { return 0.0 };
        let (area_start, area) = (self.superblock.segment_start(0), self.area_bytes());
        let place = |offset: u64| offset - area_start;
        // Where it begins anew it is full, not empty.
        let used = (place(self.position) + area - place(oldest.offset) - 1) % area + 1;
        used as f64 / area as f64
    }

    /// Length of all segments.
    const fn area_bytes(&self) -> u64 {
        self.superblock.segment_bytes * self.superblock.segments as u64
    }

    /// Whether no group is needed, durably.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether the superblock, durable or not yet, says that no group is needed.
    pub(crate) const fn is_checkpointed(&self) -> bool {
        self.superblock.tail_group == self.next_number
    }

    /// What the log stands on.
    pub(crate) const fn store(&self) -> &L {
        &self.store
    }

    /// Writes a group that covers the stream up to `last_lsn` and flushes it.
    ///
    /// # Errors
    /// [`WriteError`]; nothing of the group may be taken for durable then.
    pub(crate) fn write(
        &mut self,
        mut group: GroupBuilder,
        last_lsn: Lsn,
        boot_id: [u8; 16],
        wall_time_ns: u64,
        before_flush: impl FnOnce(),
    ) -> std::result::Result<u64, WriteError> {
        if let Some(error) = self.failed {
            return Err(WriteError::Failed(error));
        }
        let Some(offset) = self.place(group.len() as u64) else {
            self.give_back(group);
            return Err(WriteError::Full);
        };
        let crc = group.seal(&Seal {
            uuid: self.superblock.uuid,
            epoch: self.superblock.epoch,
            number: self.next_number,
            first_lsn: self.last_lsn + 1,
            last_lsn,
            previous_crc: self.previous_crc,
            boot_id,
            wall_time_ns,
        });
        let bytes = group.buffer().len() as u64;
        let written = self.write_and_flush(group.buffer(), offset, before_flush);
        self.give_back(group);
        if let Err(error) = written {
            self.failed = Some(error);
            return Err(WriteError::Failed(error));
        }
        self.flushed();
        self.groups.push_back(Written { number: self.next_number, offset, last_lsn });
        self.position = offset + bytes;
        self.next_number += 1;
        self.previous_crc = crc;
        self.last_lsn = last_lsn;
        Ok(bytes)
    }

    /// One command, where the log has a device of its own and that has one; else what else the
    /// flush is for may become ready while the group is being written.
    fn write_and_flush(
        &self,
        group: &LogBuffer,
        offset: u64,
        before_flush: impl FnOnce(),
    ) -> Result<()> {
        if !self.store.shares_device() && !self.answers_early {
            before_flush();
            return self.store.write_and_flush(group, offset);
        }
        let written = self.store.write(group, offset);
        before_flush();
        written?;
        if self.answers_early { Ok(()) } else { self.store.flush() }
    }

    /// Flushes without writing: data in place becomes durable, where the log
    /// shares its device.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.store.flush().inspect_err(|&error| self.failed = Some(error))?;
        self.flushed();
        Ok(())
    }

    /// The backing directory is durable up to `through`: groups up to there are
    /// not needed any more, as soon as the superblock that says so is durable.
    ///
    /// # Errors
    /// The device's; the tail stays where it was then.
    pub(crate) fn checkpointed(&mut self, through: Lsn) -> Result<()> {
        let first_kept = self.groups.iter().find(|group| group.last_lsn > through);
        let (offset, number) =
            first_kept.map_or((self.wrapped(), self.next_number), |g| (g.offset, g.number));
        if number == self.superblock.tail_group {
            return Ok(());
        }
        // Two superblocks, of which one is durable: never write over that one.
        if !self.superblock_is_durable {
            self.flush()?;
        }
        self.superblock.tail_offset = offset;
        self.superblock.tail_group = number;
        self.superblock.tail_lsn = self.superblock.tail_lsn.max(through.min(self.last_lsn));
        self.write_superblock()
    }

    /// As [`Self::checkpointed`], durable when it returns; with `clean` the log ends
    /// here, if nothing came behind `through`.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn finish(&mut self, through: Lsn, clean: bool) -> Result<()> {
        self.checkpointed(through)?;
        if clean && self.is_checkpointed() {
            if !self.superblock_is_durable {
                self.flush()?;
            }
            self.superblock.tail_lsn = self.superblock.tail_lsn.max(through);
            self.superblock.clean = true;
            self.write_superblock()?;
        }
        if self.superblock_is_durable { Ok(()) } else { self.flush() }
    }

    fn write_superblock(&mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.superblock.counter += 1;
        self.superblock_is_durable = false;
        let (block, offset) = (self.superblock.encode(), self.superblock.slot_offset());
        self.store.write(&block, offset).inspect_err(|&error| self.failed = Some(error))
    }

    /// Every write that was made is durable.
    fn flushed(&mut self) {
        if !self.superblock_is_durable {
            self.superblock_is_durable = true;
            self.durable_tail_lsn = self.superblock.tail_lsn;
            self.durable_tail_number = self.superblock.tail_group;
            self.groups.retain(|group| group.number >= self.durable_tail_number);
        }
    }

    /// The position: at the very end of a segment it is the next one's start.
    fn wrapped(&self) -> u64 {
        let area_start = self.superblock.segment_start(0);
        area_start + (self.position - area_start) % self.area_bytes()
    }

    /// Where a group of so many bytes goes; `None` if that is in use.
    fn place(&self, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(LOG_BLOCK_BYTES as u64);
        let segment_bytes = self.superblock.segment_bytes;
        if bytes > segment_bytes {
            return None;
        }
        let wrapped = self.wrapped();
        let segment = self.superblock.segment_of(wrapped);
        let start = self.superblock.segment_start(segment);
        let fresh = wrapped == start;
        if wrapped + bytes <= start + segment_bytes && (!fresh || self.is_free(segment)) {
            return Some(wrapped);
        }
        if fresh {
            return None;
        }
        let next = (segment + 1) % self.superblock.segments;
        self.is_free(next).then(|| self.superblock.segment_start(next))
    }

    /// Whether no group that may be needed is in a segment.
    fn is_free(&self, segment: u32) -> bool {
        // Groups are in order, so the segment of the oldest comes up first.
        self.groups
            .front()
            .is_none_or(|oldest| self.superblock.segment_of(oldest.offset) != segment)
    }
}
