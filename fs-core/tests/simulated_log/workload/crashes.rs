//! Power cuts, recoveries, and power cuts within recoveries.

use std::sync::{Arc, Mutex};

use fs_core::log::recovery::RecoveryReport;
use fs_core::log::{OpenLogError, Progress};
use fs_core::platform::sim::{Random, SimBacking};

use super::{Outcome, Plan, World};
use crate::disk;
use crate::facts::Facts;

/// Crashes within one recovery.
const NESTED_MAX: usize = 3;
/// Crashes within crashes within crashes.
const DEPTH_MAX: u32 = 3;

impl World {
    pub(super) fn maybe_crash(&mut self) {
        if self.outcome.loss.is_some() || self.random.one_in(4) {
            return;
        }
        for _ in 0..self.plan.cuts {
            let seed = self.random.word();
            let crashed = self.backing.crash(seed);
            let mut cut = Cut {
                plan: &self.plan,
                facts: &self.facts,
                random: Random::new(seed),
                outcome: &mut self.outcome,
            };
            if let Err(loss) = cut.verify(&crashed, 0) {
                self.lose(Some(loss));
                return;
            }
        }
    }
}

struct Cut<'a> {
    plan: &'a Plan,
    facts: &'a Facts,
    random: Random,
    outcome: &'a mut Outcome,
}

type Recovered = Result<Option<RecoveryReport>, OpenLogError>;

impl Cut<'_> {
    /// Recovers a disk and compares it with the facts; returns the tree's sum.
    fn verify(&mut self, crashed: &SimBacking, depth: u32) -> Result<u64, String> {
        self.outcome.crashes += 1;
        self.outcome.nested += u64::from(depth > 0);
        let by_engine = self.plan.always_by_engine || self.random.one_in(8);
        let nested = depth < DEPTH_MAX && self.random.one_in(6);
        let log_before = match self.plan.in_words {
            true => disk::describe(crashed, self.plan.shape),
            false => String::new(),
        };
        let (images, recovered) = if nested {
            self.recover_with_cuts(crashed, by_engine)
        } else {
            let (log, shape) = (&self.plan.log, self.plan.shape);
            (Vec::new(), disk::mend(crashed, log, shape, by_engine, &mut |_| {}))
        };
        let report = recovered.map_err(|error| format!("recovery fails: {error}\n{log_before}"))?;
        if let Some(report) = &report {
            self.outcome.redone += u64::from(report.redone > 0);
            self.outcome.filled += u64::from(report.bytes_filled > 0);
        }
        let checked = self.facts.check(crashed);
        let sum =
            checked.map_err(|loss| format!("depth {depth}, {report:?}: {loss}\n{log_before}"))?;
        for (place, image) in images {
            self.verify(&image, depth + 1).map_err(|loss| format!("cut at {place}: {loss}"))?;
        }
        if depth < DEPTH_MAX && self.random.one_in(12) {
            let again = crashed.crash(self.random.word());
            let other =
                self.verify(&again, depth + 1).map_err(|loss| format!("cut after: {loss}"))?;
            if other != sum {
                return Err("another cut, right after recovery, has left another tree".to_owned());
            }
        }
        Ok(sum)
    }

    /// Recovers with crashes in between.
    fn recover_with_cuts(
        &mut self,
        crashed: &SimBacking,
        by_engine: bool,
    ) -> (Vec<(String, SimBacking)>, Recovered) {
        let images = Arc::new(Mutex::new((Vec::new(), Random::new(self.random.word()))));
        let take = {
            let (images, crashed) = (Arc::clone(&images), crashed.clone());
            move |place: String| {
                let mut images = images.lock().expect("one thread");
                let (images, random) = &mut *images;
                if random.one_in(3) {
                    let image = (place, crashed.crash(random.word()));
                    if images.len() < NESTED_MAX {
                        images.push(image);
                    } else {
                        images[random.index(NESTED_MAX)] = image;
                    }
                }
            }
        };
        let take = Arc::new(take);
        let hook = Arc::clone(&take);
        crashed.on_fence(Some(Arc::new(move |point| hook(format!("{point:?}")))));
        let mut progress = |progress: Progress| take(format!("{progress:?}"));
        let (log, shape) = (&self.plan.log, self.plan.shape);
        let recovered = disk::mend(crashed, log, shape, by_engine, &mut progress);
        crashed.on_fence(None);
        let images = std::mem::take(&mut images.lock().expect("one thread").0);
        (images, recovered)
    }
}
