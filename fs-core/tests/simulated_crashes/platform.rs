//! What is compared with a real filesystem.

#[cfg(target_os = "linux")]
mod differential;
