//! What a power cut may leave of a disk.
//!
//! At any position: the durable image, plus any subset of the writes and discards told since and not
//! covered by a flush that was done, in whatever order the disk chose, each torn between sectors of
//! 512 bytes. Of several writes to one sector any may be the one that stays; a subset applied in
//! order reaches all of these, because each sector ends as the last write *of the subset* left it.
//!
//! Chance alone would hardly ever try the corners where bugs live (nothing arrived, everything did,
//! all but one write), so these are drawn often.

use std::ops::{Range, RangeInclusive};

use super::image::Image;
use super::page::mix;
use super::record::{Event, Position, Record, Write};
use super::tearing::Tearing;
use crate::random::Random;

/// How the surviving writes were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No unflushed write survived.
    None,
    /// Every one did.
    All,
    /// Every one but the n-th.
    AllBut(usize),
    /// Only the n-th.
    Only(usize),
    /// The first n, as if the disk had no cache.
    Prefix(usize),
    /// The first n and some sectors of the next.
    TornPrefix(usize),
    /// Each with this many chances in eight.
    Some(usize),
    /// The same, and of every second one some sectors only.
    SomeTorn(usize),
}

/// A disk after a power cut.
#[derive(Clone, Debug)]
pub struct CrashImage {
    /// What is on it.
    pub image: Image,
    /// When the power went.
    pub position: Position,
    /// With the position, all that is needed to make the same image again.
    pub seed: u64,
    /// How many writes and discards could have been lost.
    pub unflushed_count: usize,
    /// Which of them were.
    pub choice: Choice,
}

/// The image that `seed` chooses among all that a cut at `position` may leave.
pub fn crash_image(record: &Record, position: Position, seed: u64) -> CrashImage {
    let mut random = Random::new(mix(position.0, seed));
    let count = record.unflushed_count(position);
    let choice = draw(&mut random, count);
    build(record, position, seed, choice, &mut random)
}

/// The image of one particular choice; what is left to chance is drawn from `seed`.
pub fn chosen_image(record: &Record, position: Position, seed: u64, choice: Choice) -> CrashImage {
    build(record, position, seed, choice, &mut Random::new(mix(position.0, seed)))
}

fn draw(random: &mut Random, count: usize) -> Choice {
    let any = random.below(count.max(1));
    match random.below(20) {
        0..2 => Choice::None,
        2..5 => Choice::All,
        5..7 => Choice::AllBut(any),
        7 => Choice::Only(count.saturating_sub(1)),
        8 => Choice::Only(any),
        9..11 => Choice::Prefix(any),
        11..13 => Choice::TornPrefix(any),
        13..16 => Choice::Some(1 + random.below(7)),
        _ => Choice::SomeTorn(1 + random.below(7)),
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Torn,
}

fn build(
    record: &Record,
    position: Position,
    seed: u64,
    choice: Choice,
    random: &mut Random,
) -> CrashImage {
    let mut image = record.durable(position).clone();
    let mut unflushed_count = 0;
    for (number, event) in record.unflushed(position).enumerate() {
        unflushed_count += 1;
        match (fate(choice, number, random), event) {
            (Fate::Lost, _) | (_, Event::Flush { .. }) => {}
            (Fate::Kept, Event::Write(write)) => write.apply(&mut image),
            (Fate::Kept, Event::Discard { offset, length }) => image.zero(*offset, *length),
            (Fate::Torn, Event::Write(write)) => {
                tear(write, record.tearing(), random, &mut image);
            }
            (Fate::Torn, Event::Discard { offset, length }) => {
                let piece = record.tearing().unit_bytes();
                let part = part_of(random, (length / piece) as usize);
                image.zero(offset + part.start as u64 * piece, part.len() as u64 * piece);
            }
        }
    }
    CrashImage { image, position, seed, unflushed_count, choice }
}

fn fate(choice: Choice, number: usize, random: &mut Random) -> Fate {
    let kept = |yes: bool| if yes { Fate::Kept } else { Fate::Lost };
    match choice {
        Choice::None => Fate::Lost,
        Choice::All => Fate::Kept,
        Choice::AllBut(other) => kept(number != other),
        Choice::Only(other) => kept(number == other),
        Choice::Prefix(count) => kept(number < count),
        Choice::TornPrefix(count) if number == count => Fate::Torn,
        Choice::TornPrefix(count) => kept(number < count),
        Choice::Some(chances) => kept(random.below(8) < chances),
        Choice::SomeTorn(chances) if random.below(8) >= chances => Fate::Lost,
        Choice::SomeTorn(_) if random.below(2) == 0 => Fate::Torn,
        Choice::SomeTorn(_) => Fate::Kept,
    }
}

// Some of the pieces of a write: mostly a run without gaps, as a disk that was interrupted leaves
// it, else any subset.
fn tear(write: &Write, tearing: &Tearing, random: &mut Random, image: &mut Image) {
    let run = (random.below(4) > 0).then(|| {
        let (mut pieces, mut last) = (0, None);
        for (fragment, page) in write.fragments.iter().zip(write.first_page..) {
            for sector in fragment.sectors.iter() {
                let piece = Some(tearing.piece_of(page, sector));
                pieces += usize::from(piece != last);
                last = piece;
            }
        }
        part_of(random, pieces)
    });
    let (mut number, mut last, mut verdict) = (0, None, false);
    for (fragment, page) in write.fragments.iter().zip(write.first_page..) {
        let survivors = fragment.sectors.filter(|sector| {
            let piece = Some(tearing.piece_of(page, sector));
            if piece != last {
                last = piece;
                verdict = match &run {
                    Some(run) => run.contains(&number),
                    None => random.below(2) == 0,
                };
                number += 1;
            }
            verdict
        });
        if !survivors.is_empty() {
            image.set_sectors(page, fragment.page.as_ref(), survivors);
        }
    }
}

// A beginning, an end or a middle of so many pieces.
fn part_of(random: &mut Random, pieces: usize) -> Range<usize> {
    let mut cuts = [random.below(pieces + 1), random.below(pieces + 1)];
    cuts.sort_unstable();
    match random.below(3) {
        0 => 0..cuts[1],
        1 => cuts[0]..pieces,
        _ => cuts[0]..cuts[1],
    }
}

/// Power cuts at many positions, all from one seed. An iterator without end.
pub struct CrashImages {
    record: Record,
    positions: RangeInclusive<u64>,
    flushes: Vec<Position>,
    random: Random,
}

impl CrashImages {
    /// Cuts anywhere in `record` from position `from` on (before it lies what the test is not
    /// about, such as mkfs).
    pub fn new(record: &Record, from: Position, seed: u64) -> Self {
        let first = from.max(record.first_position());
        let flushes = record.flushes().into_iter().filter(|position| *position >= first);
        CrashImages {
            positions: first.0..=record.last_position().0,
            flushes: flushes.collect(),
            record: record.clone(),
            random: Random::new(seed),
        }
    }

    // Half of the cuts anywhere; the rest just before a flush was done, when most is at stake, or
    // just after, when a promise has just been given.
    fn draw_position(&mut self) -> Position {
        let (first, last) = (*self.positions.start(), *self.positions.end());
        if self.flushes.is_empty() || self.random.below(2) == 0 {
            let length = usize::try_from(last - first + 1).expect("it is in memory");
            return Position(first + self.random.below(length) as u64);
        }
        let after = self.flushes[self.random.below(self.flushes.len())].0;
        let moved = after.saturating_sub(self.random.below(2) as u64);
        Position(moved.clamp(first, last))
    }
}

impl Iterator for CrashImages {
    type Item = CrashImage;

    fn next(&mut self) -> Option<CrashImage> {
        let position = self.draw_position();
        let seed = self.random.word();
        Some(crash_image(&self.record, position, seed))
    }
}
