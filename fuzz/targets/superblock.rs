//! A block as a superblock.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lanefs_fuzz::checks::check_superblock(data));
