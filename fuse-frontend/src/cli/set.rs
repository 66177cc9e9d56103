//! `lanefs set`.

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::config::commit_interval;
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
    let (mut mode, mut interval) = (None, None);
    for setting in settings {
        match setting.split_once('=') {
            Some(("durability", value)) => mode = Some(durability(value)?.to_string()),
            Some(("commit-interval" | "commit_interval", value)) => {
                commit_interval(value)?;
                interval = Some(value.to_owned());
            }
            _ => {
                return Err(Failure::usage(format!(
                    "`{setting}` is no setting: give durability=MODE or commit-interval=TIME"
                )));
            }
        }
    }
    Ok(Request::Set { durability: mode, commit_interval: interval })
}
