//! Writers of all kinds, and how long each thinks.

use fs_core::lane::policy::Nanos;

use crate::{TURN_NS, US};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long a writer thinks between its release and its next request.
#[derive(Clone, Copy, Debug)]
pub enum Think {
    /// Always the same.
    Exactly(Nanos),
    /// Evenly within 50 % of the mean.
    Around(Nanos),
    /// Exponential with this mean.
    Exponential(Nanos),
    /// Not thinking but working: this much processor time, within 50 %, after every other sync and
    /// after the ones between. All that work queue for the same [`crate::CORES`].
    Work { short_ns: Nanos, long_ns: Nanos, sharing: Sharing },
    /// In turn a few gaps of up to 3 ms, drawn once from this seed.
    Script { seed: u64 },
}

/// How the processor is shared by those that work.
#[derive(Clone, Copy, Debug)]
pub enum Sharing {
    /// First come, first served: returns are spread evenly.
    Queue,
    /// In turns of [`TURN_NS`], like an operation of several round trips: returns come late and
    /// close together.
    Turns,
}

impl Think {
    /// The processor time needed after the sync number `round`, and the longest turn.
    pub fn work(self, round: u64, random: &mut Random) -> Option<(Nanos, Nanos)> {
        let Think::Work { short_ns, long_ns, sharing } = self else { return None };
        let mean_ns = if round.is_multiple_of(2) { short_ns } else { long_ns };
        let turn_ns = match sharing {
            Sharing::Queue => Nanos::MAX,
            Sharing::Turns => TURN_NS,
        };
        Some((Think::Around(mean_ns).draw(round, random), turn_ns))
    }

    pub fn draw(self, round: u64, random: &mut Random) -> Nanos {
        match self {
            Think::Work { .. } => panic!("work takes turns on the processor"),
            Think::Script { seed } => {
                let gaps = 1 + Random(seed).next() % 8;
                let gap = Random(seed + (round % gaps) * 17).next() % 8;
                [0, 0, 10, 300, 900, 1_400, 1_900, 2_600][gap as usize] * US
            }
            Think::Exactly(gap) => gap,
            Think::Around(mean) => (mean as f64 * (0.5 + random.unit())) as Nanos,
            Think::Exponential(mean) => (-(1.0 - random.unit()).ln() * mean as f64) as Nanos,
        }
    }
}

pub struct Writer {
    pub think: Think,
    pub random: Random,
    /// Stops after this many requests.
    pub requests_left: u64,
    /// The request that comes next.
    pub round: u64,
}

pub fn population(thinks: &[Think]) -> Vec<Writer> {
    let writer = |(seed, &think): (usize, &Think)| Writer {
        think,
        random: Random(seed as u64 + 1),
        requests_left: u64::MAX,
        round: 0,
    };
    thinks.iter().enumerate().map(writer).collect()
}

pub fn same(think: Think, writers: usize) -> Vec<Writer> {
    population(&vec![think; writers])
}

pub fn mixed(fence_ns: Nanos, writers: usize) -> Vec<Writer> {
    let tight = Think::Around(40 * US);
    let slow = Think::Exponential(5 * fence_ns);
    population(&(0..writers).map(|i| if i % 2 == 0 { tight } else { slow }).collect::<Vec<_>>())
}
