//! Promise: containers get volumes that share their fsyncs and are never lost, stuck or left in use.
//!
//! - `protocol`: the nine calls through the socket as Docker and as Podman make them, repeated and out
//!   of order, with every option, mistakes named.
//! - `crashes`: plugin, engine and both killed between calls and while they are under way; what is
//!   acknowledged stays, files stay, nobody stays "in use".
//! - `power`: the machine's power cut under two volumes that share a log.
//! - `engines`: the same with a real dockerd and podman, killed at every step.
//! - `sharing`: flushes for each fsync of 20 containers, against bind mounts.

mod crashes;
mod engines;
mod plugin;
mod power;
mod protocol;
mod runtime;
mod sharing;
