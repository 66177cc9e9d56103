//! A real systemd runs what this repository installs.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::loopfs::LoopFs;
use tests::machine::{Init, Machine, units};
use tests::subject::is_bare;
use tests::{require, run, tools};

const DEADLINE: Duration = Duration::from_secs(30);

/// A machine with systemd, the units, and a backing directory on ext4 at /srv/data.
struct Stage {
    machine: Machine,
    _filesystem: LoopFs,
}

impl Stage {
    fn new() -> Option<Self> {
        if !require::mount_support() || is_bare() {
            return None;
        }
        tools::debian("systemd", "systemd-analyze");
        tools::debian("procps", "pgrep");
        tools::debian("python3", "python3");
        let filesystem = LoopFs::ext4(128);
        let machine = Machine::with_command(Init::Systemd, &[(filesystem.path(), "/srv")]);
        for unit in units() {
            let name = unit.file_name().expect("a name").to_string_lossy().into_owned();
            let there = machine.path(&format!("/usr/lib/systemd/system/{name}"));
            fs::copy(unit, there).expect("a copy");
        }
        machine.shell("mkdir /srv/data /etc/lanefs; systemctl daemon-reload").expect_success();
        Some(Self { machine, _filesystem: filesystem })
    }

    #[track_caller]
    fn good(&self, script: &str) -> String {
        self.machine.say(script)
    }

    #[track_caller]
    fn property(&self, unit: &str, name: &str) -> String {
        self.good(&format!("systemctl show --property {name} --value '{unit}'"))
    }

    #[track_caller]
    fn wait_until(&self, what: &str, script: &str) {
        let done = || self.machine.shell(script).status.success().then_some(());
        if run::poll(DEADLINE, done).is_none() {
            let state =
                self.machine.shell("systemctl status --no-pager 'lanefs@*'; cat /proc/mounts");
            panic!("waited too long until {what}: {}", state.describe());
        }
    }

    #[track_caller]
    fn status(&self, mount_point: &str) -> Value {
        serde_json::from_str(&self.good(&format!("lanefs status --json {mount_point}")))
            .expect("JSON")
    }
}

#[test]
fn the_units_are_in_order() {
    let Some(stage) = Stage::new() else { return };
    let verify = "systemd-analyze verify --man=no lanefs@data.service lanefs-volume-plugin.socket \
                  lanefs-volume-plugin.service";
    let said = stage.machine.shell(verify).expect_success();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""), "not clean");
}

#[test]
fn a_service_mounts_comes_back_and_ends() {
    let Some(stage) = Stage::new() else { return };
    // As an administrator would write it; the watchdog in test time.
    let lines = "BACKING=/srv/data\nMOUNTPOINT=/mnt/data\nOPTIONS=allow_other,dev,suid,fence=log\n";
    fs::write(stage.machine.path("/etc/lanefs/data.conf"), lines).expect("settings");
    stage.good(
        "mkdir /etc/systemd/system/lanefs@.service.d
         printf '[Service]\nWatchdogSec=3\n' > /etc/systemd/system/lanefs@.service.d/test.conf
         systemctl daemon-reload; systemctl start lanefs@data",
    );
    let unit = "lanefs@data.service";
    let mounted = "grep -q ' /mnt/data fuse.lanefs ' /proc/mounts && stat -f /mnt/data";
    // Seen by everybody, not only in the service.
    stage.good(mounted);
    let text = stage.property(unit, "StatusText");
    assert!(text.starts_with("/mnt/data from /srv/data, fence log"), "{text}");
    let status = stage.status("/mnt/data");
    for part in ["passthrough", "handles", "impersonation"] {
        assert_eq!(status[part], true, "{part} is lost by hardening");
    }
    assert_eq!(status["log"], "in use");
    let pid = stage.property(unit, "MainPID");
    let process = stage.good(&format!("grep -E '^(NoNewPrivs|Seccomp):' /proc/{pid}/status"));
    assert!(process.contains("NoNewPrivs:\t1") && process.contains("Seccomp:\t2"), "{process}");
    hardening_forbids_nothing_that_is_needed(&stage);

    // Reloaded: the program replaces itself, for systemd it is the same process; an open file stays.
    let reload = "exec 3>>/mnt/data/open; systemctl reload lanefs@data; echo more >&3";
    stage.good(&format!("{reload}; test $(cat /mnt/data/open) = more"));
    assert_eq!(stage.property(unit, "MainPID"), pid);
    assert_eq!(stage.status("/mnt/data")["restarts"], 1);
    let children = format!("pgrep --parent {pid} --count --runstates Z || true");
    assert_eq!(stage.good(&children), "0", "the process that asked is left over");

    // Killed: systemd clears the dead mount and starts it again.
    stage.good(&format!("kill -9 {pid}"));
    stage.wait_until("it is mounted again", &format!("systemctl is-active {unit} && {mounted}"));
    assert_eq!(stage.property(unit, "NRestarts"), "1");
    stage.good("test $(cat /mnt/data/file) = synced");
    // Standing still: the watchdog ends it.
    let pid = stage.property(unit, "MainPID");
    stage.good(&format!("kill -STOP {pid}"));
    let again =
        format!("test $(systemctl show -P NRestarts {unit}) = 2 && systemctl is-active {unit}");
    stage.wait_until("the watchdog has it started again", &again);
    stage.good(&format!("{mounted}; test $(cat /mnt/data/file) = synced"));

    stage.good("echo last > /mnt/data/last; systemctl stop lanefs@data");
    assert_eq!(stage.property(unit, "Result"), "success");
    stage.good("! grep -q fuse.lanefs /proc/mounts");
    assert_eq!(stage.good("cat /srv/data/last"), "last");
    let check = stage.good("lanefs check /srv/data");
    assert!(check.contains("is up to date"), "{check}");
}

/// What a mount has to do for its users, under the unit's restrictions.
fn hardening_forbids_nothing_that_is_needed(stage: &Stage) {
    stage.good(
        "cd /mnt/data
         echo synced > file; sync file
         mkdir dir; mv dir moved; ln file link; ln -s file symlink
         cp /bin/true suid; chmod 6755 suid; test -u suid
         chown nobody:nogroup moved
         setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c 'echo mine > moved/file'
         test $(stat -c %U moved/file) = nobody
         mknod device c 1 3; echo gone > device
         fallocate -l 1M big; truncate -s 0 big; rm big
         python3 - <<'P'
import os
os.setxattr('file', 'user.name', b'value')
os.setxattr('suid', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
P",
    );
}

/// Calls the plugin: path, JSON, what the answer must have.
const CALL: &str = r#"
import http.client, json, socket, sys
class Plugin(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect('/run/docker/plugins/lanefs.sock')
call = Plugin('plugin', timeout=60)
call.request('POST', '/' + sys.argv[1], sys.argv[2])
answer = call.getresponse().read().decode()
assert sys.argv[3] in answer, answer
"#;

#[test]
fn the_volume_plugin_is_started_by_its_socket_and_may_come_and_go() {
    let Some(stage) = Stage::new() else { return };
    fs::write(stage.machine.path("/call.py"), CALL).expect("a script");
    let call = |path: &str, body: &str, must: &str| {
        stage.good(&format!("python3 /call.py {path} '{body}' '{must}'"));
    };
    let driver = |name: &str, body: &str, must: &str| {
        call(&format!("VolumeDriver.{name}"), body, must);
    };
    let unit = "lanefs-volume-plugin.service";
    stage.good(
        "mkdir /srv/volumes; echo ROOT=/srv/volumes > /etc/default/lanefs-volume-plugin
         systemctl start lanefs-volume-plugin.socket",
    );
    assert_eq!(stage.property(unit, "ActiveState"), "inactive", "not before it is asked");
    call("Plugin.Activate", "", "VolumeDriver");
    assert_eq!(stage.property(unit, "ActiveState"), "active");
    driver("Create", r#"{"Name":"db","Opts":null}"#, r#""Err":"""#);
    driver("Mount", r#"{"Name":"db","ID":"one"}"#, "Mountpoint");
    let at = stage.good("awk '$3 == \"fuse.lanefs\" { print $2 }' /proc/mounts");
    stage.good(&format!("echo kept > {at}/file; sync {at}/file"));
    // The mounts are another process's: KillMode=process.
    stage.good(&format!("systemctl restart {unit}; test $(cat {at}/file) = kept"));
    driver("Get", r#"{"Name":"db"}"#, &at);
    stage.good(&format!("systemctl kill --kill-who=main --signal=KILL {unit}"));
    stage.wait_until("the plugin is there again", &format!("systemctl is-active {unit}"));
    stage.good(&format!("test $(cat {at}/file) = kept"));
    driver("Unmount", r#"{"Name":"db","ID":"one"}"#, r#""Err":"""#);
    stage.good(&format!("systemctl stop {unit} lanefs-volume-plugin.socket"));
    stage.wait_until("nothing is mounted", "! grep -q fuse.lanefs /proc/mounts");
    stage.wait_until("no process is left", "! pgrep -x lanefs");
    stage.good("grep -rq kept /srv/volumes");
}

#[test]
fn a_line_of_fstab_is_a_mount_unit() {
    let Some(stage) = Stage::new() else { return };
    stage.good(
        "lanefs mount /srv/data /mnt --print-fstab -o allow_other,nofail,nonempty >> /etc/fstab
         systemctl daemon-reload; systemctl start mnt.mount; echo hello > /mnt/file",
    );
    // Mounted by mount(8), so the daemon lives in the unit, which needs the backing filesystem.
    assert_eq!(stage.property("mnt.mount", "ActiveState"), "active");
    let needs = stage.property("mnt.mount", "RequiresMountsFor");
    assert!(needs.contains("/srv/data"), "{needs}");
    stage.good("systemctl stop mnt.mount; ! grep -q fuse.lanefs /proc/mounts; ! pgrep -x lanefs");
    let check = stage.good("lanefs check /srv/data");
    assert!(check.contains("is up to date"), "{check}");
}

/// The trap: whoever looks at the mount point while systemd has it mounted waits for the mount that
/// he was to make.
#[test]
fn an_automount_mounts_when_it_is_entered() {
    let Some(stage) = Stage::new() else { return };
    stage.good(
        "echo hello > /srv/data/file; mkdir /mnt/auto
         lanefs mount /srv/data /mnt/auto --print-fstab -o noauto,x-systemd.automount >> /etc/fstab
         systemctl daemon-reload; systemctl start mnt-auto.automount
         grep -q ' /mnt/auto autofs ' /proc/mounts; ! grep -q fuse.lanefs /proc/mounts",
    );
    assert_eq!(stage.good("timeout 30 cat /mnt/auto/file"), "hello");
    stage.good("grep -q ' /mnt/auto fuse.lanefs ' /proc/mounts; systemctl stop mnt-auto.mount");
    assert_eq!(stage.good("timeout 30 cat /mnt/auto/file"), "hello");
    stage.good("systemctl stop mnt-auto.automount mnt-auto.mount; ! grep fuse.lanefs /proc/mounts");
}
