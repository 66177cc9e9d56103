//! `lanefs status --durability`: what a power cut now would lose.
//!
//! The daemon knows files by number, the kernel by name: names are looked for here, below the
//! path that was asked for.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_core::durability::{Policy, Rule};
use serde_json::{Value, json};

use super::StatusArgs;
use super::table::{print, row, table};
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::{mounts, preflight};

/// Files that are shown; the sums count all.
const SHOWN_MAX: usize = 20;

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let mounts = match &args.mount_point {
        Some(path) => vec![(containing(path)?, path.clone())],
        None => {
            let ours = mounts::ours().map_err(failed)?;
            ours.into_iter().map(|mount| (mount.clone(), mount.mount_point)).collect()
        }
    };
    let mut reports = Vec::new();
    for (mount, path) in &mounts {
        reports.push(of(mount, path)?);
    }
    print(&match (args.json, &args.mount_point) {
        (true, Some(_)) => format!("{}\n", reports[0]),
        (true, None) => format!("{}\n", Value::Array(reports)),
        (false, _) if reports.is_empty() => "No lanefs mount to show.\n".to_owned(),
        (false, _) => reports.iter().map(shown).collect::<Vec<_>>().join("\n"),
    })
}

/// The lanefs mount that a path is on.
fn containing(path: &Path) -> Result<mounts::MountEntry, Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let resolved = path.canonicalize().map_err(|error| {
        Failure::usage(format!("cannot find {}: {error}; name a path on a mount", path.display()))
    })?;
    let all = mounts::all().map_err(failed)?;
    let above = all.into_iter().filter(|mount| resolved.starts_with(&mount.mount_point));
    // Of several at one place the last one shows.
    let mount = above.max_by_key(|mount| mount.mount_point.components().count());
    mount.filter(|mount| mount.filesystem == mounts::FILESYSTEM_TYPE).ok_or_else(|| {
        Failure::new(format!(
            "{} is on no lanefs mount: `lanefs status` lists the mounts",
            path.display()
        ))
    })
}

fn ask(mount: &mounts::MountEntry, request: &Request) -> Result<Value, Failure> {
    match control::ask(mount, request)? {
        Some(Response::Status { status } | Response::AtRisk { at_risk: status }) => Ok(status),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => Err(preflight::dead_mount(&mount.mount_point)),
    }
}

fn of(mount: &mounts::MountEntry, path: &Path) -> Result<Value, Failure> {
    let (status, at_risk) = (ask(mount, &Request::Status)?, ask(mount, &Request::AtRisk)?);
    let durability = &status["durability"];
    let place = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let below = place.strip_prefix(&mount.mount_point).unwrap_or(Path::new(""));
    let mut files: HashMap<u64, &Value> = HashMap::new();
    for file in at_risk["files"].as_array().into_iter().flatten() {
        files.extend(file["ino"].as_u64().map(|ino| (ino, file)));
    }
    let named = find(&place, &files);
    let is_all = below.as_os_str().is_empty();
    let mut listed: Vec<Value> = Vec::new();
    for (ino, file) in &files {
        let name = named.get(ino);
        // Of the whole mount also what has no name that we found: it may have just been made.
        if name.is_some() || is_all {
            let path = name.map(|name| name.display().to_string());
            listed.push(json!({
                "path": path, "ino": ino, "bytes": file["bytes"], "age_s": file["age_s"],
                "is_open": file["is_open"],
            }));
        }
    }
    listed.sort_by_key(|file| std::cmp::Reverse(file["bytes"].as_u64()));
    let ages = listed.iter().filter_map(|file| file["age_s"].as_f64());
    let oldest = ages.chain(at_risk["operations_age_s"].as_f64()).reduce(f64::max);
    Ok(json!({
        "path": path,
        "mount_point": mount.mount_point,
        "durability": mode(durability, below),
        "commit_interval": durability["commit_interval"],
        "log": status["log"],
        "operations": at_risk["operations"],
        "operations_age_s": at_risk["operations_age_s"],
        "files": listed.len(),
        "bytes": listed.iter().filter_map(|file| file["bytes"].as_u64()).sum::<u64>(),
        "oldest_age_s": oldest,
        "list": listed,
    }))
}

/// The mode that holds at a path, from what the daemon says of its rules.
fn mode(durability: &Value, below: &Path) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rules = durability["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rule = |rule: &Value| {
        let durability = text(&rule["durability"]).parse().ok()?;
        Some(Rule { pattern: text(&rule["path"]), durability })
    };
    let rules: Option<Vec<_>> = rules.iter().map(rule).collect();
    let mode = text(&durability["mode"]).parse().ok();
    let policy = mode.zip(rules).and_then(|(mode, rules)| Policy::new(mode, rules).ok());
    policy.map_or("?".to_owned(), |policy| policy.applied(below).durability.to_string())
}

/// Names of these files at or below a path. Nothing is looked for when there is none.
fn find(path: &Path, files: &HashMap<u64, &Value>) -> HashMap<u64, PathBuf> {
    let mut named = HashMap::new();
    let mut places = vec![path.to_path_buf()];
    while named.len() < files.len()
        && let Some(place) = places.pop()
    {
        let Ok(metadata) = std::fs::symlink_metadata(&place) else { continue };
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
            for entry in entries {
                use std::os::unix::fs::DirEntryExt;
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_dir {
                    places.push(entry.path());
                } else if files.contains_key(&entry.ino()) {
                    named.insert(entry.ino(), entry.path());
                }
            }
        } else if files.contains_key(&metadata.ino()) {
            named.insert(metadata.ino(), place);
        }
    }
    named
}

fn shown(report: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let age = |value: &Value| value.as_f64().map_or("-".to_owned(), |age| format!("{age:.1} s"));
    let mut shown = format!(
        "{}: durability {}, commit interval {}\nA power cut now would lose at most:\n",
        text(&report["path"]),
        text(&report["durability"]),
        text(&report["commit_interval"]),
    );
    shown.push_str(&table(&[
        row([&"", &"count", &"bytes", &"oldest"]),
        row([
            &"changes of names and attributes, whole mount",
            &report["operations"],
            &"",
            &age(&report["operations_age_s"]),
        ]),
        row([&"files", &report["files"], &report["bytes"], &age(&report["oldest_age_s"])]),
    ]));
    let list = report["list"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return shown;
    }
    let file = |file: &Value| {
        let open = if file["is_open"].as_bool() == Some(true) { "open" } else { "" };
        let name = file["path"].as_str().map_or(format!("inode {}", file["ino"]), str::to_owned);
        row([&name, &open, &file["bytes"], &age(&file["age_s"])])
    };
    shown.push_str(&table(&list.iter().take(SHOWN_MAX).map(file).collect::<Vec<_>>()));
    if let more @ 1.. = list.len().saturating_sub(SHOWN_MAX) {
        shown.push_str(&format!("  and {more} more (--json lists all)\n"));
    }
    shown
}
