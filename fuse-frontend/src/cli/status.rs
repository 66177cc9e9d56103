//! `lanefs status`.

use serde_json::Value;

use super::StatusArgs;
use super::table::print;
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::{mounts, preflight};
use commands::status::shown;

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let Some(path) = &args.mount_point else { return all(args.json) };
    let mount = find(path)?;
    let status = of(&mount)?.ok_or_else(|| preflight::dead_mount(&mount.mount_point))?;
    print(&if args.json { format!("{status}\n") } else { shown(&status) })
}

fn all(json: bool) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let mut reports = Vec::new();
    for mount in mounts::ours().map_err(failed)? {
        // One mount that cannot be asked must not hide the others.
        match of(&mount) {
            Ok(Some(status)) => reports.push(status),
            Ok(None) => eprintln!("lanefs: {}", preflight::dead_mount(&mount.mount_point)),
            Err(failure) => eprintln!("lanefs: {failure}"),
        }
    }
    print(&if json {
        format!("{}\n", Value::Array(reports))
    } else if reports.is_empty() {
        "No lanefs mount to show. Make one: lanefs mount BACKING MOUNTPOINT\n".to_owned()
    } else {
        reports.iter().map(shown).collect::<Vec<_>>().join("\n")
    })
}

pub(super) fn of(mount: &mounts::MountEntry) -> Result<Option<Value>, Failure> {
    match control::ask(mount, &Request::Status)? {
        Some(Response::Status { status }) => Ok(Some(status)),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => Ok(None),
    }
}
