//! The report as one page: a timeline of what was done to each file, and what each finding
//! keeps and loses of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use fs_core::crash::judge::Finding;
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::Operation;
use fs_core::crash::words::Names;

use super::output::{Output, escaped};

const STYLE: &str = "
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.15rem .6rem;text-align:left;vertical-align:top}
.bad{color:#a40e26;font-weight:600}.good{color:#116329;font-weight:600}
.lanes{overflow-x:auto;border:1px solid #d0d7de;border-radius:6px;padding:.5rem;margin:.5rem 0}
.lanes table{font:12px/1.2 ui-monospace,monospace}
.lanes td.op{min-width:1.1rem;height:1.2rem;text-align:center;padding:0 1px;border-left:1px solid #eaeef2}
.lanes td.name{position:sticky;left:0;background:#fff;white-space:nowrap;padding-right:1rem}
.w{background:#b6e3ff}.n{background:#d8b9ff}.s{background:#1f883d;color:#fff}.a{background:#fae17d}
.lost{background:#ff8182}.torn{background:#ffb77c}.after{opacity:.25}
code{background:#f6f8fa;padding:.1rem .3rem;border-radius:4px}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.lanes{border-color:#30363d}
.lanes td.name{background:#0d1117}.lanes td.op{border-color:#21262d;color:#0d1117}code{background:#161b22}
.bad{color:#ff7b72}.good{color:#3fb950}}
";

/// The file's content.
pub(super) fn report(output: &Output<'_>) -> String {
    let (trace, report) = (output.trace, output.report);
    let names = Names::new(trace);
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let title = escaped(&format!("crash-test: {}", trace.command.join(" ")));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n<table>"
    );
    for (law, model) in report.models.iter().enumerate() {
        let found = report.findings.iter().filter(|finding| finding.laws.contains(&law)).count();
        let verdict = match found {
            0 => "<span class=\"good\">clean</span>".to_owned(),
            1 => "<span class=\"bad\">1 finding</span>".to_owned(),
            _ => format!("<span class=\"bad\">{found} findings</span>"),
        };
        let (name, states, refused) = (escaped(model.name), model.states, model.refused);
        let _ = writeln!(page, "<tr><th>{name}<td>{verdict}<td>{states} states, {refused} refused");
    }
    let trust = match output.difference {
        None => "replaying the recording gives the directory byte for byte".to_owned(),
        Some(difference) => {
            format!("<span class=\"bad\">do not trust this: {}</span>", escaped(difference))
        }
    };
    let _ = writeln!(
        page,
        "</table>\n<p>{} operations; {trust}.\n<h2>What was done</h2>",
        trace.operations.len()
    );
    lanes(&mut page, output, &names, |_| "");
    for (number, finding) in report.findings.iter().enumerate() {
        let law = Law::new(output.plan.models[finding.witness.0], &subject.log);
        finding_section(&mut page, output, &names, number + 1, finding, &law);
    }
    page.push_str(
        "<p><span class=\"w\">w</span> bytes, <span class=\"n\">n</span> names and attributes, \
         <span class=\"s\">s</span> sync, <span class=\"a\">a</span> told, \
         <span class=\"lost\">lost</span>, <span class=\"torn\">in part</span></html>\n",
    );
    page
}

fn finding_section(
    page: &mut String,
    output: &Output<'_>,
    names: &Names,
    number: usize,
    finding: &Finding,
    law: &Law<'_>,
) {
    let trace = output.trace;
    let models: Vec<_> = finding.laws.iter().map(|law| output.plan.models[*law].name()).collect();
    let _ = writeln!(
        page,
        "<h2 id=\"finding-{number}\">{number}. {}: {}</h2>\n<p>{}, under {}. Checker: <code>{}</code>. \
         Cure: <b>{}</b>.",
        finding.class.name(),
        escaped(&finding.sentence(trace, names)),
        escaped(&finding.actor(trace)),
        escaped(&models.join(", ")),
        escaped(&finding.said),
        escaped(&finding.cure_in_words(trace, names)),
    );
    let crash = &finding.witness.1;
    let torn = crash.torn.and_then(|(step, _)| law.rules.atom_of.get(step as usize));
    lanes(page, output, names, |operation| {
        if operation >= crash.at {
            return " after";
        }
        let mut atoms = law.rules.end(operation)..law.rules.end(operation + 1);
        let lost = atoms.clone().filter(|atom| !crash.kept.contains(*atom as usize)).count();
        match (lost, atoms.len()) {
            _ if torn.is_some_and(|torn| atoms.any(|atom| atom == *torn)) => " torn",
            (0, _) => "",
            (lost, all) if lost == all => " lost",
            _ => " torn",
        }
    });
}

/// A row for each file, a column for each operation.
fn lanes(
    page: &mut String,
    output: &Output<'_>,
    names: &Names,
    mark: impl Fn(usize) -> &'static str,
) {
    let trace = output.trace;
    let mut rows: BTreeMap<String, Vec<(usize, &'static str)>> = BTreeMap::new();
    let mut columns = 0;
    for (number, recorded) in trace.operations.iter().enumerate() {
        let kind = match recorded.operation {
            Operation::Close { .. } => continue,
            Operation::Write { .. } | Operation::Resize { .. } | Operation::Allocate { .. } => "w",
            Operation::Sync { .. } => "s",
            Operation::Ack { .. } => "a",
            _ => "n",
        };
        columns += 1;
        let lane = match recorded.operation {
            Operation::Ack { .. } => "(told)".to_owned(),
            _ => recorded.operation.ino().map(|ino| names.of_object(ino)).unwrap_or_default(),
        };
        rows.entry(lane).or_default().push((number, kind));
    }
    let shown: Vec<usize> = trace
        .operations
        .iter()
        .enumerate()
        .filter(|(_, recorded)| !matches!(recorded.operation, Operation::Close { .. }))
        .map(|(number, _)| number)
        .collect();
    page.push_str("<div class=\"lanes\"><table>\n");
    for (lane, operations) in rows {
        let _ = write!(page, "<tr><td class=\"name\">{}", escaped(&lane));
        let mut operations = operations.into_iter().peekable();
        for number in shown.iter().take(columns) {
            match operations.next_if(|(operation, _)| operation == number) {
                Some((operation, kind)) => {
                    let title = escaped(&names.call(trace, operation));
                    let _ = write!(
                        page,
                        "<td class=\"op {kind}{}\" title=\"{title}\">{kind}",
                        mark(operation)
                    );
                }
                None => page.push_str("<td class=\"op\">"),
            }
        }
        page.push('\n');
    }
    page.push_str("</table></div>\n");
}
