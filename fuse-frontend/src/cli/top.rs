//! `lanefs top`: what mounts do, as it changes.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::TopArgs;
use super::status::of;
use super::table::{row, table};
use super::umount::find;
use crate::failure::Failure;
use crate::mount::mounts::{self, MountEntry};
use crate::mount::preflight;

/// Clears the screen from its top left corner on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What a mount did in an interval.
#[derive(Debug, Serialize)]
struct Sample {
    /// Seconds since 1970.
    time: u64,
    mount_point: PathBuf,
    pid: u64,
    /// Length of the interval.
    seconds: f64,
    requests_per_s: f64,
    syncs_per_s: f64,
    groups_per_s: f64,
    /// Sync requests for each group in the interval.
    group_syncs_mean: f64,
    /// Since the daemon started.
    fence_us_p50: f64,
    /// Since the daemon started.
    fence_us_p99: f64,
    syncs_waiting: u64,
    sync_errors: u64,
    slow_syncs: u64,
    open_files: u64,
    /// None without a log.
    log_used_ratio: Option<f64>,
}

pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    let interval = Duration::from_millis(args.interval_ms);
    let chosen = args.mount_point.as_deref().map(find).transpose()?;
    let (mut before, mut at) = (look(chosen.as_ref())?, Instant::now());
    loop {
        std::thread::sleep(interval);
        let (now, now_at) = (look(chosen.as_ref())?, Instant::now());
        let seconds = (now_at - at).as_secs_f64();
        // A mount that has just come has no past; one whose daemon was replaced begins anew.
        let samples: Vec<Sample> = now
            .iter()
            .filter_map(|(mount, now)| Some(sample(before.get(mount)?, now, seconds)))
            .collect();
        if !show(&samples, args)? || args.once {
            return Ok(());
        }
        (before, at) = (now, now_at);
    }
}

fn look(chosen: Option<&MountEntry>) -> Result<BTreeMap<String, Value>, Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let mounts = match chosen {
        Some(mount) => vec![mount.clone()],
        None => mounts::ours().map_err(failed)?,
    };
    let mut reports = BTreeMap::new();
    for mount in mounts {
        match of(&mount) {
            Ok(Some(report)) => drop(reports.insert(mount.device, report)),
            Ok(None) if chosen.is_some() => return Err(preflight::dead_mount(&mount.mount_point)),
            Err(failure) if chosen.is_some() => return Err(failure),
            // One mount that cannot be asked must not hide the others.
            Ok(None) | Err(_) => {}
        }
    }
    Ok(reports)
}

fn sample(before: &Value, now: &Value, seconds: f64) -> Sample {
    let number = |report: &Value, at: &str| report.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let since = |at: &str| number(now, at).saturating_sub(number(before, at)) as f64;
    let float = |at: &str| now.pointer(at).and_then(Value::as_f64);
    let requests = |report: &Value| {
        let each = report["requests"].as_object().into_iter().flatten();
        each.filter_map(|(_, count)| count.as_u64()).sum::<u64>()
    };
    let (syncs, groups) = (since("/engine/lanes/sync_requests"), since("/engine/lanes/groups"));
    let grouped = syncs - since("/engine/lanes/skipped");
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Sample {
        time: time.unwrap_or_default().as_secs(),
        mount_point: now["mount_point"].as_str().unwrap_or("?").into(),
        pid: number(now, "/pid"),
        seconds,
        requests_per_s: requests(now).saturating_sub(requests(before)) as f64 / seconds,
        syncs_per_s: syncs / seconds,
        groups_per_s: groups / seconds,
        group_syncs_mean: if groups > 0.0 { grouped.max(0.0) / groups } else { 0.0 },
        fence_us_p50: float("/engine/lanes/fence_us_p50").unwrap_or(0.0),
        fence_us_p99: float("/engine/lanes/fence_us_p99").unwrap_or(0.0),
        syncs_waiting: number(now, "/engine/lanes/pending"),
        sync_errors: number(now, "/engine/lanes/errors"),
        slow_syncs: number(now, "/slow_syncs"),
        open_files: number(now, "/files"),
        log_used_ratio: float("/engine/log/used_ratio"),
    }
}

/// False if nobody reads any more.
fn show(samples: &[Sample], args: &TopArgs) -> Result<bool, Failure> {
    if args.json {
        let line = |sample: &Sample| serde_json::to_string(sample).expect("plain data") + "\n";
        return written(&samples.iter().map(line).collect::<String>());
    }
    let is_live = !args.once && std::io::stdout().is_terminal();
    let shown = if samples.is_empty() {
        "No lanefs mount to show. Make one: lanefs mount BACKING MOUNTPOINT\n".to_owned()
    } else {
        rows(samples)
    };
    let head = if is_live {
        format!("{CLEAR}lanefs top, every {} ms\n", args.interval_ms)
    } else {
        String::new()
    };
    written(&format!("{head}{shown}"))
}

fn written(text: &str) -> Result<bool, Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

fn rows(samples: &[Sample]) -> String {
    let head = row([
        &"mount",
        &"req/s",
        &"sync/s",
        &"group/s",
        &"sync/group",
        &"fence p50",
        &"p99",
        &"waiting",
        &"slow",
        &"errors",
        &"open",
        &"log",
    ]);
    let sample = |sample: &Sample| {
        let log =
            sample.log_used_ratio.map_or("-".to_owned(), |used| format!("{:.0} %", 100.0 * used));
        row([
            &sample.mount_point.display(),
            &format!("{:.0}", sample.requests_per_s),
            &format!("{:.0}", sample.syncs_per_s),
            &format!("{:.0}", sample.groups_per_s),
            &format!("{:.1}", sample.group_syncs_mean),
            &format!("{:.0} us", sample.fence_us_p50),
            &format!("{:.0} us", sample.fence_us_p99),
            &sample.syncs_waiting,
            &sample.slow_syncs,
            &sample.sync_errors,
            &sample.open_files,
            &log,
        ])
    };
    table(&std::iter::once(head).chain(samples.iter().map(sample)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_of_the_interval() {
        let report = |syncs: u64, skipped: u64, groups: u64| {
            json!({
                "mount_point": "/mnt/data", "pid": 7, "files": 2, "requests": {"fsync": syncs},
                "engine": {"lanes": {
                    "sync_requests": syncs, "skipped": skipped, "groups": groups,
                    "fence_us_p50": 90.0, "fence_us_p99": 200.0, "pending": 1, "errors": 0,
                }},
            })
        };
        let sample = sample(&report(100, 10, 30), &report(500, 50, 50), 2.0);
        assert_eq!((sample.syncs_per_s, sample.groups_per_s), (200.0, 10.0));
        assert_eq!(sample.group_syncs_mean, 18.0, "360 in 20 groups");
        assert_eq!((sample.pid, sample.syncs_waiting, sample.log_used_ratio), (7, 1, None));
        assert!(rows(&[sample]).contains("/mnt/data"));
    }
}
