//! Plugin and engine killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::random::Random;
use tests::{leftovers, require, run};

use crate::plugin::{Plugin, READY_DEADLINE, signal};

/// How long a user that the kernel does not know counts; see the driver.
const USER_AGE: Duration = Duration::from_secs(15);

#[test]
fn containers_do_not_notice_that_the_plugin_is_killed() {
    if !require::mount_support() {
        return;
    }
    let mut plugin = Plugin::new();
    plugin.create("a", &Value::Null).expect_success();
    plugin.mount("a", "one").expect_success();
    let engine = plugin.engine_pid().expect("an engine");
    let mut file = File::create(plugin.mount_point("a").join("f")).expect("a file");
    plugin.kill();
    file.write_all(b"written while there is no plugin").expect("a write");
    file.sync_all().expect("a sync");
    plugin.start();
    assert_eq!(plugin.engine_pid(), Some(engine));
    file.write_all(b", and after").expect("a write");
    file.sync_all().expect("a sync");
    assert_eq!(plugin.get("a").expect_success()["Volume"]["Status"]["users"], 1);

    // An orderly end leaves what is in use, too; the last user's unmount lets the engine end.
    plugin.terminate();
    assert!(plugin.is_mounted("a") && plugin.engine_pid() == Some(engine));
    plugin.start();
    drop(file);
    plugin.unmount("a", "one").expect_success();
    plugin.terminate();
    plugin.wait_for_end_of(engine);
    let text = fs::read_to_string(plugin.files("a").join("f")).expect("it");
    assert_eq!(text, "written while there is no plugin, and after");
    plugin.start();
    assert_eq!(plugin.names(), ["a"]);
}

#[test]
fn after_the_engine_is_killed_volumes_come_back_and_open_files_say_what_happened() {
    if !require::mount_support() {
        return;
    }
    let mut plugin = Plugin::new();
    for name in ["a", "b", "idle"] {
        plugin.create(name, &Value::Null).expect_success();
    }
    plugin.mount("a", "one").expect_success();
    plugin.mount("b", "two").expect_success();
    let path = plugin.mount_point("a").join("f");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"durable").expect("a write");
    file.sync_all().expect("a sync");
    let first = plugin.engine_pid().expect("an engine");
    for both in [false, true] {
        if both {
            plugin.kill();
        }
        plugin.kill_engine();
        if both {
            plugin.start();
        }
        plugin.wait_until_mounted("a");
        plugin.wait_until_mounted("b");
        assert!(!plugin.is_mounted("idle"));
        assert_ne!(plugin.engine_pid(), Some(first));
        // A write may go to the backing file still, by passthrough; a sync cannot.
        let error = file.sync_all().expect_err("a dead mount");
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "{error}");
        file = File::options().append(true).open(&path).expect("it is back");
        file.write_all(b".").expect("a write");
        file.sync_all().expect("a sync");
    }
    assert_eq!(fs::read_to_string(&path).expect("it"), "durable..");
    drop(file);
    plugin.unmount("a", "one").expect_success();
    plugin.unmount("b", "two").expect_success();
    assert!(leftovers::mounts_below(&plugin.root().join("mounts")).is_empty());
    for name in ["a", "b", "idle"] {
        plugin.remove(name).expect_success();
    }
}

#[test]
fn users_that_are_gone_do_not_keep_a_volume_and_users_that_are_there_do() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    plugin.create("left", &Value::Null).expect_success();
    plugin.create("used", &Value::Null).expect_success();
    plugin.mount("left", "a container that nobody remembers").expect_success();
    plugin.mount("used", "one").expect_success();
    let mounted = Instant::now();
    let container = Container::start(&plugin, "used");
    plugin.remove("left").expect_failure("a moment ago");
    thread::sleep((USER_AGE + Duration::from_secs(1)).saturating_sub(mounted.elapsed()));
    plugin.remove("used").expect_failure("has it mounted at");
    let open = File::open(plugin.mount_point("left")).expect("a directory");
    plugin.remove("left").expect_failure("files open");
    drop(open);
    plugin.remove("left").expect_success();
    assert!(!plugin.mount_point("left").exists());

    // Unmounted by its engine while a namespace still has it: who has it keeps it, and the volume
    // can be mounted anew.
    plugin.unmount("used", "one").expect_success();
    assert!(!leftovers::is_mounted(&plugin.mount_point("used")));
    assert!(container.can_write("still"), "{}", plugin.messages());
    plugin.mount("used", "two").expect_success();
    assert!(plugin.mount_point("used").join("still").exists());
    drop(container);
    plugin.unmount("used", "two").expect_success();
    plugin.remove("used").expect_success();
}

/// A process with a mount namespace of its own, where a volume lies somewhere else.
struct Container {
    child: Child,
    place: std::path::PathBuf,
}

impl Container {
    fn start(plugin: &Plugin, name: &str) -> Self {
        let place = plugin.scratch().join("in-container");
        fs::create_dir(&place).expect("mkdir");
        let ready = plugin.scratch().join("ready");
        let script =
            "mount --bind \"$1\" \"$2\" && umount \"$1\" && touch \"$3\" && exec sleep 300";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(plugin.mount_point(name)).arg(&place).arg(&ready).stdin(Stdio::null());
        let child = command.spawn().expect("unshare");
        let ready = run::poll(READY_DEADLINE, || ready.exists().then_some(()));
        assert!(ready.is_some(), "the namespace is not ready");
        Container { child, place }
    }

    fn can_write(&self, name: &str) -> bool {
        let pid = self.child.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "touch"]).arg(self.place.join(name));
        run::run(&mut command, READY_DEADLINE).status.success()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What has been acknowledged of a volume.
#[derive(Default, Debug)]
struct Acknowledged {
    exists: bool,
    users: BTreeSet<String>,
    files: BTreeSet<String>,
}

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    if !require::mount_support() {
        return;
    }
    const ROUNDS: usize = 14;
    let mut plugin = Plugin::new();
    let mut random = Random::new(8);
    let mut volumes: BTreeMap<String, Acknowledged> = BTreeMap::new();
    for round in 0..ROUNDS {
        let victim = round % 3;
        let delay = Duration::from_millis(random.below(60) as u64);
        // None if it was killed when nothing was mounted: the next one starts with the next mount.
        let (plugin_pid, engine_pid) = (plugin.pid(), plugin.engine_pid());
        let cut = thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(delay);
                if victim != 1 {
                    signal(plugin_pid, Signal::KILL);
                }
                if let Some(engine_pid) = engine_pid.filter(|_| victim != 0) {
                    signal(engine_pid, Signal::KILL);
                }
            });
            let deadline = Instant::now() + delay + Duration::from_millis(20);
            let mut cut = None;
            while Instant::now() < deadline && cut.is_none() {
                cut = step(&plugin, &mut random, &mut volumes);
            }
            cut
        });
        if victim != 1 {
            plugin.reap();
            plugin.start();
        }
        check(&plugin, &mut volumes, cut.as_deref());
    }
    // Nobody is left in use.
    for (name, volume) in &volumes {
        for user in &volume.users {
            plugin.unmount(name, user).expect_success();
        }
        if volume.exists {
            let removed = || Some(plugin.remove(name)).filter(|done| done.status == 200);
            let removed = run::poll(USER_AGE + READY_DEADLINE, removed);
            removed.expect("it is not in use").expect_success();
        }
    }
    assert!(leftovers::mounts_below(&plugin.root().join("mounts")).is_empty());
    assert!(plugin.names().is_empty());
    for (name, volume) in &volumes {
        for file in &volume.files {
            assert!(plugin.files(name).join(file).exists(), "{name}/{file} is lost");
        }
    }
}

/// One call of a random kind; the name of the volume if it was cut off.
fn step(
    plugin: &Plugin,
    random: &mut Random,
    volumes: &mut BTreeMap<String, Acknowledged>,
) -> Option<String> {
    let name = format!("v{}", random.below(3));
    let id = format!("id{}", random.below(2));
    let volume = volumes.entry(name.clone()).or_default();
    let kind = random.below(6);
    let (call, body) = match kind {
        0 => ("Create", json!({ "Name": name })),
        1 if volume.users.is_empty() => ("Remove", json!({ "Name": name })),
        1 | 2 => ("Mount", json!({ "Name": name, "ID": id })),
        3 => ("Unmount", json!({ "Name": name, "ID": id })),
        _ => {
            // A container that writes. After a kill it may see a dead mount, or none.
            let file = format!("f{}", volume.files.len());
            if !volume.users.is_empty() && write_in(&plugin.mount_point(&name), &file).is_ok() {
                volume.files.insert(file);
            }
            return None;
        }
    };
    let path = format!("/VolumeDriver.{call}");
    let Ok(answer) = plugin.try_call(&path, Some(&body.to_string())) else { return Some(name) };
    let done = answer.status == 200;
    match call {
        "Create" if done => volume.exists = true,
        "Remove" if done => volume.exists = false,
        "Mount" if done => drop(volume.users.insert(id)),
        "Unmount" if done => drop(volume.users.remove(&id)),
        // Said no, with a reason: no such volume, in use, or the engine died over it.
        _ => assert!(!answer.error().is_empty()),
    }
    None
}

/// Makes a file in the mount that is at `place` now, if one is, and nowhere else.
fn write_in(place: &Path, name: &str) -> std::io::Result<()> {
    const FUSE_MAGIC: u64 = 0x6573_5546;
    let root = File::open(place)?;
    if rustix::fs::fstatfs(&root)?.f_type as u64 != FUSE_MAGIC {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, name, flags, Mode::from(0o644))?;
    Ok(rustix::fs::fsync(&file)?)
}

/// What was acknowledged is there; what was cut off is taken over as it is, after a repetition.
fn check(plugin: &Plugin, volumes: &mut BTreeMap<String, Acknowledged>, cut: Option<&str>) {
    let names = plugin.names();
    for (name, volume) in volumes {
        if cut == Some(name) {
            volume.exists = names.contains(name);
            let ids: BTreeSet<String> = ["id0", "id1"].map(str::to_owned).into();
            for id in &ids {
                // As an engine does that does not know whether its call came through.
                if volume.exists && !volume.users.contains(id) {
                    plugin.unmount(name, id).expect_success();
                }
            }
            if !volume.exists {
                volume.users.clear();
            }
        }
        assert_eq!(volume.exists, names.contains(name), "{name}: {}", plugin.messages());
        if !volume.exists {
            continue;
        }
        for user in &volume.users {
            // Repeated, it changes nothing.
            plugin.mount(name, user).expect_success();
        }
        if !volume.users.is_empty() {
            plugin.wait_until_mounted(name);
        }
        let users = plugin.get(name).expect_success()["Volume"]["Status"]["users"].clone();
        assert_eq!(users, volume.users.len(), "{name}: {}", plugin.messages());
        for file in &volume.files {
            assert!(plugin.files(name).join(file).exists(), "{name}/{file} is lost");
        }
    }
}
