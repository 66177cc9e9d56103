//! The crash lab's side of the machine: running programs on a recording mount, laying
//! out crash states as directories, and running checkers on them.
//!
//! ```text
//! Lab (own mount namespace, scratch in memory)
//!   record: DIR copied -> Recorder -> FUSE -> APP sees it at DIR's own path -> Trace
//!   check:  N workers; each lays a state out at DIR's own path and runs CMD there
//! ```
//!
//! What is legal, what is worth a check and what a failure means is fs-core's
//! ([`fs_core::crash`]). Everything here happens in mount namespaces of our own: when the
//! process ends, however it ends, nothing of it is left mounted.

pub mod campaign;
pub mod check;
pub mod children;
pub mod lab;
pub mod layout;
pub mod nested;
mod network;
pub mod oracle;
pub mod record;
