//! The Windows mount of lanefs: not written yet. This crate compiles on every
//! platform to an explanation of what it will be.
//!
//! [`EXPLANATION`] says what the crate is for, what is known about WinFsp and
//! what is missing. It is a constant and not only a comment, so that a test can
//! hold it against the tree: once there is a Windows platform in `fs-core`, or
//! another licence in the manifest, the test fails until the text is right.
//!
//! This crate is `GPL-3.0-only`, unlike the rest of the workspace, because the
//! `winfsp` crate that it is made for is.

#![forbid(unsafe_code)]

/// What this crate will be, what is known, and what is not done. Plain text.
pub const EXPLANATION: &str = "\
winfsp-frontend: the Windows mount of lanefs. Nothing of it is built yet.

What it will be
  A thin skin over fs-core, as fuse-frontend is on Linux: each WinFsp callback
  decodes, makes one call into the engine, and encodes. fs-core names no WinFsp
  type; this crate depends on it, never the reverse.

What is known (read in the sources, or tried with a cross-compiler and wine)
  - The winfsp crate 0.13.2 is GPL-3.0-only, so any binary with it is, and so is
    this crate. winfsp_wrs (MIT) or an own raw-dylib FFI would allow another
    licence; WinFsp itself is GPLv3 with a FLOSS exception that asks for an
    attribution in the program and in its documentation.
  - From Debian 12: check, clippy, build and unit tests under wine work for
    x86_64-pc-windows-gnu, check and clippy for x86_64-pc-windows-msvc, with
    Debian's rustc-web packages and -Zbuild-std. The winfsp crate then needs its
    feature `docsrs` (bundled bindings).
  - WinFsp answers Flush synchronously: only Read, Write and ReadDirectory may be
    answered later. A parked FlushFileBuffers therefore holds a dispatcher
    thread. The thread count must be set explicitly from what the lanes need,
    and a committer thread must lead the groups, not a dispatcher thread.
  - Flush of a volume is exclusive.

What is missing
  - fs-core has no Windows platform: atomic replace, durable directories and file
    ids have no Windows code, and it is not known whether fs-core compiles there.
  - Nobody has mounted anything with the WinFsp driver: wine loads WinFsp's DLL
    but has no driver.
";

#[cfg(test)]
mod tests {
    use super::EXPLANATION;
    use std::path::Path;

    #[test]
    fn it_names_what_decides_the_work() {
        for fact in [
            "fs-core",
            "winfsp crate 0.13.2 is GPL-3.0-only",
            "Flush synchronously",
            "x86_64-pc-windows-gnu",
            "x86_64-pc-windows-msvc",
            "Nothing of it is built yet",
        ] {
            assert!(EXPLANATION.contains(fact), "the explanation does not say: {fact}");
        }
    }

    /// The licence is said in three places; they must not come apart.
    #[test]
    fn the_licence_is_what_the_explanation_says() {
        assert_eq!(env!("CARGO_PKG_LICENSE"), "GPL-3.0-only");
        let text = include_str!("../LICENSE");
        assert!(text.contains("GNU GENERAL PUBLIC LICENSE") && text.contains("Version 3,"));
    }

    /// Who begins with the Windows platform finds this text and brings it up to date.
    #[test]
    fn what_it_calls_missing_is_missing() {
        let platform = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fs-core/src/platform");
        assert!(platform.is_dir(), "fs-core's platform folder has moved: this test checks nothing");
        for part in ["windows.rs", "windows"] {
            assert!(!platform.join(part).exists(), "fs-core has {part} now: rewrite EXPLANATION");
        }
    }
}
