//! Promise: each durability mode keeps what it says, over every fence and both transports.
//!
//! - `modes`: a power cut right after a call has returned takes nothing that the mode promises; the
//!   same cut in the mode `fsync` does, so the test can fail.

mod modes;
mod stage;
