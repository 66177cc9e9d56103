//! Traces written by hand, and what their crashes leave.

use std::collections::BTreeSet;

use fs_core::crash::law::{Law, Subject};
use fs_core::crash::model::by_name;
use fs_core::crash::plan::every_crash;
use fs_core::crash::state::{Blocks, State};
use fs_core::crash::steps::Steps;
use fs_core::crash::trace::{Actor, InitialNode, Ino, Made, Operation, Place, Recorded, Trace};
use fs_core::types::{FileKind, SyncKind};

/// A trace that grows.
pub struct Script {
    pub trace: Trace,
    next: u32,
}

fn made(kind: FileKind) -> Made {
    let perm = if kind == FileKind::Directory { 0o755 } else { 0o644 };
    Made { kind, perm, uid: 0, gid: 0, device: (0, 0), target: Vec::new() }
}

fn place(dir: Ino, name: &str) -> Place {
    Place { dir, name: name.as_bytes().into() }
}

impl Script {
    /// An empty directory.
    pub fn new() -> Self {
        let mut trace = Trace { actors: vec![Actor::default()], ..Trace::default() };
        trace.initial.nodes.push(InitialNode {
            made: made(FileKind::Directory),
            xattrs: Vec::new(),
            bytes: 0,
            extents: Vec::new(),
        });
        Self { trace, next: 1 }
    }

    /// A file that is there before.
    pub fn initial(&mut self, name: &str, content: &[u8]) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        let extents = vec![(0, self.trace.blobs.add(content))];
        self.trace.initial.nodes.push(InitialNode {
            made: made(FileKind::Regular),
            xattrs: Vec::new(),
            bytes: content.len() as u64,
            extents,
        });
        self.trace.initial.names.push((place(Ino::ROOT, name), ino));
        ino
    }

    pub fn push(&mut self, operation: Operation) {
        self.trace.operations.push(Recorded { operation, actor: 0 });
    }

    fn make(&mut self, dir: Ino, name: &str, kind: FileKind) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        self.push(Operation::Create { at: place(dir, name), ino, made: made(kind) });
        ino
    }

    pub fn create(&mut self, name: &str) -> Ino {
        self.make(Ino::ROOT, name, FileKind::Regular)
    }

    pub fn create_in(&mut self, dir: Ino, name: &str) -> Ino {
        self.make(dir, name, FileKind::Regular)
    }

    pub fn mkdir(&mut self, name: &str) -> Ino {
        self.make(Ino::ROOT, name, FileKind::Directory)
    }

    pub fn write(&mut self, ino: Ino, offset: u64, content: &[u8]) {
        let data = self.trace.blobs.add(content);
        self.push(Operation::Write { ino, offset, data, mapped: false });
    }

    pub fn resize(&mut self, ino: Ino, bytes: u64) {
        self.push(Operation::Resize { ino, bytes });
    }

    pub fn rename(&mut self, ino: Ino, from: &str, to: &str, replaced: Option<Ino>) {
        let (from, to) = (place(Ino::ROOT, from), place(Ino::ROOT, to));
        self.push(Operation::Rename { from, to, ino, replaced, exchange: false });
    }

    pub fn link(&mut self, ino: Ino, name: &str) {
        self.push(Operation::Link { at: place(Ino::ROOT, name), ino });
    }

    pub fn unlink(&mut self, ino: Ino, name: &str) {
        self.push(Operation::Remove { at: place(Ino::ROOT, name), ino });
    }

    pub fn fsync(&mut self, ino: Ino) {
        self.push(Operation::Sync { ino, kind: SyncKind::Full });
    }

    pub fn fdatasync(&mut self, ino: Ino) {
        self.push(Operation::Sync { ino, kind: SyncKind::Data });
    }

    pub fn close(&mut self, ino: Ino) {
        self.push(Operation::Close { ino });
    }

    /// Every tree that a crash may leave, in words. With `at_end`, of crashes after
    /// everything was done only.
    pub fn outcomes(&self, model: &str, at_end: bool) -> BTreeSet<String> {
        let mut blocks = Blocks::default();
        let subject = Subject::new(&self.trace, &mut blocks);
        let law = Law::new(by_name(model).expect("a model"), &subject.log);
        let operations = self.trace.operations.len();
        let crashes = every_crash(&law, operations, 1_000_000).expect("a short trace");
        crashes
            .iter()
            .filter(|crash| !at_end || crash.at == operations)
            .inspect(|crash| assert!(law.allows(crash), "{model} thought of what it forbids"))
            .map(|crash| shown(&subject.log, &law.state(&subject, &mut blocks, crash), &blocks))
            .collect()
    }
}

/// A tree in words: `f=aab g=`; runs of equal bytes are one letter, zeros are `0`.
pub fn shown(log: &Steps<'_>, state: &State, blocks: &Blocks) -> String {
    let mut words = Vec::new();
    state.visit(&mut |path, _, node| {
        if path.is_empty() {
            return;
        }
        let path: Vec<_> = path
            .iter()
            .map(|name| String::from_utf8_lossy(&log.names[name.0 as usize]).into_owned())
            .collect();
        let path = path.join("/");
        if node.made.kind == FileKind::Directory {
            words.push(format!("{path}/"));
            return;
        }
        let mut content = vec![0_u8; node.bytes as usize];
        for (offset, bytes) in node.content(blocks) {
            content[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        content.dedup();
        let text: String =
            content.iter().map(|byte| if *byte == 0 { '0' } else { *byte as char }).collect();
        words.push(format!("{path}={text}"));
    });
    words.sort();
    words.join(" ")
}
