//! The callbacks, called directly: no driver, real files. Of WinFsp only its DLL is needed, for
//! listings.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use winfsp::U16CString;

use super::*;
use crate::mount::{MountPlan, serve_directory};

const ALL: u32 = fs::FILE_GENERIC_READ | fs::FILE_GENERIC_WRITE | fs::DELETE;
const DELETE: u32 = winfsp::constants::FspCleanupFlags::FspCleanupDelete as u32;

struct Bench {
    place: TempDir,
    skin: Skin,
}

impl Bench {
    fn new() -> Self {
        Self::with("")
    }

    fn with(options: &str) -> Self {
        let place = tempfile::tempdir().expect("a scratch directory");
        let mut plan = MountPlan::plain(place.path(), Path::new("X:"));
        plan.options.apply(options).expect("good options");
        let served = serve_directory(&plan).expect("a plain directory is served");
        Self { place, skin: Skin::new(served.tree, Arc::default(), "label".to_owned()) }
    }

    fn create(&self, name: &str, options: u32) -> Result<Open> {
        let mut info = open_info();
        let attributes = fs::FILE_ATTRIBUTE_NORMAL;
        let name = wide(name);
        let made =
            self.skin.create(&name, options, ALL, attributes, None, 0, None, false, &mut info)?;
        assert_eq!(info.as_ref().file_size, 0);
        Ok(made)
    }

    fn file(&self, name: &str) -> Open {
        self.create(name, 0).expect("a file is made")
    }

    fn dir(&self, name: &str) {
        let made = self.create(name, DIRECTORY_FILE).expect("a directory is made");
        self.skin.close(made);
    }

    fn open(&self, name: &str, access: u32) -> Result<Open> {
        self.skin.open(&wide(name), 0, access, &mut open_info())
    }

    fn write(&self, open: &Open, data: &[u8], offset: u64) -> Result<u32> {
        self.skin.write(open, data, offset, false, false, &mut FileInfo::default())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.path().join(name)).expect("the file is there")
    }

    fn put(&self, name: &str, content: &str) {
        std::fs::write(self.place.path().join(name), content).expect("a file");
    }

    fn exists(&self, name: &str) -> bool {
        self.place.path().join(name).exists()
    }

    /// All names of a directory, taken in pieces of a buffer's size.
    fn names(&self, dir: &Open, pattern: Option<&str>, buffer_bytes: usize) -> Vec<String> {
        winfsp::winfsp_init().expect("winfsp-x64.dll: name its directory in WINEPATH");
        let pattern = pattern.map(wide);
        let mut names: Vec<String> = Vec::new();
        loop {
            let marker = names.last().map(|name| wide(name));
            let mut buffer = vec![0; buffer_bytes];
            let marker = marker_of(marker.as_deref());
            let read = self.skin.read_directory(dir, pattern.as_deref(), marker, &mut buffer);
            let (read, before) = (read.expect("a listing") as usize, names.len());
            let is_end = entries(&buffer[..read], &mut names);
            if is_end {
                return names;
            }
            assert!(names.len() > before, "no entry fits {buffer_bytes} bytes");
        }
    }
}

fn wide(text: &str) -> U16CString {
    U16CString::from_str(text).expect("no zero in it")
}

fn open_info() -> OpenFileInfo {
    // SAFETY: numbers, and a pointer that is null: nobody sets a normalized name here.
    unsafe { std::mem::zeroed() }
}

fn marker_of(marker: Option<&U16CStr>) -> DirMarker<'_> {
    // SAFETY: the type is this option and nothing else; the crate makes one only in its dispatcher.
    unsafe { std::mem::transmute::<Option<&U16CStr>, DirMarker<'_>>(marker) }
}

/// Takes names out of a buffer of `FSP_FSCTL_DIR_INFO`; whether the listing ends in it.
fn entries(buffer: &[u8], names: &mut Vec<String>) -> bool {
    /// Size, information, and room for the next offset.
    const HEADER_BYTES: usize = 8 + 72 + 24;
    let mut at = 0;
    while at + 2 <= buffer.len() {
        let size = usize::from(u16::from_le_bytes([buffer[at], buffer[at + 1]]));
        if size == 0 {
            return true;
        }
        let name = &buffer[at + HEADER_BYTES..at + size];
        let units: Vec<u16> =
            name.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        names.push(String::from_utf16(&units).expect("text"));
        at += size.next_multiple_of(8);
    }
    false
}

fn error<T>(result: Result<T>) -> i32 {
    result.err().expect("it is refused").to_ntstatus()
}

#[test]
fn what_is_written_is_read_and_flushed() {
    let bench = Bench::new();
    let open = bench.file("\\f");
    assert_eq!(bench.write(&open, b"hello world", 0).expect("a write"), 11);
    let mut info = FileInfo::default();
    bench.skin.flush(Some(&open), &mut info).expect("a flush");
    assert_eq!((info.file_size, info.hard_links), (11, 1));
    assert!(info.creation_time > 0 && info.last_write_time >= info.creation_time);
    assert_ne!(info.index_number, 0);
    assert_eq!(info.file_attributes & fs::FILE_ATTRIBUTE_DIRECTORY, 0);
    let mut buffer = [0; 100];
    assert_eq!(bench.skin.read(&open, &mut buffer, 6).expect("a read"), 5);
    assert_eq!(&buffer[..5], b"world");
    assert_eq!(error(bench.skin.read(&open, &mut buffer, 11)), nt::STATUS_END_OF_FILE);
    let status = bench.skin.tree.engine().status();
    assert_eq!((status.lanes.sync_requests, status.lanes.errors), (1, 0));
    bench.skin.close(open);
    assert_eq!(bench.text("f"), "hello world");
    assert_eq!(bench.skin.tree.counts().1, 0, "no file stays open");
    bench.skin.flush(None, &mut info).expect("a flush of the volume");
}

/// One that is open cannot be written without the right to, nor as a directory.
#[test]
fn rights_are_those_of_the_open() {
    let bench = Bench::new();
    bench.put("f", "content");
    let reader = bench.open("\\f", fs::FILE_GENERIC_READ).expect("an open");
    assert_eq!(error(bench.write(&reader, b"x", 0)), nt::STATUS_ACCESS_DENIED);
    let looker = bench.open("\\f", fs::FILE_READ_ATTRIBUTES).expect("an open");
    let mut buffer = [0; 10];
    assert_eq!(error(bench.skin.read(&looker, &mut buffer, 0)), nt::STATUS_ACCESS_DENIED);
    let mut info = FileInfo::default();
    bench.skin.get_file_info(&looker, &mut info).expect("information");
    assert_eq!(info.file_size, 7);
    let root = bench.open("\\", ALL).expect("the root");
    assert_eq!(error(bench.skin.read(&root, &mut buffer, 0)), nt::STATUS_INVALID_DEVICE_REQUEST);
    bench.skin.flush(Some(&root), &mut info).expect("a directory is flushed");
    assert_ne!(info.file_attributes & fs::FILE_ATTRIBUTE_DIRECTORY, 0);
}

/// What programs get for what they do wrong.
#[test]
fn errors_are_those_of_windows() {
    let bench = Bench::new();
    bench.put("f", "");
    bench.dir("\\d");
    let open = |name: &str| error(bench.open(name, ALL));
    let make = |name: &str| error(bench.create(name, 0));
    let wide = "\u{65e5}".repeat(256);
    let table: [(&str, i32, i32); 12] = [
        ("open missing", open("\\none"), nt::STATUS_OBJECT_NAME_NOT_FOUND),
        ("open below missing", open("\\none\\x"), nt::STATUS_OBJECT_PATH_NOT_FOUND),
        ("open below a file", open("\\f\\x\\y"), nt::STATUS_OBJECT_PATH_NOT_FOUND),
        ("open a stream", open("\\f:stream"), nt::STATUS_OBJECT_NAME_INVALID),
        ("make a stream", make("\\f:stream:$DATA"), nt::STATUS_OBJECT_NAME_INVALID),
        ("open what is no name", open("\\a/b"), nt::STATUS_OBJECT_NAME_INVALID),
        ("make what is there", make("\\f"), nt::STATUS_OBJECT_NAME_COLLISION),
        ("make it in other letters", make("\\F"), nt::STATUS_OBJECT_NAME_COLLISION),
        ("make the root", make("\\"), nt::STATUS_OBJECT_NAME_COLLISION),
        ("make below missing", make("\\none\\x"), nt::STATUS_OBJECT_PATH_NOT_FOUND),
        ("make over a directory", make("\\d"), nt::STATUS_OBJECT_NAME_COLLISION),
        ("a name of 256 letters", make(&format!("\\{wide}")), nt::STATUS_NAME_TOO_LONG),
    ];
    for (what, found, expected) in table {
        assert_eq!(found, expected, "{what}: {found:#x}, not {expected:#x}");
    }
}

#[test]
fn a_file_is_overwritten_and_cut() {
    let bench = Bench::new();
    bench.put("f", "old content");
    let open = bench.open("\\f", ALL).expect("an open");
    let mut info = FileInfo::default();
    let hidden = fs::FILE_ATTRIBUTE_HIDDEN;
    bench.skin.overwrite(&open, hidden, true, 0, None, &mut info).expect("an overwrite");
    assert_eq!(info.file_size, 0);
    assert_ne!(info.file_attributes & hidden, 0, "{:#x}", info.file_attributes);
    bench.skin.set_file_size(&open, 5, false, &mut info).expect("a new length");
    assert_eq!(info.file_size, 5);
    // Room is not length, but less room than length is.
    bench.skin.set_file_size(&open, 4096, true, &mut info).expect("room");
    assert_eq!(info.file_size, 5);
    bench.skin.set_file_size(&open, 2, true, &mut info).expect("less room");
    assert_eq!(info.file_size, 2);
    // Paging writes never change the length.
    let written = bench.skin.write(&open, b"abcdef", 1, false, true, &mut info);
    assert_eq!(written.expect("a write"), 1);
    let written = bench.skin.write(&open, b"abcdef", 2, false, true, &mut info);
    assert_eq!((written.expect("a write"), info.file_size), (0, 2));
    bench.skin.close(open);
    assert_eq!(bench.text("f"), "\0a");
}

#[test]
fn names_are_moved_and_replaced() {
    let bench = Bench::new();
    bench.put("a", "new");
    bench.put("b", "old");
    bench.dir("\\d");
    let open = bench.open("\\a", ALL).expect("an open");
    let rename = |to: &str, replace| bench.skin.rename(&open, &wide("\\a"), &wide(to), replace);
    assert_eq!(error(rename("\\b", false)), nt::STATUS_OBJECT_NAME_COLLISION);
    assert_eq!(bench.text("b"), "old");
    assert_eq!(error(rename("\\none\\x", true)), nt::STATUS_OBJECT_PATH_NOT_FOUND);
    assert_eq!(error(rename("\\x:y", true)), nt::STATUS_OBJECT_NAME_INVALID);
    rename("\\b", true).expect("a replace");
    assert_eq!(bench.text("b"), "new");
    assert!(!bench.exists("a"));
    bench.skin.rename(&open, &wide("\\b"), &wide("\\d\\c"), false).expect("a move");
    assert_eq!(bench.text("d/c"), "new");
    // What is open under an old name is still the same file.
    bench.write(&open, b"ne2", 0).expect("a write");
    assert_eq!(bench.text("d/c"), "ne2");
    bench.skin.close(open);
}

#[test]
fn what_is_to_be_deleted_goes_at_cleanup() {
    let bench = Bench::new();
    bench.dir("\\d");
    let open = bench.file("\\d\\f");
    bench.write(&open, b"x", 0).expect("a write");
    let dir = bench.open("\\d", ALL).expect("a directory");
    let refused = bench.skin.set_delete(&dir, &wide("\\d"), true);
    assert_eq!(error(refused), nt::STATUS_DIRECTORY_NOT_EMPTY);
    bench.skin.set_delete(&open, &wide("\\d\\f"), true).expect("it may go");
    assert!(bench.exists("d/f"), "not yet");
    bench.skin.cleanup(&open, Some(&wide("\\d\\f")), DELETE);
    assert!(!bench.exists("d/f"));
    bench.skin.close(open);
    bench.skin.set_delete(&dir, &wide("\\d"), true).expect("it is empty now");
    bench.skin.cleanup(&dir, Some(&wide("\\d")), DELETE);
    bench.skin.close(dir);
    assert!(!bench.exists("d"));
    // Not what is read-only, and never the root.
    let open = bench.file("\\r");
    let mut info = FileInfo::default();
    let read_only = fs::FILE_ATTRIBUTE_READONLY;
    bench.skin.set_basic_info(&open, read_only, 0, 0, 0, 0, &mut info).expect("an attribute");
    assert_ne!(info.file_attributes & read_only, 0);
    assert_eq!(error(bench.skin.set_delete(&open, &wide("\\r"), true)), nt::STATUS_CANNOT_DELETE);
    let root = bench.open("\\", ALL).expect("the root");
    assert_eq!(error(bench.skin.set_delete(&root, &wide("\\"), true)), nt::STATUS_CANNOT_DELETE);
}

#[test]
fn times_are_set_and_left_alone() {
    let bench = Bench::new();
    let open = bench.file("\\f");
    let mut info = FileInfo::default();
    let (written, read) = (132_000_000_000_000_000, 131_000_000_000_000_000);
    let invalid = fs::INVALID_FILE_ATTRIBUTES;
    bench.skin.set_basic_info(&open, invalid, 0, read, written, 0, &mut info).expect("times");
    assert_eq!((info.last_write_time, info.last_access_time), (written, read));
    bench.skin.set_basic_info(&open, invalid, 0, 0, 0, 0, &mut info).expect("nothing");
    assert_eq!(info.last_write_time, written);
}

#[test]
fn a_listing_is_continued_behind_any_name() {
    let bench = Bench::new();
    bench.dir("\\d");
    let mut expected: Vec<String> = (0..300).map(|number| format!("file{number:04}.txt")).collect();
    for name in &expected {
        bench.put(&format!("d/{name}"), "x");
    }
    let dir = bench.open("\\d", ALL).expect("a directory");
    let texts = bench.names(&dir, Some("*5.txt"), 4096);
    assert_eq!(texts.len(), 30, "{texts:?}");
    expected.extend([".".to_owned(), "..".to_owned()]);
    expected.sort();
    for buffer_bytes in [400, 4096, 1 << 20] {
        assert_eq!(bench.names(&dir, None, buffer_bytes), expected, "{buffer_bytes}");
    }
    // What goes and comes between two calls moves nothing else.
    std::fs::remove_file(bench.place.path().join("d/file0150.txt")).expect("it goes");
    expected.retain(|name| name != "file0150.txt");
    assert_eq!(bench.names(&dir, None, 700), expected);
    // The root of a volume has no dots; the engine's own directory is not in it.
    let root = bench.open("\\", ALL).expect("the root");
    assert_eq!(bench.names(&root, None, 4096), ["d"]);
    let mut entry = DirInfo::new();
    bench.skin.get_dir_info_by_name(&dir, &wide("FILE0001.TXT"), &mut entry).expect("an entry");
    assert_eq!(entry.file_info_mut().file_size, 1);
}

/// Writers that append to one file never write over each other.
#[test]
fn appends_are_one_after_another() {
    let bench = Bench::new();
    bench.skin.close(bench.file("\\log"));
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let bench = &bench;
            scope.spawn(move || {
                let open = bench.open("\\log", ALL).expect("an open");
                for _ in 0..25 {
                    let (record, mut info) = ([b'0' + number; 10], FileInfo::default());
                    let written = bench.skin.write(&open, &record, 0, true, false, &mut info);
                    assert_eq!(written.expect("a write"), 10);
                }
                bench.skin.close(open);
            });
        }
    });
    let text = bench.text("log");
    assert_eq!(text.len(), 1000);
    for record in text.as_bytes().chunks(10) {
        assert!(record.iter().all(|&byte| byte == record[0]), "{text}");
    }
}

/// Threads that wait for their flushes lead no group; each is answered by its own.
#[test]
fn flushes_travel_together() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let bench = &bench;
            scope.spawn(move || {
                let open = bench.file(&format!("\\f{number}"));
                for round in 0..5 {
                    bench.write(&open, &[round], 0).expect("a write");
                    let mut info = FileInfo::default();
                    bench.skin.flush(Some(&open), &mut info).expect("a flush");
                }
                bench.skin.close(open);
            });
        }
    });
    let lanes = bench.skin.tree.engine().status().lanes;
    assert_eq!((lanes.sync_requests, lanes.errors), (40, 0));
    assert!(lanes.groups <= 40, "{lanes:?}");
}

/// In the mode `always` a change is durable when it is answered.
#[test]
fn modes_hold_on_windows_too() {
    let bench = Bench::with("durability=fsync");
    let syncs = |bench: &Bench| bench.skin.tree.engine().status().lanes.sync_requests;
    bench.skin.close(bench.file("\\a"));
    assert_eq!(syncs(&bench), 0, "nobody asked");
    let mut plan = MountPlan::plain(bench.place.path(), Path::new("X:"));
    plan.settings.policy = plan.settings.policy.with_default("always".parse().expect("a mode"));
    bench.skin.tree.set_policy(plan.settings.policy);
    let open = bench.file("\\b");
    let made = syncs(&bench);
    assert!(made > 0);
    bench.write(&open, b"x", 0).expect("a write");
    assert!(syncs(&bench) > made);
    bench.skin.close(open);
}

#[test]
fn security_is_the_backing_filesystems() {
    let bench = Bench::new();
    let open = bench.file("\\f");
    let length = bench.skin.get_security(&open, None).expect("a descriptor") as usize;
    let mut room = vec![0_u8; length];
    let by_name = |room: &mut [u8]| {
        // SAFETY: bytes as `c_void`, of the same size.
        let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) };
        bench.skin.get_security_by_name(&wide("\\f"), Some(room), |_| None)
    };
    let found = by_name(&mut room).expect("it fits");
    assert_eq!((found.sz_security_descriptor as usize, found.reparse), (length, false));
    // Revision 1, self-relative.
    assert_eq!((room[0], room[3] & 0x80), (1, 0x80));
    assert_eq!(error(by_name(&mut [0; 4])), nt::STATUS_BUFFER_OVERFLOW);
    let list = windows_sys::Win32::Security::DACL_SECURITY_INFORMATION;
    bench.skin.set_security_parts(&open, list, &room).expect("its own list");
    for damaged in [&room[..10], &[0xff; 64][..], &[]] {
        assert!(bench.skin.set_security_parts(&open, list, damaged).is_err());
    }
    let missing = bench.skin.get_security_by_name(&wide("\\none"), None, |_| None);
    assert_eq!(error(missing), nt::STATUS_OBJECT_NAME_NOT_FOUND);
}

#[test]
fn no_reparse_point_is_said_so() {
    let bench = Bench::new();
    let open = bench.file("\\f");
    let found = bench.skin.get_reparse_point(&open, &wide("\\f"), &mut [0; 100]);
    assert_eq!(error(found), nt::STATUS_NOT_A_REPARSE_POINT);
    // Programs cannot reach what the platform keeps under reserved names.
    let mut list = attributes::Builder::default();
    list.add("SYSTEM.NTFS_ACL", b"x").expect("it fits");
    let mut info = FileInfo::default();
    let set = bench.skin.set_extended_attributes(&open, &list.finish(), &mut info);
    assert_eq!(error(set), nt::STATUS_INVALID_PARAMETER);
}

#[test]
fn the_volume_has_the_size_of_the_backing_one() {
    let bench = Bench::new();
    // SAFETY: numbers only.
    let mut info: VolumeInfo = unsafe { std::mem::zeroed() };
    bench.skin.get_volume_info(&mut info).expect("sizes");
    assert!(info.total_size >= info.free_size && info.total_size > 1 << 20);
}
