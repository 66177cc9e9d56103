//! Every metric, what it means, and where it comes from.
//!
//! Names: unit last; counters end in `_total`. What is `Stable` keeps its name and meaning until
//! the next major version; what is `Experimental` may go. `docs/metrics.md` shows this table, and
//! a test of the crate `tests` compares the two.

/// What a scraper may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; begins at 0 with the mount, or with the daemon: see the help.
    Counter,
    /// A state.
    Gauge,
}

/// How long it stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Until the next major version.
    Stable,
    /// It may go, or mean something else.
    Experimental,
}

/// Where a figure is in the report of `lanefs status --json`, as a JSON pointer.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// A number, or yes as 1 and no as 0; and what it is multiplied by.
    Place(&'static str, f64),
    /// 1 if there is this text, else 0.
    Is(&'static str, &'static str),
    /// 1, with the text as a label.
    Text(&'static str),
    /// An object: its keys are the values of the label.
    Each(&'static str),
    /// Several places, each with the value of the label; and what they are multiplied by.
    Places(&'static [(&'static str, &'static str)], f64),
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its label, if it has one beside `mount_point`.
    pub label: Option<&'static str>,
    /// How long it stays as it is.
    pub stability: Stability,
    /// What it says.
    pub help: &'static str,
    /// Where it comes from.
    pub from: From,
}

const fn counter(name: &'static str, help: &'static str, at: &'static str) -> Metric {
    let from = From::Place(at, 1.0);
    Metric { name, kind: Kind::Counter, label: None, stability: Stability::Stable, help, from }
}

const fn gauge(name: &'static str, help: &'static str, at: &'static str, scale: f64) -> Metric {
    let from = From::Place(at, scale);
    Metric { name, kind: Kind::Gauge, label: None, stability: Stability::Stable, help, from }
}

const fn labelled(mut metric: Metric, label: &'static str, from: From) -> Metric {
    metric.label = Some(label);
    metric.from = from;
    metric
}

const fn experimental(mut metric: Metric) -> Metric {
    metric.stability = Stability::Experimental;
    metric
}

/// Groups by what made them durable.
const WAYS: &[(&str, &str)] = &[
    ("log", "/engine/lanes/log_groups"),
    ("flush", "/engine/lanes/flush_groups"),
    ("durable_already", "/engine/lanes/free_groups"),
    ("shared_commit", "/engine/lanes/shared_commit_groups"),
    ("file_sync", "/engine/lanes/file_sync_groups"),
    ("whole_filesystem", "/engine/lanes/whole_fs_groups"),
];
const HOLDS: &[(&str, &str)] =
    &[("0.5", "/engine/lanes/hold_us_p50"), ("0.99", "/engine/lanes/hold_us_p99")];
const FENCES: &[(&str, &str)] =
    &[("0.5", "/engine/lanes/fence_us_p50"), ("0.99", "/engine/lanes/fence_us_p99")];

/// All metrics, in the order in which they are shown.
pub const METRICS: &[Metric] = &[
    labelled(
        gauge("lanefs_version", "Version of the daemon, as a label; always 1", "", 1.0),
        "version",
        From::Text("/version"),
    ),
    gauge("lanefs_uptime_seconds", "Time since the mount was made", "/uptime_s", 1.0),
    counter(
        "lanefs_restarts_total",
        "How often the daemon was replaced without unmounting",
        "/restarts",
    ),
    gauge(
        "lanefs_restart_pause_seconds",
        "How long the mount gave no answers the last time that its daemon was replaced",
        "/restart_pause_ms",
        1e-3,
    ),
    labelled(
        counter("lanefs_requests_total", "Requests of the kernel, by kind, since the mount", ""),
        "op",
        From::Each("/requests"),
    ),
    counter(
        "lanefs_sync_requests_total",
        "Sync requests, answered or waiting, since the daemon started",
        "/engine/lanes/sync_requests",
    ),
    counter(
        "lanefs_sync_durable_already_total",
        "Sync requests that needed no I/O because what they asked for was durable",
        "/engine/lanes/skipped",
    ),
    counter(
        "lanefs_sync_errors_total",
        "Sync requests that were answered with an error",
        "/engine/lanes/errors",
    ),
    gauge("lanefs_sync_waiting", "Sync requests that wait now", "/engine/lanes/pending", 1.0),
    counter(
        "lanefs_sync_slow_total",
        "Sync requests that took longer than slow_sync_ms",
        "/slow_syncs",
    ),
    counter(
        "lanefs_sync_past_full_queue_total",
        "Sync requests that found the queue full and were carried out one by one",
        "/engine/lanes/queue_overflows",
    ),
    experimental(counter(
        "lanefs_sync_written_ahead_total",
        "Sync requests whose file was so large that it was written in place ahead of its group",
        "/engine/lanes/written_ahead",
    )),
    counter(
        "lanefs_groups_total",
        "Groups of sync requests that were made durable together",
        "/engine/lanes/groups",
    ),
    counter(
        "lanefs_groups_of_one_total",
        "Groups with a single sync request: the solo lane",
        "/engine/lanes/solo_groups",
    ),
    experimental(labelled(
        counter("lanefs_groups_by_way_total", "Groups by what made them durable", ""),
        "way",
        From::Places(WAYS, 1.0),
    )),
    gauge(
        "lanefs_group_syncs_max",
        "Most sync requests in one group",
        "/engine/lanes/group_ops_max",
        1.0,
    ),
    labelled(
        gauge(
            "lanefs_hold_seconds",
            "Time that a group was held for writers expected back, the device being free; quantiles since the daemon started",
            "",
            1.0,
        ),
        "quantile",
        From::Places(HOLDS, 1e-6),
    ),
    labelled(
        gauge(
            "lanefs_fence_seconds",
            "Time that making a group durable took; quantiles since the daemon started",
            "",
            1.0,
        ),
        "quantile",
        From::Places(FENCES, 1e-6),
    ),
    counter(
        "lanefs_interval_commits_total",
        "Commits that nobody asked for, made by the commit interval",
        "/engine/committer/commits",
    ),
    counter(
        "lanefs_interval_commit_errors_total",
        "Commits that nobody asked for and that failed; they are tried again",
        "/engine/committer/errors",
    ),
    counter(
        "lanefs_late_syncs_total",
        "Sync requests that were answered before they were durable, in the mode relaxed",
        "/engine/committer/late_syncs",
    ),
    counter(
        "lanefs_late_syncs_missed_total",
        "Late syncs that were durable later than was promised",
        "/engine/committer/late_syncs_missed",
    ),
    counter(
        "lanefs_late_sync_errors_total",
        "Late syncs that failed after they were answered",
        "/engine/committer/late_errors",
    ),
    Metric {
        from: From::Is("/engine/fence", "log"),
        ..gauge(
            "lanefs_log_in_use",
            "1 if groups go to the log, 0 if the backing directory is synced",
            "",
            1.0,
        )
    },
    gauge("lanefs_log_size_bytes", "Length of the log; with a log only", "/engine/log/bytes", 1.0),
    gauge(
        "lanefs_log_used_ratio",
        "Part of the log that recovery would have to read, 0 to 1; with a log only",
        "/engine/log/used_ratio",
        1.0,
    ),
    counter(
        "lanefs_log_groups_total",
        "Groups written to the log; with a log only",
        "/engine/log/groups",
    ),
    counter(
        "lanefs_log_group_bytes_total",
        "Bytes of groups written to the log; with a log only",
        "/engine/log/group_bytes",
    ),
    counter(
        "lanefs_log_journal_commits_total",
        "Groups made durable by a journal commit instead; with a log only",
        "/engine/log/commits",
    ),
    counter(
        "lanefs_log_full_total",
        "Of these, because the log was full; with a log only",
        "/engine/log/full",
    ),
    counter(
        "lanefs_log_checkpoints_total",
        "Checkpoints made; with a log only",
        "/engine/log/checkpoints",
    ),
    counter(
        "lanefs_log_checkpoint_errors_total",
        "Checkpoints that failed; with a log only",
        "/engine/log/checkpoint_errors",
    ),
    counter(
        "lanefs_rewrites_protected_total",
        "Files cut to nothing and written anew that are all or nothing over a power cut; with a log only",
        "/engine/log/rewrites/protected",
    ),
    gauge("lanefs_known_nodes", "Objects that the kernel knows", "/nodes", 1.0),
    gauge("lanefs_open_files", "Open files", "/files", 1.0),
    gauge("lanefs_open_directories", "Open directories", "/directories", 1.0),
    gauge(
        "lanefs_open_files_max",
        "Most files that may be open for writing at once",
        "/open_files_max",
        1.0,
    ),
    experimental(gauge(
        "lanefs_passthrough",
        "1 if the kernel reads and writes backing files by itself",
        "/passthrough",
        1.0,
    )),
];
