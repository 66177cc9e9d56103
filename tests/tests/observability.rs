//! Promise: what a mount does can be seen, in the forms that the docs describe.
//!
//! - A scrape of `--metrics` is OpenMetrics text by a strict parser; docs/metrics.md and the scrape
//!   have the same metrics, of the same types.
//! - `lanefs top` shows what happens; `--json` lines are JSON.
//! - `--log-format json` lines are JSON, and `lanefs set MOUNTPOINT log-level=...` changes how many.
//! - A sync that takes longer than `slow_sync_ms` is told of, with the process that waited for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{OpenMetricsType, OpenMetricsValue};
use serde_json::Value;
use tests::loopfs::LoopFs;
use tests::run::Outcome;
use tests::{binary, leftovers, require, run, subject, workspace};

const DEADLINE: Duration = Duration::from_secs(60);

// A mount in the foreground, whose log is read; dropped, it is gone.
struct Foreground {
    daemon: Child,
    mount_point: PathBuf,
    log: PathBuf,
    filesystem: LoopFs,
}

impl Foreground {
    #[track_caller]
    fn new(words: &[&str]) -> Self {
        let filesystem = LoopFs::ext4_in_memory(192);
        let (tree, mount_point) =
            (filesystem.path().join("tree"), filesystem.scratch().join("mount"));
        let log = filesystem.scratch().join("log");
        fs::create_dir(&tree).expect("a directory");
        fs::create_dir(&mount_point).expect("a directory");
        let mut command = Command::new(binary::lanefs());
        command
            .arg("mount")
            .arg(&tree)
            .arg(&mount_point)
            .args(["-o", "transport=classic"])
            .args(words);
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log).expect("a file"));
        let daemon = command.spawn().expect("lanefs");
        let this = Self { daemon, mount_point, log, filesystem };
        let answers = || this.try_lanefs("status", &["--json"]).status.success().then_some(());
        run::poll(DEADLINE, answers).unwrap_or_else(|| panic!("no mount: {}", this.log()));
        this
    }

    fn try_lanefs(&self, command: &str, words: &[&str]) -> Outcome {
        let mut lanefs = Command::new(binary::lanefs());
        run::run(lanefs.arg(command).arg(&self.mount_point).args(words), DEADLINE)
    }

    #[track_caller]
    fn lanefs(&self, command: &str, words: &[&str]) -> String {
        self.try_lanefs(command, words).expect_success().stdout
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    // Writes and syncs files, and reads one.
    fn work(&self) {
        for number in 0..20 {
            let path = self.mount_point.join(format!("file {number}"));
            let mut file = File::create(&path).expect("a file");
            file.write_all(b"content").expect("a write");
            file.sync_all().expect("a sync");
        }
        fs::read_dir(&self.mount_point).expect("a directory").for_each(drop);
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let outcome = self.try_lanefs("umount", &[]);
        if leftovers::is_mounted(&self.mount_point) {
            let _ = self.daemon.kill();
            let _ = self.try_lanefs("umount", &["--lazy"]);
        }
        let _ = self.daemon.wait();
        if !std::thread::panicking() {
            outcome.expect_success();
        }
        let _ = self.filesystem.path();
    }
}

fn cannot_run() -> bool {
    !require::mount_support() || subject::is_bare()
}

fn get(mut stream: impl Read + Write, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("an end of the header");
    (head.to_owned(), body.to_owned())
}

// Names and types in docs/metrics.md: rows like "| `lanefs_x_total` | counter | ...".
fn documented() -> BTreeMap<String, String> {
    let text = fs::read_to_string(workspace::root().join("docs/metrics.md")).expect("the docs");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        Some((name, cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).filter(|(name, _)| name.starts_with("lanefs_")).collect()
}

#[test]
fn a_scrape_is_valid_and_as_documented() {
    if cannot_run() {
        return;
    }
    let scratch = tests::scratch::Scratch::new(0);
    let socket = scratch.path().join("metrics");
    let address = format!("unix:{}", socket.display());
    let mount = Foreground::new(&["--metrics", &address, "-o", "fence=log"]);
    mount.work();
    let fetch = |path: &str| get(UnixStream::connect(&socket).expect("the socket"), path);
    let (head, body) = fetch("/metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("openmetrics-text"), "{head}");
    let exposition = parse_openmetrics(&body).unwrap_or_else(|e| panic!("{e:?} in:\n{body}"));

    let mut found = BTreeMap::new();
    for (family, metric) in &exposition.families {
        let (name, kind) = match metric.family_type {
            OpenMetricsType::Counter => (format!("{family}_total"), "counter"),
            OpenMetricsType::Gauge => (family.clone(), "gauge"),
            ref other => panic!("{family} is a {other:?}"),
        };
        assert!(!metric.help.is_empty(), "{name} has no help");
        let labels = metric.get_label_names();
        assert!(labels.iter().any(|label| label == "mount_point"), "{name} has {labels:?}");
        found.insert(name, kind.to_owned());
    }
    assert_eq!(found, documented(), "left: a scrape; right: docs/metrics.md");

    let value = |family: &str| {
        let samples: Vec<f64> = exposition.families[family]
            .iter_samples()
            .map(|sample| match &sample.value {
                OpenMetricsValue::Counter(counter) => counter.value.as_f64(),
                OpenMetricsValue::Gauge(number) => number.as_f64(),
                other => panic!("{family}: {other:?}"),
            })
            .collect();
        samples.iter().sum::<f64>()
    };
    assert!(value("lanefs_sync_requests") >= 20.0, "what happened is counted");
    assert_eq!(value("lanefs_log_in_use"), 1.0);
    assert_eq!(value("lanefs_version"), 1.0);
    let status: Value = serde_json::from_str(&mount.lanefs("status", &["--json"])).expect("JSON");
    let creates = status["requests"]["create"].as_f64().expect("a count");
    assert!(body.contains(&format!("op=\"create\"}} {creates}")), "by kind:\n{body}");

    // A restart keeps what is kept by the kernel's side, and the place.
    mount.lanefs("restart", &[]);
    let again = || UnixStream::connect(&socket).ok().map(|stream| get(stream, "/metrics").1);
    let body = run::poll(DEADLINE, again).expect("metrics after a restart");
    assert!(body.contains("lanefs_restarts_total{"), "{body}");
    assert!(fetch("/else").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn metrics_by_tcp() {
    if cannot_run() {
        return;
    }
    // A free port, as far as one can know.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mount = Foreground::new(&["--metrics", &format!(":{port}"), "-o", "fence=backing"]);
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port");
    let (_, body) = get(stream, "/metrics");
    parse_openmetrics(&body).unwrap_or_else(|error| panic!("{error:?} in:\n{body}"));
    assert!(!body.contains("lanefs_log_size_bytes"), "without a log it has no length");
    // The place is taken: one line, and nothing is mounted.
    let other = mount.filesystem.scratch().join("other");
    fs::create_dir(&other).expect("a directory");
    let mut command = Command::new(binary::lanefs());
    command.arg("mount").arg(&other).arg(&other).args(["--metrics", &format!(":{port}")]);
    let outcome = run::run(&mut command, DEADLINE);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.stderr.contains("cannot show metrics"), "{}", outcome.describe());
    assert!(!leftovers::is_mounted(&other));
}

#[test]
fn top_shows_what_happens() {
    if cannot_run() {
        return;
    }
    let mount = Foreground::new(&[]);
    let text = std::thread::scope(|scope| {
        let top =
            scope.spawn(|| mount.lanefs("top", &["--once", "--json", "--interval-ms", "1500"]));
        while !top.is_finished() {
            mount.work();
        }
        top.join().expect("it ends")
    });
    let sample: Value = serde_json::from_str(text.trim_end()).expect("one line of JSON");
    let number = |name: &str| sample[name].as_f64().unwrap_or_else(|| panic!("{name}: {sample}"));
    assert!(number("syncs_per_s") > 1.0 && number("requests_per_s") > number("syncs_per_s"));
    assert!(number("group_syncs_mean") >= 0.5, "{sample}");
    let shown = mount.lanefs("top", &["--once", "--interval-ms", "100"]);
    assert!(shown.contains("sync/s") && shown.contains(mount.mount_point.to_str().expect("text")));
    // Whoever has seen enough ends it.
    let head = r#""$1" top --interval-ms 100 | head -n 3 | wc -l"#;
    let outcome = run::script(Path::new("/"), head, &[binary::lanefs()], DEADLINE);
    assert_eq!(outcome.expect_success().stdout.trim(), "3");
}

#[test]
fn the_log_is_json_and_its_level_changes() {
    if cannot_run() {
        return;
    }
    let mount = Foreground::new(&["--log-format", "json"]);
    assert_eq!(mount.log(), "", "nothing to warn of");
    let said = mount.lanefs("set", &["log-level=info", "commit-interval=2s"]);
    assert!(said.contains("log-level=info") && said.contains("commit-interval=2s"), "{said}");
    // It stays over a restart.
    mount.lanefs("restart", &[]);
    mount.lanefs("set", &["durability=close"]);
    let lines: Vec<Value> = mount
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let told = |message: &str| lines.iter().any(|line| line["message"] == message);
    assert!(told("restarting") && told("set"), "{lines:?}");
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()));
    let quiet = mount.log().len();
    mount.lanefs("set", &["log-level=off"]);
    mount.lanefs("set", &["durability=fsync"]);
    assert_eq!(mount.log().len(), quiet, "nothing more is written");
    let wrong = mount.try_lanefs("set", &["log-level=loud"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.describe());
    assert!(wrong.stderr.contains("log-level=loud"), "{}", wrong.describe());
}

#[test]
fn a_slow_sync_names_its_process() {
    if cannot_run() {
        return;
    }
    // The window makes every sync take 50 ms.
    let options = "window_us=50000,slow_sync_ms=20";
    let mount = Foreground::new(&["--log-format", "json", "-o", options]);
    let file = mount.mount_point.join("file");
    let script = r#"echo content > "$1"; sync "$1"; stat -c %i "$1""#;
    let outcome = run::script(Path::new("/"), script, &[&file], DEADLINE).expect_success();
    let inode: u64 = outcome.stdout.trim().parse().expect("an inode number");
    let log = mount.log();
    let warnings: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["message"] == "a sync was slow")
        .collect();
    let [warning] = warnings.as_slice() else { panic!("one warning: {log}") };
    assert_eq!((&warning["comm"], &warning["inode"]), (&"sync".into(), &inode.into()));
    assert!(warning["took_ms"].as_u64() >= Some(20) && warning["pid"].as_u64() > Some(1));
    let status: Value = serde_json::from_str(&mount.lanefs("status", &["--json"])).expect("JSON");
    assert_eq!(status["slow_syncs"].as_u64(), Some(1));
}
