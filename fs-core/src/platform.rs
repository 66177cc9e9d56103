//! The one door to the disk.
//!
//! Everything that the engine does to files goes through [`Backing`]; nothing
//! else in this crate makes a system call. A second implementation (a recorder,
//! a deterministic simulator) therefore runs the same engine.
//!
//! Architecture invariants: all `unsafe` of the crate lives below this module;
//! no method takes a path, because names change under a running engine while
//! objects do not.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, SyncKind};

#[cfg(target_os = "linux")]
pub mod linux;
mod log_store;
#[cfg(target_os = "macos")]
pub mod macos;
#[cfg_attr(unix, path = "platform/unix.rs")]
#[cfg_attr(windows, path = "platform/windows/native.rs")]
pub mod native;
mod open_error;
pub mod record;
pub mod sim;
#[cfg(unix)]
mod unix_io;
#[cfg(windows)]
pub mod windows;

pub use self::log_store::{LOG_BLOCK_BYTES, LogBuffer, LogStore};
pub use self::native::os_name;

#[cfg(target_os = "linux")]
pub use self::linux::{LinuxBacking as NativeBacking, OpenError as NativeOpenError};
#[cfg(target_os = "macos")]
pub use self::macos::{MacBacking as NativeBacking, OpenError as NativeOpenError};
#[cfg(windows)]
pub use self::windows::{OpenError as NativeOpenError, WindowsBacking as NativeBacking};

/// What identifies an object of the backing filesystem for as long as anybody
/// remembers it: the file handle where there is one, else device and inode
/// number (then the object is pinned open, so that the number cannot be reused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Device number, 0 when the handle says it all.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Kind and bytes of the file handle, zero-padded; kind 0 means none.
    pub handle: ([u8; HANDLE_BYTES_MAX], u8, i32),
}

impl ObjectKey {
    /// The key without its device number, which another boot may give to
    /// another device: what is written down.
    #[must_use]
    pub const fn portable(self) -> Self {
        Self { dev: 0, ..self }
    }
}

/// Longest file handle that is kept inline; ext4 has 8 bytes, XFS 12 to 24,
/// btrfs 20 to 40, tmpfs 12. An object with a longer one is pinned open instead.
pub const HANDLE_BYTES_MAX: usize = 40;

/// An object just found or made, with its attributes at that moment.
pub struct Found<B: Backing> {
    /// Who it is.
    pub key: ObjectKey,
    /// The door's own reference to it.
    pub object: B::Object,
    /// Its attributes.
    pub attr: Attr,
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Cut to length zero.
    pub truncate: bool,
    /// Leave the access time alone.
    pub no_atime: bool,
}

/// What a rename does with an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenameMode {
    /// Refuse to replace it.
    pub no_replace: bool,
    /// Swap the two names.
    pub exchange: bool,
    /// Leave a whiteout (character device 0/0) at the source, for overlays.
    pub whiteout: bool,
}

/// Where to look for data or a hole from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is data.
    Data,
    /// The next byte that is not.
    Hole,
}

/// A [`Backing`] whose open things can be left to the program that replaces this one in the
/// same process: each goes by a token that means the same there.
pub trait Carried: Backing {
    /// What a thing goes by.
    type Token: Copy;

    /// The token of an object that needs one to be found again by its key.
    fn object_token(&self, object: &Self::Object) -> Option<Self::Token>;
    /// The token of an open file.
    fn file_token(&self, file: &Self::File) -> Self::Token;
    /// The token of an open directory.
    fn dir_token(&self, dir: &Self::Dir) -> Self::Token;

    /// The object of a key.
    ///
    /// # Errors
    /// It needs a token and has none, or the token is nothing that was left.
    fn take_object(&self, key: &ObjectKey, token: Option<Self::Token>) -> Result<Self::Object>;
    /// The open file of a token.
    ///
    /// # Errors
    /// The token is nothing that was left.
    fn take_file(&self, token: Self::Token) -> Result<Self::File>;
    /// The open directory of a token.
    ///
    /// # Errors
    /// The token is nothing that was left.
    fn take_dir(&self, token: Self::Token) -> Result<Self::Dir>;
}

/// A directory of a backing filesystem and everything below it.
///
/// Errors are the backing filesystem's own errno. Methods may be called from
/// any thread at any time.
pub trait Backing: Send + Sync + Sized + 'static {
    /// A reference to an object; holding one costs no file descriptor where the
    /// platform has file handles.
    type Object: Send + Sync + 'static;
    /// An open regular file. Each open of a program is one of these: the kernel
    /// reports a failed write-back once to every open file, and to no other.
    type File: Send + Sync + 'static;
    /// An open directory with a read position.
    type Dir: Send + Sync + 'static;
    /// Carries out fences; one for all backings of an engine.
    type Fencer: Fencer<Self>;
    /// Where a log can be kept.
    type Log: LogStore;

    /// The directory itself.
    fn root(&self) -> Result<Found<Self>>;
    /// Finds a name in a directory.
    fn lookup(&self, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>>;
    /// Keeps an object that is about to lose its last name: whoever holds it
    /// may use it on, and a file handle alone does not keep it alive.
    fn pin(&self, object: &Self::Object) -> Result<()>;
    /// Takes [`Self::pin`] back.
    fn unpin(&self, object: &Self::Object);
    /// What kind of object a name stands for.
    fn kind_at(&self, dir: &Self::Object, name: &OsStr) -> Result<FileKind>;
    /// Attributes of an object.
    fn attr(&self, object: &Self::Object) -> Result<Attr>;
    /// Changes attributes; with `file`, a truncation goes through that open file.
    fn set_attr(
        &self,
        caller: Caller,
        object: &Self::Object,
        file: Option<&Self::File>,
        change: &SetAttr,
    ) -> Result<Attr>;
    /// Target of a symbolic link.
    fn read_link(&self, object: &Self::Object) -> Result<Vec<u8>>;

    /// Makes a file, pipe, socket or device node.
    fn make_node(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
        device: (u32, u32),
    ) -> Result<Found<Self>>;
    /// Makes a directory.
    fn make_dir(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        mode: NewMode,
    ) -> Result<Found<Self>>;
    /// Makes a symbolic link.
    fn make_symlink(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Found<Self>>;
    /// Gives an object one more name.
    fn link(&self, object: &Self::Object, dir: &Self::Object, name: &OsStr) -> Result<Found<Self>>;
    /// Removes a name that is not a directory's.
    fn unlink(&self, dir: &Self::Object, name: &OsStr) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Self::Object, name: &OsStr) -> Result<()>;
    /// Moves a name.
    fn rename(
        &self,
        source: (&Self::Object, &OsStr),
        target: (&Self::Object, &OsStr),
        mode: RenameMode,
    ) -> Result<()>;

    /// Opens a file. The caller matters where opening changes it: truncation
    /// clears set-user-id bits unless the caller may keep them.
    fn open(&self, caller: Caller, object: &Self::Object, mode: OpenMode) -> Result<Self::File>;
    /// Makes a file and opens it; with `exclusive` an existing name is an error,
    /// otherwise it is opened. The last value says whether it was made.
    fn create(
        &self,
        caller: Caller,
        dir: &Self::Object,
        name: &OsStr,
        new: NewMode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Found<Self>, Self::File, bool)>;
    /// A program has closed a descriptor of the file; it may have others. Nothing to do
    /// but for a backing that wants to know.
    fn descriptor_closed(&self, _file: &Self::File) {}
    /// Reads at an offset; short only at the end of the file.
    fn read(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `data` at an offset. `keep_suid` leaves set-user-id bits.
    fn write(
        &self,
        caller: Caller,
        file: &Self::File,
        data: &[u8],
        offset: u64,
        keep_suid: bool,
    ) -> Result<usize>;
    /// Writes as much of the front of `data` at an offset as can go past the page
    /// cache (`O_DIRECT`), and says how many bytes: 0 where the filesystem refuses
    /// that. Nothing is durable by it. `file` must have been opened by the caller, who
    /// does nothing else with it meanwhile.
    fn write_direct(&self, _file: &Self::File, _data: &[u8], _offset: u64) -> Result<usize> {
        Ok(0)
    }
    /// Allocates, punches, collapses: the modes of `fallocate(2)`.
    fn allocate(
        &self,
        caller: Caller,
        file: &Self::File,
        mode: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<()>;
    /// Finds data or a hole.
    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64>;
    /// Copies inside the backing filesystem; may copy less than asked for.
    fn copy_range(
        &self,
        caller: Caller,
        source: (&Self::File, u64),
        target: (&Self::File, u64),
        bytes: u64,
    ) -> Result<u64>;

    /// Opens a directory for reading.
    fn open_dir(&self, object: &Self::Object) -> Result<Self::Dir>;
    /// Visits entries from `offset` (0, or an entry's `next_offset`) until
    /// `visit` returns false or the directory ends. The entry for which `visit`
    /// returned false is visited again by the next call.
    fn read_dir(
        &self,
        dir: &Self::Dir,
        offset: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()>;

    /// Value of an extended attribute.
    fn xattr(&self, object: &Self::Object, name: &OsStr) -> Result<Vec<u8>>;
    /// Names of all extended attributes, each ended by a zero byte.
    fn xattr_names(&self, object: &Self::Object) -> Result<Vec<u8>>;
    /// Sets an extended attribute; `flags` as in `setxattr(2)`.
    fn set_xattr(
        &self,
        caller: Caller,
        object: &Self::Object,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()>;
    /// Removes an extended attribute.
    fn remove_xattr(&self, object: &Self::Object, name: &OsStr) -> Result<()>;

    /// A program asks for `target` to be made durable, on this thread: before the request joins
    /// any group. A backing that fails on purpose answers it here; the others have
    /// nothing to say.
    ///
    /// # Errors
    /// The request is answered with this.
    fn asked_to_sync(&self, _caller: Caller, _target: &SyncTarget<Self>) -> Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }

    /// A fencer for the filesystem that this backing is on.
    fn fencer(&self) -> Self::Fencer;
    /// Which filesystem this backing is on; equal for all backings of an engine.
    fn filesystem_id(&self) -> u64;
    /// Sizes of the filesystem.
    fn stats(&self) -> Result<FsStats>;
    /// Makes everything on the filesystem durable, ours or not.
    fn sync_all(&self) -> Result<()>;

    // ---- what a log needs ----

    /// Why no log can be kept for this filesystem, in words for people; `None`
    /// if one can. A log relies on: metadata that survives in the order in which
    /// it was changed; data that write-back puts where it stays; objects that
    /// are found again by key after a reboot; times that keep nanoseconds.
    fn log_obstacle(&self) -> Option<String>;
    /// The object with this key, its device number aside, as
    /// `open_by_handle_at(2)` finds it; `ESTALE` if it is gone.
    fn by_key(&self, key: &ObjectKey) -> Result<Found<Self>>;
    /// Whether any two changes of an object, with a look at its attributes in
    /// between, give it different times of change. (Linux 6.13 on filesystems with
    /// multigrain timestamps; earlier a change within one clock tick does not show.)
    fn has_exact_times(&self) -> bool {
        false
    }
    /// Whether [`Self::copy_range`] may let two files share blocks instead of copying.
    fn may_share_blocks(&self) -> bool {
        false
    }
    /// Attributes of an open file.
    fn file_attr(&self, file: &Self::File) -> Result<Attr>;
    /// Length of an open file as far as it is known here, in bytes: no other machine is asked. 0 if it
    /// is not known.
    fn known_bytes(&self, file: &Self::File) -> u64 {
        self.file_attr(file).map_or(0, |attr| attr.size)
    }
    /// Starts to write a file's dirty pages to where they belong, without waiting.
    fn start_write_back(&self, file: &Self::File) -> Result<()>;
    /// Writes a file's dirty pages and waits until the device has them all, those
    /// that were dirtied while others were written included. Not durable: the
    /// device may hold them in its cache, and the blocks' place in the file is
    /// in the filesystem's journal at most. Tells a failed write-back once to
    /// every open file, as a sync does.
    fn finish_write_back(&self, file: &Self::File) -> Result<()>;
    /// As [`Self::start_write_back`], those that meet `within`; others may be among them.
    fn start_write_back_within(&self, file: &Self::File, _within: Range<u64>) -> Result<()> {
        self.start_write_back(file)
    }
    /// As [`Self::finish_write_back`], of those that meet `within`; others may be among them. Tells of a
    /// failed write-back also if there are none.
    fn finish_write_back_within(&self, file: &Self::File, _within: Range<u64>) -> Result<()> {
        self.finish_write_back(file)
    }
    /// Bytes of a file in memory that have not been written to where they belong, or are
    /// being written, in whole pages. 0 where that is not known.
    fn unwritten_bytes(&self, _file: &Self::File) -> Result<u64> {
        Ok(0)
    }
    /// Byte ranges of a file, in order, that have blocks of their own with data
    /// in them: not holes, not allocated and unwritten, not waiting for
    /// allocation, not shared with another file. Overwriting them in place
    /// changes no metadata. Only those that meet `within` are asked for: of others, and
    /// of very many those at the end, some may be missing. Ranges may reach past the end
    /// of `within` and of the file.
    fn settled(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>>;
    /// Byte ranges of a file that have blocks with data in them, shared or not, all of those that
    /// meet `within`: as [`Self::settled`] otherwise.
    fn allocated(&self, file: &Self::File, within: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.settled(file, within)
    }
    /// Whether a block that the filesystem allocates late ([`Self::delayed`]) is seen with what the page
    /// cache holds from then on, or as a hole: never with something older, nor after a write that failed.
    fn delays_allocation(&self) -> bool {
        false
    }
    /// Byte ranges of a file, of those that meet `within`, that wait for allocation: none of their
    /// content has left the page cache. None where that cannot be told.
    fn delayed(&self, _file: &Self::File, _within: Range<u64>) -> Result<Vec<Range<u64>>> {
        Ok(Vec::new())
    }
    /// Notes in the times of a file of ours that the stream was applied up to
    /// `lsn`: a metadata change like any other, unsynced, in the same order.
    fn set_marker(&self, file: &Self::File, lsn: u64) -> Result<()>;
    /// What [`Self::set_marker`] noted last.
    fn marker(&self, file: &Self::File) -> Result<u64>;
    /// Makes everything durable that the backing filesystem's device had been
    /// given before, without a journal commit; `file` is any file of ours that
    /// has no dirty data.
    fn flush_device(&self, file: &Self::File) -> Result<()>;
    /// What is different after each boot of the kernel.
    fn boot_id(&self) -> [u8; 16];
    /// Which mount of the backing filesystem this is: a number that no other mount gets
    /// in this boot, so that the filesystem has been mounted without a break as long as
    /// it stays the same. 0 if the system does not tell.
    fn mount_id(&self) -> u64;
    /// Makes a log of `bytes` (a multiple of [`LOG_BLOCK_BYTES`]) under a name
    /// that is free, every block written once, so that writing it again changes
    /// no metadata; durable when it returns, its name included. `progress` is
    /// called with the bytes written so far.
    fn make_log(
        &self,
        dir: &Self::Object,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self::Log>;
    /// Opens a log that was made before.
    fn open_log(&self, dir: &Self::Object, name: &OsStr) -> Result<Self::Log>;
}

/// Every byte that a file may have.
pub const WHOLE_FILE: Range<u64> = 0..u64::MAX;

/// What one sync request wants made durable. Owns what it names, so that a
/// parked request needs nobody else to keep the file open.
pub enum SyncTarget<B: Backing> {
    /// An open file's content.
    File(Arc<B::File>, SyncKind),
    /// A directory's names.
    Dir(Arc<B::Dir>),
}

impl<B: Backing> Clone for SyncTarget<B> {
    fn clone(&self) -> Self {
        match self {
            Self::File(file, kind) => Self::File(Arc::clone(file), *kind),
            Self::Dir(dir) => Self::Dir(Arc::clone(dir)),
        }
    }
}

/// How a [`Fencer`] may make a group durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FenceMethod {
    /// Write-back of all files started first, then one sync for each, in parallel.
    Parallel,
    /// One sync of the whole filesystem, then each file's error is looked up.
    WholeFs,
    /// The data of all files written, then one journal commit that covers all
    /// their metadata: only where the journal keeps its order.
    SharedCommit,
}

/// Makes groups durable on the platform.
pub trait Fencer<B: Backing>: Send + Sync + 'static {
    /// Whether `method` is known to work on the filesystem of these targets.
    fn supports(&self, method: FenceMethod) -> bool;
    /// Makes every target durable and says for each whether it is. One failed
    /// target does not hide the others' results.
    fn run(&self, method: FenceMethod, targets: &[SyncTarget<B>]) -> Vec<Result<()>>;
    /// Makes durable all metadata changed on the filesystem before the call and
    /// all data that its device had been given: [`FenceMethod::SharedCommit`] of
    /// nothing.
    fn commit(&self) -> Result<()>;
    /// Whether a commit takes one flush, so that it costs no more than the sync of a file that
    /// was overwritten. XFS writes its journal with one; ext4 needs one before and one after.
    fn commits_with_one_flush(&self) -> bool {
        false
    }
    /// Name of the mechanism in use, for status output.
    fn mechanism(&self) -> &'static str;
}
