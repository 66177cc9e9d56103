//! What is shown and written: lines or tables on standard output, progress on standard error, and
//! always a CSV file and figures in the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;

use super::args::BaselineArgs;
use super::cell::{Comparison, Measurement};
use super::{plot, table};
use crate::contest::Timing;
use crate::contest::words::{self, print};
use crate::workspace;

const CSV_HEADER: &str = "subject,fs,workload,threads,flush_ms,ops_per_s,p50_us,p99_us,\
                          flushes_per_op,requests_per_op,ops_ratio";

/// The results so far and where they go.
pub(super) struct Report {
    json: bool,
    // How many comparisons make a table.
    cells_of_one: usize,
    comparisons: Vec<Comparison>,
    tables_shown: usize,
    progress: ProgressBar,
}

impl Report {
    pub fn new(args: &BaselineArgs) -> Self {
        let slices = 2 * u64::from(Timing::new(args.seconds, Duration::ZERO).slices);
        Report {
            json: args.json,
            cells_of_one: args.grid().count(),
            comparisons: Vec::new(),
            tables_shown: 0,
            progress: words::progress_bar(args.json, args.cell_count() as u64 * slices),
        }
    }

    pub fn progress(&self) -> &ProgressBar {
        &self.progress
    }

    /// One more cell is done: its two lines, or the table that it completes.
    pub fn add(&mut self, comparison: Comparison) -> Result<(), String> {
        self.comparisons.push(comparison);
        if self.json {
            let comparison = self.comparisons.last().expect("just pushed");
            return print(&(line(&comparison.bare) + &line(&comparison.lanefs)));
        }
        if self.comparisons.len() - self.tables_shown * self.cells_of_one < self.cells_of_one {
            return Ok(());
        }
        self.show_table()
    }

    /// Shows the table that was not completed, if any, and writes the files.
    pub fn finish(mut self) -> Result<(), String> {
        self.progress.finish_and_clear();
        if self.comparisons.is_empty() {
            return Ok(());
        }
        if !self.json && self.comparisons.len() > self.tables_shown * self.cells_of_one {
            self.show_table()?;
        }
        let said = self.write_files()?;
        // Standard output belongs to the objects.
        if self.json {
            eprint!("{said}");
            return Ok(());
        }
        print(&said)
    }

    fn show_table(&mut self) -> Result<(), String> {
        let from = self.tables_shown * self.cells_of_one;
        self.tables_shown += 1;
        let text = table::of(&self.comparisons[from..]);
        self.progress.suspend(|| print(&text))
    }

    // Says what it wrote.
    fn write_files(&self) -> Result<String, String> {
        let folder = workspace::target().join("baseline");
        let csv = folder.join("baseline.csv");
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&csv, csv_text(&self.comparisons)))
            .map_err(|error| format!("cannot write {}: {error}", csv.display()))?;
        let mut said = format!("written: {}\n", csv.display());
        for group in self.comparisons.chunk_by(belong_together) {
            let path = figure_path(&folder, group);
            plot::draw(&path, group)
                .map_err(|error| format!("cannot draw {}: {error}", path.display()))?;
            said += &format!("         {}\n", path.display());
        }
        Ok(said)
    }
}

fn line(measurement: &Measurement) -> String {
    serde_json::to_string(measurement).expect("a measurement is plain data") + "\n"
}

fn csv_text(comparisons: &[Comparison]) -> String {
    let mut text = format!("{CSV_HEADER}\n");
    for Comparison { bare, lanefs, ratio } in comparisons {
        text += &csv_line(bare, None);
        text += &csv_line(lanefs, Some(*ratio));
    }
    text
}

// The fields as in an object of `--json`, so that the two cannot differ; then the ratio.
fn csv_line(measurement: &Measurement, ratio: Option<f64>) -> String {
    let value = serde_json::to_value(measurement).expect("a measurement is plain data");
    let fields = CSV_HEADER.split(',').map(|name| match (name, &value[name]) {
        ("ops_ratio", _) => ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
        (_, serde_json::Value::Null) => String::new(),
        (_, serde_json::Value::String(text)) => text.clone(),
        (_, other) => other.to_string(),
    });
    fields.collect::<Vec<_>>().join(",") + "\n"
}

fn belong_together(one: &Comparison, other: &Comparison) -> bool {
    (one.bare.fs, one.bare.workload) == (other.bare.fs, other.bare.workload)
}

fn figure_path(folder: &Path, group: &[Comparison]) -> PathBuf {
    let Measurement { fs, workload, .. } = &group[0].bare;
    folder.join(format!("{fs}-{workload}.svg"))
}

#[cfg(test)]
mod tests {
    use super::super::{Filesystem, Subject, Workload};
    use super::*;

    fn comparison() -> Comparison {
        let bare = Measurement {
            subject: Subject::Bare,
            fs: Filesystem::Ext4FastCommit,
            workload: Workload::Append,
            threads: 16,
            flush_ms: 0.5,
            ops_per_s: 1000.25,
            p50_us: 900.0,
            p99_us: 2000.5,
            flushes_per_op: 0.25,
            requests_per_op: None,
        };
        let lanefs =
            Measurement { subject: Subject::Lanefs, requests_per_op: Some(2.0), ..bare.clone() };
        Comparison { bare, lanefs, ratio: 1.0 }
    }

    #[test]
    fn an_object_a_line_with_the_fields_in_order() {
        assert_eq!(
            line(&comparison().bare),
            "{\"subject\":\"bare\",\"fs\":\"ext4-fast-commit\",\"workload\":\"append\",\
             \"threads\":16,\"flush_ms\":0.5,\"ops_per_s\":1000.25,\"p50_us\":900.0,\
             \"p99_us\":2000.5,\"flushes_per_op\":0.25,\"requests_per_op\":null}\n"
        );
    }

    #[test]
    fn the_csv_has_the_same_and_the_ratio() {
        let text = csv_text(&[comparison()]);
        let lines = text.lines().skip(1).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                "bare,ext4-fast-commit,append,16,0.5,1000.25,900.0,2000.5,0.25,,",
                "lanefs,ext4-fast-commit,append,16,0.5,1000.25,900.0,2000.5,0.25,2.0,1.000",
            ]
        );
    }
}
