//! The scratch disk: ext4 in a sparse image on a loop device, and its power switch.
//!
//! The loop device is told to go by itself with its last user, right after it was
//! mounted; so unmounting is all there is to clean up.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FsWord, statfs};
use rustix::ioctl::{Opcode, Setter, opcode};
use rustix::mount::{MountFlags, UnmountFlags};

/// Room for the two logs, the one journal, and what the writers leave in a second.
const BASE_MIB: u64 = 320;
const MIB_PER_SECOND: u64 = 64;
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const BUSY_TIME_MAX: Duration = Duration::from_secs(20);

/// `_IOR('X', 125, __u32)` of the kernel's ext4.h.
const EXT4_IOC_SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Without writing the journal out first.
const GOING_NO_LOG_FLUSH: u32 = 2;

/// A filesystem of the demo's own; unmounted when dropped.
pub(super) struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    /// Name of the loop device below /dev, while mounted.
    device: Option<String>,
}

impl Disk {
    /// Makes it in a directory: an image and a mount point.
    ///
    /// # Errors
    /// Why there can be none, with the remedy if there is one.
    pub(super) fn new(directory: &Path, seconds: u16) -> Result<Self, String> {
        let (image, mount_point) = (directory.join("image"), directory.join("disk"));
        let failed = |error: std::io::Error| format!("cannot make an image file: {error}");
        let file = File::create(&image).map_err(failed)?;
        let mib = BASE_MIB + MIB_PER_SECOND * u64::from(seconds);
        file.set_len(mib << 20).map_err(failed)?;
        drop(file);
        std::fs::create_dir(&mount_point).map_err(failed)?;
        // All of it made now: no work in the background while something is measured.
        let mut mkfs = tool("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "4096", "-N", "16384"]);
        mkfs.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image);
        run(&mut mkfs, "e2fsprogs")?;
        let mut disk = Self { image, mount_point, device: None };
        disk.mount()?;
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.mount_point
    }

    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    /// Flushes that the device has carried out.
    pub(super) fn flushes(&self) -> Option<u64> {
        let stat = format!("/sys/block/{}/stat", self.device.as_deref()?);
        // The sixteenth figure: Documentation/block/stat.rst.
        std::fs::read_to_string(stat).ok()?.split_whitespace().nth(15)?.parse().ok()
    }

    /// Cuts the power: from now on nothing reaches the device, and what the kernel had
    /// not written is gone. Only what the device itself keeps in a cache is not cut.
    pub(super) fn cut(&self) -> std::io::Result<()> {
        let root = File::open(&self.mount_point)?;
        #[expect(unsafe_code, reason = "no library has a safe function for this ioctl")]
        // SAFETY: this request reads a u32 through the pointer that `Setter` passes, and
        // writes nothing to memory.
        let cut = unsafe {
            let shutdown = Setter::<EXT4_IOC_SHUTDOWN, u32>::new(GOING_NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, shutdown)
        };
        Ok(cut?)
    }

    /// Mounts the image as the cut left it, with nothing of it in memory.
    pub(super) fn power_on(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), String> {
        let device = attach(&self.image)?;
        let flags = MountFlags::empty();
        let mounted = rustix::mount::mount(&device, &self.mount_point, "ext4", flags, None);
        // Mounted, the device stays until it is unmounted; else it goes now.
        let detached = run(tool("losetup").arg("-d").arg(&device), "util-linux");
        mounted.map_err(|error| format!("cannot mount {device}: {error}"))?;
        self.device = Some(device.trim_start_matches("/dev/").to_owned());
        detached
    }

    /// Unmounts, and waits until the kernel has let go of the image: mounted twice it
    /// would be destroyed.
    fn unmount(&mut self) -> Result<(), String> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let unmount = |flags| rustix::mount::unmount(&self.mount_point, flags);
        // Whoever looks at every new mount, or a dying daemon, keeps it busy for a moment.
        if !patiently(|| unmount(UnmountFlags::empty()).is_ok()) {
            let _ = unmount(UnmountFlags::DETACH);
        }
        // By the file itself, not its path, which may have several forms.
        let is_free = || {
            let attached = tool("losetup").arg("--associated").arg(&self.image).output();
            attached.is_ok_and(|output| output.status.success() && output.stdout.is_empty())
        };
        if patiently(is_free) { Ok(()) } else { Err(format!("/dev/{device} stays in use")) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("lanefs: the scratch disk is not quite gone: {error}");
        }
    }
}

/// A directory on a real disk: a flush costs nothing in memory.
pub(super) fn place() -> PathBuf {
    let usual = std::env::temp_dir();
    let on_disk = |place: &PathBuf| statfs(place).is_ok_and(|stat| stat.f_type != TMPFS_MAGIC);
    let places = [usual.clone(), PathBuf::from("/var/tmp")];
    places.into_iter().find(on_disk).unwrap_or(usual)
}

/// Direct I/O, so that a write to the device is one to the disk below; where that
/// cannot be had, without.
fn attach(image: &Path) -> Result<String, String> {
    let attempt = |direct: &str| {
        let mut losetup = tool("losetup");
        run_for_output(losetup.args(["--find", "--show", direct]).arg(image), "util-linux")
    };
    attempt("--direct-io=on").or_else(|_| attempt("--direct-io=off"))
}

/// A program of the administrator's, which may not be on the path.
fn tool(name: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = super::scratch::undisturbed(name);
    command.env("PATH", path);
    command
}

fn run(command: &mut Command, package: &str) -> Result<(), String> {
    run_for_output(command, package).map(drop)
}

fn run_for_output(command: &mut Command, package: &str) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no {name}: `apt-get install {package}` brings it")
        }
        _ => format!("cannot run {name}: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().next().unwrap_or("no reason given").to_owned();
    Err(format!("{name} failed: {said}"))
}

fn patiently(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + BUSY_TIME_MAX;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
