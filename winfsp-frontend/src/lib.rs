//! The Windows mount of lanefs, and the parts of the `lanefs` command there.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`skin`] | WinFsp's callbacks: decode, a call into `fs_core`, encode |
//! | [`mount`] | a mount's life: options, engine, dispatcher, end |
//! | [`control`] | the pipe through which a running mount is asked and told |
//! | [`cli`] | the commands |
//!
//! Architecture invariant: no policy here. What an operation does and when a sync is answered is
//! decided in `fs_core`. On other systems than Windows the crate is empty.
//!
//! This crate is `GPL-3.0-only`, unlike the rest of the workspace, because the `winfsp` crate is.

/// What WinFsp's licence (GPLv3 with an exception for free software) asks programs to show.
pub const ATTRIBUTION: &str = "\
WinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos
https://github.com/winfsp/winfsp";

#[cfg(windows)]
pub mod cli;
#[cfg(windows)]
pub mod control;
#[cfg(windows)]
pub mod mount;
#[cfg(windows)]
pub mod skin;
#[cfg(windows)]
mod system;
