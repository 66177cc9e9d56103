//! Values of flags and options, as people write them.

use fs_core::durability::Durability;
use fs_core::log::format::{LOG_BYTES_MAX, LOG_BYTES_MIN};

use crate::failure::Failure;

/// A durability mode.
///
/// # Errors
/// It is none.
pub fn durability(value: &str) -> Result<Durability, Failure> {
    value.parse().map_err(|error| Failure::usage(format!("{error}")))
}

/// A size of a log as people write it: `64M`, `1G`, or bytes.
///
/// # Errors
/// It is no size, or no log can be so large or so small.
pub fn log_bytes(value: &str) -> Result<u64, Failure> {
    let (digits, shift) =
        match value.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
            text if text.ends_with('K') => (text.trim_end_matches('K').to_owned(), 10),
            text if text.ends_with('M') => (text.trim_end_matches('M').to_owned(), 20),
            text if text.ends_with('G') => (text.trim_end_matches('G').to_owned(), 30),
            text => (text.to_owned(), 0),
        };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => {
            Err(Failure::usage(format!("log size {value}: give a size from 4M to 1024G, like 64M")))
        }
    }
}

/// A whole number of a mount option.
///
/// # Errors
/// It is none, or not from `min` to `max`.
pub fn number(name: &str, value: &str, min: usize, max: usize) -> Result<usize, Failure> {
    match value.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(Failure::usage(format!(
            "mount option {name}={value}: give a whole number from {min} to {max}"
        ))),
    }
}
