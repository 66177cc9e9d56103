//! The report as SARIF 2.1.0, for services that show findings beside the code.
//!
//! The place of a finding is the process and its operation: where in the program's source
//! the call was made is not known to us.

use fs_core::crash::judge::Class;
use fs_core::crash::words::Names;
use serde_json::{Value, json};

use super::output::Output;

/// The file's content.
pub(super) fn report(output: &Output<'_>) -> String {
    let names = Names::new(output.trace);
    let rules: Vec<Value> = [Class::Atomicity, Class::Ordering, Class::Durability, Class::Tear]
        .iter()
        .map(|class| {
            let text = meaning(*class);
            json!({"id": class.name(), "shortDescription": {"text": text}})
        })
        .collect();
    let results: Vec<Value> = output
        .report
        .findings
        .iter()
        .map(|finding| {
            let models: Vec<_> =
                finding.laws.iter().map(|law| output.plan.models[*law].name()).collect();
            let known = output.is_known(finding, &names);
            json!({
                "ruleId": finding.class.name(),
                "level": if known { "note" } else { "error" },
                "baselineState": if known { "unchanged" } else { "new" },
                "message": {"text": format!(
                    "{} [{}]; cure: {}",
                    finding.sentence(output.trace, &names),
                    models.join(", "),
                    finding.cure_in_words(output.trace, &names)
                )},
                "locations": [{"logicalLocations": [{
                    "name": finding.actor(output.trace),
                    "fullyQualifiedName": finding.kept.map(|kept| names.call(output.trace, kept)),
                    "kind": "process",
                }]}],
                "partialFingerprints": {"finding/v1": output.fingerprint(finding, &names)},
            })
        })
        .collect();
    let sarif = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "lanefs crash-test",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": results,
        }],
    });
    format!("{sarif:#}\n")
}

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Atomicity => "A change takes several calls; a crash between them leaves half of it",
        Class::Ordering => "Something reached the disk before something that it relies on",
        Class::Durability => "What the program had told to be done is lost",
        Class::Tear => "A write taken for atomic reached the disk in part",
    }
}
