//! Opening a directory of the real filesystem: its lock, its log, what a crash has left.

use std::path::Path;
use std::sync::Arc;

use super::config::{FilesConfig, LogUse};
use super::error::OpenFilesError;
use super::shared::Opened;
use super::{Files, Native};
use crate::engine::{Engine, EngineConfig};
use crate::log::recovery::{self, RecoveryReport};
use crate::log::{LogConfig, OpenLogError};
use crate::platform::{Backing, NativeBacking};

impl Files<Native> {
    /// Opens a directory, which must exist, and locks it. What a crash has left is put in
    /// order first: the log is recovered, temporary files are removed.
    ///
    /// The log is made if there is none ([`FilesConfig::log`]), and everything on the
    /// filesystem is made durable once: opening may take seconds.
    ///
    /// # Errors
    /// See [`OpenFilesError`]; each says what to do.
    pub fn open(dir: impl AsRef<Path>, config: FilesConfig) -> Result<Self, OpenFilesError> {
        config.check()?;
        let path = dir.as_ref();
        let backing = Arc::new(NativeBacking::open_as_library(path)?);
        let (engine, no_log) = engine(&backing, path, &config)?;
        let tree = engine.add_tree(Arc::clone(&backing))?;
        let caller = backing.own_caller();
        let unlock = Some(Box::new(move || backing.release_lock()) as _);
        Self::begin(tree, caller, config, Opened { no_log, unlock })
    }
}

/// An engine, and why it has no log, if it has none.
type Made = (Arc<Engine<NativeBacking>>, Option<String>);

fn engine(
    backing: &Arc<NativeBacking>,
    path: &Path,
    config: &FilesConfig,
) -> Result<Made, OpenFilesError> {
    let lanes = || EngineConfig { lanes: config.lanes(), ..EngineConfig::default() };
    let obstacle = match config.log {
        LogUse::Never => Some("none is wanted".to_owned()),
        _ => backing.log_obstacle(),
    };
    if let Some(reason) = obstacle {
        return without_log(backing, path, config, reason);
    }
    let log = LogConfig { bytes: config.log_bytes, ..LogConfig::default() };
    match Engine::with_log(backing, lanes(), log, None, &mut |_| {}) {
        Ok((engine, report)) => {
            tell(report.as_ref());
            Ok((engine, None))
        }
        // No room for a log, say.
        Err(OpenLogError::Home { what, source }) if config.log == LogUse::WherePossible => {
            without_log(backing, path, config, format!("cannot {what}: {source}"))
        }
        Err(error) => Err(log_error(path, error)),
    }
}

fn without_log(
    backing: &Arc<NativeBacking>,
    path: &Path,
    config: &FilesConfig,
    reason: String,
) -> Result<Made, OpenFilesError> {
    if config.log == LogUse::Always {
        return Err(OpenFilesError::NoLog { path: path.to_owned(), reason });
    }
    tracing::debug!(reason, "no log is kept");
    // What is in one that was left behind has been promised.
    let found = recovery::check(&**backing, None).map_err(|error| log_error(path, error))?;
    if found.is_some_and(|found| found.groups > 0 || !found.is_nothing()) {
        let report = recovery::recover(&**backing, None, &mut |_| {});
        tell(report.map_err(|error| log_error(path, error))?.as_ref());
    }
    let engine =
        Engine::new(&**backing, EngineConfig { lanes: config.lanes(), ..EngineConfig::default() });
    Ok((engine, Some(reason)))
}

fn log_error(path: &Path, error: OpenLogError) -> OpenFilesError {
    OpenFilesError::Log { path: path.to_owned(), source: Box::new(error) }
}

fn tell(report: Option<&RecoveryReport>) {
    if let Some(report) = report.filter(|report| !report.is_nothing()) {
        tracing::info!(redone = report.redone, bytes = report.bytes_filled, "recovered");
    }
}
