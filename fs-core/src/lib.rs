//! The lanefs engine: atomic operations, sync lanes and fences over a backing
//! directory.
//!
//! Bird's-eye view, top to bottom; each layer knows only those below it:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`batch`] | [`batch::Files`]: crash-safe files for Rust programs, without a mount |
//! | [`engine`] | [`engine::Engine`] (one per backing filesystem) and [`engine::Tree`] (one per mount): applies operations, knows objects, hands sync requests to the lanes |
//! | [`durability`] | what a mount promises beside what programs ask for; pure |
//! | [`lane`] | the solo lane and the group lane: who travels with whom, and when a group leaves |
//! | [`fence`] | how a group becomes durable |
//! | [`crash`] | the crash lab: what a power cut may do to a program; uses none of the above |
//! | [`faults`] | failures on purpose: which operation fails, and how; pure |
//! | [`platform`] | the one door to the disk, and the only place with `unsafe` |
//!
//! Architecture invariants: nothing here names FUSE, WinFsp or a command line;
//! nothing above `platform` makes a system call.

#![deny(unsafe_code)]

pub mod batch;
pub mod crash;
pub mod durability;
pub mod engine;
pub mod error;
pub mod faults;
pub mod fence;
pub mod lane;
pub mod log;
#[allow(unsafe_code)]
pub mod platform;
mod sync;
pub mod thread;
pub mod types;
