//! Blocks of the disk: what each holds for readers, and what a power cut may
//! leave in it.

use std::sync::Arc;

use super::image::PAGE_BYTES;
use super::random::Random;

/// The unit that a disk writes whole.
pub(super) const SECTOR_BYTES: usize = 512;

/// Versions of one block that are kept between two syncs. Beyond that, middle
/// ones are dropped: fewer crash states are tried, none that could not be.
const VERSIONS_MAX: usize = 8;

/// Number of what a block shows before it was ever written.
pub(super) const UNWRITTEN: u64 = 0;
/// Number of what was on the disk when it was mounted.
pub(super) const MOUNTED: u64 = 1;

pub(super) type Page = [u8; PAGE_BYTES as usize];

/// One state that a block was in.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// Rises with time over all blocks; [`UNWRITTEN`] before the first write.
    pub(super) serial: u64,
    /// Position of the journal entry of the write.
    pub(super) position: u64,
    /// Where the file's data in this block ended then: a length in bytes that
    /// counts from the start of the file.
    pub(super) end: u64,
    /// `Attrs::cuts` of the file then.
    pub(super) cuts: u64,
    pub(super) page: Arc<Page>,
}

/// A block: what may be on disk, oldest first; the last is what readers see.
#[derive(Debug, Clone)]
pub(super) struct Block {
    versions: Vec<Version>,
    /// The newest version that the device was given; [`UNWRITTEN`] if none was.
    given: u64,
}

/// How a crash chooses among versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taste {
    Oldest,
    Newest,
    Any,
    /// Any, for each sector separately.
    Torn,
}

/// What a crash has left in a block.
pub(super) struct Survivor {
    pub(super) page: Arc<Page>,
    /// The oldest version of which a sector is there.
    pub(super) oldest: Version,
}

impl Block {
    /// A new block; `fill` is what a crash shows while nothing has arrived.
    pub(super) fn new(fill: u8) -> Self {
        Self::with(UNWRITTEN, Arc::new([fill; PAGE_BYTES as usize]))
    }

    /// A block of a disk that is being mounted.
    pub(super) fn mounted(page: Arc<Page>) -> Self {
        Self::with(MOUNTED, page)
    }

    fn with(serial: u64, page: Arc<Page>) -> Self {
        let first = Version { serial, position: 0, end: 0, cuts: 0, page };
        Self { versions: vec![first], given: serial }
    }

    /// What readers see, to be changed by a write: zeros in a new block,
    /// whatever the disk holds there.
    pub(super) fn content(&self) -> Page {
        let latest = self.latest();
        if latest.serial == UNWRITTEN { [0; PAGE_BYTES as usize] } else { *latest.page }
    }

    /// What readers see.
    pub(super) fn page(&self) -> &Page {
        &self.latest().page
    }

    pub(super) fn latest(&self) -> &Version {
        self.versions.last().expect("a block always has a version")
    }

    pub(super) fn push(&mut self, version: Version) {
        self.versions.push(version);
        if self.versions.len() > VERSIONS_MAX {
            // Not the one that the next flush makes durable.
            let given = self.versions[VERSIONS_MAX / 2].serial == self.given;
            self.versions.remove(VERSIONS_MAX / 2 + usize::from(given));
        }
    }

    /// Gives the device the latest version; returns its number.
    pub(super) fn give(&mut self) -> u64 {
        self.given = self.latest().serial;
        self.given
    }

    /// Nobody has been given any version of it: earlier ones than the latest never arrive.
    pub(super) fn is_in_memory(&mut self) {
        let latest = self.latest().serial;
        self.versions.retain(|version| [UNWRITTEN, latest].contains(&version.serial));
    }

    /// Whether the device was ever given a content of this block.
    pub(super) const fn is_written(&self) -> bool {
        self.given != UNWRITTEN
    }

    /// Versions before `serial` cannot come back: that one is durable.
    pub(super) fn raise(&mut self, serial: u64) {
        self.given = self.given.max(serial);
        self.versions.retain(|version| version.serial >= serial);
    }

    /// What a crash may leave: versions from `floor` on that satisfy `allowed`.
    /// `None` if there is none.
    pub(super) fn survivor(
        &self,
        floor: u64,
        allowed: impl Fn(&Version) -> bool,
        taste: Taste,
        random: &mut Random,
    ) -> Option<Survivor> {
        let of_age = |version: &&Version| version.serial >= floor && allowed(version);
        let candidates: Vec<&Version> = self.versions.iter().filter(of_age).collect();
        let (&first, &last) = (candidates.first()?, candidates.last()?);
        let whole = |version: &Version| {
            Some(Survivor { page: Arc::clone(&version.page), oldest: version.clone() })
        };
        match taste {
            Taste::Oldest => whole(first),
            Taste::Newest => whole(last),
            Taste::Any => whole(candidates[random.index(candidates.len())]),
            Taste::Torn if candidates.len() == 1 => whole(first),
            Taste::Torn => Some(torn(&candidates, random)),
        }
    }
}

/// Sectors of several versions, side by side.
fn torn(candidates: &[&Version], random: &mut Random) -> Survivor {
    let mut page = [0; PAGE_BYTES as usize];
    let mut oldest = candidates.len() - 1;
    for (index, sector) in page.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        let chosen = random.index(candidates.len());
        oldest = oldest.min(chosen);
        let from = index * SECTOR_BYTES;
        sector.copy_from_slice(&candidates[chosen].page[from..from + SECTOR_BYTES]);
    }
    Survivor { page: Arc::new(page), oldest: candidates[oldest].clone() }
}
