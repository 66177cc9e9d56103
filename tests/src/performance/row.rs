//! One figure: a line of a table, an object of `--json`.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Gate;
use crate::contest::{Workload, rounded};
use crate::filesystem::Filesystem;

/// What was measured, and what of it must be reached.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub gate: Gate,
    /// For people: the setting or what else was done.
    pub case: String,
    /// The setting of a contest.
    pub setting: Option<Setting>,
    /// What makes groups durable on the mount.
    pub fence: Option<String>,
    pub unit: Unit,
    #[serde(serialize_with = "three_digits")]
    pub bare: Option<f64>,
    #[serde(serialize_with = "three_digits")]
    pub lanefs: Option<f64>,
    /// How many times better lanefs is.
    #[serde(serialize_with = "three_digits")]
    pub ratio: Option<f64>,
    /// Operations per second on lanefs by those on the bare side.
    #[serde(serialize_with = "three_digits")]
    pub ops_ratio: Option<f64>,
    /// Of the disk, on both sides.
    pub flushes_per_op: Option<[f64; 2]>,
    pub required: Option<Requirement>,
    /// None: nothing is required.
    pub reached: Option<bool>,
}

/// What both sides of a contest did, on what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Setting {
    pub workload: Workload,
    pub threads: usize,
    /// None: the disk of the machine.
    pub flush_ms: Option<f64>,
    pub bare_fs: Filesystem,
    pub lanefs_fs: Filesystem,
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { workload, threads, flush_ms, bare_fs, lanefs_fs } = self;
        write!(formatter, "{workload}, {threads} thread{}", if *threads == 1 { "" } else { "s" })?;
        if let Some(flush_ms) = flush_ms {
            write!(formatter, ", {flush_ms} ms")?;
        }
        match bare_fs == lanefs_fs {
            true => write!(formatter, ", {bare_fs}"),
            false => write!(formatter, ", {lanefs_fs} vs {bare_fs}"),
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    FlushesPerOp,
    P50Us,
    OpsPerS,
    MibPerS,
    Us,
    Seconds,
    /// Flushes and writes of the disk together.
    DiskRequests,
}

impl Unit {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Unit::FlushesPerOp => "flushes/op",
            Unit::P50Us => "p50 us",
            Unit::OpsPerS => "ops/s",
            Unit::MibPerS => "MiB/s",
            Unit::Us => "us",
            Unit::Seconds => "s",
            Unit::DiskRequests => "disk reqs",
        }
    }

    /// Digits after the point in tables.
    pub fn digits(self) -> usize {
        match self {
            Unit::FlushesPerOp => 3,
            Unit::Seconds => 2,
            Unit::Us => 1,
            Unit::P50Us | Unit::OpsPerS | Unit::MibPerS | Unit::DiskRequests => 0,
        }
    }
}

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Requirement {
    /// The ratio: at least.
    RatioMin(f64),
    /// The ratio: more than.
    RatioAbove(f64),
    /// The figure of lanefs: at most.
    LanefsMax(f64),
}

impl Requirement {
    fn is_reached_by(self, lanefs: Option<f64>, ratio: Option<f64>) -> bool {
        match self {
            Requirement::RatioMin(min) => ratio.is_some_and(|ratio| ratio >= min),
            Requirement::RatioAbove(limit) => ratio.is_some_and(|ratio| ratio > limit),
            Requirement::LanefsMax(max) => lanefs.is_some_and(|lanefs| lanefs <= max),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&match self {
            Requirement::RatioMin(min) => format!(">= {min:.2} x"),
            Requirement::RatioAbove(limit) => format!("> {limit:.2} x"),
            Requirement::LanefsMax(max) => format!("<= {max:.2}"),
        })
    }
}

impl Row {
    /// A row without figures; they are put in with `..`, and then [`Row::judged`].
    pub fn note(gate: Gate, case: impl Into<String>) -> Self {
        Row {
            gate,
            case: case.into(),
            setting: None,
            fence: None,
            unit: Unit::Us,
            bare: None,
            lanefs: None,
            ratio: None,
            ops_ratio: None,
            flushes_per_op: None,
            required: None,
            reached: None,
        }
    }

    /// The same, of a mount with this status.
    pub fn of(self, status: &Value) -> Self {
        Row { fence: status["engine"]["fence"].as_str().map(str::to_owned), ..self }
    }

    /// The same, judged by what is required.
    pub fn judged(mut self, required: Option<Requirement>) -> Self {
        self.required = required;
        self.reached = required.map(|required| required.is_reached_by(self.lanefs, self.ratio));
        self
    }
}

fn three_digits<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| rounded(value, 3)).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_by_the_figure_that_is_meant() {
        let row = |lanefs, ratio, required| {
            let row = Row { lanefs: Some(lanefs), ratio, ..Row::note(Gate::Latency, "case") };
            row.judged(Some(required)).reached
        };
        assert_eq!(row(1.0, Some(1.8), Requirement::RatioMin(1.8)), Some(true));
        assert_eq!(row(1.0, Some(1.79), Requirement::RatioMin(1.8)), Some(false));
        assert_eq!(row(9.0, Some(1.0), Requirement::RatioAbove(1.0)), Some(false));
        assert_eq!(row(1.02, Some(0.1), Requirement::LanefsMax(1.02)), Some(true));
        assert_eq!(row(1.021, Some(9.0), Requirement::LanefsMax(1.02)), Some(false));
        // What was not measured is not reached.
        assert_eq!(row(1.0, None, Requirement::RatioMin(0.0)), Some(false));
        assert_eq!(Row::note(Gate::Latency, "case").judged(None).reached, None);
    }

    #[test]
    fn a_case_says_both_filesystems_where_they_differ() {
        let setting = Setting {
            workload: Workload::Append,
            threads: 1,
            flush_ms: Some(0.5),
            bare_fs: Filesystem::Ext4FastCommit,
            lanefs_fs: Filesystem::Ext4,
        };
        assert_eq!(setting.to_string(), "append, 1 thread, 0.5 ms, ext4 vs ext4-fast-commit");
        let own = Setting { threads: 4, flush_ms: None, bare_fs: Filesystem::Ext4, ..setting };
        assert_eq!(own.to_string(), "append, 4 threads, ext4");
    }
}
