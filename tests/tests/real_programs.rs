//! Promise: programs that know nothing of lanefs work on the mount as they do elsewhere.
//!
//! git, SQLite, PostgreSQL, tar and rsync, unmodified, each with its own way of checking that
//! nothing was lost: `git fsck`, `integrity_check`, data checksums and `pg_amcheck`, `diff`, and a
//! second rsync that finds nothing to do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::run::{self, Outcome};
use tests::scratch::Scratch;
use tests::subject::Subject;
use tests::{require, tools};

const DEADLINE: Duration = Duration::from_secs(120);

// Runs a bash script in `directory`; fails the test unless it succeeds.
#[track_caller]
fn bash(directory: &Path, text: &str, arguments: &[&Path]) -> Outcome {
    run::script(directory, text, arguments, DEADLINE).expect_success()
}

#[test]
fn git_clones_both_ways() {
    if !require::mount_support() {
        return;
    }
    tools::debian("git", "git");
    let subject = Subject::ext4(512);
    // No one's configuration; every kind of sync that git knows; no work in the background, which
    // would outlive the commands.
    let environment = "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
                       GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
                       GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=core.fsync \
                       GIT_CONFIG_VALUE_0=all GIT_CONFIG_KEY_1=gc.auto GIT_CONFIG_VALUE_1=0\n";
    // 400 files, 100 commits that change 8 of them each.
    let build = r#"
        git init -q -b main "$1"; cd "$1"
        for d in {0..19}; do
            mkdir d$d
            for f in {0..19}; do echo "directory $d file $f" > d$d/f$f; done
        done
        ln -s d0/f0 link; echo 'exit 0' > run; chmod +x run
        git add .; git commit -qm first
        for c in {1..100}; do
            for f in {0..7}; do seq $c $((c + f * 50)) > d$((c % 20))/f$(((c + f) % 20)); done
            git commit -qam "commit $c"
        done
        git mv d0 e0; git commit -qm rename; git tag -am tag v1
    "#;
    let check = r#"
        cd "$1"
        git fsck --full --strict
        test "$(git rev-list --count HEAD)" = 102
        test -z "$(git status --porcelain)"
        git repack -adq; git fsck --full --strict
    "#;
    let (outside, mount) = (subject.plain().join("outside"), subject.path());
    let script = |text: &str, arguments: &[&Path]| {
        bash(subject.plain(), &format!("{environment}{text}"), arguments);
    };
    script(build, &[&outside]);
    script(r#"git clone -q --no-local "$1" "$2""#, &[&outside, &mount.join("in")]);
    script(check, &[&mount.join("in")]);
    // Built on the mount, cloned with hard links within it, and cloned away from it.
    script(build, &[&mount.join("built")]);
    script(check, &[&mount.join("built")]);
    script(r#"git clone -q "$1" "$2""#, &[&mount.join("built"), &mount.join("linked")]);
    script(check, &[&mount.join("linked")]);
    script(r#"git clone -q --no-local "$1" "$2""#, &[&mount.join("built"), &outside.join("out")]);
    script(check, &[&outside.join("out")]);
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("DELETE");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite("WAL");
}

// Four processes insert at once, each row a transaction of its own; none may be missing.
fn sqlite(journal: &str) {
    if !require::mount_support() {
        return;
    }
    tools::debian("sqlite3", "sqlite3");
    let subject = Subject::ext4(128);
    let text = r#"
        test "$(sqlite3 data.db "PRAGMA journal_mode=$1;")" = "${1,,}"
        sqlite3 data.db 'CREATE TABLE t(writer INTEGER, number INTEGER, filler BLOB,
                         PRIMARY KEY(writer, number)); CREATE INDEX i ON t(filler);'
        insert() {
            echo '.bail on'; echo '.timeout 60000'
            for n in {1..150}; do
                echo "INSERT INTO t VALUES($1, $n, randomblob(200)); SELECT count(*) > 0 FROM t;"
            done
        }
        pids=()
        for w in 1 2 3 4; do insert $w | sqlite3 data.db > /dev/null & pids+=($!); done
        for pid in "${pids[@]}"; do wait $pid; done
        sqlite3 data.db 'PRAGMA integrity_check; SELECT count(*) FROM t;
                         SELECT count(*) FROM (SELECT 1 FROM t GROUP BY writer HAVING count(*) = 150);'
    "#;
    let outcome = run::script(subject.path(), text, &[journal], DEADLINE).expect_success();
    let answers: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert_eq!(answers, ["ok", "600", "4"], "{}", outcome.describe());
    println!("sqlite {journal}: 600 transactions in {:.1} s", outcome.elapsed.as_secs_f64());
}

// Ends a server that a failed test left running: it has a session of its own, and would keep the
// mount busy. Asks the backing directory, since the mount may be what failed.
struct Postmaster<'a> {
    backing: &'a Path,
}

impl Drop for Postmaster<'_> {
    fn drop(&mut self) {
        let file = std::fs::read_to_string(self.backing.join("data/postmaster.pid"));
        let Some(pid) = file.ok().and_then(|text| text.lines().next()?.parse().ok()) else {
            return;
        };
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program.ends_with("postgres")
            && let Some(process) = Pid::from_raw(pid)
        {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

#[test]
fn postgresql_under_pgbench() {
    if !require::mount_support() {
        return;
    }
    let postgres = tools::debian("postgresql-15", "postgres");
    tools::debian("postgresql-15", "pg_amcheck");
    let subject = Subject::ext4(2048);
    // The path of a Unix socket is limited to 107 bytes: not below the mount.
    let sockets = Scratch::new(0);
    let _postmaster = Postmaster { backing: subject.backing() };
    // initdb and pg_ctl look for the others beside themselves, wherever a link led to them.
    let postgres = postgres.canonicalize().expect("a program that was found");
    let programs = postgres.parent().expect("a folder");
    // The server refuses root. Log, data and WAL are all on the mount, with data checksums.
    let text = r#"
        export PATH="$1:$PATH" PGHOST="$2" LC_ALL=C.UTF-8
        user=postgres; id -u postgres > /dev/null 2>&1 || user=nobody
        export PGUSER=$user PGDATABASE=postgres
        install -d -o $user -m 0700 data; chown $user "$2"
        as() {
            setpriv --reuid=$user --regid="$(id -g $user)" --clear-groups --reset-env \
                env PATH="$PATH" PGHOST="$PGHOST" PGUSER=$user PGDATABASE=postgres LC_ALL=C.UTF-8 "$@"
        }
        stop() { as pg_ctl -D "$PWD/data" -m immediate stop > /dev/null 2>&1 || true; }
        as initdb -D "$PWD/data" -k -U $user --auth=trust > initdb.log
        trap stop EXIT
        as pg_ctl -D "$PWD/data" -w -t 60 -l "$PWD/data/log" \
            -o "-c unix_socket_directories='$2' -c listen_addresses=''" start
        as pgbench -q -i -s 5
        as pgbench -c 8 -j 2 -T 10
        as psql -qAt -c 'SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history)
                         FROM pgbench_accounts'
        as pg_amcheck --install-missing --heapallindexed
        as pg_dump -f /dev/null
        as pg_ctl -D "$PWD/data" -w -t 60 -m fast stop
        trap - EXIT
        as pg_checksums --check -D "$PWD/data"
    "#;
    let outcome = bash(subject.path(), text, &[programs, sockets.path()]);
    assert!(outcome.stdout.lines().any(|line| line == "t"), "balances: {}", outcome.describe());
    assert!(outcome.stdout.contains("Bad checksums:  0"), "{}", outcome.describe());
    let rate = outcome.stdout.lines().find(|line| line.starts_with("tps"));
    println!("pgbench -c 8 -T 10: {}", rate.expect("a rate"));
}

#[test]
fn tar_out_and_in() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4(1024);
    // 20,000 files in 200 directories, and what tar knows besides. The list compares what `diff` does
    // not look at; directory sizes and times are the filesystem's own affair.
    let make = r#"
        mkdir source; cd source
        for d in {0..199}; do mkdir d$d; for f in {0..99}; do echo "$d $f" > d$d/f$f; done; done
        for n in {0..99}; do
            ln d$n/f0 d$n/hard; ln -s ../d$n/f1 d$n/soft; chmod $((n % 8))$((n % 7))4 d$n/f2
        done
        ln -s nowhere dangling; mkfifo fifo; chmod u+s d0/f3; chmod 1777 d1; chown 1:2 d2/f4
        truncate -s 10M sparse; echo middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        touch -d '1999-12-31 23:59:59.123456789' d3/f5
    "#;
    let compare = r#"
        list() { (cd "$1"; find . -printf '%P %y %m %U:%G %n %l' \( ! -type d -printf ' %s %T@' \
                 -o -true \) -printf '\n' | sort); }
        diff -r --no-dereference "$1" "$2" 2>&1 | grep -v 'is a fifo' || true
        diff <(list "$1") <(list "$2")
        test "$(stat -c %b "$2/sparse")" -lt 1000
    "#;
    let (plain, mount) = (subject.plain(), subject.path());
    let copy = r#"mkdir "$2"; tar -C "$1" --format=posix -Scf - . | tar -C "$2" -Sxpf -"#;
    let (source, inside, back) = (plain.join("source"), mount.join("in"), plain.join("back"));
    bash(plain, make, &[]);
    bash(plain, copy, &[&source, &inside]);
    let differences = bash(plain, compare, &[&source, &inside]);
    assert_eq!(differences.stdout, "", "in: {}", differences.describe());
    bash(plain, copy, &[&inside, &back]);
    let differences = bash(plain, compare, &[&source, &back]);
    assert_eq!(differences.stdout, "", "out: {}", differences.describe());
}

#[test]
fn rsync_both_ways() {
    if !require::mount_support() {
        return;
    }
    for (package, program) in [("rsync", "rsync"), ("acl", "setfacl"), ("attr", "setfattr")] {
        tools::debian(package, program);
    }
    let subject = Subject::ext4(256);
    let make = r#"
        mkdir source; cd source
        for d in {0..9}; do mkdir d$d; for f in {0..49}; do seq $f > d$d/f$f; done; done
        for n in {0..9}; do
            ln d$n/f0 hard$n; ln -s d$n/f1 soft$n; chown $n:$((n + 1)) d$n/f2
            setfacl -m u:$((1000 + n)):rw-,g:7:r-- d$n/f3
            setfattr -n user.name -v "value $n" d$n/f4
            setfattr -n trusted.name -v "value $n" d$n/f5
        done
        setfacl -d -m u:1000:rwx d0; setfattr -n user.empty d1/f6; mkfifo fifo; mknod null c 1 3
        chmod 4755 d2/f7; touch -h -d '2001-02-03 04:05:06.789' soft3
    "#;
    let copy = r#"rsync -aHAX --numeric-ids "$1/" "$2/""#;
    let again = r#"rsync -aHAXn --numeric-ids --itemize-changes --checksum --delete "$1/" "$2/""#;
    let (plain, mount) = (subject.plain(), subject.path());
    let (source, inside, back) = (plain.join("source"), mount.join("in"), plain.join("back"));
    bash(plain, make, &[]);
    for (from, to) in [(&source, &inside), (&inside, &back)] {
        bash(plain, copy, &[from, to]);
    }
    for (from, to) in [(&source, &inside), (&inside, &back), (&source, &back), (&back, &inside)] {
        let differences = bash(plain, again, &[from, to]);
        assert_eq!(differences.stdout, "", "{}", differences.describe());
    }
    // rsync must have had these to compare.
    bash(&back, "getfacl -n d0/f3 | grep -q user:1000:rw-", &[]);
    let links = Command::new("stat").args(["-c", "%h"]).arg(back.join("hard0")).output();
    assert_eq!(String::from_utf8_lossy(&links.expect("stat").stdout).trim(), "2");
}
