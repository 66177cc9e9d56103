//! Flags, variables and the file; rules for parts of a mount; what a cut would lose.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::disk::Position;
use tests::filesystem::Filesystem;
use tests::run::{self, Outcome};
use tests::scratch::Scratch;
use tests::uring::Switch;
use tests::{binary, require};

use super::stage::Stage;

const DEADLINE: Duration = Duration::from_secs(60);

fn lanefs(words: &[&str], paths: &[&Path], variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(binary::lanefs());
    // A file of the machine's own must not decide.
    command.env("LANEFS_CONFIG", "").envs(variables.iter().copied());
    run::run(command.args(words).args(paths), DEADLINE)
}

#[track_caller]
fn said(outcome: &Outcome, exit_code: i32, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(exit_code), "{}", outcome.describe());
    let text = if exit_code == 0 { &outcome.stdout } else { &outcome.stderr };
    for word in words {
        assert!(text.contains(word), "`{word}` is missing: {}", outcome.describe());
    }
    assert!(exit_code == 0 || text.trim().lines().count() == 1, "{}", outcome.describe());
}

#[test]
fn the_file_is_checked_and_explained() {
    let scratch = Scratch::new(0);
    let place = scratch.subdirectory("data");
    let file = scratch.path().join("lanefs.toml");
    let text = format!(
        "durability = \"close\"\n\n[[mount]]\npath = {place:?}\ndurability = \"always\"\n\
         commit-interval = \"250ms\"\n\n[[mount.rule]]\npath = \"tmp\"\ndurability = \"fsync\"\n"
    );
    fs::write(&file, &text).expect("write");
    let check = |paths: &[&Path], variables: &[(&str, &str)]| {
        let all = [&[file.as_path()], paths].concat();
        lanefs(&["config", "check", "--config"], &all, variables)
    };
    said(&check(&[], &[]), 0, &["is in order", "always ([[mount]] in the file)", "tmp", "250ms"]);
    let below = place.join("tmp/deeper");
    said(&check(&[&below], &[]), 0, &["fsync", "rule 1 of the mount: `tmp`"]);
    said(&check(&[&place.join("x")], &[]), 0, &["always", "no rule matches"]);
    said(&check(&[scratch.path()], &[]), 0, &["close", "the top of the file", "1s (the default)"]);
    let variables = [("LANEFS_DURABILITY", "relaxed:20")];
    said(&check(&[&place], &variables), 0, &["relaxed:20", "the variable LANEFS_DURABILITY"]);
    said(&check(&[&below], &variables), 0, &["fsync", "rule 1"]);
    // Named by the variable.
    let named = file.to_str().expect("plain text");
    let outcome = lanefs(&["config", "check"], &[], &[("LANEFS_CONFIG", named)]);
    said(&outcome, 0, &["is in order"]);

    let variables = [("LANEFS_DURABILITY", "never")];
    said(&check(&[&place], &variables), 2, &["LANEFS_DURABILITY", "give fsync, close, always"]);
    for (wrong, words) in [
        ("durability = \"closed\"\n", &["line 1", "give fsync, close, always"][..]),
        ("\nmode = \"close\"\n", &["line 2", "unknown field `mode`", "durability"]),
        ("[[mount]]\npath = \"/a\"\n[[mount.rule]]\npath = \"[\"\n", &["line 4", "glob"]),
        ("durability = \n", &["line 1"]),
    ] {
        fs::write(&file, wrong).expect("write");
        said(&check(&[], &[]), 2, words);
    }
    let missing = scratch.path().join("missing.toml");
    said(
        &lanefs(&["config", "check", "--config"], &[&missing], &[]),
        2,
        &["cannot read", "--config"],
    );
}

#[test]
fn a_mount_takes_the_flag_then_the_variable_then_the_file() {
    if !require::mount_support() {
        return;
    }
    let scratch = Scratch::new(0);
    let [backing, mount] = ["backing", "mount"].map(|name| scratch.subdirectory(name));
    let file = scratch.path().join("lanefs.toml");
    let text =
        format!("commit-interval = \"2s\"\n[[mount]]\npath = {mount:?}\ndurability = \"always\"\n");
    fs::write(&file, text).expect("write");
    let paths = [backing.as_path(), mount.as_path(), Path::new("--config"), file.as_path()];
    let variable = [("LANEFS_DURABILITY", "close")];
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&[&str], Variables<'_>, &str, &str); 4] = [
        (
            &["mount", "--daemon", "-o", "durability=fsync"],
            &variable,
            "fsync",
            "a flag of `lanefs mount`",
        ),
        (&["mount", "--daemon", "--durability", "relaxed:9"], &variable, "relaxed:9", "a flag"),
        (&["mount", "--daemon"], &variable, "close", "the variable LANEFS_DURABILITY"),
        (&["mount", "--daemon"], &[], "always", "[[mount]] in the file"),
    ];
    for (words, variables, mode, from) in cases {
        lanefs(words, &paths, variables).expect_success();
        let status = lanefs(&["status", "--json"], &[&mount], &[]).expect_success().stdout;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let durability = &status["durability"];
        assert_eq!(durability["mode"], mode, "{durability}");
        assert!(
            durability["mode_from"].as_str().is_some_and(|said| said.starts_with(from)),
            "{durability}"
        );
        assert_eq!(durability["commit_interval"], "2s", "{durability}");
        said(&lanefs(&["set"], &[&mount, Path::new("durability=no")], &[]), 2, &["give fsync"]);
        said(&lanefs(&["set"], &[&mount, Path::new("mode=close")], &[]), 2, &["durability=MODE"]);
        lanefs(&["umount"], &[&mount], &[]).expect_success();
    }
    let outcome = lanefs(&["mount", "--durability", "closed"], &paths, &[]);
    said(&outcome, 2, &["durability `closed`", "relaxed:MS"]);
    let outcome = lanefs(&["mount", "--commit-interval", "1"], &paths, &[]);
    said(&outcome, 2, &["commit interval `1`", "500ms"]);
    said(
        &lanefs(&["set"], &[&mount, Path::new("durability=close")], &[]),
        1,
        &["nothing is mounted"],
    );
}

const RULES: &[(&str, &str)] = &[
    ("mail", "close"),
    ("mail/tmp/**", "fsync"),
    ("**/*.db", "always"),
    ("*.log", "relaxed:3600000"),
];

fn with_rules(options: &str) -> Stage {
    let prepare = |tree: &Path| {
        for directory in ["mail/tmp", "other/sub"] {
            fs::create_dir_all(tree.join(directory)).expect("mkdir");
        }
        for file in ["other/moved", "other/x.db", "other/sub/below", "a.log"] {
            fs::write(tree.join(file), "prepared").expect("write");
        }
    };
    let words = |mount_point: &Path| {
        let file = mount_point.with_file_name("lanefs.toml");
        let mut text = format!("[[mount]]\npath = {mount_point:?}\n");
        for (pattern, mode) in RULES {
            text.push_str(&format!(
                "[[mount.rule]]\npath = {pattern:?}\ndurability = \"{mode}\"\n"
            ));
        }
        fs::write(&file, text).expect("write");
        vec![OsString::from("--config"), file.into_os_string()]
    };
    Stage::with_words(Filesystem::Ext4, &format!("{options},commit_interval=0"), prepare, words)
}

fn rules_hold(options: &str) {
    let stage = with_rules(options);
    let root = stage.root().to_path_buf();
    let at = |name: &str| root.join(name);
    let append = |name: &str| {
        let mut file = OpenOptions::new().append(true).open(at(name)).expect("open");
        file.write_all(b" more").expect("write");
    };
    type Look = Box<dyn Fn(&Path) -> bool>;
    let mut cuts: Vec<(&str, bool, Position, Look)> = Vec::new();
    let mut note = |what, kept, path: &str, content: &'static str| {
        let path = path.to_owned();
        let look =
            move |tree: &Path| fs::read(tree.join(&path)).is_ok_and(|c| c == content.as_bytes());
        cuts.push((what, kept, stage.disk.position(), Box::new(look)));
    };
    fs::write(at("mail/tmp/new"), "content").expect("write");
    note("mail/tmp is fsync again", false, "mail/tmp/new", "content");
    fs::write(at("other/new"), "content").expect("write");
    note("no rule", false, "other/new", "content");
    fs::write(at("mail/new"), "content").expect("write");
    note("mail is close", true, "mail/new", "content");
    let database = OpenOptions::new().write(true).open(at("other/x.db")).expect("open");
    database.write_all_at(b"PREPARED", 0).expect("write");
    note("a database is always", true, "other/x.db", "PREPARED");
    fs::rename(at("other/moved"), at("mail/moved")).expect("rename");
    note("a rename into mail", true, "mail/moved", "prepared");
    append("mail/moved");
    note("what was moved there and then opened", true, "mail/moved", "prepared more");
    fs::rename(at("other/sub"), at("mail/sub")).expect("rename");
    append("mail/sub/below");
    note("what is below what was moved", true, "mail/sub/below", "prepared more");
    fs::rename(at("mail/moved"), at("other/back")).expect("rename");
    note("a rename out of mail", true, "other/back", "prepared more");
    append("other/back");
    note("what was moved out", false, "other/back", "prepared more more");
    let log = OpenOptions::new().append(true).open(at("a.log")).expect("open");
    (&log).write_all(b" more").expect("write");
    log.sync_all().expect("fsync");
    note("a relaxed sync", false, "a.log", "prepared more");
    drop((database, log));
    let ended = stage.end();
    for (what, kept, position, look) in cuts {
        assert_eq!(ended.after_cut(position, look), kept, "{options}: {what}");
    }
}

#[test]
fn rules_hold_for_parts_of_a_mount() {
    if !require::mount_support() {
        return;
    }
    rules_hold("fence=log,transport=classic");
    rules_hold("fence=backing,transport=classic");
    let Some(_switch) = Switch::set(true) else { return };
    rules_hold("fence=log,transport=ring");
}

/// `lanefs set MOUNTPOINT config=FILE`: the file is read anew, all of it at once. What the kernel
/// had looked up before there were rules, and does not ask for again, is not promised less.
#[test]
fn rules_can_come_go_and_change_while_it_is_mounted() {
    if !require::mount_support() {
        return;
    }
    let options =
        "fence=log,transport=classic,commit_interval=0,entry_timeout=3600,attr_timeout=3600";
    let stage = Stage::new(Filesystem::Ext4, options, |tree| {
        fs::create_dir_all(tree.join("mail/tmp")).expect("mkdir");
        for file in ["mail/one", "mail/two", "other"] {
            fs::write(tree.join(file), "old").expect("write");
        }
    });
    let root = stage.root().to_path_buf();
    let file = root.with_file_name("new.toml");
    let write = |name: &str| {
        let file = OpenOptions::new().write(true).open(root.join(name)).expect("open");
        file.write_all_at(b"new", 0).expect("write");
    };
    let durability = || -> Value {
        let said = lanefs(&["status", "--json"], &[&root], &[]).expect_success().stdout;
        serde_json::from_str::<Value>(&said).expect("JSON")["durability"].clone()
    };
    let configure = |text: &str, more: &[&str]| {
        fs::write(&file, text.replace("ROOT", &format!("{root:?}"))).expect("write");
        let setting = format!("config={}", file.display());
        let mut command = Command::new(binary::lanefs());
        command.arg("set").arg(&root).arg(setting).args(more).env("LANEFS_CONFIG", "");
        run::run(&mut command, DEADLINE)
    };
    // Known to the kernel for an hour; nobody has noted where it is.
    for name in ["mail/one", "mail/two", "other"] {
        fs::metadata(root.join(name)).expect("it is there");
    }
    let rules = "commit-interval = \"2s\"\n[[mount]]\npath = ROOT\n[[mount.rule]]\n\
                 path = \"mail\"\ndurability = \"close\"\n";
    said(&configure(rules, &[]), 0, &["durability=fsync"]);
    let now = durability();
    assert_eq!(
        (&now["rules"][0]["path"], &now["rules"][1]),
        (&"mail".into(), &Value::Null),
        "{now}"
    );
    // The flag that it was mounted with wins over the file, as it did then.
    assert_eq!(now["commit_interval"], "0", "{now}");
    write("mail/one");
    let by_a_cached_name = stage.disk.position();
    fs::write(root.join("mail/new"), "new").expect("write");
    let by_a_new_name = stage.disk.position();
    // A file with a mistake changes nothing, not even what is right in it.
    let outcome = configure("[[mount]]\npath = ROOT\n[[mount.rule]]\npath = \"x\"\n", &[]);
    said(&outcome, 2, &["line 3", "durability"]);
    let outcome = configure("durability = \"always\"\n", &["commit-interval=never"]);
    said(&outcome, 2, &["commit interval `never`"]);
    assert_eq!(durability(), now);
    // What is set beside the file wins, for this time.
    said(&configure(rules, &["durability=always"]), 0, &["durability=always"]);
    write("other");
    let in_the_mode_of_the_mount = stage.disk.position();
    said(&configure("", &[]), 0, &["durability=fsync"]);
    assert_eq!(durability()["rules"], Value::Array(Vec::new()));
    write("mail/two");
    let without_rules = stage.disk.position();
    let ended = stage.end();
    for (what, position, name, content) in [
        ("a name that the kernel had cached", by_a_cached_name, "mail/one", Some("new")),
        ("a new file", by_a_new_name, "mail/new", Some("new")),
        ("the mode of the mount", in_the_mode_of_the_mount, "other", Some("new")),
        ("no rules any more", without_rules, "mail/two", Some("old")),
    ] {
        let found = ended.after_cut(position, |tree| fs::read_to_string(tree.join(name)).ok());
        assert_eq!(found.as_deref(), content, "{what}");
    }
}

#[test]
fn what_a_cut_would_lose_is_said() {
    if !require::mount_support() {
        return;
    }
    let stage =
        Stage::new(Filesystem::Ext4, "fence=log,transport=classic,commit_interval=0", |tree| {
            fs::create_dir(tree.join("sub")).expect("mkdir");
        });
    let root = stage.root();
    let report = |path: &Path| -> Value {
        let said = lanefs(&["status", "--durability", "--json"], &[path], &[]).expect_success();
        serde_json::from_str(&said.stdout).expect("JSON")
    };
    let nothing = report(root);
    assert_eq!(
        (nothing["files"].as_u64(), nothing["operations"].as_u64()),
        (Some(0), Some(0)),
        "{nothing}"
    );
    fs::write(root.join("sub/closed"), vec![1; 10_000]).expect("write");
    let mut open = File::create(root.join("open")).expect("create");
    open.write_all(&[2; 5000]).expect("write");
    std::thread::sleep(Duration::from_millis(120));
    let all = report(root);
    assert_eq!(all["files"].as_u64(), Some(2), "{all}");
    // Two names were made, each an operation.
    assert_eq!(all["operations"].as_u64(), Some(2), "{all}");
    let bytes = all["bytes"].as_u64().expect("a number");
    assert!((15_000..=32_768).contains(&bytes), "{all}");
    assert!(all["oldest_age_s"].as_f64().is_some_and(|age| (0.1..20.0).contains(&age)), "{all}");
    let part = report(&root.join("sub"));
    assert_eq!(
        (part["files"].as_u64(), part["list"].as_array().map(Vec::len)),
        (Some(1), Some(1)),
        "{part}"
    );
    assert!(
        part["list"][0]["path"].as_str().is_some_and(|path| path.ends_with("sub/closed")),
        "{part}"
    );
    assert_eq!(report(&root.join("open"))["list"][0]["is_open"], true);
    open.sync_all().expect("fsync");
    let left = report(root);
    assert_eq!((left["files"].as_u64(), left["operations"].as_u64()), (Some(1), Some(0)), "{left}");
    let text = lanefs(&["status", "--durability"], &[root], &[]).expect_success().stdout;
    assert!(
        text.contains("A power cut now would lose at most") && text.contains("sub/closed"),
        "{text}"
    );
    said(
        &lanefs(&["status", "--durability"], &[Path::new("/proc")], &[]),
        1,
        &["is on no lanefs mount"],
    );
    drop(open);
    stage.end();
}
