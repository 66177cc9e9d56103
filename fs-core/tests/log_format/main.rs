//! What the log's format promises, for any records and any damage:
//!
//! - every sequence of records reads back as it was written;
//! - a group with any byte changed is refused, or means the same (its padding);
//! - no bytes whatever make a reader panic, and what it accepts has one form only;
//! - a scan finds exactly the groups that were written, or, if a group is missing in
//!   front of an intact one, refuses; a torn last group is the ordinary end.

mod checks;
mod forged;
mod golden;
mod model;
mod refusals;
mod store;
mod strategies;
mod superblocks;

use fs_core::error::Errno;
use fs_core::log::format::{GroupBuilder, LogError, Seal, encode_record, parse_group, scan};
use fs_core::log::record::Change;
use fs_core::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::Index;

use crate::checks::{check_group, check_scan, check_spoilt, check_superblock};
use crate::model::{Entry, Model};
use crate::strategies::entry;

const BLOCK: usize = LOG_BLOCK_BYTES;

/// A sealed group of these entries.
fn sealed(entries: &[Entry]) -> Vec<u8> {
    let mut builder = GroupBuilder::new(LogBuffer::new());
    entries.iter().for_each(|entry| entry.add_to(&mut builder));
    builder.seal(&Seal {
        uuid: *b"0123456789abcdef",
        epoch: 2,
        number: 3,
        first_lsn: 0,
        last_lsn: 100,
        previous_crc: 5,
        boot_id: [6; 16],
        wall_time_ns: 7,
    });
    builder.into_buffer().bytes().to_vec()
}

/// Numbers entries from `first` on.
fn numbered(mut entries: Vec<Entry>, first: u64) -> Vec<Entry> {
    entries.iter_mut().zip(first..).for_each(|(entry, number)| entry.record.lsn = number);
    entries
}

/// One entry that makes a group of `blocks` blocks.
fn filling(lsn: u64, blocks: usize) -> Vec<Entry> {
    let value = vec![lsn as u8; (blocks - 1) * BLOCK + 100];
    let object = fs_core::platform::ObjectKey { dev: 0, ino: lsn, handle: ([0; 40], 0, 1) };
    let change = Change::SetXattr { object, name: b"user.filling".into(), value };
    numbered(vec![Entry::from(change)], lsn)
}

/// Groups of 1 to 3 blocks, written until the log has been round twice and more.
fn wrapped_model() -> Model {
    let mut model = Model::new(4, 5);
    for round in 0..40 {
        let entries = filling(model.next_lsn(), 1 + round % 3);
        while !model.write(&entries) {
            model.checkpoint(2);
        }
    }
    assert!(model.live.len() > 3);
    model
}

proptest! {
    #[test]
    fn records_read_back_as_they_were_written(entries in vec(entry(), 1..20)) {
        let entries = numbered(entries, 1);
        let bytes = sealed(&entries);
        let (header, records) = parse_group(&bytes).expect("it was just sealed");
        prop_assert_eq!(header.records as usize, entries.len());
        prop_assert_eq!(records.len(), entries.len());
        for (entry, mut record) in entries.into_iter().zip(records) {
            if let Change::Data { parts, .. } = &mut record.change {
                for (part, content) in parts.iter_mut().zip(&entry.contents) {
                    let place = std::mem::take(&mut part.at) as usize;
                    prop_assert_eq!(&bytes[place..place + content.len()], content);
                }
            }
            prop_assert_eq!(record, entry.record);
        }
    }

    #[test]
    fn records_encoded_early_are_the_same(entries in vec(entry(), 1..20)) {
        let is_plain = |entry: &Entry| !matches!(entry.record.change, Change::Data { .. });
        let entries: Vec<_> = numbered(entries, 1).into_iter().filter(is_plain).collect();
        let mut encoded = Vec::new();
        entries.iter().for_each(|entry| encode_record(&entry.record, &mut encoded));
        let mut builder = GroupBuilder::new(LogBuffer::new());
        builder.raw(&encoded, entries.len() as u32, 20);
        let mut one_by_one = GroupBuilder::new(LogBuffer::new());
        entries.iter().for_each(|entry| entry.add_to(&mut one_by_one));
        prop_assert_eq!(builder.buffer().bytes(), one_by_one.buffer().bytes());
        prop_assert_eq!(builder.records() as usize, entries.len());
    }

    #[test]
    fn a_changed_group_is_refused_or_means_the_same(
        entries in vec(entry(), 1..20),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let bytes = sealed(&numbered(entries, 1));
        let mut changed = bytes.clone();
        for (place, value) in changes {
            changed[place.index(bytes.len())] = value;
        }
        if let Ok(read) = parse_group(&changed) {
            prop_assert_eq!(Ok(read), parse_group(&bytes));
        }
    }

    #[test]
    fn a_cut_group_is_refused(entries in vec(entry(), 1..20), cut in any::<Index>()) {
        let bytes = sealed(&numbered(entries, 1));
        let content = parse_group(&bytes).expect("it was just sealed").0.content_bytes();
        prop_assert!(parse_group(&bytes[..cut.index(content)]).is_err());
        prop_assert!(parse_group(&bytes[..content]).is_ok());
    }

    #[test]
    fn a_forged_group_is_refused_or_has_one_form(
        entries in vec(entry(), 1..20),
        changes in vec((any::<Index>(), any::<u8>()), 0..3),
        cut in any::<Index>(),
    ) {
        let mut bytes = sealed(&numbered(entries, 1));
        let content = parse_group(&bytes).expect("it was just sealed").0.content_bytes();
        bytes.truncate(content);
        for (place, value) in changes {
            bytes[place.index(content)] = value;
        }
        check_group(&bytes);
        check_group(&bytes[..cut.index(content)]);
    }

    #[test]
    fn random_bytes_are_no_log(bytes in vec(any::<u8>(), 0..3 * BLOCK)) {
        check_group(&bytes);
        check_superblock(&bytes);
    }

    #[test]
    fn a_scan_finds_what_was_written_or_says_what_is_missing(bytes in vec(any::<u8>(), 0..600)) {
        check_scan(&bytes);
    }
}

#[test]
fn every_single_bit_of_a_group_counts() {
    let bytes = sealed(&filling(1, 1));
    let whole = parse_group(&bytes);
    let content = whole.as_ref().expect("it was just sealed").0.content_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let read = parse_group(&changed);
        assert!(if bit / 8 < content { read.is_err() } else { read == whole }, "bit {bit}");
    }
}

#[test]
fn a_torn_last_group_is_the_end_whichever_of_its_blocks_arrived() {
    let mut model = wrapped_model();
    for blocks in 1..=4 {
        let before = model.store.content().clone();
        while !model.write(&filling(model.next_lsn(), blocks)) {
            model.checkpoint(2);
        }
        let superblocks = model.store.content()[..2 * BLOCK].to_vec();
        let last = model.live.last().expect("it was just written").clone();
        for arrived in 0..1_u32 << blocks {
            let mut content = model.store.content().clone();
            for block in (0..blocks).filter(|block| arrived & 1 << block == 0) {
                let place = last.offset as usize + block * BLOCK;
                content[place..place + BLOCK].copy_from_slice(&before[place..place + BLOCK]);
            }
            content[..2 * BLOCK].copy_from_slice(&superblocks);
            let whole = std::mem::replace(&mut *model.store.content(), content);
            let contents = scan(&model.store, &model.superblock).expect("a torn end is no error");
            let all = arrived + 1 == 1 << blocks;
            assert_eq!(contents.groups.len(), model.live.len() - usize::from(!all));
            // Its first block tells it, if that arrived.
            let torn = (!all && arrived & 1 == 1).then_some(last.offset);
            assert_eq!(contents.torn_offset, torn);
            check_spoilt(&model, &Ok(contents));
            *model.store.content() = whole;
        }
    }
}

#[test]
fn a_damaged_group_in_front_of_an_intact_one_is_an_error() {
    let model = wrapped_model();
    for (index, group) in model.live.iter().enumerate() {
        for byte in (0..group.header.content_bytes()).step_by(97) {
            let place = group.offset as usize + byte;
            model.store.content()[place] ^= 0x10;
            let result = scan(&model.store, &model.superblock);
            assert_eq!(result.is_err(), index + 1 < model.live.len());
            check_spoilt(&model, &result);
            model.store.content()[place] ^= 0x10;
        }
    }
}

#[test]
fn old_laps_and_old_epochs_are_no_damage() {
    let mut model = wrapped_model();
    model.checkpoint(usize::MAX);
    assert_eq!(scan(&model.store, &model.superblock).expect("empty").groups, []);
    model.new_epoch();
    assert!(model.write(&filling(model.next_lsn(), 2)));
    let contents = scan(&model.store, &model.superblock).expect("one group");
    assert_eq!(contents.groups, [model.live[0].clone()]);
    assert_eq!(contents.groups[0].header.previous_crc, 0);
}

#[test]
fn a_device_error_is_neither_end_nor_damage() {
    let mut model = wrapped_model();
    let area = model.superblock.area();
    for bad in area.step_by(BLOCK) {
        model.store.unreadable = Some(bad);
        let result = scan(&model.store, &model.superblock);
        let Err(LogError::Read { source: Errno::IO, .. }) = result else { panic!("{result:?}") };
    }
    // Blocks outside the segments are not read.
    model.store.unreadable = Some(5 * BLOCK as u64);
    assert!(scan(&model.store, &model.superblock).is_ok());
    assert_eq!(model.store.bytes(), model.superblock.log_bytes);
}
