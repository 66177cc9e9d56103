//! What the lanes promise, on a fence that the test controls: groups form,
//! everybody is answered once and in order, and one failure stays one.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs_core::error::{Errno, Result};
use fs_core::fence::{BackingFence, FenceOutcome, GroupFence, SyncRequest, Way};
use fs_core::lane::policy::PolicyConfig;
use fs_core::lane::{Completion, Duty, LaneConfig, Lanes};
use fs_core::platform::{
    Backing, FenceMethod, Fencer, Found, LogBuffer, LogStore, ObjectKey, OpenMode, RenameMode,
    Seek, SyncTarget,
};
use fs_core::types::{Attr, Caller, DirEntry, FileKind, FsStats, NewMode, SetAttr, SyncKind};

const LONG: Duration = Duration::from_secs(20);

/// What the fence shall do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Succeed,
    Fail(Errno),
    /// As the kernel does: the first sync is told, the next is not.
    FailOnce(Errno),
    Panic,
}

/// A backing of which only the fence exists.
struct Fake;

struct FakeFencer {
    /// The groups as they came, by file number.
    groups: Sender<Vec<u32>>,
    /// One message lets one group pass; none needed when the sender is gone.
    permits: Mutex<Receiver<()>>,
}

/// A log that there is not.
enum NoLog {}

impl LogStore for NoLog {
    fn bytes(&self) -> u64 {
        match *self {}
    }

    fn read(&self, _buffer: &mut LogBuffer, _offset: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    fn write(&self, _data: &LogBuffer, _offset: u64) -> Result<()> {
        match *self {}
    }

    fn flush(&self) -> Result<()> {
        match *self {}
    }

    fn shares_device(&self) -> bool {
        match *self {}
    }
}

struct FakeFile {
    number: u32,
    plan: Plan,
    told: AtomicBool,
}

impl FakeFile {
    fn new(number: u32, plan: Plan) -> Arc<Self> {
        Arc::new(Self { number, plan, told: AtomicBool::new(false) })
    }
}

impl Fencer<Fake> for FakeFencer {
    fn supports(&self, method: FenceMethod) -> bool {
        method == FenceMethod::Parallel
    }

    fn run(&self, _method: FenceMethod, targets: &[SyncTarget<Fake>]) -> Vec<Result<()>> {
        let files: Vec<&FakeFile> = targets
            .iter()
            .map(|target| match target {
                SyncTarget::File(file, _) => &**file,
                SyncTarget::Dir(dir) => &**dir,
            })
            .collect();
        let _ = self.groups.send(files.iter().map(|file| file.number).collect());
        let _ = self.permits.lock().expect("no test poisons it").recv();
        files
            .iter()
            .map(|file| match file.plan {
                Plan::Succeed => Ok(()),
                Plan::Fail(error) => Err(error),
                Plan::FailOnce(_) if file.told.swap(true, Ordering::Relaxed) => Ok(()),
                Plan::FailOnce(error) => Err(error),
                Plan::Panic => panic!("planned by the test"),
            })
            .collect()
    }

    fn commit(&self) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn mechanism(&self) -> &'static str {
        "fake"
    }
}

/// Who was answered, and with what.
type Answer = (u32, Result<()>);

/// Lanes on a fake fence, and both ends of what the fence tells and waits for.
struct Bench {
    lanes: Arc<Lanes<Fake>>,
    groups: Receiver<Vec<u32>>,
    permits: Sender<()>,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Bench {
    fn new(config: LaneConfig) -> Self {
        let (group_sender, groups) = channel();
        let (permits, permit_receiver) = channel();
        let fencer = FakeFencer { groups: group_sender, permits: Mutex::new(permit_receiver) };
        let lanes = Arc::new(Lanes::new(Arc::new(BackingFence::new(fencer)), config));
        Self { lanes, groups, permits, answers: channel() }
    }

    /// Submits from a thread of its own: it becomes the leader if there is none.
    fn submit_as_leader(&self, number: u32, plan: Plan) -> std::thread::JoinHandle<()> {
        let (lanes, answer) = (Arc::clone(&self.lanes), self.answers.0.clone());
        std::thread::spawn(move || submit(&lanes, answer, number, plan))
    }

    /// Submits from this thread: for use while somebody leads.
    fn submit(&self, number: u32, plan: Plan) {
        submit(&self.lanes, self.answers.0.clone(), number, plan);
    }

    fn group(&self) -> Vec<u32> {
        self.groups.recv_timeout(LONG).expect("a group leaves")
    }

    fn permit(&self) {
        self.permits.send(()).expect("the fence lives");
    }

    fn answer(&self) -> Answer {
        self.answers.1.recv_timeout(LONG).expect("every request is answered")
    }
}

fn submit(lanes: &Arc<Lanes<Fake>>, answer: Sender<Answer>, number: u32, plan: Plan) {
    submit_file(lanes, answer, FakeFile::new(number, plan));
}

fn submit_file(lanes: &Arc<Lanes<Fake>>, answer: Sender<Answer>, file: Arc<FakeFile>) {
    let number = file.number;
    let done = Box::new(move |result| answer.send((number, result)).expect("the test listens"));
    lanes.submit(u64::from(number), SyncTarget::File(file, SyncKind::Full), done);
}

#[test]
fn requests_during_a_fence_leave_together_and_are_answered_in_order() {
    let bench = Bench::new(LaneConfig::default());
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    assert_eq!(bench.group(), [1], "a lone request leaves alone");
    for number in 2..=5 {
        bench.submit(number, Plan::Succeed);
    }
    bench.permit();
    assert_eq!(bench.answer(), (1, Ok(())));
    assert_eq!(bench.group(), [2, 3, 4, 5]);
    assert!(bench.answers.1.try_recv().is_err(), "nobody is answered before its fence is done");
    bench.permit();
    for number in 2..=5 {
        assert_eq!(bench.answer(), (number, Ok(())));
    }
    leader.join().expect("the leader returns");
    let status = bench.lanes.status();
    assert_eq!((status.sync_requests, status.groups, status.solo_groups), (5, 2, 1));
    assert_eq!((status.group_ops_max, status.pending), (4, 0));
}

#[test]
fn an_error_reaches_its_own_request_only() {
    let bench = Bench::new(LaneConfig::default());
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    bench.group();
    bench.submit(2, Plan::Succeed);
    bench.submit(3, Plan::Fail(Errno::IO));
    bench.submit(4, Plan::Succeed);
    bench.permit();
    bench.permit();
    let answers: Vec<_> = (0..4).map(|_| bench.answer()).collect();
    assert_eq!(answers, [(1, Ok(())), (2, Ok(())), (3, Err(Errno::IO)), (4, Ok(()))]);
    leader.join().expect("the leader returns");
    assert_eq!(bench.lanes.status().errors, 1);
}

/// A fence whose every run makes operations up to `through` durable.
struct UpTo {
    through: u64,
    durable: AtomicU64,
    runs: Sender<usize>,
}

impl GroupFence<Fake> for UpTo {
    fn run(&self, group: &[SyncRequest<Fake>]) -> FenceOutcome {
        self.runs.send(group.len()).expect("the test listens");
        let all = group.iter().all(|request| self.is_durable(request));
        let way = if all { Way::Nothing } else { Way::Log };
        // Those that come meanwhile find somebody leading.
        std::thread::sleep(Duration::from_millis(60));
        self.durable.store(self.through, Ordering::Release);
        FenceOutcome { results: vec![Ok(()); group.len()], way, service: Duration::ZERO }
    }

    fn is_durable(&self, request: &SyncRequest<Fake>) -> bool {
        request.through.is_some_and(|through| through <= self.durable.load(Ordering::Acquire))
    }

    fn mechanism(&self) -> &'static str {
        "up to"
    }
}

/// The kernel keeps a directory locked while its sync is parked. One whose changes the
/// group under way made durable was held back all the same, for writers that could not
/// come because they waited for that very lock.
#[test]
fn what_the_last_group_made_durable_is_not_held() {
    let window_ns = Some(600_000_000);
    let policy = PolicyConfig { window_ns, ..PolicyConfig::default() };
    let config = LaneConfig { policy, ..LaneConfig::default() };
    let (run_sender, runs) = channel();
    let (answer_sender, answers) = channel();
    let fence = UpTo { through: 7, durable: AtomicU64::new(0), runs: run_sender };
    let lanes = Arc::new(Lanes::new(Arc::new(fence), config));
    let submit = |through: u64| {
        let (lanes, answer) = (Arc::clone(&lanes), answer_sender.clone());
        let request = SyncRequest { through: Some(through), ..SyncRequest::everything() };
        let done = Box::new(move |result| answer.send((through, result)).expect("it listens"));
        std::thread::spawn(move || lanes.submit(through, request, done))
    };
    let leader = submit(1);
    assert_eq!(runs.recv_timeout(LONG), Ok(1), "after its window");
    let others = [7, 9, 5].map(|through| {
        let other = submit(through);
        std::thread::sleep(Duration::from_millis(5));
        other
    });
    assert_eq!(answers.recv_timeout(LONG), Ok((1, Ok(()))));
    assert_eq!(runs.recv_timeout(LONG), Ok(1), "the one that is durable, by itself");
    assert_eq!(answers.recv_timeout(LONG), Ok((7, Ok(()))));
    assert!(runs.try_recv().is_err(), "the others are held");
    assert_eq!(runs.recv_timeout(LONG), Ok(2), "in their order");
    for through in [9, 5] {
        assert_eq!(answers.recv_timeout(LONG), Ok((through, Ok(()))));
    }
    leader.join().expect("the leader returns");
    others.into_iter().for_each(|other| other.join().expect("it returns"));
}

/// The same, where nothing is durable yet: two threads that sync one directory in turns
/// waited for each other.
#[test]
fn what_keeps_others_out_is_not_held() {
    let policy = PolicyConfig { window_ns: Some(3_600_000_000_000), ..PolicyConfig::default() };
    let bench = Bench::new(LaneConfig { policy, ..LaneConfig::default() });
    let held = bench.submit_as_leader(1, Plan::Succeed);
    std::thread::sleep(Duration::from_millis(50));
    assert!(bench.groups.try_recv().is_err(), "one that keeps nobody out is held");
    let target = Some(SyncTarget::File(FakeFile::new(2, Plan::Succeed), SyncKind::Full));
    let request =
        SyncRequest { target, keeps_others_out: true, ..SyncRequest::<Fake>::everything() };
    let answer = bench.answers.0.clone();
    let done = Box::new(move |result| answer.send((2, result)).expect("the test listens"));
    bench.lanes.submit(2, request, done);
    assert_eq!(bench.group(), [1, 2]);
    bench.permit();
    assert_eq!((bench.answer(), bench.answer()), ((1, Ok(())), (2, Ok(()))));
    held.join().expect("the leader returns");
}

/// Two threads sync through one open file and meet in a group. The kernel tells a
/// failed write-back to that file once, so the second was answered with success
/// although its data was lost.
#[test]
fn all_syncs_of_one_open_file_in_a_group_hear_of_its_error() {
    let bench = Bench::new(LaneConfig::default());
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    bench.group();
    let file = FakeFile::new(2, Plan::FailOnce(Errno::IO));
    submit_file(&bench.lanes, bench.answers.0.clone(), Arc::clone(&file));
    bench.submit(3, Plan::Succeed);
    submit_file(&bench.lanes, bench.answers.0.clone(), file);
    bench.permit();
    bench.permit();
    let answers: Vec<_> = (0..4).map(|_| bench.answer()).collect();
    let failed = (2, Err(Errno::IO));
    assert_eq!(answers, [(1, Ok(())), failed, (3, Ok(())), failed]);
    leader.join().expect("the leader returns");
}

/// A panic in a fence must not answer with success, must not leave requests
/// unanswered, and must not leave the lane without a leader.
#[test]
fn a_panic_fails_its_group_and_nobody_else() {
    let bench = Bench::new(LaneConfig::default());
    let leader = bench.submit_as_leader(1, Plan::Panic);
    bench.group();
    bench.submit(2, Plan::Succeed);
    bench.permit();
    bench.permit();
    assert_eq!(bench.answer(), (1, Err(Errno::IO)));
    assert_eq!(bench.answer(), (2, Ok(())));
    leader.join().expect("the leader survives");
    let next = bench.submit_as_leader(3, Plan::Succeed);
    bench.permit();
    assert_eq!(bench.answer(), (3, Ok(())));
    next.join().expect("the leader returns");
}

#[test]
fn a_panicking_completion_does_not_keep_others_waiting() {
    let bench = Bench::new(LaneConfig::default());
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    bench.group();
    let file = FakeFile::new(2, Plan::Succeed);
    let done = Box::new(|_: Result<()>| panic!("planned by the test"));
    bench.lanes.submit(2, SyncTarget::File(file, SyncKind::Full), done);
    bench.submit(3, Plan::Succeed);
    bench.permit();
    bench.permit();
    assert_eq!(bench.answer().0, 1);
    assert_eq!(bench.answer(), (3, Ok(())));
    leader.join().expect("the leader survives");
}

#[test]
fn a_group_has_a_limit_and_a_queue_has_one() {
    let policy = PolicyConfig { group_ops_max: 2, ..PolicyConfig::default() };
    let bench = Bench::new(LaneConfig { policy, queue_ops_max: 3, ..LaneConfig::default() });
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    assert_eq!(bench.group(), [1]);
    for number in 2..=4 {
        bench.submit(number, Plan::Succeed);
    }
    // The queue is full: number 5 is carried out by the thread that brings it.
    let overflow = bench.submit_as_leader(5, Plan::Succeed);
    let deadline = std::time::Instant::now() + LONG;
    while bench.lanes.status().queue_overflows == 0 {
        assert!(std::time::Instant::now() < deadline, "number 5 must not be queued");
        std::thread::yield_now();
    }
    for _ in 0..4 {
        bench.permit();
    }
    let mut groups: Vec<_> = (0..3).map(|_| bench.group()).collect();
    groups.sort();
    assert_eq!(groups, [vec![2, 3], vec![4], vec![5]]);
    for _ in 0..5 {
        assert_eq!(bench.answer().1, Ok(()));
    }
    leader.join().expect("the leader returns");
    overflow.join().expect("the fifth returns");
    assert_eq!(bench.lanes.status().queue_overflows, 1);
}

#[test]
fn draining_waits_for_everything_under_way() {
    let bench = Bench::new(LaneConfig::default());
    assert!(bench.lanes.drain(Duration::ZERO), "idle lanes are empty");
    let leader = bench.submit_as_leader(1, Plan::Succeed);
    bench.group();
    assert!(!bench.lanes.drain(Duration::from_millis(20)), "a fence is under way");
    bench.permit();
    assert!(bench.lanes.drain(LONG));
    leader.join().expect("the leader returns");
}

/// A front-end whose threads must not block: whoever brings a request gets the duty
/// back instead of leading, and is free while another thread does it.
#[test]
fn a_duty_is_done_where_it_is_run() {
    let bench = Bench::new(LaneConfig { queue_ops_max: 3, ..LaneConfig::default() });
    let bring = |number| submit_deferred(&bench, number);
    let duty = bring(1).expect("nobody leads");
    assert!(duty.is_to_lead());
    assert!(bring(2).is_none() && bring(3).is_none(), "somebody is about to lead");
    let alone = bring(4).expect("the queue is full");
    assert!(!alone.is_to_lead());
    assert!(bench.groups.try_recv().is_err(), "nothing was carried by who brought it");
    assert!(!bench.lanes.drain(Duration::ZERO), "what is owed counts as under way");

    for _ in 0..2 {
        bench.permit();
    }
    let mut answered_before = Vec::new();
    alone.run(&mut || answered_before.push(bench.answers.1.try_iter().count()));
    duty.run(&mut || answered_before.push(bench.answers.1.try_iter().count()));
    assert_eq!(answered_before, [1, 3], "told when all of a group are answered");
    assert_eq!([bench.group(), bench.group()], [vec![4], vec![1, 2, 3]]);
    assert!(bench.lanes.drain(LONG));
}

/// Requests are parked before the duty is: it cannot get lost.
#[test]
fn a_duty_that_is_dropped_is_done() {
    let bench = Bench::new(LaneConfig::default());
    bench.permit();
    drop(submit_deferred(&bench, 1));
    assert_eq!(bench.answer(), (1, Ok(())));
}

#[test]
fn duties_can_go_elsewhere_for_good() {
    let bench = Bench::new(LaneConfig::default());
    let (sender, duties) = channel();
    bench.lanes.lead_elsewhere(Box::new(move |duty| sender.send(duty).expect("the test listens")));
    bench.submit(1, Plan::Succeed);
    bench.submit(2, Plan::Succeed);
    bench.permit();
    duties.recv_timeout(LONG).expect("the first request's").run(&mut || {});
    assert_eq!([bench.answer(), bench.answer()], [(1, Ok(())), (2, Ok(()))]);
    assert!(duties.try_recv().is_err(), "one leader at a time");
}

fn submit_deferred(bench: &Bench, number: u32) -> Option<Duty<Fake>> {
    let answer = bench.answers.0.clone();
    let done = Box::new(move |result| answer.send((number, result)).expect("the test listens"));
    let file = SyncTarget::File(FakeFile::new(number, Plan::Succeed), SyncKind::Full);
    bench.lanes.submit_deferred(u64::from(number), file, done)
}

type Own = Vec<(SyncRequest<Fake>, Completion)>;

/// Requests of a thread that leads only until they are answered.
fn own(bench: &Bench, numbers: std::ops::RangeInclusive<u32>) -> Own {
    let one = |number| {
        let answer = bench.answers.0.clone();
        let done = move |result| answer.send((number, result)).expect("the test listens");
        let file = SyncTarget::File(FakeFile::new(number, Plan::Succeed), SyncKind::Full);
        (SyncRequest::from(file), Box::new(done) as Completion)
    };
    numbers.map(one).collect()
}

/// A thread of a program hands the lead over when its own requests are answered. Those
/// that the queue had no room for were left for afterwards: it led for others until then.
#[test]
fn a_thread_leads_no_longer_than_its_own_requests_take() {
    let bench = Bench::new(LaneConfig { queue_ops_max: 1, ..LaneConfig::default() });
    let (lanes, requests) = (Arc::clone(&bench.lanes), own(&bench, 1..=3));
    let program = std::thread::spawn(move || {
        let relieve = || {
            let lanes = Arc::clone(&lanes);
            drop(std::thread::spawn(move || lanes.go_on_leading()));
            true
        };
        lanes.submit_own(1, requests, true, &relieve);
    });
    assert_eq!(bench.group(), [2, 3], "without room, together");
    bench.permit();
    assert_eq!(bench.group(), [1]);
    bench.submit(4, Plan::Succeed);
    bench.permit();
    assert_eq!(bench.group(), [4]);
    program.join().expect("it does not wait for number 4");
    let answers: Vec<_> = (0..3).map(|_| bench.answer()).collect();
    assert_eq!(answers, [(2, Ok(())), (3, Ok(())), (1, Ok(()))]);
    bench.permit();
    assert_eq!(bench.answer(), (4, Ok(())));
    assert!(bench.lanes.drain(LONG));
}

/// Where duties are run elsewhere, nobody leads who brought requests: neither does a thread
/// that waits for them, nor one that does not.
#[test]
fn requests_that_leave_together_can_be_carried_elsewhere() {
    let bench = Bench::new(LaneConfig { queue_ops_max: 2, ..LaneConfig::default() });
    let (sender, duties) = channel();
    bench.lanes.lead_elsewhere(Box::new(move |duty| sender.send(duty).expect("the test listens")));
    let nobody = || unreachable!("it does not lead");
    bench.lanes.submit_own(1, own(&bench, 1..=1), false, &nobody);
    let (lanes, requests) = (Arc::clone(&bench.lanes), own(&bench, 2..=4));
    let program = std::thread::spawn(move || lanes.submit_own(2, requests, true, &nobody));
    (0..2).for_each(|_| bench.permit());
    let (lead, alone) = (duties.recv_timeout(LONG), duties.recv_timeout(LONG));
    let (lead, alone) = (lead.expect("one is to lead"), alone.expect("two have no room"));
    assert_eq!((lead.is_to_lead(), alone.is_to_lead()), (true, false));
    assert!(bench.groups.try_recv().is_err(), "nothing was carried by who brought it");
    alone.run(&mut || {});
    lead.run(&mut || {});
    assert_eq!([bench.group(), bench.group()], [vec![3, 4], vec![1, 2]]);
    program.join().expect("it has waited");
    assert!(bench.lanes.drain(LONG));
}

/// Many threads, thousands of requests: each is answered exactly once.
#[test]
fn every_request_is_answered_exactly_once() {
    let Bench { lanes, groups, permits, answers } = Bench::new(LaneConfig::default());
    drop(permits); // The fence passes at once.
    drop(groups);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (lanes, answer) = (&lanes, answers.0.clone());
            scope.spawn(move || {
                for request in 0..500 {
                    submit(lanes, answer.clone(), writer * 500 + request, Plan::Succeed);
                }
            });
        }
    });
    drop(answers.0);
    let mut answered: Vec<u32> = answers.1.iter().map(|(number, _)| number).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..4000).collect::<Vec<_>>());
    assert!(lanes.drain(LONG));
}

/// The operations of [`Fake`] that no lane calls.
macro_rules! absent {
    ($($name:ident($($argument:ty),*) -> $result:ty;)+) => {
        $(fn $name(&self, $(_: $argument),*) -> Result<$result> { Err(Errno::NOSYS) })+
    };
}

impl Backing for Fake {
    type Object = ();
    type File = FakeFile;
    type Dir = FakeFile;
    type Fencer = FakeFencer;
    type Log = NoLog;

    absent! {
        root() -> Found<Self>;
        lookup(&(), &OsStr) -> Found<Self>;
        pin(&()) -> ();
        kind_at(&(), &OsStr) -> FileKind;
        attr(&()) -> Attr;
        set_attr(Caller, &(), Option<&FakeFile>, &SetAttr) -> Attr;
        read_link(&()) -> Vec<u8>;
        make_node(Caller, &(), &OsStr, NewMode, (u32, u32)) -> Found<Self>;
        make_dir(Caller, &(), &OsStr, NewMode) -> Found<Self>;
        make_symlink(Caller, &(), &OsStr, &OsStr) -> Found<Self>;
        link(&(), &(), &OsStr) -> Found<Self>;
        unlink(&(), &OsStr) -> ();
        remove_dir(&(), &OsStr) -> ();
        rename((&(), &OsStr), (&(), &OsStr), RenameMode) -> ();
        open(Caller, &(), OpenMode) -> FakeFile;
        create(Caller, &(), &OsStr, NewMode, OpenMode, bool) -> (Found<Self>, FakeFile, bool);
        read(&FakeFile, &mut [u8], u64) -> usize;
        write(Caller, &FakeFile, &[u8], u64, bool) -> usize;
        allocate(Caller, &FakeFile, u32, u64, u64) -> ();
        seek(&FakeFile, u64, Seek) -> u64;
        copy_range(Caller, (&FakeFile, u64), (&FakeFile, u64), u64) -> u64;
        open_dir(&()) -> FakeFile;
        read_dir(&FakeFile, u64, &mut dyn FnMut(DirEntry) -> bool) -> ();
        xattr(&(), &OsStr) -> Vec<u8>;
        xattr_names(&()) -> Vec<u8>;
        set_xattr(Caller, &(), &OsStr, &[u8], u32) -> ();
        remove_xattr(&(), &OsStr) -> ();
        stats() -> FsStats;
        sync_all() -> ();
        by_key(&ObjectKey) -> Found<Self>;
        file_attr(&FakeFile) -> Attr;
        start_write_back(&FakeFile) -> ();
        finish_write_back(&FakeFile) -> ();
        settled(&FakeFile, std::ops::Range<u64>) -> Vec<std::ops::Range<u64>>;
        set_marker(&FakeFile, u64) -> ();
        marker(&FakeFile) -> u64;
        flush_device(&FakeFile) -> ();
        make_log(&(), &OsStr, u64, &mut dyn FnMut(u64)) -> NoLog;
        open_log(&(), &OsStr) -> NoLog;
    }

    fn log_obstacle(&self) -> Option<String> {
        Some("a fake".to_owned())
    }

    fn boot_id(&self) -> [u8; 16] {
        [0; 16]
    }

    fn mount_id(&self) -> u64 {
        0
    }

    fn unpin(&self, (): &()) {}

    fn fencer(&self) -> FakeFencer {
        unreachable!("the bench makes its own")
    }

    fn filesystem_id(&self) -> u64 {
        0
    }
}
