//! The Debian package: cargo-deb makes it, lintian judges it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, fresh, write_all};

/// What makes the package; pinned, so that the same source makes the same package.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// Builds the package into `out`, and fails if lintian finds an error in it.
pub fn build(out: Option<&Path>, lintian: bool) -> Result<()> {
    let target = target();
    let out = out.map_or_else(|| target.join("debian"), Path::to_path_buf);
    let tool = cargo_deb(&target)?;
    run(Command::new(cargo()).args([
        "build",
        "--release",
        "-p",
        "fuse-frontend",
        "--bin",
        "lanefs",
    ]))?;
    // Where cargo-deb looks for what is built (fuse-frontend/Cargo.toml).
    let pages = target.join("release/packaging");
    write_all(&pages)?;
    // cargo-deb compresses what is not in the target folder only. `-n`: no time in it.
    run(Command::new("sh").args(["-c", "gzip -9n \"$1\"/man/*", "sh"]).arg(&pages))?;
    fresh(&out)?;
    run(Command::new(tool)
        .args(["deb", "--no-build", "--strip", "--package", "fuse-frontend", "--output"])
        .arg(&out))?;
    let package = only_package(&out)?;
    println!("{}", package.display());
    if lintian { judge(&package) } else { Ok(()) }
}

fn only_package(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?.flatten();
    let mut packages = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.next().ok_or_else(|| format!("cargo-deb left no package in {}", directory.display()))
}

/// Errors fail; the rest is shown.
fn judge(package: &Path) -> Result<()> {
    if find("lintian").is_none() {
        let install =
            "apt-get -qq update && apt-get -qq install --yes --no-install-recommends lintian";
        let by_hand = "lintian is missing: `apt-get install lintian`, or say --no-lintian";
        run(Command::new("sh").arg("-c").arg(install).env("DEBIAN_FRONTEND", "noninteractive"))
            .map_err(|_| by_hand.to_owned())?;
    }
    run(Command::new("lintian")
        .args(["--fail-on", "error", "--display-info", "--allow-root"])
        .arg(package))
}

fn cargo_deb(target: &Path) -> Result<PathBuf> {
    let (root, name) = (target.join("tools"), "cargo-deb");
    let program = root.join("bin").join(name);
    let record = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if !program.exists() || !record.contains(&format!("\"{name} {CARGO_DEB_VERSION} ")) {
        let mut command = Command::new(cargo());
        command.args(["install", "--locked", "--force", "--root"]).arg(&root);
        command.args([name, "--version", &format!("={CARGO_DEB_VERSION}")]);
        run(command.env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(program)
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.current_dir(root()).status();
    match status.map_err(|error| format!("cannot start {shown}: {error}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("{shown} ended with {status}")),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the workspace").to_path_buf()
}

fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}
