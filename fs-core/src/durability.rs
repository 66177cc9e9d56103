//! Durability by policy: what a mount promises beside what programs ask for.
//!
//! | mode | what is durable when a call returns |
//! | --- | --- |
//! | `fsync` | what a sync call asks for (the default) |
//! | `close` | that, and a written file at `close`, and each change of names |
//! | `always` | every change |
//! | `relaxed:MS` | nothing; what a sync call asked for is, at most MS milliseconds later |
//!
//! A [`Policy`] is a mode for the whole mount and [`Rule`]s for parts of it; the last rule
//! that matches a path wins. Everything here is pure: paths are text, nothing is opened.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest delay of `relaxed`, in milliseconds: an hour.
pub const RELAXED_MS_MAX: u64 = 3_600_000;

/// What is promised without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Sync requests are answered at once; what they asked for is durable at most so much
    /// later. Never chosen unless asked for by name.
    Relaxed(Duration),
    /// A sync request is answered when what it asks for is durable.
    #[default]
    Fsync,
    /// Also: closing a written file and changing names.
    Close,
    /// Also: every other change.
    Always,
}

impl Durability {
    /// Whether closing a written file waits until it is durable.
    #[must_use]
    pub const fn at_close(self) -> bool {
        matches!(self, Self::Close | Self::Always)
    }

    /// Whether a change of names waits until it is durable.
    #[must_use]
    pub const fn for_names(self) -> bool {
        matches!(self, Self::Close | Self::Always)
    }

    /// Whether every change waits until it is durable.
    #[must_use]
    pub const fn for_everything(self) -> bool {
        matches!(self, Self::Always)
    }

    /// How long a sync request may be late, if it may be.
    #[must_use]
    pub const fn delay(self) -> Option<Duration> {
        match self {
            Self::Relaxed(delay) => Some(delay),
            _ => None,
        }
    }

    /// The mode that promises more; of two relaxed ones the sooner.
    #[must_use]
    pub fn stronger(self, other: Self) -> Self {
        match (self, other) {
            (Self::Relaxed(one), Self::Relaxed(two)) => Self::Relaxed(one.min(two)),
            _ if self.rank() >= other.rank() => self,
            _ => other,
        }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Relaxed(_) => 0,
            Self::Fsync => 1,
            Self::Close => 2,
            Self::Always => 3,
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relaxed(delay) => write!(f, "relaxed:{}", delay.as_millis()),
            Self::Fsync => f.write_str("fsync"),
            Self::Close => f.write_str("close"),
            Self::Always => f.write_str("always"),
        }
    }
}

/// A mode that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "durability `{0}`: give fsync, close, always, or relaxed:MS with MS from 1 to {RELAXED_MS_MAX}"
)]
pub struct DurabilityError(pub String);

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        let failed = || DurabilityError(text.to_owned());
        match text {
            "fsync" => Ok(Self::Fsync),
            "close" => Ok(Self::Close),
            "always" => Ok(Self::Always),
            _ => {
                let ms = text.strip_prefix("relaxed:").ok_or_else(failed)?;
                let ms = ms.parse().ok().filter(|ms| (1..=RELAXED_MS_MAX).contains(ms));
                ms.map(|ms| Self::Relaxed(Duration::from_millis(ms))).ok_or_else(failed)
            }
        }
    }
}

/// A mode for the paths that a glob matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Below the root of the mount, without a slash in front. `*` and `?` stay within one
    /// name, `**` crosses directories; `{a,b}` and `[a-z]` as usual. A pattern that names a
    /// directory holds for everything below it too.
    pub pattern: String,
    /// What is promised there.
    pub durability: Durability,
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pattern `{pattern}`: {reason}; give a glob below the mount's root, like `mail/**` or `*.db`"
)]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The modes of a mount.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    default: Durability,
    rules: Vec<Rule>,
    /// Two globs for each rule: the pattern, and everything below it.
    globs: GlobSet,
}

/// What holds for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The mode.
    pub durability: Durability,
    /// Which rule says so, from 0; `None`: the mount's own mode.
    pub rule: Option<usize>,
}

impl Policy {
    /// One mode for everything.
    #[must_use]
    pub fn uniform(default: Durability) -> Self {
        Self { default, ..Self::default() }
    }

    /// A mode, and rules for parts of the mount; the last that matches wins.
    ///
    /// # Errors
    /// A pattern is no glob, or begins with a slash.
    pub fn new(default: Durability, rules: Vec<Rule>) -> Result<Self, PatternError> {
        let mut globs = GlobSetBuilder::new();
        for rule in &rules {
            globs.add(glob(&rule.pattern, &rule.pattern)?);
            globs.add(glob(&rule.pattern, &format!("{}/**", rule.pattern))?);
        }
        let failed = |error: globset::Error| PatternError {
            pattern: error.glob().unwrap_or("all").to_owned(),
            reason: error.kind().to_string(),
        };
        let globs = globs.build().map_err(failed)?;
        Ok(Self { default, rules, globs })
    }

    /// The same rules with another mode for the rest.
    #[must_use]
    pub fn with_default(&self, default: Durability) -> Self {
        Self { default, ..self.clone() }
    }

    /// The mode of what no rule matches.
    #[must_use]
    pub const fn default_mode(&self) -> Durability {
        self.default
    }

    /// The rules, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The mode that promises most, of the mount's own and those of all rules.
    #[must_use]
    pub fn strongest(&self) -> Durability {
        self.rules.iter().fold(self.default, |most, rule| most.stronger(rule.durability))
    }

    /// What holds for a path below the root of the mount, which itself is the empty path.
    #[must_use]
    pub fn applied(&self, path: &Path) -> Applied {
        let rule = self.globs.matches(path).last().map(|glob| glob / 2);
        let durability = rule.map_or(self.default, |rule| self.rules[rule].durability);
        Applied { durability, rule }
    }
}

fn glob(pattern: &str, text: &str) -> Result<Glob, PatternError> {
    let failed = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
    if pattern.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    if pattern.starts_with('/') || pattern.ends_with('/') {
        return Err(failed("it begins or ends with a slash".to_owned()));
    }
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    glob.map_err(|error| failed(error.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(default: &str, rules: &[(&str, &str)]) -> Policy {
        let rule = |&(pattern, mode): &(&str, &str)| Rule {
            pattern: pattern.to_owned(),
            durability: mode.parse().expect("a mode"),
        };
        Policy::new(default.parse().expect("a mode"), rules.iter().map(rule).collect())
            .expect("patterns are globs")
    }

    fn mode(policy: &Policy, path: &str) -> String {
        policy.applied(Path::new(path)).durability.to_string()
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for text in ["fsync", "close", "always", "relaxed:1", "relaxed:3600000"] {
            assert_eq!(text.parse::<Durability>().expect(text).to_string(), text);
        }
        for text in ["", "Fsync", "relaxed", "relaxed:", "relaxed:0", "relaxed:3600001", "none"] {
            let error = text.parse::<Durability>().expect_err(text).to_string();
            assert!(error.contains("relaxed:MS"), "{error}");
        }
    }

    #[test]
    fn each_mode_promises_more_than_the_one_before() {
        let ms = |ms| Durability::Relaxed(Duration::from_millis(ms));
        let modes = [ms(20), ms(10), Durability::Fsync, Durability::Close, Durability::Always];
        for (weaker, stronger) in modes.iter().zip(&modes[1..]) {
            assert_eq!(weaker.stronger(*stronger), *stronger);
            assert_eq!(stronger.stronger(*weaker), *stronger);
        }
    }

    #[test]
    fn the_last_rule_that_matches_wins() {
        let policy = policy(
            "fsync",
            &[("mail", "close"), ("mail/tmp/**", "relaxed:50"), ("**/*.db", "always")],
        );
        assert_eq!(mode(&policy, ""), "fsync");
        assert_eq!(mode(&policy, "mailbox"), "fsync");
        assert_eq!(mode(&policy, "mail"), "close");
        assert_eq!(mode(&policy, "mail/new/1"), "close");
        assert_eq!(mode(&policy, "mail/tmp"), "close", "the pattern says: below");
        assert_eq!(mode(&policy, "mail/tmp/1"), "relaxed:50");
        assert_eq!(mode(&policy, "mail/tmp/a.db"), "always");
        assert_eq!(mode(&policy, "a.db"), "always");
        assert_eq!(policy.applied(Path::new("mail/x")).rule, Some(0));
    }

    #[test]
    fn a_star_stays_within_one_name() {
        let policy = policy("fsync", &[("*.conf", "always"), ("a/?", "close")]);
        assert_eq!(mode(&policy, "x.conf"), "always");
        assert_eq!(mode(&policy, "etc/x.conf"), "fsync");
        assert_eq!(mode(&policy, "a/b"), "close");
        assert_eq!(mode(&policy, "a/bc"), "fsync");
    }

    #[test]
    fn a_pattern_that_is_none_says_what_is_wrong() {
        for pattern in ["", "/abs", "dir/", "a[", "{a"] {
            let rules =
                vec![Rule { pattern: pattern.to_owned(), durability: Durability::default() }];
            let error = Policy::new(Durability::Fsync, rules).expect_err(pattern).to_string();
            assert!(error.contains(&format!("`{pattern}`")), "{error}");
        }
    }
}
