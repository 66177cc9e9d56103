//! `selftest`: a program with a sync and the same without it; only one may be found.

use std::path::Path;
use std::time::Duration;

use fs_core::crash::model;
use fs_core::crash::plan::Budget;

use crate::cli::table;
use crate::crash::campaign::{self, CampaignPlan};
use crate::crash::check::{CheckPlan, Limits};
use crate::crash::lab::Lab;
use crate::crash::record::{RecordJob, record};
use crate::failure::Failure;

/// Replaces a file as it should be, with one sync for each purpose.
const GOOD: &str = "printf new > a.tmp && sync a.tmp && mv a.tmp a && sync . && echo done";
/// The same with one sync less, and the model under which it shows.
const PLANTED: &[(&str, &str, &str)] = &[
    ("the sync of the file", "xfs", "printf new > a.tmp && mv a.tmp a && sync . && echo done"),
    (
        "the sync of the directory",
        "ext4",
        "printf new > a.tmp && sync a.tmp && mv a.tmp a && echo done",
    ),
];
/// Old or new, and new once that was told.
const CHECK: &str = "case $(cat a) in new) ;; old) ! grep -q done $LANEFS_ACK;; *) false;; esac";

/// Runs it.
pub(super) fn run() -> Result<(), Failure> {
    let home = tempfile::tempdir()
        .map_err(|error| Failure::new(format!("cannot make a directory: {error}")))?;
    let directory = home.path();
    std::fs::write(directory.join("a"), "old")
        .map_err(|error| Failure::new(format!("cannot write a file: {error}")))?;
    let lab = Lab::enter()?;
    for model in ["ext4", "xfs", "btrfs"] {
        let found = found(&lab, directory, GOOD, model)?;
        if found > 0 {
            return Err(Failure::new(format!(
                "the self-test found {found} mistakes under {model} in a program that has none"
            )));
        }
        table::print(&format!("{model:6} no finding where all is synced\n"))?;
    }
    for (what, model, program) in PLANTED {
        if found(&lab, directory, program, model)? == 0 {
            return Err(Failure::new(format!(
                "the self-test did not find that {what} is missing, under {model}"
            )));
        }
        table::print(&format!("{model:6} found that {what} is missing\n"))?;
    }
    Ok(())
}

/// Number of findings.
fn found(lab: &Lab, directory: &Path, program: &str, model: &str) -> Result<usize, Failure> {
    let job = RecordJob {
        command: ["sh", "-c", program].map(Into::into).into(),
        directory: directory.to_owned(),
        working_directory: directory.to_owned(),
        told: None,
        environment: Vec::new(),
    };
    let recording = record(lab, &job)?;
    if !recording.status.success() {
        return Err(Failure::new("the self-test's program does not run here: it needs sync(1)"));
    }
    if let Some(difference) = recording.difference {
        return Err(Failure::new(format!("the recording is not what was done: {difference}")));
    }
    let plan = CampaignPlan {
        models: model::by_name(model).into_iter().collect(),
        check: CheckPlan {
            command: CHECK.to_owned(),
            directory: directory.to_owned(),
            working_directory: directory.to_owned(),
            workers: 2,
            timeout: Duration::from_secs(10),
            limits: Limits::default(),
            shares_network: false,
        },
        budget: Budget::default(),
        time_max: Duration::from_secs(60),
        told: None,
    };
    let report = campaign::run(lab, &recording.trace, &plan, &mut |_, _, _| {})?;
    Ok(report.findings.len())
}
