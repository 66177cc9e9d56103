//! What is shown: a table for each gate or an object a line on standard output, progress on
//! standard error.

use indicatif::ProgressBar;

use super::Gate;
use super::row::Row;
use crate::contest::words;

/// The results so far and where they go.
pub(super) struct Report {
    json: bool,
    progress: ProgressBar,
    // The gate whose table was begun last.
    shown: Option<Gate>,
    required: usize,
    reached: usize,
    load: String,
}

impl Report {
    /// For so many steps in all.
    pub fn new(json: bool, steps: u64) -> Self {
        let progress = words::progress_bar(json, steps);
        Report { json, progress, shown: None, required: 0, reached: 0, load: words::load() }
    }

    pub fn progress(&self) -> &ProgressBar {
        &self.progress
    }

    /// Shows one more row.
    pub fn add(&mut self, row: &Row) -> Result<(), String> {
        self.required += usize::from(row.reached.is_some());
        self.reached += usize::from(row.reached == Some(true));
        let text = if self.json {
            serde_json::to_string(row).expect("a row is plain data") + "\n"
        } else {
            let begins = self.shown.replace(row.gate) != Some(row.gate);
            if begins { heading(row) + &line(row) } else { line(row) }
        };
        self.progress.suspend(|| words::print(&text))
    }

    /// Says how much is reached; true if all is.
    pub fn finish(self) -> Result<bool, String> {
        self.progress.finish_and_clear();
        let Report { required, reached, ref load, .. } = self;
        // Objects say it themselves; and where nothing was measured there is nothing to say.
        if self.shown.is_some() {
            words::print(&format!(
                "\n{reached} of {required} required figures reached\n{}\n",
                words::load_before(load)
            ))?;
        }
        Ok(reached == required)
    }
}

fn heading(row: &Row) -> String {
    format!(
        "\n{}: {}\n  {:<50}{:>11}{:>9}{:>9}{:>8}{:>9}{:>11}\n",
        row.gate,
        words::story(&row.gate),
        row.fence.as_ref().map(|fence| format!("fence {fence}")).unwrap_or_default(),
        "",
        "bare",
        "lanefs",
        "ratio",
        "ops/s x",
        "required"
    )
}

fn line(row: &Row) -> String {
    let figure = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let verdict = match row.reached {
        Some(true) => "ok",
        Some(false) => "NOT REACHED",
        None => "",
    };
    let Row { case, bare, lanefs, ratio, ops_ratio, unit, required, .. } = row;
    let line = format!(
        "  {case:<50}{:>11}{:>9}{:>9}{:>8}{:>9}{:>11}  {verdict}",
        if row.lanefs.is_some() { unit.name() } else { "" },
        figure(*bare, unit.digits()),
        figure(*lanefs, unit.digits()),
        figure(*ratio, 2),
        figure(*ops_ratio, 2),
        required.map_or_else(|| "-".to_owned(), |required| required.to_string())
    );
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::row::{Requirement, Unit};
    use super::*;

    fn row(ratio: f64) -> Row {
        let row = Row {
            fence: Some("log".to_owned()),
            unit: Unit::P50Us,
            bare: Some(4302.4),
            lanefs: Some(2160.0),
            ratio: Some(ratio),
            ..Row::note(Gate::Latency, "append, 1 thread, 2 ms, ext4")
        };
        row.judged(Some(Requirement::RatioMin(1.8)))
    }

    #[test]
    fn a_line_says_what_was_found_and_whether_it_is_enough() {
        let words = |row: &Row| line(row).split_whitespace().collect::<Vec<_>>().join(" ");
        let begin = "append, 1 thread, 2 ms, ext4 p50 us 4302 2160";
        assert_eq!(words(&row(1.99)), format!("{begin} 1.99 - >= 1.80 x ok"));
        assert_eq!(words(&row(1.5)), format!("{begin} 1.50 - >= 1.80 x NOT REACHED"));
    }

    #[test]
    fn one_figure_that_is_not_reached_is_a_failure() {
        let mut report = Report::new(true, 0);
        report.add(&row(1.99)).expect("printed");
        report.add(&Row::note(Gate::Latency, "for information")).expect("printed");
        assert_eq!((report.required, report.reached), (1, 1));
        report.add(&row(1.5)).expect("printed");
        assert_eq!(report.finish(), Ok(false));
    }
}
