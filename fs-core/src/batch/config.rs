//! Settings, their limits and their defaults.

use super::error::ConfigError;
use crate::lane::LaneConfig;
use crate::lane::policy::PolicyConfig;
use crate::log::format::{LOG_BYTES_DEFAULT, LOG_BYTES_MAX, LOG_BYTES_MIN};

/// Most batches that may be carried out at once by threads of the library.
pub const SHARDS_MAX: usize = 64;
/// Longest fixed window: a second.
pub const WINDOW_US_MAX: u64 = 1_000_000;
/// Most sync requests in a group.
pub const GROUP_OPS_MAX: usize = 65_536;
/// Most operations that may be under way in batches.
pub const QUEUE_OPS_MAX: usize = 1 << 24;
/// Most bytes that may be under way in batches: 1 TiB.
pub const QUEUE_BYTES_MAX: u64 = 1 << 40;

/// How content gets to the disk. Whatever is chosen, nothing is answered before it is
/// durable, length and name included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// As [`Method::Data`]: what a file without attributes of its own needs.
    #[default]
    Auto,
    /// fsync(2) where the file itself is synced (which a log or one journal commit for
    /// all replaces).
    Sync,
    /// fdatasync(2), likewise; fsync where attributes of a replaced file were carried over.
    Data,
    /// Whole blocks go past the page cache (`O_DIRECT`), the rest and whatever the
    /// filesystem refuses goes through it: for content that nobody reads soon.
    Direct,
}

/// What is done when a path names a file that has other names, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HardLinks {
    /// [`FileError::HardLinked`](super::FileError::HardLinked). A replace that is all or
    /// nothing gives one name a new file; the others would keep the old one.
    #[default]
    Refuse,
    /// That is what is wanted: the other names keep the old content.
    Split,
}

/// Whether a log is kept in `.lanefs` of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogUse {
    /// Where that is safe; else the files and directories themselves are synced. A full
    /// disk is no reason to fail either.
    #[default]
    WherePossible,
    /// Or the directory is not opened.
    Always,
    /// Never. One that was left behind is recovered first.
    Never,
}

/// Settings of [`Files`](super::Files).
///
/// ```
/// use fs_core::batch::{Files, FilesConfig, LogUse};
///
/// // Always wait half a millisecond for others, and keep no log.
/// let config =
///     FilesConfig { window_us: Some(500), log: LogUse::Never, ..FilesConfig::default() };
/// let place = tempfile::tempdir()?;
/// let files = Files::open(place.path(), config.clone())?;
/// // A setting out of its limits says which ones they are.
/// let refused = Files::open(place.path(), FilesConfig { shards: 65, ..config });
/// assert_eq!(refused.err().unwrap().to_string(), "shards is 65: choose 1 to 64");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesConfig {
    /// How content gets to the disk.
    pub method: Method,
    /// Permission bits of a file that replaces nothing, less the process's umask (or as a
    /// default ACL of its directory says); 0 to 0o777, default 0o666.
    pub new_file_mode: u32,
    /// What is done with a file that has several names.
    pub hard_links: HardLinks,
    /// Whether a log is kept.
    pub log: LogUse,
    /// Length of a log that is made, in bytes: 4 MiB to 1 TiB, default 64 MiB.
    pub log_bytes: u64,
    /// How long a group waits for others, in microseconds, at most a second. `None`, the
    /// default: as long as writers are expected back soon, a lone one never.
    pub window_us: Option<u64>,
    /// Most sync requests in a group; a batch is one, and so is a single operation
    /// (without a log: one for each directory). 1 to 65,536, default 4,096.
    pub group_ops_max: usize,
    /// Most operations in batches that are not answered; whoever brings more waits. A
    /// larger batch is let in alone. 1 to 16,777,216, default 16,384.
    pub queue_ops_max: usize,
    /// The same for bytes to be written. 1 to 1 TiB, default 256 MiB.
    pub queue_bytes_max: u64,
    /// Most batches that are carried out at once by threads of the library, which only
    /// [`commit_async`](super::Batch::commit_async) and
    /// [`commit_then`](super::Batch::commit_then) need: 1 to 64, default 8.
    pub shards: usize,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            method: Method::Auto,
            new_file_mode: 0o666,
            hard_links: HardLinks::Refuse,
            log: LogUse::WherePossible,
            log_bytes: LOG_BYTES_DEFAULT,
            window_us: None,
            group_ops_max: 4096,
            queue_ops_max: 16_384,
            queue_bytes_max: 256 << 20,
            shards: 8,
        }
    }
}

impl FilesConfig {
    /// Whether all settings are within their limits.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("new_file_mode", u64::from(self.new_file_mode), 0, 0o777),
            ("log_bytes", self.log_bytes, LOG_BYTES_MIN, LOG_BYTES_MAX),
            ("window_us", self.window_us.unwrap_or(0), 0, WINDOW_US_MAX),
            ("group_ops_max", self.group_ops_max as u64, 1, GROUP_OPS_MAX as u64),
            ("queue_ops_max", self.queue_ops_max as u64, 1, QUEUE_OPS_MAX as u64),
            ("queue_bytes_max", self.queue_bytes_max, 1, QUEUE_BYTES_MAX),
            ("shards", self.shards as u64, 1, SHARDS_MAX as u64),
        ];
        let bad = limits.into_iter().find(|(_, value, from, to)| !(*from..=*to).contains(value));
        bad.map_or(Ok(()), |(name, value, from, to)| Err(ConfigError { name, value, from, to }))
    }

    /// What it says about the lanes of an engine.
    #[must_use]
    pub fn lanes(&self) -> LaneConfig {
        let window_ns = self.window_us.map(|window_us| window_us * 1000);
        let group_ops_max = self.group_ops_max;
        let policy = PolicyConfig { window_ns, group_ops_max, ..PolicyConfig::default() };
        LaneConfig { policy, ..LaneConfig::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_with_their_values() {
        assert_eq!(FilesConfig::default().check(), Ok(()));
        let text = |config: FilesConfig| config.check().map_err(|error| error.to_string());
        let config = FilesConfig { shards: 65, ..FilesConfig::default() };
        assert_eq!(text(config), Err("shards is 65: choose 1 to 64".to_owned()));
        let config = FilesConfig { group_ops_max: 0, ..FilesConfig::default() };
        assert_eq!(text(config), Err("group_ops_max is 0: choose 1 to 65536".to_owned()));
    }
}
