//! The rule once more, written for reading.

use fs_core::lane::policy::{Decision, Nanos};

use crate::ROUND_TRIP_NS;

/// The rule once more, written for reading: every decision looks at every writer.
pub struct Reference {
    pub group_ops_max: usize,
    pub fence_ns: Option<Nanos>,
    /// Quarters of the fence time.
    pub trust: u64,
    pub kept: usize,
    pub broken: usize,
    pub hold_start: Option<(Nanos, usize)>,
    pub balance_ns: i64,
    pub freed_at: Nanos,
    pub pending: Vec<usize>,
    pub in_flight: Vec<usize>,
    pub writers: Vec<ReferenceWriter>,
}

#[derive(Clone, Default)]
pub struct ReferenceWriter {
    pub returns: usize,
    pub released_at: Option<Nanos>,
    pub due: Option<Nanos>,
    pub gap_ns: [i64; 2],
    pub deviation_ns: [i64; 2],
}

impl ReferenceWriter {
    pub fn observe(&mut self, sample: i64) {
        let which = self.returns % 2;
        self.returns += 1;
        if self.returns == 1 {
            self.gap_ns = [sample; 2];
            return;
        }
        let average = self.gap_ns[which];
        let sample = sample.min(8 * average.max(1));
        self.gap_ns[which] += (sample - average) / 4;
        self.deviation_ns[which] += ((sample - average).abs() - self.deviation_ns[which]) / 4;
    }

    pub fn release(&mut self, now: Nanos, longest_hold_ns: Nanos) {
        self.released_at = Some(now);
        let which = self.returns % 2;
        let gap_ns = self.gap_ns[which] as Nanos;
        let likely_ns = gap_ns + self.deviation_ns[which] as Nanos;
        let due_ns = (likely_ns + likely_ns / 2).min(longest_hold_ns);
        self.due = (self.returns > 0 && gap_ns <= longest_hold_ns).then_some(now + due_ns);
    }
}

impl Reference {
    pub fn new(group_ops_max: usize, writers: usize) -> Self {
        Reference {
            group_ops_max,
            fence_ns: None,
            trust: 1,
            kept: 0,
            broken: 0,
            hold_start: None,
            balance_ns: 0,
            freed_at: 0,
            pending: Vec::new(),
            in_flight: Vec::new(),
            writers: vec![ReferenceWriter::default(); writers],
        }
    }

    pub fn budget_ns(&self, trust: u64) -> Nanos {
        (self.fence_ns.unwrap_or(0) * trust / 4).max(3 * ROUND_TRIP_NS)
    }

    pub fn arrived(&mut self, id: usize, now: Nanos) {
        self.pending.push(id);
        let writer = &mut self.writers[id];
        if let Some(released_at) = writer.released_at.take() {
            writer.observe((now - released_at) as i64);
        }
        match writer.due.take() {
            Some(due) if due < now => self.broken += 1,
            Some(_) => self.kept += 1,
            None => {}
        }
    }

    pub fn decide(&mut self, now: Nanos) -> Decision {
        let Some(fence_ns) = self.fence_ns else { return Decision::Go };
        let waiting = self.pending.len();
        if waiting >= self.group_ops_max {
            return Decision::Go;
        }
        let mut dues: Vec<Nanos> = self.writers.iter().filter_map(|writer| writer.due).collect();
        let delayed = (waiting + dues.len()) as i64;
        let ahead = now + 1..=self.freed_at + self.budget_ns(self.trust);
        dues.retain(|due| ahead.contains(due));
        dues.sort_unstable();
        let mut best = (0, Decision::Go);
        for (joiners, due) in (1..=self.group_ops_max - waiting).zip(dues) {
            let likely = self.freed_at + (due - self.freed_at) / 3 * 2;
            let gain =
                (joiners as u64 * fence_ns) as i64 - delayed * likely.saturating_sub(now) as i64;
            if gain > best.0 {
                best = (gain, Decision::HoldUntil(due));
            }
        }
        if best.0 > 0 {
            self.hold_start.get_or_insert((now, waiting));
        }
        best.1
    }

    pub fn departed(&mut self, ops: usize, now: Nanos) {
        if let Some((start, waiting)) = self.hold_start.take() {
            let expected = self.writers.iter().filter(|writer| writer.due.is_some()).count();
            let delayed_ns = (self.pending.len() + expected) as u64 * (now - start);
            let saved_ns = ops.saturating_sub(waiting) as u64 * self.fence_ns.unwrap();
            self.balance_ns = self.balance_ns / 2 + saved_ns as i64 - delayed_ns as i64;
        }
        self.in_flight = self.pending.drain(..ops).collect();
    }

    pub fn released(&mut self, service_ns: Nanos, now: Nanos) {
        let service = service_ns as i64;
        let average = self.fence_ns.map_or(service, |f| f as i64 + (service - f as i64) / 8);
        self.fence_ns = Some(average as Nanos);
        self.freed_at = now;
        for writer in &mut self.writers {
            self.broken += usize::from(writer.due.take_if(|due| *due <= now).is_some());
        }
        if self.broken * 4 > self.kept + self.broken || self.balance_ns < 0 {
            self.trust = 1;
            self.balance_ns = 0;
        } else if self.kept > 0 {
            self.trust = 4.min(self.trust + 1);
        }
        (self.kept, self.broken) = (0, 0);
        let longest_hold_ns = self.budget_ns(4);
        for id in std::mem::take(&mut self.in_flight) {
            if !self.pending.contains(&id) {
                self.writers[id].release(now, longest_hold_ns);
            }
        }
    }
}
