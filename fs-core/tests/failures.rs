//! Failures on purpose, on the simulated filesystem: who gets which error, and what is left.

use std::ffi::OsStr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use fs_core::crash::draw::{Lose, draw};
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::model::by_name;
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::{Actor, Trace};
use fs_core::engine::{Engine, EngineConfig, FileId, NodeId, Tree};
use fs_core::error::{Errno, Result};
use fs_core::faults::FaultRule;
use fs_core::platform::OpenMode;
use fs_core::platform::record::{CrashPoint, Live, RecordPlan, Recorder, Witness, WriteCall};
use fs_core::platform::sim::{DurabilityModel, SimBacking, SimOptions};
use fs_core::types::{Caller, NewMode, SyncKind};

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const FILE: NewMode = NewMode { mode: 0o644, umask: 0 };

/// Thread 7 is `database`, all others are `other`.
struct Names;

impl Witness for Names {
    fn actor(&self, thread: u32) -> Actor {
        let comm = if thread == 7 { "database" } else { "other" };
        Actor { process: thread, thread, comm: comm.to_owned() }
    }

    fn write_call(&self, _thread: u32) -> Option<WriteCall> {
        None
    }
}

struct Lab {
    tree: Arc<Tree<Recorder<SimBacking>>>,
    power: Arc<Mutex<Vec<CrashPoint>>>,
}

fn caller(thread: u32) -> Caller {
    Caller { uid: 0, gid: 0, thread }
}

impl Lab {
    fn new(rules: &str) -> Self {
        let simulated = SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, 1));
        let power = Arc::new(Mutex::new(Vec::new()));
        let fails = Arc::clone(&power);
        let live = Arc::new(Live::new(move |point| fails.lock().expect("lock").push(point)));
        #[derive(serde::Deserialize)]
        struct Schedule {
            fault: Vec<FaultRule>,
        }
        let schedule: Schedule = toml::from_str(rules).expect("rules");
        live.faults.add(schedule.fault).expect("they are right");
        let recorder = Recorder::new(simulated, RecordPlan::of("."), Box::new(Names));
        let recorder = Arc::new(recorder.expect("readable").failing(live));
        let engine = Engine::new(&*recorder, EngineConfig::default());
        Self { tree: engine.add_tree(recorder).expect("its own directory"), power }
    }

    fn create(&self, thread: u32, name: &str) -> Result<FileId> {
        let made = self.tree.create(
            caller(thread),
            NodeId::ROOT,
            OsStr::new(name),
            FILE,
            READ_WRITE,
            true,
        );
        made.map(|(_, file)| file)
    }

    fn write(&self, thread: u32, file: FileId, bytes: &[u8], offset: u64) -> Result<usize> {
        self.tree.write(caller(thread), file, bytes, offset, true)
    }

    fn sync(&self, thread: u32, file: FileId) -> Result<()> {
        let (sender, synced) = channel();
        let done = Box::new(move |result| sender.send(result).expect("awaited"));
        self.tree.sync_file(caller(thread), file, SyncKind::Full, done);
        synced.recv().expect("answered")
    }

    fn read(&self, file: FileId) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        let read = self.tree.read(caller(7), file, &mut bytes, 0).expect("read");
        bytes.truncate(read);
        bytes
    }

    /// Files with their contents after a crash at a moment.
    fn left(&self, model: &str, at: Option<usize>, lose: Lose) -> Vec<(String, Vec<u8>)> {
        left(&self.tree.backing().trace(), model, at, lose)
    }
}

fn left(trace: &Trace, model: &str, at: Option<usize>, lose: Lose) -> Vec<(String, Vec<u8>)> {
    let mut blocks = Blocks::default();
    let subject = Subject::new(trace, &mut blocks);
    let law = Law::new(by_name(model).expect("a model"), &subject.log);
    let at = at.unwrap_or(trace.operations.len());
    let crash = draw(&law, at, lose, 1);
    assert!(law.allows(&crash), "a legal one");
    let state = law.state(&subject, &mut blocks, &crash);
    let mut found = Vec::new();
    state.visit(&mut |path, _, node| {
        let [name] = path else { return };
        let mut content = vec![0; node.bytes as usize];
        for (offset, bytes) in node.content(&blocks) {
            content[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let name = String::from_utf8_lossy(&subject.log.names[name.0 as usize]).into_owned();
        found.push((name, content));
    });
    found
}

#[test]
fn the_program_of_the_rule_gets_the_error_and_nobody_else() {
    let lab = Lab::new(
        "[[fault]]\noperation = 'fsync'\npath = '*.db'\nprocess = 'database'\nnth = 2\n\
         error = 'EIO'\npages = 'kept'\n\
         [[fault]]\noperation = 'create'\npath = '/full'\nerror = 'ENOSPC'\n",
    );
    let (db, log) = (lab.create(7, "a.db").expect("create"), lab.create(7, "log").expect("create"));
    assert_eq!(lab.create(8, "full").err(), Some(Errno::NOSPC));
    assert!(lab.create(8, "full").is_ok(), "once");
    for file in [db, log] {
        lab.write(7, file, b"content", 0).expect("write");
    }
    let synced = [lab.sync(7, db), lab.sync(8, db), lab.sync(7, log), lab.sync(7, db)];
    assert_eq!(synced, [Ok(()), Ok(()), Ok(()), Err(Errno::IO)]);
    lab.write(7, db, b"CONTENT", 0).expect("write");
    assert_eq!(lab.sync(7, db), Ok(()));
    let kept = lab.left("ext4", None, Lose::All);
    assert!(kept.contains(&("a.db".to_owned(), b"CONTENT".to_vec())), "{kept:?}");
}

// A program that calls fsync again after it failed, and believes the second answer: on ext4 the
// bytes are gone although it reads them.
#[test]
fn a_second_fsync_lies_as_on_ext4() {
    let lab = Lab::new("[[fault]]\noperation = 'fsync'\nnth = 2\nerror = 'EIO'\npages = 'ext4'\n");
    let file = lab.create(7, "a").expect("create");
    lab.write(7, file, &[b'1'; 5000], 0).expect("write");
    lab.sync(7, file).expect("the first");
    lab.write(7, file, &[b'2'; 10], 0).expect("write");
    lab.write(7, file, &[b'3'; 4000], 5000).expect("write");
    assert_eq!(lab.sync(7, file), Err(Errno::IO));
    let new = [&[b'2'; 10][..], &[b'1'; 4990], &[b'3'; 4000]].concat();
    assert_eq!(lab.read(file), new, "the cache is newer");
    lab.sync(7, file).expect("it has nothing to write");
    let old = [&[b'1'; 5000][..], &[0; 4000]].concat();
    for lose in [Lose::All, Lose::None] {
        assert_eq!(lab.left("ext4", None, lose), [("a".to_owned(), old.clone())], "{lose:?}");
    }
    // A block that is written again is dirty again, all of it.
    lab.write(7, file, b"4", 1).expect("write");
    assert!(lab.tree.backing().evict().expect("evict") > 0);
    let now = lab.read(file);
    assert_eq!((&now[..3], &now[4999..5001]), (&b"242"[..], &[b'1', 0][..]));
}

#[test]
fn a_failed_fsync_takes_the_file_back_as_on_btrfs() {
    let lab = Lab::new("[[fault]]\noperation = 'fsync'\nnth = 2\nerror = 'EIO'\npages = 'btrfs'\n");
    let file = lab.create(7, "a").expect("create");
    lab.write(7, file, &[b'1'; 5000], 0).expect("write");
    lab.sync(7, file).expect("the first");
    lab.write(7, file, &[b'2'; 9000], 0).expect("write");
    assert_eq!(lab.sync(7, file), Err(Errno::IO));
    assert_eq!(lab.read(file), [b'1'; 5000]);
    lab.sync(7, file).expect("nothing to do");
    assert_eq!(lab.left("btrfs", None, Lose::None), [("a".to_owned(), vec![b'1'; 5000])]);
}

#[test]
fn the_power_fails_once_and_nothing_is_answered_after_it() {
    let lab = Lab::new(
        "[[fault]]\noperation = 'write'\npath = 'b'\ncrash = { lose = 'all', model = 'xfs' }\n",
    );
    let (one, two) = (lab.create(7, "a").expect("create"), lab.create(7, "b").expect("create"));
    lab.write(7, one, b"synced", 0).expect("write");
    lab.sync(7, one).expect("sync");
    lab.write(7, one, b"UNSYNC", 0).expect("write");
    assert_eq!(lab.write(7, two, b"x", 0), Err(Errno::IO));
    assert_eq!(lab.write(7, one, b"later!", 0), Err(Errno::IO));
    assert!(lab.create(8, "c").is_err() && lab.sync(7, one).is_err());
    let points = lab.power.lock().expect("lock").clone();
    let [CrashPoint { at, cut }] = &points[..] else { panic!("once: {points:?}") };
    assert_eq!(cut.model.as_deref(), Some("xfs"));
    let a = |bytes: &[u8]| ("a".to_owned(), bytes.to_vec());
    assert!(lab.left("xfs", Some(*at), cut.lose).contains(&a(b"synced")));
    assert!(lab.left("xfs", Some(*at), Lose::None).contains(&a(b"UNSYNC")));
}

#[test]
fn a_torn_write_is_there_in_part() {
    let lab = Lab::new("[[fault]]\noperation = 'write'\nnth = 2\ntorn_bytes = 3\n");
    let file = lab.create(7, "a").expect("create");
    lab.write(7, file, b"first-", 0).expect("write");
    assert_eq!(lab.write(7, file, b"second", 6), Err(Errno::IO));
    let points = lab.power.lock().expect("lock").clone();
    let [CrashPoint { at, cut }] = &points[..] else { panic!("once: {points:?}") };
    let left = lab.left("ext4", Some(*at), cut.lose);
    assert_eq!(left, [("a".to_owned(), b"first-sec".to_vec())]);
}
