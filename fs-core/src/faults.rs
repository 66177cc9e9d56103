//! Failures on purpose: which operation of which program fails, how, and what is left then.
//!
//! A [`FaultRule`] names operations by kind, path and process, and says what happens to the
//! n-th of them. Everything here is pure and counts: the same operations in the same order
//! meet the same failures. Who applies them is [`crate::platform::record::Recorder`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

pub use crate::crash::draw::Lose;
use crate::crash::trace::Actor;
use crate::error::Errno;

/// Longest delay of an operation, in milliseconds: a minute.
pub const DELAY_MS_MAX: u64 = 60_000;
/// Most rules at a time.
pub const RULES_MAX: usize = 1_000;

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// A read that the kernel's cache does not answer.
    Read,
    /// A write; one system call may be several, see the docs.
    Write,
    /// `fsync(2)`, `fdatasync(2)` or `msync(2)` of a file.
    Fsync,
    /// `fsync(2)` of a directory.
    FsyncDir,
    /// Opening what is there.
    Open,
    /// A new file, directory, link or node.
    Create,
    /// Renaming; the path is that of the old or of the new name.
    Rename,
    /// `unlink(2)`, `rmdir(2)`.
    Remove,
    /// `truncate(2)`, and opening with O_TRUNC.
    Truncate,
}

/// What is left in the page cache when an fsync fails, after Rebello and others, "Can
/// Applications Recover from fsync Failures?", USENIX ATC 2020.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// Nothing happens to them: they are written by the next sync that succeeds.
    Kept,
    /// As on ext4: readable until they leave the cache, but clean: no later sync writes them.
    #[default]
    Ext4,
    /// As on XFS: the same as on ext4.
    Xfs,
    /// As on btrfs: the file goes back to what was durable, at once.
    Btrfs,
}

/// A power failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PowerCut {
    /// What of the unsynced is lost.
    #[serde(default)]
    pub lose: Lose,
    /// Where chance begins, for [`Lose::Some`].
    #[serde(default)]
    pub seed: u64,
    /// The persistence model, by name; `ext4` if none.
    #[serde(default)]
    pub model: Option<String>,
}

/// A failure to come, as it is written in a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What fails.
    pub operation: FaultKind,
    /// A glob: the path below the mount point, or only the last name if it has no `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A process id, or the name of a program or thread as `/proc/PID/comm` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Which of the operations that match is the first to fail, from 1.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many fail from then on; 0: all.
    #[serde(default = "one")]
    pub times: u64,
    /// The error that the program gets: EIO, ENOSPC, EDQUOT, EROFS, EACCES or EINTR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What an fsync that fails leaves in the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<Pages>,
    /// The operation is that late, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// A write of which only so many bytes reach the disk; then the power fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    /// The power fails instead of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<PowerCut>,
}

fn one() -> u64 {
    1
}

/// What happens to an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effect {
    /// How late it is.
    pub delay: Duration,
    /// And then.
    pub then: Then,
}

/// What becomes of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Then {
    /// It is done.
    #[default]
    Done,
    /// It fails.
    Fail(Errno, Pages),
    /// So many bytes of it are done; then the power fails, and nothing else is lost.
    Torn(u64),
    /// The power fails instead.
    Crash(PowerCut),
}

/// A rule, and what it has met.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultReport {
    /// Its number.
    pub id: u64,
    /// The rule.
    pub rule: FaultRule,
    /// Operations that matched.
    pub seen: u64,
    /// Operations that it changed.
    pub struck: u64,
}

struct Armed {
    id: u64,
    rule: FaultRule,
    errno: Option<Errno>,
    path: Option<GlobMatcher>,
    seen: u64,
    struck: u64,
}

/// The rules in force.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<(u64, Vec<Armed>)>,
    is_armed: AtomicBool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.report()).finish()
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Armed>)> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is any rule.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.is_armed.load(Ordering::Acquire)
    }

    /// Adds rules, all or, if one is wrong, none; gives their numbers.
    ///
    /// # Errors
    /// What is wrong with which rule, and what would be right.
    pub fn add(&self, rules: Vec<FaultRule>) -> Result<Vec<u64>, String> {
        let mut state = self.lock();
        let (next, armed) = &mut *state;
        if armed.len() + rules.len() > RULES_MAX {
            return Err(format!("there are at most {RULES_MAX} rules: clear some first"));
        }
        let first = *next + 1;
        let new = (first..).zip(rules).map(|(id, rule)| Armed::new(id, rule));
        let new = new.collect::<Result<Vec<_>, _>>()?;
        let ids = new.iter().map(|rule| rule.id).collect::<Vec<_>>();
        *next += new.len() as u64;
        armed.extend(new);
        self.is_armed.store(!armed.is_empty(), Ordering::Release);
        Ok(ids)
    }

    /// Removes a rule, or all; says how many.
    pub fn clear(&self, id: Option<u64>) -> usize {
        let mut state = self.lock();
        let before = state.1.len();
        state.1.retain(|rule| id.is_some_and(|id| rule.id != id));
        self.is_armed.store(!state.1.is_empty(), Ordering::Release);
        before - state.1.len()
    }

    /// All rules, in order.
    #[must_use]
    pub fn report(&self) -> Vec<FaultReport> {
        let report = |armed: &Armed| {
            let Armed { id, rule, seen, struck, .. } = armed;
            FaultReport { id: *id, rule: rule.clone(), seen: *seen, struck: *struck }
        };
        self.lock().1.iter().map(report).collect()
    }

    /// Counts an operation, and says what happens to it. `paths` are its paths below the
    /// mount point: two for a rename. Of several rules that strike, delays add up, and of the
    /// rest the first one counts.
    pub fn strike(&self, kind: FaultKind, paths: &[&str], actor: &Actor) -> Effect {
        let mut effect = Effect::default();
        for rule in self.lock().1.iter_mut().filter(|rule| rule.matches(kind, paths, actor)) {
            rule.seen += 1;
            let last = rule.rule.nth.saturating_add(rule.rule.times);
            if rule.seen < rule.rule.nth || (rule.rule.times > 0 && rule.seen >= last) {
                continue;
            }
            rule.struck += 1;
            effect.delay += Duration::from_millis(rule.rule.delay_ms.unwrap_or(0));
            if effect.then == Then::Done {
                effect.then = rule.then();
            }
        }
        effect
    }
}

impl Armed {
    fn new(id: u64, rule: FaultRule) -> Result<Self, String> {
        rule.check().map_err(|what| format!("fault {rule}: {what}"))?;
        let errno = rule.error.as_deref().map(errno_by_name).transpose()?;
        let path = rule.path.as_deref().map(|glob| matcher(&rule, glob)).transpose()?;
        Ok(Self { id, rule, errno, path, seen: 0, struck: 0 })
    }

    fn matches(&self, kind: FaultKind, paths: &[&str], actor: &Actor) -> bool {
        let is_path = |glob: &GlobMatcher| paths.iter().any(|path| glob.is_match(path));
        let is_process = |process: &String| match process.parse::<u32>() {
            Ok(number) => number == actor.process || number == actor.thread,
            Err(_) => *process == actor.comm,
        };
        self.rule.operation == kind
            && self.path.as_ref().is_none_or(is_path)
            && self.rule.process.as_ref().is_none_or(is_process)
    }

    fn then(&self) -> Then {
        match (&self.rule.crash, self.rule.torn_bytes, self.errno) {
            (Some(cut), ..) => Then::Crash(cut.clone()),
            (_, Some(bytes), _) => Then::Torn(bytes),
            (.., Some(errno)) => Then::Fail(errno, self.rule.pages.unwrap_or_default()),
            _ => Then::Done,
        }
    }
}

impl FaultRule {
    fn check(&self) -> Result<(), String> {
        let Self { operation, error, delay_ms, torn_bytes, crash, pages, .. } = self;
        let ends = [error.is_some(), torn_bytes.is_some(), crash.is_some()];
        let ends = ends.iter().filter(|is| **is).count();
        if ends > 1 {
            return Err("give one of error, torn_bytes and crash".to_owned());
        }
        if ends == 0 && delay_ms.is_none() {
            return Err("it does nothing: give error, delay_ms, torn_bytes or crash".to_owned());
        }
        if self.nth == 0 {
            return Err("nth counts from 1".to_owned());
        }
        if delay_ms.is_some_and(|delay_ms| delay_ms > DELAY_MS_MAX) {
            return Err(format!("delay_ms is at most {DELAY_MS_MAX}"));
        }
        if torn_bytes.is_some() && *operation != FaultKind::Write {
            return Err("torn_bytes is for writes".to_owned());
        }
        if pages.is_some() && (*operation != FaultKind::Fsync || error.is_none()) {
            return Err("pages is for an fsync with an error".to_owned());
        }
        if let Some(PowerCut { model: Some(model), .. }) = crash {
            known_model(model)?;
        }
        Ok(())
    }
}

/// Whether there is such a persistence model.
///
/// # Errors
/// There is none; the message lists those that are.
pub fn known_model(name: &str) -> Result<&'static dyn crate::crash::model::Model, String> {
    crate::crash::model::by_name(name).ok_or_else(|| {
        let names: Vec<_> = crate::crash::model::all().iter().map(|model| model.name()).collect();
        format!("`{name}` is no persistence model: there are {}", names.join(", "))
    })
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.operation).to_lowercase();
        write!(f, "{kind} of {}", self.path.as_deref().unwrap_or("anything"))?;
        if let Some(process) = &self.process {
            write!(f, " by {process}")?;
        }
        match (self.nth, self.times) {
            (1, 0) => write!(f, ", each"),
            (nth, 0) => write!(f, ", from the {nth}. on"),
            (nth, 1) => write!(f, ", the {nth}."),
            (nth, times) => write!(f, ", the {nth}. to {}.", nth.saturating_add(times - 1)),
        }?;
        if let Some(delay_ms) = self.delay_ms {
            write!(f, ": {delay_ms} ms late")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        if let Some(pages) = self.pages {
            write!(f, ", pages as on {}", format!("{pages:?}").to_lowercase())?;
        }
        if let Some(bytes) = self.torn_bytes {
            write!(f, ": {bytes} bytes are written, and the power fails")?;
        }
        if let Some(cut) = &self.crash {
            let lose = format!("{:?}", cut.lose).to_lowercase();
            let model = cut.model.as_deref().unwrap_or("ext4");
            write!(f, ": the power fails ({model}, {lose} unsynced lost)")?;
        }
        Ok(())
    }
}

fn matcher(rule: &FaultRule, glob: &str) -> Result<GlobMatcher, String> {
    let pattern = match glob.strip_prefix('/') {
        Some(path) => path.to_owned(),
        None if glob.contains('/') => glob.to_owned(),
        None => format!("**/{glob}"),
    };
    let built = GlobBuilder::new(&pattern).literal_separator(true).build();
    let built = built.map_err(|error| format!("fault {rule}: {glob} is no glob: {error}"))?;
    Ok(built.compile_matcher())
}

fn errno_by_name(name: &str) -> Result<Errno, String> {
    Ok(match name {
        "EIO" => Errno::IO,
        "ENOSPC" => Errno::NOSPC,
        "EDQUOT" => Errno::DQUOT,
        "EROFS" => Errno::ROFS,
        "EACCES" => Errno::ACCES,
        "EINTR" => Errno::INTR,
        _ => {
            return Err(format!(
                "`{name}` is no error that can be given: \
                 give EIO, ENOSPC, EDQUOT, EROFS, EACCES or EINTR"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> FaultRule {
        let inline = format!("rule = {{ {text} }}");
        let mut table: std::collections::HashMap<String, FaultRule> =
            toml::from_str(&inline).expect("a rule");
        table.remove("rule").expect("it is there")
    }

    fn actor(comm: &str) -> Actor {
        Actor { process: 7, thread: 8, comm: comm.to_owned() }
    }

    #[test]
    fn the_nth_that_matches_is_struck_and_no_other() {
        let faults = Faults::default();
        assert!(!faults.is_armed());
        let eio = "operation = 'fsync', path = '*.db', process = 'sqlite3', nth = 2, times = 2, error = 'EIO'";
        faults.add(vec![rule(eio)]).expect("it is right");
        let strike = |kind, path, comm| faults.strike(kind, &[path], &actor(comm)).then;
        let fail = Then::Fail(Errno::IO, Pages::Ext4);
        for (kind, path, comm) in [
            (FaultKind::Write, "a/x.db", "sqlite3"),
            (FaultKind::Fsync, "a/x.db-journal", "sqlite3"),
            (FaultKind::Fsync, "a/x.db", "other"),
        ] {
            assert_eq!(strike(kind, path, comm), Then::Done);
        }
        let results = [0; 4].map(|_| strike(FaultKind::Fsync, "a/x.db", "sqlite3"));
        assert_eq!(results, [Then::Done, fail.clone(), fail, Then::Done]);
        let report = &faults.report()[0];
        assert_eq!((report.seen, report.struck), (4, 2));
        assert_eq!(faults.clear(Some(1)), 1);
        assert!(!faults.is_armed());
    }

    #[test]
    fn delays_add_up_and_the_first_end_counts() {
        let faults = Faults::default();
        let rules = [
            "operation = 'rename', times = 0, delay_ms = 5",
            "operation = 'rename', path = '/d/new', error = 'ENOSPC', delay_ms = 1",
            "operation = 'rename', crash = { lose = 'some', seed = 4 }",
        ];
        faults.add(rules.map(rule).to_vec()).expect("they are right");
        let effect = faults.strike(FaultKind::Rename, &["d/old", "d/new"], &actor(""));
        assert_eq!(effect.delay, Duration::from_millis(6));
        assert_eq!(effect.then, Then::Fail(Errno::NOSPC, Pages::Ext4));
    }

    #[test]
    fn mistakes_are_refused_in_words_and_nothing_is_added() {
        let faults = Faults::default();
        for (text, must_name) in [
            ("operation = 'write'", "does nothing"),
            ("operation = 'write', error = 'EPERM'", "EPERM"),
            ("operation = 'write', error = 'EIO', torn_bytes = 1", "one of"),
            ("operation = 'fsync', torn_bytes = 1", "for writes"),
            ("operation = 'write', error = 'EIO', pages = 'xfs'", "pages"),
            ("operation = 'write', error = 'EIO', nth = 0", "from 1"),
            ("operation = 'write', delay_ms = 99999999", "at most"),
            ("operation = 'write', error = 'EIO', path = '[a'", "glob"),
            ("operation = 'write', crash = { model = 'fat' }", "fat"),
        ] {
            let good = rule("operation = 'write', error = 'EIO'");
            let error = faults.add(vec![good, rule(text)]).expect_err(text);
            assert!(error.contains(must_name), "{text}: {error}");
            assert!(faults.report().is_empty());
        }
    }
}
