//! Errors that end a command: one line with the cause and the remedy, and the
//! exit code that scripts rely on.

use std::fmt;

/// Exit code: something that should have worked did not.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code: the command was used wrongly; nothing was tried.
pub const EXIT_USAGE: u8 = 2;

/// A command's failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What the process exits with.
    pub exit_code: u8,
    /// Cause and remedy, one line.
    pub message: String,
}

impl Failure {
    /// The command was used wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_USAGE, message: message.into() }
    }

    /// Something failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_FAILURE, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
