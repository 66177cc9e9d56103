//! Volumes for containers: `lanefs volume-plugin`.
//!
//! ```text
//!   dockerd, podman --- HTTP over a Unix socket ---> plugin   http, driver, state
//!                                                      |  one line of JSON each way (wire, client)
//!   containers -------- FUSE, one mount each ------> engine   engine, session
//!                                                      |
//!                                                    ROOT: one fs_core engine, one log
//! ```
//!
//! All volumes below a root are trees of one engine, so fsyncs of different containers travel in
//! one group. The engine is a process of its own: it goes on while the plugin is restarted, upgraded or
//! killed, and containers notice nothing. When the engine itself dies, the plugin starts another one,
//! which recovers and mounts every used volume again; containers that had one of the dead mounts get
//! ENOTCONN until they are restarted (docs/containers.md).
//!
//! | module | what it does |
//! | --- | --- |
//! | [`http`] | the protocol |
//! | [`driver`] | what calls mean, in which order things are done |
//! | [`options`] | what can be said of a volume |
//! | [`state`] | what is kept over restarts |
//! | [`layout`] | where things lie; which directories can be volumes |
//! | [`in_use`] | who really uses a mount, by the kernel's account |
//! | `purge` | removing files |
//! | `client`, `wire` | plugin and engine talk |
//! | [`engine`], `session` | the engine's process, one volume's mount |

mod client;
pub mod driver;
pub mod engine;
pub mod http;
pub mod in_use;
pub mod layout;
pub mod options;
mod purge;
mod session;
pub mod state;
mod wire;
