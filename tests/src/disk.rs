//! A disk that loses power: a block device with a volatile cache, made of memory.
//!
//! ```text
//!   filesystem under test          workload notes Disk::position() at each acknowledgement
//!   /dev/loopN  (direct I/O)
//!   a FUSE file, mounted nowhere   server   (READ, WRITE, FSYNC, FALLOCATE)
//!   device                         cached image, record of writes, flush time, faults
//!        |
//!        +-> Record -> crash_image(record, position, seed) -> Disk::load(image): a disk after the
//!                                                             power cut, copy-on-write
//! ```
//!
//! A write goes to the cached image and to the record. A flush takes the configured time and then
//! makes durable what was written before it *arrived*. From the [`Record`] come the images that a
//! power cut at any [`Position`] could leave ([`crash_image`], [`CrashImages`]); one is served by a
//! disk of its own without copying anything.
//!
//! Nothing is left behind, also by a killed process: the FUSE mount has no mount point, and the loop
//! device detaches itself at the last close (see `server` and `attach`). [`Disk::mount`] mounts in
//! the same way. Only a mount that the test makes at a path is the test's to take down.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use self::attach::Attachment;
pub use self::counters::Counters;
pub use self::crash::{Choice, CrashImage, CrashImages, chosen_image, crash_image};
use self::device::Device;
pub use self::extents::file_extents;
pub use self::faults::Fault;
pub use self::image::Image;
pub use self::many::for_each_image;
pub use self::mount::DiskMount;
pub use self::page::{PAGE_BYTES, SECTOR_BYTES};
pub use self::record::{Position, Record};
use self::server::Server;
pub use self::tearing::Tearing;
use crate::{run, scratch};

mod attach;
mod clock;
mod counters;
mod crash;
mod device;
mod extents;
mod faults;
mod image;
mod many;
mod mount;
mod page;
mod record;
mod server;
mod sys;
mod tearing;

const BUSY_PATIENCE: Duration = Duration::from_secs(15);

/// What a [`Disk`] is like.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Its size; a multiple of 4 KiB. Only what is written costs memory.
    pub size_bytes: u64,
    /// How long a flush takes.
    pub flush_time: Duration,
    /// How fast writes go, all together; none: as fast as the machine can.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Keep the record of writes. Without it there are no power cuts, and no memory that grows with
    /// every write.
    pub recording: bool,
    /// Threads that serve requests.
    pub threads: usize,
}

impl DiskOptions {
    /// A disk of this size that records, with flushes that cost nothing.
    pub fn new(size_mib: u64) -> Self {
        DiskOptions {
            size_bytes: size_mib << 20,
            flush_time: Duration::ZERO,
            bandwidth_bytes_per_s: None,
            recording: true,
            threads: 4,
        }
    }

    /// The same with this flush time.
    #[must_use]
    pub fn flush_time(self, flush_time: Duration) -> Self {
        DiskOptions { flush_time, ..self }
    }

    /// The same without a record.
    #[must_use]
    pub fn unrecorded(self) -> Self {
        DiskOptions { recording: false, ..self }
    }
}

/// A block device in memory with a volatile cache; dropped, it is gone.
pub struct Disk {
    options: DiskOptions,
    device: Arc<Device>,
    // Both are `None` only while dropping.
    attachment: Option<Attachment>,
    server: Option<Server>,
}

impl Disk {
    /// A disk full of zeros.
    ///
    /// # Errors
    /// There is no FUSE or no loop device to be had; the message says which.
    pub fn new(options: DiskOptions) -> io::Result<Self> {
        Self::from_image(Image::empty(options.size_bytes), options)
    }

    /// A disk with this content, all of it durable. The image itself never changes.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn from_image(image: Image, options: DiskOptions) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let options = DiskOptions { size_bytes: image.size_bytes(), ..options };
        if !device::is_valid_size(options.size_bytes) {
            let text = format!("a disk of {} bytes: not in pages of 4096", options.size_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let device = Arc::new(Device::new(image, options.recording));
        // The name shows as the loop device's file; `leftovers` knows its beginning.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}disk-{}-{count}", scratch::PREFIX, std::process::id());
        let (server, file) = Server::start(Arc::clone(&device), &name, options.threads.max(1))
            .map_err(|error| explain("cannot serve a disk through FUSE", &error))?;
        let attachment = Attachment::new(&file)
            .map_err(|error| explain("cannot attach a loop device to the disk", &error))?;
        // Setting up a loop device flushes the file once.
        device.begin(options.recording);
        device.set_flush_time(options.flush_time);
        device.set_bandwidth(options.bandwidth_bytes_per_s);
        Ok(Disk { options, device, attachment: Some(attachment), server: Some(server) })
    }

    /// Puts another disk of the same size in the place of this one: all of `image` durable, power
    /// on, no faults, a new record. Positions go on. Much faster than a new [`Disk`].
    ///
    /// # Errors
    /// A filesystem is still mounted on it.
    pub fn load(&mut self, image: Image) -> io::Result<()> {
        let attachment = self.attachment();
        if run::poll(BUSY_PATIENCE, || (!attachment.is_claimed()).then_some(())).is_none() {
            return Err(io::Error::other(format!("{} is in use", attachment.path().display())));
        }
        // Before loading: what was left dirty belongs to the old disk.
        let dropped = run::poll(BUSY_PATIENCE, || attachment.drop_cache().ok()?.then_some(()));
        if dropped.is_none() {
            return Err(io::Error::other("the kernel keeps pages of the old disk"));
        }
        self.device.load(image, self.options.recording);
        Ok(())
    }

    /// The block device, such as `/dev/loop3`.
    pub fn path(&self) -> &Path {
        self.attachment().path()
    }

    /// Mounts the filesystem on the disk, at no place in particular; `options` as for mount(8).
    ///
    /// # Errors
    /// The filesystem cannot be mounted; with what the kernel says about it.
    pub fn mount(&self, filesystem: &str, options: &str) -> io::Result<DiskMount> {
        DiskMount::nowhere(self.path(), filesystem, options)
    }

    /// Mounts it at `mount_point`, for programs that must know a path. A killed test leaves this mount
    /// behind, unless it lies in a [`Scratch`](crate::scratch::Scratch).
    ///
    /// # Errors
    /// As [`Disk::mount`].
    pub fn mount_at(
        &self,
        mount_point: &Path,
        filesystem: &str,
        options: &str,
    ) -> io::Result<DiskMount> {
        DiskMount::at(mount_point, self.path(), filesystem, options)
    }

    /// How many entries the record has. Read after a sync returned, it is at or above the flush that
    /// made the sync true. Costs nothing.
    pub fn position(&self) -> Position {
        self.device.position()
    }

    /// What the disk did so far; see [`Counters::since`].
    pub fn counters(&self) -> Counters {
        self.device.counters()
    }

    /// Changes how long flushes take; those under way keep their time.
    pub fn set_flush_time(&self, time: Duration) {
        self.device.set_flush_time(time);
    }

    /// Changes how fast writes go; none: as fast as the machine can.
    pub fn set_bandwidth(&self, bytes_per_s: Option<u64>) {
        self.device.set_bandwidth(bytes_per_s);
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.device.inject(fault);
    }

    /// Ends all faults but a power cut.
    pub fn clear_faults(&self) {
        self.device.clear_faults();
    }

    /// Says which bytes of the disk [`Fault::WatchedWriteError`] means, such as those of one file
    /// ([`file_extents`]). They stay watched until another image is loaded.
    pub fn watch(&self, bytes: Vec<Range<u64>>) {
        self.device.watch(bytes);
    }

    /// The record so far.
    ///
    /// # Panics
    /// The disk was made without one.
    pub fn record(&self) -> Record {
        self.device.record().expect("`DiskOptions::recording` is on")
    }

    /// Shortens the record by what is durable, such as mkfs after a sync.
    pub fn forget_durable(&self) {
        self.device.forget_durable();
    }

    /// What a reader of the disk sees.
    pub fn cached(&self) -> Image {
        self.device.cached()
    }

    /// Checks that the record, replayed from its beginning, gives what readers see. To be called at
    /// the end of every use of a record: a server that mixes up concurrent writes would make every
    /// crash image worthless.
    ///
    /// # Errors
    /// They differ; the message says where.
    pub fn check(&self) -> Result<(), String> {
        let record = self.record();
        match record.replay_all().first_difference(record.cached()) {
            None => Ok(()),
            Some(offset) => {
                Err(format!("the replayed record differs from the disk in the page at {offset}"))
            }
        }
    }

    fn attachment(&self) -> &Attachment {
        self.attachment.as_ref().expect("there until dropped")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (Some(attachment), Some(server)) = (self.attachment.take(), self.server.take()) else {
            return;
        };
        self.device.clear_faults();
        for mount_point in attachment.mount_points().iter().rev() {
            eprintln!("{} was still mounted", mount_point.display());
            let clean = || unmount(mount_point, UnmountFlags::empty()).ok();
            if run::poll(BUSY_PATIENCE, clean).is_none() {
                let _ = unmount(mount_point, UnmountFlags::DETACH);
            }
        }
        let path = attachment.path().to_path_buf();
        // The last close detaches the loop device; that closes the FUSE file; that ends the server.
        drop(attachment);
        match server.join(BUSY_PATIENCE) {
            Some(Ok(())) => {}
            Some(Err(error)) => eprintln!("the server of {} failed: {error}", path.display()),
            None => eprintln!("{} is still in use; it goes with this process", path.display()),
        }
    }
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
