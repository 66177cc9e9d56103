//! The command from outside: exit codes, artefacts, what is left behind.

use std::fs;

use tests::{leftovers, require};

use super::lab::{Lab, left_in};

#[test]
fn exit_codes_say_what_happened() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let code = |arguments: &[&str]| {
        let outcome = lab.run(arguments);
        (outcome.status.code(), outcome.stderr)
    };
    assert_eq!(code(&["--check", "true", "--", "touch", "a"]).0, Some(0));
    assert_eq!(
        code(&["--check", "test ! -e b || test -s b", "--", "sh", "-c", "echo x > b"]).0,
        Some(1)
    );
    let (usage, why) = code(&["--check", "true", "--model", "fat", "--", "true"]);
    assert_eq!(usage, Some(2), "{why}");
    assert!(why.contains("ext4"), "the message lists the models: {why}");
    assert_eq!(code(&["--check", "true", "--dir", "/nowhere", "--", "true"]).0, Some(2));
    let (not_run, why) = code(&["--check", "true", "--", "/no/such/program"]);
    assert_eq!(not_run, Some(3), "{why}");
    assert!(why.contains("/no/such/program"), "{why}");
    assert!(left_in(&lab.dir()).is_empty(), "the directory has changed");
}

// A checker that says no to everything says nothing about crashes.
#[test]
fn a_checker_that_always_refuses_is_noticed() {
    if !require::mount_support() {
        return;
    }
    let outcome = Lab::new().run(&["--check", "false", "--", "touch", "a"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.stdout.contains("check the checker"), "{}", outcome.describe());
}

// A hanging checker and what it has started end at the time limit.
#[test]
fn a_checker_that_hangs_is_ended() {
    if !require::mount_support() {
        return;
    }
    let check = "test ! -e a || { sleep 1000 & sleep 1000; }";
    let outcome = Lab::new().run(&["--timeout", "1", "--check", check, "--", "touch", "a"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.stdout.contains("more than 1s"), "{}", outcome.describe());
}

// The program sees its directory at its own path, its output is in order with what it does, and its
// umask and working directory are those of who started it.
#[test]
fn the_program_notices_nothing() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let path = lab.dir();
    let script = "pwd; umask; mkdir sub; cd sub; echo x > y; ln y z; stat -c %h y; rm y; cat z";
    let out = path.join("../a.crash");
    let out = out.to_str().expect("plain text");
    let keep = ["--keep", "--out", out, "--check", "true", "--", "sh", "-c", script];
    let outcome = lab.run(&keep);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.describe());
    assert_eq!(fs::read_to_string(path.join("sub/z")).expect("kept"), "x\n");
    let shown = lab.run(&["show", out]).expect_success().stdout;
    for line in [
        &format!("told \"{}\"", path.display()),
        "told \"0022\"",
        "told \"2\"",
        "told \"x\"",
        "link(sub/y -> sub/z)",
        "unlink(sub/y)",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}

// The kernel splits a write at the end of its first page and at 1 MiB; the recording does not.
#[test]
fn one_write_is_one_write() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let out = lab.beside("w.crash", "");
    let out = out.to_str().expect("plain text");
    let script = "printf abc > f; head -c 9000 /dev/zero | dd of=f bs=9000 seek=3 oflag=seek_bytes \
                  iflag=fullblock conv=notrunc 2> /dev/null; dd if=/dev/zero of=g bs=3M count=2 2> /dev/null";
    lab.run(&["--model", "seq", "--out", out, "--check", "true", "--", "sh", "-c", script])
        .expect_success();
    let shown = lab.run(&["show", out]).expect_success().stdout;
    let writes: Vec<_> = shown.lines().filter(|line| line.contains("write(")).collect();
    let expected =
        ["3 bytes at 0", "9000 bytes at 3", "3145728 bytes at 0", "3145728 bytes at 3145728"];
    assert_eq!(writes.len(), expected.len(), "{shown}");
    for (write, expected) in writes.iter().zip(expected) {
        assert!(write.contains(expected), "{shown}");
    }
}

// Each worker has a loopback of its own: the same port for all, at the same time.
#[test]
fn checkers_have_a_network_of_their_own() {
    if !require::mount_support() {
        return;
    }
    tests::tools::debian("python3", "python3");
    let check = r#"/usr/bin/python3 -S -c '
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 4)); s.listen(); time.sleep(0.1)
socket.create_connection(("127.0.0.1", 4))
'"#;
    let program = "echo 1 > a; echo 2 > b; mv a c";
    let arguments = ["--json", "--workers", "4", "--check", check, "--", "sh", "-c", program];
    Lab::new().report(&arguments).expect_clean("ext4,xfs,btrfs");
}

// What is in the artefact is enough, and gives the same verdict every time.
#[test]
fn a_finding_replays_twenty_times() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.dir().join("a"), "old").expect("write");
    let out = lab.beside("x.crash", "");
    let out = out.to_str().expect("plain text");
    let (check, program) = ("grep -qx 'old\\|new' a", "echo new > t; mv t a; echo done");
    let found = lab.run(&["--out", out, "--check", check, "--", "sh", "-c", program]);
    assert_eq!(found.status.code(), Some(1), "{}", found.describe());
    fs::remove_file(lab.dir().join("a")).expect("rm");
    for _ in 0..20 {
        let again = lab.run(&["replay", &format!("{out}#1")]);
        assert_eq!(again.status.code(), Some(1), "{}", again.describe());
    }
    assert_eq!(lab.run(&["replay", out]).status.code(), Some(1));
    assert_eq!(lab.run(&["replay", &format!("{out}#9")]).status.code(), Some(2));
    let into = lab.dir().join("../state");
    let into = into.to_str().expect("plain text");
    lab.run(&["replay", &format!("{out}#1"), "--into", into]).expect_success();
    assert_eq!(fs::read_to_string(format!("{into}/a")).expect("laid out"), "");
}

// The same seed gives the same report.
#[test]
fn the_same_seed_gives_the_same() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let run = || {
        let program = "for i in 1 2 3; do echo $i > t$i; mv t$i f; done";
        let report = lab.test("ext4,xfs,btrfs,posix-min", "test ! -e f || test -s f", program);
        (report.json["states"].clone(), report.json["crashes"].clone(), report.findings(None))
    };
    assert_eq!(run(), run());
}

// `--ack`: a server tells through a file, which is no part of the states.
#[test]
fn a_file_can_be_told_through() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let program = "echo x > data; echo saved >> acks";
    let check = "test ! -s $LANEFS_ACK_FILE || test -s data; test ! -e acks";
    let lost = "test ! -s $LANEFS_ACK_FILE || test -s data";
    let run = |check: &str| {
        let arguments = ["--json", "--ack", "acks", "--check", check, "--", "sh", "-c", program];
        lab.report(&arguments)
    };
    run(lost).expect("ext4,xfs,btrfs", &[&["durability", "lost after told \"saved\""]]);
    // The file itself is never there.
    run(check.rsplit("; ").next().expect("two parts")).expect_clean("ext4,xfs,btrfs");
}

#[test]
fn the_selftest_passes() {
    if !require::mount_support() {
        return;
    }
    let outcome = Lab::new().run(&["selftest"]).expect_success();
    assert_eq!(outcome.stdout.lines().count(), 5, "{}", outcome.describe());
}

// Whatever ends it: no mount, no directory.
#[test]
fn nothing_is_left_behind() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let place = lab.dir().join("../tmp");
    fs::create_dir(&place).expect("mkdir");
    let mut command =
        lab.command(&["--check", "sleep 1", "--", "sh", "-c", "echo a > a; echo b > b"]);
    command.env("TMPDIR", &place);
    tests::run::run(&mut command, std::time::Duration::from_secs(60)).expect_success();
    assert!(left_in(&place).is_empty(), "{:?}", left_in(&place));
    assert!(leftovers::below(&place).is_empty());
    assert!(leftovers::below(&lab.dir()).is_empty());
}

// At least a hundred checks a second with a checker that is one process: on two processors.
#[test]
fn a_hundred_checks_a_second() {
    if !require::mount_support() {
        return;
    }
    let program = "i=0; while [ $i -lt 60 ]; do echo $i > f$i; mv f$i g$i; i=$((i+1)); done";
    let report = Lab::new().report(&["--json", "--check", "exit 0", "--", "sh", "-c", program]);
    let (checks, seconds) = (&report.json["checks"], &report.json["checking_s"]);
    let rate = checks.as_f64().expect("a number") / seconds.as_f64().expect("a number");
    println!("{checks} checks at {rate:.0} a second");
    assert!(rate >= 100.0, "{checks} checks in {seconds} s");
}

// For services that run tests: JUnit, SARIF, and a list of what is known already.
#[test]
fn reports_for_services() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.dir().join("a<b"), "old").expect("write");
    let path = |name: &str| lab.beside(name, "").to_str().expect("plain text").to_owned();
    let (junit, sarif, baseline) = (path("j.xml"), path("s.sarif"), path("known"));
    let program = "echo new > t; mv t 'a<b'";
    let run = |more: &[&str]| {
        let own = ["--model", "xfs", "--check", "auto", "--junit", &junit, "--sarif", &sarif];
        let own: Vec<&str> = own.into_iter().chain(more.iter().copied()).collect();
        lab.run(&[&own[..], &["--", "sh", "-c", program]].concat())
    };
    assert_eq!(run(&[]).status.code(), Some(1));
    let text = fs::read_to_string(&junit).expect("JUnit");
    assert!(text.contains("tests=\"1\" failures=\"1\"") && text.contains("a&lt;b"), "{text}");
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(path).expect("SARIF")).expect("JSON")
    };
    let result = &json(&sarif)["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&"ordering".into(), &"error".into()));
    // Known from now on: it is told, and does not count.
    assert_eq!(run(&["--baseline", &baseline, "--update-baseline"]).status.code(), Some(0));
    let again = run(&["--baseline", &baseline]);
    assert_eq!(again.status.code(), Some(0), "{}", again.describe());
    assert!(again.stdout.contains("(known)"), "{}", again.describe());
    assert_eq!(json(&sarif)["runs"][0]["results"][0]["level"], "note");
}

// The page works without a network and in a real browser, which draws every operation.
#[test]
fn the_page_is_drawn_by_a_browser() {
    if !require::mount_support() {
        return;
    }
    let chromium = tests::tools::debian("chromium", "chromium");
    let lab = Lab::new();
    fs::write(lab.dir().join("f"), "some text\n".repeat(100)).expect("write");
    let page = lab.beside("r.html", "");
    let page = page.to_str().expect("plain text");
    let arguments = ["--check", "auto", "--html", page, "--", "gzip", "f"];
    assert_eq!(lab.run(&arguments).status.code(), Some(1));
    let text = fs::read_to_string(page).expect("HTML");
    assert!(!text.contains("http://") && !text.contains("https://"), "it asks the network");
    let picture = lab.beside("r.png", "");
    let mut browser = std::process::Command::new(chromium);
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,700"]);
    browser.arg(format!("--user-data-dir={}", lab.dir().join("../browser").display()));
    browser.arg(format!("--screenshot={}", picture.display())).arg(format!("file://{page}"));
    let deadline = std::time::Duration::from_secs(120);
    tests::run::run(&mut browser, deadline).expect_success();
    let bytes = fs::read(&picture).expect("a picture");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "{} bytes", bytes.len());
    // What the browser made of it: a cell for each operation that is shown, twice.
    let mut browser = std::process::Command::new(tests::tools::debian("chromium", "chromium"));
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", lab.dir().join("../browser").display()));
    browser.arg(format!("file://{page}"));
    let drawn = tests::run::run(&mut browser, deadline).expect_success().stdout;
    assert_eq!(drawn.matches("class=\"op w lost\"").count(), 1, "the lost bytes\n{drawn}");
    assert_eq!(drawn.matches("title=\"unlink(f)\"").count(), 2, "{drawn}");
}

// A program that keeps a backup, and a recovery that removes it before what it has put back is on
// the disk: right in every crash of the program, wrong in a crash of the recovery.
#[test]
fn a_crash_during_recovery() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.dir().join("data"), "old\n").expect("write");
    let program =
        "cp data t; sync t; mv t backup; sync .; echo new > data; sync data; rm backup; sync .";
    let recovery = |sync: &str| {
        format!(
            "rm -f t; test ! -e backup || {{ cat backup > data; {sync} rm backup; }}; grep -qx 'old\\|new' data"
        )
    };
    let run = |sync: &str| {
        let check = recovery(sync);
        let arguments = ["--json", "--depth", "2", "--check", &check, "--", "sh", "-c", program];
        lab.run(&arguments)
    };
    let report = |outcome: &tests::run::Outcome| -> serde_json::Value {
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", outcome.describe()))
    };
    let careless = run("");
    assert_eq!(careless.status.code(), Some(1), "{}", careless.describe());
    let json = report(&careless);
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(0), "{json:#}");
    let sentence = json["recovery_findings"][0]["sentence"].as_str().unwrap_or_default();
    assert!(sentence.contains("unlink(backup) persisted before the bytes of data"), "{json:#}");
    let careful = run("sync data;");
    assert_eq!(careful.status.code(), Some(0), "{}", careful.describe());
    assert!(report(&careful)["recoveries"].as_u64() > Some(0));
}

// Ctrl-C, while the program runs and while a checker does.
#[test]
fn an_interrupted_lab_leaves_nothing() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let place = lab.dir().join("../tmp");
    fs::create_dir(&place).expect("mkdir");
    for (check, program) in
        [("true", "echo a > a; sleep 600"), ("test ! -e a || sleep 600", "echo a > a")]
    {
        // A time of sleep that is nobody else's.
        let mark = format!("6{:07}", std::process::id());
        let (check, program) = (check.replace("600", &mark), program.replace("600", &mark));
        let mut command =
            lab.command(&["--timeout", "600", "--check", &check, "--", "sh", "-c", &program]);
        command.env("TMPDIR", &place);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("lanefs");
        let sleeps = || {
            let processes = fs::read_dir("/proc").expect("/proc").flatten();
            let line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
            let wanted = format!("sleep\0{mark}\0").into_bytes();
            processes.filter_map(line).any(|line| line == wanted)
        };
        let second = std::time::Duration::from_secs(1);
        assert!(tests::run::poll(20 * second, || sleeps().then_some(())).is_some(), "{program}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
        let ended = tests::run::poll(20 * second, || child.try_wait().expect("wait"));
        assert_eq!(ended.and_then(|status| status.code()), Some(130));
        assert!(
            tests::run::poll(20 * second, || (!sleeps()).then_some(())).is_some(),
            "{program} runs on"
        );
        assert!(left_in(&place).is_empty(), "{:?}", left_in(&place));
    }
}

// A daemon that the program leaves behind, in a session of its own and with the directory open, ends
// with the recording, and what it has not synced may be lost.
#[test]
fn a_daemon_ends_with_the_recording() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let mark = format!("7{:07}", std::process::id());
    let program = format!(
        "echo 1 > log; setsid sh -c 'exec 9>> log; echo 2 >&9; sleep {mark}' > /dev/null 2>&1 < /dev/null &
         while ! grep -q 2 log; do sleep 0.01; done; echo started"
    );
    let check = "! grep -q started $LANEFS_ACK || test -s log";
    let report = lab.report(&["--json", "--check", check, "--", "sh", "-c", &program]);
    report.expect("ext4", &[&["durability", "lost after told \"started\""]]);
    let wanted = format!("sleep\0{mark}\0").into_bytes();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    assert!(!processes.filter_map(line).any(|line| line == wanted), "it runs on");
}

// A user without any privilege, in a user namespace; the test opens /dev/fuse to everybody, for
// itself alone.
#[test]
fn it_works_without_root() {
    if !require::mount_support() {
        return;
    }
    tests::tools::debian("util-linux", "setpriv");
    let lab = Lab::new();
    fs::write(lab.dir().join("f"), "some text\n".repeat(100)).expect("write");
    let script = r#"
        mknod -m 666 "$3/fuse" c 10 229
        mount --bind "$3/fuse" /dev/fuse
        cp "$1" "$3/lanefs"; chown -R 65534:65534 "$2"; cd "$2"
        set +e
        setpriv --reuid 65534 --regid 65534 --clear-groups env TMPDIR=/tmp "$3/lanefs" crash-test \
            --check 'test $(id -u) = 65534 && { gzip -t f.gz || test -s f; }' -- sh -c 'id -u; gzip f'
        echo "exit $?"
    "#;
    let beside = lab.dir().join("..").canonicalize().expect("there");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "bash", "-ec", script, "bash"]);
    command.arg(tests::binary::lanefs()).arg(lab.dir()).arg(&beside);
    let deadline = std::time::Duration::from_secs(60);
    let outcome = tests::run::run(&mut command, deadline).expect_success();
    assert!(outcome.stdout.ends_with("exit 1\n"), "{}", outcome.describe());
    let lost = "unlink(f) persisted before the bytes of f.gz";
    assert!(outcome.stdout.contains(lost), "{}", outcome.describe());
}

// A checker that fills the memory, or leaves a core, would take the machine with it.
#[test]
fn checkers_have_limits() {
    if !require::mount_support() {
        return;
    }
    let lab = Lab::new();
    let limits = "test $(ulimit -c) = 0 && test $(ulimit -f) = 4096 && test $(ulimit -v) = 524288";
    let given = ["--file-max", "2", "--memory-max", "512", "--check", limits, "--", "touch", "a"];
    let outcome = lab.run(&given);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.describe());
    let check = "test ! -e a || exec dd if=/dev/zero of=big bs=1M count=3 2> /dev/null";
    let outcome = lab.run(&["--file-max", "2", "--check", check, "--", "touch", "a"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
}
