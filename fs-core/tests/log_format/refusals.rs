//! Records that cannot be: refused by the reader although the checksum is right, and
//! by `check_record` before they are written.

use fs_core::log::format::{FormatError, GROUP_HEADER_BYTES, LogError, check_record, parse_group};
use fs_core::log::record::{Change, Part, Record};
use fs_core::platform::ObjectKey;
use fs_core::types::{FileKind, Time};

use crate::checks::set_checksum;
use crate::model::Entry;
use crate::sealed;

const KEY: ObjectKey = ObjectKey { dev: 0, ino: 1, handle: ([0; 40], 0, 0) };
/// A key without handle: inode number, kind, length 0.
const KEY_BYTES: usize = 13;
/// Where the body of the first record begins.
const BODY: usize = GROUP_HEADER_BYTES + 16;

/// The problem that is found when bytes of the only record are others.
fn problem(change: Change, at: usize, bytes: &[u8]) -> &'static str {
    let entry = Entry { contents: vec![vec![0; 10]; 2], ..Entry::from(change) };
    let mut group = sealed(&[entry]);
    group[at..at + bytes.len()].copy_from_slice(bytes);
    let payload_bytes = u32::from_le_bytes([0, 1, 2, 3].map(|i| group[72 + i]));
    group.truncate(GROUP_HEADER_BYTES + payload_bytes as usize);
    set_checksum(&mut group);
    match parse_group(&group) {
        Err(FormatError::Record { index: 0, problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

fn link(name: &[u8]) -> Change {
    Change::Link { object: KEY, dir: KEY, name: name.into() }
}

fn data() -> Change {
    let part = |offset| Part { offset, bytes: 10, at: 0 };
    let mtime = Time { secs: 0, nanos: 0 };
    Change::Data { object: KEY, size: 0, mtime, parts: vec![part(0), part(10)] }
}

#[test]
fn every_field_is_checked() {
    let make = || Change::Make {
        dir: KEY,
        name: b"n".into(),
        object: KEY,
        kind: FileKind::Regular,
        perm: 0,
        uid: 0,
        gid: 0,
        device: (0, 0),
        target: Vec::new(),
    };
    let remove = || Change::Remove { dir: KEY, name: b"n".into(), object: KEY, is_dir: false };
    let rename = || Change::Rename {
        from_dir: KEY,
        from: b"n".into(),
        to_dir: KEY,
        to: b"n".into(),
        object: KEY,
        displaced: None,
        exchange: false,
        whiteout: false,
    };
    let attrs = || Change::Attrs {
        object: KEY,
        perm: Some(0),
        uid: None,
        gid: None,
        atime: None,
        mtime: Some(Time { secs: 0, nanos: 0 }),
    };
    let xattr = || Change::RemoveXattr { object: KEY, name: b"n".into() };
    let (name, keys) = (BODY + 2 * KEY_BYTES, BODY + 2 * KEY_BYTES + 2);
    let parts = BODY + KEY_BYTES + 8 + 12;
    let second = parts + 4 + 12 + 10;
    let part_end = (i64::MAX as u64 - 9).to_le_bytes();
    let nanos = 1_000_000_000_u32.to_le_bytes();
    let cases: [(Change, usize, &[u8], &str); 27] = [
        (link(b"n"), GROUP_HEADER_BYTES, &[101], "its LSN is not within the group's"),
        (link(b"n"), GROUP_HEADER_BYTES + 8, &[200], "it ends too early"),
        (link(b"n"), GROUP_HEADER_BYTES + 8, &[5], "it ends too early"),
        (link(b"n"), GROUP_HEADER_BYTES + 12, &[0], "its type is unknown"),
        (link(b"n"), GROUP_HEADER_BYTES + 12, &[14], "its type is unknown"),
        (link(b"n"), GROUP_HEADER_BYTES + 12, &[11], "it is longer than what it holds"),
        (link(b"n"), GROUP_HEADER_BYTES + 14, &[1], "its header does not end with 0"),
        (link(b"n"), BODY + 12, &[41], "a file handle is too long"),
        (link(b"n"), BODY + 12, &[40], "it ends too early"),
        (link(b"n"), name, &[2], "it ends too early"),
        (link(b"n"), name + 1, b"/", "a name is a path"),
        (link(b"n"), name + 1, b".", "a name is a path"),
        (link(b"nn"), name + 1, b"..", "a name is a path"),
        (link(b"n"), name + 1, &[0], "a name is empty, longer than 255 bytes, or has a zero byte"),
        (make(), keys, &[0], "the kind of the new object is unknown"),
        (make(), keys, &[8], "the kind of the new object is unknown"),
        (make(), keys + 1, &[0, 0x10], "permission bits are more than 0o7777"),
        (make(), keys + 19, &[1], "it ends too early"),
        (remove(), keys, &[2], "a yes-or-no is neither 0 nor 1"),
        (rename(), keys + 2 + KEY_BYTES, &[8], "a flag of the rename is unknown"),
        (attrs(), BODY + KEY_BYTES, &[32], "a flag of the attributes is unknown"),
        (
            attrs(),
            BODY + KEY_BYTES + 1 + 2 + 8,
            &nanos,
            "a time has a second or more of nanoseconds",
        ),
        (
            xattr(),
            BODY + KEY_BYTES + 1,
            &[0],
            "a name is empty, longer than 255 bytes, or has a zero byte",
        ),
        (data(), parts, &[3], "it ends too early"),
        (data(), second, &[9], "parts overlap or are out of order"),
        (data(), second, &part_end, "a part ends nowhere"),
        (data(), second, &[0xff; 8], "a part ends nowhere"),
    ];
    for (change, at, bytes, expected) in cases {
        assert_eq!(problem(change.clone(), at, bytes), expected, "{change:?}, {bytes:?} at {at}");
    }
}

#[test]
fn what_lies_behind_the_last_record_is_refused() {
    let mut group = sealed(&[link(b"n").into(), link(b"m").into()]);
    group[20] = 1;
    let payload_bytes = u32::from_le_bytes([0, 1, 2, 3].map(|i| group[72 + i]));
    let content = GROUP_HEADER_BYTES + payload_bytes as usize;
    set_checksum(&mut group[..content]);
    let refused = FormatError::Field { field: "payload length", value: payload_bytes.into() };
    assert_eq!(parse_group(&group), Err(refused));
    // Nor may more bytes come than a group has.
    let mut group = sealed(&[link(b"n").into()]);
    group.push(0);
    assert_eq!(parse_group(&group), Err(FormatError::Field { field: "length", value: 4097 }));
}

#[test]
fn a_writer_is_told_what_no_reader_accepts() {
    let check = |change| check_record(&Record { lsn: 1, change });
    for name in [&b"n"[..], &[b'n'; 255], b"...", b"\xff\xfe"] {
        assert_eq!(check(link(name)), Ok(()));
    }
    for name in [&b""[..], &[b'n'; 256], b"a/b", b".", b"..", b"a\0"] {
        assert!(check(link(name)).is_err(), "{name:?}");
    }
    let long = ObjectKey { handle: ([0; 40], 41, 0), ..KEY };
    assert!(check(Change::Expire { object: long }).is_err());
    assert_eq!(check(data()), Ok(()));
}

#[test]
fn errors_name_cause_and_remedy() {
    let damaged =
        LogError::Damaged { offset: 65536, expected_group: 7, found_group: 8, found_offset: 69632 };
    assert_eq!(
        damaged.to_string(),
        "the log is damaged: group 7 at byte 65536 is not intact, group 8 at byte 69632 is, \
         so synced data was lost; nothing was changed: copy the log, and restore the files \
         from a backup"
    );
    let source = FormatError::Record { index: 2, lsn: 9, problem: "its type is unknown" };
    assert_eq!(
        LogError::Unreadable { offset: 65536, group: 7, source }.to_string(),
        "group 7 at byte 65536 is intact but cannot be read (record 2 (LSN 9): its type is \
         unknown): this is an error of lanefs, please report; nothing was changed"
    );
}
