//! Single operations: what is there afterwards, and what is refused.

use fs_core::batch::{FileError, Files, FilesConfig, HardLinks, LogUse, Method, OpenFilesError};
use fs_core::error::Errno;

use crate::*;

#[test]
fn a_write_is_there_and_leaves_nothing_else() {
    let (place, files) = files();
    std::fs::create_dir(place.path().join("d")).unwrap();
    files.write("d/a", b"one").unwrap();
    assert_eq!(text(&place, "d/a"), "one");
    files.write("d/../d/./a", "another").unwrap();
    assert_eq!(text(&place, "d/a"), "another");
    files.copy("d/a", "b").unwrap();
    assert_eq!(text(&place, "b"), "another");
    files.delete("d/a").unwrap();
    files.delete("d/a").unwrap();
    files.delete("no/such/directory").unwrap();
    assert!(!place.path().join("d/a").exists());
    files.write("empty", "").unwrap();
    files.copy("empty", "b").unwrap();
    assert_eq!(text(&place, "b"), "");
    files.close(LONG).unwrap();
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
    let names = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(names, 3, "d, b, empty");
}

#[test]
fn with_a_log_the_same() {
    let config = FilesConfig {
        log: LogUse::WherePossible,
        log_bytes: fs_core::log::format::LOG_BYTES_MIN,
        ..FilesConfig::default()
    };
    let (place, files) = files_with(config.clone());
    files.write("a", vec![1; 10_000]).unwrap();
    files.batch().write("b", "b").copy("a", "c").delete("a").commit().unwrap();
    files.close(LONG).unwrap();
    let files = Files::open(place.path(), config).unwrap();
    assert_eq!(std::fs::read(place.path().join("c")).unwrap(), vec![1; 10_000]);
    assert!(!place.path().join("a").exists());
    drop(files);
}

#[test]
fn paths_do_not_lead_out() {
    let (place, files) = files();
    for path in ["/etc/passwd", "../x", "d/../../x"] {
        std::fs::create_dir_all(place.path().join("d")).unwrap();
        let error = files.write(path, "x").unwrap_err();
        assert!(matches!(error, FileError::Outside(_)), "{path}: {error}");
    }
    for path in ["", ".", "d", "d/.."] {
        let error = files.write(path, "x").unwrap_err();
        assert!(matches!(error, FileError::NotAFile(_)), "{path:?}: {error}");
    }
    for path in [".lanefs-tmp-1", "d/.lanefs-tmp-1", ".lanefs/log"] {
        let error = files.write(path, "x").unwrap_err();
        assert!(matches!(error, FileError::Reserved(_)), "{path}: {error}");
    }
    assert_eq!(files.write("none/x", "x").unwrap_err().errno(), Some(Errno::NOENT));
    assert_eq!(files.copy("none", "x").unwrap_err().errno(), Some(Errno::NOENT));
    assert_eq!(leftovers(place.path()), Vec::<String>::new());
}

#[test]
fn a_name_of_255_bytes_can_be_written() {
    let (place, files) = files();
    let name = "n".repeat(255);
    files.write(&name, "x").unwrap();
    assert_eq!(text(&place, &name), "x");
}

#[test]
fn hard_links_are_split_only_if_asked_for() {
    let split = FilesConfig { hard_links: HardLinks::Split, ..plain() };
    let (place, files) = files_with(split);
    std::fs::write(place.path().join("a"), "old").unwrap();
    std::fs::hard_link(place.path().join("a"), place.path().join("b")).unwrap();
    files.write("a", "new").unwrap();
    assert_eq!((text(&place, "a"), text(&place, "b")), ("new".into(), "old".into()));
}

#[test]
fn every_method_writes_every_length() {
    for method in [Method::Auto, Method::Sync, Method::Data, Method::Direct] {
        let (place, files) = files_with(FilesConfig { method, ..plain() });
        for bytes in [0, 1, 511, 4095, 4096, 4097, 1 << 20, (3 << 20) + 5] {
            let content: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
            files.write("f", &content).unwrap();
            let found = std::fs::read(place.path().join("f")).unwrap();
            assert!(found == content, "{method:?} {bytes}");
        }
        let direct = files.status().direct_bytes;
        assert_eq!(direct > 0, method == Method::Direct, "{method:?}: {direct}");
    }
}

#[test]
fn a_directory_is_opened_once() {
    let (place, files) = files();
    let again = Files::open(place.path(), plain());
    assert!(matches!(again, Err(OpenFilesError::Directory(_))));
    files.close(LONG).unwrap();
    Files::open(place.path(), plain()).unwrap();
}

#[test]
fn settings_out_of_their_limits_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let refused = Files::open(place.path(), FilesConfig { shards: 0, ..plain() });
    let error = refused.err().expect("it is refused").to_string();
    assert_eq!(error, "shards is 0: choose 1 to 64");
}

#[test]
fn directories_are_made_with_all_above() {
    let (place, files) = files();
    files.create_dirs("a/b/c").unwrap();
    files.create_dirs("a/b/c").unwrap();
    files.write("a/b/c/f", "x").unwrap();
    assert!(files.create_dirs("a/b/c/f/g").is_err());
    assert!(matches!(files.create_dirs("../x"), Err(FileError::Outside(_))));
    assert!(place.path().join("a/b/c").is_dir());
}
