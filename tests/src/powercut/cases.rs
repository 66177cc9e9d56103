//! Losses kept for looking at: a crash image and what it should have held.
//!
//! Runs of real threads on a real kernel cannot be repeated step by step, so a case keeps the image
//! itself. `powercut --replay DIRECTORY` judges it again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checking::{Bench, Loss, Outcome};
use super::filesystem::Filesystem;
use super::notes::Promised;
use super::workload;
use crate::disk::Image;
use crate::workspace;

/// Keeps a loss below `target/powercut/` and says where.
///
/// # Errors
/// It cannot be written.
pub fn keep(
    filesystem: Filesystem,
    workload: &str,
    seed: u64,
    loss: &Loss,
) -> Result<PathBuf, String> {
    let cut = &loss.cut;
    let name = format!("{}-{workload}-{seed}-{}-{}", filesystem.name(), cut.position.0, cut.seed);
    let directory = workspace::target().join("powercut").join(name);
    let case = json!({
        "filesystem": filesystem.name(),
        "workload": workload,
        "seed": seed,
        "position": cut.position.0,
        "cut_seed": cut.seed,
        "choice": format!("{:?}", cut.choice),
        "unflushed": cut.unflushed_count,
        "promised": loss.promised.to_json(),
        "lost": loss.what,
    });
    let written = fs::create_dir_all(&directory)
        .and_then(|()| cut.image.to_file(&directory.join("disk.img")))
        .and_then(|()| fs::write(directory.join("case.json"), format!("{case:#}\n")));
    written.map_err(|error| format!("cannot keep the case in {}: {error}", directory.display()))?;
    Ok(directory)
}

/// Judges a kept case again; says what came of it.
///
/// # Errors
/// It cannot be read.
pub fn replay(directory: &Path) -> Result<Outcome, String> {
    let bad = |what: &str| format!("{}: {what}", directory.join("case.json").display());
    let text = fs::read_to_string(directory.join("case.json")).map_err(|e| bad(&e.to_string()))?;
    let case: Value = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    let text = |name: &str| case[name].as_str().ok_or_else(|| bad(&format!("no `{name}`")));
    let filesystem: Filesystem = text("filesystem")?.parse()?;
    let seed = case["seed"].as_u64().ok_or_else(|| bad("no `seed`"))?;
    let workload = workload::by_name(text("workload")?, seed)?;
    let promised = Promised::from_json(&case["promised"]).ok_or_else(|| bad("no `promised`"))?;
    let image = Image::from_file(&directory.join("disk.img")).map_err(|e| bad(&e.to_string()))?;
    Bench::new(filesystem)?.judge(&image, &*workload, &promised)
}
