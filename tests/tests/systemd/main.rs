//! Promise: systemd is told the truth, its units work, and a mount can be a line in fstab or a
//! service with a watchdog.
//!
//! `notify` plays the manager; the rest has a real systemd as process 1 of a machine of its own.

mod notify;
mod services;
