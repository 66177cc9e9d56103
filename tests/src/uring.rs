//! The kernel's switch for FUSE over io_uring.

use std::fs::{self, File};
use std::path::Path;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
// Not in the target folder: the switch belongs to the machine, whoever tests on it.
const LOCK: &str = "/tmp/lanefs-tests-enable_uring.lock";

/// The switch as a test wants it; dropped, it is as it was. One test at a time.
pub struct Switch {
    before: String,
    _lock: File,
}

impl Switch {
    /// Sets it. `None`, with the reason on standard error, where the kernel has none: a test then
    /// has nothing to ask and returns.
    #[must_use = "it is set back when this is dropped"]
    pub fn set(on: bool) -> Option<Self> {
        if !Path::new(PARAMETER).exists() {
            eprintln!("skipped: this kernel has no FUSE over io_uring ({PARAMETER})");
            return None;
        }
        let lock = File::create(LOCK).expect("a lock file");
        lock.lock().expect("a lock that comes free");
        let before = fs::read_to_string(PARAMETER).expect("the switch");
        fs::write(PARAMETER, if on { "Y" } else { "N" }).expect("root may set the switch");
        Some(Self { before, _lock: lock })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = fs::write(PARAMETER, self.before.trim()) {
            eprintln!("cannot set {PARAMETER} back to {}: {error}", self.before);
        }
    }
}
