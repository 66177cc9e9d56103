//! What holds for any bytes whatever. The fuzz targets use this file too: proptest
//! feeds it random bytes, a fuzzer bytes that find their way.

use fs_core::log::format::{
    GROUP_HEADER_BYTES, Group, GroupBuilder, LogContents, LogError, Seal, Superblock, parse_group,
    read_superblock, scan,
};
use fs_core::log::record::{Change, Part, Record};
use fs_core::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore, ObjectKey};
use fs_core::types::Time;

use crate::model::{Entry, Model};
use crate::store::MemoryStore;

const BLOCK: usize = LOG_BLOCK_BYTES;
/// Where superblocks and groups have their checksum.
const CRC: std::ops::Range<usize> = 12..16;

/// A superblock is refused, or means the same when it is written again; with the
/// right checksum too, so that the checks behind the checksum are reached.
pub fn check_superblock(data: &[u8]) {
    let _ = Superblock::decode(data);
    let mut block = [0; BLOCK];
    block[..data.len().min(BLOCK)].copy_from_slice(&data[..data.len().min(BLOCK)]);
    set_checksum(&mut block);
    let Ok(superblock) = Superblock::decode(&block) else { return };
    let again = superblock.encode();
    assert_eq!(Superblock::decode(again.bytes()), Ok(superblock.clone()));
    let store = MemoryStore::new(vec![0; 16 * BLOCK]);
    store.write(&again, superblock.slot_offset()).expect("a slot lies in 16 blocks");
    assert_eq!(read_superblock(&store), Ok(superblock.clone()));
    if superblock.log_bytes > store.bytes() {
        assert!(matches!(scan(&store, &superblock), Err(LogError::Cut { .. })));
    }
}

/// A group is refused, or its records give the same bytes when they are written
/// again; with the right checksum too.
pub fn check_group(data: &[u8]) {
    let _ = parse_group(data);
    let mut bytes = data.to_vec();
    if bytes.len() < GROUP_HEADER_BYTES {
        return;
    }
    // The payload is what there is, or nearly nothing would get past its length.
    bytes[..8].copy_from_slice(b"LANEFSGR");
    let payload_bytes = (bytes.len() - GROUP_HEADER_BYTES) as u32;
    bytes[72..76].copy_from_slice(&payload_bytes.to_le_bytes());
    set_checksum(&mut bytes);
    let Ok((header, records)) = parse_group(&bytes) else { return };
    let mut builder = GroupBuilder::new(LogBuffer::new());
    for record in records {
        entry(&bytes, record).add_to(&mut builder);
    }
    let payload = GROUP_HEADER_BYTES..builder.len();
    builder.seal(&Seal {
        uuid: header.uuid,
        epoch: header.epoch,
        number: header.number,
        first_lsn: header.first_lsn,
        last_lsn: header.last_lsn,
        previous_crc: header.previous_crc,
        boot_id: header.boot_id,
        wall_time_ns: header.wall_time_ns,
    });
    assert_eq!(&builder.buffer().bytes()[payload], &bytes[GROUP_HEADER_BYTES..]);
}

/// A record with the bytes that it has in its group.
fn entry(group: &[u8], record: Record) -> Entry {
    let content = |part: &Part| group[part.at as usize..][..part.bytes as usize].to_vec();
    let contents = match &record.change {
        Change::Data { parts, .. } => parts.iter().map(content).collect(),
        _ => Vec::new(),
    };
    Entry { record, contents }
}

/// Writes groups, checkpoints and epochs as `data` says, spoils what was written,
/// and compares what the scan says with what must be found.
pub fn check_scan(data: &[u8]) {
    let mut input = Input(data);
    let mut model = Model::new(2 + u32::from(input.u8() % 6), 1 + u64::from(input.u8() % 8));
    let actions = input.u8() % 64;
    for _ in 0..actions {
        match input.u8() {
            0..=191 => {
                let entries = entries(&mut input, model.next_lsn());
                while !model.write(&entries) && !model.live.is_empty() {
                    model.checkpoint(1 + model.live.len() / 2);
                }
            }
            192..=239 => model.checkpoint(input.u8().into()),
            240..=251 => model.write_superblock(),
            _ => model.new_epoch(),
        }
    }
    assert_eq!(found(&model, &scan(&model.store, &model.superblock)), Ok(model.live.len()));
    assert_eq!(read_superblock(&model.store).as_ref(), Ok(&model.superblock));

    let forged = input.u8() % 4 == 0;
    spoil(&model, &mut input, forged);
    let result = scan(&model.store, &model.superblock);
    if forged {
        // Anything but a panic, and what is found hangs together.
        result.iter().for_each(check_contents);
    } else {
        check_spoilt(&model, &result);
    }
}

/// Entries whose sizes `input` says: sometimes several blocks, mostly less.
fn entries(input: &mut Input<'_>, first_lsn: u64) -> Vec<Entry> {
    let count = 1 + u64::from(input.u8() % 4);
    let object = ObjectKey { dev: 0, ino: 9, handle: ([1; 40], 40, 2) };
    let entry = |index| {
        let (lsn, bytes) = (first_lsn + index, usize::from(input.u8()) * 50);
        let content = vec![bytes as u8; bytes + 1];
        if bytes % 4 != 0 {
            let change = Change::SetXattr { object, name: b"user.x".into(), value: content };
            return Entry { record: Record { lsn, change }, contents: Vec::new() };
        }
        let parts = vec![Part { offset: index, bytes: content.len() as u32, at: 0 }];
        let mtime = Time { secs: -1, nanos: 999_999_999 };
        let change = Change::Data { object, size: 1 << 40, mtime, parts };
        Entry { record: Record { lsn, change }, contents: vec![content] }
    };
    (0..count).map(entry).collect()
}

/// Overwrites bytes and blocks of the segments; `forged` copies blocks as well, and puts
/// checksums right again.
fn spoil(model: &Model, input: &mut Input<'_>, forged: bool) {
    let mut content = model.store.content();
    let area = model.superblock.area();
    let area = &mut content[area.start as usize..area.end as usize];
    while let Some(kind) = input.next() {
        let place = usize::from(input.u16()) % (area.len() / BLOCK) * BLOCK;
        let within = match kind % 8 {
            // The numbers of a header more often than the rest.
            0 | 1 => usize::from(input.u8()) % GROUP_HEADER_BYTES,
            _ => usize::from(input.u16()) % BLOCK,
        };
        match kind % 8 {
            0..=3 => area[place + within] = input.u8(),
            4 => area[place..place + BLOCK].fill(0),
            5 => area[place + within..place + BLOCK].fill(input.u8()),
            _ if !forged => area[place..place + within].fill(input.u8()),
            _ => {
                let from = usize::from(input.u16()) % (area.len() / BLOCK) * BLOCK;
                area.copy_within(from..from + BLOCK, place);
            }
        }
        if forged {
            let payload_bytes = u32::from_le_bytes([0, 1, 2, 3].map(|i| area[place + 72 + i]));
            let end = (place + GROUP_HEADER_BYTES).saturating_add(payload_bytes as usize);
            if let Some(group) = area.get_mut(place..end) {
                set_checksum(group);
            }
        }
    }
}

/// Number of groups found, if they are the oldest that are needed.
fn found(model: &Model, result: &Result<LogContents, LogError>) -> Result<usize, LogError> {
    let contents = result.as_ref().map_err(Clone::clone)?;
    check_contents(contents);
    for (live, found) in model.live.iter().zip(&contents.groups) {
        // The padding may be spoilt.
        let content = ..live.header.content_bytes();
        assert_eq!((&live.header, live.offset), (&found.header, found.offset));
        assert_eq!((&live.records, &live.bytes[content]), (&found.records, &found.bytes[content]));
    }
    Ok(contents.groups.len())
}

/// Bytes of the segments were changed, no checksum was forged: the scan finds all
/// groups before the first that is not intact, and an intact one behind it is an error.
pub fn check_spoilt(model: &Model, result: &Result<LogContents, LogError>) {
    let intact: Vec<bool> = {
        let content = model.store.content();
        let is_intact = |group: &Group| {
            let length = group.header.content_bytes();
            content[group.offset as usize..][..length] == group.bytes[..length]
        };
        model.live.iter().map(is_intact).collect()
    };
    let good = intact.iter().take_while(|intact| **intact).count();
    if !intact.iter().skip(good).any(|intact| *intact) {
        assert_eq!(found(model, result), Ok(good));
        return;
    }
    let Err(LogError::Damaged { offset, expected_group, found_group, found_offset }) = result
    else {
        panic!("group {good} of {intact:?} is damaged: {result:?}");
    };
    assert_eq!(*expected_group, model.live[good].header.number);
    let places = [*offset, model.superblock.next_segment(*offset)];
    assert!(places.contains(&model.live[good].offset));
    let found =
        |group: &Group| (group.header.number, group.offset) == (*found_group, *found_offset);
    let found = model.live.iter().position(found).expect("only what was written is intact");
    assert!(found > good && intact[found]);
}

/// What every successful scan promises.
fn check_contents(contents: &LogContents) {
    let superblock = &contents.superblock;
    let mut lies = Vec::new();
    for (index, group) in contents.groups.iter().enumerate() {
        let end = group.offset + group.bytes.len() as u64;
        assert!(superblock.area().contains(&group.offset));
        assert!(end <= superblock.segment_end(group.offset));
        assert_eq!(group.header.number, superblock.tail_group + index as u64);
        assert_eq!(group.header.epoch, superblock.epoch);
        assert_eq!(parse_group(&group.bytes), Ok((group.header.clone(), group.records.clone())));
        lies.push(group.offset..end);
    }
    lies.sort_by_key(|place| place.start);
    assert!(lies.windows(2).all(|pair| pair[0].end <= pair[1].start), "groups overlap");
    assert_eq!(contents.next_group, superblock.tail_group + contents.groups.len() as u64);
    assert!(superblock.area().contains(&contents.end_offset));
    if let Some(last) = contents.groups.last() {
        assert_eq!((contents.last_lsn, contents.last_crc), (last.header.last_lsn, last.header.crc));
    }
}

/// Puts the checksum of a superblock or group right, if it has room for one.
pub fn set_checksum(bytes: &mut [u8]) {
    if let Some(place) = bytes.get_mut(CRC) {
        place.fill(0);
        let crc = crc32c::crc32c(bytes);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Decisions out of bytes; 0 when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u8(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
}
