//! What we ask of the kernel when the mount begins.

use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{InitFlags, KernelConfig};

use super::{REQUEST_BYTES_MAX, Served, Skin};

/// Background requests (read-ahead, write-back, release) that may be under way.
const BACKGROUND_REQUESTS_MAX: u16 = 128;

/// Flags that we want wherever the kernel offers them.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Without it every write first asks for `security.capability`.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // The backing filesystem applies the umask, or a default ACL instead of it.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// What of the transport is settled in the handshake.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Rings are ready to be registered right after the handshake.
    ring_wanted: bool,
    /// The kernel will send requests through them, once all are registered.
    ring_agreed: AtomicBool,
    /// A predecessor of this program has made the handshake with the kernel.
    resumed: bool,
    /// The kernel can send requests again that were read and not answered (Linux 6.9).
    resends: AtomicBool,
}

impl Agreement {
    /// Before the handshake; `ring_wanted` only if rings are ready to be registered: the
    /// kernel holds all requests back until they are.
    #[must_use]
    pub fn new(ring_wanted: bool) -> Self {
        Self { ring_wanted, ..Self::default() }
    }

    /// For a session that a predecessor of this program has begun.
    #[must_use]
    pub fn resumed() -> Self {
        Self { resumed: true, resends: AtomicBool::new(true), ..Self::default() }
    }

    /// After the handshake: whether the kernel can send requests again.
    #[must_use]
    pub fn resends(&self) -> bool {
        self.resends.load(Ordering::Acquire)
    }

    /// After the handshake.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.ring_agreed.load(Ordering::Acquire)
    }

    fn negotiate(&self, config: &mut KernelConfig) {
        let agreed =
            self.ring_wanted && config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok();
        self.ring_agreed.store(agreed, Ordering::Release);
    }
}

pub(super) fn negotiate<B: Served>(
    config: &mut KernelConfig,
    skin: &Skin<B>,
    agreement: &Agreement,
) {
    if agreement.resumed {
        // This is our own side of a socket (`mount/restart/session.rs`); the kernel was told.
        return;
    }
    let resends = config.capabilities().contains(InitFlags::FUSE_HAS_RESEND);
    agreement.resends.store(resends, Ordering::Release);
    for &flag in WANTED {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "the kernel does not offer this");
        }
    }
    // Makes the kernel judge permissions, so not for a mount that shall not.
    if skin.options.default_permissions {
        let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
    }
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
    let passthrough = &skin.passthrough;
    if passthrough.is_enabled() {
        let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        // 1 allows a plain filesystem below, 2 a stacked one; each level that we
        // take is one that cannot be stacked on top of us.
        let depth = if skin.tree.backing().is_stacked() { 2 } else { 1 };
        if !offered || config.set_max_stack_depth(depth).is_err() {
            passthrough.disable("the kernel does not offer it (Linux 6.9 and later do)");
        }
    }
    agreement.negotiate(config);
}
