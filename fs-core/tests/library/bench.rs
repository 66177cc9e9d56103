//! The library on a simulated disk, whose fences a test can hold and let fail.

use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex};

use fs_core::batch::{Files, FilesConfig};
use fs_core::engine::{Engine, EngineConfig};
use fs_core::log::LogConfig;
use fs_core::log::format::LOG_BYTES_MIN;
use fs_core::platform::sim::{DurabilityModel, FencePoint, SimBacking, SimOptions};
use fs_core::platform::{Backing, OpenMode};
use fs_core::types::Caller;

pub const NOBODY: Caller = Caller { uid: 0, gid: 0, thread: 0 };

pub type SimFiles = Files<SimBacking>;

pub struct Bench {
    pub backing: SimBacking,
    pub files: Option<SimFiles>,
}

impl Bench {
    pub fn without_log(model: DurabilityModel, config: FilesConfig) -> Self {
        let backing = SimBacking::new(SimOptions::new(model, 1));
        let engine = Engine::new(
            &backing,
            EngineConfig { lanes: config.lanes(), ..EngineConfig::default() },
        );
        Self::on(backing, &engine, config)
    }

    pub fn with_log(config: FilesConfig) -> Self {
        let backing = SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, 1));
        let log = LogConfig {
            bytes: LOG_BYTES_MIN,
            probe: None,
            background: false,
            ..LogConfig::default()
        };
        let lanes = config.lanes();
        let shared = Arc::new(backing.clone());
        let opened = Engine::with_log(
            &shared,
            EngineConfig { lanes, ..EngineConfig::default() },
            log,
            None,
            &mut |_| {},
        );
        Self::on(backing, &opened.expect("a log opens").0, config)
    }

    fn on(backing: SimBacking, engine: &Arc<Engine<SimBacking>>, config: FilesConfig) -> Self {
        let tree = engine.add_tree(backing.clone()).expect("a tree");
        let files = Files::on(tree, NOBODY, config).expect("valid settings");
        Self { backing, files: Some(files) }
    }

    pub fn files(&self) -> &SimFiles {
        self.files.as_ref().expect("not closed yet")
    }

    /// Names in a directory below the root (or in it: ""), in order.
    pub fn names(backing: &SimBacking, dir: &str) -> Vec<String> {
        let mut object = backing.root().expect("a root").object;
        if !dir.is_empty() {
            object = backing.lookup(&object, OsStr::new(dir)).expect("a directory").object;
        }
        let open = backing.open_dir(&object).expect("a directory opens");
        let mut names = Vec::new();
        let listed = backing.read_dir(&open, 0, &mut |entry| {
            names.push(entry.name.into_string().expect("text"));
            true
        });
        listed.expect("a directory can be read");
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    /// Holds the next fence at this point until the guard is let go.
    pub fn hold(&self, at: FencePoint) -> Hold {
        let state = Arc::new((Mutex::new((false, false)), Condvar::new()));
        let within = Arc::clone(&state);
        self.backing.on_fence(Some(Arc::new(move |point| {
            let (lock, changed) = &*within;
            let mut state = lock.lock().expect("no panic in here");
            if point != at || state.0 {
                return;
            }
            state.0 = true;
            changed.notify_all();
            drop(changed.wait_while(state, |state| !state.1).expect("no panic in here"));
        })));
        Hold(state)
    }
}

/// A fence that waits: whether it has come, whether it may go.
pub struct Hold(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Hold {
    /// Waits until the fence has come.
    pub fn await_fence(&self) {
        let (lock, changed) = &*self.0;
        let state = lock.lock().expect("no panic in here");
        drop(changed.wait_while(state, |state| !state.0).expect("no panic in here"));
    }

    pub fn let_go(&self) {
        let (lock, changed) = &*self.0;
        lock.lock().expect("no panic in here").1 = true;
        changed.notify_all();
    }
}

/// A file's content in the root directory; `None` if there is no such name.
pub fn content(backing: &SimBacking, name: &str) -> Option<Vec<u8>> {
    let root = backing.root().expect("a root").object;
    let found = backing.lookup(&root, OsStr::new(name)).ok()?;
    let mode = OpenMode { read: true, write: false, truncate: false, no_atime: true };
    let file = backing.open(NOBODY, &found.object, mode).expect("it opens");
    let mut content = vec![0; found.attr.size as usize];
    backing.read(&file, &mut content, 0).expect("it can be read");
    Some(content)
}
