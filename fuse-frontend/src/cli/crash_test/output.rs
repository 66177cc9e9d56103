//! What a campaign prints.

use fs_core::crash::trace::Trace;

use super::{json, text};
use crate::cli::table;
use crate::crash::campaign::{CampaignPlan, Report};
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
}

impl Output<'_> {
    /// Prints it.
    pub(super) fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return table::print(&format!("{}\n", json::report(self)));
        }
        table::print(&text::report(self))
    }
}
