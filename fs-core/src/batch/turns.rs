//! Whose turn it is: batches that name a common path run in the order in which they were
//! let in, all others side by side. No clocks, no threads: what is said here is what the
//! caller does.
//!
//! 1. A batch is *let in* in the order of arrival, as soon as there is room for its
//!    operations and bytes; one that is larger than all room when it is alone.
//! 2. It *goes* when it is the first of those let in at each path that it names. Since
//!    all are let in one after another, two cannot wait for each other.
//! 3. When it is *applied*, its paths are free for the next ones.
//! 4. When it is *answered*, its room is free.
//!
//! A small batch is thus never behind a large one that it has no path in common with.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// A batch, by order of arrival.
pub(super) type Ticket = u64;

/// A path, or its hash: that two have the same only makes one wait in vain.
pub(super) type PathKey = u64;

/// What a batch asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Need {
    pub(super) ops: usize,
    pub(super) bytes: u64,
    pub(super) paths: BTreeSet<PathKey>,
}

/// Most that may be let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ops: usize,
    pub(super) bytes: u64,
}

/// Batches, each with whoever is to be told that it goes.
#[derive(Debug)]
pub(super) struct Turns<W> {
    limits: Limits,
    next: Ticket,
    /// Not let in yet, in order.
    outside: VecDeque<(Ticket, Need, W)>,
    inside: HashMap<Ticket, Inside<W>>,
    /// Those let in and not applied that name a path, in order.
    lines: HashMap<PathKey, VecDeque<Ticket>>,
    ops: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Inside<W> {
    need: Need,
    /// Paths at which others are in front.
    behind: usize,
    who: Option<W>,
}

impl<W> Turns<W> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 1,
            outside: VecDeque::new(),
            inside: HashMap::new(),
            lines: HashMap::new(),
            ops: 0,
            bytes: 0,
        }
    }

    /// A batch has come. Tells who goes now.
    pub(super) fn enter(&mut self, need: Need, who: W) -> (Ticket, Vec<(Ticket, W)>) {
        let ticket = self.next;
        self.next += 1;
        self.outside.push_back((ticket, need, who));
        (ticket, self.let_in())
    }

    /// A batch that goes has been applied. Tells who goes now.
    pub(super) fn applied(&mut self, ticket: Ticket) -> Vec<(Ticket, W)> {
        let Some(batch) = self.inside.get_mut(&ticket) else { return Vec::new() };
        let mut going = Vec::new();
        for path in std::mem::take(&mut batch.need.paths) {
            let Some(line) = self.lines.get_mut(&path) else { continue };
            line.pop_front();
            let Some(&first) = line.front() else {
                self.lines.remove(&path);
                continue;
            };
            if let Some(next) = self.inside.get_mut(&first) {
                next.behind -= 1;
                let goes = if next.behind == 0 { next.who.take() } else { None };
                going.extend(goes.map(|who| (first, who)));
            }
        }
        going
    }

    /// An applied batch has been answered. Tells who goes now.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Vec<(Ticket, W)> {
        if let Some(batch) = self.inside.remove(&ticket) {
            self.ops -= batch.need.ops;
            self.bytes -= batch.need.bytes;
        }
        self.let_in()
    }

    /// Takes a batch back that was not let in yet, and tells who goes now; `None` if it
    /// was.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<(W, Vec<(Ticket, W)>)> {
        let place = self.outside.iter().position(|(other, ..)| *other == ticket)?;
        let (_, _, who) = self.outside.remove(place)?;
        // It may have been what kept smaller ones out.
        Some((who, self.let_in()))
    }

    /// Takes all back that were not let in yet.
    pub(super) fn cancel_all(&mut self) -> Vec<W> {
        self.outside.drain(..).map(|(_, _, who)| who).collect()
    }

    /// Batches that are let in and not answered.
    pub(super) fn inside(&self) -> usize {
        self.inside.len()
    }

    /// Whether a batch waits to be let in.
    pub(super) fn is_outside(&self, ticket: Ticket) -> bool {
        self.outside.iter().any(|(other, ..)| *other == ticket)
    }

    /// Operations and bytes of them.
    pub(super) const fn load(&self) -> (usize, u64) {
        (self.ops, self.bytes)
    }

    fn let_in(&mut self) -> Vec<(Ticket, W)> {
        let mut going = Vec::new();
        while let Some((_, need, _)) = self.outside.front() {
            let fits = self.ops.saturating_add(need.ops) <= self.limits.ops
                && self.bytes.saturating_add(need.bytes) <= self.limits.bytes;
            if !fits && !self.inside.is_empty() {
                break;
            }
            let Some((ticket, need, who)) = self.outside.pop_front() else { break };
            self.ops += need.ops;
            self.bytes += need.bytes;
            let mut behind = 0;
            for &path in &need.paths {
                let line = self.lines.entry(path).or_default();
                behind += usize::from(!line.is_empty());
                line.push_back(ticket);
            }
            let mut batch = Inside { need, behind, who: Some(who) };
            let goes = if behind == 0 { batch.who.take() } else { None };
            going.extend(goes.map(|who| (ticket, who)));
            self.inside.insert(ticket, batch);
        }
        going
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(ops: usize, paths: &[PathKey]) -> Need {
        Need { ops, bytes: ops as u64 * 10, paths: paths.iter().copied().collect() }
    }

    fn tickets(going: Vec<(Ticket, ())>) -> Vec<Ticket> {
        going.into_iter().map(|(ticket, ())| ticket).collect()
    }

    #[test]
    fn a_batch_goes_when_those_before_it_at_its_paths_are_applied() {
        let mut turns = Turns::new(Limits { ops: 100, bytes: 1000 });
        assert_eq!(tickets(turns.enter(need(1, &[1, 2]), ()).1), [1]);
        assert_eq!(tickets(turns.enter(need(1, &[2, 3]), ()).1), []);
        assert_eq!(tickets(turns.enter(need(1, &[3]), ()).1), [], "behind the second");
        assert_eq!(tickets(turns.enter(need(1, &[4]), ()).1), [4], "has nothing to do with them");
        assert_eq!(tickets(turns.applied(1)), [2]);
        assert_eq!(tickets(turns.applied(2)), [3]);
    }

    #[test]
    fn a_larger_batch_than_all_room_is_let_in_alone_and_in_its_turn() {
        let mut turns = Turns::new(Limits { ops: 10, bytes: 100 });
        assert_eq!(tickets(turns.enter(need(4, &[1]), ()).1), [1]);
        assert_eq!(tickets(turns.enter(need(50, &[2]), ()).1), []);
        assert_eq!(tickets(turns.enter(need(1, &[3]), ()).1), [], "nobody overtakes at the door");
        turns.applied(1);
        assert_eq!(tickets(turns.answered(1)), [2]);
        turns.applied(2);
        assert_eq!(tickets(turns.answered(2)), [3]);
        assert_eq!(turns.load(), (1, 10));
    }

    #[test]
    fn a_batch_that_is_taken_back_keeps_nobody_out() {
        let mut turns = Turns::new(Limits { ops: 10, bytes: 100 });
        turns.enter(need(4, &[1]), ());
        let (large, _) = turns.enter(need(50, &[2]), ());
        turns.enter(need(1, &[3]), ());
        assert_eq!(turns.cancel(large).map(|(_, going)| tickets(going)), Some(vec![3]));
        assert!(turns.cancel(1).is_none(), "it is inside");
    }

    proptest! {
        /// Whatever order batches end in: at each path they go in order of arrival, one
        /// at a time; limits hold; and all have gone when all are answered.
        #[test]
        fn every_path_is_served_in_order(
            batches in proptest::collection::vec(
                (1..6_usize, proptest::collection::btree_set(0..6_u64, 1..4)), 1..60),
            choices in proptest::collection::vec(any::<u32>(), 200),
        ) {
            let limits = Limits { ops: 8, bytes: 80 };
            let mut turns = Turns::new(limits);
            let mut paths_of = HashMap::new();
            let mut last_at: HashMap<PathKey, Ticket> = HashMap::new();
            let (mut going, mut applied) = (Vec::new(), Vec::new());
            let mut gone = 0;
            let mut arrivals = batches.iter();
            let mut choices = choices.into_iter().cycle();
            loop {
                let choice = choices.next().expect("a cycle") as usize;
                let new = match choice % 3 {
                    0 if !going.is_empty() => {
                        let ticket = going.swap_remove(choice / 3 % going.len());
                        applied.push(ticket);
                        turns.applied(ticket)
                    }
                    1 if !applied.is_empty() => {
                        turns.answered(applied.swap_remove(choice / 3 % applied.len()))
                    }
                    _ => match arrivals.next() {
                        Some((ops, paths)) => {
                            let need = Need { ops: *ops, bytes: 0, paths: paths.clone() };
                            let (ticket, new) = turns.enter(need, ());
                            paths_of.insert(ticket, paths.clone());
                            new
                        }
                        None if going.is_empty() && applied.is_empty() => break,
                        None => continue,
                    },
                };
                for (ticket, ()) in new {
                    for path in &paths_of[&ticket] {
                        let before = last_at.insert(*path, ticket);
                        prop_assert!(before.is_none_or(|before| before < ticket));
                        prop_assert!(before.is_none_or(|before| !going.contains(&before)));
                    }
                    going.push(ticket);
                    gone += 1;
                }
                prop_assert!(turns.load().0 <= limits.ops);
            }
            prop_assert_eq!(gone, batches.len());
            prop_assert_eq!((turns.inside(), turns.load()), (0, (0, 0)));
        }
    }
}
