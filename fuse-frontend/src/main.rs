//! The `lanefs` command.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;
use fuse_frontend::cli::{Cli, could_resume, run};
use fuse_frontend::logging;
use fuse_frontend::mount::restart;

fn main() -> ExitCode {
    let cli = match restart::question() {
        None => Cli::parse(),
        Some((version, arguments)) => return answer(&version, arguments),
    };
    logging::init(cli.log_format());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Without a message the exit code says all: `crash-test` has found something.
            if !failure.message.is_empty() {
                eprintln!("lanefs: {failure}");
            }
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Whether this program can go on in place of a daemon with these arguments.
fn answer(version: &OsStr, arguments: Vec<OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    match restart::can_read(version).and_then(|()| could_resume(&cli)) {
        Ok(()) => {
            println!("{}", restart::YES);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("lanefs: {failure}");
            ExitCode::from(failure.exit_code)
        }
    }
}
