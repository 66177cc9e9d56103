//! Pages and sectors, the units of a disk's content.
//!
//! Content is kept in pages of 4 KiB, as filesystems write it. What a power cut keeps or loses as a
//! whole is a sector of 512 bytes.

use std::sync::{Arc, OnceLock};

/// The unit in which content is kept and shared.
pub const PAGE_BYTES: usize = 4096;
/// The unit that a power cut never tears.
pub const SECTOR_BYTES: usize = 512;
const PAGE_SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;

/// A page that is not all zeros. It never changes.
pub struct Page {
    bytes: [u8; PAGE_BYTES],
    hash: OnceLock<u64>,
}

impl Page {
    /// A page with this content (exactly a page), or none when it is all zeros.
    pub(super) fn new(content: &[u8]) -> Option<Arc<Self>> {
        let bytes: [u8; PAGE_BYTES] = content.try_into().expect("a whole page");
        let zeros = bytes.chunks_exact(64).all(|chunk| chunk.iter().fold(0, |or, b| or | b) == 0);
        (!zeros).then(|| Arc::new(Page { bytes, hash: OnceLock::new() }))
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.bytes
    }

    // Never 0, which stands for a page of zeros.
    pub(super) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| content_hash(&self.bytes))
    }
}

/// Some of the eight sectors of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SectorMask(u8);

impl SectorMask {
    pub const ALL: SectorMask = SectorMask(u8::MAX);

    /// Those that `span` touches.
    pub fn of(span: Span) -> Self {
        let (first, last) = (span.from / SECTOR_BYTES, span.to.div_ceil(SECTOR_BYTES));
        SectorMask((first..last).fold(0, |mask, sector| mask | 1 << sector))
    }

    /// The sector numbers in it.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..PAGE_SECTORS).filter(move |sector| self.0 & (1 << sector) != 0)
    }

    /// Those for which `keep` says yes; it is asked once for each, in order.
    pub fn filter(self, mut keep: impl FnMut(usize) -> bool) -> Self {
        SectorMask(self.iter().fold(0, |mask, sector| mask | u8::from(keep(sector)) << sector))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The part of a range that lies in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub page: u64,
    pub from: usize,
    pub to: usize,
}

impl Span {
    pub fn length(self) -> usize {
        self.to - self.from
    }

    pub fn is_whole(self) -> bool {
        self.length() == PAGE_BYTES
    }
}

/// Cuts a range at page boundaries.
pub(super) fn spans(offset: u64, length: u64) -> impl Iterator<Item = Span> {
    let page_bytes = PAGE_BYTES as u64;
    let end = offset + length;
    let pages = if length == 0 { 0..0 } else { offset / page_bytes..end.div_ceil(page_bytes) };
    pages.map(move |page| {
        let start = page * page_bytes;
        let inside = |position: u64| position.saturating_sub(start).min(page_bytes) as usize;
        Span { page, from: inside(offset), to: inside(end) }
    })
}

/// Mixes two numbers so that sums of results stand for sets of pairs.
pub(super) fn mix(left: u64, right: u64) -> u64 {
    let mut value = left.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ right;
    for factor in [0xbf58_476d_1ce4_e5b9u64, 0x94d0_49bb_1331_11eb] {
        value = (value ^ (value >> 31)).wrapping_mul(factor);
    }
    value ^ (value >> 29)
}

// Four lanes, so that the multiplications overlap. To tell images apart, not to resist an attacker.
fn content_hash(bytes: &[u8; PAGE_BYTES]) -> u64 {
    let mut lanes = [1u64, 2, 3, 4];
    for chunk in bytes.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            *lane = (*lane ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    lanes.iter().fold(0, |sum, lane| mix(sum, *lane)).max(1)
}
