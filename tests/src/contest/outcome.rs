//! What a contest gave.

use serde_json::Value;

use super::End;
use super::figures::{median, percentile, sorted};
use super::slice::Slice;

/// What one side did in all its turns.
#[derive(Debug, Default)]
pub struct Record {
    pub(crate) slices: Vec<Slice>,
    // Of the disk, from the first operation to the last and between the turns.
    pub(crate) flushes: u64,
    pub(crate) requests: u64,
}

impl Record {
    /// Operations per second of all threads; median over the slices.
    pub fn ops_per_s(&self) -> f64 {
        median(self.slices.iter().map(|slice| slice.ops_per_s))
    }

    /// So many in a hundred operations took at most this.
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let latencies = self.slices.iter().flat_map(|slice| slice.latencies_us.iter().copied());
        percentile(&sorted(latencies), percent)
    }

    /// Flushes of the disk per operation: none is left out, no operation is estimated.
    pub fn flushes_per_op(&self) -> f64 {
        self.flushes as f64 / self.all_ops()
    }

    /// Requests of the kernel to the daemon per operation.
    pub fn requests_per_op(&self) -> f64 {
        self.requests as f64 / self.all_ops()
    }

    /// Operations from the first to the last, warm-ups included.
    pub fn all_ops(&self) -> f64 {
        self.slices.iter().map(|slice| slice.all_ops).sum::<u64>() as f64
    }
}

/// What both sides did.
#[derive(Debug)]
pub struct Outcome {
    /// The filesystem alone.
    pub bare: Record,
    /// lanefs over it.
    pub lanefs: Record,
    /// What `lanefs status --json` said at the end.
    pub status: Value,
}

impl Outcome {
    pub(super) fn new(bare: Record, lanefs: Record, status: Value) -> Result<Self, End> {
        for (record, name) in [(&bare, "the bare filesystem"), (&lanefs, "lanefs")] {
            let is_empty = |slice: &Slice| slice.latencies_us.is_empty();
            if record.slices.iter().all(is_empty) {
                return Err(format!("no operation on {name} ended: raise --seconds").into());
            }
        }
        let outcome = Outcome { bare, lanefs, status };
        if outcome.p50_pairs().next().is_none() {
            return Err("no two slices to compare: raise --seconds".to_owned().into());
        }
        Ok(outcome)
    }

    /// Operations per second on lanefs by those on the bare side; median over pairs of slices.
    pub fn ops_ratio(&self) -> f64 {
        let pairs = self.bare.slices.iter().zip(&self.lanefs.slices);
        median(pairs.map(|(bare, lanefs)| lanefs.ops_per_s / bare.ops_per_s))
    }

    /// The median time of an operation on the bare side by that on lanefs; median over pairs of
    /// slices. Above 1 lanefs is faster.
    pub fn p50_ratio(&self) -> f64 {
        median(self.p50_pairs().map(|(bare, lanefs)| bare / lanefs))
    }

    /// What an operation takes longer on lanefs, in microseconds; median over pairs of slices.
    pub fn p50_extra_us(&self) -> f64 {
        median(self.p50_pairs().map(|(bare, lanefs)| lanefs - bare))
    }

    // Of the slices in which an operation ended.
    fn p50_pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        let p50 = |slice: &Slice| {
            let latencies = sorted(slice.latencies_us.iter().copied());
            (!latencies.is_empty()).then(|| percentile(&latencies, 50))
        };
        let pairs = self.bare.slices.iter().zip(&self.lanefs.slices);
        pairs.filter_map(move |(bare, lanefs)| p50(bare).zip(p50(lanefs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(slices: &[(f64, &[f64])], flushes: u64) -> Record {
        let slice = |&(ops_per_s, latencies_us): &(f64, &[f64])| Slice {
            ops_per_s,
            latencies_us: latencies_us.to_vec(),
            all_ops: 10,
        };
        Record { slices: slices.iter().map(slice).collect(), flushes, requests: 60 }
    }

    #[test]
    fn ratios_are_medians_over_pairs() {
        // The machine was slow in the second pair, for both; in the third something came between.
        let bare = record(&[(100.0, &[10.0]), (50.0, &[20.0, 21.0]), (100.0, &[])], 60);
        let lanefs = record(&[(200.0, &[5.0]), (100.0, &[10.0]), (20.0, &[50.0])], 45);
        let outcome = Outcome::new(bare, lanefs, Value::Null).expect("something was done");
        assert_eq!(outcome.ops_ratio(), 2.0);
        assert_eq!(outcome.p50_ratio(), 2.0);
        assert_eq!(outcome.p50_extra_us(), -10.0);
        assert_eq!(outcome.bare.flushes_per_op(), 2.0);
        assert_eq!(outcome.lanefs.flushes_per_op(), 1.5);
        assert_eq!(outcome.lanefs.requests_per_op(), 2.0);
        assert_eq!(outcome.lanefs.percentile_us(50), 10.0);
    }

    #[test]
    fn a_side_that_did_nothing_is_told() {
        let [bare, lanefs] = [record(&[(1.0, &[9.0])], 1), record(&[(0.1, &[])], 0)];
        let end = Outcome::new(bare, lanefs, Value::Null).expect_err("nothing to compare");
        assert!(String::from(end).contains("no operation on lanefs ended"));
    }
}
