//! Crash images, served, recovered and judged, several at once.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cuts::Cuts;
use super::filesystem::Filesystem;
use super::nested::{Nesting, Recorded, tearing_while_mounting};
use super::notes::Promised;
use super::recording::Recording;
use super::recovery::{Recovered, Recovery, Way};
use super::snapshot::{LANEFS_HOME, Snapshot};
use super::workload::Parts;
use crate::disk::{Choice, CrashImage, Disk, DiskMount, DiskOptions, Image, Tearing};
use crate::random::Random;
use crate::run;
use crate::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(10);
/// Images drawn in vain, equal to some judged before, until a recording counts as exhausted.
const REPEATED_MAX: u64 = 400;
/// Losses of a campaign that are remembered in full.
const LOSSES_MAX: usize = 20;
/// Where images are mounted, in a place of each bench.
const MOUNT_POINT: &str = "image";
/// One image in so many is recovered by mounting.
const MOUNTED_ONE_IN: usize = 16;

/// What all images of a campaign have in common.
#[derive(Clone)]
pub struct Rules {
    /// What is on them.
    pub filesystem: Filesystem,
    /// What lanefs does first.
    pub recovery: Recovery,
    /// Whether the power is cut again while an image is recovered.
    pub nested: bool,
}

/// A promise that a crash image does not keep, or an image that cannot be used any more.
pub struct Loss {
    /// The image.
    pub cut: CrashImage,
    /// What it must hold.
    pub promised: Promised,
    /// What it does not.
    pub what: String,
    /// The filesystem or lanefs refused it.
    pub refused: bool,
    /// How it came about.
    pub how: String,
}

/// What came of the images of one recording.
#[derive(Default)]
pub struct Verdict {
    /// Images judged.
    pub images: u64,
    /// Of them, cuts during the recovery of others.
    pub nested: u64,
    /// Recoveries that were killed and done again.
    pub killed: u64,
    /// Images unlike all others, the nested ones left out.
    pub distinct: u64,
    /// Images that lost something.
    pub lost: u64,
    /// Images that could not be mounted or recovered.
    pub refused: u64,
    /// The first of both kinds.
    pub losses: Vec<Loss>,
    /// Where the time went.
    pub times: Times,
}

/// Time spent, added up over all images.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Putting the image into the disk.
    pub load: Duration,
    /// Mounting: the filesystem's own recovery.
    pub mount: Duration,
    /// `lanefs recover`.
    pub recover: Duration,
    /// Reading and comparing.
    pub check: Duration,
    /// Unmounting.
    pub unmount: Duration,
}

impl Times {
    /// Adds those of other images.
    pub fn add(&mut self, other: Times) {
        self.load += other.load;
        self.mount += other.mount;
        self.recover += other.recover;
        self.check += other.check;
        self.unmount += other.unmount;
    }
}

impl Verdict {
    /// Adds what came of other images.
    pub fn add(&mut self, more: Verdict) {
        self.images += more.images;
        self.nested += more.nested;
        self.killed += more.killed;
        self.distinct += more.distinct;
        self.lost += more.lost;
        self.refused += more.refused;
        // Each has an image: a campaign in which everything is lost must not fill the memory.
        let room = LOSSES_MAX.saturating_sub(self.losses.len());
        self.losses.extend(more.losses.into_iter().take(room));
        self.times.add(more.times);
    }
}

/// The images of a recording and what was seen of them.
struct Supply<'a> {
    // What there was when everything had been unmounted.
    last: Option<(CrashImage, Promised)>,
    cuts: Cuts<'a>,
    seen: HashSet<(u64, u64)>,
    images: HashSet<u64>,
    verdict: Verdict,
    exhausted: bool,
}

impl Supply<'_> {
    /// The next image that is unlike all before, or is promised more.
    fn next(&mut self, recording: &Recording) -> Option<(CrashImage, Promised)> {
        if let Some(last) = self.last.take() {
            return Some(last);
        }
        for _ in 0..REPEATED_MAX {
            let cut = self.cuts.next().expect("the supply has no end");
            let promised = recording.promised(cut.position);
            let hash = cut.image.hash();
            if self.seen.insert((hash, promised.digest())) {
                self.verdict.distinct += u64::from(self.images.insert(hash));
                return Some((cut, promised));
            }
        }
        self.exhausted = true;
        None
    }
}

/// Judges at least `count` images of a recording, or as many as it has; `progress` is called with a
/// number of images, `stop` ends it early.
///
/// # Errors
/// A bench failed.
pub fn judge(
    rules: &Rules,
    recording: &Recording,
    workload: &Parts,
    cuts: Cuts<'_>,
    count: u64,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Verdict, String> {
    let (image, promised) = recording.last.clone();
    let position = recording.record.last_position();
    let last = CrashImage { image, position, seed: 0, unflushed_count: 0, choice: Choice::All };
    let supply = Supply {
        last: Some((last, promised)),
        cuts,
        seen: HashSet::new(),
        images: HashSet::new(),
        verdict: Verdict::default(),
        exhausted: false,
    };
    let shared = Mutex::new(supply);
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<(), String> {
        let mut bench = Bench::new(rules)?;
        loop {
            let next = {
                let supply = &mut *lock();
                let enough = supply.verdict.images >= count || supply.exhausted;
                if enough || stop.load(Ordering::Relaxed) { None } else { supply.next(recording) }
            };
            let Some((cut, promised)) = next else { return Ok(()) };
            let verdict = bench.judge_with_nested(cut, promised, workload)?;
            progress(verdict.images);
            lock().verdict.add(verdict);
        }
    };
    let threads = rules.filesystem.benches_max();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // All of them are waited for before the first error counts.
        let outcomes: Vec<_> =
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        outcomes.into_iter().try_for_each(|outcome| outcome.expect("no judge panics"))
    })?;
    Ok(shared.into_inner().unwrap_or_else(PoisonError::into_inner).verdict)
}

/// What one image came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every promise holds.
    Kept,
    /// One does not.
    Lost(String),
    /// The filesystem cannot be mounted any more, or lanefs does not recover it.
    Refused(String),
}

/// What is known of an image after it was judged.
struct Judged {
    outcome: Outcome,
    // What lanefs reported.
    report: String,
    // A recovery was killed first.
    killed: bool,
    // What the recovery itself wrote, if that was recorded.
    recorded: Option<Recorded>,
}

/// A disk that serves one image after the other.
pub struct Bench {
    rules: Rules,
    disk: Disk,
    // Where images are mounted, when other programs must name the place.
    place: Option<Scratch>,
    times: Times,
}

impl Bench {
    /// A bench for images of this kind.
    ///
    /// # Errors
    /// No disk is to be had.
    pub fn new(rules: &Rules) -> Result<Self, String> {
        let options = DiskOptions::new(rules.filesystem.size_mib());
        let options = if rules.nested { options } else { options.unrecorded() };
        let disk = Disk::new(options).map_err(|error| format!("cannot make a disk: {error}"))?;
        let place = rules.recovery.needs_path().then(|| {
            let scratch = Scratch::new(0);
            scratch.subdirectory(MOUNT_POINT);
            scratch
        });
        Ok(Bench { rules: rules.clone(), disk, place, times: Times::default() })
    }

    /// Judges an image, and with it, if the rules say so, what cuts during its recovery may leave.
    fn judge_with_nested(
        &mut self,
        cut: CrashImage,
        promised: Promised,
        workload: &Parts,
    ) -> Result<Verdict, String> {
        self.times = Times::default();
        let mut verdict = Verdict::default();
        let mut nesting = Nesting::new(cut.seed ^ cut.position.0);
        let mut waiting = vec![(cut, promised, String::new(), 0)];
        while let Some((cut, promised, how, level)) = waiting.pop() {
            let record = self.rules.nested && nesting.wants(level);
            let way = if self.rules.nested { nesting.way() } else { usual_way(cut.seed) };
            let judged = self.judge(&cut.image, workload, &promised, way, record)?;
            verdict.killed += u64::from(judged.killed);
            verdict.images += 1;
            verdict.nested += u64::from(level > 0);
            if let Some(recorded) = judged.recorded.filter(|_| judged.outcome == Outcome::Kept) {
                for (nested, moment) in nesting.cuts(&recorded) {
                    let promised = recorded.promised(&promised, nested.position);
                    let how =
                        format!("{how}cut at {} of its recovery ({moment}); ", nested.position);
                    waiting.push((nested, promised, how, level + 1));
                }
            }
            let (what, refused) = match judged.outcome {
                Outcome::Kept => continue,
                Outcome::Lost(what) => (what, false),
                Outcome::Refused(what) => (what, true),
            };
            let how = format!("{how}recovered by {way:?}: {}", judged.report);
            verdict.lost += u64::from(!refused);
            verdict.refused += u64::from(refused);
            verdict.losses.push(Loss { cut, promised, what, refused, how });
        }
        verdict.times = self.times;
        Ok(verdict)
    }

    /// Serves an image, lets filesystem and lanefs recover, and judges what is there.
    ///
    /// # Errors
    /// The bench itself failed.
    pub fn judge_once(
        &mut self,
        image: &Image,
        workload: &Parts,
        promised: &Promised,
    ) -> Result<Outcome, String> {
        let judged = self.judge(image, workload, promised, Way::Command, false)?;
        Ok(judged.outcome)
    }

    fn judge(
        &mut self,
        image: &Image,
        workload: &Parts,
        promised: &Promised,
        way: Way,
        record: bool,
    ) -> Result<Judged, String> {
        let mut clock = Clock(Instant::now());
        self.disk.load(image.clone()).map_err(|error| format!("loading an image: {error}"))?;
        clock.lap(&mut self.times.load);
        let loaded = self.disk.position();
        let mounted = match self.mount()? {
            Ok(mounted) => mounted,
            Err(refusal) => return Ok(Judged::refused(refusal)),
        };
        clock.lap(&mut self.times.mount);
        let mounted_at = self.disk.position();
        let tree = mounted.path().join("tree");
        let recovered = self.rules.recovery.run(&tree, way);
        clock.lap(&mut self.times.recover);
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(refusal) => return Ok(Judged::refused(refusal)),
        };
        let recovered_at = self.disk.position();
        let outcome = check(&tree, &recovered, workload, promised);
        // What it recovered must be durable, and stay as it is when the power is cut once more.
        let exact = (record && recovered.asked).then(|| Snapshot::take(&tree));
        let exact = exact.transpose().map_err(|error| format!("looking at an image: {error}"))?;
        clock.lap(&mut self.times.check);
        let recorded = record.then(|| {
            let filesystem = self.rules.filesystem;
            let record = self.disk.record();
            let tearing = Tearing::sparing_superblock(filesystem.kernel_name());
            Recorded {
                while_mounting: record.clone().with_tearing(tearing_while_mounting(filesystem)),
                record: record.with_tearing(tearing),
                loaded,
                mounted: mounted_at,
                recovered: recovered_at,
                exact: exact.map(Arc::new),
            }
        });
        let killed = recovered.asked && matches!(way, Way::CommandAfterKill(_));
        let report = recovered.report.to_string();
        if let Some(Err(error)) = recovered.mount.map(super::daemon::Daemon::unmount) {
            return Ok(Judged::refused(format!("after recovery by mounting: {error}")));
        }
        drop(mounted);
        clock.lap(&mut self.times.unmount);
        Ok(Judged { outcome, report, killed, recorded })
    }

    /// The filesystem of the image, or why it cannot be mounted.
    fn mount(&self) -> Result<Result<DiskMount, String>, String> {
        let (name, options) =
            (self.rules.filesystem.kernel_name(), self.rules.filesystem.image_options());
        let attempt = || match &self.place {
            None => self.disk.mount(name, options),
            Some(place) => self.disk.mount_at(&place.path().join(MOUNT_POINT), name, options),
        };
        // The unmount before this mount may not be quite over: the device is busy for a moment.
        let mounted = run::poll(PATIENCE, || match attempt() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
            outcome => Some(outcome.map_err(|error| error.to_string())),
        });
        mounted.ok_or_else(|| format!("{} stays busy", self.disk.path().display()))
    }
}

/// `lanefs recover`, and now and then a mount.
fn usual_way(seed: u64) -> Way {
    let chosen = Random::new(seed).below(MOUNTED_ONE_IN) == 0;
    if chosen { Way::Mount } else { Way::Command }
}

impl Judged {
    fn refused(reason: String) -> Self {
        let outcome = Outcome::Refused(reason);
        Judged { outcome, report: String::new(), killed: false, recorded: None }
    }
}

struct Clock(Instant);

impl Clock {
    fn lap(&mut self, sum: &mut Duration) {
        let now = Instant::now();
        *sum += now - self.0;
        self.0 = now;
    }
}

/// On the mount, if that was the way to recover, else in the directory.
fn check(tree: &Path, recovered: &Recovered, workload: &Parts, promised: &Promised) -> Outcome {
    let root = recovered.mount.as_ref().map_or(tree, |mount| mount.path());
    let hidden = || match recovered.mount.is_some() && root.join(LANEFS_HOME).exists() {
        true => Err(format!("{LANEFS_HOME} shows on the mount")),
        false => Ok(()),
    };
    let exact = || {
        promised.exact.iter().try_for_each(|(directory, then)| {
            let now = Snapshot::take(&root.join(directory)).map_err(|error| error.to_string())?;
            then.difference(&now).map_or(Ok(()), |what| Err(format!("{directory}: {what}")))
        })
    };
    match workload.check(root, promised).and_then(|()| exact()).and_then(|()| hidden()) {
        Ok(()) => Outcome::Kept,
        Err(what) => Outcome::Lost(what),
    }
}
