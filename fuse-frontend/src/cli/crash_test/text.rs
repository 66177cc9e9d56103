//! The report for people: a few lines for each finding.

use std::fmt::Write;

use fs_core::crash::model;
use fs_core::crash::words::Names;

use crate::cli::table::{row, table};
use crate::crash::campaign::{CampaignPlan, Report};
use crate::crash::record::Recording;

/// The models and what they say.
pub(super) fn models() -> String {
    let rows: Vec<_> = model::all()
        .iter()
        .map(|model| vec![format!("{:14} {}", model.name(), model.about())])
        .collect();
    table(&rows)
}

/// The report.
pub(super) fn report(recording: &Recording, plan: &CampaignPlan, report: &Report) -> String {
    let trace = &recording.trace;
    let names = Names::new(trace);
    let mut text = String::new();
    let verdicts: Vec<String> = report
        .models
        .iter()
        .enumerate()
        .map(|(law, model)| {
            let found =
                report.findings.iter().filter(|finding| finding.laws.contains(&law)).count();
            match found {
                0 => format!("{} clean", model.name),
                1 => format!("{} 1 finding", model.name),
                _ => format!("{} {found} findings", model.name),
            }
        })
        .collect();
    let _ = writeln!(
        text,
        "{} ({} operations, {} states, {} checks in {:.1} s)",
        verdicts.join("; "),
        trace.operations.len(),
        report.planned,
        report.checks,
        (report.planning + report.checking).as_secs_f64()
    );
    if let Some(when) = report.refuses {
        let _ = writeln!(
            text,
            "the checker refuses the directory as it was {when} the run, without a crash: \
             check the checker"
        );
    }
    for (number, finding) in report.findings.iter().enumerate() {
        let models: Vec<_> = finding.laws.iter().map(|law| plan.models[*law].name()).collect();
        let _ = writeln!(
            text,
            "{}. {} [{}]: {}",
            number + 1,
            finding.class.name(),
            models.join(", "),
            finding.sentence(trace, &names)
        );
        let _ = writeln!(
            text,
            "   by {}, crash after operation {} of {}; checker: {}",
            finding.actor(trace),
            finding.witness.1.at,
            trace.operations.len(),
            finding.said
        );
        let cured = if finding.cure.is_empty() {
            String::new()
        } else {
            format!(" (cures {} of {} bad states)", finding.cured, finding.states)
        };
        let _ = writeln!(text, "   cure: {}{cured}", finding.cure_in_words(trace, &names));
    }
    if let Some(difference) = &recording.difference {
        let _ =
            writeln!(text, "DO NOT TRUST THIS: the recording is not what was done: {difference}");
    }
    if let Some(reason) = &report.cut_short {
        let _ = writeln!(text, "not all states were checked: {reason}");
    }
    if !recording.status.success() {
        let _ = writeln!(text, "the program itself ended with {}", recording.status);
    }
    text
}

/// Rows of a table of models.
#[allow(dead_code)]
fn rows(report: &Report) -> String {
    let mut rows = vec![row([&"model", &"states", &"refused"])];
    rows.extend(report.models.iter().map(|m| row([&m.name, &m.states, &m.refused])));
    table(&rows)
}
