//! Attributes: times, extended attributes, access control lists, the filesystem's own numbers.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, getxattr, lgetxattr,
    listxattr, lremovexattr, lsetxattr, removexattr, setxattr, statvfs, utimensat,
};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tests::run;

use crate::transcript::{Transcript, same_on_both};

fn times(access: (i64, i64), modification: (i64, i64)) -> Timestamps {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time(access), last_modification: time(modification) }
}

#[test]
fn times_from_1901_to_2446() {
    same_on_both(|directory, transcript| {
        let path = directory.join("file");
        fs::write(&path, "x").expect("a file");
        let seen = || {
            let metadata = fs::metadata(&path).expect("stat");
            (metadata.atime(), metadata.atime_nsec(), metadata.mtime(), metadata.mtime_nsec())
        };
        let seconds = [
            0,
            1,
            -1,
            -86_400,
            -(1 << 31),
            -(1 << 31) - 1,
            -(1 << 40),
            1 << 31,
            (1 << 32) - 1,
            1 << 32,
            4_294_967_296 + 5,
            15_032_385_535,
            15_032_385_536,
            1 << 40,
        ];
        for second in seconds {
            let result =
                utimensat(CWD, &path, &times((second, 999_999_999), (second, 1)), AtFlags::empty());
            transcript.call(&format!("set {second}"), result);
            transcript.note(&format!("set {second}"), seen());
        }
        let set = |access: i64, modification: i64| {
            utimensat(CWD, &path, &times((77, access), (88, modification)), AtFlags::empty())
        };
        transcript.call("both", set(5, 6));
        transcript.note("both", seen());
        transcript.call("omit access", set(UTIME_OMIT, 7));
        transcript.note("omit access", seen());
        transcript.call("omit modification", set(8, UTIME_OMIT));
        transcript.note("omit modification", seen());
        transcript.call("omit both", set(UTIME_OMIT, UTIME_OMIT));
        transcript.note("omit both", seen());
        transcript.call("wrong", set(1_000_000_000, 0));
        transcript.call("now", set(UTIME_NOW, 9));
        transcript.note("now", (is_now(seen().0), seen().2, seen().3));
        transcript.call("now", set(UTIME_OMIT, UTIME_NOW));
        transcript.note("now", is_now(seen().2));
        on_a_symlink(directory, transcript);
        changes_show(&path, transcript);
    });
}

fn is_now(second: i64) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    now.as_secs().abs_diff(u64::try_from(second).unwrap_or_default()) < 60
}

fn on_a_symlink(directory: &Path, transcript: &mut Transcript) {
    let link = directory.join("link");
    std::os::unix::fs::symlink("file", &link).expect("a symlink");
    let result = utimensat(CWD, &link, &times((1, 2), (3, 4)), AtFlags::SYMLINK_NOFOLLOW);
    transcript.call("symlink", result);
    let metadata = fs::symlink_metadata(&link).expect("stat");
    transcript.note("symlink", (metadata.mtime(), metadata.mtime_nsec()));
}

// Waits for the clock that timestamps are taken from: it moves every few milliseconds.
fn tick() {
    let now = || {
        let time = clock_gettime(ClockId::RealtimeCoarse);
        (time.tv_sec, time.tv_nsec)
    };
    let start = now();
    run::poll(Duration::from_secs(5), || (now() != start).then_some(()))
        .expect("a clock that runs");
}

// Which operations touch which time.
fn changes_show(path: &Path, transcript: &mut Transcript) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut watch = |step: &str, action: &dyn Fn()| {
        let file = File::options().write(true).open(path).expect("open");
        file.set_times(fs::FileTimes::new().set_modified(old)).expect("utimens");
        drop(file);
        let before = fs::metadata(path).expect("stat");
        action();
        let after = fs::metadata(path).expect("stat");
        let changed = (after.ctime(), after.ctime_nsec()) != (before.ctime(), before.ctime_nsec());
        transcript.note(step, (before.mtime(), after.mtime() != before.mtime(), changed));
    };
    watch("write", &|| {
        tick();
        fs::write(path, "longer").expect("write");
    });
    watch("truncate to the same", &|| {
        tick();
        File::options().write(true).open(path).expect("open").set_len(6).expect("truncate");
    });
    watch("read", &|| drop(fs::read(path).expect("read")));
    watch("chmod", &|| {
        tick();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("chmod");
    });
    watch("link", &|| {
        tick();
        fs::hard_link(path, path.with_extension("link")).expect("link");
    });
    watch("rename", &|| {
        tick();
        fs::rename(path, path.with_extension("away")).expect("rename");
        fs::rename(path.with_extension("away"), path).expect("rename");
    });
    watch("xattr", &|| {
        tick();
        setxattr(path, c"user.x", b"1", XattrFlags::empty()).expect("setxattr");
    });
}

#[test]
fn extended_attributes() {
    same_on_both(|directory, transcript| {
        let path = directory.join("file");
        fs::write(&path, "x").expect("a file");
        fs::create_dir(directory.join("d")).expect("a directory");
        std::os::unix::fs::symlink("file", directory.join("link")).expect("a symlink");
        let get = |name: &str| {
            let mut value = Vec::with_capacity(70_000);
            getxattr(&path, name, rustix::buffer::spare_capacity(&mut value))?;
            Ok::<_, Errno>((value.len(), value.into_iter().take(8).collect::<Vec<u8>>()))
        };
        let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
        let none = XattrFlags::empty();
        transcript.call("missing", get("user.a"));
        transcript.call("remove missing", removexattr(&path, "user.a"));
        transcript.call("empty", set("user.empty", b"", none));
        transcript.value("empty", get("user.empty"));
        transcript.call("create", set("user.a", b"1", XattrFlags::CREATE));
        transcript.call("create again", set("user.a", b"2", XattrFlags::CREATE));
        transcript.call("replace", set("user.a", b"3", XattrFlags::REPLACE));
        transcript.call("replace missing", set("user.b", b"3", XattrFlags::REPLACE));
        transcript.value("get", get("user.a"));
        // One block is ext4's limit; 64 KiB that of the kernel.
        for size in [1000, 3000, 4000, 5000, 65_536, 65_537] {
            transcript.call(&format!("set {size}"), set("user.big", &vec![7; size], none));
            transcript.value(&format!("get {size}"), get("user.big"));
        }
        let mut small = [0_u8; 1];
        transcript.call("short buffer", getxattr(&path, "user.empty", &mut small[..]));
        let mut small = [0_u8; 3];
        transcript.call("list in a short buffer", listxattr(&path, &mut small[..]));
        for name in ["user.", "", "plain", "unknown.x", "trusted.t", "security.s", "system.x"] {
            transcript.call(&format!("set {name}"), set(name, b"v", none));
            transcript.value(&format!("get {name}"), get(name));
        }
        transcript.call("long name", set(&format!("user.{}", "n".repeat(250)), b"v", none));
        transcript.call("too long", set(&format!("user.{}", "n".repeat(251)), b"v", none));
        transcript.note("list", list(&path));
        transcript.call("remove", removexattr(&path, "user.a"));
        transcript.call("remove again", removexattr(&path, "user.a"));
        transcript.note("list", list(&path));
        let link = directory.join("link");
        transcript.call("user on a symlink", lsetxattr(&link, "user.a", b"1", none));
        transcript.call("trusted on a symlink", lsetxattr(&link, "trusted.a", b"1", none));
        let mut value = [0_u8; 8];
        transcript.value("of a symlink", lgetxattr(&link, "trusted.a", &mut value[..]));
        transcript.call("remove it", lremovexattr(&link, "trusted.a"));
        transcript.call("directory", setxattr(directory.join("d"), "user.a", b"1", none));
        transcript.note("directory", list(&directory.join("d")));
    });
}

fn list(path: &Path) -> Vec<String> {
    let mut names = Vec::with_capacity(70_000);
    listxattr(path, rustix::buffer::spare_capacity(&mut names)).expect("listxattr");
    let mut names: Vec<String> = names
        .split(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names
}

#[test]
fn access_control_lists() {
    for program in ["setfacl", "getfacl"] {
        tests::tools::debian("acl", program);
    }
    // Inheritance, the mask, the umask that a default list overrides, and chmod on top.
    let text = r"
        mkdir d; setfacl -m u:1000:rwx,g:1001:r-x,m::rwx d; setfacl -d -m u:1000:rwx,g:1001:r-x,o::- d
        (umask 077; touch d/file; mkdir d/sub; touch d/sub/file; ln -s file d/link; mkfifo d/fifo)
        (umask 0; touch d/open; install -m 4751 /dev/null d/installed)
        (umask 027; touch outside; mkdir outside-d)
        chmod 750 d/sub; chmod g-w d/open; cp -p d/file copied; mv d/open moved
        setfacl -m u:5:r-- moved; setfacl -x u:1000 d/file; setfacl -b d/installed
        setfacl -k d/sub || echo failed
        getfacl -n -R -p .; find . -printf '%p %m\n' | sort
        setfacl -m u:6:rw- d/link; getfacl -n -p d/file
        chmod 0 moved; getfacl -n -p moved
        setfacl -d -m u:1:r moved 2>&1 || echo 'no default list on a file'
    ";
    same_on_both(|directory, transcript| {
        let outcome = run::script(directory, text, &[] as &[&str], Duration::from_secs(60));
        transcript.note("exit", outcome.status.code());
        for line in outcome.stdout.lines().chain(outcome.stderr.lines()) {
            transcript.note("acl", line);
        }
    });
}

#[test]
fn the_filesystem_itself() {
    same_on_both(|directory, transcript| {
        let stat = statvfs(directory).expect("statvfs");
        transcript.note("sizes", (stat.f_bsize, stat.f_frsize, stat.f_namemax));
        transcript.note("totals", (stat.f_blocks, stat.f_files));
        let megabytes = |blocks: u64| (blocks * stat.f_frsize) >> 20;
        let free = |directory: &Path| {
            let stat = statvfs(directory).expect("statvfs");
            (megabytes(stat.f_bfree), stat.f_ffree)
        };
        // Space comes back late: the last close reaches a FUSE server after the program went on. So
        // each count is taken when nothing has moved for a while, and may be taken again.
        let settled = || {
            let mut last = (free(directory), Instant::now());
            run::poll(Duration::from_secs(10), || {
                let now = free(directory);
                if now != last.0 {
                    last = (now, Instant::now());
                }
                (last.1.elapsed() > Duration::from_millis(100)).then_some(now)
            })
            .expect("free space that settles")
        };
        let path = directory.join("file");
        let mut used = (0..5).map(|_| {
            let before = settled();
            fs::write(&path, vec![1; 8 << 20]).expect("write");
            File::open(&path).expect("open").sync_all().expect("sync");
            let after = settled();
            fs::remove_file(&path).expect("unlink");
            (before.0.saturating_sub(after.0), before.1.saturating_sub(after.1))
        });
        transcript.note("used 8 MiB and a file", used.any(|used| used == (8, 1)));
        transcript.call("full", fs::write(directory.join("full"), vec![1; 200 << 20]));
        transcript.call("removed", fs::remove_file(directory.join("full")));
        transcript.call("after", fs::write(directory.join("full"), vec![1; 1 << 20]));
        fs::remove_file(directory.join("full")).expect("unlink");
    });
}
