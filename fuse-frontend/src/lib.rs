//! The Linux mount of lanefs and the parts of the `lanefs` command.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`skin`] | the FUSE side: decode a request, one call into `fs_core`, encode the reply |
//! | [`ring`] | the second transport: requests through io_uring |
//! | [`mount`] | a mount's life: checks, the kernel's mount, daemon, shutdown |
//! | [`faults`] | a mount that fails on purpose |
//! | [`config`] | settings from a file and the environment |
//! | [`control`] | the socket through which a running mount is asked and told |
//! | [`metrics`] | its figures for Prometheus |
//! | [`logging`] | what is written of what happens |
//! | [`volumes`] | volumes for containers |
//! | [`supervisor`] | what systemd is told: ready, alive, ending |
//! | [`mount_helper`] | the command as mount(8) and umount(8) call it |
//! | [`cli`] | the commands, and of the command line what only Linux has |
//!
//! Architecture invariant: no policy here. What an operation does and when a
//! sync is answered is decided in `fs_core`.

#![deny(unsafe_code)]

pub mod cli;
pub mod control;
pub mod crash;
pub mod faults;
pub mod logging;
pub mod metrics;
pub mod mount;
pub mod mount_helper;
pub mod ring;
pub mod skin;
pub mod supervisor;
pub mod volumes;

pub use commands::{config, failure};
