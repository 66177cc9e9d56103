//! What is shown: a table for each gate or an object a line on standard output, progress on standard
//! error.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Gate;
use super::row::Row;

/// The results so far and where they go.
pub(super) struct Report {
    json: bool,
    progress: ProgressBar,
    // The gate whose table was begun last.
    shown: Option<Gate>,
    required: usize,
    reached: usize,
}

impl Report {
    /// For so many steps in all.
    pub fn new(json: bool, steps: u64) -> Self {
        let progress = if json { ProgressBar::hidden() } else { progress_bar(steps) };
        Report { json, progress, shown: None, required: 0, reached: 0 }
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
        self.progress.suspend(|| print(&text))
    }

    /// Says how much is reached; true if all is.
    pub fn finish(self) -> Result<bool, String> {
        self.progress.finish_and_clear();
        let Report { required, reached, .. } = self;
        if !self.json {
            print(&format!("\n{reached} of {required} required figures reached\n"))?;
        }
        Ok(reached == required)
    }
}

fn progress_bar(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:24} {percent:>3}%  {eta} left  {msg}");
    let progress =
        ProgressBar::new(steps).with_style(style.expect("the template is constant and valid"));
    progress.enable_steady_tick(Duration::from_millis(500));
    progress
}

fn heading(row: &Row) -> String {
    format!(
        "\n{}: {}\n  {:<44}{:>10}{:>10}{:>10}{:>8}{:>8}{:>11}\n",
        row.gate,
        row.gate.story(),
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
        "  {case:<44}{:>10}{:>10}{:>10}{:>8}{:>8}{:>11}  {verdict}",
        if row.lanefs.is_some() { unit.name() } else { "" },
        figure(*bare, unit.digits()),
        figure(*lanefs, unit.digits()),
        figure(*ratio, 2),
        figure(*ops_ratio, 2),
        required.map_or_else(|| "-".to_owned(), |required| required.to_string())
    );
    line.trim_end().to_owned() + "\n"
}

fn print(text: &str) -> Result<(), String> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| format!("cannot print the results: {error}"))
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
