//! Promise: making changes durable through lanefs costs the device no more flushes than without it.
//!
//! 16 writers, each in its own directory, do the crash-safe replace (write, fsync, rename, fsync the
//! directory) on the mount and on the same ext4 beside it, by turns; the flushes are those that the
//! loop device counted. Printed with it: the requests per replace that the kernel sent to lanefs,
//! which is what a FUSE filesystem costs in time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::replace::run_writers;
use tests::require;
use tests::subject::Subject;

const WRITERS: u64 = 16;
const REPLACES_PER_WRITER: u64 = 60;
const TURNS: usize = 10;
// Two runs of the same thing differ by a few per cent (the journal's own timer, scheduling).
const NOISE: f64 = 1.05;

struct Turn {
    flushes: f64,
    elapsed: Duration,
}

#[test]
fn no_more_flushes_than_the_bare_filesystem() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4(512);
    // Directories and journal in their usual state before anything counts.
    measure(&subject, subject.plain());
    measure(&subject, subject.path());

    let before = requests(&subject);
    let (mut bare, mut mounted) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        // Who comes second finds the journal fuller; so each comes first half of the time.
        if turn % 2 == 0 {
            bare.push(measure(&subject, subject.plain()));
            mounted.push(measure(&subject, subject.path()));
        } else {
            mounted.push(measure(&subject, subject.path()));
            bare.push(measure(&subject, subject.plain()));
        }
    }
    let after = requests(&subject);

    let (bare_flushes, mounted_flushes) = (median_flushes(&bare), median_flushes(&mounted));
    println!("{WRITERS} writers, {TURNS} turns of {} replaces each", WRITERS * REPLACES_PER_WRITER);
    println!("            flushes per replace   replaces per second");
    for (name, turns) in [("bare ext4", &bare), ("lanefs", &mounted)] {
        let (flushes, rate) = (median_flushes(turns), median_rate(turns));
        println!("{name:<12}{flushes:>19.3}{rate:>22.0}");
    }
    print_requests(&before, &after);
    assert!(bare_flushes > 0.0, "the device counted no flushes at all: nothing was compared");
    assert!(
        mounted_flushes <= bare_flushes * NOISE,
        "{mounted_flushes:.3} flushes per replace on lanefs, {bare_flushes:.3} on the bare ext4"
    );
}

fn measure(subject: &Subject, root: &Path) -> Turn {
    // What earlier turns left to be written is not this turn's.
    rustix::fs::syncfs(std::fs::File::open(subject.plain()).expect("the filesystem"))
        .expect("syncfs");
    let before = subject.filesystem().flushes();
    let elapsed = run_writers(root, WRITERS, REPLACES_PER_WRITER);
    let flushes = subject.filesystem().flushes() - before;
    Turn { flushes: flushes as f64 / (WRITERS * REPLACES_PER_WRITER) as f64, elapsed }
}

fn median_flushes(turns: &[Turn]) -> f64 {
    median(turns.iter().map(|turn| turn.flushes).collect())
}

fn median_rate(turns: &[Turn]) -> f64 {
    let replaces = (WRITERS * REPLACES_PER_WRITER) as f64;
    median(turns.iter().map(|turn| replaces / turn.elapsed.as_secs_f64()).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// Requests by name, as the daemon counted them so far.
fn requests(subject: &Subject) -> BTreeMap<String, u64> {
    let Some(mounted) = subject.mounted() else { return BTreeMap::new() };
    let status = mounted.status();
    let counts = status["requests"].as_object().expect("`requests` in the status");
    let count = |value: &Value| value.as_u64().expect("a count");
    counts.iter().map(|(name, value)| (name.clone(), count(value))).collect()
}

fn print_requests(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) {
    let replaces = (WRITERS * REPLACES_PER_WRITER) as f64 * TURNS as f64;
    let mut total = 0.0;
    for (name, count) in after {
        let new = count - before.get(name).copied().unwrap_or_default();
        let per_replace = new as f64 / replaces;
        total += per_replace;
        if new > 0 {
            println!("{name:<16}{per_replace:>8.3} per replace");
        }
    }
    if !after.is_empty() {
        println!("{:<16}{total:>8.3} per replace", "all requests");
        // A replace is at least a create, an fsync, a rename and an fsyncdir: fewer means that the
        // daemon does not count.
        assert!(total >= 4.0, "the daemon counted only {total:.3} requests per replace");
    }
}
