//! What is as it is because of the platform.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod logged;
