//! The stream: every operation that changed metadata, in the order in which it
//! was applied, until a group takes it into the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format::{check_record, encode_record};
use super::record::{Change, Record};
use super::tracked::Tracked;
use crate::engine::Lsn;
use crate::platform::{Backing, ObjectKey};

/// Operations that no group has taken yet.
pub(crate) struct Stream<B: Backing> {
    /// The last number given out.
    last: Lsn,
    /// Encoded records.
    pending: Vec<u8>,
    records: u32,
    /// When the first of them came.
    since: Option<Instant>,
    /// Number of the last of them.
    last_record: Lsn,
    /// Files whose content must be durable when the pending operations are: what
    /// was renamed over another file, say.
    joined: Vec<Arc<Tracked<B>>>,
    /// An operation came that the log cannot express.
    inexpressible: bool,
}

/// What a group takes from the stream.
pub(crate) struct Tail<B: Backing> {
    pub(crate) records: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) since: Option<Instant>,
    pub(crate) last_record: Lsn,
    pub(crate) joined: Vec<Arc<Tracked<B>>>,
    /// The last number given out when the tail was cut: everything up to it has
    /// been applied.
    pub(crate) through: Lsn,
    /// The log cannot say all of it: only a journal commit will do.
    pub(crate) inexpressible: bool,
}

impl<B: Backing> Tail<B> {
    /// Whether there is no operation and no file in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.joined.is_empty() && !self.inexpressible
    }
}

impl<B: Backing> Stream<B> {
    /// A stream whose next number follows `last`.
    pub(crate) const fn new(last: Lsn) -> Self {
        Self {
            last,
            pending: Vec::new(),
            records: 0,
            since: None,
            last_record: 0,
            joined: Vec::new(),
            inexpressible: false,
        }
    }

    /// The last number given out.
    pub(crate) const fn last(&self) -> Lsn {
        self.last
    }

    /// The number that the next operation will have.
    pub(crate) const fn next(&self) -> Lsn {
        self.last + 1
    }

    /// Takes in an operation that has just been applied.
    pub(crate) fn push(&mut self, change: Change) {
        self.last += 1;
        self.since.get_or_insert_with(Instant::now);
        let record = Record { lsn: self.last, change };
        if let Err(error) = check_record(&record) {
            tracing::warn!(%error, "an operation cannot be logged; the next group is a commit");
            self.inexpressible = true;
            return;
        }
        encode_record(&record, &mut self.pending);
        self.records += 1;
        self.last_record = self.last;
    }

    /// Has the next group make this file's content durable too.
    pub(crate) fn join(&mut self, file: Arc<Tracked<B>>) {
        if !self.joined.iter().any(|joined| Arc::ptr_eq(joined, &file)) {
            self.joined.push(file);
        }
    }

    /// The next group need not care for this file.
    pub(crate) fn leave(&mut self, key: &ObjectKey) {
        if let Some(place) = self.joined.iter().rposition(|joined| joined.key() == key) {
            self.joined.swap_remove(place);
        }
    }

    /// Bytes of records waiting.
    pub(crate) const fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Operations that wait for a group, and since when the first of them.
    pub(crate) fn waiting(&self) -> (u64, Option<Duration>) {
        (u64::from(self.records), self.since.map(|since| since.elapsed()))
    }

    /// Whether nothing waits for a group.
    pub(crate) const fn is_empty(&self) -> bool {
        self.records == 0 && self.joined.is_empty() && !self.inexpressible
    }

    /// Takes everything that waits.
    pub(crate) fn cut(&mut self) -> Tail<B> {
        Tail {
            records: std::mem::take(&mut self.pending),
            count: std::mem::take(&mut self.records),
            since: self.since.take(),
            last_record: self.last_record,
            joined: std::mem::take(&mut self.joined),
            through: self.last,
            inexpressible: std::mem::take(&mut self.inexpressible),
        }
    }

    /// Puts back what a group could not make durable, in front of what came since.
    pub(crate) fn put_back(&mut self, tail: Tail<B>) {
        let newer = std::mem::replace(&mut self.pending, tail.records);
        self.pending.extend_from_slice(&newer);
        if self.records == 0 {
            self.last_record = tail.last_record;
        }
        self.records += tail.count;
        self.since = tail.since.or(self.since);
        self.inexpressible |= tail.inexpressible;
        for file in tail.joined {
            self.join(file);
        }
    }

    /// Gives out a number without an operation: for the content of a file.
    pub(crate) fn take_number(&mut self) -> Lsn {
        self.last += 1;
        self.last
    }
}
