//! `lanefs recover` and `lanefs check`: a backing directory's log, without FUSE.

use fs_core::log::recovery;
use fs_core::platform::linux::{BackingOptions, LinuxBacking};

use super::RecoverArgs;
use crate::failure::Failure;
use crate::mount::engine::{LogProgress, open_elsewhere};
use crate::mount::{MountOptions, mounts};

pub(super) fn recover(args: &RecoverArgs) -> Result<(), Failure> {
    let (backing, options) = open(args)?;
    let elsewhere = open_elsewhere(&backing, &options)?;
    let progress = LogProgress::new();
    let report = recovery::recover(&backing, elsewhere, &mut |step| progress.show(step));
    progress.end();
    commands::recovery::show(args, report.map_err(|error| failed(args, &error))?.as_ref(), true)
}

pub(super) fn check(args: &RecoverArgs) -> Result<(), Failure> {
    let (backing, options) = open(args)?;
    let elsewhere = open_elsewhere(&backing, &options)?;
    let report = recovery::check(&backing, elsewhere).map_err(|error| failed(args, &error))?;
    commands::recovery::show(args, report.as_ref(), false)
}

fn failed(args: &RecoverArgs, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", args.backing.display()))
}

fn open(args: &RecoverArgs) -> Result<(LinuxBacking, MountOptions), Failure> {
    let shown = args.backing.display();
    let mounted =
        args.backing.canonicalize().ok().and_then(|path| mounts::at(&path).ok().flatten());
    if mounted.is_some_and(|mount| mount.filesystem == mounts::FILESYSTEM_TYPE) {
        return Err(Failure::usage(format!(
            "{shown} is a lanefs mount: what it serves is recovered already; name the backing \
             directory, and if that is mounted over itself run `lanefs umount {shown}` first"
        )));
    }
    let backing = LinuxBacking::open(&args.backing, BackingOptions::default())
        .map_err(|error| Failure::new(error.to_string()))?;
    if !backing.uses_handles() {
        return Err(Failure::new(format!(
            "{}: files cannot be found by handle here: run this as root, \
             and on the filesystem that the log was kept for",
            args.backing.display()
        )));
    }
    Ok((backing, MountOptions { log: args.log.clone(), ..MountOptions::default() }))
}
