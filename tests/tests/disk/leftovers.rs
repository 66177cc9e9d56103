//! Nothing remains.

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::disk::{DiskOptions, Image};
use tests::scratch::{self, Scratch};
use tests::{leftovers, run};

use super::{DEADLINE, beside_others, disk, make_ext4};

// The file below a loop device, while it has one: its name tells whose it is.
fn backing(device: &Path) -> Option<String> {
    let name = device.file_name().expect("a device").to_string_lossy().into_owned();
    fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

fn is_of(device: &Path, process: u32) -> bool {
    let name = format!("{}disk-{process}-", scratch::PREFIX);
    backing(device).is_some_and(|file| file.contains(&name))
}

#[test]
fn nothing_is_left_after_success_and_panic() {
    let Some(_turn) = beside_others() else { return };
    for panics in [false, true] {
        let seen = Mutex::new(None);
        let use_disk = || {
            let disk = disk(DiskOptions::new(64));
            let file = backing(disk.path()).expect("a file below the loop device");
            *seen.lock().expect("ours alone") = Some((disk.path().to_path_buf(), file));
            make_ext4(&disk);
            let mount = disk.mount("ext4", "").expect("a mount");
            fs::write(mount.path().join("file"), [1; 100_000]).expect("a file");
            assert!(!panics, "on purpose, in the middle of everything");
        };
        assert_eq!(catch_unwind(AssertUnwindSafe(use_disk)).is_err(), panics);
        let (device, file) = seen.into_inner().expect("ours alone").expect("a disk was made");
        assert_ne!(backing(&device), Some(file), "{} remains", device.display());
    }
}

#[test]
fn a_mount_with_a_path_is_taken_down_too() {
    let Some(_turn) = beside_others() else { return };
    let place = Scratch::new(1);
    let mount_point = place.subdirectory("fs");
    let mut disk = disk(DiskOptions::new(64));
    make_ext4(&disk);
    let mount = disk.mount_at(&mount_point, "ext4", "").expect("a mount");
    assert!(leftovers::is_mounted(&mount_point));
    drop(mount);
    assert_eq!(leftovers::below(place.path()), [""; 0]);
    disk.load(Image::empty(64 << 20)).expect("a disk that nobody uses");
    let error = disk.mount("ext4", "").err().expect("nothing to mount").to_string();
    assert!(error.contains("mount ext4 on /dev/loop"), "{error}");
}

/// A process that is killed at the latest when the test ends.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// Threads of the victim wait for the disk that its other threads serve: without a descriptor table
// of their own neither could end.
#[test]
fn nothing_is_left_after_a_kill() {
    let Some(_turn) = beside_others() else { return };
    for signal in ["KILL", "INT"] {
        let output = tempfile::NamedTempFile::new().expect("a file");
        let mut victim = Command::new(std::env::current_exe().expect("this program"));
        victim.args(["--exact", "leftovers::victim", "--ignored", "--nocapture"]);
        victim.env("LANEFS_TEST_DEVICE_FILE", output.path());
        let mut victim = Victim(victim.stdout(Stdio::null()).spawn().expect("a process"));
        let number = victim.0.id();
        let device = run::poll(DEADLINE, || {
            let text = fs::read_to_string(output.path()).ok()?;
            text.strip_suffix('\n').map(std::path::PathBuf::from)
        });
        let device = device.expect("a busy disk");
        std::thread::sleep(Duration::from_millis(200));
        assert!(is_of(&device, number));
        let kill = format!("kill -{signal} {number}");
        run::script(Path::new("/"), &kill, &[""; 0], DEADLINE).expect_success();
        let ended = run::poll(DEADLINE, || victim.0.try_wait().expect("a child"));
        assert!(ended.is_some(), "the process does not end after SIG{signal}");
        let gone = run::poll(DEADLINE, || (!is_of(&device, number)).then_some(()));
        assert!(gone.is_some(), "{} remains after SIG{signal}", device.display());
    }
}

#[test]
#[ignore = "started and killed by nothing_is_left_after_a_kill"]
fn victim() {
    let disk = disk(DiskOptions::new(64).flush_time(Duration::from_millis(5)));
    make_ext4(&disk);
    let mount = disk.mount("ext4", "").expect("a mount");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = mount.path().join(number.to_string());
            scope.spawn(move || {
                let mut file = fs::File::create(path).expect("a file");
                // In case that nobody comes to kill us.
                let end = Instant::now() + DEADLINE;
                while Instant::now() < end {
                    file.write_all(&[1; 100]).and_then(|()| file.sync_data()).expect("a sync");
                }
            });
        }
        let path = std::env::var_os("LANEFS_TEST_DEVICE_FILE").expect("where to write");
        fs::write(path, format!("{}\n", disk.path().display())).expect("the device's name");
    });
}
