//! The blocks of a log: what is durable, and the writes that the device's cache
//! holds since its last flush.
//!
//! A crash copies pointers to chunks, not blocks, so that it costs little however
//! long the log is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::{Page, SECTOR_BYTES};
use super::image::PAGE_BYTES;
use super::random::Random;

const PAGE: usize = PAGE_BYTES as usize;
const CHUNK_BLOCKS: usize = 64;

type Chunk = [Option<Arc<Page>>; CHUNK_BLOCKS];

/// A block that was written, and what to.
type Write = (usize, Arc<Page>);

/// See the module's story. A block that was never written is zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct LogBlocks {
    durable: Arc<Vec<Arc<Chunk>>>,
    /// In the order of the calls; of a block that is here twice, readers see the later one.
    cached: Vec<Write>,
}

/// What a crash keeps of the writes that were not flushed.
#[derive(Debug, Clone, Copy)]
enum Kept {
    All,
    /// Those before this one, and parts of it.
    UpTo(usize),
    /// All but a part of this one.
    AllBut(usize),
    /// Any of them, each whole.
    AnyWhole,
    /// Any sectors of any of them.
    AnySectors,
}

impl LogBlocks {
    /// What readers see of a block; `None` is zeros.
    pub(super) fn page(&self, block: usize) -> Option<&Page> {
        let cached = self.cached.iter().rev().find(|write| write.0 == block);
        match cached {
            Some((_, page)) => Some(page),
            None => self.durable_page(block).map(|page| &**page),
        }
    }

    fn durable_page(&self, block: usize) -> Option<&Arc<Page>> {
        self.durable.get(block / CHUNK_BLOCKS)?[block % CHUNK_BLOCKS].as_ref()
    }

    fn make_durable(&mut self, block: usize, page: Arc<Page>) {
        let chunks = Arc::make_mut(&mut self.durable);
        let chunk = block / CHUNK_BLOCKS;
        if chunks.len() <= chunk {
            chunks.resize_with(chunk + 1, || Arc::new([const { None }; CHUNK_BLOCKS]));
        }
        Arc::make_mut(&mut chunks[chunk])[block % CHUNK_BLOCKS] = Some(page);
    }

    /// Writes whole blocks from `first` on.
    pub(super) fn write(&mut self, first: usize, data: &[u8]) {
        for (block, bytes) in (first..).zip(data.chunks_exact(PAGE)) {
            let mut page = [0; PAGE];
            page.copy_from_slice(bytes);
            self.cached.push((block, Arc::new(page)));
        }
    }

    /// A write that fails: any of its sectors arrive.
    pub(super) fn write_some(&mut self, first: usize, data: &[u8], random: &mut Random) {
        let arrive_one_in = 1 + random.below(3);
        for (block, bytes) in (first..).zip(data.chunks_exact(PAGE)) {
            let mut page = self.page(block).copied().unwrap_or([0; PAGE]);
            copy_sectors(&mut page, bytes, |_| random.one_in(arrive_one_in));
            self.cached.push((block, Arc::new(page)));
        }
    }

    /// All writes are durable.
    pub(super) fn flush(&mut self) {
        for (block, page) in std::mem::take(&mut self.cached) {
            self.make_durable(block, page);
        }
    }

    /// A flush that fails: of each block the writes are durable, or still in the
    /// cache, or gone.
    pub(super) fn flush_some(&mut self, random: &mut Random) {
        let mut fates = BTreeMap::new();
        for (block, page) in std::mem::take(&mut self.cached) {
            match *fates.entry(block).or_insert_with(|| random.below(3)) {
                0 => self.make_durable(block, page),
                1 => self.cached.push((block, page)),
                _ => {}
            }
        }
    }

    /// What a power cut leaves.
    pub(super) fn crash(&self, torn: bool, random: &mut Random) -> Self {
        let mut after = Self { durable: Arc::clone(&self.durable), cached: Vec::new() };
        let Some(kept) = Kept::choose(self.cached.len(), torn, random) else { return after };
        for (index, (block, written)) in self.cached.iter().enumerate() {
            if let Some(page) = kept.of(index, written, after.durable_page(*block), torn, random) {
                after.make_durable(*block, page);
            }
        }
        after
    }
}

impl Kept {
    /// What to keep of so many writes; `None` for nothing.
    fn choose(writes: usize, torn: bool, random: &mut Random) -> Option<Self> {
        if writes == 0 {
            return None;
        }
        match random.below(8) {
            0 => None,
            1 | 2 => Some(Self::All),
            3 | 4 => Some(Self::UpTo(random.index(writes))),
            5 => Some(Self::AllBut(random.index(writes))),
            6 if torn => Some(Self::AnySectors),
            _ => Some(Self::AnyWhole),
        }
    }

    /// What the write with this index leaves in its block, on top of `below`;
    /// `None` if it leaves no trace.
    fn of(
        self,
        index: usize,
        written: &Arc<Page>,
        below: Option<&Arc<Page>>,
        torn: bool,
        random: &mut Random,
    ) -> Option<Arc<Page>> {
        let in_part = |keep: &mut dyn FnMut(usize) -> bool| {
            let mut page = below.map_or([0; PAGE], |page| **page);
            copy_sectors(&mut page, &written[..], keep);
            Some(Arc::new(page))
        };
        let whole = Some(Arc::clone(written));
        match self {
            Self::All => whole,
            Self::UpTo(end) if index < end => whole,
            Self::UpTo(end) if index == end && torn => in_part(&mut |_| random.one_in(2)),
            Self::UpTo(_) => None,
            Self::AllBut(out) if index != out => whole,
            Self::AllBut(_) if torn => {
                let lost = random.index(PAGE / SECTOR_BYTES);
                in_part(&mut |sector| sector != lost)
            }
            Self::AllBut(_) => None,
            Self::AnyWhole => whole.filter(|_| random.one_in(2)),
            Self::AnySectors => in_part(&mut |_| random.one_in(2)),
        }
    }
}

/// Copies the sectors that `keep` says.
fn copy_sectors(page: &mut Page, from: &[u8], mut keep: impl FnMut(usize) -> bool) {
    let pairs = page.chunks_exact_mut(SECTOR_BYTES).zip(from.chunks_exact(SECTOR_BYTES));
    for (sector, (to, from)) in pairs.enumerate() {
        if keep(sector) {
            to.copy_from_slice(from);
        }
    }
}
