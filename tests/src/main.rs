//! Long campaigns, by hand: power cuts, baselines, performance. `cargo test` runs short ones.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tests::baseline::{self, BaselineArgs};
#[cfg(feature = "library")]
use tests::libraries::{self, LibrariesArgs};
use tests::mapping::{self, StoreArgs};
use tests::performance::{self, PerformanceArgs};
use tests::powercut::{self, PowercutArgs};

/// Evidence for lanefs: what a power cut leaves, what syncs cost, and that it is faster.
#[derive(Debug, Parser)]
#[command(
    name = "tests",
    max_term_width = 100,
    after_help = "\
Exit codes: 0 nothing was lost or missed; 1 something was, or it failed; 2 usage.

Examples:
  cargo run --release -p tests -- powercut --fs xfs --images 1000
  cargo run --release -p tests -- powercut --fence none --workload maildir
  cargo run --release -p tests -- powercut --plant-lie 1000   # must find losses
  cargo run --release -p tests -- baseline --fs ext4 --flush-ms 2
  cargo run --release -p tests -- performance latency --options fence=log"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cut the power of a disk at many moments and look for broken promises.
    Powercut(PowercutArgs),
    // Their help texts stand with their arguments.
    Baseline(BaselineArgs),
    Performance(PerformanceArgs),
    // A part of `powercut`.
    #[command(hide = true)]
    StoreMapped(StoreArgs),
    #[cfg(feature = "library")]
    Libraries(LibrariesArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Set by Ctrl-C: everything that was made is dropped, and so taken down, on the way out.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let watched = signal_hook::flag::register(signal, Arc::clone(&stop));
        watched.expect("these signals can be watched");
    }
    let outcome = match cli.command {
        Command::Powercut(args) => powercut::run(&args, &stop),
        Command::Baseline(args) => baseline::run(&args, &stop).map(|()| true),
        Command::Performance(args) => performance::run(&args, &stop),
        Command::StoreMapped(args) => mapping::store(&args).map(|()| true),
        #[cfg(feature = "library")]
        Command::Libraries(args) => libraries::run(&args, &stop),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("tests: {message}");
            ExitCode::FAILURE
        }
    }
}
