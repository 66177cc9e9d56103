//! What we ask of the kernel when the mount begins.

use fs_core::platform::linux::LinuxBacking;
use fuser::{InitFlags, KernelConfig};

use super::SkinOptions;
use super::passthrough::Passthrough;

/// Largest read or write request in bytes (`fs.fuse.max_pages_limit` is 256 pages).
const REQUEST_BYTES_MAX: u32 = 1024 * 1024;
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

pub(super) fn negotiate(
    config: &mut KernelConfig,
    options: &SkinOptions,
    backing: &LinuxBacking,
    passthrough: &Passthrough,
) {
    for &flag in WANTED {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "the kernel does not offer this");
        }
    }
    // Makes the kernel judge permissions, so not for a mount that shall not.
    if options.default_permissions {
        let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
    }
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
    if passthrough.is_enabled() {
        let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        // 1 allows a plain filesystem below, 2 a stacked one; each level that we
        // take is one that cannot be stacked on top of us.
        let depth = if backing.is_stacked() { 2 } else { 1 };
        if !offered || config.set_max_stack_depth(depth).is_err() {
            passthrough.disable("the kernel does not offer it (Linux 6.9 and later do)");
        }
    }
}
