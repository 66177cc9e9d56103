//! Real programs and their known mistakes: what ALICE (OSDI'14), C3 (FSE'16) and the research note of
//! this project found; and programs that have none.

use std::fs;
use std::time::Duration;

use tests::{require, tools};

use super::lab::Lab;

/// The filesystems of the default verdict.
const DISKS: &str = "ext4,xfs,btrfs";

// The demonstration in the README: gzip removes the original before the bytes of the copy are on
// the disk.
#[test]
fn gzip_loses_the_file() {
    if !require::mount_support() {
        return;
    }
    tools::debian("gzip", "gzip");
    let lab = Lab::new();
    fs::write(lab.dir().join("f"), "some text\n".repeat(100)).expect("write");
    let check = "gzip -t f.gz || test -s f";
    let outcome = lab.run(&["--check", check, "--", "gzip", "f"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert!(outcome.elapsed < Duration::from_secs(2), "{}", outcome.describe());
    assert!(outcome.stdout.lines().count() <= 6, "{}", outcome.describe());
    assert!(
        outcome.stdout.contains("unlink(f) persisted before the bytes of f.gz"),
        "{}",
        outcome.describe()
    );
    let cure = "cure: fsync(f.gz) before unlink(f)";
    assert!(outcome.stdout.contains(cure), "{}", outcome.describe());
    // The real directory is as it was.
    assert!(lab.dir().join("f").exists() && !lab.dir().join("f.gz").exists());
    let report = lab.report(&["--json", "--check", check, "--", "gzip", "--synchronous", "f"]);
    report.expect_clean(DISKS);
}

// Without a checker: formats by their own programs, else old or new.
#[test]
fn auto_knows_what_is_right() {
    if !require::mount_support() {
        return;
    }
    tools::debian("gzip", "gzip");
    tools::debian("sqlite3", "sqlite3");
    let lab = Lab::new();
    fs::write(lab.dir().join("f"), "some text\n".repeat(100)).expect("write");
    fs::write(lab.dir().join("c.json"), "{\"n\": 1}").expect("write");
    let auto =
        |program: &str| lab.report(&["--json", "--check", "auto", "--", "sh", "-c", program]);
    let lost: &[&str] = &["ordering", "unlink(f) persisted before the bytes of f.gz"];
    auto("gzip f").expect(DISKS, &[lost]);
    auto("gzip --synchronous f").expect_clean(DISKS);
    let window: &[&str] = &["atomicity", "between truncate(c.json, 0) and write(c.json"];
    auto("echo '{\"n\": 2}' > c.json; sync c.json").expect(DISKS, &[window]);
    auto("echo '{\"n\": 2}' > t; sync t; mv t c.json").expect_clean(DISKS);
    let table =
        "sqlite3 a.db 'pragma synchronous=full; create table t(k); insert into t values(1)'";
    let report = auto(table);
    report.expect_clean(DISKS);
    assert_eq!(report.json["asked"][0], "a.db: SQLite");
}

/// Three commits, each told when it is done.
fn sqlite(mode: &str, synchronous: &str) -> super::lab::Report {
    tools::debian("sqlite3", "sqlite3");
    let program = format!(
        "sqlite3 a.db 'pragma journal_mode={mode}; pragma synchronous={synchronous};
             create table t(k integer primary key, v text);' > /dev/null
         for i in 1 2 3; do
             sqlite3 a.db \"pragma synchronous={synchronous};
                 insert into t values($i, printf('%.200c','x'));\" && echo $i
         done"
    );
    let check = r#"
        test "$(sqlite3 a.db 'pragma integrity_check')" = ok || { echo corrupt; exit 1; }
        test -s $LANEFS_ACK || exit 0
        told=$(tail -n 1 $LANEFS_ACK)
        there=$(sqlite3 a.db 'select count(*) from t') || exit 1
        test "$there" -ge "$told" || { echo "lost: $told told, $there there"; exit 1; }
        sqlite3 a.db "insert into t values(100, 'y')"
    "#;
    Lab::new().test(DISKS, check, &program)
}

// The anchor of credibility: one known mistake, and no other.
#[test]
fn sqlite_with_a_rollback_journal_forgets_the_directory() {
    if !require::mount_support() {
        return;
    }
    let report = sqlite("delete", "full");
    report.expect(DISKS, &[&["durability", "unlink(a.db-journal): lost after told"]]);
    let cure = report.json["findings"][0]["cure"].as_str().expect("a cure");
    assert_eq!(cure, "fsync(.) before told \"1\"");
    sqlite("delete", "extra").expect_clean(DISKS);
}

#[test]
fn sqlite_with_a_write_ahead_log_is_clean() {
    if !require::mount_support() {
        return;
    }
    sqlite("wal", "full").expect_clean(DISKS);
}

// Shows that the checker of the tests above can say no.
#[test]
fn sqlite_without_syncs_is_found() {
    if !require::mount_support() {
        return;
    }
    assert!(sqlite("delete", "off").findings(Some("ext4")).len() >= 3);
}

const GIT: &str = "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
                   GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b\n";

fn git(setting: &str) -> super::lab::Report {
    tools::debian("git", "git");
    let lab = Lab::new();
    let outcome = tests::run::script::<&str>(
        &lab.dir(),
        &format!("{GIT} git init -q -b main . && rm -r .git/hooks"),
        &[],
        Duration::from_secs(30),
    );
    outcome.expect_success();
    let program = format!(
        "{GIT} for i in 1 2; do
             seq $i 40 > f$i; git {setting} add f$i; git {setting} commit -qm c$i && echo $i
         done"
    );
    let check = format!(
        "{GIT} find .git -name '*.lock' -delete
         git fsck --full > out 2>&1 || {{ tail -n 1 out; exit 1; }}
         told=$(tail -n 1 $LANEFS_ACK); told=${{told:-0}}
         there=$(git rev-list --count HEAD 2> out || echo 0)
         test $there -ge $told || {{ echo \"lost: $told told, $there there\"; exit 1; }}"
    );
    lab.test(DISKS, &check, &program)
}

#[test]
fn git_syncs_nothing_by_default() {
    if !require::mount_support() {
        return;
    }
    let report = git("");
    for model in DISKS.split(',') {
        let found = report.findings(Some(model));
        assert!(found.iter().any(|text| text.contains("ordering") && text.contains("objects")));
        assert!(found.iter().any(|text| text.starts_with("durability")), "{found:#?}");
    }
}

#[test]
fn git_that_syncs_all_may_lose_the_last_commit_only() {
    if !require::mount_support() {
        return;
    }
    let lost: &[&str] = &["durability", "rename(.git/refs/heads/main.lock", "lost after told"];
    git("-c core.fsync=all").expect(DISKS, &[lost]);
}

// LMDB: opening it for the first time is not atomic (exit 77 skips that here); afterwards only what
// POSIX does not promise may go wrong: the new file's name, and a meta page torn within a sector.
#[test]
fn lmdb() {
    if !require::mount_support() {
        return;
    }
    tools::debian("lmdb-utils", "mdb_load");
    let program = r#"
        for i in 1 2 3; do
            printf "VERSION=3\nformat=print\ntype=btree\nHEADER=END\n k$i\n v$i\nDATA=END\n" |
                mdb_load -n d.mdb && echo $i
        done"#;
    let check = |creation: u8| {
        format!(
            r#"told=$(tail -n 1 $LANEFS_ACK); told=${{told:-0}}
            test -e d.mdb || {{ test $told = 0 && exit 0; echo 'lost: no file'; exit 1; }}
            out=$(mdb_dump -p -n d.mdb 2>&1) || {{
                test $told = 0 && exit {creation}; echo "cannot open: $out"; exit 1; }}
            for i in $(seq 1 $told); do
                echo "$out" | grep -qx " v$i" || {{ echo "lost $i"; exit 1; }}
            done"#
        )
    };
    let models = "ext4,xfs,btrfs,posix-min";
    let whole = Lab::new().test(models, &check(1), program);
    for model in models.split(',') {
        let found = whole.findings(Some(model));
        let window = found.iter().any(|text| text.contains("create(d.mdb) and write(d.mdb"));
        assert!(window, "{model}: {found:#?}");
    }
    let steady = Lab::new().test(models, &check(77), program);
    steady.expect_clean(DISKS);
    steady.expect(
        "posix-min",
        &[&["durability", "create(d.mdb): lost after told"], &["tear", "the bytes of d.mdb"]],
    );
}

const LINES: &str = "test \"$(wc -l < f)\" = 300 && test \"$(grep -c . f)\" = 300";

fn edited(models: &str, program: &str) -> super::lab::Report {
    let lab = Lab::new();
    let lines: String = (0..300).map(|number| format!("{}\n", 1000 - number)).collect();
    fs::write(lab.dir().join("f"), lines).expect("write");
    lab.test(models, LINES, program)
}

// sort truncates its output in place: no filesystem helps, but lanefs does.
#[test]
fn sort_in_place_is_not_atomic() {
    if !require::mount_support() {
        return;
    }
    let models = "seq,ext4,xfs,btrfs,posix-min";
    let report = edited(&format!("{models},lanefs,lanefs-close"), "sort -n -o f f");
    report.expect_clean("lanefs,lanefs-close");
    for model in models.split(',') {
        let found = report.findings(Some(model));
        let window = "a crash between truncate(f, 0) and write(f";
        assert!(found.iter().any(|text| text.contains(window)), "{model}: {found:#?}");
    }
}

// sed -i and perl -i rename over the file without a sync: as good as the filesystem's heuristics.
#[test]
fn sed_and_perl_rely_on_the_filesystem() {
    if !require::mount_support() {
        return;
    }
    let models = "ext4,btrfs,lanefs,lanefs-close,ext4-strict,xfs,posix-min";
    for program in ["sed -i s/1/2/ f", "perl -i -pe s/1/2/ f"] {
        let report = edited(models, program);
        report.expect_clean("ext4,btrfs,lanefs,lanefs-close");
        let lost: &[&str] = &["ordering", "rename(", "-> f) persisted before the bytes of"];
        report.expect("ext4-strict,xfs", &[lost]);
        assert!(!report.findings(Some("posix-min")).is_empty());
    }
}

// What many programs do with their settings: open for writing, write, sync.
#[test]
fn rewriting_json_in_place_is_not_atomic() {
    if !require::mount_support() {
        return;
    }
    tools::debian("python3", "python3");
    let lab = Lab::new();
    fs::write(lab.dir().join("c.json"), "{\"n\": -1}").expect("write");
    let program = r#"/usr/bin/python3 -S -c '
import json, os
for i in range(3):
    with open("c.json", "w") as f:
        json.dump({"n": i, "pad": "x" * 50}, f); f.flush(); os.fsync(f.fileno())
'"#;
    let check = "/usr/bin/python3 -S -c 'import json; json.load(open(\"c.json\"))'";
    let models = "seq,ext4,ext4-strict,xfs,btrfs";
    let window: &[&str] = &["atomicity", "between truncate(c.json, 0) and write(c.json"];
    let report = lab.test(&format!("{models},lanefs,lanefs-close"), check, program);
    report.expect(models, &[window]);
    report.expect_clean("lanefs,lanefs-close");
}

#[test]
fn dbm_dumb_loses_what_it_has_told() {
    if !require::mount_support() {
        return;
    }
    tools::debian("python3", "python3");
    let program = r#"/usr/bin/python3 -S -c '
import dbm.dumb
d = dbm.dumb.open("d", "c")
for i in range(3):
    d["k%d" % i] = "v%d" % i * 20; d.sync(); print(i, flush=True)
d.close()
'"#;
    let check = r#"/usr/bin/python3 -S -c '
import dbm.dumb, os, sys
told = [int(x) for x in open(os.environ["LANEFS_ACK"]).read().split()]
d = dbm.dumb.open("d", "c")
for i in told:
    if d.get("k%d" % i) != (b"v%d" % i) * 20: sys.exit("lost or corrupt %d" % i)
for k in d.keys():
    if d[k] != (b"v%d" % int(k[1:])) * 20: sys.exit("corrupt")
'"#;
    let report = Lab::new().test(DISKS, check, program);
    for model in DISKS.split(',') {
        let found = report.findings(Some(model));
        for class in ["atomicity", "durability", "ordering"] {
            assert!(found.iter().any(|text| text.starts_with(class)), "{model}: {found:#?}");
        }
    }
}
