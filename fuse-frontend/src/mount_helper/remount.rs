//! `mount -o remount,...`: what of a running mount can be changed by mount(8).
//!
//! The kernel keeps `ro`, `nodev` and the like for the mount and asks nobody; `durability=` and
//! `commit_interval=` go to the daemon, as with `lanefs set`. mount(8) passes the line of fstab
//! along with what was typed, so other options are no mistake here: they hold from the next mount on.

use std::path::Path;

use nix::mount::MsFlags;

use crate::cli;
use crate::config::shown_interval;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::kernel::mount_flags;
use crate::mount::{MountOptions, mounts, preflight};

pub(super) fn is_asked_for(options: &[String]) -> bool {
    options.iter().any(|word| word == "remount")
}

pub(super) fn run(mount_point: &Path, options: &[String], fake: bool) -> Result<(), Failure> {
    let mut wanted = MountOptions::default();
    for word in options.iter().filter(|word| *word != "remount") {
        wanted.apply(word)?;
    }
    let mount = cli::find(mount_point)?;
    if fake {
        return Ok(());
    }
    let durability = wanted.durability.durability.map(|mode| mode.to_string());
    let commit_interval = wanted.durability.commit_interval.map(shown_interval);
    if durability.is_some() || commit_interval.is_some() {
        ask(&mount, &Request::Set { durability, commit_interval })?;
    }
    // Asked before a mount becomes writable: may it? After it has become read-only: then nothing
    // is added any more to what is made durable.
    if !wanted.read_only {
        ask(&mount, &Request::MayWrite)?;
    }
    let flags = mount_flags(&wanted) | MsFlags::MS_REMOUNT;
    let none = None::<&str>;
    nix::mount::mount(none, &mount.mount_point, none, flags, none)
        .map_err(|error| refused(mount_point, error))?;
    if wanted.read_only {
        ask(&mount, &Request::Flush)?;
    }
    Ok(())
}

pub(super) fn ask(mount: &mounts::MountEntry, request: &Request) -> Result<(), Failure> {
    match control::ask(mount, request)? {
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Ok(()),
        None => Err(preflight::dead_mount(&mount.mount_point)),
    }
}

fn refused(mount_point: &Path, error: nix::Error) -> Failure {
    let shown = mount_point.display();
    Failure::new(match error {
        nix::Error::EBUSY => format!(
            "{shown} cannot become read-only while files on it are open for writing: close the \
             programs that use it (`fuser -vm {shown}` lists them)"
        ),
        nix::Error::EPERM => format!("no privilege to remount {shown}: run as root"),
        other => format!("cannot remount {shown}: {other}"),
    })
}
