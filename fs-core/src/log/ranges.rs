//! Sets of byte ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, kept as ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First byte -> the byte after the last.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether all of `range` is in it; true for an empty range.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &e)| e >= range.end)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Everything that overlaps or touches becomes one.
        while let Some((&first, &last)) = self.ranges.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.ranges.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.ranges.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&first, &last)) = self.ranges.range(..range.end).next_back() {
            if last <= range.start {
                break;
            }
            self.ranges.remove(&first);
            if first < range.start {
                self.ranges.insert(first, range.start);
            }
            if last > range.end {
                self.ranges.insert(range.end, last);
            }
        }
    }

    /// From its first byte to its last; `None` if it is empty.
    #[must_use]
    pub fn span(&self) -> Option<Range<u64>> {
        let (&start, _) = self.ranges.first_key_value()?;
        let (_, &end) = self.ranges.last_key_value()?;
        Some(start..end)
    }

    /// The first byte that is not in it.
    #[must_use]
    pub fn first_missing(&self) -> u64 {
        self.ranges.get(&0).copied().unwrap_or(0)
    }

    /// The parts of `range` that are not in it, in order.
    #[must_use]
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let before = self.ranges.range(..range.start).next_back();
        let mut start = before.map_or(range.start, |(_, &end)| end.max(range.start));
        if start < range.end {
            for (&first, &last) in self.ranges.range(start..range.end) {
                missing.extend((start < first).then_some(start..first));
                start = last;
            }
            missing.extend((start < range.end).then_some(start..range.end));
        }
        missing
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 64;

    fn bytes_of(set: &RangeSet) -> Vec<bool> {
        (0..BYTES).map(|byte| set.contains(&(byte..byte + 1))).collect()
    }

    proptest! {
        /// A set of ranges is a set of bytes.
        #[test]
        fn ranges_behave_like_bytes(
            steps in proptest::collection::vec((any::<bool>(), 0..BYTES, 0..BYTES), 1..40),
        ) {
            let mut set = RangeSet::default();
            let mut model = vec![false; BYTES as usize];
            for (insert, a, b) in steps {
                let range = a.min(b)..a.max(b);
                if insert { set.insert(range.clone()) } else { set.remove(&range) }
                model[range.start as usize..range.end as usize].fill(insert);
                prop_assert_eq!(bytes_of(&set), model.clone());
                let missing: RangeSet = set.missing(0..BYTES).into_iter().collect();
                let inverse: Vec<bool> = model.iter().map(|there| !there).collect();
                prop_assert_eq!(bytes_of(&missing), inverse);
                let first = model.iter().position(|there| !there).unwrap_or(BYTES as usize);
                prop_assert_eq!(set.first_missing(), first as u64);
                let start = model.iter().position(|there| *there);
                let end = model.iter().rposition(|there| *there);
                let span = start.zip(end).map(|(start, end)| start as u64..end as u64 + 1);
                prop_assert_eq!(set.span(), span);
                let bytes = model.iter().filter(|there| **there).count();
                prop_assert_eq!(set.bytes(), bytes as u64);
                let (a, b) = (a.min(b), a.max(b));
                let within = set.missing(a..b);
                let expected = missing.iter().map(|part| part.start.max(a)..part.end.min(b));
                prop_assert_eq!(within, expected.filter(|part| !part.is_empty()).collect::<Vec<_>>());
                // Neither overlapping nor touching.
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
