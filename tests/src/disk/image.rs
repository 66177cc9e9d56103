//! The content of a disk: sparse, and shared between as many images as one likes.
//!
//! A tree of 32 children a node with pages of 4 KiB at its leaves. A copy of an image is one more
//! reference to its root; a write copies the few nodes on the way to the page (about 1 KiB) when
//! others refer to them too. A page never changes once it is made: images and the record of writes
//! share it. What was never written, or is all zeros, is not there at all, so that equal content has
//! equal shape, and a hash of the content that each node remembers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::page::{PAGE_BYTES, Page, SECTOR_BYTES, SectorMask, Span, mix, spans};

const FAN_OUT_BITS: u32 = 5;
const FAN_OUT: usize = 1 << FAN_OUT_BITS;

/// The content of a disk of a fixed size. Cheap to clone.
#[derive(Clone)]
pub struct Image {
    root: Option<Arc<Node>>,
    // Levels of inner nodes above the leaves.
    height: u32,
    size_bytes: u64,
}

enum Node {
    Inner { children: [Option<Arc<Node>>; FAN_OUT], digest: OnceLock<u64> },
    Leaf { pages: [Option<Arc<Page>>; FAN_OUT], digest: OnceLock<u64> },
}

impl Image {
    /// A disk full of zeros.
    pub fn empty(size_bytes: u64) -> Self {
        let pages = size_bytes.div_ceil(PAGE_BYTES as u64).max(1);
        let bits = u64::BITS - (pages - 1).leading_zeros();
        Image { root: None, height: bits.div_ceil(FAN_OUT_BITS).max(1) - 1, size_bytes }
    }

    /// The content of a file, such as one made by `mkfs`; holes cost nothing.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut image = Image::empty(file.metadata()?.len());
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < image.size_bytes {
            let count = file.read_at(&mut buffer, offset)?;
            if count == 0 {
                break;
            }
            image.write_at(offset, &buffer[..count]);
            offset += count as u64;
        }
        Ok(image)
    }

    /// Writes the content to a new sparse file, for tools that look into it.
    pub fn to_file(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size_bytes)?;
        let mut outcome = Ok(());
        self.for_each_page(|index, page| {
            let end = (self.size_bytes - index * PAGE_BYTES as u64).min(PAGE_BYTES as u64);
            let bytes = &page.bytes()[..usize::try_from(end).expect("at most a page")];
            if outcome.is_ok() {
                outcome = file.write_all_at(bytes, index * PAGE_BYTES as u64);
            }
        });
        outcome
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Pages that are not all zeros.
    pub fn page_count(&self) -> u64 {
        let mut count = 0;
        self.for_each_page(|_, _| count += 1);
        count
    }

    /// Fills `buffer` from `offset`, which must lie inside.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) {
        self.check(offset, buffer.len() as u64);
        let mut done = 0;
        for span in spans(offset, buffer.len() as u64) {
            let target = &mut buffer[done..done + span.length()];
            match self.page(span.page) {
                Some(page) => target.copy_from_slice(&page.bytes()[span.from..span.to]),
                None => target.fill(0),
            }
            done += span.length();
        }
    }

    /// Stores `bytes` at `offset`; both may be odd.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) {
        self.check(offset, bytes.len() as u64);
        let mut done = 0;
        for span in spans(offset, bytes.len() as u64) {
            let part = &bytes[done..done + span.length()];
            self.write_span(span, part);
            done += span.length();
        }
    }

    /// Zeros from `offset`; whole pages are freed.
    pub fn zero(&mut self, offset: u64, length: u64) {
        self.check(offset, length);
        let page = PAGE_BYTES as u64;
        let (first, last) = (offset.div_ceil(page), (offset + length) / page);
        if first >= last {
            return self.zero_edges(offset, offset + length);
        }
        self.zero_edges(offset, first * page);
        self.zero_edges(last * page, offset + length);
        clear(&mut self.root, self.height, 0, first, last);
    }

    /// The page of this number, unless it is all zeros.
    pub(super) fn page(&self, index: u64) -> Option<&Arc<Page>> {
        let mut node = self.root.as_deref()?;
        let mut level = self.height;
        loop {
            match node {
                Node::Inner { children, .. } => node = children[slot(index, level)].as_deref()?,
                Node::Leaf { pages, .. } => return pages[slot(index, 0)].as_ref(),
            }
            level -= 1;
        }
    }

    /// Makes `page` (none: zeros) the page of this number.
    pub(super) fn set_page(&mut self, index: u64, page: Option<Arc<Page>>) {
        set(&mut self.root, self.height, index, page);
    }

    /// Takes some sectors of the page of this number from `page`.
    pub(super) fn set_sectors(
        &mut self,
        index: u64,
        page: Option<&Arc<Page>>,
        sectors: SectorMask,
    ) {
        if sectors == SectorMask::ALL {
            return self.set_page(index, page.cloned());
        }
        let mut bytes = self.page_bytes(index);
        for sector in sectors.iter() {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            match page {
                Some(page) => bytes[range.clone()].copy_from_slice(&page.bytes()[range]),
                None => bytes[range].fill(0),
            }
        }
        self.set_page(index, Page::new(&bytes));
    }

    /// A copy of the page of this number.
    pub(super) fn page_bytes(&self, index: u64) -> [u8; PAGE_BYTES] {
        self.page(index).map_or([0; PAGE_BYTES], |page| *page.bytes())
    }

    /// A hash of the whole content: equal content has an equal hash. Only what changed since the
    /// last call (on this image or on one that it was cloned from) is computed.
    pub fn hash(&self) -> u64 {
        mix(self.size_bytes, self.root.as_ref().map_or(0, |node| node.digest()))
    }

    /// The offset of the first page that differs, if any.
    pub fn first_difference(&self, other: &Image) -> Option<u64> {
        if self.size_bytes != other.size_bytes {
            return Some(self.size_bytes.min(other.size_bytes));
        }
        let page = first_difference(self.root.as_ref(), other.root.as_ref(), self.height, 0);
        page.map(|index| index * PAGE_BYTES as u64)
    }

    /// Calls `visit` with number and content of each page that is not all zeros, in order.
    pub fn for_each_page(&self, mut visit: impl FnMut(u64, &Page)) {
        if let Some(root) = &self.root {
            walk(root, 0, &mut visit);
        }
    }

    fn write_span(&mut self, span: Span, part: &[u8]) {
        if span.is_whole() {
            return self.set_page(span.page, Page::new(part));
        }
        let mut bytes = self.page_bytes(span.page);
        bytes[span.from..span.to].copy_from_slice(part);
        self.set_page(span.page, Page::new(&bytes));
    }

    // Less than a page at either end of a range.
    fn zero_edges(&mut self, from: u64, to: u64) {
        for span in spans(from, to - from) {
            if self.page(span.page).is_some() {
                let mut bytes = self.page_bytes(span.page);
                bytes[span.from..span.to].fill(0);
                self.set_page(span.page, Page::new(&bytes));
            }
        }
    }

    fn check(&self, offset: u64, length: u64) {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.size_bytes),
            "{length} bytes at {offset} are not on a disk of {} bytes",
            self.size_bytes
        );
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.first_difference(other).is_none()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (size, hash) = (self.size_bytes, self.hash());
        write!(formatter, "Image({size} bytes, {} pages, {hash:016x})", self.page_count())
    }
}

impl Node {
    fn new(level: u32) -> Self {
        match level {
            0 => Node::Leaf { pages: Default::default(), digest: OnceLock::new() },
            _ => Node::Inner { children: Default::default(), digest: OnceLock::new() },
        }
    }

    // The digest of nothing is 0, so that an empty node and none at all are the same.
    fn digest(&self) -> u64 {
        let fold = |sum: u64, (index, value): (usize, u64)| match value {
            0 => sum,
            value => sum.wrapping_add(mix(index as u64, value)),
        };
        *match self {
            Node::Inner { children, digest } => digest.get_or_init(|| {
                let value = |child: &Option<Arc<Node>>| child.as_ref().map_or(0, |c| c.digest());
                children.iter().map(value).enumerate().fold(0, fold)
            }),
            Node::Leaf { pages, digest } => digest.get_or_init(|| {
                let value = |page: &Option<Arc<Page>>| page.as_ref().map_or(0, |p| p.hash());
                pages.iter().map(value).enumerate().fold(0, fold)
            }),
        }
    }
}

impl Clone for Node {
    // A clone is made to be changed: it must not remember the digest.
    fn clone(&self) -> Self {
        let digest = OnceLock::new();
        match self {
            Node::Inner { children, .. } => Node::Inner { children: children.clone(), digest },
            Node::Leaf { pages, .. } => Node::Leaf { pages: pages.clone(), digest },
        }
    }
}

fn slot(index: u64, level: u32) -> usize {
    // Masked to five bits.
    (index >> (FAN_OUT_BITS * level)) as usize & (FAN_OUT - 1)
}

fn set(place: &mut Option<Arc<Node>>, level: u32, index: u64, page: Option<Arc<Page>>) {
    if place.is_none() && page.is_none() {
        return;
    }
    let node = place.get_or_insert_with(|| Arc::new(Node::new(level)));
    match Arc::make_mut(node) {
        Node::Inner { children, digest } => {
            digest.take();
            set(&mut children[slot(index, level)], level - 1, index, page);
        }
        Node::Leaf { pages, digest } => {
            digest.take();
            pages[slot(index, 0)] = page;
        }
    }
}

// Frees the pages from `first` up to but not including `last`; `base` is the node's first page.
fn clear(place: &mut Option<Arc<Node>>, level: u32, base: u64, first: u64, last: u64) {
    let Some(node) = place else { return };
    let child_pages = 1u64 << (FAN_OUT_BITS * level);
    let end = base + child_pages * FAN_OUT as u64;
    if first <= base && end <= last {
        *place = None;
        return;
    }
    if last <= base || end <= first {
        return;
    }
    match Arc::make_mut(node) {
        Node::Inner { children, digest } => {
            digest.take();
            for (child, start) in children.iter_mut().zip((base..).step_by(child_pages as usize)) {
                clear(child, level - 1, start, first, last);
            }
        }
        Node::Leaf { pages, digest } => {
            digest.take();
            for (page, index) in pages.iter_mut().zip(base..) {
                if (first..last).contains(&index) {
                    *page = None;
                }
            }
        }
    }
}

fn walk(node: &Node, base: u64, visit: &mut impl FnMut(u64, &Page)) {
    match node {
        Node::Inner { children, .. } => {
            for (slot, child) in children.iter().enumerate() {
                if let Some(child) = child {
                    walk(child, (base * FAN_OUT as u64) + slot as u64, visit);
                }
            }
        }
        Node::Leaf { pages, .. } => {
            for (slot, page) in pages.iter().enumerate() {
                if let Some(page) = page {
                    visit(base * FAN_OUT as u64 + slot as u64, page);
                }
            }
        }
    }
}

// Shared nodes and pages are equal without looking; everything else is compared byte for byte.
fn first_difference(
    left: Option<&Arc<Node>>,
    right: Option<&Arc<Node>>,
    level: u32,
    base: u64,
) -> Option<u64> {
    if let (Some(left), Some(right)) = (left, right)
        && Arc::ptr_eq(left, right)
    {
        return None;
    }
    let at = |slot: usize| base * FAN_OUT as u64 + slot as u64;
    (0..FAN_OUT).find_map(|slot| match level {
        0 => {
            let (left, right) = (page_in(left, slot), page_in(right, slot));
            let same = match (left, right) {
                (Some(left), Some(right)) => left.bytes() == right.bytes(),
                (left, right) => left.is_none() && right.is_none(),
            };
            (!same).then(|| at(slot))
        }
        _ => {
            let (left, right) = (child_in(left, slot), child_in(right, slot));
            if left.is_none() && right.is_none() {
                return None;
            }
            first_difference(left, right, level - 1, at(slot))
        }
    })
}

fn child_in(node: Option<&Arc<Node>>, slot: usize) -> Option<&Arc<Node>> {
    match node.map(Arc::as_ref) {
        Some(Node::Inner { children, .. }) => children[slot].as_ref(),
        _ => None,
    }
}

fn page_in(node: Option<&Arc<Node>>, slot: usize) -> Option<&Page> {
    match node.map(Arc::as_ref) {
        Some(Node::Leaf { pages, .. }) => pages[slot].as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const SIZE_BYTES: u64 = 3 << 20;

    // The tree against a plain array, with images cloned on the way: a clone must never change.
    #[test]
    fn it_agrees_with_a_plain_array() {
        let mut random = Random::new(1);
        let mut image = Image::empty(SIZE_BYTES);
        let mut plain = vec![0; SIZE_BYTES as usize];
        let mut earlier = Vec::new();
        for round in 0..2000 {
            let length = random.below(if round % 10 == 0 { 300_000 } else { 9000 });
            let offset = random.below(plain.len() - length);
            if random.below(3) == 0 {
                image.zero(offset as u64, length as u64);
                plain[offset..offset + length].fill(0);
            } else {
                random.fill(&mut plain[offset..offset + length]);
                image.write_at(offset as u64, &plain[offset..offset + length]);
            }
            if round % 200 == 0 {
                earlier.push((image.clone(), plain.clone(), image.hash()));
            }
        }
        earlier.push((image.clone(), plain.clone(), image.hash()));
        for (image, plain, hash) in &earlier {
            let mut found = vec![1; plain.len()];
            image.read_at(0, &mut found);
            assert!(found == *plain, "an image changed after it was cloned");
            let mut rebuilt = Image::empty(SIZE_BYTES);
            rebuilt.write_at(0, plain);
            assert_eq!(rebuilt.hash(), *hash, "the hash depends on history");
            assert_eq!(rebuilt.first_difference(image), None);
        }
    }

    #[test]
    fn one_byte_makes_a_difference() {
        let mut image = Image::empty(4 << 30);
        let empty = image.clone();
        let offset = (3 << 30) + 4097;
        image.write_at(offset, b"x");
        assert_eq!(image.first_difference(&empty), Some(offset - 1));
        assert_ne!(image.hash(), empty.hash());
        image.zero(0, 4 << 30);
        assert_eq!(image, empty);
        assert_eq!(image.hash(), empty.hash());
    }
}
