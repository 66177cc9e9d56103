//! Running `lanefs crash-test` in a directory of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::run::Outcome;
use tests::scratch::Scratch;
use tests::{binary, run};

const DEADLINE: Duration = Duration::from_secs(300);

/// A directory under test, and files beside it.
pub struct Lab {
    scratch: Scratch,
}

/// What a campaign found.
#[derive(Debug)]
pub struct Report {
    pub json: Value,
}

impl Lab {
    pub fn new() -> Self {
        let scratch = Scratch::new(64);
        fs::create_dir(scratch.path().join("dir")).expect("mkdir");
        Lab { scratch }
    }

    /// The directory under test.
    pub fn dir(&self) -> PathBuf {
        self.scratch.path().join("dir")
    }

    /// A file beside it.
    pub fn beside(&self, name: &str, content: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::write(&path, content).expect("write");
        path
    }

    /// `lanefs crash-test` in the directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::lanefs());
        command.arg("crash-test").args(arguments).current_dir(self.dir());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run::run(&mut self.command(arguments), DEADLINE)
    }

    /// Records `program` (a shell script) and checks with `check` (another); the report.
    #[track_caller]
    pub fn test(&self, models: &str, check: &str, program: &str) -> Report {
        let (program, check) = (self.beside("program.sh", program), self.beside("check.sh", check));
        let check = format!("sh {}", check.display());
        let program = program.to_str().expect("plain text");
        self.report(&["--json", "--model", models, "--check", &check, "--", "sh", "-e", program])
    }

    #[track_caller]
    pub fn report(&self, arguments: &[&str]) -> Report {
        let outcome = self.run(arguments);
        let json: Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("no report: {error}\n{}", outcome.describe()));
        let found = !json["findings"].as_array().expect("an array").is_empty();
        assert_eq!(outcome.status.code(), Some(i32::from(found)), "{}", outcome.describe());
        assert_eq!(json["replay_identical"], true, "{json:#}");
        assert_eq!(json["program_failed"], Value::Null, "{json:#}");
        assert_eq!(json["checker_refuses_without_crash"], Value::Null, "{json:#}");
        assert_eq!(json["cut_short"], Value::Null, "{json:#}");
        Report { json }
    }
}

impl Report {
    /// Each finding as `class sentence`, numbers and random names starred; of one model if named.
    pub fn findings(&self, model: Option<&str>) -> Vec<String> {
        let findings = self.json["findings"].as_array().expect("an array").iter();
        findings
            .filter(|finding| {
                let models = finding["models"].as_array().expect("an array");
                model.is_none_or(|model| models.iter().any(|of| of == model))
            })
            .map(|finding| {
                let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
                format!("{} {}", text("class"), text("sentence"))
            })
            .collect()
    }

    /// Fails the test unless there is nothing.
    #[track_caller]
    pub fn expect_clean(&self, models: &str) {
        for model in models.split(',') {
            assert!(self.findings(Some(model)).is_empty(), "{model}: {:#}", self.json);
        }
    }

    /// Fails the test unless exactly these are found under a model; each is what a finding must
    /// contain.
    #[track_caller]
    pub fn expect(&self, models: &str, expected: &[&[&str]]) {
        for model in models.split(',') {
            let mut found = self.findings(Some(model));
            for words in expected {
                let place = found.iter().position(|text| words.iter().all(|w| text.contains(w)));
                let place = place.unwrap_or_else(|| {
                    panic!("{model}: nothing says {words:?} in {found:#?}\n{:#}", self.json)
                });
                found.remove(place);
            }
            assert!(found.is_empty(), "{model}: also {found:#?}");
        }
    }
}

pub fn left_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("opendir").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
