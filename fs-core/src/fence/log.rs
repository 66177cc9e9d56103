//! The log fence: data in place, the rest into the log, one flush for both.
//!
//! | what a group needs | what happens |
//! | --- | --- |
//! | nothing: no file has changed since it was last durable, no operation waits | all are answered |
//! | data whose blocks are committed (overwrites) | written in place; one flush |
//! | operations, new blocks | written in place, or left to the log where it has no block yet; one log group; one flush |
//! | files in more parts than the log is good for; one file alone with more new bytes | each synced as its program asked |
//! | the same among others; no room in the log; a failed log | written in place; one journal commit |
//!
//! Writing in place is begun first and waited for last: meanwhile the group is put together and
//! written. Only the flush has to come after both. A group that is found in the log without its data in
//! place was not flushed, so nobody was told of it; recovery takes from it what has no block, and
//! what has one keeps what was there before. (Where it ends a rewrite, or takes another file's name,
//! recovery takes all of it: a part of the new content would be neither old nor new.) A file that is cut meanwhile loses pages before
//! they are written: then a journal commit follows, which has the cut.
//!
//! What a file that is synced again and again has added since, and what has no block yet when the group
//! is written, is not written in place at all: the log has it until the next checkpoint
//! ([`crate::log::tracked`]). Whatever then is no log group, a journal commit or a sync of each file,
//! has all of the group's files written in place first.
//!
//! Nothing is answered before its flush or commit has succeeded. A file whose data
//! could not be written in place tells its error to those who asked for that file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::in_place::InPlace;
use super::{BackingFence, FenceOutcome, GroupFence, SyncRequest, Way};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::log::format::GroupBuilder;
use crate::log::tracked::{Before, Collected, Memory, Need, Tracked};
use crate::log::{Log, Tail, WriteError, Writer, device_error};
use crate::platform::{Backing, LogStore};
use crate::types::Attr;

mod in_place;
mod instead;

/// Pages of one file that are compared at a sync; with more a commit is cheaper.
const COMPARED_PAGES_MAX: usize = 4096;

/// Makes groups durable through the log.
pub struct LogFence<B: Backing> {
    log: Arc<Log<B>>,
    backing: Arc<B>,
    fence: Arc<BackingFence<B>>,
    /// What waits for its blocks may be left to the log.
    may_leave: bool,
    /// Running mean of what a write and a flush of the log take.
    flush_ns: AtomicU64,
}

/// One file of a group.
struct GroupFile<B: Backing> {
    file: Arc<Tracked<B>>,
    reader: Arc<B::File>,
    before: Before,
    /// When its number had been taken.
    attr: Attr,
    lsn: Lsn,
    /// Content from here on is left to the log if it waits for its blocks.
    left_from: u64,
    need: Need,
    collected: Collected,
    /// Time that comparing its live pages took.
    comparing: Duration,
    /// It could not be written in place: nothing is known to be durable.
    has_failed: bool,
}

/// What became of a group's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// It is in the group that is being built.
    InLog,
    /// All that would have to be in the log is of files in too many parts for it: they are synced each by itself.
    InParts,
    /// There is too much of it. A file alone is synced by itself, several by a journal commit.
    TooMuch,
    /// Only a journal commit will do.
    Changed,
}

impl<B: Backing> LogFence<B> {
    /// A fence that uses `log`, and `fence` where the log is no use.
    pub fn new(log: Arc<Log<B>>, backing: Arc<B>, fence: Arc<BackingFence<B>>) -> Self {
        let may_leave = backing.delays_allocation();
        Self { log, backing, fence, may_leave, flush_ns: AtomicU64::new(0) }
    }

    fn make_durable(&self, group: &[SyncRequest<B>], results: &mut [Result<()>]) -> Way {
        if group.iter().all(|request| self.is_durable(request)) {
            return Way::Nothing;
        }
        let mut files = self.files_of(group, results);
        let mut in_place = InPlace::new(group, results, self.log.bugs().no_write_back);
        in_place.start(&*self.backing, &files);
        if files.iter().any(|file| file.file.is_rewriting()) {
            in_place.finish(&*self.backing);
            self.end_rewrites(&files, &mut in_place);
            // A record would say that the rewrite has ended.
            let failures = in_place.failures();
            files.retain(|file| !failures.contains(&Arc::as_ptr(&file.file)));
        }

        // From here on one group at a time.
        let mut writer = self.log.lock_writer();
        if self.are_durable(&files) {
            in_place.finish(&*self.backing);
            return Way::Nothing;
        }
        let tail = self.cut_stream(&mut files);
        match self.write_or_commit(&mut files, &mut in_place, &mut writer, &tail) {
            Ok(way) => {
                files.retain(|file| !file.has_failed);
                self.note_durable(files, writer, tail.through, way);
                way
            }
            Err(error) => {
                self.log.lock_stream().put_back(tail);
                in_place.all_failed(error);
                Way::Nothing
            }
        }
    }

    /// The group goes into the log where it can, else the journal is committed; with that all data is
    /// in place.
    fn write_or_commit(
        &self,
        files: &mut [GroupFile<B>],
        in_place: &mut InPlace<'_, B>,
        writer: &mut Writer<B::Log>,
        tail: &Tail<B>,
    ) -> Result<Way> {
        let mut builder = writer.builder();
        if tail.count > 0 {
            builder.raw(&tail.records, tail.count, tail.last_record);
        }
        let content = self.collect(files, &mut builder, writer.group_bytes_max());
        let content = content.unwrap_or_else(|error| {
            tracing::warn!(%error, "a file cannot be read for the log");
            Content::Changed
        });
        let usable = self.log.failure().is_none() && !tail.inexpressible;
        let written = if usable && content == Content::InLog {
            Some(self.write_group(writer, builder, files, in_place, tail.through))
        } else {
            writer.give_back(builder);
            None
        };
        // Also where the log was not or could not be written.
        in_place.finish(&*self.backing);
        if !matches!(written, Some(Ok(_))) && !self.log.bugs().commit_delayed {
            in_place.finish_left(&*self.backing, None);
        }
        note_failures(files, in_place);
        match written {
            Some(Ok(way)) => Ok(self.commit_cut(files, in_place, writer, tail.through, way)),
            Some(Err(WriteError::Full)) => self.commit(files, writer, tail.through, true),
            Some(Err(WriteError::Failed(error))) if self.log.failure().is_none() => {
                self.log.give_up(&device_error(error));
                self.commit(files, writer, tail.through, false)
            }
            Some(Err(WriteError::Failed(error))) => Err(error),
            None if self.may_sync_each(files, content, tail) => {
                let way = self.sync_each(files, in_place);
                Ok(self.commit_cut(files, in_place, writer, tail.through, way))
            }
            None => self.commit(files, writer, tail.through, false),
        }
    }

    /// Keeps in mind what is durable now, and what it took.
    fn note_durable(
        &self,
        mut files: Vec<GroupFile<B>>,
        writer: MutexGuard<'_, Writer<B::Log>>,
        through: Lsn,
        way: Way,
    ) {
        files.iter().for_each(|file| file.file.placed(&file.before));
        if !matches!(way, Way::Backing(_)) {
            for file in files.iter_mut() {
                let collected = std::mem::take(&mut file.collected);
                file.file.logged(collected, file.lsn, &file.before.attr);
            }
        }
        self.log.note_durable(through);
        self.log.note_tail(&writer);
        let used = writer.used_ratio();
        drop(writer);
        files.iter().for_each(|file| file.file.spare_reader());
        let compared = files.iter().map(|file| file.comparing).sum();
        // A commit costs two flushes. It is made when comparing has cost twice
        // that: a little more time than the least possible, fewer flushes.
        let commit = 4 * Duration::from_nanos(self.flush_ns.load(Ordering::Relaxed));
        self.log.note_group(compared, commit, used);
    }

    /// The files of a group, each once, as they are before their data is written.
    fn files_of(&self, group: &[SyncRequest<B>], results: &mut [Result<()>]) -> Vec<GroupFile<B>> {
        let mut places: HashMap<*const Tracked<B>, Result<()>> = HashMap::new();
        let mut files = Vec::new();
        for (request, result) in group.iter().zip(results) {
            let Some(file) = &request.file else { continue };
            let outcome = places.entry(Arc::as_ptr(file)).or_insert_with(|| {
                let mut found = self.group_file(file, request.reader.clone())?;
                if let Some(found) = found.as_mut().filter(|_| self.may_leave) {
                    found.left_from = found.file.may_wait_from();
                }
                files.extend(found);
                Ok(())
            });
            *result = *outcome;
        }
        files
    }

    /// `None` for a file without a name: nobody finds it after a power cut.
    fn group_file(
        &self,
        file: &Arc<Tracked<B>>,
        reader: Option<Arc<B::File>>,
    ) -> Result<Option<GroupFile<B>>> {
        let reader = match reader.or_else(|| file.open_reader()) {
            Some(reader) => reader,
            // Its last writer has closed it since the sync was asked for.
            None => match self.backing.by_key(file.key()) {
                Err(Errno::STALE) => return Ok(None),
                found => self.log.reader(file, &found?.object)?,
            },
        };
        let before = self.log.before(file, &reader)?;
        let file = Arc::clone(file);
        Ok((before.attr.nlink > 0).then(|| GroupFile {
            file,
            reader,
            attr: before.attr,
            before,
            lsn: 0,
            left_from: u64::MAX,
            need: Need::default(),
            collected: Collected::default(),
            comparing: Duration::ZERO,
            has_failed: false,
        }))
    }

    /// Files of the group that were being rewritten are new from here on: all that is
    /// asked for is in place.
    fn end_rewrites(&self, files: &[GroupFile<B>], in_place: &mut InPlace<'_, B>) {
        let failures = in_place.failures();
        for file in files.iter().filter(|file| file.file.is_rewriting()) {
            if failures.contains(&Arc::as_ptr(&file.file)) {
                continue;
            }
            if let Err(error) = self.log.rewritten(&file.file, &file.before) {
                in_place.failed(&file.file, error);
            }
        }
    }

    /// Whether all of this is durable without doing anything.
    fn are_durable(&self, files: &[GroupFile<B>]) -> bool {
        self.log.is_all_durable()
            && (files.is_empty() || self.backing.has_exact_times())
            && files.iter().all(|file| file.file.is_synced(&file.before.attr))
    }

    /// Takes what waits in the stream, with the files that joined it, and a number
    /// for the content of each file. Numbers are taken before content is read: an
    /// operation that cuts a file later has a larger one, and so takes from the
    /// record what it cuts.
    fn cut_stream(&self, files: &mut Vec<GroupFile<B>>) -> Tail<B> {
        let (mut tail, first) = {
            let mut stream = self.log.lock_stream();
            let mut tail = stream.cut();
            let first = stream.last() + 1;
            for _ in 0..files.len() + tail.joined.len() {
                tail.through = stream.take_number();
            }
            (tail, first)
        };
        // If this group fails, all of them join the next, those too that are asked for now.
        let joined = std::mem::take(&mut tail.joined);
        for file in &joined {
            if files.iter().any(|known| Arc::ptr_eq(&known.file, file)) {
                continue;
            }
            // It has been cut again and is being written: no group may show that. What it
            // held when it joined is in the copy.
            if file.is_rewriting() {
                tail.inexpressible = true;
                continue;
            }
            match self.joined_file(file) {
                // It has lost its name since; but this group may be the last to be kept,
                // and then the name stands for it. A commit holds the loss as well.
                Ok(None) => tail.inexpressible = true,
                Ok(found) => files.extend(found),
                // Its data was written in place when it joined: a commit covers that.
                Err(error) => {
                    tracing::warn!(%error, "a renamed file's content cannot be logged");
                    tail.inexpressible = true;
                }
            }
        }
        tail.joined = joined;
        for (file, lsn) in files.iter_mut().zip(first..) {
            file.lsn = lsn;
        }
        tail
    }

    fn joined_file(&self, file: &Arc<Tracked<B>>) -> Result<Option<GroupFile<B>>> {
        if file.open_reader().is_none() {
            let object = match self.backing.by_key(file.key()) {
                Err(Errno::STALE) => return Ok(None),
                other => other?.object,
            };
            self.log.reader(file, &object)?;
        }
        // Its own reader: an error that a program's open file has not heard of yet must
        // not be taken from it.
        let found = self.group_file(file, None)?;
        if let Some(found) = &found
            && !self.log.bugs().no_write_back
        {
            let placed = self.backing.finish_write_back(&found.reader);
            placed.inspect_err(|_| file.lose())?;
        }
        Ok(found)
    }

    /// Puts the content that needs it into the group.
    fn collect(
        &self,
        files: &mut [GroupFile<B>],
        builder: &mut GroupBuilder,
        group_bytes_max: usize,
    ) -> Result<Content> {
        let parts_max = self.log.file_parts_max();
        let mut in_parts = false;
        let mut memory = Memory::default();
        for file in files.iter_mut() {
            // The length at this point of the stream.
            file.attr = self.backing.file_attr(&file.reader)?;
            let source = (&*self.backing, &*file.reader);
            let mut need = file.file.need(source, file.attr.size, Some(parts_max))?;
            if self.log.bugs().trust_uncommitted {
                need = Need::default();
            }
            let room = group_bytes_max.saturating_sub(builder.len()) as u64;
            if file.file.rewrite_began_after(&file.before) {
                self.log.overtaken(&file.file, &file.before)?;
                return Ok(Content::Changed);
            }
            if need.in_many_parts {
                in_parts = true;
                continue;
            }
            if need.new_bytes > self.log.inline_bytes_max()
                || need.live_pages > COMPARED_PAGES_MAX
                || need.bytes_max() > room
            {
                return Ok(Content::TooMuch);
            }
            if need.is_nothing() {
                continue;
            }
            let start = Instant::now();
            let GroupFile { file: tracked, reader, attr, lsn, .. } = file;
            let (bugs, source) = (self.log.bugs(), (&*self.backing, &**reader));
            let into = (&mut *builder, &mut memory);
            file.collected = tracked.collect(source, attr, &need, *lsn, into, bugs)?;
            if need.live_pages > 0 {
                file.comparing = start.elapsed();
                self.log.count_compared(need.live_pages);
            }
            file.need = need;
        }
        if in_parts {
            return Ok(if builder.is_empty() { Content::InParts } else { Content::TooMuch });
        }
        // No operation is applied meanwhile: those that come later leave marks.
        let stream = self.log.lock_stream();
        let logging = |file: &&GroupFile<B>| {
            // Somebody may have forgotten it, and others track it anew: they do not know
            // of this record.
            let known = self.log.files.find(file.file.key());
            let is_known = known.is_some_and(|known| Arc::ptr_eq(&known, &file.file));
            file.file.logging(&file.collected, file.lsn) && is_known
        };
        // Of all of them, also behind one that was cut.
        let uncut = files.iter().filter(logging).count() == files.len();
        drop(stream);
        Ok(if uncut { Content::InLog } else { Content::Changed })
    }

    /// One write and one flush, or the flush alone if there is nothing to say.
    fn write_group(
        &self,
        writer: &mut Writer<B::Log>,
        builder: GroupBuilder,
        files: &mut [GroupFile<B>],
        in_place: &mut InPlace<'_, B>,
        through: Lsn,
    ) -> std::result::Result<Way, WriteError> {
        let is_elsewhere = !writer.store().shares_device();
        if is_elsewhere {
            // Data in place is on another device than the log: both are flushed.
            self.settle(files, in_place);
            if !files.is_empty() && !self.log.bugs().no_device_flush {
                self.log.flush_device().map_err(WriteError::Failed)?;
            }
        }
        let start = Instant::now();
        let way = if builder.is_empty() {
            writer.give_back(builder);
            if !is_elsewhere {
                self.settle(files, in_place);
            }
            writer.flush().map_err(WriteError::Failed)?;
            Way::Flush
        } else {
            let settle = || {
                if !is_elsewhere {
                    self.settle(files, in_place);
                }
            };
            let bytes = writer.write(builder, through, self.log.boot_id(), now_ns(), settle)?;
            self.log.count_group(bytes);
            Way::Log
        };
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let before = self.flush_ns.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.flush_ns.store(mean, Ordering::Relaxed);
        Ok(way)
    }

    /// Waits until all data is in place or known to wait for its blocks, and asks what has got some.
    /// All of it was read for the log before.
    fn settle(&self, files: &mut [GroupFile<B>], in_place: &mut InPlace<'_, B>) {
        in_place.finish(&*self.backing);
        for file in files {
            let GroupFile { file, reader, before, lsn, left_from, need, collected, .. } = file;
            let source = (&*self.backing, &**reader);
            if *left_from < u64::MAX {
                if file.leave(source, (need, *left_from), collected, *lsn, self.log.bugs()) {
                    self.log.note_waiting();
                } else {
                    in_place.finish_left(&*self.backing, Some(file));
                    *left_from = u64::MAX;
                }
            }
            file.settle(source, before, *left_from, collected);
        }
    }
}

impl<B: Backing> GroupFence<B> for LogFence<B> {
    fn run(&self, group: &[SyncRequest<B>]) -> FenceOutcome {
        let start = Instant::now();
        let mut results = vec![Ok(()); group.len()];
        let way = self.make_durable(group, &mut results);
        FenceOutcome { results, way, service: start.elapsed() }
    }

    fn is_durable(&self, request: &SyncRequest<B>) -> bool {
        request.through.is_some_and(|through| self.log.is_durable_through(through))
    }

    fn mechanism(&self) -> &'static str {
        if self.log.failure().is_none() { "log" } else { self.fence.mechanism() }
    }
}

fn note_failures<B: Backing>(files: &mut [GroupFile<B>], in_place: &InPlace<'_, B>) {
    let failures = in_place.failures();
    for file in files {
        file.has_failed = failures.contains(&Arc::as_ptr(&file.file));
    }
}

/// Wall clock, for people who read the log.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
