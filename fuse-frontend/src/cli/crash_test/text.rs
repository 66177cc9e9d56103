//! The report for people: a few lines for each finding.

use std::fmt::Write;

use fs_core::crash::judge::Finding;
use fs_core::crash::model;
use fs_core::crash::words::Names;

use super::output::Output;
use crate::crash::campaign::Report;

/// The models and what they say.
pub(super) fn models() -> String {
    let mut text = String::new();
    for model in model::all() {
        let _ = writeln!(text, "{:14} {}", model.name(), model.about());
        let _ = writeln!(text, "{:14} {}", "", model.source());
    }
    text
}

/// The report.
pub(super) fn report(output: &Output<'_>) -> String {
    let report = output.report;
    let names = Names::new(output.trace);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} ({} operations, {} states, {} checks in {:.1} s)",
        verdicts(report),
        output.trace.operations.len(),
        report.planned,
        report.checks,
        (report.planning + report.checking).as_secs_f64()
    );
    for (number, found) in report.findings.iter().enumerate() {
        finding(&mut text, output, &names, number + 1, found);
    }
    recoveries(&mut text, output, &names);
    warnings(&mut text, output);
    let (useless, syncs) = (report.useless.len(), report.syncs);
    if useless > 0 {
        let _ = writeln!(
            text,
            "{useless} of {syncs} syncs keep nothing that others do not keep, under these models \
             (--json lists them)"
        );
    }
    if let Some(saved) = output.saved {
        let _ = writeln!(text, "recording: {saved}");
    }
    text
}

fn verdicts(report: &Report) -> String {
    let verdict = |(law, model): (usize, &crate::crash::campaign::ModelReport)| {
        let found = report.findings.iter().filter(|finding| finding.laws.contains(&law)).count();
        match found {
            0 => format!("{} clean", model.name),
            1 => format!("{} 1 finding", model.name),
            _ => format!("{} {found} findings", model.name),
        }
    };
    report.models.iter().enumerate().map(verdict).collect::<Vec<_>>().join("; ")
}

fn finding(text: &mut String, output: &Output<'_>, names: &Names, number: usize, found: &Finding) {
    let trace = output.trace;
    let models: Vec<_> = found.laws.iter().map(|law| output.plan.models[*law].name()).collect();
    let (class, sentence) = (found.class.name(), found.sentence(trace, names));
    let known = if output.is_known(found, names) { " (known)" } else { "" };
    let _ = writeln!(text, "{number}. {class}{known} [{}]: {sentence}", models.join(", "));
    let _ = writeln!(
        text,
        "   by {}, crash after operation {} of {}; checker: {}",
        found.actor(trace),
        found.witness.1.at,
        trace.operations.len(),
        found.said
    );
    let cured = if found.cure.is_empty() {
        String::new()
    } else {
        format!(" (cures {} of {} bad states)", found.cured, found.states)
    };
    let _ = writeln!(text, "   cure: {}{cured}", found.cure_in_words(trace, names));
}

/// Findings of crashes during recovery: each once, with the first state that shows it.
fn recoveries(text: &mut String, output: &Output<'_>, names: &Names) {
    if output.nested.is_empty() {
        return;
    }
    let checks: usize = output.nested.iter().map(|nested| nested.checks).sum();
    let _ = writeln!(text, "{} recoveries cut off, {checks} checks", output.nested.len());
    let mut told = Vec::new();
    for nested in &output.nested {
        let own = Names::new(&nested.trace);
        for finding in &nested.findings {
            let sentence = finding.sentence(&nested.trace, &own);
            if told.contains(&sentence) {
                continue;
            }
            let (class, model) = (finding.class.name(), output.plan.models[nested.model].name());
            let _ = writeln!(text, "-  {class} in recovery [{model}]: {sentence}");
            let _ = writeln!(
                text,
                "   by {}, after a crash before {}; checker: {}",
                finding.actor(&nested.trace),
                names.call(output.trace, nested.at),
                finding.said
            );
            told.push(sentence);
        }
    }
}

/// What makes a report worth less than it looks.
fn warnings(text: &mut String, output: &Output<'_>) {
    let report = output.report;
    if let Some(when) = report.refuses {
        let _ = writeln!(
            text,
            "the checker refuses the directory as it was {when} the run, without a crash: \
             check the checker"
        );
    }
    if let Some(difference) = output.difference {
        let _ =
            writeln!(text, "DO NOT TRUST THIS: the recording is not what was done: {difference}");
    }
    if let Some(reason) = &report.cut_short {
        let _ = writeln!(text, "not all states were checked: {reason}");
    }
    if report.skipped > 0 {
        let _ = writeln!(text, "the checker skipped {} states", report.skipped);
    }
    if let Some(ended) = &output.program {
        let _ = writeln!(text, "the program itself ended with {ended}");
    }
}
