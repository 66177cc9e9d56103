//! The tests of fs-core that need a machine made for them: built here, run by who includes this.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::{run, workspace};

const BUILD_DEADLINE: Duration = Duration::from_secs(600);

/// Builds an integration test of fs-core, and says where its program is.
pub fn build(name: &str) -> PathBuf {
    let _lock = workspace::lock("fs-core-checks-build");
    let mut command = Command::new(workspace::cargo());
    command.args(["test", "--package", "fs-core", "--test", name, "--no-run"]);
    command.arg("--message-format=json-render-diagnostics").current_dir(workspace::root());
    let outcome = run::run(&mut command, BUILD_DEADLINE);
    assert!(outcome.status.success(), "{name} of fs-core does not build:\n{}", outcome.stderr);
    let executable = outcome.stdout.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == name;
        is_ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    executable.unwrap_or_else(|| panic!("cargo named no executable:\n{}", outcome.stderr))
}
