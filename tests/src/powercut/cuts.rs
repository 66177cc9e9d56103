//! Where to cut.
//!
//! Anywhere finds little: between two flushes hardly anything is at stake. So cuts are aimed at what
//! has just been promised: right after an acknowledgement, and first of all after those that came
//! without any flush since their step began, which is what an answer given too early looks like.

use std::collections::VecDeque;

use super::recording::Recording;
use crate::disk::{CrashImage, CrashImages, Position, crash_image};
use crate::random::Random;

/// An unending supply of crash images of one recording.
pub struct Cuts<'a> {
    recording: &'a Recording,
    anywhere: CrashImages,
    promises: Vec<Position>,
    /// Acknowledged without a flush, each once.
    suspects: VecDeque<Position>,
    random: Random,
    count: u64,
}

impl<'a> Cuts<'a> {
    /// Cuts of `recording`, all from one seed.
    pub fn new(recording: &'a Recording, seed: u64) -> Self {
        let flushes = recording.record.flushes();
        let unflushed = |begun: Position, acked: Position| {
            let next = flushes.partition_point(|flush| *flush <= begun);
            flushes.get(next).is_none_or(|flush| *flush > acked)
        };
        let steps = recording.history.steps();
        let promises: Vec<_> = steps.iter().filter_map(|step| step.acked).collect();
        let suspects = steps
            .iter()
            .filter_map(|step| step.acked.filter(|acked| unflushed(step.begun, *acked)));
        Cuts {
            recording,
            anywhere: CrashImages::new(&recording.record, recording.start, seed),
            promises,
            suspects: suspects.collect(),
            random: Random::new(seed ^ 0xc0ff_ee00),
            count: 0,
        }
    }

    /// How many acknowledgements came without a flush of their own.
    pub fn suspects_count(&self) -> usize {
        self.suspects.len()
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
        if self.count.is_multiple_of(2) && !self.promises.is_empty() {
            let index = self.random.below(self.promises.len());
            let position = self.promises[index];
            return Some(self.at(position));
        }
        self.anywhere.next()
    }
}
