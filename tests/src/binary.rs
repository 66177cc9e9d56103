//! The `lanefs` binary under test: the release build of this workspace.
//!
//! Built from here and not only found, so that `cargo test --workspace` never tests yesterday's
//! binary, and in release mode, because that is what users run and what limits are stated for.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::{run, workspace};

const BUILD_DEADLINE: Duration = Duration::from_secs(600);

/// The path of `lanefs`: `LANEFS_BIN` when set, else built once in each test process.
#[track_caller]
pub fn lanefs() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(find_or_build).clone()
}

fn find_or_build() -> PathBuf {
    if let Some(path) = std::env::var_os("LANEFS_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "LANEFS_BIN={} is not a file", path.display());
        return path;
    }
    let _lock = workspace::lock("lanefs-build");
    let mut command = Command::new(workspace::cargo());
    command.args(["build", "--release", "--package", "fuse-frontend", "--bin", "lanefs"]);
    // Cargo knows best where it put the result: it depends on the target triple and on settings.
    command.arg("--message-format=json-render-diagnostics").current_dir(workspace::root());
    let outcome = run::run(&mut command, BUILD_DEADLINE);
    // Not the report on standard output: megabytes that say nothing.
    assert!(outcome.status.success(), "lanefs does not build:\n{}", outcome.stderr);
    let executable = outcome.stdout.lines().find_map(executable_in);
    executable.unwrap_or_else(|| panic!("cargo named no executable:\n{}", outcome.stderr))
}

// One line of cargo's report: the path, when it is the artifact that we asked for.
fn executable_in(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["target"]["name"] != "lanefs" {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}
