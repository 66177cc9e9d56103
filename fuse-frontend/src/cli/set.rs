//! `lanefs set`.

use std::path::PathBuf;

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::config::{self, commit_interval};
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::options::durability;
use crate::mount::preflight;

pub(super) fn run(args: &SetArgs) -> Result<(), Failure> {
    let request = request(&args.settings)?;
    let mount = find(&args.mount_point)?;
    match control::ask(&mount, &request)? {
        Some(Response::Set { durability, commit_interval }) => {
            print(&format!("durability={durability} commit-interval={commit_interval}\n"))
        }
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => Err(preflight::dead_mount(&mount.mount_point)),
    }
}

/// Everything is checked before anything is set.
fn request(settings: &[String]) -> Result<Request, Failure> {
    let (mut mode, mut interval, mut file) = (None, None, None);
    for setting in settings {
        match setting.split_once('=') {
            Some(("durability", value)) => mode = Some(durability(value)?.to_string()),
            Some(("commit-interval" | "commit_interval", value)) => {
                commit_interval(value)?;
                interval = Some(value.to_owned());
            }
            Some(("config", value)) => file = Some(readable(value)?),
            _ => {
                return Err(Failure::usage(format!(
                    "`{setting}` is no setting: give durability=MODE, commit-interval=TIME or \
                     config=FILE"
                )));
            }
        }
    }
    Ok(match file {
        Some(file) => Request::Configure { file, durability: mode, commit_interval: interval },
        None => Request::Set { durability: mode, commit_interval: interval },
    })
}

/// A file of settings that is in order; the daemon reads it again.
fn readable(path: &str) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("config={path} is no path: {error}")))?;
    config::load(Some(&path), None)?;
    Ok(path)
}
