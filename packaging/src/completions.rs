//! Completions for bash, zsh and fish.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use fuse_frontend::cli::Cli;

use crate::{Result, fresh, save};

/// Writes `lanefs` (bash), `_lanefs` (zsh) and `lanefs.fish`.
pub fn write(directory: &Path) -> Result<()> {
    fresh(directory)?;
    for (shell, name) in
        [(Shell::Bash, "lanefs"), (Shell::Zsh, "_lanefs"), (Shell::Fish, "lanefs.fish")]
    {
        let mut text = Vec::new();
        generate(shell, &mut Cli::command(), "lanefs", &mut text);
        save(&directory.join(name), &text)?;
    }
    Ok(())
}
