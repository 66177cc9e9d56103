//! The engine with its log on a disk that loses power, simulated: ten thousand
//! crashes a second, each one recovered and compared with what programs were
//! promised, each one repeatable from one number.
//!
//! - [`campaign`]: many seeds lose nothing; every rule that is left out is found.
//! - [`workload`]: programs that work on one filesystem, cuts of the power between
//!   and within their syncs, daemons that are killed, recoveries that are cut too.
//! - [`facts`], [`content`]: what was promised, and whether it holds.
//! - [`model`], [`shape`]: the tree as it should be, and as it is found; compared by
//!   path and by hard links, because recovery may make objects anew.
//! - [`disk`]: small logs, so that they wrap and fill.
//! - [`rewrites`]: files rewritten in place are old or new.
//! - [`library`]: the library for Rust programs on such disks.
//! - [`direct`]: single cases: damage to a log, and bugs that were fixed.

mod campaign;
mod content;
mod direct;
mod disk;
mod facts;
mod library;
mod model;
mod rewrites;
mod shape;
mod workload;
