//! `lanefs set`.

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::config::commit_interval;
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
    let (mut mode, mut interval, mut level) = (None, None, None);
    for setting in settings {
        match setting.split_once('=') {
            Some(("durability", value)) => mode = Some(durability(value)?.to_string()),
            Some(("commit-interval" | "commit_interval", value)) => {
                commit_interval(value)?;
                interval = Some(value.to_owned());
            }
            Some(("log-level" | "log_level", value)) => {
                logging::parse(value)?;
                level = Some(value.to_owned());
            }
            _ => {
                return Err(Failure::usage(format!(
                    "`{setting}` is no setting: give durability=MODE, commit-interval=TIME or \
                     log-level=LEVEL"
                )));
            }
        }
    }
    let set = (mode.is_some() || interval.is_some())
        .then_some(Request::Set { durability: mode, commit_interval: interval });
    Ok(set.into_iter().chain(level.map(|level| Request::LogLevel { level })).collect())
}
