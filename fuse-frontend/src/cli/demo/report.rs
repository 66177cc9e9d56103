//! What the demo has found, as JSON and as tables.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::workload::{Acknowledged, Tally};
use crate::cli::DemoArgs;
use crate::cli::table::{row, table};

/// Everything that `lanefs demo --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) writers: u16,
    pub(super) seconds: u16,
    pub(super) mount_replaces_per_s: f64,
    pub(super) bare_replaces_per_s: f64,
    pub(super) mount_appends_per_s: f64,
    pub(super) bare_appends_per_s: f64,
    pub(super) mount_replace_us_p50: u32,
    pub(super) bare_replace_us_p50: u32,
    pub(super) mount_append_us_p50: u32,
    pub(super) bare_append_us_p50: u32,
    /// Of the scratch disk, for each replace or append; nothing without such a disk.
    pub(super) mount_flushes_per_operation: Option<f64>,
    pub(super) bare_flushes_per_operation: Option<f64>,
    pub(super) replaces_verified: u64,
    pub(super) appends_verified: u64,
    pub(super) fence: String,
    pub(super) log: String,
    pub(super) log_flush_us: Option<f64>,
    pub(super) sync_requests: u64,
    pub(super) groups: u64,
    pub(super) log_groups: u64,
    pub(super) flush_groups: u64,
    pub(super) free_groups: u64,
    pub(super) shared_commit_groups: u64,
    pub(super) group_ops_mean: f64,
    pub(super) group_ops_max: u64,
    pub(super) requests_per_replace: f64,
    pub(super) power_cut: Option<PowerCut>,
    /// Why the power was not cut.
    pub(super) no_power_cut: Option<String>,
}

/// What the power cut did, and what recovery did about it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct PowerCut {
    /// Replaces and appends on the mount that had been acknowledged.
    pub(super) acknowledged_replaces: u64,
    pub(super) acknowledged_appends: u64,
    /// Of them, in the turn that the cut ended.
    pub(super) acknowledged_in_last_turn: u64,
    /// Files that the filesystem alone had not kept as acknowledged.
    pub(super) files_behind_before_recovery: u64,
    /// A log was there to recover from.
    pub(super) log_found: bool,
    pub(super) log_groups: u64,
    pub(super) operations_redone: u64,
    pub(super) files_filled: u64,
    pub(super) bytes_filled: u64,
    pub(super) recovery_s: f64,
}

/// One side of the table.
pub(super) struct Side {
    pub(super) tally: Tally,
    pub(super) flushes: Option<u64>,
}

impl Side {
    fn flushes_per_operation(&self) -> Option<f64> {
        let operations = (self.tally.replaces + self.tally.appends).max(1);
        Some(self.flushes? as f64 / operations as f64)
    }
}

impl Report {
    /// All but what is known in the end only.
    pub(super) fn new(args: &DemoArgs, mount: &Side, bare: &Side, status: &Value) -> Self {
        let lanes = &status["engine"]["lanes"];
        let number = |name: &str| lanes[name].as_u64().unwrap_or(0);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let requests = status["requests"].as_object().into_iter().flatten();
        let requests: u64 = requests.filter_map(|(_, count)| count.as_u64()).sum();
        Self {
            writers: args.writers,
            seconds: args.seconds,
            mount_replaces_per_s: mount.tally.replaces_per_s(),
            bare_replaces_per_s: bare.tally.replaces_per_s(),
            mount_appends_per_s: mount.tally.appends_per_s(),
            bare_appends_per_s: bare.tally.appends_per_s(),
            mount_replace_us_p50: mount.tally.replace_us_p50,
            bare_replace_us_p50: bare.tally.replace_us_p50,
            mount_append_us_p50: mount.tally.append_us_p50,
            bare_append_us_p50: bare.tally.append_us_p50,
            mount_flushes_per_operation: mount.flushes_per_operation(),
            bare_flushes_per_operation: bare.flushes_per_operation(),
            replaces_verified: 0,
            appends_verified: 0,
            fence: text(&status["engine"]["fence"]),
            log: text(&status["log"]),
            log_flush_us: status["engine"]["log"]["flush_us"].as_f64(),
            sync_requests: number("sync_requests"),
            groups: number("groups"),
            log_groups: number("log_groups"),
            flush_groups: number("flush_groups"),
            free_groups: number("free_groups"),
            shared_commit_groups: number("shared_commit_groups"),
            group_ops_mean: lanes["group_ops_mean"].as_f64().unwrap_or(0.0),
            group_ops_max: number("group_ops_max"),
            requests_per_replace: requests as f64 / mount.tally.replaces.max(1) as f64,
            power_cut: None,
            no_power_cut: None,
        }
    }

    pub(super) fn verified(&mut self, verified: Acknowledged<u64>) {
        self.replaces_verified = verified.replaces;
        self.appends_verified = verified.appends;
    }

    pub(super) fn shown(&self, place: &Path) -> String {
        let work = filled(&format!(
            "{} writers replace their file crash-safely (write, fsync, rename, fsync of the \
             directory) and one appends to a file (write, fdatasync), in turns on {} and on a \
             lanefs mount, in {}.",
            self.writers,
            if self.power_cut.is_some() { "bare ext4" } else { "a bare directory" },
            place.display()
        ));
        let (rates, engine, remark) = (self.rates(), self.engine(), filled(&self.remark()));
        format!("{work}\n{rates}\n{engine}{remark}\n{}", filled(&self.ending()))
    }

    fn rates(&self) -> String {
        let ratio = |mount: f64, bare: f64| format!("{:.2}", mount / bare.max(f64::MIN_POSITIVE));
        let rate = |name: &str, bare: f64, mount: f64| {
            let (shown_bare, shown_mount) = (format!("{bare:.0}"), format!("{mount:.0}"));
            row([&name, &shown_bare, &shown_mount, &ratio(mount, bare)])
        };
        let median = |name: &str, bare: u32, mount: u32| {
            let ms = |us: u32| format!("{:.2} ms", f64::from(us) / 1000.0);
            row([&name, &ms(bare), &ms(mount), &ratio(f64::from(mount), f64::from(bare))])
        };
        let mut rows = vec![
            row([&"", &"bare", &"lanefs", &"ratio"]),
            rate("replaces/s", self.bare_replaces_per_s, self.mount_replaces_per_s),
            median("  median time", self.bare_replace_us_p50, self.mount_replace_us_p50),
            rate("appends/s", self.bare_appends_per_s, self.mount_appends_per_s),
            median("  median time", self.bare_append_us_p50, self.mount_append_us_p50),
        ];
        if let (Some(bare), Some(mount)) =
            (self.bare_flushes_per_operation, self.mount_flushes_per_operation)
        {
            let (shown_bare, shown_mount) = (format!("{bare:.2}"), format!("{mount:.2}"));
            let name = "device flushes per replace or append";
            rows.push(row([&name, &shown_bare, &shown_mount, &ratio(mount, bare)]));
        }
        table(&rows)
    }

    fn engine(&self) -> String {
        let mut rows = vec![
            row([&"sync requests on the mount", &self.sync_requests]),
            row([&"groups", &self.groups]),
            row([&"  mean size", &format!("{:.2}", self.group_ops_mean)]),
            row([&"  largest", &self.group_ops_max]),
        ];
        if self.fence == "log" || self.log_groups > 0 {
            rows.push(row([&"  by one write to the log", &self.log_groups]));
            rows.push(row([&"  by one flush alone", &self.flush_groups]));
            rows.push(row([&"  found durable", &self.free_groups]));
        }
        if self.shared_commit_groups > 0 {
            rows.push(row([&"  by one journal commit", &self.shared_commit_groups]));
        }
        if let Some(us) = self.log_flush_us {
            rows.push(row([&"one flush takes", &format!("{us:.0} us")]));
        }
        rows.push(row([&"requests per replace", &format!("{:.1}", self.requests_per_replace)]));
        table(&rows)
    }

    /// What explains the figures, and how other mounts may differ.
    fn remark(&self) -> String {
        let Some(us) = self.log_flush_us.filter(|_| self.fence == "log") else {
            let reason = self.log.trim_start_matches("none: ");
            return format!("No log was kept: {reason}.");
        };
        if self.mount_replaces_per_s >= self.bare_replaces_per_s {
            return String::new();
        }
        format!(
            "The mount was slower: the flushes that it saved, of {us:.0} us each, did not make up \
             for the {:.0} requests through /dev/fuse that a replace costs.",
            self.requests_per_replace
        )
    }

    fn ending(&self) -> String {
        let (files, records) = (self.replaces_verified, self.appends_verified);
        let Some(cut) = &self.power_cut else {
            let reason = self.no_power_cut.as_deref().unwrap_or_default();
            return format!(
                "Verified in the backing directory: {files} files replaced, {records} records \
                 appended, none lost. (No power was cut: {reason}.)"
            );
        };
        let all = cut.acknowledged_replaces + cut.acknowledged_appends;
        let recovered = if cut.log_found {
            format!(
                "`lanefs recover` redid {} operations and filled {} bytes into {} files, from {} \
                 groups of log, in {:.2} s.",
                cut.operations_redone,
                cut.bytes_filled,
                cut.files_filled,
                cut.log_groups,
                cut.recovery_s
            )
        } else {
            "There was no log to recover.".to_owned()
        };
        format!(
            "Then the power of the scratch disk was cut while all wrote on the mount, and the \
             daemon killed. Acknowledged until then: {} replaces and {} appends, {} of them in \
             the last turn. The filesystem alone was behind with {} of {} files. {recovered} \
             Verified: {files} files, {records} records, none of the {all} lost.\n\
             (The cut drops what the kernel had not written to the device; a cache inside of \
             the device is not cut.)",
            cut.acknowledged_replaces,
            cut.acknowledged_appends,
            cut.acknowledged_in_last_turn,
            cut.files_behind_before_recovery,
            self.writers + 1,
        )
    }
}

/// A text in lines of at most 80 characters, if its words allow it.
fn filled(text: &str) -> String {
    let mut filled = String::new();
    for paragraph in text.lines() {
        let mut length = 0;
        for word in paragraph.split_whitespace() {
            let word_length = word.chars().count();
            if length > 0 && length + 1 + word_length > 80 {
                filled.push('\n');
                length = 0;
            } else if length > 0 {
                filled.push(' ');
                length += 1;
            }
            filled.push_str(word);
            length += word_length;
        }
        filled.push('\n');
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_before_the_edge() {
        let text = filled(&"word ".repeat(100));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert_eq!(text.split_whitespace().count(), 100);
        assert_eq!(filled("a b\nc"), "a b\nc\n");
    }
}
