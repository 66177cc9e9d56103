//! The bytes themselves. If a test here fails, logs that exist cannot be read any
//! more: raise `FORMAT_VERSION`, write `docs/log-format.md` anew, then change it.

use fs_core::log::format::{FORMAT_VERSION, Superblock, encode_record};
use fs_core::log::record::{Change, Part, Record};
use fs_core::platform::ObjectKey;
use fs_core::types::{FileKind, Time};

use crate::model::Entry;
use crate::sealed;

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key with a handle of two bytes.
fn key(ino: u64) -> ObjectKey {
    let mut handle = [0; 40];
    handle[..2].copy_from_slice(&[0xaa, 0xbb]);
    ObjectKey { dev: 0, ino, handle: (handle, 2, 1) }
}

const TIME: Time = Time { secs: -2, nanos: 3 };

/// Every change, and its bytes field by field: record header, then body.
fn every_change() -> Vec<(Change, &'static str)> {
    vec![
        (
            Change::Make {
                dir: key(1),
                name: b"ab".into(),
                object: key(2),
                kind: FileKind::Symlink,
                perm: 0o7654,
                uid: 0x11,
                gid: 0x22,
                device: (0x33, 0x44),
                target: b"t".into(),
            },
            "0201000000000000 39000000 0100 0000 \
             0100000000000000 01000000 02 aabb \
             02 6162 \
             0200000000000000 01000000 02 aabb \
             03 ac0f 11000000 22000000 33000000 44000000 \
             01000000 74",
        ),
        (
            Change::Link { object: key(1), dir: key(2), name: b"ab".into() },
            "0201000000000000 21000000 0200 0000 \
             0100000000000000 01000000 02 aabb \
             0200000000000000 01000000 02 aabb \
             02 6162",
        ),
        (
            Change::Remove { dir: key(1), name: b"ab".into(), object: key(2), is_dir: true },
            "0201000000000000 22000000 0300 0000 \
             0100000000000000 01000000 02 aabb \
             02 6162 \
             0200000000000000 01000000 02 aabb \
             01",
        ),
        (
            Change::Rename {
                from_dir: key(1),
                from: b"ab".into(),
                to_dir: key(2),
                to: b"c".into(),
                object: key(3),
                displaced: Some(key(4)),
                exchange: true,
                whiteout: true,
            },
            "0201000000000000 42000000 0400 0000 \
             0100000000000000 01000000 02 aabb \
             02 6162 \
             0200000000000000 01000000 02 aabb \
             01 63 \
             0300000000000000 01000000 02 aabb \
             07 \
             0400000000000000 01000000 02 aabb",
        ),
        (
            Change::Attrs {
                object: key(1),
                perm: Some(0o7654),
                uid: Some(0x11),
                gid: Some(0x22),
                atime: Some(TIME),
                mtime: Some(TIME),
            },
            "0201000000000000 32000000 0500 0000 \
             0100000000000000 01000000 02 aabb \
             1f ac0f 11000000 22000000 \
             feffffffffffffff 03000000 \
             feffffffffffffff 03000000",
        ),
        (
            Change::Attrs {
                object: key(1),
                perm: None,
                uid: None,
                gid: Some(0x22),
                atime: None,
                mtime: None,
            },
            "0201000000000000 14000000 0500 0000 \
             0100000000000000 01000000 02 aabb \
             04 22000000",
        ),
        (
            Change::Resize { object: key(1), size: 0x55 },
            "0201000000000000 17000000 0600 0000 \
             0100000000000000 01000000 02 aabb \
             5500000000000000",
        ),
        (
            Change::Rewrite { object: key(1) },
            "0201000000000000 0f000000 0d00 0000 \
             0100000000000000 01000000 02 aabb",
        ),
        (
            Change::Allocate { object: key(1), mode: 3, offset: 0x66, bytes: 0x77 },
            "0201000000000000 23000000 0700 0000 \
             0100000000000000 01000000 02 aabb \
             03000000 6600000000000000 7700000000000000",
        ),
        (
            Change::SetXattr { object: key(1), name: b"ab".into(), value: b"v".into() },
            "0201000000000000 17000000 0800 0000 \
             0100000000000000 01000000 02 aabb \
             02 6162 01000000 76",
        ),
        (
            Change::RemoveXattr { object: key(1), name: b"ab".into() },
            "0201000000000000 12000000 0900 0000 \
             0100000000000000 01000000 02 aabb \
             02 6162",
        ),
        (
            Change::Expire { object: key(1) },
            "0201000000000000 0f000000 0b00 0000 \
             0100000000000000 01000000 02 aabb",
        ),
        (
            Change::Checkpoint { through: 0x88 },
            "0201000000000000 08000000 0c00 0000 \
             8800000000000000",
        ),
    ]
}

#[test]
fn every_record_has_these_bytes() {
    for (change, expected) in every_change() {
        let mut encoded = Vec::new();
        encode_record(&Record { lsn: 0x0102, change: change.clone() }, &mut encoded);
        assert_eq!(hex(&encoded), expected.replace(' ', ""), "{change:?}");
    }
}

#[test]
fn a_group_has_these_bytes() {
    assert_eq!(FORMAT_VERSION, 1);
    let part = |offset| Part { offset, bytes: 2, at: 0 };
    let parts = vec![part(0x1000), part(0x2000)];
    let change = Change::Data { object: key(1), size: 0x99, mtime: TIME, parts };
    let contents = vec![b"AB".to_vec(), b"CD".to_vec()];
    let group = sealed(&[Entry { record: Record { lsn: 0x42, change }, contents }]);
    let (content, padding) = group.split_at(128 + 0x53);
    assert_eq!(
        hex(content),
        "4c414e4546534752 01000000 49d375fa 80000000 01000000 \
             30313233343536373839616263646566 \
             0200000000000000 0300000000000000 0000000000000000 6400000000000000 \
             53000000 05000000 06060606060606060606060606060606 0700000000000000 \
             000000000000000000000000000000000000000000000000 \
             4200000000000000 43000000 0a00 0000 \
             0100000000000000 01000000 02 aabb \
             9900000000000000 feffffffffffffff 03000000 02000000 \
             0010000000000000 02000000 4142 \
             0020000000000000 02000000 4344"
            .replace(' ', "")
    );
    assert!(padding.iter().all(|byte| *byte == 0));
}

#[test]
fn a_superblock_has_these_bytes() {
    let mut superblock = Superblock::new(*b"0123456789abcdef", 64 << 20);
    superblock.counter = 0x11;
    superblock.epoch = 0x22;
    superblock.tail_offset = 0x2_0000;
    superblock.tail_group = 0x33;
    superblock.tail_lsn = 0x44;
    superblock.boot_id = [0x55; 16];
    superblock.clean = true;
    superblock.recovery_marker = Some(0x66);
    superblock.mount_id = 0x77;
    let block = superblock.encode();
    let (content, rest) = block.bytes().split_at(136);
    assert_eq!(
        hex(content),
        "4c414e4546534c47 01000000 ad532b5b 00000000 10000000 \
             30313233343536373839616263646566 \
             1100000000000000 2200000000000000 0000000400000000 00f03f0000000000 \
             0000020000000000 3300000000000000 4400000000000000 \
             55555555555555555555555555555555 01000000 01000000 6600000000000000 \
             7700000000000000"
            .replace(' ', "")
    );
    assert!(rest.iter().all(|byte| *byte == 0));
}
