//! What depends on the operating system is where it belongs: in `platform` folders, in the
//! front-ends, in build files. Everything else is compiled for all of them.

use std::path::{Path, PathBuf};

use tests::workspace;

/// Crates that are for one system as a whole.
const SYSTEMS: [&str; 5] =
    ["fuse-frontend", "winfsp-frontend", "macfuse-notes", "tests", "packaging"];

/// Spellings of a question about the system. (This file asks none, and is not read.)
const QUESTIONS: [&str; 6] =
    ["cfg(windows", "cfg(unix", "target_os", "target_family", "cfg(not(windows", "cfg(not(unix"];

fn is_exempt(path: &Path) -> bool {
    path.iter().any(|part| part == "platform" || part == "platform.rs")
        || path.file_name().is_some_and(|name| name == "build.rs")
        || path.iter().next().is_some_and(|first| SYSTEMS.iter().any(|system| first == *system))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the workspace") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_platforms_and_front_ends_ask_for_the_system() {
    let root = workspace::root();
    let mut all = Vec::new();
    sources(&root, &mut all);
    let relative = |path: &PathBuf| path.strip_prefix(&root).expect("it is below").to_owned();
    let checked: Vec<_> = all.iter().filter(|path| !is_exempt(&relative(path))).collect();
    assert!(checked.len() > 100, "{} files: the workspace has moved", checked.len());
    let mut asking = Vec::new();
    for path in checked {
        let text = std::fs::read_to_string(path).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if QUESTIONS.iter().any(|question| code.contains(question)) {
                asking.push(format!(
                    "{}:{}: {}",
                    relative(path).display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(asking.is_empty(), "move this below a `platform` folder:\n{}", asking.join("\n"));
}

/// The two front-ends take their commands from one place.
#[test]
fn both_front_ends_share_the_command_definitions() {
    for front_end in ["fuse-frontend", "winfsp-frontend"] {
        let path = workspace::root().join(front_end).join("src/cli.rs");
        let text = std::fs::read_to_string(path).expect("the commands of a front-end");
        assert!(text.contains("Common(arguments::Command)"), "{front_end}");
        assert!(text.contains("CommonMountArgs"), "{front_end}");
        for own in
            ["struct UmountArgs", "struct StatusArgs", "struct RecoverArgs", "struct BenchArgs"]
        {
            assert!(!text.contains(own), "{front_end} has its own {own}");
        }
    }
}
