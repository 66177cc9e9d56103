//! Promise: each persistence model allows exactly the outcomes that its source says.
//!
//! The programs are the litmus tests of Ferrite (ASPLOS'16) and what follows from the
//! manual pages; every outcome of every crash is listed, none more and none less.

mod artefact;
mod litmus;
mod random;
mod script;
