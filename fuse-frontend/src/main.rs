//! The `lanefs` command.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;
use fuse_frontend::cli::{Cli, could_resume, run};
use fuse_frontend::logging::{self, LogFormat};
use fuse_frontend::mount::restart;
use fuse_frontend::mount_helper;
use fuse_frontend::supervisor::ping;

fn main() -> ExitCode {
    if let Some(mount_point) = ping::asked_about() {
        ping::answer_questions(&mount_point);
        return ExitCode::SUCCESS;
    }
    if let Some((version, arguments)) = restart::question() {
        return answer(&version, &arguments);
    }
    let outcome = match mount_helper::called_as(std::env::args_os().next().as_ref()) {
        Some(helper) => {
            logging::init(LogFormat::default());
            mount_helper::run(helper)
        }
        None => {
            let cli = Cli::parse();
            logging::init(cli.log_format());
            run(cli)
        }
    };
    match outcome {
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
fn answer(version: &OsStr, arguments: &[OsString]) -> ExitCode {
    let could = || match mount_helper::called_as(arguments.first()) {
        Some(_) => mount_helper::could_resume(arguments),
        None => could_resume(&Cli::parse_from(arguments).command),
    };
    match restart::can_read(version).and_then(|()| could()) {
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
