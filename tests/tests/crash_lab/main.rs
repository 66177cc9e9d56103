//! Promise: `lanefs crash-test` finds what is known to be wrong with real programs, finds nothing
//! where nothing is wrong, and can be trusted in what it says.

mod command;
mod lab;
mod programs;
mod soundness;
mod trust;
