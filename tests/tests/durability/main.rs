//! Promise: each durability mode keeps what it says, over every fence and both transports.
//!
//! - `modes`: a power cut right after a call has returned takes nothing that the mode promises; the
//!   same cut in the mode `fsync` does, so the test can fail.
//! - `late`: what nobody waits for is durable when the commit interval or the mode `relaxed` says,
//!   and costs nothing where there is nothing; a running mount can be told otherwise.
//! - `large`: what large files wait for, nobody else waits for.
//! - `settings`: flag, variable and file agree, rules hold for parts of a mount, mistakes are named,
//!   and what a cut would lose is said.

mod large;
mod late;
mod modes;
mod settings;
mod stage;
