//! A guest of QEMU that consists of a kernel, a shell and one test program.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tests::scratch::Scratch;
use tests::{run, tools, workspace};

use crate::checks;

const TOOL_DEADLINE: Duration = Duration::from_secs(120);
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(300);
const DISK_BYTES: u64 = 64 << 20;
/// What partitions begin at a multiple of.
const PARTITION_BYTES: u64 = 1 << 20;
const ROOM_MIB: u64 = 1024;

/// The kernel's series: atomic writes of an emulated NVMe show in 6.18, not in 6.12 and not in 7.3.
const KERNEL_PATTERN: &str = r"^linux-image-6\.18.*-cloud-amd64$";
const KERNEL_SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                             http://deb.debian.org/debian trixie-backports main";

/// What the guest does first; then the script of the test.
const INIT: &str = "#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin RUST_BACKTRACE=0
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
generic() { for n in /sys/class/nvme/nvme*; do
  read serial <$n/serial; [ $serial = $1 ] && echo /dev/ng${n##*nvme}n1; done; }
check() { export LANEFS_TEST_NVME=$(generic $1); shift; checks --ignored --nocapture --exact \"$1\"; }
. /script
echo GUEST-DONE; poweroff -f
";

/// A guest to be; its disks and everything else of it lie in one scratch directory.
pub struct Guest {
    scratch: Scratch,
    arguments: Vec<String>,
}

impl Guest {
    pub fn new() -> Self {
        Self { scratch: Scratch::new(ROOM_MIB), arguments: Vec::new() }
    }

    /// Gives the guest a disk; its serial number is the name of its last node.
    pub fn add(&mut self, nodes: &[String]) {
        for node in nodes {
            self.arguments.extend(["-blockdev".to_owned(), node.clone()]);
        }
        let top = name_of(nodes.last().expect("a disk has nodes"));
        let atomic = if self.has_atomic_writes() {
            // Up to 32 blocks of 512 bytes.
            ",atomic.dn=off,atomic.awun=31,atomic.awupf=31"
        } else {
            ""
        };
        self.arguments
            .extend(["-device".to_owned(), format!("nvme,serial={top},drive={top}{atomic}")]);
    }

    /// Whether this QEMU's NVMe disks can promise atomic writes.
    pub fn has_atomic_writes(&self) -> bool {
        static KNOWN: OnceLock<bool> = OnceLock::new();
        *KNOWN.get_or_init(|| {
            let help = run::run(Command::new(qemu()).args(["-device", "nvme,help"]), TOOL_DEADLINE);
            help.expect_success().stdout.contains("atomic.awupf")
        })
    }

    /// Runs a script in the guest until it ends by itself; what it printed.
    pub fn run(&self, script: &str, deadline: Duration) -> String {
        let mut child = self.boot(script);
        let ended = run::poll(deadline, || child.0.try_wait().expect("our own child"));
        let output = self.output();
        assert!(ended.is_some_and(|status| status.success()), "{output}");
        assert!(output.contains("GUEST-DONE"), "{output}");
        output
    }

    /// Runs a script until so many lines begin with `mark`, then kills the machine.
    pub fn run_until_cut(
        &self,
        script: &str,
        mark: &str,
        lines: usize,
        deadline: Duration,
    ) -> String {
        let mut child = self.boot(script);
        let enough = || {
            let seen = self.output().lines().filter(|line| line.starts_with(mark)).count();
            let ended = child.0.try_wait().expect("our own child").is_some();
            (seen >= lines || ended).then_some(!ended)
        };
        let alive = run::poll(deadline, enough);
        child.kill();
        let output = self.output();
        assert_eq!(alive, Some(true), "{output}");
        output
    }

    fn boot(&self, script: &str) -> Machine {
        let initrd = self.make_initrd(script);
        let mut command = Command::new(qemu());
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-m", "768"]);
        command.args(["-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-serial").arg(format!("file:{}", self.console().display()));
        command.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
        command.arg("-kernel").arg(kernel()).arg("-initrd").arg(initrd).args(&self.arguments);
        command.stdin(Stdio::null());
        Machine(command.spawn().expect("qemu starts"))
    }

    fn console(&self) -> PathBuf {
        self.scratch.path().join("console")
    }

    fn output(&self) -> String {
        let bytes = fs::read(self.console()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    fn make_initrd(&self, script: &str) -> PathBuf {
        let root = self.scratch.subdirectory("root");
        for directory in ["bin", "proc", "sys", "dev", "tmp", "lib64"] {
            fs::create_dir_all(root.join(directory)).expect("a directory");
        }
        static CHECKS: OnceLock<PathBuf> = OnceLock::new();
        let checks = CHECKS.get_or_init(|| checks::build("log_nvme"));
        let busybox = tools::debian("busybox-static", "busybox");
        for (program, name) in [(&busybox, "busybox"), (checks, "checks")] {
            fs::copy(program, root.join("bin").join(name)).expect("a copy");
            for library in libraries(program) {
                let copy = root.join(library.strip_prefix("/").expect("an absolute path"));
                fs::create_dir_all(copy.parent().expect("a directory")).expect("a directory");
                fs::copy(&library, copy).expect("a copy");
            }
        }
        fs::copy(&busybox, root.join("bin/sh")).expect("a copy");
        fs::write(root.join("script"), script).expect("a script");
        fs::write(root.join("init"), INIT).expect("a script");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.join("init"), executable).expect("a script");
        let initrd = self.scratch.path().join("initrd");
        let cpio = tools::debian("cpio", "cpio");
        let mut pack = Command::new("sh");
        let line = format!("find . | {} -o -H newc --quiet >{}", cpio.display(), initrd.display());
        pack.arg("-c").arg(line).current_dir(root);
        run::run(&mut pack, TOOL_DEADLINE).expect_success();
        initrd
    }
}

/// A running QEMU; dropped, it is killed.
struct Machine(Child);

impl Machine {
    fn kill(&mut self) {
        // SIGKILL: nothing is written, flushed or closed on purpose.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A disk of a guest.
pub struct Disk {
    directory: PathBuf,
    name: &'static str,
}

impl Disk {
    pub fn new(guest: &Guest, name: &'static str) -> Self {
        let this = Self { directory: guest.scratch.path().to_owned(), name };
        let image = fs::File::create(this.image()).expect("an image");
        image.set_len(DISK_BYTES).expect("an image");
        fs::File::create(this.record()).expect("a record");
        this
    }

    pub fn image(&self) -> PathBuf {
        self.directory.join(format!("{}.img", self.name))
    }

    pub fn record(&self) -> PathBuf {
        self.directory.join(format!("{}.record", self.name))
    }

    /// Gives the disk two partitions, and the first of them an ext4.
    pub fn partition(&self) {
        const SECTOR_BYTES: u64 = 512;
        let half = DISK_BYTES / 2;
        let parts = [PARTITION_BYTES, half].map(|begin| (begin, half - PARTITION_BYTES));
        let image = fs::File::options().write(true).open(self.image()).expect("our image");
        for (entry, (begin, bytes)) in (0..).zip(parts) {
            let mut line = [0; 16];
            line[4] = 0x83;
            line[8..12].copy_from_slice(&((begin / SECTOR_BYTES) as u32).to_le_bytes());
            line[12..].copy_from_slice(&((bytes / SECTOR_BYTES) as u32).to_le_bytes());
            image.write_all_at(&line, 446 + 16 * entry).expect("a partition table");
        }
        image.write_all_at(&[0x55, 0xaa], 510).expect("a partition table");
        let mut mkfs = Command::new(tools::debian("e2fsprogs", "mkfs.ext4"));
        mkfs.args(["-q", "-F", "-E", &format!("offset={PARTITION_BYTES}")]).arg(self.image());
        mkfs.arg(format!("{}k", (half - PARTITION_BYTES) >> 10));
        run::run(&mut mkfs, TOOL_DEADLINE).expect_success();
    }

    /// Nodes of QEMU for a disk that writes down what it does.
    pub fn recorded(&self) -> Vec<String> {
        let (name, image, record) = (self.name, self.image(), self.record());
        vec![
            format!("node-name={name}-image,driver=file,filename={}", image.display()),
            format!("node-name={name}-record,driver=file,filename={}", record.display()),
            format!("node-name={name},driver=blklogwrites,file={name}-image,log={name}-record"),
        ]
    }

    /// Nodes of QEMU for a disk whose second flush fails, and no other.
    pub fn failing_second_flush(&self) -> Vec<String> {
        let (name, image) = (self.name, self.image());
        let rules = self.directory.join(format!("{name}.rules"));
        let text = "[set-state]\nstate = \"1\"\nevent = \"flush_to_disk\"\nnew_state = \"2\"\n\
                    [inject-error]\nstate = \"2\"\nevent = \"flush_to_disk\"\niotype = \"flush\"\n\
                    errno = \"5\"\nonce = \"on\"\n";
        fs::write(&rules, text).expect("rules");
        vec![
            format!("node-name={name}-image,driver=file,filename={}", image.display()),
            format!(
                "node-name={name}-fails,driver=blkdebug,image={name}-image,config={}",
                rules.display()
            ),
            // The event is made by the node above.
            format!("node-name={name},driver=raw,file={name}-fails"),
        ]
    }
}

fn name_of(node: &str) -> &str {
    let name = node.split(',').find_map(|part| part.strip_prefix("node-name="));
    name.expect("every node has a name")
}

fn qemu() -> PathBuf {
    tools::debian("qemu-system-x86", "qemu-system-x86_64")
}

/// What a program is linked with; nothing if it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let outcome = run::run(Command::new("ldd").arg(program), TOOL_DEADLINE);
    let paths = outcome.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// `LANEFS_GUEST_KERNEL`, or a kernel of Debian, fetched once and not installed.
fn kernel() -> PathBuf {
    if let Some(path) = std::env::var_os("LANEFS_GUEST_KERNEL") {
        return path.into();
    }
    let _lock = workspace::lock("guest-kernel-fetch");
    let folder = workspace::tools().join("guest-kernel");
    let find = || {
        let boot = fs::read_dir(folder.join("boot")).ok()?;
        let mut paths = boot.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.to_string_lossy().contains("/vmlinuz-"))
    };
    find().unwrap_or_else(|| {
        fetch_kernel(&folder);
        find().unwrap_or_else(|| panic!("no kernel in {}", folder.display()))
    })
}

fn fetch_kernel(folder: &Path) {
    // Lists of its own: the system's packages are not to come from another release.
    let apt = folder.join("apt");
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(directory)).expect("a directory");
    }
    fs::write(apt.join("sources"), KERNEL_SOURCE).expect("a list of sources");
    let options = [
        format!("Dir::Etc::sourcelist={}", apt.join("sources").display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::Lists={}", apt.join("lists").display()),
        format!("Dir::Cache={}", apt.join("cache").display()),
        "Acquire::Languages=none".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt_command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        for option in &options {
            command.args(["-o", option]);
        }
        command.arg("-q").args(arguments).current_dir(folder);
        run::run(&mut command, DOWNLOAD_DEADLINE).expect_success().stdout
    };
    apt_command("apt-get", &["update"]);
    let found = apt_command("apt-cache", &["search", "--names-only", KERNEL_PATTERN]);
    let mut names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_by_key(|name| numbers(name));
    let newest = names.last().unwrap_or_else(|| {
        panic!("no package {KERNEL_PATTERN}: name a kernel with LANEFS_GUEST_KERNEL")
    });
    apt_command("apt-get", &["download", newest]);
    let package =
        fs::read_dir(folder).expect("our folder").filter_map(|entry| Some(entry.ok()?.path()));
    let package =
        package.into_iter().find(|path| path.extension().is_some_and(|name| name == "deb"));
    let package = package.unwrap_or_else(|| panic!("{newest} was not downloaded"));
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&package).arg(folder);
    run::run(&mut unpack, TOOL_DEADLINE).expect_success();
    let _ = fs::remove_file(package);
}

/// The numbers in a version, to sort by.
fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|letter: char| !letter.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}
