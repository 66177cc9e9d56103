//! Losses kept for looking at: a crash image and what it should have held.
//!
//! Runs of real threads on a real kernel cannot be repeated step by step, so a case keeps the image
//! itself. `powercut --replay DIRECTORY` judges it again, and recovers it first as the campaign did.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checking::{Bench, Loss, Outcome, Rules};
use super::filesystem::Filesystem;
use super::notes::{Progress, Promised};
use super::recovery::Recovery;
use super::workload::Parts;
use crate::disk::Image;
use crate::workspace;

/// Where a loss comes from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// On the disk.
    pub filesystem: Filesystem,
    /// What made groups durable: the argument of the campaign.
    pub fence: &'a str,
    /// The mount options.
    pub options: &'a str,
    /// Its name.
    pub workload: &'a str,
    /// Of the recording.
    pub seed: u64,
    /// How many parts it had; 0: it was alone.
    pub parts: usize,
    /// What was done to the run, in words.
    pub story: &'a [String],
}

/// Keeps a loss below `target/powercut/` and says where.
///
/// # Errors
/// It cannot be written.
pub fn keep(origin: &Origin<'_>, loss: &Loss) -> Result<PathBuf, String> {
    let Origin { filesystem, fence, options, workload, seed, parts, story } = origin;
    let cut = &loss.cut;
    let what = if loss.how.contains("cut at") { "-nested" } else { "" };
    let name = filesystem.name();
    let name = format!("{name}-{fence}-{workload}-{seed}-{}-{:x}{what}", cut.position.0, cut.seed);
    let directory = workspace::target().join("powercut").join(name);
    let case = json!({
        "filesystem": filesystem.name(),
        "fence": fence,
        "options": options,
        "workload": workload,
        "seed": seed,
        "parts": parts,
        "story": story,
        "position": cut.position.0,
        "cut_seed": cut.seed,
        "choice": format!("{:?}", cut.choice),
        "unflushed": cut.unflushed_count,
        "how": loss.how,
        "promised": loss.promised.to_json(),
        "refused": loss.refused,
        "lost": loss.what,
    });
    let written = fs::create_dir_all(&directory)
        .and_then(|()| cut.image.to_file(&directory.join("disk.img")))
        .and_then(|()| fs::write(directory.join("case.json"), format!("{case:#}\n")));
    written.map_err(|error| format!("cannot keep the case in {}: {error}", directory.display()))?;
    Ok(directory)
}

/// Judges a kept case again; says what came of it. `explain` gets the last so many steps of each
/// actor in words.
///
/// # Errors
/// It cannot be read.
pub fn replay(
    directory: &Path,
    last_steps: u64,
    explain: impl Fn(&str),
) -> Result<Outcome, String> {
    let bad = |what: &str| format!("{}: {what}", directory.join("case.json").display());
    let text = fs::read_to_string(directory.join("case.json")).map_err(|e| bad(&e.to_string()))?;
    let case: Value = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    let text = |name: &str| case[name].as_str().ok_or_else(|| bad(&format!("no `{name}`")));
    let filesystem: Filesystem = text("filesystem")?.parse()?;
    let seed = case["seed"].as_u64().ok_or_else(|| bad("no `seed`"))?;
    // Cases of earlier versions have no fence, and nothing to recover.
    let fence = case["fence"].as_str().unwrap_or("none");
    let options = case["options"].as_str().unwrap_or_default();
    let parts = case["parts"].as_u64().and_then(|parts| usize::try_from(parts).ok());
    let workload = Parts::new(text("workload")?, seed, parts.unwrap_or(0))?;
    let promised = Promised::from_json(&case["promised"]).ok_or_else(|| bad("no `promised`"))?;
    for (actor, progress) in promised.actors().filter(|_| last_steps > 0) {
        let Progress { acked, begun, covered } = progress;
        explain(&format!("actor {actor}: acknowledged {acked}, covered {covered}, begun {begun}"));
        let steps = (1..=begun).zip(workload.steps(actor));
        let from = acked.min(covered).saturating_sub(last_steps);
        steps.filter(|(number, _)| *number > from).for_each(|(number, step)| {
            explain(&format!("  {number}: {step}"));
        });
    }
    let image = Image::from_file(&directory.join("disk.img")).map_err(|e| bad(&e.to_string()))?;
    let rules = Rules { filesystem, recovery: Recovery::new(fence, options), nested: false };
    Bench::new(&rules)?.judge_once(&image, &workload, &promised)
}
