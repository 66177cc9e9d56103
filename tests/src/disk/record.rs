//! The record of everything that a disk was told, in order.
//!
//! A [`Position`] is a number of entries. The entries below it are what the disk had been told at
//! that moment, so a position read *after* a sync returned has that sync's flush below it, and every
//! cut at that position or later must keep what was synced. A flush's entry is made when the flush is
//! done; it carries the image that is durable from then on and the position that this image stands
//! for: where the record was when the flush *arrived*.
//!
//! The pages of a write are those of the image that it went to, so a record costs little more than
//! the pages that were overwritten since.

use std::fmt;
use std::sync::Arc;

use super::image::Image;
use super::page::{Page, SectorMask, Span};
use super::tearing::Tearing;

const SEGMENT_ENTRIES: usize = 1024;

/// How many entries there were: a moment in the life of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One thing that the disk was told.
#[derive(Clone)]
struct Entry {
    event: Event,
    // The number of the last flush entry at or below this one.
    last_flush: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Event {
    Write(Write),
    Discard { offset: u64, length: u64 },
    Flush { covers: Position, durable: Image },
}

/// What was written, cut at page boundaries.
#[derive(Clone)]
pub(super) struct Write {
    pub first_page: u64,
    pub fragments: Arc<[Fragment]>,
}

/// The part of a write in one page.
#[derive(Clone)]
pub(super) struct Fragment {
    // The whole page as it was after the write; none: zeros.
    pub page: Option<Arc<Page>>,
    // The sectors of it that were written.
    pub sectors: SectorMask,
}

impl Write {
    pub fn apply(&self, image: &mut Image) {
        for (fragment, page) in self.fragments.iter().zip(self.first_page..) {
            image.set_sectors(page, fragment.page.as_ref(), fragment.sectors);
        }
    }
}

/// Stores data in `image` and returns what to record of it. `spans` and `pages` (the new content
/// where a whole page is written) belong together.
pub(super) fn write_to(
    image: &mut Image,
    spans: &[Span],
    pages: Vec<Option<Arc<Page>>>,
    data: &[u8],
) -> Write {
    let mut done = 0;
    let fragments = spans.iter().zip(pages).map(|(span, page)| {
        let part = &data[done..done + span.length()];
        done += span.length();
        let page = if span.is_whole() {
            page
        } else {
            let mut bytes = image.page_bytes(span.page);
            bytes[span.from..span.to].copy_from_slice(part);
            Page::new(&bytes)
        };
        image.set_page(span.page, page.clone());
        Fragment { page, sectors: SectorMask::of(*span) }
    });
    let fragments = fragments.collect();
    Write { first_page: spans.first().map_or(0, |span| span.page), fragments }
}

impl Event {
    fn apply(&self, image: &mut Image) {
        match self {
            Event::Write(write) => write.apply(image),
            Event::Discard { offset, length } => image.zero(*offset, *length),
            Event::Flush { .. } => {}
        }
    }
}

/// A flush under way.
pub(super) struct Promise {
    covers: Position,
    durable: Option<Image>,
}

/// The writing end of a record.
pub(super) struct Log {
    recording: bool,
    // The number of the first entry that is kept.
    base: u64,
    next: u64,
    // The first position from which `crash_image` works.
    first: Position,
    initial: Image,
    // What the last flush made durable, and which position that stands for.
    durable: Image,
    covers: Position,
    last_flush: Option<u64>,
    full: Vec<Arc<Vec<Entry>>>,
    tail: Vec<Entry>,
}

impl Log {
    /// A record that begins at `start` with `image`, all of it durable.
    pub fn new(image: &Image, start: Position, recording: bool) -> Self {
        Log {
            recording,
            base: start.0,
            next: start.0,
            first: start,
            initial: image.clone(),
            durable: image.clone(),
            covers: start,
            last_flush: None,
            full: Vec::new(),
            tail: Vec::new(),
        }
    }

    pub fn position(&self) -> Position {
        Position(self.next)
    }

    /// What a flush that arrives now will have made durable when it is done.
    pub fn flush_arrives(&self, cached: &Image) -> Promise {
        // Without a record nobody will ask; a second image would only make every write copy nodes.
        let durable = self.recording.then(|| cached.clone());
        Promise { covers: self.position(), durable }
    }

    pub fn push(&mut self, event: Event) {
        let number = self.next;
        self.next += 1;
        if !self.recording {
            return;
        }
        if matches!(event, Event::Flush { .. }) {
            self.last_flush = Some(number);
        }
        self.tail.push(Entry { event, last_flush: self.last_flush });
        if self.tail.len() == SEGMENT_ENTRIES {
            let empty = Vec::with_capacity(SEGMENT_ENTRIES);
            self.full.push(Arc::new(std::mem::replace(&mut self.tail, empty)));
        }
    }

    /// The flush is done.
    pub fn flush_is_done(&mut self, promise: Promise) {
        // Of two flushes that overlapped the later one may finish first: never go back.
        if promise.covers >= self.covers {
            self.covers = promise.covers;
            self.durable = promise.durable.unwrap_or_else(|| self.durable.clone());
        }
        let durable = self.durable.clone();
        self.push(Event::Flush { covers: self.covers, durable });
    }

    /// Drops what the last flush covers; the record begins with that flush.
    pub fn forget_durable(&mut self) {
        let keep = self.covers.0 - self.base;
        let entries = self.full.iter().flat_map(|segment| segment.iter()).chain(&self.tail);
        let entries = entries.skip(keep as usize).cloned().collect::<Vec<_>>();
        let last_flush = self.last_flush;
        *self = Log {
            base: self.covers.0,
            first: Position(last_flush.map_or(self.base, |number| number + 1)),
            initial: self.durable.clone(),
            full: Vec::new(),
            tail: Vec::new(),
            durable: self.durable.clone(),
            ..*self
        };
        for entry in entries {
            self.tail.push(entry);
            if self.tail.len() == SEGMENT_ENTRIES {
                self.full.push(Arc::new(std::mem::take(&mut self.tail)));
            }
        }
    }

    pub fn snapshot(&self, cached: &Image) -> Option<Record> {
        let mut segments = self.full.clone();
        segments.push(Arc::new(self.tail.clone()));
        self.recording.then(|| Record {
            base: self.base,
            first: self.first,
            last: self.position(),
            initial: self.initial.clone(),
            cached: cached.clone(),
            segments: segments.into(),
            tearing: Arc::default(),
        })
    }
}

/// A consistent copy of the record up to one moment. Cheap to clone; never changes.
#[derive(Clone)]
pub struct Record {
    base: u64,
    first: Position,
    last: Position,
    initial: Image,
    cached: Image,
    segments: Arc<[Arc<Vec<Entry>>]>,
    tearing: Arc<Tearing>,
}

impl Record {
    /// The same record of a disk that tears writes elsewhere.
    #[must_use]
    pub fn with_tearing(self, tearing: Tearing) -> Self {
        Record { tearing: Arc::new(tearing), ..self }
    }

    pub(super) fn tearing(&self) -> &Tearing {
        &self.tearing
    }

    /// The first position at which the disk's durable content is known.
    pub fn first_position(&self) -> Position {
        self.first
    }

    /// The position when the copy was made.
    pub fn last_position(&self) -> Position {
        self.last
    }

    /// What a reader of the disk saw when the copy was made.
    pub fn cached(&self) -> &Image {
        &self.cached
    }

    /// What the flushes that were done at `position` had made durable.
    pub fn durable(&self, position: Position) -> &Image {
        self.last_flush(position).0
    }

    /// Every write from the beginning, applied in order: must equal [`Record::cached`].
    pub fn replay_all(&self) -> Image {
        self.replay(self.last)
    }

    /// What a reader of the disk saw at `position`. From the beginning and not from the nearest
    /// durable image: that is what this checks.
    pub fn replay(&self, position: Position) -> Image {
        let mut image = self.initial.clone();
        for number in self.base..position.0 {
            self.entry(number).event.apply(&mut image);
        }
        image
    }

    /// Positions right after which a flush was done, in order.
    pub fn flushes(&self) -> Vec<Position> {
        let numbers = self.base..self.last.0;
        let is_flush = |number: &u64| matches!(self.entry(*number).event, Event::Flush { .. });
        let after = numbers.filter(is_flush).map(|number| Position(number + 1));
        after.filter(|position| *position >= self.first).collect()
    }

    /// Writes and discards that were not known to be durable at `position`.
    pub fn unflushed_count(&self, position: Position) -> usize {
        self.unflushed(position).count()
    }

    pub(super) fn unflushed(&self, position: Position) -> impl Iterator<Item = &Event> {
        let (_, covers) = self.last_flush(position);
        let events = (covers.0..position.0).map(|number| &self.entry(number).event);
        events.filter(|event| !matches!(event, Event::Flush { .. }))
    }

    fn last_flush(&self, position: Position) -> (&Image, Position) {
        assert!(
            (self.first..=self.last).contains(&position),
            "the record knows positions {} to {}, not {position}",
            self.first,
            self.last
        );
        let below = position.0.checked_sub(1).filter(|number| *number >= self.base);
        let flush = below.and_then(|number| self.entry(number).last_flush);
        match flush.filter(|number| *number >= self.base).map(|number| &self.entry(number).event) {
            Some(Event::Flush { covers, durable }) => (durable, *covers),
            _ => (&self.initial, Position(self.base)),
        }
    }

    fn entry(&self, number: u64) -> &Entry {
        let index = (number - self.base) as usize;
        &self.segments[index / SEGMENT_ENTRIES][index % SEGMENT_ENTRIES]
    }
}
