//! `lanefs set`.

use std::path::PathBuf;

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::config::{self, commit_interval};
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::logging;
use crate::mount::options::durability;
use crate::mount::preflight;

pub(super) fn run(args: &SetArgs) -> Result<(), Failure> {
    let wanted = wanted(&args.settings)?;
    let mount = find(&args.mount_point)?;
    let mut said = Vec::new();
    for request in wanted {
        match control::ask(&mount, &request)? {
            Some(Response::Set { durability, commit_interval }) => {
                said.push(format!("durability={durability} commit-interval={commit_interval}"));
            }
            Some(Response::LogLevel { level }) => said.push(format!("log-level={level}")),
            Some(Response::Failed { message }) => return Err(Failure::new(message)),
            Some(_) => return Err(Failure::new("the daemon answered something else")),
            None => return Err(preflight::dead_mount(&mount.mount_point)),
        }
    }
    print(&format!("{}\n", said.join(" ")))
}

/// Everything is checked before anything is set.
fn wanted(settings: &[String]) -> Result<Vec<Request>, Failure> {
    let (mut mode, mut interval, mut file, mut level) = (None, None, None, None);
    for setting in settings {
        match setting.split_once('=') {
            Some(("durability", value)) => mode = Some(durability(value)?.to_string()),
            Some(("commit-interval" | "commit_interval", value)) => {
                commit_interval(value)?;
                interval = Some(value.to_owned());
            }
            Some(("config", value)) => file = Some(readable(value)?),
            Some(("log-level" | "log_level", value)) => {
                logging::parse(value)?;
                level = Some(value.to_owned());
            }
            _ => {
                return Err(Failure::usage(format!(
                    "`{setting}` is no setting: give durability=MODE, commit-interval=TIME, \
                     config=FILE or log-level=LEVEL"
                )));
            }
        }
    }
    let is_set = mode.is_some() || interval.is_some();
    let set = match file {
        Some(file) => {
            Some(Request::Configure { file, durability: mode, commit_interval: interval })
        }
        None => is_set.then_some(Request::Set { durability: mode, commit_interval: interval }),
    };
    Ok(set.into_iter().chain(level.map(|level| Request::LogLevel { level })).collect())
}

/// A file of settings that is in order; the daemon reads it again.
fn readable(path: &str) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("config={path} is no path: {error}")))?;
    config::load(Some(&path), None)?;
    Ok(path)
}
