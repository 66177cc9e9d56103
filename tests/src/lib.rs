//! What the integration tests of lanefs stand on.
//!
//! A test here sees lanefs as a user does: it runs the `lanefs` command, works on the mount with
//! unmodified programs, and looks at the backing directory and the block device from outside.
//!
//! The parts, from the bottom up:
//! - [`run`] runs a program with a deadline; [`scratch`] gives a private directory that is cleaned
//!   up even after a killed test run; [`workspace`] knows where things lie.
//! - [`tools`] brings programs that are missing (Debian packages, cargo tools); [`binary`] builds
//!   `lanefs` itself; [`require`] says what the machine must offer.
//! - [`filesystem`] knows how filesystems are made; [`loopfs`] makes one on a loop device of its
//!   own; [`mounted`] mounts lanefs on a directory; [`subject`] is both together and what most tests
//!   start from.
//! - [`replace`], [`direct`], [`mapping`], [`random`] are workloads and their ingredients; [`actor`]
//!   is a second process, possibly of another user; [`watchdog`] ends what hangs; [`leftovers`] looks
//!   for what should be gone; [`uring`] is the kernel's switch for FUSE over io_uring.
//! - [`machine`] is a machine of a test's own, with systemd if need be, for what is installed.
//! - [`contest`] lets the bare filesystem and lanefs take turns; [`baseline`], [`performance`] and
//!   [`powercut`] are the commands of `cargo run -p tests`.
//!
//! Environment:
//! - `LANEFS_SKIP_MOUNT_TESTS=1`: a test that cannot run here says why and passes.
//! - `LANEFS_TEST_SUBJECT=bare`: no lanefs at all, the tests run on a plain ext4 directory. What
//!   fails then is the machine or the test, not lanefs.
//! - `LANEFS_BIN=PATH`: test this binary instead of building one.
//! - `LANEFS_TEST_OPTIONS=OPTIONS`: mount options for every mount, in front of the test's own.
//! - `LANEFS_FSX_OPS=N`: operations of each fsx run; `LANEFS_LONG=1`: the long variants.

pub mod actor;
pub mod baseline;
pub mod binary;
pub mod contest;
pub mod direct;
pub mod disk;
pub mod filesystem;
pub mod leftovers;
#[cfg(feature = "library")]
pub mod libraries;
pub mod loopfs;
pub mod machine;
pub mod mapping;
pub mod mounted;
pub mod muddle;
pub mod performance;
pub mod powercut;
pub mod random;
pub mod replace;
pub mod require;
pub mod run;
pub mod scratch;
pub mod subject;
pub mod tools;
pub mod uring;
pub mod watchdog;
pub mod workspace;

/// True when the long variants of the tests are wanted (`LANEFS_LONG=1`).
pub fn long_run() -> bool {
    std::env::var_os("LANEFS_LONG").is_some_and(|value| value == "1")
}
