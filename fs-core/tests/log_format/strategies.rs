//! Any record, as proptest makes it.

use fs_core::log::record::{Change, Part, Record};
use fs_core::platform::{HANDLE_BYTES_MAX, ObjectKey};
use fs_core::types::{FileKind, Time};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::model::Entry;

fn key() -> impl Strategy<Value = ObjectKey> {
    (any::<u64>(), any::<i32>(), vec(any::<u8>(), 0..=HANDLE_BYTES_MAX)).prop_map(
        |(ino, kind, bytes)| {
            let mut handle = [0; HANDLE_BYTES_MAX];
            handle[..bytes.len()].copy_from_slice(&bytes);
            ObjectKey { dev: 0, ino, handle: (handle, bytes.len() as u8, kind) }
        },
    )
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'n' } else { byte });
    prop_oneof![9 => vec(byte.clone(), 1..20), 1 => vec(byte, 200..=255)]
        .prop_filter("a path", |name| name != b"." && name != b"..")
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![
        Just(FileKind::Regular),
        Just(FileKind::Directory),
        Just(FileKind::Symlink),
        Just(FileKind::Fifo),
        Just(FileKind::Socket),
        Just(FileKind::CharDevice),
        Just(FileKind::BlockDevice),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let perm = || 0..=0o7777_u16;
    let bytes = || vec(any::<u8>(), 0..300);
    let make = (key(), name(), key(), kind(), perm(), any::<(u32, u32, (u32, u32))>(), bytes());
    prop_oneof![
        make.prop_map(|(dir, name, object, kind, perm, (uid, gid, device), target)| {
            Change::Make { dir, name, object, kind, perm, uid, gid, device, target }
        }),
        (key(), key(), name()).prop_map(|(object, dir, name)| Change::Link { object, dir, name }),
        (key(), name(), key(), any::<bool>())
            .prop_map(|(dir, name, object, is_dir)| Change::Remove { dir, name, object, is_dir }),
        ((key(), name()), (key(), name()), key(), option::of(key()), any::<(bool, bool)>())
            .prop_map(|(from, to, object, displaced, (exchange, whiteout))| {
                let ((from_dir, from), (to_dir, to)) = (from, to);
                Change::Rename { from_dir, from, to_dir, to, object, displaced, exchange, whiteout }
            }),
        (
            key(),
            option::of(perm()),
            any::<[Option<u32>; 2]>(),
            option::of(time()),
            option::of(time())
        )
            .prop_map(|(object, perm, [uid, gid], atime, mtime)| {
                Change::Attrs { object, perm, uid, gid, atime, mtime }
            }),
        (key(), any::<u64>()).prop_map(|(object, size)| Change::Resize { object, size }),
        key().prop_map(|object| Change::Rewrite { object }),
        (key(), any::<(u32, u64, u64)>()).prop_map(|(object, (mode, offset, bytes))| {
            Change::Allocate { object, mode, offset, bytes }
        }),
        (key(), name(), bytes()).prop_map(|(object, name, value)| Change::SetXattr {
            object,
            name,
            value
        }),
        (key(), name()).prop_map(|(object, name)| Change::RemoveXattr { object, name }),
        key().prop_map(|object| Change::Expire { object }),
        any::<u64>().prop_map(|through| Change::Checkpoint { through }),
    ]
}

/// Parts in order, each some bytes behind the one before, and their contents.
fn parts() -> impl Strategy<Value = (Vec<Part>, Vec<Vec<u8>>)> {
    vec((0..1_u64 << 50, vec(any::<u8>(), 1..400)), 0..5).prop_map(|pieces| {
        let mut end = 0;
        let place = |(gap, content): (u64, Vec<u8>)| {
            let part = Part { offset: end + gap, bytes: content.len() as u32, at: 0 };
            end = part.offset + u64::from(part.bytes);
            (part, content)
        };
        pieces.into_iter().map(place).unzip()
    })
}

/// Any record, with LSN 0.
pub fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        3 => change().prop_map(Entry::from),
        1 => (key(), any::<u64>(), time(), parts()).prop_map(|(object, size, mtime, pieces)| {
            let (parts, contents) = pieces;
            let change = Change::Data { object, size, mtime, parts };
            Entry { record: Record { lsn: 0, change }, contents }
        }),
    ]
}
