//! The file below the loop device: a FUSE filesystem with one file, mounted nowhere.
//!
//! The mount is detached (`fsmount` without `move_mount`): it has no mount point, and the kernel
//! takes it down when the last descriptor of its file is closed, which the loop device holds. So
//! nothing of it can be left behind.
//!
//! The threads that serve live in the process of the test, where they share the images with whoever
//! makes crash images, but in a descriptor table of their own. Without that, a killed test could
//! not die: a thread of it that waits for the disk keeps the common table, thus /dev/fuse, open; the
//! kernel would never learn that the server is gone, and the thread would wait for ever. With it,
//! /dev/fuse is closed when the serving threads are dead, and everybody who waits gets EIO.
//!
//! One rule follows for users: programs that *map* files of the disk belong in another process. A
//! page fault that waits for the disk may hold this process's memory map, which the server needs
//! when it allocates.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::clock;
use super::device::Device;
use super::faults::Refusal;
use super::page::PAGE_BYTES;
use crate::run;

const FILE: INodeNo = INodeNo(2);
// Nothing ever changes behind the kernel's back.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const WRITE_BYTES_MAX: u32 = 1 << 20;
// The loop device's direct I/O counts as background requests; at the default of 16 the kernel
// would queue what a disk takes at once.
const BACKGROUND_REQUESTS_MAX: u16 = 1024;
// More urgent than what the disk serves: on two cores a late answer would look like a slow disk.
const NICENESS: i32 = -10;

/// The threads that serve one disk.
pub(super) struct Server {
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts serving; the file is the disk. The server ends when its last descriptor is closed.
    pub fn start(device: Arc<Device>, name: &str, threads: usize) -> io::Result<(Server, File)> {
        let fuse = File::options().read(true).write(true).open("/dev/fuse")?;
        let mount = mount_detached(&fuse, name)?;
        let (ready, is_ready) = channel();
        let disk_file = DiskFile { device, name: name.to_owned() };
        let original = Arc::new(fuse);
        let fuse = Arc::clone(&original);
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(move || {
            let own = super::sys::table_with_only(fuse.as_fd())?;
            // The original is for the caller to close, in the table that it stands in; and only
            // now, because until now it was the same.
            drop(fuse);
            let _ = ready.send(());
            serve(disk_file, own, threads)
        })?;
        // An error means that the thread failed before; opening the file will fail then.
        let _ = is_ready.recv();
        drop(original);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, name, flags, Mode::empty());
        match file {
            Ok(file) => Ok((Server { thread }, File::from(file))),
            Err(error) => {
                drop(mount);
                Err(thread.join().ok().and_then(Result::err).unwrap_or_else(|| error.into()))
            }
        }
    }

    /// Waits for the end. `None` when it does not come in time: something still has the disk open.
    pub fn join(self, patience: Duration) -> Option<io::Result<()>> {
        run::poll(patience, || self.thread.is_finished().then_some(()))?;
        let panicked = || Err(io::Error::other("the disk's server panicked"));
        Some(self.thread.join().unwrap_or_else(|_| panicked()))
    }
}

fn mount_detached(fuse: &File, name: &str) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fuse = fuse.as_raw_fd().to_string();
    let options = [
        ("source", name),
        ("fd", &fuse),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ];
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn serve(disk_file: DiskFile, fuse: OwnedFd, threads: usize) -> io::Result<()> {
    clock::sleep_exactly();
    // Lets allocations of these threads never wait for write-back, which may need this disk. Wants
    // a capability that not every root has; without it there has to be enough free memory.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let outcome = Session::from_fd(disk_file, fuse, SessionACL::All, config)?.run();
    // The file was closed: the kernel's last request (its release) may still have been on its way.
    outcome.or_else(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::CONNABORTED) => Ok(()),
        _ => Err(error),
    })
}

struct DiskFile {
    device: Arc<Device>,
    name: String,
}

impl DiskFile {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, size, perm) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0, 0o700),
            _ => (FileType::RegularFile, self.device.size_bytes(), 0o600),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        }
    }
}

impl Filesystem for DiskFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported =
            |missing| io::Error::other(format!("the kernel's FUSE lacks {missing:?}"));
        // Without it every write of the loop device waits for the one before.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(unsupported)?;
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == self.name.as_str() {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The size never changes, so no write extends the file, and all may run side by side.
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.device.read(offset, &mut buffer) {
            Ok(()) => reply.data(&buffer),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.device.write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("at most a request")),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        answer(self.device.flush(), reply);
    }

    // Punching a hole (discard) and zeroing a range (write zeroes) are the same here, and the kernel
    // sends no other mode for them.
    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        answer(self.device.discard(offset, length), reply);
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        // The block size becomes the loop device's unit of discards.
        let page_bytes = PAGE_BYTES as u32;
        reply.statfs(self.device.size_bytes() / PAGE_BYTES as u64, 0, 0, 2, 0, page_bytes, 255, 0);
    }
}

fn answer(outcome: Result<(), Refusal>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Io => Errno::EIO,
        Refusal::NoSpace => Errno::ENOSPC,
        Refusal::Invalid => Errno::EINVAL,
    }
}
