//! What a campaign prints and writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fs_core::crash::judge::Finding;
use fs_core::crash::plan::pattern;
use fs_core::crash::trace::Trace;
use fs_core::crash::words::Names;

use super::{CampaignArgs, absolute, baseline, html, json, junit, sarif, text};
use crate::cli::table;
use crate::crash::campaign::{CampaignPlan, Report};
use crate::crash::nested::Nested;
use crate::failure::Failure;

/// Everything that there is to tell.
pub(super) struct Output<'a> {
    pub(super) trace: &'a Trace,
    pub(super) plan: &'a CampaignPlan,
    pub(super) report: &'a Report,
    /// How the recording differs from what was done.
    pub(super) difference: Option<&'a str>,
    /// How the program ended, if not well.
    pub(super) program: Option<String>,
    /// Where the recording was written.
    pub(super) saved: Option<&'a str>,
    /// Findings that do not count.
    pub(super) known: BTreeSet<String>,
    /// Crashes during recovery.
    pub(super) nested: Vec<Nested>,
}

/// Where else the report goes; paths that still mean the same when mounts have changed.
#[derive(Debug, Default)]
pub(super) struct Files {
    baseline: Option<PathBuf>,
    update_baseline: bool,
    written: Vec<(PathBuf, Format)>,
}

type Format = fn(&Output<'_>) -> String;

impl Files {
    pub(super) fn new(args: &CampaignArgs) -> Result<Self, Failure> {
        let path = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        let formats: [(_, Format); 3] = [
            (&args.junit, junit::report),
            (&args.sarif, sarif::report),
            (&args.html, html::report),
        ];
        let mut written = Vec::new();
        for (file, format) in formats {
            written.extend(path(file)?.map(|path| (path, format)));
        }
        let (baseline, update_baseline) = (path(&args.baseline)?, args.update_baseline);
        Ok(Self { baseline, update_baseline, written })
    }

    pub(super) fn known(&self) -> Result<BTreeSet<String>, Failure> {
        self.baseline.as_deref().map_or(Ok(BTreeSet::new()), baseline::read)
    }
}

impl Output<'_> {
    /// Prints and writes it; true if something new was found.
    pub(super) fn tell(&self, files: &Files, as_json: bool) -> Result<bool, Failure> {
        for (path, format) in &files.written {
            write(path, &format(self))?;
        }
        let names = Names::new(self.trace);
        if let Some(path) = files.baseline.as_deref().filter(|_| files.update_baseline) {
            let found = self.report.findings.iter().map(|f| self.fingerprint(f, &names));
            baseline::write(path, &found.collect())?;
        }
        if as_json {
            table::print(&format!("{}\n", json::report(self)))?;
        } else {
            table::print(&text::report(self))?;
        }
        let is_new = |finding: &Finding| !self.is_known(finding, &names);
        let found = !files.update_baseline && self.report.findings.iter().any(is_new);
        let in_recovery = self.nested.iter().any(|nested| !nested.findings.is_empty());
        Ok(found || in_recovery || self.report.refuses.is_some())
    }

    /// What stays the same of a finding from run to run.
    pub(super) fn fingerprint(&self, finding: &Finding, names: &Names) -> String {
        format!("{} {}", finding.class.name(), pattern(&finding.sentence(self.trace, names)))
    }

    /// Whether it does not count.
    pub(super) fn is_known(&self, finding: &Finding, names: &Names) -> bool {
        !self.known.is_empty() && self.known.contains(&self.fingerprint(finding, names))
    }
}

fn write(path: &Path, content: &str) -> Result<(), Failure> {
    std::fs::write(path, content)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

/// Text for XML and HTML; what XML cannot say at all is left out.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            other if other.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}
