//! The report as JUnit XML: a case for each model that is clean, and for each finding.

use std::fmt::Write;

use fs_core::crash::words::Names;

use super::output::{Output, escaped};

/// The file's content.
pub(super) fn report(output: &Output<'_>) -> String {
    let report = output.report;
    let names = Names::new(output.trace);
    let clean: Vec<_> = report
        .models
        .iter()
        .enumerate()
        .filter(|(law, _)| !report.findings.iter().any(|finding| finding.laws.contains(law)))
        .collect();
    let new = report.findings.iter().filter(|finding| !output.is_known(finding, &names)).count();
    let seconds = report.checking.as_secs_f64();
    let cases = clean.len() + report.findings.len();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        "<testsuite name=\"lanefs crash-test\" tests=\"{cases}\" failures=\"{new}\" \
         time=\"{seconds:.3}\">"
    );
    for (_, model) in clean {
        let _ = writeln!(
            text,
            "  <testcase classname=\"{}\" name=\"{} states\"/>",
            escaped(model.name),
            model.states
        );
    }
    for finding in &report.findings {
        let models: Vec<_> =
            finding.laws.iter().map(|law| output.plan.models[*law].name()).collect();
        let sentence = finding.sentence(output.trace, &names);
        let _ = writeln!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\">",
            escaped(&models.join(",")),
            escaped(&sentence)
        );
        let body = format!(
            "{}: {sentence}\nby {}\nchecker: {}\ncure: {}",
            finding.class.name(),
            finding.actor(output.trace),
            finding.said,
            finding.cure_in_words(output.trace, &names)
        );
        if output.is_known(finding, &names) {
            let _ = writeln!(text, "    <skipped message=\"in the baseline\"/>");
        } else {
            let _ = writeln!(
                text,
                "    <failure type=\"{}\">{}</failure>",
                finding.class.name(),
                escaped(&body)
            );
        }
        text.push_str("  </testcase>\n");
    }
    text.push_str("</testsuite>\n");
    text
}
