//! The library on real directories of this machine, and on the simulator where a test
//! must hold a fence or make it fail. What survives power cuts is proven in
//! `simulated_log/library.rs`.
//!
//! - [`operations`]: write, delete, copy; paths; what is kept of a file that is replaced.
//! - [`batches`]: order, results, limits, futures, panics, shutdown.
//! - [`platform`]: what only Linux has; with a log, on a filesystem made for it; kills.
//! - [`defects`]: one test for each defect of the crate that the idea comes from.

mod batches;
mod bench;
mod defects;
mod operations;
mod platform;

use std::path::Path;
use std::time::Duration;

use fs_core::batch::{Files, FilesConfig, LogUse};
use tempfile::TempDir;

/// Longer than anything takes.
pub const LONG: Duration = Duration::from_secs(20);

/// Settings without a log: opening is quick then.
pub fn plain() -> FilesConfig {
    FilesConfig { log: LogUse::Never, ..FilesConfig::default() }
}

/// A scratch directory, and the library on it.
pub fn files() -> (TempDir, Files) {
    files_with(plain())
}

/// As [`files`], with these settings.
pub fn files_with(config: FilesConfig) -> (TempDir, Files) {
    let place = tempfile::tempdir().expect("a scratch directory");
    let files = Files::open(place.path(), config).expect("a plain directory opens");
    (place, files)
}

/// A file's content.
pub fn text(place: &TempDir, path: &str) -> String {
    std::fs::read_to_string(place.path().join(path)).expect("the file is there")
}

/// Names in a directory that begin as temporary files do.
pub fn leftovers(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory can be read") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("text");
        if entry.file_type().expect("a type").is_dir() {
            found.extend(leftovers(&entry.path()));
        } else if name.starts_with(fs_core::batch::TEMPORARY_PREFIX) && name != ".lanefs-tmp-open" {
            found.push(name);
        }
    }
    found
}
