//! Known findings: a file of lines, one for each, that do not count any more.
//!
//! A line says the class and the sentence, with numbers and random names starred, so that it
//! holds for the next run, too. Lines that begin with `#` are for people.

use std::collections::BTreeSet;
use std::path::Path;

use crate::failure::Failure;

/// Reads the file; one that is not there has no lines.
pub(super) fn read(path: &Path) -> Result<BTreeSet<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let lines = text.lines().map(str::trim);
            Ok(lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => {
            Err(Failure::usage(format!("cannot read the baseline {}: {error}", path.display())))
        }
    }
}

/// Writes what is known now.
pub(super) fn write(path: &Path, known: &BTreeSet<String>) -> Result<(), Failure> {
    let mut text = String::from("# Known findings of `lanefs crash-test`: they do not count.\n");
    for line in known {
        text.push_str(line);
        text.push('\n');
    }
    std::fs::write(path, text)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}
