//! `lanefs restart`.

use super::RestartArgs;
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;
use crate::mount::preflight;
use commands::table::print;

pub(super) fn run(args: &RestartArgs) -> Result<(), Failure> {
    let binary = match &args.binary {
        Some(path) => std::path::absolute(path),
        None => std::env::current_exe(),
    };
    let binary = binary.map_err(|error| Failure::usage(format!("--binary: {error}")))?;
    let mount = find(&args.mount_point)?;
    let shown = mount.mount_point.display();
    match control::ask(&mount, &Request::Restart { binary: Some(binary) })? {
        Some(response @ Response::Restarted { .. }) if args.json => {
            let json = serde_json::to_string(&response).expect("a response is plain data");
            print(&format!("{json}\n"))
        }
        Some(Response::Restarted { version, pid, pause_ms }) => print(&format!(
            "{shown} goes on with lanefs {version}, pid {pid}, after {pause_ms:.0} ms without answers\n"
        )),
        Some(Response::Failed { message }) => Err(Failure::new(message)),
        Some(_) => Err(Failure::new("the daemon answered something else")),
        None => Err(preflight::dead_mount(&mount.mount_point)),
    }
}
