//! What each model lets a power cut do, and what not: small programs whose
//! outcomes are known. The first ones are Ferrite's (ASPLOS 2016), with what it
//! found on ext4 and XFS.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use fs_core::error::Errno;
use fs_core::platform::sim::handles::{SimFile, SimObject};
use fs_core::platform::sim::{DurabilityModel, STALE_BYTE, SimBacking, SimOptions};
use fs_core::platform::{Backing, FenceMethod, Fencer, OpenMode, RenameMode, SyncTarget};
use fs_core::types::{Caller, NewMode, SetAttr, SyncKind};

use DurabilityModel::{Ext4Ordered, PosixMin, Writeback, Xfs};

const ME: Caller = Caller { uid: 0, gid: 0, thread: 1 };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: false };
const CRASHES: u64 = 400;

/// A filesystem with short ways to use it; every operation must succeed.
struct Disk(SimBacking);

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

impl Disk {
    fn new(model: DurabilityModel) -> Self {
        Self(SimBacking::new(SimOptions::new(model, 7)))
    }

    fn root(&self) -> SimObject {
        self.0.root().expect("a root").object
    }

    fn dir(&self, text: &str) -> SimObject {
        let mode = NewMode { mode: 0o755, umask: 0 };
        self.0.make_dir(ME, &self.root(), name(text), mode).expect("a directory").object
    }

    fn create(&self, dir: &SimObject, text: &str) -> SimFile {
        let new = NewMode { mode: 0o644, umask: 0 };
        self.0.create(ME, dir, name(text), new, READ_WRITE, true).expect("a file").1
    }

    fn file(&self, text: &str) -> SimFile {
        self.create(&self.root(), text)
    }

    /// A file with this content, all of it durable.
    fn durable_file(&self, text: &str, content: &[u8]) -> SimFile {
        let file = self.file(text);
        self.write(&file, 0, content);
        self.0.sync_all().expect("a sync");
        file
    }

    fn write(&self, file: &SimFile, offset: u64, data: &[u8]) {
        assert_eq!(self.0.write(ME, file, data, offset, false), Ok(data.len()));
    }

    fn set_size(&self, text: &str, size: u64) {
        let object = self.0.lookup(&self.root(), name(text)).expect("a name").object;
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        self.0.set_attr(ME, &object, None, &change).expect("a length");
    }

    fn rename(&self, from: (&SimObject, &str), to: (&SimObject, &str)) {
        let mode = RenameMode::default();
        self.0.rename((from.0, name(from.1)), (to.0, name(to.1)), mode).expect("a rename");
    }

    fn sync(&self, file: SimFile, kind: SyncKind) -> SimFile {
        assert_eq!(self.try_sync(&file.into(), kind), Ok(()));
        file
    }

    /// What a crash leaves under a path: the content of a file, "dir", or "-".
    fn look(&self, path: &str) -> String {
        let mut found = self.0.root().expect("a root");
        for part in path.split('/') {
            match self.0.lookup(&found.object, name(part)) {
                Ok(next) => found = next,
                Err(_) => return "-".to_owned(),
            }
        }
        let Ok(file) = self.0.open(ME, &found.object, READ_WRITE) else { return "dir".to_owned() };
        let mut content = vec![0; found.attr.size as usize];
        self.0.read(&file, &mut content, 0).expect("a file can be read");
        runs(&content)
    }

    /// Everything that power cuts leave under these paths.
    fn outcomes(&self, paths: &[&str]) -> BTreeSet<String> {
        let look = |seed| {
            let crashed = Self(self.0.crash(seed));
            paths.iter().map(|path| crashed.look(path)).collect::<Vec<_>>().join(" ")
        };
        (0..CRASHES).map(look).collect()
    }
}
