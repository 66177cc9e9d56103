//! One setting: all subjects work on disks of their own, and take turns.

use std::time::Duration;

use super::subject::{Opened, Subject};
use crate::contest::{End, Ground, Record, Timing, Watch, run_slice};

/// What a subject did in all its turns.
#[derive(Debug)]
pub(super) struct Result {
    pub subject: Subject,
    pub record: Record,
    /// Of the journal, from the first operation to the last and between the turns.
    pub commits: u64,
}

/// A setting under way.
pub(super) struct Round<'g> {
    sides: Vec<Side<'g>>,
    begun: usize,
}

struct Side<'g> {
    ground: &'g Ground,
    opened: Opened,
    result: Result,
    flushes_before: u64,
    commits_before: u64,
}

impl<'g> Round<'g> {
    /// Opens all subjects on empty disks.
    pub fn new(
        grounds: &'g [(Subject, Ground)],
        threads: usize,
        flush_time: Duration,
    ) -> std::result::Result<Self, End> {
        let side = |(subject, ground): &'g (Subject, Ground)| {
            Side::new(*subject, ground, threads, flush_time)
                .map_err(|error| End::Failed(format!("cannot open {subject}: {error}")))
        };
        Ok(Self {
            sides: grounds.iter().map(side).collect::<std::result::Result<_, _>>()?,
            begun: 0,
        })
    }

    /// One turn of each; another begins each time.
    pub fn turns(&mut self, timing: Timing, watch: Watch<'_>) -> std::result::Result<(), End> {
        let sides = self.sides.len();
        for turn in 0..sides {
            let side = &mut self.sides[(self.begun + turn) % sides];
            let slice = run_slice(&mut side.opened.workers, timing, watch.stop);
            side.result.record.slices.push(slice.map_err(|end| end.at(&side.result.subject))?);
            watch.progress.inc(1);
        }
        self.begun += 1;
        Ok(())
    }

    /// Takes everything down and gives what was found.
    pub fn finish(self) -> std::result::Result<Vec<Result>, End> {
        let finish = |side: Side<'_>| {
            let subject = side.result.subject;
            side.finish().map_err(|error| End::Failed(format!("{subject}: {error}")))
        };
        self.sides.into_iter().map(finish).collect()
    }
}

impl<'g> Side<'g> {
    fn new(
        subject: Subject,
        ground: &'g Ground,
        threads: usize,
        flush_time: Duration,
    ) -> std::io::Result<Self> {
        ground.clear()?;
        // Before it is opened: the library measures a flush and chooses by it.
        ground.set_flush_time(flush_time);
        let opened = Opened::new(subject, &ground.root(), threads)?;
        // What was made for it is not its work.
        ground.sync()?;
        Ok(Self {
            ground,
            opened,
            result: Result { subject, record: Record::default(), commits: 0 },
            flushes_before: ground.work().flushes,
            commits_before: ground.journal_commits()?,
        })
    }

    fn finish(mut self) -> std::io::Result<Result> {
        self.result.record.flushes = self.ground.work().flushes - self.flushes_before;
        self.result.commits = self.ground.journal_commits()? - self.commits_before;
        self.ground.set_flush_time(Duration::ZERO);
        self.opened.close()?;
        Ok(self.result)
    }
}
