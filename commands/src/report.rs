//! Parts of what `lanefs status --json` prints that are the same on every platform.

use std::path::PathBuf;

use fs_core::durability::Rule;
use serde::Serialize;

use crate::config::{Settings, shown_interval};

/// Version of what `status --json` prints; raised when a field changes its meaning.
pub const STATUS_SCHEMA: u32 = 1;

/// What is durable when.
#[derive(Debug, Serialize)]
pub struct DurabilityReport {
    /// The mode of the mount.
    pub mode: String,
    /// Who says so.
    pub mode_from: String,
    /// Modes of parts of it, in order: the last that matches wins.
    pub rules: Vec<RuleReport>,
    /// How often is committed what nobody asks for; 0: never.
    pub commit_interval: String,
    /// Who says so.
    pub commit_interval_from: String,
    /// The file with settings that was read.
    pub config: Option<PathBuf>,
}

/// The mode of a part of a mount.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// A glob below the mount point.
    pub path: String,
    /// The mode.
    pub durability: String,
}

impl DurabilityReport {
    /// What these settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let rule = |rule: &Rule| RuleReport {
            path: rule.pattern.clone(),
            durability: rule.durability.to_string(),
        };
        Self {
            mode: settings.policy.default_mode().to_string(),
            mode_from: settings.policy_from.to_string(),
            rules: settings.policy.rules().iter().map(rule).collect(),
            commit_interval: shown_interval(settings.commit_interval),
            commit_interval_from: settings.commit_interval_from.to_string(),
            config: settings.file.clone(),
        }
    }
}
