//! `lanefs demo`.
use super::DemoArgs;
use crate::failure::Failure;
pub(super) fn run(_args: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::new("not yet"))
}
