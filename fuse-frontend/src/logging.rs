//! What is written to standard error of what happens: text or JSON, and how much.
//!
//! `lanefs set MOUNTPOINT log-level=debug` changes how much while a mount runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::failure::Failure;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line: timestamp, level, target, fields.
    Json,
}

/// What `set_level` has set last.
static LEVEL: Mutex<Option<String>> = Mutex::new(None);

/// The way to the filter.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins; `RUST_LOG` says how much, warnings and errors if it does not.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Somebody else's subscriber, in a test: then it is that one's business.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Whether these words say how much is written, and what they come to.
///
/// # Errors
/// They do not.
pub fn parse(words: &str) -> Result<EnvFilter, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "log-level={words}: give error, warn, info, debug, trace or off, or a filter like \
             info,fs_core=debug"
        ))
    };
    // The filter itself takes a misspelt level for the name of a module.
    let known = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| known.contains(&word);
    let all_known = words.split(',').all(|word| match word.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(word),
    });
    if all_known { EnvFilter::try_new(words).map_err(|_| wrong()) } else { Err(wrong()) }
}

/// Sets how much is written from now on.
///
/// # Errors
/// The words say nothing, or nothing is written by this program.
pub fn set_level(words: &str) -> Result<(), Failure> {
    let filter = parse(words)?;
    let handle = FILTER.get().ok_or_else(|| Failure::new("this program writes no log"))?;
    let set = handle.reload(filter);
    set.map_err(|error| Failure::new(format!("log-level={words}: {error}")))?;
    *LEVEL.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.to_owned());
    Ok(())
}

/// What was set while the program ran, if anything was.
#[must_use]
pub fn level() -> Option<String> {
    LEVEL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for right in ["debug", "off", "info,fs_core=debug", "fuse_frontend::mount=trace"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["", "loud", "info,", "fs_core=loud", "=debug"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
