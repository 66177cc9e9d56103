//! Programs from outside that tests need, brought when missing.
//!
//! Two sources only: Debian packages and the cargo registry. Each is asked at most once a machine,
//! under a file lock, because test processes run at the same time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use crate::run::{self, Outcome};
use crate::workspace;

/// Package lists and packages come over the network; a cargo tool takes a minute or two to build.
const INSTALL_DEADLINE: Duration = Duration::from_secs(600);

/// The path of `program`, installing the Debian package `package` when the program is missing.
#[track_caller]
pub fn debian(package: &str, program: &str) -> PathBuf {
    if let Some(path) = find(program) {
        return path;
    }
    let _lock = workspace::lock("apt");
    if let Some(path) = find(program) {
        return path;
    }
    let by_hand = format!(
        "this test needs the program `{program}`: install it with `apt-get install {package}` or \
         what your system has in its place"
    );
    assert!(find("apt-get").is_some(), "{by_hand} (there is no apt-get here)");
    assert!(rustix::process::geteuid().is_root(), "{by_hand} (not root, so not done for you)");
    apt_get(&["update"], &by_hand);
    apt_get(&["install", "--yes", "--no-install-recommends", package], &by_hand);
    find(program).unwrap_or_else(|| panic!("the package {package} brought no `{program}`"))
}

/// The path of a program from the cargo registry, built into the tools folder on first use.
#[track_caller]
pub fn cargo_tool(name: &str, version: &str) -> PathBuf {
    let folder = workspace::tools();
    let program = folder.join("bin").join(name);
    let _lock = workspace::lock(name);
    if is_installed(&folder, name, version) && program.exists() {
        return program;
    }
    eprintln!("building {name} {version} into {}: this happens once", folder.display());
    let mut command = Command::new(workspace::cargo());
    command.args(["install", "--locked", "--force", "--root"]).arg(&folder);
    command.args([name, "--version", &format!("={version}")]);
    // Its own target folder: it shares nothing with ours, and what it built there is not needed.
    command.env_remove("CARGO_TARGET_DIR").current_dir(workspace::root());
    run::run(&mut command, INSTALL_DEADLINE).expect_success();
    program
}

/// Looks for a program in `PATH`, in the folders for administrators, and where Debian keeps
/// PostgreSQL.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/lib/postgresql/15/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 1 != 0)
    })
}

// Cargo's own record of what it installed; the lock makes reading it safe.
fn is_installed(folder: &Path, name: &str, version: &str) -> bool {
    let record = fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
    record.contains(&format!("\"{name} {version} "))
}

#[track_caller]
fn apt_get(arguments: &[&str], by_hand: &str) {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let outcome: Outcome = run::run(&mut command, INSTALL_DEADLINE);
    assert!(outcome.status.success(), "{by_hand}\n{}", outcome.describe());
}
