//! Making a group, in the buffer that goes to the device as it is: contents of
//! files are read right into their place.

use super::group::{CRC_AT, GROUP_MAGIC, checksum};
use super::records::{self, begin_record, put_data_head, set_body_bytes};
use super::{FORMAT_VERSION, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, encode_record, parse_group};
use crate::engine::Lsn;
use crate::log::record::Record;
use crate::platform::{LogBuffer, ObjectKey};
use crate::types::Time;

/// A part of a record of data: offset in the file, then its length, then its bytes.
const PART_HEADER_BYTES: usize = 12;
const PART_BYTES_AT: usize = 8;

/// What a group is told about itself when it is complete; see
/// [`GroupHeader`](super::GroupHeader).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The log's.
    pub uuid: [u8; 16],
    /// The superblock's.
    pub epoch: u64,
    /// One more than that of the group before it.
    pub number: u64,
    /// One after the `last_lsn` of the group before it.
    pub first_lsn: Lsn,
    /// At least that of every record.
    pub last_lsn: Lsn,
    /// What [`GroupBuilder::seal`] returned for the group before it; 0 in the first of an epoch.
    pub previous_crc: u32,
    /// This boot.
    pub boot_id: [u8; 16],
    /// Now, for people.
    pub wall_time_ns: u64,
}

/// Builds one group: records first, then [`seal`](Self::seal).
///
/// Calls out of order are errors of the program that could cost data, and panic.
#[derive(Debug)]
pub struct GroupBuilder {
    buffer: LogBuffer,
    /// Where small records are encoded; kept for its memory.
    scratch: Vec<u8>,
    records: u32,
    /// Lowest and highest LSN among the records.
    lsns: (Lsn, Lsn),
    data: Option<OpenData>,
    sealed: bool,
}

/// A record of data that has been begun.
#[derive(Debug, Clone, Copy)]
struct OpenData {
    lsn: Lsn,
    /// Where the record begins.
    start: usize,
    /// Where the first part begins; the number of parts stands right before it.
    parts_at: usize,
    parts: u32,
    /// Where the last part begins, as long as it may be cut, and `end` without it.
    part: Option<(usize, u64)>,
    /// Where the last part ends in the file: the next must not begin before it.
    end: u64,
}

impl GroupBuilder {
    /// Takes a buffer and makes room for the header in it; what it held is forgotten.
    #[must_use]
    pub fn new(mut buffer: LogBuffer) -> Self {
        buffer.clear();
        buffer.grow(GROUP_HEADER_BYTES);
        Self {
            buffer,
            scratch: Vec::new(),
            records: 0,
            lsns: (Lsn::MAX, 0),
            data: None,
            sealed: false,
        }
    }

    /// Adds a record that has no [parts](crate::log::record::Part).
    ///
    /// # Panics
    /// If it has, or a record of data is open, or the group is sealed.
    pub fn record(&mut self, record: &Record) {
        let mut encoded = std::mem::take(&mut self.scratch);
        encoded.clear();
        encode_record(record, &mut encoded);
        self.raw(&encoded, 1, record.lsn);
        self.scratch = encoded;
    }

    /// Adds `records` records that [`encode_record`] encoded earlier; `last_lsn`
    /// is the highest among them.
    ///
    /// # Panics
    /// If there are more or fewer in `encoded`, or one has a higher LSN, or a record
    /// of data is open, or the group is sealed.
    pub fn raw(&mut self, encoded: &[u8], records: u32, last_lsn: Lsn) {
        self.expect_no_data();
        let before = self.records;
        records::visit_lsns(encoded, |lsn| {
            assert!(lsn <= last_lsn, "the last record is said to be {last_lsn}, one is {lsn}");
            self.note(lsn);
        })
        .expect("`encode_record` makes whole records");
        let found = self.records - before;
        assert!(found == records, "{found} records, {records} were promised");
        self.buffer.extend(encoded);
    }

    /// Begins a record of a file's content.
    ///
    /// # Panics
    /// If one is open, or the group is sealed.
    pub fn begin_data(&mut self, lsn: Lsn, object: &ObjectKey, size: u64, mtime: Time) {
        self.expect_no_data();
        let start = self.buffer.len();
        self.scratch.clear();
        begin_record(&mut self.scratch, lsn, records::DATA);
        put_data_head(&mut self.scratch, object, size, mtime);
        self.buffer.extend(&self.scratch);
        let parts_at = self.buffer.len();
        self.data = Some(OpenData { lsn, start, parts_at, parts: 0, part: None, end: 0 });
    }

    /// Adds room for `bytes` bytes of the file from `offset` on, and returns it to
    /// be filled. No bytes are no part.
    ///
    /// # Panics
    /// If no record of data is open, the part begins before the end of the one before
    /// it, or ends behind `i64::MAX`: no reader would accept that.
    pub fn data_part(&mut self, offset: u64, bytes: u32) -> &mut [u8] {
        let at = self.buffer.len();
        let data = self.data.as_mut().expect("`begin_data` comes before `data_part`");
        data.part = None;
        if bytes == 0 {
            return &mut [];
        }
        assert!(offset >= data.end, "parts are in order and do not overlap");
        let end = offset.checked_add(bytes.into()).filter(|&end| end <= records::FILE_BYTES_MAX);
        data.part = Some((at, data.end));
        data.end = end.expect("no file reaches further than i64::MAX");
        data.parts += 1;
        self.buffer.extend(&offset.to_le_bytes());
        self.buffer.extend(&bytes.to_le_bytes());
        self.buffer.grow(bytes as usize)
    }

    /// Cuts the last part to its first `bytes` bytes: the file had no more. A part
    /// that is cut to nothing is taken back.
    pub fn shorten_part(&mut self, bytes: u32) {
        let Some(data) = &mut self.data else { return };
        let Some((at, end_before)) = data.part else { return };
        let old = self.buffer.len() - at - PART_HEADER_BYTES;
        let new = old.min(bytes as usize);
        if new == 0 {
            data.parts -= 1;
            data.part = None;
            data.end = end_before;
            return self.buffer.truncate(at);
        }
        data.end -= (old - new) as u64;
        let length_at = at + PART_BYTES_AT;
        // Fits: at most `bytes`.
        let length = (new as u32).to_le_bytes();
        self.buffer.bytes_mut()[length_at..length_at + 4].copy_from_slice(&length);
        self.buffer.truncate(at + PART_HEADER_BYTES + new);
    }

    /// Length of the record of data that is open, its header included; 0 if none is.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.data.map_or(0, |data| self.buffer.len() - data.start)
    }

    /// Number of parts of the record of data that is open.
    #[must_use]
    pub fn data_parts(&self) -> u32 {
        self.data.map_or(0, |data| data.parts)
    }

    /// Completes the record of data.
    ///
    /// # Panics
    /// If none is open.
    pub fn end_data(&mut self) {
        let data = self.data.take().expect("`begin_data` comes before `end_data`");
        let body_bytes = self.buffer.len() - data.start - records::RECORD_HEADER_BYTES;
        let bytes = self.buffer.bytes_mut();
        set_body_bytes(&mut bytes[data.start..], body_bytes);
        bytes[data.parts_at - 4..data.parts_at].copy_from_slice(&data.parts.to_le_bytes());
        self.note(data.lsn);
    }

    /// Takes the record of data back that is open, if one is.
    pub fn cancel_data(&mut self) {
        if let Some(data) = self.data.take() {
            self.buffer.truncate(data.start);
        }
    }

    /// Bytes so far, header included; [`group_bytes`](super::group_bytes) says what
    /// they take of the log.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no complete record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Number of complete records.
    #[must_use]
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Writes the header and adds the padding. Returns the group's checksum, which
    /// the next group holds as `previous_crc`.
    ///
    /// # Panics
    /// If there is no record, a record of data is open, a record's LSN is not within
    /// `first_lsn..=last_lsn`, the group is longer than [`GROUP_BYTES_MAX`], or sealed
    /// already. To write such a group would be worse: no reader would accept it.
    pub fn seal(&mut self, seal: &Seal) -> u32 {
        self.expect_no_data();
        assert!(self.records > 0, "a group has a record");
        assert!(
            seal.first_lsn <= self.lsns.0 && self.lsns.1 <= seal.last_lsn,
            "all records {:?} lie within {seal:?}",
            self.lsns
        );
        assert!(self.buffer.len() <= GROUP_BYTES_MAX, "a group of {} bytes", self.buffer.len());
        self.write_header(seal);
        let crc = checksum(self.buffer.bytes());
        self.buffer.bytes_mut()[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        self.buffer.pad_to_block();
        self.sealed = true;
        debug_assert_eq!(parse_group(self.buffer.bytes()).map(|(header, _)| header.crc), Ok(crc));
        crc
    }

    fn write_header(&mut self, seal: &Seal) {
        // Fits: at most GROUP_BYTES_MAX.
        let payload_bytes = (self.buffer.len() - GROUP_HEADER_BYTES) as u32;
        let fields: [&[u8]; 15] = [
            &GROUP_MAGIC,
            &FORMAT_VERSION.to_le_bytes(),
            &[0; 4],
            &(GROUP_HEADER_BYTES as u32).to_le_bytes(),
            &self.records.to_le_bytes(),
            &seal.uuid,
            &seal.epoch.to_le_bytes(),
            &seal.number.to_le_bytes(),
            &seal.first_lsn.to_le_bytes(),
            &seal.last_lsn.to_le_bytes(),
            &payload_bytes.to_le_bytes(),
            &seal.previous_crc.to_le_bytes(),
            &seal.boot_id,
            &seal.wall_time_ns.to_le_bytes(),
            &[0; 24],
        ];
        let header = fields.concat();
        self.buffer.bytes_mut()[..GROUP_HEADER_BYTES].copy_from_slice(&header);
    }

    /// What is to be written, once sealed.
    #[must_use]
    pub const fn buffer(&self) -> &LogBuffer {
        &self.buffer
    }

    /// Gives the buffer back, for the next group.
    #[must_use]
    pub fn into_buffer(self) -> LogBuffer {
        self.buffer
    }

    /// Counts a complete record.
    fn note(&mut self, lsn: Lsn) {
        self.records += 1;
        self.lsns = (self.lsns.0.min(lsn), self.lsns.1.max(lsn));
    }

    fn expect_no_data(&self) {
        assert!(self.data.is_none(), "the record of data is ended or cancelled first");
        assert!(!self.sealed, "nothing comes after the seal");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::log::record::{Change, Part};

    const MTIME: Time = Time { secs: 5, nanos: 6 };

    fn object() -> ObjectKey {
        ObjectKey { dev: 9, ino: 3, handle: ([0; 40], 8, 1) }
    }

    fn seal() -> Seal {
        Seal {
            uuid: [1; 16],
            epoch: 1,
            number: 1,
            first_lsn: 10,
            last_lsn: 19,
            previous_crc: 0,
            boot_id: [2; 16],
            wall_time_ns: 3,
        }
    }

    fn expire(lsn: Lsn) -> Record {
        Record { lsn, change: Change::Expire { object: object().portable() } }
    }

    #[test]
    fn contents_are_read_into_their_place_and_cut_to_what_there_was() {
        let mut group = GroupBuilder::new(LogBuffer::new());
        group.begin_data(12, &object(), 9000, MTIME);
        group.data_part(0, 4096).fill(1);
        group.data_part(4096, 0);
        group.data_part(5000, 4000).fill(2);
        group.shorten_part(100);
        // A part that is gone takes nothing with it, and its place may be used again.
        group.data_part(6000, 50).fill(3);
        group.shorten_part(0);
        group.shorten_part(0);
        group.data_part(5100, 7).fill(4);
        group.shorten_part(8);
        assert_eq!(group.data_parts(), 3);
        assert_eq!(group.data_len(), group.len() - GROUP_HEADER_BYTES);
        group.end_data();
        group.seal(&seal());
        let (_, records) = parse_group(group.buffer().bytes()).expect("it was just sealed");
        let [Record { lsn: 12, change: Change::Data { object: key, size: 9000, mtime, parts } }] =
            records.as_slice()
        else {
            panic!("{records:?}");
        };
        assert_eq!((*key, *mtime), (object().portable(), MTIME));
        let expected: [(u64, &[u8]); 3] = [(0, &[1; 4096]), (5000, &[2; 100]), (5100, &[4; 7])];
        for (Part { offset, bytes, at }, (place, content)) in parts.iter().zip(expected) {
            let found = &group.buffer().bytes()[*at as usize..][..*bytes as usize];
            assert_eq!((*offset, found), (place, content));
        }
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn a_cancelled_record_leaves_nothing() {
        let mut group = GroupBuilder::new(LogBuffer::new());
        group.record(&expire(10));
        let before = group.buffer().bytes().to_vec();
        group.begin_data(11, &object(), 9000, MTIME);
        group.data_part(0, 4096).fill(1);
        group.cancel_data();
        group.cancel_data();
        assert_eq!(group.buffer().bytes(), before);
        assert_eq!((group.records(), group.data_len(), group.data_parts()), (1, 0, 0));
        group.record(&expire(11));
        group.seal(&seal());
        let records = parse_group(group.buffer().bytes()).expect("it was just sealed").1;
        assert_eq!(records, [expire(10), expire(11)]);
    }

    #[test]
    fn a_buffer_can_be_used_again() {
        let mut group = GroupBuilder::new(LogBuffer::new());
        group.record(&expire(10));
        let first = group.seal(&seal());
        let mut again = GroupBuilder::new(group.into_buffer());
        assert!(again.is_empty());
        again.record(&expire(10));
        assert_eq!(again.seal(&seal()), first);
    }

    #[test]
    fn what_no_reader_would_accept_cannot_be_built() {
        type Misuse = fn(&mut GroupBuilder);
        let misuses: [(&str, Misuse); 12] = [
            ("no record", |group| {
                group.seal(&seal());
            }),
            ("an open record of data", |group| {
                group.begin_data(10, &object(), 0, MTIME);
                group.seal(&seal());
            }),
            ("two at once", |group| {
                group.begin_data(10, &object(), 0, MTIME);
                group.begin_data(10, &object(), 0, MTIME);
            }),
            ("a record within one of data", |group| {
                group.begin_data(10, &object(), 0, MTIME);
                group.record(&expire(10));
            }),
            ("a part of nothing", |group| {
                group.data_part(0, 1);
            }),
            ("parts out of order", |group| {
                group.begin_data(10, &object(), 0, MTIME);
                group.data_part(10, 10);
                group.data_part(19, 1);
            }),
            ("a part behind the end of all files", |group| {
                group.begin_data(10, &object(), 0, MTIME);
                group.data_part(i64::MAX as u64, 1);
            }),
            ("LSN too low", |group| {
                group.record(&expire(9));
                group.seal(&seal());
            }),
            ("LSN too high", |group| {
                group.record(&expire(20));
                group.seal(&seal());
            }),
            ("a wrong count", |group| {
                let mut encoded = Vec::new();
                encode_record(&expire(10), &mut encoded);
                group.raw(&encoded, 2, 10);
            }),
            ("half a record", |group| {
                let mut encoded = Vec::new();
                encode_record(&expire(10), &mut encoded);
                group.raw(&encoded[1..], 1, 10);
            }),
            ("sealed twice", |group| {
                group.record(&expire(10));
                group.seal(&seal());
                group.seal(&seal());
            }),
        ];
        for (name, misuse) in misuses {
            let mut group = GroupBuilder::new(LogBuffer::new());
            let result = catch_unwind(AssertUnwindSafe(|| misuse(&mut group)));
            assert!(result.is_err(), "{name}");
        }
    }
}
