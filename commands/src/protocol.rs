//! What a running mount is asked and told: one line of JSON each way, over whatever channel the
//! platform has.

use serde::{Deserialize, Serialize};

use crate::config::commit_interval;
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
    /// Flush everything, unmount, end.
    Unmount {
        /// Detach even while files are open.
        lazy: bool,
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
    /// To `Set`: what holds now.
    Set {
        /// The mode of the mount.
        durability: String,
        /// How often is committed what nobody asks for.
        commit_interval: String,
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
