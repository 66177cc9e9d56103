//! Objects: known by file handle, or pinned by a descriptor.
//!
//! A handle costs no descriptor, but using one costs `open_by_handle_at(2)`
//! (about a microsecond). A bounded cache therefore keeps `O_PATH` descriptors
//! of objects in use; it gives way at once when descriptors run out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};

use crate::error::{Errno, Result};
use crate::platform::{HANDLE_BYTES_MAX, ObjectKey};

/// `struct file_handle` of the kernel with room for the longest handle that it
/// allows (`MAX_HANDLE_SZ`).
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

/// A file handle short enough to be kept.
#[derive(Clone, Copy)]
struct Handle {
    bytes: u8,
    kind: i32,
    data: [u8; HANDLE_BYTES_MAX],
}

enum Identity {
    Handle(Handle),
    Pinned(Arc<OwnedFd>),
}

/// One object of the backing filesystem.
pub struct ObjectInner {
    identity: Identity,
    cached: Mutex<Option<Arc<OwnedFd>>>,
    /// Set by every use, cleared by the cache's hand: a second chance.
    used: AtomicBool,
    /// The cached descriptor must stay: the object has no name any more, and
    /// without a descriptor its inode would be freed (`ESTALE` by handle).
    pinned: AtomicBool,
}

impl ObjectInner {
    /// The object behind an `O_PATH` descriptor, which becomes its first cached
    /// (or pinning) descriptor.
    pub(super) fn of(
        fd: OwnedFd,
        device: u64,
        ino: u64,
        handles: bool,
    ) -> Result<(ObjectKey, Self)> {
        let handle = if handles { handle_of(fd.as_fd())? } else { None };
        let place = (device, ino);
        Ok(match handle {
            Some(handle) => Self::new(place, Identity::Handle(handle), Some(Arc::new(fd))),
            None => Self::new(place, Identity::Pinned(Arc::new(fd)), None),
        })
    }

    /// The object of an open file. Where it has a handle, it gets a descriptor of its
    /// own when one is needed.
    pub(super) fn of_file(
        file: BorrowedFd<'_>,
        device: u64,
        ino: u64,
        handles: bool,
    ) -> Result<(ObjectKey, Self)> {
        let handle = if handles { handle_of(file)? } else { None };
        let identity = match handle {
            Some(handle) => Identity::Handle(handle),
            None => Identity::Pinned(Arc::new(pin(file)?)),
        };
        Ok(Self::new((device, ino), identity, None))
    }

    fn new(
        (dev, ino): (u64, u64),
        identity: Identity,
        cached: Option<Arc<OwnedFd>>,
    ) -> (ObjectKey, Self) {
        let handle = match &identity {
            Identity::Handle(handle) => (handle.data, handle.bytes, handle.kind),
            Identity::Pinned(_) => ([0; HANDLE_BYTES_MAX], 0, 0),
        };
        let (used, pinned) = (AtomicBool::new(true), AtomicBool::new(false));
        let object = Self { identity, cached: Mutex::new(cached), used, pinned };
        (ObjectKey { dev, ino, handle }, object)
    }

    /// The object that a predecessor knew by this key, with its descriptor if it left one,
    /// which stays: [`Self::needed_descriptor`].
    pub(super) fn again(key: &ObjectKey, fd: Option<OwnedFd>) -> Result<Self> {
        let fd = fd.map(Arc::new);
        let (data, bytes, kind) = key.handle;
        let (identity, cached) = match (bytes, fd) {
            (0, Some(fd)) => (Identity::Pinned(fd), None),
            (0, None) => return Err(Errno::STALE),
            (1.., fd) if usize::from(bytes) <= HANDLE_BYTES_MAX => {
                (Identity::Handle(Handle { bytes, kind, data }), fd)
            }
            _ => return Err(Errno::INVAL),
        };
        let (used, pinned) = (AtomicBool::new(true), AtomicBool::new(cached.is_some()));
        Ok(Self { identity, cached: Mutex::new(cached), used, pinned })
    }

    /// The descriptor without which the object could not be found again: it has no handle,
    /// or no name any more, so that nothing else may keep its inode.
    pub(super) fn needed_descriptor(&self) -> Option<RawFd> {
        if let Identity::Pinned(fd) = &self.identity {
            return Some(fd.as_raw_fd());
        }
        let cached = self.lock_cached();
        let fd = cached.as_ref()?;
        let is_needed = self.pinned.load(Ordering::Acquire)
            || rustix::fs::fstat(&**fd).is_ok_and(|stat| stat.st_nlink == 0);
        is_needed.then(|| fd.as_raw_fd())
    }

    /// An `O_PATH` descriptor of the object.
    pub(super) fn fd(
        self: &Arc<Self>,
        mount: BorrowedFd<'_>,
        cache: &FdCache,
    ) -> Result<Arc<OwnedFd>> {
        let handle = match &self.identity {
            Identity::Pinned(fd) => return Ok(Arc::clone(fd)),
            Identity::Handle(handle) => handle,
        };
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = &*self.lock_cached() {
            return Ok(Arc::clone(fd));
        }
        let fd =
            cache.retry_errno(|| open_handle(mount, handle, OFlags::PATH | OFlags::CLOEXEC))?;
        let fd = Arc::new(fd);
        *self.lock_cached() = Some(Arc::clone(&fd));
        cache.note(self);
        Ok(fd)
    }

    /// A new open file on the object.
    pub(super) fn reopen(&self, mount: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        match &self.identity {
            Identity::Handle(handle) => open_handle(mount, handle, flags),
            Identity::Pinned(fd) => {
                Ok(rustix::fs::open(proc_path(fd.as_fd()), flags, Mode::empty())?)
            }
        }
    }

    /// Keeps the cached descriptor, or lets the cache have it again.
    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Release);
    }

    fn give_up_cached(&self) {
        if !self.pinned.load(Ordering::Acquire) {
            self.lock_cached().take();
        }
    }

    fn lock_cached(&self) -> std::sync::MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Descriptors kept open between operations, oldest given up first, those used
/// since the last look spared once.
pub(super) struct FdCache {
    queue: Mutex<VecDeque<Weak<ObjectInner>>>,
    fds_max: usize,
}

/// At most this many descriptors are cached; a quarter of the limit if that is less.
const CACHED_FDS_MAX: usize = 4096;

impl FdCache {
    pub(super) fn new(fds_max: Option<usize>) -> Self {
        let fds_max = fds_max.unwrap_or_else(|| {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            let quarter =
                limit.map_or(usize::MAX, |n| usize::try_from(n / 4).unwrap_or(usize::MAX));
            quarter.clamp(16, CACHED_FDS_MAX)
        });
        Self { queue: Mutex::new(VecDeque::new()), fds_max }
    }

    /// Notes that `object` holds a cached descriptor now.
    pub(super) fn note(&self, object: &Arc<ObjectInner>) {
        if matches!(object.identity, Identity::Pinned(_)) {
            return;
        }
        let mut queue = self.lock();
        queue.push_back(Arc::downgrade(object));
        // Two looks for each newcomer: enough to pass over a used one.
        for _ in 0..2 {
            if queue.len() <= self.fds_max {
                break;
            }
            let Some(oldest) = queue.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            if oldest.used.swap(false, Ordering::Relaxed) && queue.len() < 2 * self.fds_max {
                queue.push_back(Arc::downgrade(&oldest));
            } else {
                oldest.give_up_cached();
            }
        }
    }

    /// Gives up all cached descriptors.
    fn clear(&self) {
        let queue = std::mem::take(&mut *self.lock());
        for object in queue.iter().filter_map(Weak::upgrade) {
            object.give_up_cached();
        }
    }

    /// Runs `call`, once more with an empty cache if descriptors ran out.
    pub(super) fn retry<T>(
        &self,
        call: impl Fn() -> std::result::Result<T, rustix::io::Errno>,
    ) -> std::result::Result<T, rustix::io::Errno> {
        match call() {
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                self.clear();
                call()
            }
            other => other,
        }
    }

    /// As [`Self::retry`], for calls with our own error.
    pub(super) fn retry_errno<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        match call() {
            Err(e) if e.raw() == libc::EMFILE || e.raw() == libc::ENFILE => {
                self.clear();
                call()
            }
            other => other,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Weak<ObjectInner>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name under which the kernel finds the object of a descriptor again.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// An `O_PATH` descriptor for the same object.
fn pin(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    Ok(rustix::fs::open(proc_path(fd), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether this filesystem and this process can find objects by handle.
pub(super) fn handles_work(root: &OwnedFd) -> bool {
    let Ok(Some(handle)) = handle_of(root.as_fd()) else { return false };
    open_handle(root.as_fd(), &handle, OFlags::PATH | OFlags::CLOEXEC).is_ok()
}

/// The object with a key's handle, whatever device the key names.
pub(super) fn open_key(mount: BorrowedFd<'_>, key: &ObjectKey) -> Result<OwnedFd> {
    let (data, bytes, kind) = key.handle;
    // Without a handle it is known by number only, which another may have now.
    if bytes == 0 || usize::from(bytes) > HANDLE_BYTES_MAX {
        return Err(Errno::STALE);
    }
    open_handle(mount, &Handle { bytes, kind, data }, OFlags::PATH | OFlags::CLOEXEC)
}

fn handle_of(fd: BorrowedFd<'_>) -> Result<Option<Handle>> {
    let mut raw = RawHandle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount_id = 0;
    // SAFETY: the descriptor is open, the path is a valid empty C string, and
    // `raw` has the layout of `struct file_handle` with `bytes` of room.
    let result = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        let error = Errno::from(std::io::Error::last_os_error());
        let no_handle = matches!(error.raw(), libc::EOPNOTSUPP | libc::EOVERFLOW);
        return if no_handle { Ok(None) } else { Err(error) };
    }
    let length = raw.bytes as usize;
    if length > HANDLE_BYTES_MAX {
        return Ok(None);
    }
    let mut data = [0; HANDLE_BYTES_MAX];
    data[..length].copy_from_slice(&raw.data[..length]);
    Ok(Some(Handle { bytes: length as u8, kind: raw.kind, data }))
}

fn open_handle(mount: BorrowedFd<'_>, handle: &Handle, flags: OFlags) -> Result<OwnedFd> {
    let mut raw = RawHandle { bytes: u32::from(handle.bytes), kind: handle.kind, data: [0; 128] };
    raw.data[..HANDLE_BYTES_MAX].copy_from_slice(&handle.data);
    let flags = flags.bits().cast_signed();
    // SAFETY: `mount` is open and `raw` has the layout of `struct file_handle`
    // with `bytes` valid bytes of data.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
    if fd < 0 {
        return Err(Errno::from(std::io::Error::last_os_error()));
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
