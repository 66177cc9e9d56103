//! `lanefs set`.

use commands::protocol::set_request;

use super::SetArgs;
use super::table::print;
use super::umount::find;
use crate::control::{self, Response};
use crate::failure::Failure;
use crate::mount::preflight;

pub(super) fn run(args: &SetArgs) -> Result<(), Failure> {
    let request = set_request(&args.settings)?;
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
