//! Reading a whole log: the newer superblock, all groups that count, and the proof
//! that nothing behind them was lost.

use super::group::{GroupHeader, check_frame};
use super::superblock::Superblock;
use super::{FormatError, LogError, parse_group};
use crate::engine::Lsn;
use crate::log::record::Record;
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

const BLOCK: u64 = LOG_BLOCK_BYTES as u64;
/// How much is read at once where groups are looked for.
const SEARCH_BYTES: u64 = 1 << 20;

/// A group that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it says about itself.
    pub header: GroupHeader,
    /// Where it begins in the log.
    pub offset: u64,
    /// All of it, padding included: [`Part::at`](crate::log::record::Part::at) counts in here.
    pub bytes: Vec<u8>,
    /// Its records.
    pub records: Vec<Record>,
}

/// All that counts in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogContents {
    /// The superblock that reading began with.
    pub superblock: Superblock,
    /// From the oldest that is needed to the last.
    pub groups: Vec<Group>,
    /// Where the next group would go if it fits there.
    pub end_offset: u64,
    /// Number of the next group.
    pub next_group: u64,
    /// Where the stream ends: the last group's, or the superblock's if there is none.
    pub last_lsn: Lsn,
    /// The last group's checksum, 0 if there is none.
    pub last_crc: u32,
    /// Where the next group begins that was not written to its end, if so much of
    /// it is there that it can be told. It was never acknowledged.
    pub torn_offset: Option<u64>,
}

/// Reads both superblocks and returns the newer one.
///
/// # Errors
/// Neither is intact, they contradict each other, or one of them is of another
/// version: then it may be the newer one.
pub fn read_superblock(store: &(impl LogStore + ?Sized)) -> Result<Superblock, LogError> {
    if store.bytes() < 2 * BLOCK {
        return Err(LogError::NotALog);
    }
    let mut buffer = LogBuffer::new();
    let mut slot = |offset| {
        read(store, &mut buffer, offset, LOG_BLOCK_BYTES)?;
        match Superblock::decode(buffer.bytes()) {
            Ok(superblock) if superblock.slot_offset() != offset => {
                Ok(Err(FormatError::Field { field: "counter", value: superblock.counter }))
            }
            Err(FormatError::Version { found }) => Err(LogError::Version { found }),
            Err(FormatError::Flags { flags }) => Err(LogError::Flags { flags }),
            other => Ok(other),
        }
    };
    match (slot(0)?, slot(BLOCK)?) {
        (Ok(first), Ok(second)) if first.uuid != second.uuid => Err(LogError::TwoLogs),
        (Ok(first), Ok(second)) => Ok(if first.counter > second.counter { first } else { second }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(FormatError::Magic), Err(FormatError::Magic)) => Err(LogError::NotALog),
        (Err(first), Err(second)) => Err(LogError::Superblocks { first, second }),
    }
}

/// Reads the log from the superblock's tail to its end, and looks through the rest
/// of it for proof that this is the end. Changes nothing.
///
/// # Errors
/// Something that had been durable is not there, or cannot be read: see
/// [`LogError`]. A last group that was not written to its end is no error.
pub fn scan(
    store: &(impl LogStore + ?Sized),
    superblock: &Superblock,
) -> Result<LogContents, LogError> {
    superblock.check().map_err(|source| LogError::Superblock { source })?;
    if store.bytes() < superblock.log_bytes {
        return Err(LogError::Cut { have: store.bytes(), need: superblock.log_bytes });
    }
    let mut contents = LogContents {
        superblock: superblock.clone(),
        groups: Vec::new(),
        end_offset: superblock.tail_offset,
        next_group: superblock.tail_group,
        last_lsn: superblock.tail_lsn,
        last_crc: 0,
        torn_offset: None,
    };
    let mut scanner = Scanner { store, superblock, buffer: LogBuffer::new(), used: 0 };
    while scanner.next_group(&mut contents)? {}
    scanner.prove_end(&contents)?;
    Ok(contents)
}

struct Scanner<'a, S: LogStore + ?Sized> {
    store: &'a S,
    superblock: &'a Superblock,
    /// The group that was found last.
    buffer: LogBuffer,
    /// How much of the area lies between the tail and the end of the last group:
    /// the chain cannot be longer than the area, whatever the groups say.
    used: u64,
}

/// What is at a place where a group may begin.
enum Place {
    /// A whole group with the number that is looked for, in the scanner's buffer.
    Intact(GroupHeader),
    /// The beginning of that group at least.
    Torn,
    /// Something else.
    Other,
}

impl<S: LogStore + ?Sized> Scanner<'_, S> {
    /// Adds the next group, if it is there.
    fn next_group(&mut self, contents: &mut LogContents) -> Result<bool, LogError> {
        let here = contents.end_offset;
        let next_segment = self.superblock.next_segment(here);
        let skipped = self.superblock.segment_end(here) - here;
        let mut torn_offset = None;
        for (offset, skipped) in [(here, 0), (next_segment, skipped)] {
            let room = self.area_bytes().saturating_sub(self.used + skipped);
            match self.look_at(offset, contents.next_group, room)? {
                Place::Intact(header) => {
                    check_chain(contents, &header, offset)?;
                    // What the first group has skipped is in front of it, free for the last.
                    let skipped = if contents.groups.is_empty() { 0 } else { skipped };
                    self.used += skipped + header.group_bytes() as u64;
                    self.add(contents, offset)?;
                    return Ok(true);
                }
                Place::Torn => torn_offset = torn_offset.or(Some(offset)),
                Place::Other => {}
            }
        }
        contents.torn_offset = torn_offset;
        Ok(false)
    }

    /// Looks for group `number` at `offset`; a longer one than `room` would lie over the tail.
    fn look_at(&mut self, offset: u64, number: u64, room: u64) -> Result<Place, LogError> {
        read(self.store, &mut self.buffer, offset, LOG_BLOCK_BYTES)?;
        let Ok(header) = GroupHeader::decode(self.buffer.bytes()) else {
            return Ok(Place::Other);
        };
        let wanted = header.belongs_to(self.superblock)
            && header.epoch == self.superblock.epoch
            && header.number == number;
        if !wanted {
            return Ok(Place::Other);
        }
        if header.group_bytes() as u64 <= room && self.is_intact(&header, offset)? {
            Ok(Place::Intact(header))
        } else {
            Ok(Place::Torn)
        }
    }

    /// Reads the group that begins at `offset`, as its first block says, and checks it.
    fn is_intact(&mut self, header: &GroupHeader, offset: u64) -> Result<bool, LogError> {
        let bytes = header.group_bytes();
        if bytes as u64 > self.superblock.segment_end(offset) - offset {
            return Ok(false);
        }
        read(self.store, &mut self.buffer, offset, bytes)?;
        Ok(check_frame(self.buffer.bytes()).is_ok_and(|found| found == *header))
    }

    fn add(&self, contents: &mut LogContents, offset: u64) -> Result<(), LogError> {
        let bytes = self.buffer.bytes();
        let (header, records) = parse_group(bytes).map_err(|source| LogError::Unreadable {
            offset,
            group: contents.next_group,
            source,
        })?;
        contents.end_offset = self.superblock.wrapped(offset + bytes.len() as u64);
        contents.next_group += 1;
        contents.last_lsn = header.last_lsn;
        contents.last_crc = header.crc;
        contents.groups.push(Group { header, offset, bytes: bytes.to_vec(), records });
        Ok(())
    }

    /// Looks at every block that is not in a group of the chain. An intact group
    /// that is newer than the chain's end proves that there was more.
    fn prove_end(&mut self, contents: &LogContents) -> Result<(), LogError> {
        let mut taken: Vec<_> = contents
            .groups
            .iter()
            .map(|group| (group.offset, group.offset + group.bytes.len() as u64))
            .collect();
        taken.sort_unstable();
        let area = self.superblock.area();
        taken.push((area.end, area.end));
        let mut begin = area.start;
        for (offset, end) in taken {
            self.search(begin, offset, contents)?;
            begin = end;
        }
        Ok(())
    }

    fn search(&mut self, begin: u64, end: u64, contents: &LogContents) -> Result<(), LogError> {
        let mut piece = LogBuffer::new();
        let mut offset = begin;
        while offset < end {
            let bytes = (end - offset).min(SEARCH_BYTES);
            read(self.store, &mut piece, offset, bytes as usize)?;
            for (block, offset) in
                piece.bytes().chunks(LOG_BLOCK_BYTES).zip((offset..).step_by(LOG_BLOCK_BYTES))
            {
                if let Ok(header) = GroupHeader::decode(block) {
                    self.suspect(&header, offset, contents)?;
                }
            }
            offset += bytes;
        }
        Ok(())
    }

    /// Judges a block that looks like a header.
    fn suspect(
        &mut self,
        header: &GroupHeader,
        found_offset: u64,
        contents: &LogContents,
    ) -> Result<(), LogError> {
        let epoch = self.superblock.epoch;
        let later_epoch = header.epoch > epoch;
        // A group with the very number that is missing is as bad as a later one: it is
        // intact, so it had been acknowledged perhaps, and is not where it should be.
        let later_group = header.epoch == epoch && header.number >= contents.next_group;
        let newer = header.belongs_to(self.superblock) && (later_epoch || later_group);
        if !newer || !self.is_intact(header, found_offset)? {
            return Ok(());
        }
        if later_epoch {
            let (found_epoch, found_group) = (header.epoch, header.number);
            return Err(LogError::SuperblockLost { epoch, found_epoch, found_group, found_offset });
        }
        Err(LogError::Damaged {
            offset: contents.end_offset,
            expected_group: contents.next_group,
            found_group: header.number,
            found_offset,
        })
    }

    const fn area_bytes(&self) -> u64 {
        self.superblock.segments as u64 * self.superblock.segment_bytes
    }
}

/// Whether an intact group continues the last one. The first has nothing before it
/// to continue: what it would be compared with may be overwritten.
fn check_chain(contents: &LogContents, header: &GroupHeader, offset: u64) -> Result<(), LogError> {
    let Some(last) = contents.groups.last().map(|group| &group.header) else {
        return Ok(());
    };
    let fields = [
        ("previous checksum", u64::from(last.crc), u64::from(header.previous_crc)),
        ("first LSN", last.last_lsn.saturating_add(1), header.first_lsn),
    ];
    for (field, expected, found) in fields {
        if expected != found {
            return Err(LogError::Chain { offset, group: header.number, field, expected, found });
        }
    }
    Ok(())
}

fn read(
    store: &(impl LogStore + ?Sized),
    buffer: &mut LogBuffer,
    offset: u64,
    bytes: usize,
) -> Result<(), LogError> {
    store.read(buffer, offset, bytes).map_err(|source| LogError::Read { offset, source })?;
    if buffer.len() == bytes {
        return Ok(());
    }
    Err(LogError::Read { offset, source: crate::error::Errno::IO })
}
