//! A log on an NVMe namespace, by the block device and by commands of our own.
//!
//! For a machine with an NVMe disk to spare, named by `LANEFS_TEST_NVME`
//! (`/dev/ng0n1`); everything on it is lost. `cargo test -p tests --test nvme --
//! --ignored` runs these in a guest of QEMU and pulls its plug.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use fs_core::error::Errno;
use fs_core::log::probe;
use fs_core::platform::linux::{
    BackingOptions, DeviceContent, LinuxBacking, LinuxLog, LogPathError, inspect_device,
};
use fs_core::platform::{Backing, LOG_BLOCK_BYTES, LogBuffer, LogStore};

const ALONE: &str = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored";
const LOG_MAGIC: &[u8] = b"how a log begins";
const BLOCK: u64 = LOG_BLOCK_BYTES as u64;

fn generic() -> PathBuf {
    std::env::var_os("LANEFS_TEST_NVME").map_or_else(|| panic!("{ALONE}"), PathBuf::from)
}

/// The block device beside a generic one.
fn block_device() -> PathBuf {
    let generic = generic();
    let name = generic.file_name().and_then(|name| name.to_str()).expect("a device");
    Path::new("/dev").join(name.replacen("ng", "nvme", 1))
}

fn open(path: &Path) -> LinuxLog {
    LinuxLog::open_path(path, 0).expect(ALONE)
}

/// Bytes that tell where they belong.
fn pattern(bytes: u64, seed: u64) -> LogBuffer {
    let mut buffer = LogBuffer::new();
    for at in (0..bytes).step_by(8) {
        buffer.extend(&(at ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    }
    buffer
}

#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn by_commands_of_our_own() {
    let log = open(&generic());
    assert_eq!((log.mechanism(), log.shares_device()), ("NVMe commands", false));
    // One block, one command, several, more than one round of the ring.
    let sizes = [1, 32, 33, 256, 2016, 2017, 4100].map(|blocks| blocks * BLOCK);
    let mut offset = BLOCK;
    for (seed, bytes) in sizes.into_iter().enumerate() {
        let data = pattern(bytes, seed as u64);
        if seed % 2 == 0 {
            log.write_and_flush(&data, offset).expect("a write");
        } else {
            log.write(&data, offset).expect("a write");
            log.flush().expect("a flush");
        }
        let mut read = LogBuffer::new();
        log.read(&mut read, offset, bytes as usize).expect("a read");
        assert!(read.bytes() == data.bytes(), "{bytes} bytes");
        offset += bytes;
    }
    // From several threads at once.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..20 {
                    let data = pattern(8 * BLOCK, thread * 100 + round);
                    let at = offset + thread * 8 * BLOCK;
                    log.write_and_flush(&data, at).expect("a write");
                    let mut read = LogBuffer::new();
                    log.read(&mut read, at, data.len()).expect("a read");
                    assert!(read.bytes() == data.bytes());
                }
            });
        }
    });
    let figures = probe::measure(&log, 0..log.bytes(), probe::DEFAULT_TIME_MAX).expect("figures");
    println!("by commands of our own: {figures:?}");

    // Nobody else may have it meanwhile, by whatever name.
    for path in [generic(), block_device()] {
        let second = LinuxLog::open_path(&path, 0).map(drop);
        assert!(matches!(second, Err(LogPathError::InUse(_))), "{second:?}");
        let looked = inspect_device(&path, LOG_MAGIC);
        assert!(matches!(looked, Err(LogPathError::InUse(_))), "{looked:?}");
    }
    let last = log.bytes() - BLOCK;
    log.write(&pattern(BLOCK, 77), last).expect("the last block");
    assert_eq!(log.write(&pattern(BLOCK, 77), last + BLOCK), Err(Errno::INVAL));
    let bytes = log.bytes();
    drop(log);

    // The block layer sees the same bytes at the same places.
    let log = open(&block_device());
    assert_eq!(log.bytes(), bytes);
    let mut read = LogBuffer::new();
    log.read(&mut read, last, LOG_BLOCK_BYTES).expect("a read");
    assert!(read.bytes() == pattern(BLOCK, 77).bytes());
    let figures = probe::measure(&log, 0..log.bytes(), probe::DEFAULT_TIME_MAX).expect("figures");
    println!("by the block device: {figures:?}");
}

#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn made_and_inspected() {
    for path in [generic(), block_device()] {
        let made = LinuxLog::make_path(&path, 1 << 20, &mut |_| {}).expect("a log");
        drop(made);
        let look = || inspect_device(&path, LOG_MAGIC).expect("it can be looked at");
        assert_eq!(look(), DeviceContent::Empty);
        let mut data = LogBuffer::new();
        data.extend(LOG_MAGIC);
        data.pad_to_block();
        open(&path).write_and_flush(&data, 0).expect("a write");
        assert_eq!(look(), DeviceContent::Log);
    }
}

#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn atomic_writes() {
    let log = open(&block_device());
    println!("mechanism: {}", log.mechanism());
    let expected = std::env::var_os("LANEFS_TEST_NVME_ATOMIC").is_some();
    assert_eq!(log.mechanism().contains("atomic"), expected);
    // What fits, and what does not.
    for (seed, (blocks, offset)) in
        [(1, 0), (1, 1), (4, 4), (4, 5), (3, 8), (64, 64)].into_iter().enumerate()
    {
        let data = pattern(blocks * BLOCK, seed as u64);
        log.write_and_flush(&data, offset * BLOCK).expect("a write");
        let mut read = LogBuffer::new();
        log.read(&mut read, offset * BLOCK, data.len()).expect("a read");
        assert!(read.bytes() == data.bytes(), "{blocks} blocks at {offset}");
    }
}

/// The disk fails the second flush from here on, once: as the device reports it,
/// that is a positive number, and must not look like success.
#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn an_error_of_the_device_is_an_error() {
    let log = open(&generic());
    let data = pattern(BLOCK, 1);
    log.write_and_flush(&data, 0).expect("the first flush");
    assert_eq!(log.write_and_flush(&data, 0), Err(Errno::IO));
    // The ring is in order: what comes now has its own outcome.
    log.write_and_flush(&data, 0).expect("the third flush");
    log.flush().expect("the fourth flush");
    let mut read = LogBuffer::new();
    log.read(&mut read, 0, data.len()).expect("a read");
    assert!(read.bytes() == data.bytes());
}

/// A flush of the one covers the other, and of no other disk. `LANEFS_TEST_DIRECTORY`
/// is the first partition of the disk, mounted; the second is free.
#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn partitions_of_one_disk_share_their_flush() {
    let place = std::env::var_os("LANEFS_TEST_DIRECTORY").expect(ALONE);
    let backing = LinuxBacking::open(Path::new(&place), BackingOptions::default()).expect(ALONE);
    assert_eq!(backing.log_obstacle(), None);
    let mut second = block_device().into_os_string();
    second.push("p2");
    let second = PathBuf::from(second);
    assert_eq!(inspect_device(&second, LOG_MAGIC).expect("free"), DeviceContent::Empty);
    let log = LinuxLog::open_path(&second, backing.filesystem_id()).expect("free");
    assert!(log.shares_device());
    drop(log);
    // As a log of a filesystem elsewhere it does not.
    assert!(!open(&second).shares_device());
    // The whole is in use while a part is, by its own commands too.
    for whole in [generic(), block_device()] {
        let refused = LinuxLog::open_path(&whole, backing.filesystem_id()).map(drop);
        assert!(matches!(refused, Err(LogPathError::InUse(_))), "{refused:?}");
    }
}

/// Writes groups for ever, and says which are durable: `ACK number offset bytes`.
/// `LANEFS_TEST_NVME_LIES` leaves the flush away; the disk's record must show it.
#[test]
#[ignore = "needs LANEFS_TEST_NVME: cargo test -p tests --test nvme -- --ignored"]
fn acknowledged_for_ever() {
    const SLOT_BYTES: u64 = 256 << 10;
    let lies = std::env::var_os("LANEFS_TEST_NVME_LIES").is_some();
    let by_block = std::env::var_os("LANEFS_TEST_NVME_BY_BLOCK").is_some();
    let log = open(&if by_block { block_device() } else { generic() });
    let slots = log.bytes() / SLOT_BYTES;
    for number in 1_u64.. {
        // 1 to 64 blocks, none of which looks like one of another group.
        let blocks = 1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 64;
        let mut group = LogBuffer::new();
        for block in 0..blocks {
            group.extend(b"GROUP   ");
            for word in [number, block, blocks] {
                group.extend(&word.to_le_bytes());
            }
            let fill = number.wrapping_mul(31).wrapping_add(block) as u8;
            group.grow(LOG_BLOCK_BYTES - 32).fill(fill);
        }
        let offset = number % slots * SLOT_BYTES;
        let written = match lies {
            true => log.write(&group, offset),
            false => log.write_and_flush(&group, offset),
        };
        written.expect("a group");
        println!("ACK {number} {offset} {}", group.len());
    }
}
