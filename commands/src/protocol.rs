//! What a running mount is asked and told: one line of JSON each way, over whatever channel the
//! platform has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
