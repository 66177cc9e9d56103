//! `lanefs set`.

use commands::protocol::set_request;

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::logging;
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
    let (mut levels, mut others) = (Vec::new(), Vec::new());
    for setting in settings {
        match setting.split_once('=') {
            Some(("log-level" | "log_level", level)) => {
                logging::parse(level)?;
                levels.push(Request::LogLevel { level: level.to_owned() });
            }
            _ => others.push(setting.clone()),
        }
    }
    let set = if others.is_empty() { None } else { Some(set_request(&others)?) };
    Ok(set.into_iter().chain(levels).collect())
}
