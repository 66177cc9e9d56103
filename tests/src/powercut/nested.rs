//! Power cuts while a crash image is recovered, and while what these leave is recovered.
//!
//! The disk that serves the image records, too. A cut may fall among what the filesystem's own
//! recovery wrote, among what lanefs wrote, right after lanefs said that it was done, or shortly
//! later. Recovery done again must keep the same promises; and what had been recovered when lanefs
//! said so must be exactly there again.

use std::sync::Arc;
use std::time::Duration;

use super::filesystem::Filesystem;
use super::notes::Promised;
use super::recovery::Way;
use super::snapshot::Snapshot;
use crate::disk::{CrashImage, PAGE_BYTES, Position, Record, Tearing, crash_image};
use crate::random::Random;

/// Images below which others hang, at each level: one in so many.
const ONE_IN: [usize; 3] = [3, 3, 4];
/// Cuts of one recovery.
const CUTS: usize = 3;
/// A recovery is killed at most so long after its start; it takes a few milliseconds.
const KILL_AFTER_MAX_US: usize = 12_000;

/// Where writes of the filesystem's own recovery are torn. XFS takes a block whose first sector says
/// that it is new for a new block, and so refuses one that its own recovery was writing (Linux 6.18,
/// `xlog_recover_get_buf_lsn`; found by tearing them): blocks are written whole there.
pub fn tearing_while_mounting(filesystem: Filesystem) -> Tearing {
    let tearing = Tearing::sparing_superblock(filesystem.kernel_name());
    match filesystem {
        Filesystem::Xfs => tearing.unit(PAGE_BYTES),
        _ => tearing,
    }
}

/// What a disk saw while it served an image.
pub struct Recorded {
    /// Everything.
    pub record: Record,
    /// The same of a disk that tears writes less, for cuts while the filesystem itself recovers.
    pub while_mounting: Record,
    /// Where the image was loaded.
    pub loaded: Position,
    /// Where the filesystem was mounted.
    pub mounted: Position,
    /// Where lanefs said that it had recovered.
    pub recovered: Position,
    /// What was there then; none if lanefs was not asked.
    pub exact: Option<Arc<Snapshot>>,
}

impl Recorded {
    /// What a cut at `position` must keep, when `first` was promised before all of this.
    pub fn promised(&self, first: &Promised, position: Position) -> Promised {
        let exact = self.exact.iter().filter(|_| position >= self.recovered);
        let exact = exact.map(|exact| (String::new(), Arc::clone(exact)));
        first.clone().exactly(exact)
    }
}

/// The chance in it, from one seed.
pub struct Nesting {
    random: Random,
}

impl Nesting {
    /// For one image and what hangs below it.
    pub fn new(seed: u64) -> Self {
        Nesting { random: Random::new(seed ^ 0x0e57) }
    }

    /// Whether there shall be cuts during the recovery of an image at this level.
    pub fn wants(&mut self, level: usize) -> bool {
        ONE_IN.get(level).is_some_and(|one_in| self.random.below(*one_in) == 0)
    }

    /// How an image is recovered.
    pub fn way(&mut self) -> Way {
        let limit = 1 + self.random.below(KILL_AFTER_MAX_US);
        let micros = self.random.below(limit) as u64;
        match self.random.below(16) {
            0 => Way::Mount,
            1 | 2 => Way::CommandAfterKill(Duration::from_micros(micros)),
            _ => Way::Command,
        }
    }

    /// Some cuts, each with a word about when.
    pub fn cuts(&mut self, recorded: &Recorded) -> Vec<(CrashImage, &'static str)> {
        let Recorded { record, while_mounting, loaded, mounted, recovered, .. } = recorded;
        let last = record.last_position();
        let cuts = (0..CUTS).map(|_| {
            let (from, to, moment) = match self.random.below(10) {
                0 | 1 => (*loaded, *mounted, "mounting"),
                2 | 3 => (*recovered, *recovered, "recovered"),
                4 => (*recovered, last, "after it"),
                _ => (*mounted, *recovered, "recovering"),
            };
            let length = usize::try_from(to.0 - from.0 + 1).expect("it is in memory");
            let position = Position(from.0 + self.random.below(length) as u64);
            let record = if moment == "mounting" { while_mounting } else { record };
            (crash_image(record, position, self.random.word()), moment)
        });
        cuts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recovered_is_promised_from_then_on() {
        let place = tempfile::tempdir().expect("scratch directory");
        let exact = Arc::new(Snapshot::take(place.path()).expect("an empty directory"));
        let disk = match crate::require::mount_support() {
            true => crate::disk::Disk::new(crate::disk::DiskOptions::new(16)).expect("a disk"),
            false => return,
        };
        let recorded = Recorded {
            record: disk.record(),
            while_mounting: disk.record(),
            loaded: Position(0),
            mounted: Position(3),
            recovered: Position(5),
            exact: Some(exact),
        };
        let first = Promised::default().under_log(true);
        assert_eq!(recorded.promised(&first, Position(4)), first);
        let later = recorded.promised(&first, Position(5));
        assert_eq!((later.exact.len(), later.log), (1, true));
    }

    #[test]
    fn one_seed_decides_everything() {
        let draw = |seed| {
            let mut nesting = Nesting::new(seed);
            (0..40).map(|_| (nesting.wants(0), nesting.way())).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(!Nesting::new(1).wants(ONE_IN.len()), "there is a deepest level");
    }
}
