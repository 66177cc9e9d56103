//! The commit log: what a group of sync requests leaves behind instead of a
//! journal commit.
//!
//! (The story is written here when its parts are.)

pub mod format;
pub mod record;
