//! Promise: what POSIX says about a filesystem holds on the mount, as far as pjdfstest 0.2.2 asks.
//!
//! 398 cases over ext4 on a loop device. ext4 itself passes 385 and skips 13 (they want the
//! filesystem remounted read-only); on FUSE one more is skipped (the kernel states no LINK_MAX). So:
//! at least 384 pass, none fail, and none is *expected* to fail.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use tests::scratch::Scratch;
use tests::subject::Subject;
use tests::{require, run, tools};

const PASSED_MIN: u64 = 384;
const DEADLINE: Duration = Duration::from_secs(180);

// The two users exist on every Debian. The nap must exceed the granularity of timestamps.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false
expected_failures = []

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

#[test]
fn pjdfstest_passes() {
    if !require::mount_support() {
        return;
    }
    let pjdfstest = tools::cargo_tool("pjdfstest", "0.2.2");
    // interact_2gb writes at an offset of 2 GiB: sparse, but the filesystem must allow it.
    let subject = Subject::ext4(1024);
    // Cases about EXDEV need a second filesystem: the image lies on another one than the mount.
    let other = Scratch::new(0);
    let configuration = other.path().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).expect("the configuration");

    let mut command = Command::new(pjdfstest);
    command.arg("-c").arg(&configuration).arg("-p").arg(subject.path());
    command.arg("-s").arg(other.subdirectory("secondary")).env("NO_COLOR", "1");
    let outcome = run::run(&mut command, DEADLINE);

    let counts = summary(&outcome.stdout)
        .unwrap_or_else(|| panic!("pjdfstest printed no summary: {}", outcome.describe()));
    let count = |what: &str| counts.get(what).copied().unwrap_or_default();
    println!("pjdfstest: {counts:?} in {:.1} s", outcome.elapsed.as_secs_f64());
    let failures = failures(&outcome.stdout);
    assert!(failures.is_empty() && count("failed") == 0, "failed:\n{}", failures.join("\n"));
    assert_eq!(count("expected failures"), 0, "the list of expected failures stays empty");
    assert!(count("passed") >= PASSED_MIN, "{counts:?}, skipped:\n{}", skips(&outcome.stdout));
    assert!(outcome.status.success(), "{}", outcome.describe());
}

// "Summary: 0 failed, 13 skipped, 385 passed, 0 expected failures, 398 total"
fn summary(output: &str) -> Option<BTreeMap<String, u64>> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix("Summary:"))?;
    let parts = line.split(',').map(|part| {
        let (number, what) = part.trim().split_once(' ')?;
        Some((what.trim().to_owned(), number.parse().ok()?))
    });
    parts.collect()
}

// The name with the lines below it, which say what went wrong and are indented.
fn failures(output: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in output.lines() {
        let indented = line.starts_with(char::is_whitespace) && !line.trim().is_empty();
        if line.ends_with(" FAILED") || line.ends_with(" PASSED UNEXPECTEDLY") {
            found.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            inside = true;
        } else if inside && indented {
            found.extend([line.to_owned()]);
        } else {
            inside = false;
        }
    }
    found
}

fn skips(output: &str) -> String {
    let names = output.lines().filter_map(|line| line.strip_suffix(" skipped"));
    names.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_report_is_understood() {
    let report = "chown::eloop_comp                  ok\n\
                  open::etxtbsy                      FAILED\n\
                  \tassertion failed: left == right\n\
                  unlink::erofs_named                skipped\n\
                  \tRemounts are not allowed\n\
                  \nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
    let counts = summary(report).expect("a summary");
    assert_eq!((counts["failed"], counts["passed"], counts["expected failures"]), (1, 1, 0));
    assert_eq!(failures(report), ["open::etxtbsy FAILED", "\tassertion failed: left == right"]);
    assert_eq!(skips(report), "unlink::erofs_named");
    assert!(summary("killed").is_none());
}
