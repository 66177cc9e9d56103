//! The `lanefs` command on Windows.

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    winfsp_frontend::cli::main()
}

/// The Linux command is fuse-frontend's.
#[cfg(not(windows))]
fn main() -> std::process::ExitCode {
    eprintln!("lanefs: this is the command for Windows; here it is `cargo run -p fuse-frontend`");
    std::process::ExitCode::from(2)
}
