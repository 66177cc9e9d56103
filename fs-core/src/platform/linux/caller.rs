//! Whose files they are: ids, umask and capabilities of the working thread.
//!
//! Linux keeps credentials per thread (the C library only hides it), so a
//! worker can create a file as its caller while others do the same for theirs.
//! Created files belong to the caller from the first moment; changing the owner
//! afterwards would leave a window, and loses set-user-id bits.
//!
//! Two capabilities are put down on every working thread:
//! - `CAP_FSETID`, because FUSE hands the clearing of set-user-id bits to us
//!   (`FUSE_HANDLE_KILLPRIV_V2`) and the backing filesystem does it for a writer
//!   without that capability. It is taken up again where the kernel has already
//!   judged the caller (a mode with set-group-id, a write by the privileged).
//! - `CAP_SYS_RESOURCE`, so that quotas bind what we write for others.
//!
//! The other capabilities stay while a thread has its caller's ids
//! (`SECBIT_NO_SETUID_FIXUP`): permission was checked by the kernel on the
//! mount's side, with the caller's real groups, which we do not know.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::types::Caller;

/// What this process may do for others; found out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Privileges {
    /// All capabilities that impersonation needs.
    pub(super) full: bool,
    /// The threads are those of a program that uses the engine as a library: their
    /// ids, umask and capabilities are left alone.
    pub(super) guest: bool,
}

thread_local! {
    static PREPARED: Cell<bool> = const { Cell::new(false) };
    /// The thread's umask, if it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
    /// The ids that the thread goes back to.
    static OWN_IDS: (u32, u32) =
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
}

const PUT_DOWN: CapabilitySet = CapabilitySet::FSETID.union(CapabilitySet::SYS_RESOURCE);

impl Privileges {
    pub(super) fn detect() -> Self {
        let needed = CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::FOWNER
            | CapabilitySet::SETUID
            | CapabilitySet::SETGID
            | CapabilitySet::SETPCAP
            | CapabilitySet::SYS_ADMIN;
        // A thread that is prepared already has put some capabilities down, not these.
        let have = rustix::thread::capabilities(None).map(|sets| sets.effective);
        Self { full: have.is_ok_and(|have| have.contains(needed)), guest: false }
    }

    /// Nothing is done for others, and nothing to the threads.
    pub(super) const fn guest() -> Self {
        Self { full: false, guest: true }
    }

    /// Gives the calling thread its own umask (each creating call brings its
    /// caller's) and puts down what it must not use. Once for each thread.
    pub(super) fn prepare_thread(self) {
        if self.guest || PREPARED.replace(true) {
            return;
        }
        // SAFETY: CLONE_FS concerns only the calling thread's own current
        // directory, root and umask; no descriptor table is unshared.
        let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) };
        if let Err(error) = unshared {
            tracing::warn!(%error, "cannot unshare the umask; created files get the daemon's");
        } else {
            rustix::process::umask(Mode::empty());
            UMASK.set(Some(0));
        }
        if !self.full {
            return;
        }
        let fixup = rustix::thread::capabilities_secure_bits().and_then(|bits| {
            let bits = bits | rustix::thread::CapabilitiesSecureBits::NO_SETUID_FIXUP;
            rustix::thread::set_capabilities_secure_bits(bits)
        });
        if let Err(error) = fixup.and_then(|()| set_effective(PUT_DOWN, false)) {
            tracing::error!(%error, "cannot adjust the thread's capabilities");
        }
    }

    /// Takes the caller's ids until the guard is dropped.
    pub(super) fn enter(self, caller: Caller, keep_setid: bool) -> AsCaller {
        let keep = (self.full && keep_setid).then(|| self.keep_setid());
        let foreign = self.full && OWN_IDS.with(|own| *own != (caller.uid, caller.gid));
        if foreign {
            set_fs_ids(caller.uid, caller.gid);
        }
        AsCaller { foreign, _keep: keep }
    }

    /// As [`Self::enter`], with the caller's umask too. That stays until the next one
    /// comes: whatever creates something for a caller comes through here.
    pub(super) fn enter_to_create(self, caller: Caller, umask: u32, keep_setid: bool) -> AsCaller {
        let umask = umask & 0o777;
        if !self.guest && UMASK.get() != Some(umask) {
            rustix::process::umask(Mode::from_raw_mode(umask));
            UMASK.set(UMASK.get().map(|_| umask));
        }
        self.enter(caller, keep_setid)
    }

    /// Takes the caller's ids for a change of a file's content: whether it
    /// clears set-user-id and set-group-id bits is judged by the caller's group
    /// and, for the superuser, by the capability that it has.
    pub(super) fn enter_to_change(self, caller: Caller) -> AsCaller {
        self.enter(caller, caller.uid == 0)
    }

    /// Takes `CAP_FSETID` up until the guard is dropped.
    pub(super) fn keep_setid(self) -> KeepSetid {
        if self.full {
            let _ = set_effective(CapabilitySet::FSETID, true);
        }
        KeepSetid { active: self.full }
    }
}

/// The thread has its caller's ids while this lives.
pub(super) struct AsCaller {
    foreign: bool,
    _keep: Option<KeepSetid>,
}

impl Drop for AsCaller {
    fn drop(&mut self) {
        if self.foreign {
            OWN_IDS.with(|own| set_fs_ids(own.0, own.1));
        }
    }
}

/// The thread has `CAP_FSETID` while this lives.
pub(super) struct KeepSetid {
    active: bool,
}

impl Drop for KeepSetid {
    fn drop(&mut self) {
        if self.active {
            let _ = set_effective(CapabilitySet::FSETID, false);
        }
    }
}

/// The ids that the kernel uses for file access and ownership, of this thread only.
fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: both calls take plain numbers and change only this thread. They
    // report no error; with CAP_SETUID and CAP_SETGID (checked in `detect`) and
    // valid ids they cannot fail.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

fn set_effective(which: CapabilitySet, on: bool) -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective.set(which & sets.permitted, on);
    rustix::thread::set_capabilities(None, sets)
}

/// Whether the process runs with user id 0.
#[must_use]
pub fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raises the soft limit of open files to the hard one and returns it: each
/// file that is open for writing on the mount costs one descriptor.
#[must_use]
pub fn raise_open_files_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum.unwrap_or(u64::MAX)
    } else {
        limit.current.unwrap_or(u64::MAX)
    }
}
