//! The `lanefs` command.

use std::process::ExitCode;

use clap::Parser;
use fuse_frontend::cli::{Cli, run};
use fuse_frontend::mount_helper;
use fuse_frontend::supervisor::ping;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(mount_point) = ping::asked_about() {
        ping::answer_questions(&mount_point);
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match mount_helper::called_as(std::env::args_os().next().as_ref()) {
        Some(helper) => mount_helper::run(helper),
        None => run(Cli::parse()),
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
