//! Links WinFsp so that its DLL is loaded when it is first needed: the command answers `--help` and
//! serves a library's user without it, says what to install, and tests start.
//!
//! With Microsoft's linker `winfsp-sys` asks for that itself. With MinGW an import library that
//! loads late is made here, by `dlltool`, from the list of functions in `winfsp-x64.def`.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=winfsp-x64.def");
    println!("cargo:rerun-if-env-changed=DLLTOOL");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "windows" || target("ENV") != "gnu" {
        return;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let tool = std::env::var("DLLTOOL").unwrap_or("x86_64-w64-mingw32-dlltool".to_owned());
    let made = Command::new(&tool)
        .args(["--machine", "i386:x86-64", "--input-def", "winfsp-x64.def", "--output-delaylib"])
        .arg(out.join("libwinfsp-delayed.a"))
        .status();
    assert!(
        made.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{tool} cannot make the import library of WinFsp ({made:?}): install binutils-mingw-w64-x86-64"
    );
    // As arguments, and so behind everything that calls it.
    println!("cargo:rustc-link-arg={}", out.join("libwinfsp-delayed.a").display());
    // `__delayLoadHelper2` is in there.
    println!("cargo:rustc-link-arg=-lmingwex");
    println!("cargo:rustc-link-arg=-lmsvcrt");
    println!("cargo:rustc-link-arg=-lkernel32");
}
