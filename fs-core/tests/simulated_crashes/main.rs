//! The engine on a disk that loses power, simulated: thousands of crashes a
//! second, each one repeatable from one number.
//!
//! What is promised:
//! - [`campaign`]: whatever a sync through the engine has promised is there after
//!   every power cut, on four kinds of filesystem, with several programs at once,
//!   with two trees, and while syncs fail; above all, a directory that the engine
//!   says is durable without asking the disk has all its names. Bugs that are
//!   planted in the fence are found. ([`facts`] says what exactly is promised.)
//! - [`skipping`]: that answer is not given after any change.
//! - [`litmus`]: the simulated filesystems lose what the real ones may lose, and
//!   nothing else.
//! - [`platform`]: without power cuts they do what this machine's does.

mod campaign;
mod facts;
mod litmus;
mod platform;
mod skipping;
mod walk;
mod workload;
