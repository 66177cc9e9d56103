//! Bytes that say whose they are: every sector is unlike every other one ever written.

use crate::random::Random;

/// Contents are written and judged in these units: what a disk writes whole.
pub const SECTOR_BYTES: usize = 512;

/// The bytes of sector `sector` as step `step` of an actor writes it.
pub fn sector(seed: u64, actor: u32, step: u64, sector: u64) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    let key = [seed, u64::from(actor), step, sector];
    let mixed = key.iter().fold(0x51_7c_c1_b7_27_22_0a_95_u64, |state, word| {
        (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    Random::new(mixed).fill(&mut bytes);
    bytes
}

/// The bytes of `count` sectors from `first` on.
pub fn sectors(seed: u64, actor: u32, step: u64, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count as usize * SECTOR_BYTES);
    (first..first + count).for_each(|index| bytes.extend(sector(seed, actor, step, index)));
    bytes
}

/// The bytes from `offset` on, as step `step` of an actor writes them.
pub fn bytes(seed: u64, actor: u32, step: u64, offset: u64, length: u64) -> Vec<u8> {
    let unit = SECTOR_BYTES as u64;
    let (first, last) = (offset / unit, (offset + length).div_ceil(unit));
    let mut bytes = sectors(seed, actor, step, first, last - first);
    let skip = (offset - first * unit) as usize;
    bytes.drain(..skip);
    bytes.truncate(length as usize);
    bytes
}
