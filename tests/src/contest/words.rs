//! What the commands say, and how.

use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

/// The name of a choice on command lines, in tables and in results.
pub fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().expect("none is hidden").get_name().to_owned()
}

/// What the help text says of it.
pub fn story(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value().expect("none is hidden");
    value.get_help().expect("each has one").to_string()
}

/// The load of the machine: the average of the last minute.
pub fn load() -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().unwrap_or_default().to_owned()
}

/// What is said of that below figures.
pub fn load_before(load: &str) -> String {
    format!(
        "load of the machine before: {load} (from 1 on others were at work, and times are noise)"
    )
}

/// Writes on standard output, at once.
///
/// # Errors
/// Nobody takes it; the message says so.
pub fn print(text: &str) -> Result<(), String> {
    let mut output = io::stdout().lock();
    let printed = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    printed.map_err(|error| format!("cannot print the results: {error}"))
}

/// Progress on standard error; none beside JSON.
pub fn progress_bar(json: bool, steps: u64) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {bar:24} {percent:>3}%  {eta} left  {msg}");
    let style = style.expect("the template is constant and valid");
    let progress = ProgressBar::new(steps).with_style(style);
    progress.enable_steady_tick(Duration::from_millis(500));
    progress
}
