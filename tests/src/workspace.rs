//! Where things lie: the workspace, its target folder, the folder for outside tools, and the lock
//! files that keep parallel test processes from building or installing the same thing twice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The root of the cargo workspace.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the tests package lies in the workspace").to_path_buf()
}

/// Cargo's target folder, as `CARGO_TARGET_DIR` says or else `target` in the workspace.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// The folder for tools that the tests install; made when missing.
pub fn tools() -> PathBuf {
    let directory = target().join("tools");
    fs::create_dir_all(&directory)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
    directory
}

/// Holds the lock file `name` in the tools folder until dropped. Waits for other processes (and
/// other threads: each call opens the file anew).
pub fn lock(name: &str) -> File {
    let path = tools().join(format!("{name}.lock"));
    let file = File::create(&path)
        .unwrap_or_else(|error| panic!("cannot make the lock {}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("cannot lock {}: {error}", path.display()));
    file
}

/// The cargo that runs the tests, or the one in `PATH`.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
