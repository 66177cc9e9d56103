//! The writers of the demo, and the check of what they were promised.

use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a replaced file and of an appended record.
const RECORD_BYTES: usize = 4096;

/// Writers that replace their file crash-safely, and one that appends.
pub(super) struct Workload {
    replacers: Vec<Replacer>,
    appender: Appender,
    elapsed: Duration,
}

/// Numbers of one kind for replaces and for appends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged<T> {
    pub(super) replaces: T,
    pub(super) appends: T,
}

/// What was done in which time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) replaces: u64,
    pub(super) appends: u64,
    elapsed: Duration,
    /// Medians of how long one took.
    pub(super) replace_us_p50: u32,
    pub(super) append_us_p50: u32,
}

impl Tally {
    pub(super) fn replaces_per_s(&self) -> f64 {
        self.replaces as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn appends_per_s(&self) -> f64 {
        self.appends as f64 / self.elapsed.as_secs_f64()
    }
}

impl Workload {
    /// Makes a directory for each writer.
    pub(super) fn new(place: &Path, writers: usize) -> Result<Self> {
        let replacers =
            (0..writers).map(|index| Replacer::new(place, index)).collect::<Result<_>>()?;
        let appender = Appender::new(place)?;
        Ok(Self { replacers, appender, elapsed: Duration::ZERO })
    }

    /// Lets all writers work for a while.
    pub(super) fn run(&mut self, time: Duration, stop: &AtomicBool) -> Result<()> {
        let start = Instant::now();
        let deadline = start + time;
        let more = || Instant::now() < deadline && !stop.load(Ordering::Relaxed);
        let outcome = self.work(&more, |_| {});
        self.elapsed += start.elapsed();
        outcome
    }

    /// Lets all writers work until `cut`, which is called when all is `ready`, makes
    /// them fail. What they are told until they fail counts as acknowledged.
    ///
    /// # Errors
    /// A writer's that failed before, or that of `cut`.
    pub(super) fn run_until_cut(
        &mut self,
        stop: &AtomicBool,
        mut ready: impl FnMut() -> bool,
        cut: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let end = AtomicBool::new(false);
        let (mut was_cut, mut outcome) = (false, Ok(()));
        let ended = self.work(&|| !end.load(Ordering::Relaxed), |failing| {
            let failing = || failing.load(Ordering::Relaxed);
            while !failing() && !stop.load(Ordering::Relaxed) && !ready() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if !failing() {
                was_cut = true;
                outcome = cut();
            }
            // Whoever still works by now would do so for ever.
            end.store(true, Ordering::Relaxed);
        });
        if was_cut { outcome } else { ended }
    }

    /// Lets all writers work while there is `more`, and does something else
    /// `meanwhile`, which is told when one fails.
    fn work(
        &mut self,
        more: &(dyn Fn() -> bool + Sync),
        meanwhile: impl FnOnce(&AtomicBool),
    ) -> Result<()> {
        let failing = &AtomicBool::new(false);
        let noted = move |outcome: Result<()>| {
            if outcome.is_err() {
                failing.store(true, Ordering::Relaxed);
            }
            outcome
        };
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for replacer in &mut self.replacers {
                threads.push(scope.spawn(move || noted(replacer.work(more))));
            }
            let appender = &mut self.appender;
            threads.push(scope.spawn(move || noted(appender.work(more))));
            meanwhile(failing);
            // All are joined before the first error is returned.
            let results: Vec<_> = threads
                .into_iter()
                .map(|thread| thread.join().expect("no writer panics"))
                .collect();
            results.into_iter().collect::<Result<()>>()
        })
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            replaces: self.replacers.iter().map(|replacer| replacer.acknowledged).sum(),
            appends: self.appender.acknowledged,
            elapsed: self.elapsed,
            replace_us_p50: median(self.replacers.iter().flat_map(|replacer| &replacer.times_us)),
            append_us_p50: median(&self.appender.times_us),
        }
    }

    /// What every writer was told to be durable.
    pub(super) fn acknowledged(&self) -> Acknowledged<Vec<u64>> {
        Acknowledged {
            replaces: self.replacers.iter().map(|replacer| replacer.acknowledged).collect(),
            appends: vec![self.appender.acknowledged],
        }
    }
}

impl Acknowledged<Vec<u64>> {
    pub(super) fn count(&self) -> u64 {
        self.replaces.iter().chain(&self.appends).sum()
    }

    /// Checks that `place` holds what was acknowledged, and counts it.
    pub(super) fn verify(&self, place: &Path) -> std::result::Result<Acknowledged<u64>, String> {
        let losses = self.losses(place);
        match losses.as_slice() {
            [] => {}
            [loss] => return Err(format!("LOST: {loss}")),
            [loss, others @ ..] => {
                return Err(format!("LOST: {loss}; and {} more files", others.len()));
            }
        }
        let replaces = self.replaces.iter().filter(|&&count| count > 0).count() as u64;
        Ok(Acknowledged { replaces, appends: self.appends.iter().sum() })
    }

    /// The files that do not hold what was acknowledged. A writer may have got one
    /// step further than it was told.
    pub(super) fn losses(&self, place: &Path) -> Vec<String> {
        let mut losses = Vec::new();
        for (index, &acknowledged) in self.replaces.iter().enumerate() {
            let file = place.join(format!("writer{index}/file"));
            let shown = file.display();
            match read_replaced(&file, index as u64) {
                Ok(found) if found == acknowledged || found == acknowledged + 1 => {}
                Ok(found) => losses.push(format!(
                    "{shown} holds version {found}, acknowledged was {acknowledged}"
                )),
                Err(error) => losses.push(format!("{shown} cannot be verified: {error}")),
            }
        }
        let log = place.join("appender/log");
        let (shown, acknowledged) = (log.display(), self.appends.iter().sum());
        match count_appended(&log, acknowledged) {
            Ok(found) if found >= acknowledged => {}
            Ok(found) => losses
                .push(format!("{shown} holds {found} records, acknowledged were {acknowledged}")),
            Err(error) => losses.push(format!("{shown} cannot be verified: {error}")),
        }
        losses
    }
}

fn median<'a>(times_us: impl IntoIterator<Item = &'a u32>) -> u32 {
    let mut times: Vec<u32> = times_us.into_iter().copied().collect();
    let middle = times.len() / 2;
    if times.is_empty() { 0 } else { *times.select_nth_unstable(middle).1 }
}

fn us_since(start: Instant) -> u32 {
    u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// A record whose every byte follows from who wrote it and when.
fn record(writer: u64, version: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    let mut state = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version;
    bytes.extend_from_slice(&version.to_le_bytes());
    while bytes.len() < RECORD_BYTES {
        // splitmix64: a page without repetition, so that a mixed file shows.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes
}

fn version_of(record_bytes: &[u8], writer: u64) -> Result<u64> {
    let damaged = || std::io::Error::other("the content is damaged");
    let version = record_bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let version = version.ok_or_else(damaged)?;
    if record_bytes == record(writer, version) { Ok(version) } else { Err(damaged()) }
}

/// Replaces one file as careful programs do.
struct Replacer {
    index: u64,
    directory: PathBuf,
    acknowledged: u64,
    times_us: Vec<u32>,
}

impl Replacer {
    fn new(place: &Path, index: usize) -> Result<Self> {
        let directory = place.join(format!("writer{index}"));
        std::fs::create_dir(&directory)?;
        Ok(Self { index: index as u64, directory, acknowledged: 0, times_us: Vec::new() })
    }

    fn work(&mut self, more: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        while more() {
            let start = Instant::now();
            self.replace()?;
            self.times_us.push(us_since(start));
        }
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        let (temporary, file) = (self.directory.join("file.new"), self.directory.join("file"));
        let mut new = File::create(&temporary)?;
        new.write_all(&record(self.index, self.acknowledged + 1))?;
        new.sync_all()?;
        drop(new);
        std::fs::rename(temporary, file)?;
        File::open(&self.directory)?.sync_all()?;
        self.acknowledged += 1;
        Ok(())
    }
}

fn read_replaced(file: &Path, writer: u64) -> Result<u64> {
    match std::fs::read(file) {
        // Nothing acknowledged and nothing there is as it should be.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        content => version_of(&content?, writer),
    }
}

/// Appends records and syncs each, as databases write their logs.
struct Appender {
    path: PathBuf,
    acknowledged: u64,
    times_us: Vec<u32>,
}

impl Appender {
    fn new(place: &Path) -> Result<Self> {
        let directory = place.join("appender");
        std::fs::create_dir(&directory)?;
        let path = directory.join("log");
        File::create(&path)?.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(Self { path, acknowledged: 0, times_us: Vec::new() })
    }

    fn work(&mut self, more: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        while more() {
            let start = Instant::now();
            file.write_all(&record(u64::MAX, self.acknowledged + 1))?;
            file.sync_data()?;
            self.acknowledged += 1;
            self.times_us.push(us_since(start));
        }
        Ok(())
    }
}

/// Number of whole records, which must be the first ones, in order. What follows
/// those that were acknowledged may be anything: nobody promised it.
fn count_appended(log: &Path, acknowledged: u64) -> Result<u64> {
    let mut content = Vec::new();
    File::open(log)?.read_to_end(&mut content)?;
    let mut count = 0;
    for bytes in content.chunks_exact(RECORD_BYTES) {
        match version_of(bytes, u64::MAX) {
            Ok(version) if version == count + 1 => count += 1,
            _ if count >= acknowledged => break,
            Ok(_) => return Err(std::io::Error::other("a record is missing in the middle")),
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran() -> (tempfile::TempDir, Workload) {
        let place = tempfile::tempdir().expect("scratch directory");
        let mut workload = Workload::new(place.path(), 3).expect("scratch directory");
        let stop = AtomicBool::new(false);
        // However slow the machine is: everybody has something to lose.
        let all_wrote = |workload: &Workload| {
            let acknowledged = workload.acknowledged();
            acknowledged.replaces.iter().chain(&acknowledged.appends).all(|&count| count > 1)
        };
        while !all_wrote(&workload) {
            workload.run(Duration::from_millis(50), &stop).expect("a plain directory works");
        }
        (place, workload)
    }

    #[test]
    fn an_honest_directory_passes() {
        let (place, workload) = ran();
        let verified = workload.acknowledged().verify(place.path()).expect("nothing is lost");
        assert_eq!(verified.appends, workload.tally().appends);
    }

    /// The check must be able to fail: an old version, a mixed file, a missing record.
    #[test]
    fn losses_are_found() {
        let (place, workload) = ran();
        let acknowledged = workload.acknowledged();
        let file = place.path().join("writer1/file");
        let good = std::fs::read(&file).expect("writer 1 has written");

        std::fs::write(&file, record(1, acknowledged.replaces[1] - 1)).expect("scratch");
        assert!(acknowledged.verify(place.path()).unwrap_err().contains("holds version"));
        let mut mixed = good.clone();
        mixed[2000] ^= 1;
        std::fs::write(&file, mixed).expect("scratch");
        assert!(acknowledged.verify(place.path()).unwrap_err().contains("damaged"));
        std::fs::write(&file, b"").expect("scratch");
        assert!(acknowledged.verify(place.path()).unwrap_err().contains("damaged"));
        std::fs::write(&file, good).expect("scratch");

        let log = File::options().write(true).open(place.path().join("appender/log"));
        let length = (acknowledged.appends[0] - 1) * RECORD_BYTES as u64;
        log.and_then(|log| log.set_len(length)).expect("scratch");
        assert!(acknowledged.verify(place.path()).unwrap_err().contains("LOST"));
    }

    /// A power cut may leave any end of what nobody was told to be durable.
    #[test]
    fn what_was_not_acknowledged_may_be_torn() {
        let (place, workload) = ran();
        let log = File::options().append(true).open(place.path().join("appender/log"));
        log.and_then(|mut log| log.write_all(&[7; 2 * RECORD_BYTES - 1])).expect("scratch");
        workload.acknowledged().verify(place.path()).expect("nothing is lost");
    }

    /// The cut ends a turn and its errors are no failure; others are.
    #[test]
    fn a_turn_ends_with_the_cut() {
        let (place, mut workload) = ran();
        let before = workload.acknowledged().count();
        let stop = AtomicBool::new(false);
        let mut polls = 0;
        let third_poll = || {
            polls += 1;
            polls > 2
        };
        let (there, gone) = (place.path().join("writer2"), place.path().join("gone"));
        workload
            .run_until_cut(&stop, third_poll, || std::fs::rename(there, gone))
            .expect("a directory that is gone is a cut");
        assert!(workload.acknowledged().count() > before);
        let lost = workload.acknowledged().verify(place.path()).unwrap_err();
        assert!(lost.contains("writer2"), "{lost}");
        let never =
            workload.run_until_cut(&stop, || false, || panic!("a writer had failed before"));
        assert!(never.is_err());
    }
}
