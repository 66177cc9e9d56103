//! The `lanefs` command as every front-end has it: its arguments, settings, exit codes, and how
//! things are shown.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`arguments`] | arguments and help texts |
//! | [`values`] | sizes, modes and numbers, as people write them |
//! | [`config`] | settings from a file and the environment |
//! | [`failure`] | one line and an exit code |
//! | [`bench`], [`config_check`] | commands that are the same everywhere |
//! | [`protocol`] | what a running mount is asked and told |
//! | [`report`], [`status`], [`recovery`] | what is reported, as JSON and as text |
//! | [`table`] | plain tables, and printing |
//!
//! Architecture invariant: nothing here mounts, and nothing here knows a platform.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod bench;
pub mod config;
pub mod config_check;
pub mod failure;
pub mod protocol;
pub mod recovery;
pub mod report;
pub mod status;
pub mod table;
pub mod values;
