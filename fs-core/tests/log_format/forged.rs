//! Groups with the right checksum that do not belong where they are: a device that wrote
//! to the wrong place, another log's remains, an error of a writer, an attack.

use fs_core::log::format::{
    FormatError, GROUP_HEADER_BYTES, Group, GroupBuilder, GroupHeader, LogContents, LogError, Seal,
    scan,
};
use fs_core::platform::{LOG_BLOCK_BYTES, LogBuffer, ObjectKey};
use fs_core::types::Time;

use crate::checks::set_checksum;
use crate::model::Model;
use crate::{filling, sealed, wrapped_model};

const BLOCK: usize = LOG_BLOCK_BYTES;

fn scanned(model: &Model) -> Result<LogContents, LogError> {
    scan(&model.store, &model.superblock)
}

fn put(model: &Model, offset: u64, bytes: &[u8]) {
    model.store.content()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// A copy of a group with some bytes changed.
fn changed(group: &Group, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut copy = group.bytes.clone();
    copy[at..at + bytes.len()].copy_from_slice(bytes);
    set_checksum(&mut copy[..group.header.content_bytes()]);
    copy
}

/// A group that would be next and has `inner` as content, at a block's beginning.
fn wrapping(model: &Model, number: u64, inner: &[u8]) -> Vec<u8> {
    let mut builder = GroupBuilder::new(LogBuffer::new());
    let object = ObjectKey { dev: 0, ino: 1, handle: ([0; 40], 0, 0) };
    builder.begin_data(model.next_lsn(), &object, 0, Time::default());
    // Two part headers lie between here and the block's end.
    let room = (BLOCK - builder.len() - 24) as u32;
    builder.data_part(0, room);
    builder.data_part(room.into(), inner.len() as u32).copy_from_slice(inner);
    builder.end_data();
    let last = &model.live.last().expect("a group was written").header;
    builder.seal(&Seal {
        uuid: last.uuid,
        epoch: last.epoch,
        number,
        first_lsn: last.last_lsn + 1,
        last_lsn: last.last_lsn + 1,
        previous_crc: last.crc,
        boot_id: last.boot_id,
        wall_time_ns: 0,
    });
    assert!(builder.buffer().bytes()[BLOCK..].starts_with(inner));
    builder.buffer().bytes().to_vec()
}

#[test]
fn the_right_group_in_the_wrong_place_is_damage() {
    let mut model = Model::new(6, 2);
    assert!(model.write(&filling(1, 1)) && model.write(&filling(2, 1)));
    let (first, last) = (model.live[0].clone(), model.live[1].clone());
    let found_offset = model.superblock.segment_start(4);
    put(&model, found_offset, &last.bytes);
    // A copy does no harm as long as the group is in its place as well.
    assert_eq!(scanned(&model).expect("all is there").groups, [first, last.clone()]);
    put(&model, last.offset, &[0; BLOCK]);
    let number = last.header.number;
    let (offset, expected_group, found_group) = (last.offset, number, number);
    let damaged = LogError::Damaged { offset, expected_group, found_group, found_offset };
    assert_eq!(scanned(&model), Err(damaged));
}

#[test]
fn groups_of_another_log_are_nothing() {
    let mut model = Model::new(6, 2);
    assert!(model.write(&filling(1, 1)) && model.write(&filling(2, 1)));
    let last = model.live.pop().expect("it was just written");
    // In the right place, in another, and of a later epoch.
    put(&model, last.offset, &changed(&last, 24, b"another"));
    assert_eq!(scanned(&model).expect("one group").groups, model.live);
    put(&model, model.superblock.segment_start(3), &changed(&last, 24, b"another"));
    assert_eq!(scanned(&model).expect("one group").groups, model.live);
    let mut later = last.clone();
    later.bytes = changed(&last, 24, b"another");
    put(&model, model.superblock.segment_start(5), &changed(&later, 40, &[9]));
    let contents = scanned(&model).expect("one group");
    assert_eq!((contents.groups, contents.torn_offset), (model.live, None));
}

#[test]
fn a_group_that_does_not_continue_the_one_before_is_an_error() {
    let model = wrapped_model();
    let (before, group) = (&model.live[0].header, &model.live[1]);
    let lsn = before.last_lsn.to_le_bytes();
    for (at, bytes, name) in [(56, &lsn[..], "first LSN"), (76, &[1; 4], "previous checksum")] {
        put(&model, group.offset, &changed(group, at, bytes));
        let Err(LogError::Chain { offset, group: number, field, .. }) = scanned(&model) else {
            panic!("{name}");
        };
        assert_eq!((offset, number, field), (group.offset, group.header.number, name));
    }
}

#[test]
fn an_intact_group_that_cannot_be_read_is_not_the_end() {
    let model = wrapped_model();
    let last = model.live.last().expect("there are some");
    // An unknown type of record.
    put(&model, last.offset, &changed(last, GROUP_HEADER_BYTES + 12, &[200]));
    let Err(LogError::Unreadable { offset, group, source }) = scanned(&model) else { panic!() };
    assert_eq!((offset, group), (last.offset, last.header.number));
    assert!(matches!(source, FormatError::Record { index: 0, .. }), "{source:?}");
}

#[test]
fn a_group_over_the_tail_does_not_count() {
    // The tail is the second block of the first segment. The new group begins in the first
    // and holds a copy of the tail, so that both are intact.
    for skipping in [false, true] {
        let mut model = Model::new(if skipping { 3 } else { 2 }, 2);
        assert!(model.write(&filling(1, 1)) && model.write(&filling(2, 1)));
        model.checkpoint(1);
        assert!(!skipping || model.write(&filling(3, 1)));
        assert!(model.write(&filling(model.next_lsn(), 2)));
        let number = 3 + u64::from(skipping) + 1;
        let start = model.superblock.segment_start(0);
        put(&model, start, &wrapping(&model, number, &model.live[0].bytes));
        let result = scanned(&model);
        assert!(
            matches!(result, Err(LogError::Damaged { expected_group, found_offset, .. })
                if expected_group == number && found_offset == start),
            "{result:?}"
        );
    }
}

#[test]
fn a_group_over_the_end_of_its_segment_does_not_count() {
    let mut model = Model::new(3, 3);
    assert!(model.write(&filling(1, 2)));
    let offset = model.superblock.segment_start(0) + 2 * BLOCK as u64;
    put(&model, offset, &wrapping(&model, 2, &[0; BLOCK]));
    let contents = scanned(&model).expect("one group");
    assert_eq!((contents.groups, contents.torn_offset), (model.live, Some(offset)));
}

#[test]
fn what_lies_within_a_group_is_content() {
    // A program on the mount may write what it likes, even groups.
    let mut model = Model::new(3, 4);
    assert!(model.write(&filling(1, 1)));
    let next = model.live[0].offset + BLOCK as u64;
    put(&model, next, &wrapping(&model, 2, &changed(&model.live[0], 48, &[99])));
    let contents = scanned(&model).expect("two groups");
    assert_eq!(contents.groups.len(), 2);
    assert_eq!(contents.next_group, 3);
}

#[test]
fn numbers_that_cannot_be_are_refused_before_anything_is_read() {
    let group = sealed(&filling(1, 1));
    let lsns = [1_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let fields: [(&str, u64, usize, &[u8]); 6] = [
        ("header length", 129, 16, &[129]),
        ("record count", 0, 20, &[0]),
        ("record count", 1 << 24, 20, &[0, 0, 0, 1]),
        ("last LSN", 0, 56, &lsns),
        ("payload length", u32::MAX.into(), 72, &[0xff; 4]),
        ("payload length", (1 << 30) - 127, 72, &[0x81, 0xff, 0xff, 0x3f]),
    ];
    for (field, value, at, bytes) in fields {
        let mut header = group[..GROUP_HEADER_BYTES].to_vec();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(GroupHeader::decode(&header), Err(FormatError::Field { field, value }));
    }
    for bytes in 0..GROUP_HEADER_BYTES {
        assert!(matches!(GroupHeader::decode(&group[..bytes]), Err(FormatError::Short { .. })));
    }
}
