//! The nine calls.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::{binary, leftovers, require, run};

use crate::plugin::{Plugin, READY_DEADLINE};

const NO_OPTIONS: Value = Value::Null;

#[test]
fn a_volume_from_its_creation_to_its_removal() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    let activated = plugin.call("/Plugin.Activate", &json!({})).expect_success();
    assert_eq!(activated["Implements"], json!(["VolumeDriver"]));
    let capabilities = plugin.call("/VolumeDriver.Capabilities", &json!({})).expect_success();
    assert_eq!(capabilities["Capabilities"]["Scope"], "local");

    plugin.get("db").expect_failure("no such volume");
    plugin.create("db", &NO_OPTIONS).expect_success();
    plugin.create("db", &json!({})).expect_success();
    assert_eq!(plugin.names(), ["db"]);
    assert!(!plugin.is_mounted("db"));

    let mounted = plugin.mount("db", "one").expect_success();
    assert_eq!(mounted["Mountpoint"], json!(plugin.mount_point("db")));
    // Docker repeats calls, and Podman has one id for all containers.
    plugin.mount("db", "one").expect_success();
    plugin.mount("db", "two").expect_success();
    fs::write(plugin.mount_point("db").join("file"), "content").expect("a file");
    assert_eq!(fs::read_to_string(plugin.files("db").join("file")).expect("it"), "content");

    let volume = plugin.get("db").expect_success()["Volume"].clone();
    assert_eq!(volume["Status"]["users"], 2);
    assert_eq!(volume["Status"]["mounted"], true);
    assert!(volume["Status"]["requests"]["create"].as_u64() >= Some(1), "{volume}");
    assert!(volume["Status"]["engine"]["lanes"].is_object(), "{volume}");
    let created = volume["CreatedAt"].as_str().expect("a time");
    assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
    let path = plugin.call("/VolumeDriver.Path", &json!({ "Name": "db" })).expect_success();
    assert_eq!(path["Mountpoint"], json!(plugin.mount_point("db")));

    plugin.remove("db").expect_failure("in use");
    plugin.unmount("db", "one").expect_success();
    assert!(plugin.is_mounted("db"));
    plugin.unmount("db", "somebody else").expect_success();
    assert!(plugin.is_mounted("db"));
    plugin.unmount("db", "two").expect_success();
    plugin.unmount("db", "two").expect_success();
    assert!(!leftovers::is_mounted(&plugin.mount_point("db")));
    plugin.remove("db").expect_success();
    plugin.remove("db").expect_failure("no such volume");
    assert!(plugin.names().is_empty());
    assert!(!plugin.mount_point("db").exists());
    // The files stay, and the next volume of that name has them.
    plugin.create("db", &NO_OPTIONS).expect_success();
    plugin.mount("db", "three").expect_success();
    assert_eq!(fs::read_to_string(plugin.mount_point("db").join("file")).expect("it"), "content");
}

#[test]
fn requests_as_engines_write_them_and_as_nobody_should() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    let send = |request: &str| plugin.send(request).expect("an answer");
    let close = "Connection: close\r\n";
    // Podman: no body, another media type. Docker: chunked now and then.
    let podman = "Content-Type: application/vnd.docker.plugins.v1.1+json\r\n";
    let list = format!("POST /VolumeDriver.List HTTP/1.1\r\nHost: plugin\r\n{podman}{close}\r\n");
    assert_eq!(send(&list).expect_success()["Volumes"], json!([]));
    let body = r#"{"Name":"v","Opts":{}}"#;
    let chunked = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{close}\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    send(&chunked).expect_success();
    assert_eq!(plugin.names(), ["v"]);
    plugin.try_call("/VolumeDriver.List", Some(" ")).expect("an answer").expect_success();
    let broken = plugin.try_call("/VolumeDriver.Create", Some("{\"Name\":")).expect("an answer");
    broken.expect_failure("no JSON");
    let unknown = plugin.call("/VolumeDriver.Snapshot", &json!({}));
    assert_eq!((unknown.status, unknown.error()), (404, "no such call: /VolumeDriver.Snapshot"));
    let long = format!("{{\"Name\":\"{}\"}}", "x".repeat(2 << 20));
    // It may close before it has read all of that.
    if let Ok(answer) = plugin.try_call("/VolumeDriver.Create", Some(&long)) {
        answer.expect_failure("cannot be read");
    }
    for name in ["", "..", ".lanefs", "a/b", "../volumes.json", "-rf"] {
        plugin.create(name, &NO_OPTIONS).expect_failure("volume name");
    }
    plugin.mount("w", "one").expect_failure("no such volume");
    plugin.unmount("w", "one").expect_failure("no such volume");
}

#[test]
fn options_of_a_volume() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    let mail = plugin.scratch().join("mail");
    fs::create_dir(&mail).expect("mkdir");
    fs::write(mail.join("old"), "there before").expect("a file");
    let owned = json!({ "uid": "1234", "gid": "4321", "mode": "2750" });
    plugin.create("owned", &owned).expect_success();
    plugin.create("owned", &owned).expect_success();
    plugin.create("owned", &json!({ "uid": "1" })).expect_failure("other options");
    plugin.mount("owned", "one").expect_success();
    let stat = fs::metadata(plugin.mount_point("owned")).expect("the root");
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (1234, 4321, 0o2750));

    plugin.create("mail", &json!({ "source": mail, "durability": "close" })).expect_success();
    plugin.mount("mail", "one").expect_success();
    let old = fs::read_to_string(plugin.mount_point("mail").join("old")).expect("it");
    assert_eq!(old, "there before");
    let status = plugin.get("mail").expect_success()["Volume"]["Status"].clone();
    assert_eq!(status["durability"]["mode"], "close", "{status}");
    assert_eq!(status["source"], json!(mail.canonicalize().expect("it")));

    plugin.create("frozen", &json!({ "ro": "" })).expect_success();
    fs::write(plugin.files("frozen").join("f"), "x").expect("a file");
    plugin.mount("frozen", "one").expect_success();
    let refused = fs::write(plugin.mount_point("frozen").join("g"), "x").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read_to_string(plugin.mount_point("frozen").join("f")).expect("it"), "x");

    // Mistakes, each with what would be right, and nothing is left of them.
    let inner = mail.join("inner");
    fs::create_dir(&inner).expect("mkdir");
    std::os::unix::fs::symlink(&mail, plugin.scratch().join("link")).expect("a link");
    let link = plugin.scratch().join("link/inner");
    for (options, part) in [
        (json!({ "sauce": "/x" }), "unknown volume option `sauce`"),
        (json!({ "source": inner }), "volume mail"),
        (json!({ "source": link }), "volume mail"),
        (json!({ "source": plugin.scratch() }), "two volumes cannot share files"),
        (json!({ "source": plugin.root().join("volumes") }), "two volumes cannot share files"),
        (json!({ "source": plugin.scratch().join("nowhere") }), "mkdir -p"),
        (json!({ "source": mail.join("old") }), "not a directory"),
        (json!({ "source": "/proc" }), "another filesystem"),
        (json!({ "durability": "sometimes" }), "durability"),
    ] {
        plugin.create("wrong", &options).expect_failure(part);
    }
    assert_eq!(plugin.names(), ["frozen", "mail", "owned"]);
    assert!(!plugin.files("wrong").exists());
    plugin.unmount("mail", "one").expect_success();
    plugin.remove("mail").expect_success();
    assert!(mail.join("old").exists(), "what lanefs has not made is not removed");
}

#[test]
fn a_size_is_refused_where_no_quotas_are_kept() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    let answer = plugin.create("small", &json!({ "size": "10M" }));
    if answer.status == 200 {
        // This filesystem keeps project quotas: then the limit is in force.
        plugin.mount("small", "one").expect_success();
        let full = fs::write(plugin.mount_point("small").join("f"), vec![1; 11 << 20]);
        assert!(full.is_err());
        return;
    }
    answer.expect_failure("project quotas");
    assert!(plugin.names().is_empty() && !plugin.files("small").exists());
}

#[test]
fn purge_removes_files_and_nothing_else() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    let precious = plugin.scratch().join("precious");
    fs::write(&precious, "kept").expect("a file");
    plugin.create("gone", &json!({ "purge": "true" })).expect_success();
    plugin.mount("gone", "one").expect_success();
    let inside = plugin.mount_point("gone");
    fs::create_dir_all(inside.join("a/b/c")).expect("mkdir");
    fs::write(inside.join("a/b/c/f"), "x").expect("a file");
    std::os::unix::fs::symlink(plugin.scratch(), inside.join("a/link")).expect("a link");
    plugin.remove("gone").expect_failure("in use");
    plugin.unmount("gone", "one").expect_success();

    // Something stuck in the way: nothing is removed.
    let stuck = plugin.files("gone").join("a/b");
    let bind = ["--bind", &*plugin.scratch().to_string_lossy(), &*stuck.to_string_lossy()];
    run::run(Command::new("mount").args(bind), READY_DEADLINE).expect_success();
    plugin.remove("gone").expect_failure("unmount it");
    run::run(Command::new("umount").arg(&stuck), READY_DEADLINE).expect_success();
    assert_eq!(plugin.names(), ["gone"]);
    assert!(stuck.join("c/f").exists());

    plugin.remove("gone").expect_success();
    assert!(!plugin.files("gone").exists());
    let left = fs::read_dir(plugin.root().join("removed")).expect("a directory").count();
    assert_eq!((left, &*fs::read_to_string(&precious).expect("it")), (0, "kept"));
    let contradiction = json!({ "purge": "true", "source": plugin.scratch() });
    plugin.create("wrong", &contradiction).expect_failure("by hand");
}

#[test]
fn volumes_are_mounts_like_others_for_people() {
    if !require::mount_support() {
        return;
    }
    let plugin = Plugin::new();
    plugin.create("a", &NO_OPTIONS).expect_success();
    plugin.mount("a", "one").expect_success();
    let lanefs = |words: &[&str], path: &Path| {
        run::run(Command::new(binary::lanefs()).args(words).arg(path), READY_DEADLINE)
    };
    let status = lanefs(&["status", "--json"], &plugin.mount_point("a")).expect_success();
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status["pid"], json!(plugin.engine_pid()));
    let refused = lanefs(&["umount"], &plugin.mount_point("a"));
    assert!(refused.stderr.contains("container volume a"), "{}", refused.describe());
    assert!(plugin.is_mounted("a"));
    // Other users may enter, as with a directory of the host.
    let metadata = fs::metadata(plugin.mount_point("a")).expect("the root");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let line =
        table.lines().find(|line| line.contains(&*plugin.mount_point("a").to_string_lossy()));
    assert!(line.is_some_and(|line| line.contains("allow_other")), "{line:?}");

    // One plugin for a root, one for a socket, and mistakes in one line.
    let try_plugin = |words: &[&str], root: &Path| {
        let mut command = Command::new(binary::lanefs());
        run::run(command.arg("volume-plugin").args(words).arg("--root").arg(root), READY_DEADLINE)
    };
    let second_socket = plugin.scratch().join("second.sock");
    let second_socket = second_socket.to_string_lossy();
    let outcome = try_plugin(&["--socket", &second_socket], plugin.root());
    assert!(outcome.stderr.contains("another volume plugin serves"), "{}", outcome.describe());
    let socket = plugin.socket().to_string_lossy();
    let outcome = try_plugin(&["--socket", &socket], plugin.scratch());
    assert!(outcome.stderr.contains("answers at"), "{}", outcome.describe());
    let outcome = try_plugin(&["--socket", &second_socket], &plugin.scratch().join("nowhere"));
    assert!(outcome.stderr.contains("mkdir -p"), "{}", outcome.describe());
    assert_eq!(outcome.status.code(), Some(2));
    let outcome = try_plugin(&["-o", "transport=ring"], plugin.scratch());
    assert!(outcome.stderr.contains("leave it out"), "{}", outcome.describe());
}
