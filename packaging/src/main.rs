//! What a package of lanefs has beside the command, from the one definition of the command line.
//!
//! ```text
//! cargo run -p packaging -- pages DIR       man pages and completions
//! cargo run -p packaging -- deb             the Debian package, checked by lintian
//! ```
//!
//! A program of its own and no build script, because nobody who builds lanefs needs it; and no
//! command of lanefs, because nobody who runs it does.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod completions;
mod deb;
mod pages;

/// Make what a package of lanefs has beside the command.
#[derive(Debug, Parser)]
#[command(name = "packaging")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write man pages to DIR/man and completions to DIR/completions.
    Pages {
        /// Made if missing.
        directory: PathBuf,
    },
    /// Build the Debian package and have lintian check it. Installs cargo-deb into target/tools and,
    /// as root on Debian, lintian.
    Deb {
        /// Where the package goes [default: target/debian].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Build only.
        #[arg(long)]
        no_lintian: bool,
    },
}

/// What failed, for a person.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Pages { directory } => write_all(&directory),
        Command::Deb { out, no_lintian } => deb::build(out.as_deref(), !no_lintian),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("packaging: {message}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &std::path::Path) -> Result<()> {
    pages::write(&directory.join("man"))?;
    completions::write(&directory.join("completions"))
}

/// Makes a directory, empty.
fn fresh(directory: &std::path::Path) -> Result<()> {
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", directory.display());
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::create_dir_all(directory).map_err(failed)
}

fn save(path: &std::path::Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}
