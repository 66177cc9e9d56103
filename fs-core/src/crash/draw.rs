//! One legal crash, not the best of many: what a live mount leaves when its power fails.

use serde::{Deserialize, Serialize};

use super::law::{Crash, Law};
use super::plan::Random;

/// What of the unsynced operations a power failure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lose {
    /// All that the model allows to be lost.
    #[default]
    All,
    /// Some, drawn by a seed.
    Some,
    /// Nothing: everything had been written by chance.
    None,
}

/// A crash before operation `at`. The same seed gives the same crash.
#[must_use]
pub fn draw(law: &Law<'_>, at: usize, lose: Lose, seed: u64) -> Crash {
    let end = law.rules.end(at);
    let mut kept = match lose {
        Lose::None => law.prefix(at),
        Lose::All | Lose::Some => law.forced(at),
    };
    if lose == Lose::Some {
        let mut random = Random::new(seed);
        // Some seeds keep nearly all, some nearly nothing.
        let kept_of_16 = 1 + random.below(15);
        for atom in 0..end {
            if random.below(16) < kept_of_16 {
                law.rules.close(&mut kept, [atom]);
            }
        }
    }
    Crash { at, kept, torn: None }
}
