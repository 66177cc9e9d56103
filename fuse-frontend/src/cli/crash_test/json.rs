//! The report as JSON.

use fs_core::crash::law::{Law, Subject};
use fs_core::crash::state::Blocks;
use fs_core::crash::words::Names;
use serde_json::{Value, json};

use super::output::Output;

/// One object; its fields are listed in docs/crash-lab.md.
pub(super) fn report(output: &Output<'_>) -> Value {
    let Output { trace, plan, report, .. } = *output;
    let names = Names::new(trace);
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let models: Vec<Value> = report
        .models
        .iter()
        .map(|model| json!({"model": model.name, "states": model.states, "refused": model.refused}))
        .collect();
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let (law, crash) = &finding.witness;
            let law = Law::new(plan.models[*law], &subject.log);
            let models: Vec<_> = finding.laws.iter().map(|law| plan.models[*law].name()).collect();
            json!({
                "class": finding.class.name(),
                "known": output.is_known(finding, &names),
                "fingerprint": output.fingerprint(finding, &names),
                "models": models,
                "sentence": finding.sentence(trace, &names),
                "actor": finding.actor(trace),
                "lost": finding.lost.iter().map(|o| names.call(trace, *o)).collect::<Vec<_>>(),
                "kept": finding.kept.map(|kept| names.call(trace, kept)),
                "crash_after_operation": crash.at,
                "witness": finding.witness_in_words(&subject.log, &law.rules, &names),
                "checker": finding.said,
                "states": finding.states,
                "cure": finding.cure_in_words(trace, &names),
                "cured_states": finding.cured,
            })
        })
        .collect();
    let nested: Vec<Value> = output
        .nested
        .iter()
        .flat_map(|nested| {
            let own = Names::new(&nested.trace);
            let model = plan.models[nested.model].name();
            let found = nested.findings.iter().map(|finding| {
                json!({
                    "class": finding.class.name(),
                    "model": model,
                    "sentence": finding.sentence(&nested.trace, &own),
                    "crash_before_operation": nested.at,
                    "checker": finding.said,
                })
            });
            found.collect::<Vec<_>>()
        })
        .collect();
    let useless: Vec<_> = report.useless.iter().map(|sync| names.call(trace, *sync)).collect();
    json!({
        "command": trace.command,
        "directory": String::from_utf8_lossy(&trace.directory),
        "operations": trace.operations.len(),
        "replay_identical": output.difference.is_none(),
        "difference": output.difference,
        "program_failed": output.program,
        "checker_refuses_without_crash": report.refuses,
        "models": models,
        "crashes": report.crashes,
        "states": report.planned,
        "checks": report.checks,
        "skipped": report.skipped,
        "planning_s": report.planning.as_secs_f64(),
        "checking_s": report.checking.as_secs_f64(),
        "cut_short": report.cut_short,
        "findings": findings,
        "recoveries": output.nested.len(),
        "recovery_findings": nested,
        "syncs": report.syncs,
        "useless_syncs": useless,
        "asked": report.asked,
        "recording": output.saved,
    })
}
