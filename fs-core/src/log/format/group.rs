//! A group as a reader sees it: header, checksum, records.

use super::cursor::{Cursor, Problem};
use super::{FORMAT_VERSION, FormatError, Superblock, records};
use crate::engine::Lsn;
use crate::log::record::Record;
use crate::platform::LOG_BLOCK_BYTES;

pub(super) const GROUP_MAGIC: [u8; 8] = *b"LANEFSGR";

/// Length of a group's header; its records begin right behind it.
pub const GROUP_HEADER_BYTES: usize = 128;

/// Longest group, header and padding included. A segment may set a lower limit:
/// a group does not cross its end.
pub const GROUP_BYTES_MAX: usize = 1 << 30;

/// Where a group's checksum stands in its header.
pub(super) const CRC_AT: usize = 12;

/// What a group takes of the log if header and records have `bytes` bytes: whole
/// blocks.
#[must_use]
pub const fn group_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(LOG_BLOCK_BYTES)
}

/// What a group says about itself and the group before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHeader {
    /// The log that it belongs to.
    pub uuid: [u8; 16],
    /// The superblock's epoch when it was written.
    pub epoch: u64,
    /// Its number: one more than that of the group before it.
    pub number: u64,
    /// Where its part of the stream begins: one after that of the group before it ends.
    pub first_lsn: Lsn,
    /// Where its part of the stream ends.
    pub last_lsn: Lsn,
    /// Length of all records.
    pub payload_bytes: u32,
    /// Number of records, never 0.
    pub records: u32,
    /// Checksum of the group before it; 0 in the first of an epoch.
    pub previous_crc: u32,
    /// The boot in which it was written.
    pub boot_id: [u8; 16],
    /// When it was sealed, in nanoseconds since 1970: for people, nothing relies on it.
    pub wall_time_ns: u64,
    /// CRC-32C of header and records, this number taken as 0.
    pub crc: u32,
}

impl GroupHeader {
    /// Reads a header from the beginning of `bytes`. It may be anything that looks
    /// like one: only with the whole group can its checksum be compared.
    ///
    /// # Errors
    /// There is none, or it is none of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let short =
            FormatError::Short { have: bytes.len() as u64, need: GROUP_HEADER_BYTES as u64 };
        if !bytes.starts_with(&GROUP_MAGIC) {
            return Err(if bytes.len() < GROUP_MAGIC.len() { short } else { FormatError::Magic });
        }
        let (version, header_bytes, header) = Self::fields(bytes).map_err(|_| short)?;
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version });
        }
        if header_bytes as usize != GROUP_HEADER_BYTES {
            return Err(FormatError::Field { field: "header length", value: header_bytes.into() });
        }
        header.check()?;
        Ok(header)
    }

    fn fields(bytes: &[u8]) -> Result<(u32, u32, Self), Problem> {
        let bytes = bytes.get(..GROUP_HEADER_BYTES).ok_or("it ends too early")?;
        let mut cursor = Cursor::new(bytes, GROUP_MAGIC.len());
        let version = cursor.u32()?;
        let crc = cursor.u32()?;
        let header_bytes = cursor.u32()?;
        let records = cursor.u32()?;
        let header = Self {
            uuid: cursor.array()?,
            epoch: cursor.u64()?,
            number: cursor.u64()?,
            first_lsn: cursor.u64()?,
            last_lsn: cursor.u64()?,
            payload_bytes: cursor.u32()?,
            records,
            previous_crc: cursor.u32()?,
            boot_id: cursor.array()?,
            wall_time_ns: cursor.u64()?,
            crc,
        };
        Ok((version, header_bytes, header))
    }

    fn check(&self) -> Result<(), FormatError> {
        let refuse = |field, value| Err(FormatError::Field { field, value });
        if self.payload_bytes as usize > GROUP_BYTES_MAX - GROUP_HEADER_BYTES {
            return refuse("payload length", self.payload_bytes.into());
        }
        let room = self.payload_bytes as usize / records::RECORD_HEADER_BYTES;
        if self.records == 0 || self.records as usize > room {
            return refuse("record count", self.records.into());
        }
        if self.last_lsn < self.first_lsn {
            return refuse("last LSN", self.last_lsn);
        }
        Ok(())
    }

    /// Length of header and records.
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        GROUP_HEADER_BYTES + self.payload_bytes as usize
    }

    /// What the group takes of the log: whole blocks.
    #[must_use]
    pub const fn group_bytes(&self) -> usize {
        group_bytes(self.content_bytes())
    }

    /// Whether it is of this log.
    pub(super) fn belongs_to(&self, superblock: &Superblock) -> bool {
        self.uuid == superblock.uuid
    }
}

/// CRC-32C of header and records; the place of the checksum itself counts as 0.
pub(super) fn checksum(content: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&content[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &content[CRC_AT + 4..])
}

/// Reads the header and compares the checksum: an `Ok` is what was once written.
pub(super) fn check_frame(bytes: &[u8]) -> Result<GroupHeader, FormatError> {
    let header = GroupHeader::decode(bytes)?;
    let need = header.content_bytes();
    let content = bytes
        .get(..need)
        .ok_or(FormatError::Short { have: bytes.len() as u64, need: need as u64 })?;
    let computed = checksum(content);
    if computed != header.crc {
        return Err(FormatError::Checksum { stored: header.crc, computed });
    }
    Ok(header)
}

/// Reads a whole group; `bytes` begin with its header and end with its padding,
/// or earlier in it. What the padding holds does not matter.
///
/// # Errors
/// It is not one intact group, or a record in it cannot be.
pub fn parse_group(bytes: &[u8]) -> Result<(GroupHeader, Vec<Record>), FormatError> {
    let header = check_frame(bytes)?;
    if bytes.len() > header.group_bytes() {
        return Err(FormatError::Field { field: "length", value: bytes.len() as u64 });
    }
    let records = records::decode_all(bytes, &header)?;
    Ok((header, records))
}
