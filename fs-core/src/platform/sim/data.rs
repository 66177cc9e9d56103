//! Content of files: pages in blocks, lengths, holes.

use std::ops::Range;
use std::sync::Arc;

use super::attr::Changer;
use super::blocks::{Block, Page, Version};
use super::handles::SimFile;
use super::image::{BlockId, Change, Id, PAGE_BYTES};
use super::model::STALE_BYTE;
use super::state::State;
use crate::error::{Errno, Result};
use crate::platform::Seek;
use crate::types::{FileKind, Time};

/// Longest file: 16 TiB, as on ext4 with blocks of 4 KiB.
pub(super) const FILE_BYTES_MAX: u64 = (1 << 44) - PAGE_BYTES;

/// Modes of `fallocate(2)`.
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

impl State {
    /// A regular file.
    fn file(&self, id: Id) -> Result<()> {
        match self.node(id)?.kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    // ---- reading ----

    /// Reads; short only at the end of the file.
    pub(super) fn read(&self, id: Id, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file(id)?;
        let node = self.node(id)?;
        let left = node.attrs.size.saturating_sub(offset);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let mut done = 0;
        while done < bytes {
            let at = offset + done as u64;
            let within = (at % PAGE_BYTES) as usize;
            let part = (bytes - done).min(PAGE_BYTES as usize - within);
            let target = &mut buffer[done..done + part];
            match node.blocks().and_then(|blocks| blocks.get(&(at / PAGE_BYTES))) {
                Some(block) => {
                    target.copy_from_slice(&self.blocks[block].page()[within..within + part]);
                }
                None => target.fill(0),
            }
            done += part;
        }
        Ok(bytes)
    }

    /// Finds data or a hole.
    pub(super) fn seek(&self, id: Id, offset: u64, what: Seek) -> Result<u64> {
        self.file(id)?;
        let node = self.node(id)?;
        let size = node.attrs.size;
        let Some(blocks) = node.blocks().filter(|_| offset < size) else {
            return Err(Errno::NXIO);
        };
        let first = offset / PAGE_BYTES;
        let found = match what {
            Seek::Data => blocks.range(first..).next().map(|(&page, _)| page),
            Seek::Hole => {
                let mut page = first;
                while blocks.contains_key(&page) {
                    page += 1;
                }
                Some(page)
            }
        };
        let found = found.map(|page| (page * PAGE_BYTES).max(offset));
        match what {
            Seek::Data => found.filter(|&at| at < size).ok_or(Errno::NXIO),
            Seek::Hole => Ok(found.unwrap_or(size).min(size)),
        }
    }

    /// Ranges of whole pages whose blocks the device was given data for, so not
    /// those that wait for allocation; only those that meet `within`. Adjacent ones are
    /// one, and there are `ranges_max` at most.
    pub(super) fn settled(
        &self,
        id: Id,
        within: Range<u64>,
        ranges_max: usize,
    ) -> Result<Vec<Range<u64>>> {
        self.file(id)?;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (page, block) in self.node(id)?.blocks().into_iter().flatten() {
            let start = page * PAGE_BYTES;
            let is_within = start < within.end && start + PAGE_BYTES > within.start;
            if !is_within || !self.blocks[block].is_written() {
                continue;
            }
            let full = ranges.len() >= ranges_max;
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += PAGE_BYTES,
                _ if full => break,
                _ => ranges.push(start..start + PAGE_BYTES),
            }
        }
        Ok(ranges)
    }

    /// Ranges of whole pages that wait for allocation, and that write-back would allocate; only those
    /// that meet `within`. What is told so has not left the memory; just before somebody may have had
    /// some of it written.
    pub(super) fn delayed(&mut self, id: Id, within: &Range<u64>) -> Result<Vec<Range<u64>>> {
        self.file(id)?;
        if !self.aborted && self.random.one_in(8) {
            self.write_some(id);
        }
        let dirty = self.dirty_within(id, within);
        let waiting: Vec<u64> = self.running(id).delayed.intersection(&dirty).copied().collect();
        for page in &waiting {
            let block = self.live.get(id).and_then(|node| node.blocks()?.get(page).copied());
            let block = block.and_then(|block| self.blocks.get_mut(&block));
            block.expect("a delayed page is mapped").is_in_memory();
        }
        let range = |page: u64| page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
        Ok(waiting.into_iter().map(range).collect())
    }

    // ---- writing ----

    /// Writes all of `data`, as much as fits below the largest length.
    pub(super) fn write(
        &mut self,
        changer: Changer,
        id: Id,
        data: &[u8],
        offset: u64,
    ) -> Result<usize> {
        self.file(id)?;
        self.writable()?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::INVAL);
        }
        let room = FILE_BYTES_MAX.saturating_sub(offset);
        let bytes = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        if bytes == 0 {
            return Err(Errno::FBIG);
        }
        let now = self.now();
        self.put(id, &data[..bytes], offset);
        self.modified(changer, id, now);
        self.end_op();
        Ok(bytes)
    }

    /// Stamps a change of content.
    fn modified(&mut self, changer: Changer, id: Id, now: Time) {
        self.touch(id, now, |attrs| {
            attrs.mtime = now;
            attrs.perm = changer.leaves(attrs);
        });
    }

    /// Puts bytes into blocks and extends the length over them.
    fn put(&mut self, id: Id, data: &[u8], offset: u64) {
        let Ok(attrs) = self.attrs(id) else { return };
        let end = offset + data.len() as u64;
        let size = attrs.size.max(end);
        for page in Self::pages(offset, data.len() as u64) {
            let start = page * PAGE_BYTES;
            let block = self.block_to_write(id, page);
            let from = offset.max(start);
            let part = &data[(from - offset) as usize..];
            let part = &part[..part.len().min((start + PAGE_BYTES - from) as usize)];
            let within = (from - start) as usize;
            self.new_version(id, page, block, size.min(start + PAGE_BYTES), |bytes| {
                bytes[within..within + part.len()].copy_from_slice(part);
            });
        }
        if end > attrs.size {
            self.extend(id, end);
        }
    }

    /// Sets the length that a write has reached.
    fn extend(&mut self, id: Id, end: u64) {
        let last_page = (end - 1) / PAGE_BYTES;
        let at_once = self.options.model.extends_within_blocks_at_once();
        let running = self.running(id);
        if at_once && !running.delayed.contains(&last_page) {
            running.logged_size = end;
        }
        let Ok(mut attrs) = self.attrs(id) else { return };
        attrs.size = end;
        self.change(Change::Attrs(id, attrs));
    }

    fn block_to_write(&mut self, id: Id, page: u64) -> BlockId {
        let known = self.live.get(id).and_then(|node| node.blocks()?.get(&page).copied());
        if let Some(block) = known {
            return block;
        }
        let block = BlockId(self.next_block);
        self.next_block += 1;
        let stale = self.options.model.shows_stale_data() && self.random.one_in(2);
        self.blocks.insert(block, Block::new(if stale { STALE_BYTE } else { 0 }));
        if self.options.model.delays_allocation() {
            self.map_delayed(id, page, block);
        } else {
            self.change(Change::Map { id, page, block });
        }
        block
    }

    /// Gives a block new content; returns the version's number.
    fn new_version(
        &mut self,
        id: Id,
        page: u64,
        block: BlockId,
        end: u64,
        edit: impl FnOnce(&mut Page),
    ) -> u64 {
        let (serial, position) = (self.next_serial, self.position());
        self.next_serial += 1;
        let cuts = self.live.get(id).map_or(0, |node| node.attrs.cuts);
        self.running(id).dirty.insert(page);
        let known = self.blocks.get_mut(&block).expect("a mapped block is there");
        let mut content = known.content();
        edit(&mut content);
        known.push(Version { serial, position, end, cuts, page: Arc::new(content) });
        serial
    }

    // ---- lengths and holes ----

    /// Sets the length.
    pub(super) fn set_size(&mut self, changer: Changer, id: Id, size: u64) -> Result<()> {
        match self.node(id)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            FileKind::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::INVAL),
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::INVAL);
        }
        if size > FILE_BYTES_MAX {
            return Err(Errno::FBIG);
        }
        self.writable()?;
        let now = self.now();
        let old = self.attrs(id)?.size;
        self.cut_to(changer, id, size, now);
        if size == 0 && old > 0 {
            self.running(id).flush_on_close = true;
        }
        self.end_op();
        Ok(())
    }

    fn cut_to(&mut self, changer: Changer, id: Id, size: u64, now: Time) {
        let old = self.live.get(id).map_or(0, |node| node.attrs.size);
        if size < old {
            self.drop_pages(id, size.div_ceil(PAGE_BYTES)..u64::MAX);
            let whole = size / PAGE_BYTES * PAGE_BYTES;
            self.zero_part(id, size, whole + PAGE_BYTES, size);
        }
        self.running(id).logged_size = size;
        self.touch(id, now, |attrs| {
            attrs.size = size;
            attrs.cuts += 1;
            attrs.mtime = now;
            attrs.perm = changer.leaves(attrs);
        });
    }

    /// Takes the blocks of these pages away.
    fn drop_pages(&mut self, id: Id, pages: Range<u64>) {
        let Some(blocks) = self.live.get(id).and_then(|node| node.blocks()) else { return };
        let blocks: Vec<_> = blocks.range(pages).map(|(&page, &block)| (page, block)).collect();
        for (page, block) in blocks {
            if self.running(id).delayed.contains(&page) {
                self.forget_delayed(id, page);
            } else {
                self.running(id).dirty.remove(&page);
                self.change(Change::Unmap { id, page, block });
            }
        }
    }

    /// Zeroes bytes within one page, if it has a block; on disk before the entry
    /// that is being made commits, lest old bytes come back beyond a new end.
    fn zero_part(&mut self, id: Id, from: u64, to: u64, size: u64) {
        let page = from / PAGE_BYTES;
        let block = self.live.get(id).and_then(|node| node.blocks()?.get(&page).copied());
        let Some(block) = block.filter(|_| from < to) else { return };
        let start = page * PAGE_BYTES;
        let range = (from - start) as usize..(to - start) as usize;
        let end = size.min(start + PAGE_BYTES);
        let serial = self.new_version(id, page, block, end, |bytes| bytes[range].fill(0));
        self.floor(block, serial);
    }

    /// The modes of `fallocate(2)`, except those that move data (`EOPNOTSUPP`).
    /// Blocks are not reserved: the disk is never full, and a first write
    /// changes metadata as the conversion of a reserved block would.
    pub(super) fn allocate(
        &mut self,
        changer: Changer,
        file: &SimFile,
        mode: u32,
        (offset, bytes): (u64, u64),
    ) -> Result<()> {
        let (offset_signed, bytes_signed) = (i64::try_from(offset), i64::try_from(bytes));
        if bytes == 0 || offset_signed.is_err() || bytes_signed.is_err() {
            return Err(Errno::INVAL);
        }
        let zeroes = match mode {
            0 | KEEP_SIZE => false,
            ZERO_RANGE => true,
            _ if mode == ZERO_RANGE | KEEP_SIZE || mode == PUNCH_HOLE | KEEP_SIZE => true,
            _ => return Err(Errno::OPNOTSUPP),
        };
        let id = file.writable()?;
        match self.node(id)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::NODEV),
        }
        let end = offset.saturating_add(bytes);
        if end > FILE_BYTES_MAX {
            return Err(Errno::FBIG);
        }
        self.writable()?;
        let now = self.now();
        if zeroes {
            self.zero_range(id, offset, end);
        }
        if mode & KEEP_SIZE == 0 && end > self.attrs(id)?.size {
            self.running(id).logged_size = end;
            self.touch(id, now, |attrs| {
                attrs.size = end;
                attrs.cuts += 1;
            });
        }
        self.modified(changer, id, now);
        self.end_op();
        Ok(())
    }

    fn zero_range(&mut self, id: Id, offset: u64, end: u64) {
        let size = self.live.get(id).map_or(0, |node| node.attrs.size);
        if end >= size && self.options.model.delays_allocation() {
            // What waits there would have told the length: ext4 notes it itself
            // (`ext4_update_disksize_before_punch`), XFS writes what waits (`xfs_flush_unmap_range`).
            self.running(id).logged_size = size;
        }
        // The last page goes whole if nothing of the file is left in it.
        let end = if end >= size { end.next_multiple_of(PAGE_BYTES) } else { end };
        let (first, last) = (offset.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
        if first > last {
            return self.zero_part(id, offset, end, size);
        }
        self.zero_part(id, offset, first * PAGE_BYTES, size);
        self.drop_pages(id, first..last);
        self.zero_part(id, last * PAGE_BYTES, end, size);
    }

    /// Copies between files, at most [`COPY_BYTES_MAX`] bytes.
    pub(super) fn copy_range(
        &mut self,
        changer: Changer,
        source: (Id, u64),
        target: (Id, u64),
        bytes: u64,
    ) -> Result<u64> {
        self.file(source.0)?;
        self.file(target.0)?;
        let left = self.attrs(source.0)?.size.saturating_sub(source.1);
        let bytes = bytes.min(left);
        if source.0 == target.0 && source.1.abs_diff(target.1) < bytes {
            return Err(Errno::INVAL);
        }
        let bytes = bytes.min(COPY_BYTES_MAX);
        if bytes == 0 {
            return Ok(0);
        }
        let mut buffer = vec![0; bytes as usize];
        self.read(source.0, &mut buffer, source.1)?;
        Ok(self.write(changer, target.0, &buffer, target.1)? as u64)
    }
}

/// Most that one call copies; callers continue after a short copy.
pub(super) const COPY_BYTES_MAX: u64 = 1 << 20;
