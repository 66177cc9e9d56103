//! The filesystems that are tried.

pub use crate::filesystem::Filesystem;
