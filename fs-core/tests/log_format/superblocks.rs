//! Two superblocks: whatever happens to one, the other tells the truth, or the log
//! says that it does not know.

use fs_core::log::format::{
    FormatError, LOG_BYTES_DEFAULT, LOG_BYTES_MAX, LOG_BYTES_MIN, LogError, Superblock,
    read_superblock, scan,
};
use fs_core::platform::{LOG_BLOCK_BYTES, LogStore};
use proptest::prelude::{any, prop_assert_eq, proptest};

use crate::checks::set_checksum;
use crate::filling;
use crate::model::Model;
use crate::store::MemoryStore;

const BLOCK: usize = LOG_BLOCK_BYTES;

/// Changes bytes of the superblock in a slot and puts its checksum right.
fn forge(model: &Model, slot: usize, at: usize, bytes: &[u8]) {
    let mut content = model.store.content();
    let block = &mut content[slot * BLOCK..(slot + 1) * BLOCK];
    block[at..at + bytes.len()].copy_from_slice(bytes);
    set_checksum(block);
}

/// Slot of the newer superblock.
fn newer(model: &Model) -> usize {
    model.superblock.slot_offset() as usize / BLOCK
}

proptest! {
    #[test]
    fn a_superblock_reads_back_as_it_was_written(
        uuid in any::<[u8; 16]>(),
        log_bytes in LOG_BYTES_MIN..=LOG_BYTES_MAX,
        numbers in any::<(u64, u64, u64, u64)>(),
        boot_id in any::<[u8; 16]>(),
        clean in any::<bool>(),
        recovery_marker in any::<Option<u64>>(),
        mount_id in any::<u64>(),
    ) {
        let mut superblock = Superblock::new(uuid, log_bytes);
        superblock.counter = numbers.0.max(1);
        superblock.epoch = numbers.1.max(1);
        superblock.tail_group = numbers.2.max(1);
        superblock.tail_lsn = numbers.3;
        superblock.boot_id = boot_id;
        superblock.clean = clean;
        superblock.recovery_marker = recovery_marker;
        superblock.mount_id = mount_id;
        superblock.tail_offset = superblock.segment_start((numbers.3 % 16) as u32) + BLOCK as u64;
        let block = superblock.encode();
        prop_assert_eq!(block.len(), BLOCK);
        prop_assert_eq!(Superblock::decode(block.bytes()), Ok(superblock));
    }
}

#[test]
fn every_single_bit_of_a_superblock_counts() {
    let block = Superblock::new([1; 16], LOG_BYTES_DEFAULT).encode();
    for bit in 0..BLOCK * 8 {
        let mut changed = block.bytes().to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::decode(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_torn_superblock_leaves_the_one_before() {
    let mut model = Model::new(4, 4);
    let before = model.superblock.clone();
    let old = model.store.content().clone();
    assert!(model.write(&filling(1, 1)));
    model.checkpoint(1);
    let new = model.store.content().clone();
    let slot = newer(&model) * BLOCK;
    for arrived in 0..BLOCK {
        let mut content = old.clone();
        content[slot..slot + arrived].copy_from_slice(&new[slot..slot + arrived]);
        // What is the same in both needs no arriving.
        let is_whole = content[slot..slot + BLOCK] == new[slot..slot + BLOCK];
        let expected = if is_whole { &model.superblock } else { &before };
        assert_eq!(read_superblock(&MemoryStore::new(content)).as_ref(), Ok(expected));
    }
}

#[test]
fn both_superblocks_damaged_is_said_so() {
    let model = Model::new(4, 4);
    for slot in 0..2 {
        model.store.content()[slot * BLOCK + 100] ^= 1;
    }
    let result = read_superblock(&model.store);
    assert!(matches!(
        result,
        Err(LogError::Superblocks {
            first: FormatError::Checksum { .. },
            second: FormatError::Checksum { .. }
        })
    ));
}

#[test]
fn what_is_no_log_is_called_so() {
    for bytes in [0, 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 1 << 20] {
        assert_eq!(read_superblock(&MemoryStore::new(vec![0; bytes])), Err(LogError::NotALog));
    }
}

#[test]
fn another_version_is_not_passed_over_for_an_older_superblock() {
    // The other slot is intact and of our version, but it may be the older one.
    let model = Model::new(4, 4);
    forge(&model, newer(&model), 8, &2_u32.to_le_bytes());
    assert_eq!(read_superblock(&model.store), Err(LogError::Version { found: 2 }));
    let model = Model::new(4, 4);
    forge(&model, newer(&model), 16, &4_u32.to_le_bytes());
    assert_eq!(read_superblock(&model.store), Err(LogError::Flags { flags: 4 }));
}

#[test]
fn a_log_over_another_that_was_not_finished_is_refused() {
    let model = Model::new(4, 4);
    forge(&model, newer(&model), 24, b"another log!");
    assert_eq!(read_superblock(&model.store), Err(LogError::TwoLogs));
}

#[test]
fn a_superblock_in_the_other_slot_does_not_count() {
    let model = Model::new(4, 4);
    let older = 1 - newer(&model);
    let counter = model.superblock.counter + 2;
    forge(&model, older, 40, &counter.to_le_bytes());
    assert_eq!(read_superblock(&model.store).as_ref(), Ok(&model.superblock));
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let good = Superblock::new([1; 16], LOG_BYTES_DEFAULT);
    let fields: [(&str, usize, &[u64]); 7] = [
        ("counter", 40, &[0]),
        ("epoch", 48, &[0]),
        ("log length", 56, &[1, u64::MAX, LOG_BYTES_MAX + 4096]),
        ("segment length", 64, &[0, 1, 4095, 1 << 30, u64::MAX / 16, u64::MAX]),
        ("tail offset", 72, &[0, 4096, 65537, u64::MAX, good.area().end]),
        ("tail group", 80, &[0]),
        ("state", 112, &[2]),
    ];
    for (name, at, values) in fields {
        for value in values {
            let mut block = good.encode().bytes().to_vec();
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
            set_checksum(&mut block);
            let refused = FormatError::Field { field: name, value: *value };
            assert_eq!(Superblock::decode(&block), Err(refused));
        }
    }
    for segments in [0_u32, 1, 17, u32::MAX] {
        let mut block = good.encode().bytes().to_vec();
        block[20..24].copy_from_slice(&segments.to_le_bytes());
        set_checksum(&mut block);
        assert!(Superblock::decode(&block).is_err());
    }
}

#[test]
fn a_cut_log_is_refused() {
    let model = Model::new(4, 4);
    let mut content = model.store.content().clone();
    let need = content.len() as u64;
    content.truncate(content.len() - BLOCK);
    let store = MemoryStore::new(content);
    let superblock = read_superblock(&store).expect("superblocks are at the beginning");
    let have = store.bytes();
    assert_eq!(scan(&store, &superblock), Err(LogError::Cut { have, need }));
}

#[test]
fn groups_of_a_later_epoch_tell_that_a_superblock_was_lost() {
    let mut model = Model::new(4, 4);
    assert!(model.write(&filling(1, 1)));
    model.new_epoch();
    assert!(model.write(&filling(2, 1)));
    // The newer superblock is damaged; the older one would have the log read again
    // that was recovered long ago.
    model.store.content()[newer(&model) * BLOCK + 200] ^= 1;
    let older = read_superblock(&model.store).expect("one is intact");
    assert_eq!(older.epoch, 1);
    let result = scan(&model.store, &older);
    let Err(LogError::SuperblockLost { epoch: 1, found_epoch: 2, .. }) = result else {
        panic!("{result:?}");
    };
}

#[test]
fn a_tail_at_the_end_of_the_last_segment_means_the_first() {
    let mut superblock = Superblock::new([1; 16], LOG_BYTES_MIN);
    superblock.tail_offset = superblock.area().end;
    let read = Superblock::decode(superblock.encode().bytes()).expect("it was just encoded");
    assert_eq!(read.tail_offset, superblock.segment_start(0));
}

#[test]
fn places_follow_from_segment_to_segment() {
    let log = Superblock::new([1; 16], LOG_BYTES_MIN);
    let (block, segment) = (BLOCK as u64, log.segment_bytes);
    assert_eq!((log.segments, segment), (16, 63 * block));
    let end = log.segment_start(3) + segment;
    assert_eq!(log.place(end - 2 * block, 2 * block), Some(end - 2 * block));
    assert_eq!(log.place(end - 2 * block, 3 * block), Some(end));
    assert_eq!(log.place(end, segment), Some(end));
    assert_eq!(log.place(end, segment + block), None);
    let last = log.segment_start(15) + segment - block;
    assert_eq!(log.place(last, 2 * block), Some(log.segment_start(0)));
    assert_eq!(log.wrapped(last + block), log.segment_start(0));
    for bytes in [LOG_BYTES_MIN, LOG_BYTES_DEFAULT, LOG_BYTES_MAX, 5_000_001] {
        let log = Superblock::new([1; 16], bytes);
        assert_eq!(log.check(), Ok(()));
        assert!(log.area().end <= log.log_bytes && log.log_bytes <= bytes);
    }
}
