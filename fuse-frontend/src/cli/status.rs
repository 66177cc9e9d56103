//! `lanefs status`.

use serde_json::Value;

use super::StatusArgs;
use super::table::{print, row};
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::{mounts, preflight};

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let Some(path) = &args.mount_point else { return all(args.json) };
    let mount = find(path)?;
    let status = of(&mount)?.ok_or_else(|| preflight::dead_mount(&mount.mount_point))?;
    if args.json {
        println!("{status}");
    } else {
        show(&status);
    }
    Ok(())
}

fn all(json: bool) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let mut reports = Vec::new();
    for mount in mounts::ours().map_err(failed)? {
        match of(&mount)? {
            Some(status) => reports.push(status),
            None => eprintln!("lanefs: {}", preflight::dead_mount(&mount.mount_point)),
        }
    }
    if json {
        println!("{}", Value::Array(reports));
    } else if reports.is_empty() {
        println!("No lanefs mount. Make one: lanefs mount BACKING MOUNTPOINT");
    } else {
        for (index, status) in reports.iter().enumerate() {
            if index > 0 {
                println!();
            }
            show(status);
        }
    }
    Ok(())
}

fn of(mount: &mounts::MountEntry) -> Result<Option<Value>, Failure> {
    match control::ask(&mount.device, &Request::Status)? {
        Some(Response::Status { status }) => Ok(Some(status)),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(Response::Unmounted) => Err(Failure::new("the daemon answered something else")),
        None => Ok(None),
    }
}

fn show(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let yes = |value: &Value| if value.as_bool() == Some(true) { "yes" } else { "no" };
    let lanes = &status["engine"]["lanes"];
    let us = |name: &str| format!("{:.0} us", lanes[name].as_f64().unwrap_or(0.0));
    println!("{} on {}", text(&status["backing"]), text(&status["mount_point"]));
    print(&[
        row([&"daemon", &format!("pid {}, up {} s", status["pid"], status["uptime_s"])]),
        row([&"backing filesystem", &text(&status["filesystem"])]),
        row([&"passthrough I/O", &yes(&status["passthrough"])]),
        row([&"file handles", &yes(&status["handles"])]),
        row([
            &"fence",
            &format!(
                "{} ({})",
                text(&status["engine"]["fence"]),
                text(&status["engine"]["mechanism"])
            ),
        ]),
        row([&"log", &text(&status["log"])]),
        row([&"nodes known", &status["nodes"]]),
        row([&"files open", &status["files"]]),
        row([&"sync requests", &lanes["sync_requests"]]),
        row([&"  durable already", &lanes["skipped"]]),
        row([&"groups", &lanes["groups"]]),
        row([&"  of one (solo lane)", &lanes["solo_groups"]]),
        row([&"  mean size", &format!("{:.2}", lanes["group_ops_mean"].as_f64().unwrap_or(0.0))]),
        row([&"  largest", &lanes["group_ops_max"]]),
        row([&"hold p50 / p99", &format!("{} / {}", us("hold_us_p50"), us("hold_us_p99"))]),
        row([&"fence p50 / p99", &format!("{} / {}", us("fence_us_p50"), us("fence_us_p99"))]),
        row([&"sync errors", &lanes["errors"]]),
    ]);
    if let Some(error) = lanes["last_error"].as_str() {
        println!("  last error: {error}");
    }
    let requests = status["requests"].as_object().into_iter().flatten();
    let mut requests: Vec<_> =
        requests.filter_map(|(name, count)| Some((name, count.as_u64()?))).collect();
    requests.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<String> =
        requests.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("  requests: {}", shown.join(", "));
}
