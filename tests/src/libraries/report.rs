//! What is shown: a table for each setting or an object a line on standard output, progress on
//! standard error.

use indicatif::ProgressBar;
use serde::Serialize;

use super::round;
use super::subject::Subject;
use crate::contest::{median, rounded, words};

/// Commits of the journal for a file that the library replaces: at most.
const COMMITS_PER_FILE_MAX: f64 = 0.1;

/// What one subject did in one setting. An operation is the replace of one file.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    subject: Subject,
    threads: u64,
    flush_ms: f64,
    /// Median over the slices.
    files_per_s: f64,
    /// Times as many as std; median over slices of the same turn.
    ratio_to_std: f64,
    /// Median time of a call: for a batch, of all its files.
    call_p50_us: f64,
    flushes_per_file: f64,
    commits_per_file: f64,
    /// What the ratio must be at least.
    ratio_min: Option<f64>,
    /// What the commits may be at most.
    commits_per_file_max: Option<f64>,
    /// None: nothing is required.
    reached: Option<bool>,
}

impl Row {
    /// A row for each subject; the first is std.
    pub fn all(threads: u64, flush_ms: f64, results: &[round::Result]) -> Vec<Row> {
        let std = &results[0];
        results.iter().map(|result| Row::new(threads, flush_ms, result, std)).collect()
    }

    fn new(threads: u64, flush_ms: f64, result: &round::Result, std: &round::Result) -> Self {
        let round::Result { subject, record, commits } = result;
        let files = subject.files() as f64;
        let pairs = record.slices.iter().zip(&std.record.slices);
        let ratio = median(pairs.map(|(own, std)| files * own.ops_per_s / std.ops_per_s));
        let commits_per_file = *commits as f64 / (files * record.all_ops());
        let is_judged = *subject == Subject::Library;
        let ratio_min = match threads {
            1 if is_judged => Some(2.0),
            4 | 16 if is_judged => Some(3.0),
            _ => None,
        };
        let commits_max = is_judged.then_some(COMMITS_PER_FILE_MAX);
        let reached = is_judged.then(|| {
            ratio_min.is_none_or(|min| ratio >= min) && commits_per_file <= COMMITS_PER_FILE_MAX
        });
        Row {
            subject: *subject,
            threads,
            flush_ms,
            files_per_s: rounded(files * record.ops_per_s(), 1),
            ratio_to_std: rounded(ratio, 3),
            call_p50_us: rounded(record.percentile_us(50), 1),
            flushes_per_file: rounded(record.flushes_per_op() / files, 4),
            commits_per_file: rounded(commits_per_file, 4),
            ratio_min,
            commits_per_file_max: commits_max,
            reached,
        }
    }
}

/// The results so far and where they go.
pub(super) struct Report {
    json: bool,
    progress: ProgressBar,
    // Threads and flush time of the table that was begun last.
    shown: Option<(u64, f64)>,
    all_reached: bool,
    load: String,
}

impl Report {
    /// For so many steps in all.
    pub fn new(json: bool, steps: u64) -> Self {
        let progress = words::progress_bar(json, steps);
        Report { json, progress, shown: None, all_reached: true, load: words::load() }
    }

    pub fn progress(&self) -> &ProgressBar {
        &self.progress
    }

    /// Shows one more row.
    pub fn add(&mut self, row: &Row) -> Result<(), String> {
        self.all_reached &= row.reached != Some(false);
        let setting = (row.threads, row.flush_ms);
        let text = if self.json {
            serde_json::to_string(row).expect("a row is plain data") + "\n"
        } else if self.shown.replace(setting) == Some(setting) {
            line(row)
        } else {
            heading(row) + &line(row)
        };
        self.progress.suspend(|| words::print(&text))
    }

    /// Says how busy the machine was; true if all is reached.
    pub fn finish(self) -> Result<bool, String> {
        self.progress.finish_and_clear();
        if self.shown.is_some() {
            words::print(&format!("\n{}\n", words::load_before(&self.load)))?;
        }
        Ok(self.all_reached)
    }
}

fn heading(row: &Row) -> String {
    let Row { threads, flush_ms, .. } = row;
    let setting =
        format!("{threads} thread{}, {flush_ms} ms", if *threads == 1 { "" } else { "s" });
    format!(
        "\n  {setting:<20}{:>9}{:>8}{:>13}{:>14}{:>14}\n",
        "files/s", "x std", "call p50 us", "flushes/file", "commits/file"
    )
}

fn line(row: &Row) -> String {
    let required = match (row.ratio_min, row.commits_per_file_max) {
        (Some(min), Some(max)) => format!("  >= {min} x, <= {max} commits: "),
        (None, Some(max)) => format!("  <= {max} commits: "),
        _ => String::new(),
    };
    let verdict = match row.reached {
        Some(true) => "ok",
        Some(false) => "NOT REACHED",
        None => "",
    };
    let line = format!(
        "  {:<20}{:>9.0}{:>8.2}{:>13.0}{:>14.3}{:>14.3}{required}{verdict}",
        row.subject,
        row.files_per_s,
        row.ratio_to_std,
        row.call_p50_us,
        row.flushes_per_file,
        row.commits_per_file
    );
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Record;

    fn result(subject: Subject, rates: &[f64], flushes: u64, commits: u64) -> round::Result {
        let slice = |&ops_per_s: &f64| crate::contest::Slice {
            ops_per_s,
            latencies_us: vec![1e6 / ops_per_s],
            all_ops: 10,
        };
        let slices = rates.iter().map(slice).collect();
        round::Result { subject, record: Record { slices, flushes, requests: 0 }, commits }
    }

    #[test]
    fn a_batch_counts_by_its_files_and_ratios_are_of_the_same_turn() {
        let results = [
            // The machine was slow in the second turn, for all.
            result(Subject::Std, &[100.0, 50.0, 100.0], 120, 60),
            result(Subject::Library, &[310.0, 155.0, 290.0], 30, 3),
            result(Subject::LibraryBatch, &[62.0, 31.0, 62.0], 30, 48),
        ];
        let rows = Row::all(4, 2.0, &results);
        assert_eq!((rows[0].ratio_to_std, rows[0].reached), (1.0, None));
        assert_eq!((rows[1].ratio_to_std, rows[1].reached), (3.1, Some(true)));
        assert_eq!((rows[1].flushes_per_file, rows[1].commits_per_file), (1.0, 0.1));
        assert_eq!((rows[2].files_per_s, rows[2].commits_per_file), (992.0, 0.1));
        assert_eq!(rows[2].ratio_to_std, 9.92);
        let slow = [result(Subject::Std, &[100.0], 1, 1), result(Subject::Library, &[299.0], 1, 1)];
        assert_eq!(Row::all(16, 2.0, &slow)[1].reached, Some(false));
        let commits = [result(Subject::Std, &[1.0], 1, 1), result(Subject::Library, &[9.0], 1, 2)];
        assert_eq!(Row::all(64, 2.0, &commits)[1].reached, Some(false), "0.2 commits");
    }
}
