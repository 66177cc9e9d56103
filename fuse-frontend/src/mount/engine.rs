//! The engine of a mount: with a log where that is safe, else without.
//!
//! `fence=auto` keeps a log unless there is a reason not to, and that reason is
//! shown by `lanefs status`. Whatever the choice: a log that is not empty is
//! recovered before anything else happens.

use std::path::Path;
use std::sync::Arc;

use fs_core::engine::{Engine, EngineConfig};
use fs_core::log::recovery::{self, RecoveryReport};
use fs_core::log::{LogConfig, OpenLogError, Progress};
use fs_core::platform::Backing;
use fs_core::platform::linux::{LinuxBacking, LinuxLog};
use indicatif::{ProgressBar, ProgressStyle};

use super::MountPlan;
use super::options::{FenceChoice, MountOptions};
use crate::failure::Failure;

/// An engine, and why it is as it is.
pub struct MountEngine {
    /// The engine.
    pub engine: Arc<Engine<LinuxBacking>>,
    /// Why no log is kept, if none is.
    pub no_log: Option<String>,
}

/// Makes the engine that the options ask for.
///
/// # Errors
/// The log was asked for and cannot be kept, or what is in it cannot be recovered.
pub fn start(backing: &Arc<LinuxBacking>, plan: &MountPlan) -> Result<MountEngine, Failure> {
    let (path, options) = (plan.backing.as_path(), &plan.options);
    let commit_interval = plan.settings.commit_interval;
    let config = || EngineConfig { lanes: options.lanes(), commit_interval };
    // A log that was named must be there, whatever is chosen.
    drop(open_elsewhere(backing, options)?);
    let reason = reason_against(backing, options);
    if let Some(reason) = reason {
        let named = options.log.is_some() && options.fence == FenceChoice::Auto;
        if options.fence == FenceChoice::Log || named {
            let asked = if named { "--log" } else { "fence=log" };
            return Err(Failure::new(format!(
                "{asked}: no log can be kept for {}: {reason}",
                path.display()
            )));
        }
        recover_first(backing, path, options)?;
        return Ok(MountEngine { engine: Engine::new(backing, config()), no_log: Some(reason) });
    }
    let progress = LogProgress::new();
    let log = LogConfig {
        bytes: options.log_bytes,
        checkpoint_interval: options.checkpoint_interval,
        ..LogConfig::default()
    };
    let elsewhere = open_elsewhere(backing, options)?;
    let opened =
        Engine::with_log(backing, config(), log, elsewhere, &mut |step| progress.show(step));
    progress.end();
    let (engine, report) = match opened {
        Ok(opened) => opened,
        // No room for a log, say: the mount is worth having without.
        Err(OpenLogError::Home { what, source }) if options.fence == FenceChoice::Auto => {
            let reason = format!("cannot {what}: {source}");
            tracing::warn!(reason, "no log is kept");
            recover_first(backing, path, options)?;
            let engine = Engine::new(&**backing, config());
            return Ok(MountEngine { engine, no_log: Some(reason) });
        }
        Err(error) => return Err(Failure::new(format!("{}: {error}", path.display()))),
    };
    if let Some(report) = report.filter(|report| !report.is_nothing()) {
        tracing::info!("recovered: {}", sentence(&report));
    }
    Ok(MountEngine { engine, no_log: None })
}

fn reason_against(backing: &LinuxBacking, options: &MountOptions) -> Option<String> {
    if options.read_only {
        return Some("the mount is read-only".to_owned());
    }
    if options.fence == FenceChoice::Backing {
        return Some("fence=backing was asked for".to_owned());
    }
    backing.log_obstacle()
}

/// A log that was left behind must be recovered even if none is kept from now on.
///
/// # Errors
/// It cannot be recovered, or the mount is read-only.
pub fn recover_first(
    backing: &LinuxBacking,
    path: &Path,
    options: &MountOptions,
) -> Result<(), Failure> {
    let failed = |error: OpenLogError| Failure::new(format!("{}: {error}", path.display()));
    let elsewhere = || open_elsewhere(backing, options);
    let found = recovery::check(backing, elsewhere()?).map_err(failed)?;
    // A batch of a Rust program that was interrupted is no group.
    let is_something = |found: &RecoveryReport| found.groups > 0 || !found.is_nothing();
    let Some(found) = found.filter(is_something) else { return Ok(()) };
    if options.read_only {
        return if found.is_nothing() {
            Ok(())
        } else {
            Err(Failure::new(format!(
                "{} has a log with acknowledged changes in it, and a read-only mount cannot bring \
                 them in: run `lanefs recover {}` first",
                path.display(),
                path.display()
            )))
        };
    }
    let progress = LogProgress::new();
    let report = recovery::recover(backing, elsewhere()?, &mut |step| progress.show(step));
    progress.end();
    if let Some(report) = report.map_err(failed)? {
        tracing::info!("recovered: {}", sentence(&report));
    }
    Ok(())
}

/// The log that was named, if one was.
pub fn open_elsewhere(
    backing: &LinuxBacking,
    options: &MountOptions,
) -> Result<Option<LinuxLog>, Failure> {
    let Some(path) = &options.log else { return Ok(None) };
    let opened = LinuxLog::open_path(path, backing.filesystem_id());
    opened.map(Some).map_err(|error| {
        Failure::new(format!(
            "{error} (a log outside of the backing directory is made with `lanefs log format {}`)",
            path.display()
        ))
    })
}

/// A recovery in one sentence.
#[must_use]
pub fn sentence(report: &RecoveryReport) -> String {
    format!(
        "{} operations redone, {} bytes filled into {} files, from {} groups of log in {:.3} s",
        report.redone, report.bytes_filled, report.files_filled, report.groups, report.seconds
    )
}

/// Progress on a terminal; nothing elsewhere.
pub struct LogProgress(ProgressBar);

impl Default for LogProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl LogProgress {
    /// A bar that is not shown before something takes long.
    #[must_use]
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("  {msg} {bar:30} {percent}%");
        let bar = ProgressBar::new(1);
        Self(bar.with_style(style.expect("the template is constant and valid")))
    }

    /// Shows a step.
    pub fn show(&self, step: Progress) {
        let (what, done, all) = match step {
            Progress::Making(done, all) => ("making the log", done, all),
            Progress::Recovering(done, all) => ("recovering", done, all),
        };
        self.0.set_message(what);
        self.0.set_length(all);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
