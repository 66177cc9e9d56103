//! Where to cut.
//!
//! Anywhere finds little: between two flushes hardly anything is at stake. So cuts are aimed at what
//! has just been promised: right after an acknowledgement, and first of all after those that came with
//! the fewest flushes since their step began, which is what an answer given too early looks like. Some
//! fall where something special happened, such as a mount after the daemon was killed.

use std::collections::VecDeque;

use super::recording::Recording;
use crate::disk::{CrashImage, CrashImages, Position, crash_image};
use crate::random::Random;

/// Acknowledgements that are tried first, in turns.
const SUSPECTS_MAX: usize = 8;

/// An unending supply of crash images of one recording.
pub struct Cuts<'a> {
    recording: &'a Recording,
    anywhere: CrashImages,
    promises: Vec<Position>,
    /// Acknowledgements with the fewest flushes since their step began, worst first.
    suspects: VecDeque<Position>,
    unflushed_count: usize,
    random: Random,
    count: u64,
}

impl<'a> Cuts<'a> {
    /// Cuts of `recording`, all from one seed.
    pub fn new(recording: &'a Recording, seed: u64) -> Self {
        let flushes = recording.record.flushes();
        let until = |position: Position| flushes.partition_point(|flush| *flush <= position);
        let steps = recording.history.steps();
        let promises: Vec<_> = steps.iter().filter_map(|step| step.acked).collect();
        let mut ranked: Vec<_> = steps
            .iter()
            .filter_map(|step| Some((until(step.acked?) - until(step.begun), step.acked?)))
            .collect();
        ranked.sort_unstable();
        let unflushed_count = ranked.partition_point(|(count, _)| *count == 0);
        let suspects = ranked.iter().take(SUSPECTS_MAX.max(unflushed_count));
        Cuts {
            recording,
            anywhere: CrashImages::new(&recording.record, recording.start, seed),
            promises,
            suspects: suspects.map(|(_, acked)| *acked).collect(),
            unflushed_count,
            random: Random::new(seed ^ 0xc0ff_ee00),
            count: 0,
        }
    }

    /// How many acknowledgements came without a flush of their own.
    pub fn suspects_count(&self) -> usize {
        self.unflushed_count
    }

    fn at(&mut self, position: Position) -> CrashImage {
        crash_image(&self.recording.record, position, self.random.word())
    }
}

impl Iterator for Cuts<'_> {
    type Item = CrashImage;

    fn next(&mut self) -> Option<CrashImage> {
        self.count += 1;
        if self.count.is_multiple_of(4)
            && let Some(suspect) = self.suspects.pop_front()
        {
            // Back to the end of the queue: another subset may lose what this one kept.
            self.suspects.push_back(suspect);
            return Some(self.at(suspect));
        }
        if self.count % 8 == 5 && !self.recording.hot.is_empty() {
            let index = self.random.below(self.recording.hot.len());
            let (first, last) = self.recording.hot[index].clone().into_inner();
            let last = last.min(self.recording.record.last_position().0);
            let length = usize::try_from(last - first + 1).expect("it is in memory");
            let position = Position(first + self.random.below(length) as u64);
            return Some(self.at(position));
        }
        if self.count.is_multiple_of(2) && !self.promises.is_empty() {
            let index = self.random.below(self.promises.len());
            let position = self.promises[index];
            return Some(self.at(position));
        }
        self.anywhere.next()
    }
}
