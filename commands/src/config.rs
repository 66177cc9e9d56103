//! Settings of mounts that are not typed each time: the file `lanefs.toml` and the environment.
//!
//! | from | wins over | says |
//! | --- | --- | --- |
//! | flags of `lanefs mount`, `-o` | all others | mode and commit interval of this mount |
//! | `LANEFS_DURABILITY`, `LANEFS_COMMIT_INTERVAL` | the file | the same |
//! | `[[mount]]` of the file | its top | the same for one mount point, and rules for parts of it |
//! | the top of the file | the defaults | the same for every mount |
//!
//! Rules come from the file alone and hold whatever the mount's own mode is: they are about
//! parts of it. What a rule means is decided in `fs_core::durability`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_core::durability::{Durability, Policy, Rule};
use serde::Deserialize;

use crate::failure::Failure;

/// Names the file.
const FILE_VARIABLE: &str = "LANEFS_CONFIG";
const DURABILITY_VARIABLE: &str = "LANEFS_DURABILITY";
const INTERVAL_VARIABLE: &str = "LANEFS_COMMIT_INTERVAL";

/// What was applied is committed so often unless something else is said.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// How often is committed what nobody asks for; `None`: never.
pub type CommitInterval = Option<Duration>;

/// What holds for a mount, and who says so.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Modes of the mount and of its parts.
    pub policy: Policy,
    /// Who says the mode of the mount.
    pub policy_from: Source,
    /// How often is committed what nobody asks for.
    pub commit_interval: CommitInterval,
    /// Who says so.
    pub commit_interval_from: Source,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            policy_from: Source::Default,
            commit_interval: Some(COMMIT_INTERVAL_DEFAULT),
            commit_interval_from: Source::Default,
            file: None,
        }
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A flag of `lanefs mount`, or `-o`.
    Flag,
    /// An environment variable.
    Environment(&'static str),
    /// `[[mount]]` of the file.
    FileMount,
    /// The top of the file.
    FileTop,
    /// Nobody has said anything.
    Default,
    /// `lanefs set`, while the mount was running.
    Set,
}

impl Source {
    /// What [`Self::from_word`] reads, for a daemon that is replaced.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment(name) => name,
            Self::FileMount => "file-mount",
            Self::FileTop => "file-top",
            Self::Default => "default",
            Self::Set => "set",
        }
    }

    /// A source by its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let environment = [DURABILITY_VARIABLE, INTERVAL_VARIABLE].map(Self::Environment);
        let others = [Self::Flag, Self::FileMount, Self::FileTop, Self::Default, Self::Set];
        environment.into_iter().chain(others).find(|source| source.word() == word)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("a flag of `lanefs mount`"),
            Self::Environment(name) => write!(f, "the variable {name}"),
            Self::FileMount => f.write_str("[[mount]] in the file"),
            Self::FileTop => f.write_str("the top of the file"),
            Self::Default => f.write_str("the default"),
            Self::Set => f.write_str("`lanefs set`"),
        }
    }
}

/// What flags say; `None`: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// The mode of the mount.
    pub durability: Option<Durability>,
    /// How often is committed what nobody asks for.
    pub commit_interval: Option<CommitInterval>,
}

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigFile {
    durability: Option<Text<Durability>>,
    commit_interval: Option<Text<Interval>>,
    #[serde(default)]
    mount: Vec<MountTable>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MountTable {
    /// The mount point.
    path: PathBuf,
    durability: Option<Text<Durability>>,
    commit_interval: Option<Text<Interval>>,
    #[serde(default)]
    rule: Vec<RuleTable>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleTable {
    /// A glob below the mount point.
    path: Text<Pattern>,
    durability: Text<Durability>,
}

/// A value that is text in the file; its errors get the file's line.
#[derive(Debug, Clone)]
struct Text<T>(T);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Clone, Copy)]
struct Interval(CommitInterval);

impl std::str::FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        commit_interval(text).map(Self).map_err(|failure| failure.message)
    }
}

#[derive(Debug, Clone)]
struct Pattern(String);

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = Rule { pattern: text.to_owned(), durability: Durability::default() };
        Policy::new(Durability::default(), vec![rule]).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

/// A commit interval as people write it: `1s`, `500ms`, `0` for never.
///
/// # Errors
/// It is none, or out of range.
pub fn commit_interval(text: &str) -> Result<CommitInterval, Failure> {
    let failed = || {
        Failure::usage(format!(
            "commit interval `{text}`: give a time from {}ms to {}s, like 1s or 500ms, or 0 for never",
            INTERVAL_MIN.as_millis(),
            INTERVAL_MAX.as_secs()
        ))
    };
    if text == "0" {
        return Ok(None);
    }
    let (digits, unit_ms) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').ok_or_else(failed)?, 1000),
    };
    let ms = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    let interval = Duration::from_millis(ms.ok_or_else(failed)?);
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        Ok(Some(interval))
    } else {
        Err(failed())
    }
}

/// A commit interval as it is read.
#[must_use]
pub fn shown_interval(interval: CommitInterval) -> String {
    match interval.map(|interval| interval.as_millis()) {
        None => "0".to_owned(),
        Some(ms) if ms % 1000 == 0 => format!("{}s", ms / 1000),
        Some(ms) => format!("{ms}ms"),
    }
}

/// The file that holds: the named one, else that of the environment, else the platform's usual
/// place, where none need be.
///
/// # Errors
/// A file was named and cannot be read, or has something in it that is no setting.
pub fn load(
    named: Option<&Path>,
    usual: Option<PathBuf>,
) -> Result<(Option<PathBuf>, ConfigFile), Failure> {
    let variable = std::env::var_os(FILE_VARIABLE).filter(|value| !value.is_empty());
    let named = named.map(Path::to_path_buf).or(variable.map(PathBuf::from));
    let must_exist = named.is_some();
    let Some(path) = named.or(usual) else { return Ok((None, ConfigFile::default())) };
    let shown = path.display();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok((None, ConfigFile::default()));
        }
        Err(error) => {
            let remedy = "name another with --config or LANEFS_CONFIG";
            return Err(Failure::usage(format!("cannot read {shown}: {error}; {remedy}")));
        }
    };
    let file = parse(&text).map_err(|error| Failure::usage(format!("{shown}, {error}")))?;
    Ok((Some(path), file))
}

/// Reads the file's text; an error begins with its line.
fn parse(text: &str) -> Result<ConfigFile, String> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line}: {}", error.message().trim().replace('\n', " "))
    })
}

/// What holds for the mount at `mount_point`, resolved.
///
/// # Errors
/// An environment variable has a value that is none.
pub fn settle(
    flags: Flags,
    file: Option<PathBuf>,
    config: &ConfigFile,
    mount_point: &Path,
) -> Result<Settings, Failure> {
    // Paths in the file may go through symbolic links, as on the command line.
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    // The last one wins, as among rules.
    let table = config.mount.iter().rev().find(|table| resolved(&table.path) == mount_point);
    let of_table = table.and_then(|table| table.durability.clone());
    let choices = [
        (flags.durability, Source::Flag),
        (
            variable(DURABILITY_VARIABLE)?.map(|Text(mode)| mode),
            Source::Environment(DURABILITY_VARIABLE),
        ),
        (of_table.map(|Text(mode)| mode), Source::FileMount),
        (config.durability.clone().map(|Text(mode)| mode), Source::FileTop),
    ];
    let (mode, policy_from) = first(choices, Durability::default());
    let of_table = table.and_then(|table| table.commit_interval.clone());
    let plain = |Text(Interval(interval))| interval;
    let choices = [
        (flags.commit_interval, Source::Flag),
        (variable(INTERVAL_VARIABLE)?.map(plain), Source::Environment(INTERVAL_VARIABLE)),
        (of_table.map(plain), Source::FileMount),
        (config.commit_interval.clone().map(plain), Source::FileTop),
    ];
    let (commit_interval, commit_interval_from) = first(choices, Some(COMMIT_INTERVAL_DEFAULT));
    let rule =
        |rule: &RuleTable| Rule { pattern: rule.path.0.0.clone(), durability: rule.durability.0 };
    let rules = table.map(|table| table.rule.iter().map(rule).collect()).unwrap_or_default();
    let policy = Policy::new(mode, rules).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Settings { policy, policy_from, commit_interval, commit_interval_from, file })
}

impl ConfigFile {
    /// The mount points that the file knows, in order.
    pub fn mount_points(&self) -> impl Iterator<Item = &Path> {
        self.mount.iter().map(|table| table.path.as_path())
    }
}

fn first<T: Copy, const N: usize>(choices: [(Option<T>, Source); N], default: T) -> (T, Source) {
    let given = choices.into_iter().find_map(|(value, source)| Some((value?, source)));
    given.unwrap_or((default, Source::Default))
}

fn variable<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
) -> Result<Option<Text<T>>, Failure> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    value
        .parse()
        .map(|value| Some(Text(value)))
        .map_err(|error| Failure::usage(format!("the environment variable {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
durability = "close"
commit-interval = "2s"

[[mount]]
path = "/srv/mail"
durability = "always"

[[mount.rule]]
path = "tmp/**"
durability = "relaxed:100"

[[mount]]
path = "/srv/other"
commit-interval = "0"
"#;

    fn settled(flags: Flags, mount_point: &str) -> Settings {
        let config = parse(FILE).expect("a good file");
        settle(flags, None, &config, Path::new(mount_point)).expect("settings")
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let shown = |settings: &Settings| {
            (settings.policy.default_mode().to_string(), settings.policy_from)
        };
        let mail = settled(Flags::default(), "/srv/mail");
        assert_eq!(shown(&mail), ("always".to_owned(), Source::FileMount));
        assert_eq!(mail.commit_interval, Some(Duration::from_secs(2)));
        assert_eq!(mail.commit_interval_from, Source::FileTop);
        let other = settled(Flags::default(), "/srv/other");
        assert_eq!(shown(&other), ("close".to_owned(), Source::FileTop));
        assert_eq!((other.commit_interval, other.commit_interval_from), (None, Source::FileMount));
        let flags = Flags { durability: Some(Durability::Fsync), ..Flags::default() };
        let mail = settled(flags, "/srv/mail");
        assert_eq!(shown(&mail), ("fsync".to_owned(), Source::Flag));
        let below = mail.policy.applied(Path::new("tmp/x"));
        assert_eq!(below.durability.to_string(), "relaxed:100", "rules hold whatever the mode is");
        let nothing = settle(Flags::default(), None, &ConfigFile::default(), Path::new("/x"));
        let nothing = nothing.expect("defaults");
        assert_eq!(shown(&nothing), ("fsync".to_owned(), Source::Default));
        assert_eq!(nothing.commit_interval, Some(COMMIT_INTERVAL_DEFAULT));
    }

    #[test]
    fn mistakes_have_a_line_and_a_remedy() {
        for (text, line, hint) in [
            ("durabilty = \"close\"", 1, "expected one of `durability`"),
            ("\n\ndurability = \"closed\"", 3, "give fsync, close, always"),
            ("commit-interval = \"5\"", 1, "like 1s or 500ms"),
            ("[[mount]]\ndurability = \"close\"", 1, "missing field `path`"),
            (
                "[[mount]]\npath = \"/a\"\n[[mount.rule]]\npath = \"/a\"\ndurability = \"close\"",
                4,
                "glob",
            ),
            ("[[mount]]\npath = \"/a\"\nrules = 1", 3, "unknown field `rules`"),
            ("durability = close", 1, ""),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(&format!("line {line}: ")), "{text:?}: {error}");
            assert!(error.contains(hint), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn intervals_are_read_as_they_are_shown() {
        for text in ["0", "10ms", "1s", "1500ms", "3600s"] {
            assert_eq!(shown_interval(commit_interval(text).expect(text)), text);
        }
        for text in ["", "1", "9ms", "3601s", "1m", "-1s", "1.5s"] {
            assert!(commit_interval(text).is_err(), "{text}");
        }
    }
}
