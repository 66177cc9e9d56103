//! Promise: mount(8), umount(8), `mount -a` and fstab(5) work with lanefs as with any filesystem.
//!
//! The programs are the system's own, in a machine of the test's own (`tests::machine`), because
//! they look for helpers in /sbin only.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tests::loopfs::LoopFs;
use tests::machine::{Init, Machine};
use tests::run::Outcome;
use tests::subject::is_bare;
use tests::{require, tools};

/// A machine with a backing directory on ext4, at /srv/data, and an empty one to mount at.
struct Stage {
    machine: Machine,
    backing: PathBuf,
    // After the machine, which has it mounted.
    filesystem: LoopFs,
}

impl Stage {
    /// `None`, having said why, where mounts cannot be tested.
    fn new() -> Option<Self> {
        if !require::mount_support() || is_bare() {
            return None;
        }
        tools::debian("procps", "pgrep");
        let filesystem = LoopFs::ext4(128);
        let backing = filesystem.path().join("backing");
        fs::create_dir(&backing).expect("mkdir");
        let shared = [(filesystem.path(), "/srv")];
        let machine = Machine::with_command(Init::Nothing, &shared);
        machine.shell("mv /srv/backing /srv/data; mkdir /mnt/data").expect_success();
        Some(Self { machine, backing: filesystem.path().join("data"), filesystem })
    }

    #[track_caller]
    fn good(&self, script: &str) -> String {
        self.machine.say(script)
    }

    /// The one line that a refused command says, with mount(8)'s exit code.
    #[track_caller]
    fn refused(&self, script: &str, exit_code: i32) -> String {
        let outcome: Outcome = self.machine.shell(script);
        assert_eq!(outcome.status.code(), Some(exit_code), "{}", outcome.describe());
        assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{}", outcome.describe());
        outcome.stderr
    }

    #[track_caller]
    fn status(&self, mount_point: &str) -> Value {
        let said = self.good(&format!("lanefs status --json '{mount_point}'"));
        serde_json::from_str(&said).expect("JSON")
    }

    /// Words of /proc/mounts for a mount point: source, place, type, options.
    fn mounted(&self, mount_point: &str) -> Option<[String; 4]> {
        let table = self.good("cat /proc/mounts");
        let words = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some([words.next()?, words.next()?, words.next()?, words.next()?])
        };
        table.lines().filter_map(words).find(|words| words[1] == mount_point)
    }

    #[track_caller]
    fn expect_no_daemon(&self) {
        let left = self.machine.run("pgrep", &["--list-full", "--exact", "lanefs"]);
        let alive = left.stdout.lines().filter(|line| !line.contains("defunct"));
        assert_eq!(alive.count(), 0, "{}", left.stdout);
    }
}

#[test]
fn mount_and_umount_by_both_types() {
    let Some(stage) = Stage::new() else { return };
    for kind in ["lanefs", "fuse.lanefs"] {
        stage
            .good(&format!("mount -t {kind} -o allow_other,noatime,fence=log /srv/data /mnt/data"));
        let [source, _, shown, options] = stage.mounted("/mnt/data").expect("mounted");
        assert_eq!((source.as_str(), shown.as_str()), ("/srv/data", "fuse.lanefs"));
        assert!(options.contains("allow_other") && options.contains("noatime"), "{options}");
        stage.good("echo something > /mnt/data/file");
        assert_eq!(stage.status("/mnt/data")["log"], "in use");
        stage.good("umount /mnt/data");
        assert!(stage.mounted("/mnt/data").is_none());
        // It waits until nothing is left to recover, and for the process.
        stage.expect_no_daemon();
        let check = stage.good("lanefs check /srv/data");
        assert!(check.contains("is up to date"), "{check}");
        assert_eq!(fs::read(stage.backing.join("file")).expect("read"), b"something\n");
    }
}

#[test]
fn lines_of_fstab() {
    let Some(stage) = Stage::new() else { return };
    stage.good("mkdir '/srv/two words' '/mnt/two words' /mnt/manual /mnt/absent");
    let fstab = [
        "/srv/data /mnt/data lanefs defaults,nofail,_netdev,x-systemd.automount,user,X-a=b 0 0",
        r"/srv/two\040words /mnt/two\040words fuse.lanefs ro,relatime,comment=hello 0 0",
        "/srv/data /mnt/manual lanefs noauto 0 0",
    ];
    fs::write(stage.machine.path("/etc/lines"), fstab.join("\n") + "\n").expect("fstab");
    stage.good("mount -a -T /etc/lines");
    let [.., options] = stage.mounted("/mnt/data").expect("mounted");
    assert!(options.contains("noexec"), "user means noexec, nosuid, nodev: {options}");
    let [.., options] = stage.mounted(r"/mnt/two\040words").expect("mounted");
    assert!(options.starts_with("ro,"), "{options}");
    assert!(stage.mounted("/mnt/manual").is_none(), "noauto");
    // umount(8) finds its helper by this, and systemd that it needs the network.
    let noted = stage.good("grep 'TARGET=/mnt/data ' /run/mount/utab");
    assert!(noted.contains("_netdev") && noted.contains("user"), "{noted}");
    // What is mounted is left alone.
    let pid = stage.status("/mnt/data")["pid"].clone();
    stage.good("mount -a -T /etc/lines");
    assert_eq!(stage.status("/mnt/data")["pid"], pid);
    stage.good("umount /mnt/data; umount '/mnt/two words'; mount -T /etc/lines /mnt/manual");
    stage.good("umount /mnt/manual");
    stage.expect_no_daemon();
}

#[test]
fn the_printed_line_mounts() {
    let Some(stage) = Stage::new() else { return };
    stage.good("cd /srv; mkdir /mnt/'a place'");
    let print = "cd /srv; lanefs mount data '/mnt/a place' --print-fstab -o allow_other,nofail \
                 --durability close --commit-interval 2s --log-size 8M";
    let line = stage.good(print);
    let options = "allow_other,nofail,durability=close,commit_interval=2s,log_size=8M,\
                   x-systemd.requires-mounts-for=/srv/data";
    assert_eq!(line, format!(r"/srv/data /mnt/a\040place fuse.lanefs {options} 0 0"));
    fs::write(stage.machine.path("/etc/lines"), line + "\n").expect("fstab");
    stage.good("mount -a -T /etc/lines");
    let status = stage.status("/mnt/a place");
    assert_eq!(status["durability"]["mode"], "close");
    assert_eq!(status["durability"]["commit_interval"], "2s");
    stage.good("umount '/mnt/a place'");
    // Over itself, with a file of settings.
    stage.good("echo 'durability = \"always\"' > /etc/other.toml");
    let line =
        stage.good("lanefs mount /srv/data /srv/data --print-fstab --config /etc/other.toml");
    assert!(line.contains("config=/etc/other.toml"), "{line}");
    fs::write(stage.machine.path("/etc/lines"), line + "\n").expect("fstab");
    stage.good("mount -a -T /etc/lines");
    assert_eq!(stage.status("/srv/data")["durability"]["mode"], "always");
    stage.good("umount /srv/data");
    // A line that could not be mounted is not printed.
    for words in ["-o no_such", "--durability closed", "-o log=/a --log-size 1"] {
        stage.refused(&format!("lanefs mount /srv/data /mnt/data --print-fstab {words}"), 2);
    }
}

#[test]
fn remounts_change_what_they_can() {
    let Some(stage) = Stage::new() else { return };
    // Nobody else makes anything durable.
    let options = "commit_interval=0,checkpoint_ms=3600000";
    stage.good(&format!("mount -t lanefs -o {options} /srv/data /mnt/data"));
    stage.good("echo one > /mnt/data/file; mount -o remount,ro /mnt/data");
    let cut = stage.filesystem.after_power_cut();
    assert_eq!(fs::read(cut.path().join("data/file")).expect("durable"), b"one\n");
    drop(cut);
    assert_eq!(stage.status("/mnt/data")["read_only"], true);
    let refused = stage.machine.shell("echo two > /mnt/data/file");
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.describe());
    stage.good("mount -o remount,rw,durability=close,commit_interval=3s /mnt/data");
    stage.good("echo two > /mnt/data/file; test $(cat /mnt/data/file) = two");
    let status = stage.status("/mnt/data");
    assert_eq!(status["read_only"], false);
    assert_eq!(status["durability"]["mode"], "close");
    assert_eq!(status["durability"]["commit_interval"], "3s");
    stage.good("mount -o remount,noexec /mnt/data");
    assert!(stage.mounted("/mnt/data").expect("mounted")[3].contains("noexec"));
    // Somebody writes.
    let said = stage.refused("exec 3>/mnt/data/open; mount -o remount,ro /mnt/data", 32);
    assert!(said.contains("open for writing"), "{said}");
    let said = stage.refused("mount -o remount,wat /mnt/data", 1);
    assert!(said.contains("`wat`"), "{said}");
    stage.good("umount /mnt/data");
    // What was made read-only has no log to write to. That one is there, and empty, is no
    // obstacle (it was: the log could be opened for writing only).
    stage.good("mount -t lanefs -o ro /srv/data /mnt/data");
    let said = stage.refused("mount -o remount,rw /mnt/data", 32);
    assert!(said.contains("mounted read-only"), "{said}");
    stage.good("umount /mnt/data");
    let said = stage.refused("/sbin/mount.lanefs /srv/data /mnt/data -o remount,ro", 32);
    assert!(said.contains("nothing is mounted"), "{said}");
}

#[test]
fn mistakes_are_one_line_with_the_exit_codes_of_mount() {
    let Some(stage) = Stage::new() else { return };
    let expect = |words: &str, exit_code: i32, says: &[&str]| {
        let said = stage.refused(&format!("mount -t lanefs {words}"), exit_code);
        says.iter().for_each(|must| assert!(said.contains(must), "{words}: {said}"));
        assert!(stage.mounted("/mnt/data").is_none(), "{words}");
    };
    expect("-o allowother /srv/data /mnt/data", 1, &["`allowother`", "`allow_other`"]);
    expect("-o sync /srv/data /mnt/data", 1, &["`durability=always`"]);
    expect("-o workers=many /srv/data /mnt/data", 1, &["workers=many", "from 3 to 64"]);
    expect("-o fence=magic /srv/data /mnt/data", 1, &["`fence=auto|log|backing`"]);
    expect("/srv/none /mnt/data", 1, &["/srv/none", "does not exist"]);
    expect("-o fence=log /tmp /mnt/data", 32, &["fence=log"]);
    // A machine that boots must come up: nofail is for the lines that say it.
    stage.good("mount -t lanefs -s -o allowother,ro /srv/data /mnt/data; umount /mnt/data");
    stage.good("mount -f -v -t lanefs /srv/data /mnt/data");
    assert!(stage.mounted("/mnt/data").is_none(), "-f mounts nothing");
    let said = stage.refused("/sbin/mount.lanefs /srv/data", 1);
    assert!(said.contains("<MOUNTPOINT>"), "{said}");
    stage.expect_no_daemon();
}

#[test]
fn umount_of_what_is_busy_dead_or_not_wanted_any_more() {
    let Some(stage) = Stage::new() else { return };
    let mount = "mount -t lanefs /srv/data /mnt/data";
    stage.good(&format!("{mount}; echo hello > /mnt/data/file"));
    let said = stage.refused("exec 3</mnt/data/file; umount /mnt/data", 32);
    assert!(said.contains("busy"), "{said}");
    // -r: at least nobody writes to it any more.
    let said = stage.machine.shell("exec 3</mnt/data/file; umount -r /mnt/data").expect_success();
    assert!(said.stderr.contains("read-only now"), "{}", said.describe());
    assert_eq!(stage.status("/mnt/data")["read_only"], true);
    // -l: at once, and the daemon goes with the last user.
    stage.good("exec 3</mnt/data/file; umount -l /mnt/data; cat <&3 | grep -q hello");
    assert!(stage.mounted("/mnt/data").is_none());
    stage.good("for i in $(seq 100); do pgrep -x lanefs || break; sleep 0.05; done");
    // -f: programs get errors.
    stage.good(mount);
    let cut = "cd /mnt/data; exec 3</mnt/data/file; umount -f /mnt/data; ! ls . 2>/dev/null";
    stage.good(cut);
    assert!(stage.mounted("/mnt/data").is_none());
    // A daemon that was killed.
    stage.good(mount);
    let pid = stage.status("/mnt/data")["pid"].clone();
    let killed = stage.machine.shell(&format!("kill -9 {pid}; sleep 0.2; umount /mnt/data"));
    let killed = killed.expect_success();
    assert!(killed.stderr.contains("had no daemon any more"), "{}", killed.describe());
    stage.good(&format!("{mount}; umount -v /mnt/data | grep -q unmounted"));
    stage.expect_no_daemon();
}
