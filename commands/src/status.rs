//! What `lanefs status` tells of a mount, from the JSON that the mount answers.

use serde_json::Value;

use crate::table::{row, table};

/// A mount's status as text.
#[must_use]
pub fn shown(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut shown = format!("{} on {}\n", text(&status["backing"]), text(&status["mount_point"]));
    shown.push_str(&table(
        &[
            mount_rows(status),
            lane_rows(&status["engine"]["lanes"]),
            committer_rows(&status["engine"]["committer"]),
        ]
        .concat(),
    ));
    if let Some(error) = status["engine"]["lanes"]["last_error"].as_str() {
        shown.push_str(&format!("  last error: {error}\n"));
    }
    let requests = status["requests"].as_object().into_iter().flatten();
    let mut requests: Vec<_> =
        requests.filter_map(|(name, count)| Some((count.as_u64()?, name))).collect();
    requests.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    let requests: Vec<_> = requests.iter().map(|(count, name)| format!("{name} {count}")).collect();
    shown.push_str(&format!("  requests: {}\n", requests.join(", ")));
    shown
}

fn mount_rows(status: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let yes = |value: &Value| if value.as_bool() == Some(true) { "yes" } else { "no" };
    let engine = &status["engine"];
    vec![
        row([&"daemon", &format!("pid {}, up {} s", status["pid"], status["uptime_s"])]),
        row([&"backing filesystem", &text(&status["filesystem"])]),
        row([&"read-only", &yes(&status["read_only"])]),
        row([&"transport", &text(&status["transport"])]),
        row([&"durability", &text(&status["durability"]["mode"])]),
    ]
    .into_iter()
    .chain(rule_rows(&status["durability"]["rules"]))
    .chain([
        row([&"commit interval", &text(&status["durability"]["commit_interval"])]),
        row([&"passthrough I/O", &yes(&status["passthrough"])]),
        row([&"file handles", &yes(&status["handles"])]),
        row([&"files belong to their callers", &yes(&status["impersonation"])]),
        row([&"fence", &format!("{} ({})", text(&engine["fence"]), text(&engine["mechanism"]))]),
        row([&"log", &text(&status["log"])]),
    ])
    .chain(log_rows(&engine["log"]))
    .chain([
        row([&"nodes known", &status["nodes"]]),
        row([&"files open", &status["files"]]),
        row([&"  limit for writing", &status["open_files_max"]]),
    ])
    .collect()
}

/// The last rule that matches wins.
fn rule_rows(rules: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let rules = rules.as_array().map(Vec::as_slice).unwrap_or_default();
    let rule =
        |rule: &Value| row([&format!("  {}", text(&rule["path"])), &text(&rule["durability"])]);
    rules.iter().map(rule).collect()
}

/// Nothing if no log is kept.
fn log_rows(log: &Value) -> Vec<Vec<String>> {
    if log.is_null() {
        return Vec::new();
    }
    let number = |name: &str| log[name].as_u64().unwrap_or(0);
    let mib = number("bytes") >> 20;
    let used = 100.0 * log["used_ratio"].as_f64().unwrap_or(0.0);
    let flush =
        log["flush_us"].as_f64().map_or("not measured".to_owned(), |us| format!("{us:.0} us"));
    vec![
        row([&"  size, in use", &format!("{mib} MiB, {used:.1} %")]),
        row([&"  groups, their bytes", &format!("{}, {}", log["groups"], log["group_bytes"])]),
        row([
            &"  journal commits instead",
            &format!("{} ({} log full)", log["commits"], log["full"]),
        ]),
        row([
            &"  checkpoints, failed",
            &format!("{}, {}", log["checkpoints"], log["checkpoint_errors"]),
        ]),
        row([&"  files tracked", &log["tracked_files"]]),
        row([&"  rewrites all or nothing", &log["rewrites"]["protected"]]),
        row([&"    not so", &unprotected(&log["rewrites"])]),
        row([&"  one flush takes", &flush]),
    ]
}

fn lane_rows(lanes: &Value) -> Vec<Vec<String>> {
    let us = |name: &str| format!("{:.0} us", lanes[name].as_f64().unwrap_or(0.0));
    let mean = lanes["group_ops_mean"].as_f64().unwrap_or(0.0);
    vec![
        row([&"sync requests", &lanes["sync_requests"]]),
        row([&"  durable already", &lanes["skipped"]]),
        row([&"  past a full queue", &lanes["queue_overflows"]]),
        row([&"  written ahead of a group", &lanes["written_ahead"]]),
        row([&"groups", &lanes["groups"]]),
        row([&"  of one (solo lane)", &lanes["solo_groups"]]),
        row([&"  by one write to the log", &lanes["log_groups"]]),
        row([&"  by one flush alone", &lanes["flush_groups"]]),
        row([&"  found durable", &lanes["free_groups"]]),
        row([&"  by one journal commit", &lanes["shared_commit_groups"]]),
        row([&"  by a sync of each file", &lanes["file_sync_groups"]]),
        row([&"  by whole-filesystem sync", &lanes["whole_fs_groups"]]),
        row([&"  mean size", &format!("{mean:.2}")]),
        row([&"  largest", &lanes["group_ops_max"]]),
        row([&"hold p50 / p99", &format!("{} / {}", us("hold_us_p50"), us("hold_us_p99"))]),
        row([&"fence p50 / p99", &format!("{} / {}", us("fence_us_p50"), us("fence_us_p99"))]),
        row([&"sync errors", &lanes["errors"]]),
    ]
}

fn committer_rows(committer: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![
        row([&"commits that nobody asked for", &committer["commits"]]),
        row([&"  failed", &committer["errors"]]),
    ];
    if committer["late_syncs"].as_u64() > Some(0) {
        rows.push(row([&"syncs answered before they were durable", &committer["late_syncs"]]));
        rows.push(row([&"  waiting", &committer["late_syncs_waiting"]]));
        rows.push(row([&"  later than promised", &committer["late_syncs_missed"]]));
        rows.push(row([&"  failed", &committer["late_errors"]]));
    }
    rows
}

/// How many rewrites are not all or nothing, and why.
fn unprotected(rewrites: &Value) -> String {
    let mib = rewrites["bytes_max"].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    format!(
        "{} over {mib:.0} MiB, {} written by the kernel too, {} failed, {} open for over 30 s",
        rewrites["too_large"], rewrites["unseen"], rewrites["failed"], rewrites["stayed_open"]
    )
}
