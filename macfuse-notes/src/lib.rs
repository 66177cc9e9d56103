//! What is known about lanefs on macOS: a page and no code. This crate compiles
//! on every platform to that page.
//!
//! The page is the crate's README, here as [`EXPLANATION`] so that a test can
//! hold it against the tree: once there is a macOS platform in `fs-core`, the
//! test fails until the page says so.

#![forbid(unsafe_code)]

/// The page: what is known, what was checked and where, what nobody has run.
pub const EXPLANATION: &str = include_str!("../README.md");

#[cfg(test)]
mod tests {
    use super::EXPLANATION;
    use std::path::Path;

    #[test]
    fn it_names_what_decides_the_work() {
        for fact in [
            "one thread",
            "No passthrough",
            "F_FULLFSYNC",
            "F_BARRIERFSYNC",
            "renamex_np",
            "macos-no-mount",
            "aarch64-apple-darwin",
            "Nobody has run",
        ] {
            assert!(EXPLANATION.contains(fact), "the page does not say: {fact}");
        }
    }

    /// Who begins with the macOS platform finds the page and brings it up to date.
    #[test]
    fn what_it_calls_missing_is_missing() {
        let platform = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fs-core/src/platform");
        assert!(platform.is_dir(), "fs-core's platform folder has moved: this test checks nothing");
        for part in ["macos.rs", "macos"] {
            assert!(!platform.join(part).exists(), "fs-core has {part} now: rewrite the page");
        }
    }
}
