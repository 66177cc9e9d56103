//! What is known about lanefs on macOS: a page and no code. This crate compiles
//! on every platform to that page.
//!
//! The page is the crate's README, here as [`EXPLANATION`] so that a test can
//! hold it against the tree.

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

    /// What the page says is there is there, and nothing more is said than was done.
    #[test]
    fn what_it_calls_written_is_written() {
        let platform = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fs-core/src/platform");
        for part in ["macos.rs", "macos/fence.rs", "macos/log.rs"] {
            assert!(platform.join(part).exists(), "{part} has moved: bring the page up to date");
        }
    }
}
