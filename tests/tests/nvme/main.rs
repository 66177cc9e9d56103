//! Promise: a log on an NVMe namespace, by its block device or by commands of our own, keeps what it
//! acknowledged when the plug is pulled.
//!
//! This machine need not have an NVMe disk: QEMU emulates one, in a guest that it interprets (minutes,
//! not seconds; figures from it mean nothing). So these tests are not run by default:
//!
//! ```text
//! cargo test -p tests --test nvme -- --ignored --nocapture
//! ```
//!
//! They need qemu-system-x86_64, busybox, cpio (installed on Debian) and the kernel of a Debian
//! ([`guest`] says which, or `LANEFS_GUEST_KERNEL`). What runs in the guest is
//! `fs-core/tests/platform/log_nvme.rs`.
//!
//! A killed QEMU loses nothing that the guest's disk was given: the host's page cache has it. So the
//! disk also keeps a record of its writes and flushes ([`record`]), and what is checked is what a disk
//! with a volatile cache would have kept: everything before its last flush, and nothing else.

use std::time::Duration;

use self::guest::{Disk, Guest};

#[path = "../checks/mod.rs"]
mod checks;
mod guest;
mod record;

/// Under QEMU's interpreter, with other tests beside it.
const CHECKS_DEADLINE: Duration = Duration::from_secs(300);

/// Groups acknowledged before the plug is pulled: so many that the places in the log are used again.
const ACKNOWLEDGED: usize = 400;

#[test]
#[ignore = "boots guests in QEMU: cargo test -p tests --test nvme -- --ignored"]
fn reads_writes_and_errors() {
    let mut guest = Guest::new();
    let [whole, failing, parts] = ["whole", "failing", "parts"].map(|name| Disk::new(&guest, name));
    parts.partition();
    guest.add(&parts.recorded());
    guest.add(&whole.recorded());
    guest.add(&failing.failing_second_flush());
    let atomic = guest.has_atomic_writes();
    if !atomic {
        println!("not tried: atomic writes, which QEMU has from 10.0 on");
    }
    let mut script = String::new();
    for name in ["by_commands_of_our_own", "made_and_inspected", "atomic_writes"] {
        let atomic = if atomic { "LANEFS_TEST_NVME_ATOMIC=1" } else { "" };
        script += &format!("{atomic} check whole {name}\n");
    }
    script += "check failing an_error_of_the_device_is_an_error\n";
    script += "disk=$(generic parts); disk=nvme${disk#/dev/ng}; mkdir /mnt\n\
               mount -t ext4 /dev/${disk}p1 /mnt; export LANEFS_TEST_DIRECTORY=/mnt\n\
               check parts partitions_of_one_disk_share_their_flush; umount /mnt\n";
    let output = guest.run(&script, CHECKS_DEADLINE);
    println!("{output}");
    assert_eq!(output.matches("test result: ok. 1 passed").count(), 5, "{output}");
}

#[test]
#[ignore = "boots guests in QEMU: cargo test -p tests --test nvme -- --ignored"]
fn a_cut_loses_nothing_acknowledged_by_commands_of_our_own() {
    assert_eq!(groups_lost_by_a_cut(""), 0);
}

#[test]
#[ignore = "boots guests in QEMU: cargo test -p tests --test nvme -- --ignored"]
fn a_cut_loses_nothing_acknowledged_by_the_block_device() {
    assert_eq!(groups_lost_by_a_cut("LANEFS_TEST_NVME_BY_BLOCK=1"), 0);
}

/// Whether the check would notice: groups acknowledged without a flush are lost.
#[test]
#[ignore = "boots guests in QEMU: cargo test -p tests --test nvme -- --ignored"]
fn a_missing_flush_shows() {
    let lost = groups_lost_by_a_cut("LANEFS_TEST_NVME_LIES=1");
    println!("{lost} groups lost without a flush");
    assert!(lost > 0);
}

/// Kills a guest that writes groups, and counts those that it had acknowledged and that a disk with
/// a volatile cache would not have.
fn groups_lost_by_a_cut(environment: &str) -> usize {
    let mut guest = Guest::new();
    let disk = Disk::new(&guest, "disk");
    guest.add(&disk.recorded());
    let script = format!("{environment} check disk acknowledged_for_ever\n");
    let output = guest.run_until_cut(&script, "ACK ", ACKNOWLEDGED, CHECKS_DEADLINE);
    let groups = record::acknowledged(&output);
    assert!(groups.len() >= ACKNOWLEDGED, "{output}");

    // Grade one: whatever the disk was given is there, with or without flushes.
    let given = std::fs::read(disk.image()).expect("the image");
    let missing = record::missing(&groups, &given);
    assert_eq!(missing, [], "the disk was not even given these groups");
    // Grade two: what a cut leaves of it.
    let record = record::read(&disk.record());
    let kept = record.image_after_a_cut(given.len());
    println!("{} groups acknowledged; {}", groups.len(), record.describe());
    record::missing(&groups, &kept).len()
}
