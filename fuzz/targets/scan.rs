//! Bytes as orders: what to write into a log, and how to spoil it before it is scanned.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lanefs_fuzz::checks::check_scan(data));
