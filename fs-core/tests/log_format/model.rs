//! A writer that knows what a reader must find. The fuzz targets use this file too.

use fs_core::log::format::{Group, GroupBuilder, Seal, Superblock, group_bytes, parse_group};
use fs_core::log::record::{Change, Record};
use fs_core::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

use crate::store::MemoryStore;

/// A record, and the bytes of its parts (whose place in the group does not count).
#[derive(Debug, Clone)]
pub struct Entry {
    pub record: Record,
    pub contents: Vec<Vec<u8>>,
}

impl Entry {
    pub fn add_to(&self, group: &mut GroupBuilder) {
        let Change::Data { object, size, mtime, parts } = &self.record.change else {
            return group.record(&self.record);
        };
        group.begin_data(self.record.lsn, object, *size, *mtime);
        for (part, content) in parts.iter().zip(&self.contents) {
            group.data_part(part.offset, part.bytes).copy_from_slice(content);
        }
        group.end_data();
    }
}

impl From<Change> for Entry {
    fn from(change: Change) -> Self {
        Self { record: Record { lsn: 0, change }, contents: Vec::new() }
    }
}

/// A log with its writer.
pub struct Model {
    pub store: MemoryStore,
    pub superblock: Superblock,
    /// What is needed: what `scan` must find.
    pub live: Vec<Group>,
    position: u64,
    next_number: u64,
    last_lsn: u64,
    previous_crc: u32,
}

impl Model {
    /// An empty log of few and short segments, so that it wraps often.
    pub fn new(segments: u32, segment_blocks: u64) -> Self {
        let mut superblock = Superblock::new([7; 16], 4 << 20);
        superblock.segments = segments;
        superblock.segment_bytes = segment_blocks * LOG_BLOCK_BYTES as u64;
        superblock.log_bytes = superblock.area().end;
        let mut model = Self {
            store: MemoryStore::new(vec![0; superblock.log_bytes as usize]),
            live: Vec::new(),
            position: superblock.tail_offset,
            next_number: superblock.tail_group,
            last_lsn: 0,
            previous_crc: 0,
            superblock,
        };
        model.write_superblock();
        model.write_superblock();
        model
    }

    pub fn next_lsn(&self) -> u64 {
        self.last_lsn + 1
    }

    /// Writes a group, if there is room; `entries` have LSNs from `next_lsn` on.
    pub fn write(&mut self, entries: &[Entry]) -> bool {
        let mut builder = GroupBuilder::new(LogBuffer::new());
        entries.iter().for_each(|entry| entry.add_to(&mut builder));
        let bytes = group_bytes(builder.len()) as u64;
        let Some(offset) = self.superblock.place(self.position, bytes) else { return false };
        // Nothing that is needed may be written over: the way from the tail to the
        // new group's end is not longer than the area.
        let end = self.superblock.segment_end(self.position);
        let skipped = if offset == self.position { 0 } else { end - self.position };
        if self.used() + skipped + bytes > self.area_bytes() {
            return false;
        }
        let last_lsn =
            entries.iter().map(|entry| entry.record.lsn).max().unwrap_or(0).max(self.next_lsn());
        let crc = builder.seal(&Seal {
            uuid: self.superblock.uuid,
            epoch: self.superblock.epoch,
            number: self.next_number,
            first_lsn: self.next_lsn(),
            last_lsn,
            previous_crc: self.previous_crc,
            boot_id: [3; 16],
            wall_time_ns: self.next_number,
        });
        self.store.write(builder.buffer(), offset).expect("the place lies in the log");
        let bytes = builder.buffer().bytes().to_vec();
        let (header, records) = parse_group(&bytes).expect("what was sealed can be read");
        self.position = self.superblock.wrapped(offset + bytes.len() as u64);
        self.next_number += 1;
        self.last_lsn = last_lsn;
        self.previous_crc = crc;
        self.live.push(Group { header, offset, bytes, records });
        true
    }

    /// The oldest `count` groups are not needed any more.
    pub fn checkpoint(&mut self, count: usize) {
        self.live.drain(..count.min(self.live.len()));
        let tail = self.live.first().map(|group| (group.offset, group.header.number));
        let tail = tail.unwrap_or((self.position, self.next_number));
        (self.superblock.tail_offset, self.superblock.tail_group) = tail;
        self.superblock.tail_lsn =
            self.live.first().map_or(self.last_lsn, |g| g.header.first_lsn - 1);
        self.write_superblock();
    }

    /// The log begins anew, as after a recovery.
    pub fn new_epoch(&mut self) {
        self.superblock.epoch += 1;
        self.previous_crc = 0;
        self.checkpoint(usize::MAX);
    }

    pub fn write_superblock(&mut self) {
        self.superblock.counter += 1;
        let offset = self.superblock.slot_offset();
        self.store.write(&self.superblock.encode(), offset).expect("superblocks lie in the log");
    }

    fn used(&self) -> u64 {
        let area = self.area_bytes();
        match (self.position + area - self.superblock.tail_offset) % area {
            0 if !self.live.is_empty() => area,
            used => used,
        }
    }

    fn area_bytes(&self) -> u64 {
        let area = self.superblock.area();
        area.end - area.start
    }
}
