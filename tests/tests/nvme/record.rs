//! What a disk was asked to do, in order, as QEMU's `blklogwrites` writes it down (the format of the
//! kernel's dm-log-writes); and the groups that should be on it.

use std::collections::HashMap;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
const BLOCK_BYTES: usize = 4096;

/// A group that the guest acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    number: u64,
    offset: usize,
    bytes: usize,
}

/// The groups of `ACK number offset bytes` lines, without those whose place a later one took.
pub fn acknowledged(output: &str) -> Vec<Group> {
    let all: Vec<Group> = output.lines().filter_map(parse).collect();
    // A line may be cut off in the middle, but only the last one.
    assert!(all.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "{output}");
    all
}

fn parse(line: &str) -> Option<Group> {
    let mut words = line.trim().strip_prefix("ACK ")?.split(' ').map(str::parse::<u64>);
    let mut next = || words.next()?.ok();
    let (number, offset, bytes) = (next()?, next()? as usize, next()? as usize);
    (bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES)).then_some(Group { number, offset, bytes })
}

/// The groups that are not on an image. A group's place may hold a later one: whole if it was
/// acknowledged, in any state if not.
pub fn missing(groups: &[Group], image: &[u8]) -> Vec<Group> {
    let mut last_at = HashMap::new();
    for group in groups {
        last_at.insert(group.offset, group);
    }
    let mut missing: Vec<Group> =
        last_at.into_values().filter(|g| !is_there(g, image)).cloned().collect();
    missing.sort_unstable_by_key(|group| group.number);
    missing
}

fn is_there(group: &Group, image: &[u8]) -> bool {
    let place = &image[group.offset..group.offset + group.bytes];
    place.chunks(BLOCK_BYTES).enumerate().all(|(index, block)| {
        let (found, rest) = header(block);
        let count = (group.bytes / BLOCK_BYTES) as u64;
        let fill = group.number.wrapping_mul(31).wrapping_add(index as u64) as u8;
        let is_ours = found == Some([group.number, index as u64, count])
            && rest.iter().all(|&byte| byte == fill);
        // The next to use this place was under way when the plug was pulled; its blocks come in any
        // order.
        is_ours || found.is_some_and(|[number, ..]| number > group.number)
    })
}

/// Number of the group, of the block in it, and of its blocks; and the fill.
fn header(block: &[u8]) -> (Option<[u64; 3]>, &[u8]) {
    let words = [8, 16, 24].map(|at| word(block, at));
    (block.starts_with(b"GROUP   ").then_some(words), &block[32..])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The record of a disk.
pub struct Record {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    at: usize,
    flags: u64,
    data: std::ops::Range<usize>,
}

/// Reads a record, up to the last flush: that is when QEMU counts its entries.
pub fn read(path: &Path) -> Record {
    let bytes = std::fs::read(path).expect("the record");
    let mut entries = Vec::new();
    // Without any flush there is not even a head.
    if bytes.len() < 32 || word(&bytes, 0) == 0 {
        return Record { bytes, entries };
    }
    assert_eq!(word(&bytes, 0), MAGIC, "{} is no record", path.display());
    let count = word(&bytes, 16);
    let sector = u32::from_le_bytes(bytes[24..28].try_into().expect("four bytes")) as usize;
    let mut at = sector;
    for _ in 0..count {
        let (sectors, flags) = (word(&bytes, at + 8) as usize, word(&bytes, at + 16));
        let begin = at + sector;
        let end = if flags & DISCARD == 0 { begin + sectors * sector } else { begin };
        entries.push(Entry { at: word(&bytes, at) as usize * sector, flags, data: begin..end });
        at = end;
    }
    Record { bytes, entries }
}

impl Record {
    /// What a disk of this size that began with zeros has after a power cut at the end of the record,
    /// if its cache kept nothing that was not flushed.
    pub fn image_after_a_cut(&self, length: usize) -> Vec<u8> {
        let mut image = vec![0; length];
        for entry in &self.entries[..self.flushed()] {
            let data = &self.bytes[entry.data.clone()];
            image[entry.at..entry.at + data.len()].copy_from_slice(data);
        }
        image
    }

    // How many entries come before the last flush. A flush entry carries data of its own only if it
    // is a write that wants the cache flushed first, which nobody sends here.
    fn flushed(&self) -> usize {
        self.entries.iter().rposition(|entry| entry.flags & FLUSH != 0).unwrap_or(0)
    }

    /// For people.
    pub fn describe(&self) -> String {
        let flushes = self.entries.iter().filter(|entry| entry.flags & FLUSH != 0).count();
        format!("{} writes and flushes recorded, {flushes} of them flushes", self.entries.len())
    }
}
