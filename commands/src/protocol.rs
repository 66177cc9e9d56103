//! What a running mount is asked and told: one line of JSON each way, over whatever channel the
//! platform has.

use std::path::PathBuf;

use fs_core::faults::{FaultReport, FaultRule, PowerCut};
use serde::{Deserialize, Serialize};

use crate::config::{self, commit_interval};
use crate::failure::Failure;
use crate::values::durability;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Figures and settings.
    Status,
    /// What a power cut now would lose.
    AtRisk,
    /// Change what is durable when.
    Set {
        /// The mode of the mount, as it is written.
        durability: Option<String>,
        /// How often is committed what nobody asks for, as it is written.
        commit_interval: Option<String>,
    },
    /// About failures on purpose.
    Fault {
        /// What.
        about: FaultRequest,
    },
    /// What a file of settings says for the mount, as if it were mounted now, and over that what
    /// `Set` has.
    Configure {
        /// The file, absolute.
        file: PathBuf,
        /// As in `Set`.
        durability: Option<String>,
        /// As in `Set`.
        commit_interval: Option<String>,
    },
    /// Make everything that was done so far durable, with an empty log.
    Flush,
    /// Whether the mount can take changes, if the kernel lets them through.
    MayWrite,
    /// Change how much the daemon writes of what happens.
    LogLevel {
        /// A level, or a filter of `tracing`.
        level: String,
    },
    /// Replace the daemon; the mount stays. Linux only.
    Restart {
        /// The program that goes on; the daemon's own, as it lies on the disk, if none.
        binary: Option<PathBuf>,
    },
    /// Flush everything, unmount, end.
    Unmount {
        /// Detach even while files are open.
        lazy: bool,
    },
}

/// What a client asks about failures on purpose.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum FaultRequest {
    /// Add rules: all, or none if one is wrong.
    Add {
        /// The rules.
        rules: Vec<FaultRule>,
    },
    /// Which rules there are, and what they have met.
    List,
    /// Remove rules.
    Clear {
        /// This one; all if none.
        id: Option<u64>,
    },
    /// Let the page cache forget what failed syncs have left in it.
    Forget,
    /// The power fails.
    Crash {
        /// How.
        cut: PowerCut,
        /// Lay what is left out in this directory, and go on; without one the mount ends, and
        /// what is left is the backing directory.
        to: Option<PathBuf>,
    },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    /// To `Status`: the report as JSON.
    Status {
        /// See `docs/status.md`.
        status: serde_json::Value,
    },
    /// To `AtRisk`: see [`fs_core::engine::AtRisk`].
    AtRisk {
        /// As JSON.
        at_risk: serde_json::Value,
    },
    /// To `Set` and `Configure`: what holds now.
    Set {
        /// The mode of the mount.
        durability: String,
        /// How often is committed what nobody asks for.
        commit_interval: String,
    },
    /// To `Fault` with `Add`, `List` or `Clear`: the rules in force.
    Faults {
        /// In the order in which they were added.
        faults: Vec<FaultReport>,
    },
    /// To `Fault` with `Forget`.
    Forgotten {
        /// Bytes that read as before the failed sync again.
        bytes: u64,
    },
    /// To `Fault` with `Crash`.
    Crashed {
        /// The crash is after so many operations since the mount began.
        operations: usize,
        /// Where what is left is.
        directory: PathBuf,
    },
    /// To `Flush` and `MayWrite`: it is so.
    Done,
    /// To `LogLevel`: what holds now.
    LogLevel {
        /// As it was given.
        level: String,
    },
    /// To `Restart`, from the new daemon: it answers requests.
    Restarted {
        /// Its version.
        version: String,
        /// Process that serves the mount; the same as before.
        pid: u32,
        /// How long the mount gave no answers, in milliseconds.
        pause_ms: f64,
    },
    /// To `Unmount`: everything is durable and unmounted.
    Unmounted,
    /// It did not work.
    Failed {
        /// Cause and remedy.
        message: String,
    },
}

/// What `lanefs set` asks for. Everything is checked before anything is set.
///
/// # Errors
/// Something is no setting, or has a value that is none.
pub fn set_request(settings: &[String]) -> Result<Request, Failure> {
    let (mut mode, mut interval, mut file) = (None, None, None);
    for setting in settings {
        match setting.split_once('=') {
            Some(("durability", value)) => mode = Some(durability(value)?.to_string()),
            Some(("commit-interval" | "commit_interval", value)) => {
                commit_interval(value)?;
                interval = Some(value.to_owned());
            }
            Some(("config", value)) => file = Some(readable(value)?),
            _ => {
                return Err(Failure::usage(format!(
                    "`{setting}` is no setting: give durability=MODE, commit-interval=TIME, \
                     config=FILE or log-level=LEVEL"
                )));
            }
        }
    }
    Ok(match file {
        Some(file) => Request::Configure { file, durability: mode, commit_interval: interval },
        None => Request::Set { durability: mode, commit_interval: interval },
    })
}

/// A file of settings that is in order; the mount reads it again.
fn readable(path: &str) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("config={path} is no path: {error}")))?;
    config::load(Some(&path), None)?;
    Ok(path)
}
