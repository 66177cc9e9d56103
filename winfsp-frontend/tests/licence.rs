//! What WinFsp's licence and the winfsp crate's ask for, in all the places where it must be.

use std::path::Path;

use winfsp_frontend::ATTRIBUTION;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn this_crate_is_gpl_and_nothing_depends_on_it() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "GPL-3.0-only");
    let text = read("winfsp-frontend/LICENSE");
    assert!(text.contains("GNU GENERAL PUBLIC LICENSE") && text.contains("Version 3,"));
    for manifest in ["fs-core", "commands", "fuse-frontend", "tests", "packaging"] {
        let text = read(&format!("{manifest}/Cargo.toml"));
        assert!(!text.contains("winfsp"), "{manifest} would be GPL-3.0-only");
    }
}

#[test]
fn winfsp_is_named_where_its_licence_says() {
    let words: Vec<&str> = ATTRIBUTION.split_whitespace().collect();
    for place in ["README.md", "docs/windows.md", "winfsp-frontend/src/cli.rs"] {
        let text = read(place).replace("\\n", " ").replace(['"', ','], " ");
        let text: Vec<&str> = text.split_whitespace().collect();
        let text = text.join(" ");
        assert!(
            text.contains("WinFsp - Windows File System Proxy Copyright (C) Bill Zissimopoulos"),
            "{place}"
        );
        assert!(text.contains(words.last().expect("an address")), "{place}");
    }
}
