//! The crash lab: what a power cut may do to a program's files.
//!
//! ```text
//! trace (what was done) -> steps (what may be lost one by one)
//!   -> model -> law (which crashes are legal) -> plan (which are worth a look)
//!   -> checks, by somebody else -> judge (findings, smallest witness, what would cure it)
//! ```
//!
//! Nothing here knows FUSE, processes or files: a trace goes in, states go out, verdicts
//! come in, findings go out. The same trace, models and seed give the same result.

pub mod artefact;
pub mod draw;
pub mod judge;
pub mod law;
pub mod model;
pub mod oracle;
pub mod plan;
pub mod state;
pub mod steps;
pub mod trace;
pub mod words;
