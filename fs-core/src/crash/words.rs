//! Operations in words: what a finding says to people.

use super::trace::{Ino, Operation, Place, Trace};
use crate::types::{FileKind, SyncKind};

/// The path of what each operation is about, at its time.
#[derive(Debug)]
pub struct Names {
    /// The subject, and for a rename or link the place before.
    of: Vec<(String, String)>,
    /// The last known path of each object.
    last: Vec<String>,
}

impl Names {
    /// Follows all names through a trace.
    #[must_use]
    pub fn new(trace: &Trace) -> Self {
        let mut places: Vec<Option<Place>> = vec![None; trace.inodes()];
        follow_initial(trace, &mut places);
        let mut of = Vec::new();
        for recorded in &trace.operations {
            let operation = &recorded.operation;
            let text = match operation {
                Operation::Create { at, .. } | Operation::Remove { at, .. } => {
                    (path_of_place(&places, at), String::new())
                }
                Operation::Link { at, ino } => (path_of_place(&places, at), path(&places, *ino)),
                Operation::Rename { from, to, .. } => {
                    (path_of_place(&places, to), path_of_place(&places, from))
                }
                other => {
                    (other.ino().map_or(String::new(), |ino| path(&places, ino)), String::new())
                }
            };
            of.push(text);
            follow(operation, &mut places);
        }
        let last = (0..places.len()).map(|ino| path(&places, Ino(ino as u32))).collect();
        Self { of, last }
    }

    /// The path that an operation is about; a rename's target.
    #[must_use]
    pub fn subject(&self, operation: usize) -> String {
        self.of.get(operation).map(|(subject, _)| subject.clone()).unwrap_or_default()
    }

    /// The path of an object as it was called last; "." for the directory under test.
    #[must_use]
    pub fn of_object(&self, ino: Ino) -> String {
        let path = self.last.get(ino.index()).cloned().unwrap_or_default();
        if path.is_empty() { ".".to_owned() } else { path }
    }

    /// The path of an object at the time of an operation, just before it.
    #[must_use]
    pub fn of_object_at(&self, trace: &Trace, ino: Ino, operation: usize) -> String {
        let mut places: Vec<Option<Place>> = vec![None; trace.inodes()];
        follow_initial(trace, &mut places);
        for recorded in trace.operations.iter().take(operation) {
            follow(&recorded.operation, &mut places);
        }
        let path = path(&places, ino);
        if path.is_empty() { self.of_object(ino) } else { path }
    }

    /// An operation in words, as a call.
    #[must_use]
    pub fn call(&self, trace: &Trace, operation: usize) -> String {
        let Some(recorded) = trace.operations.get(operation) else { return "the end".to_owned() };
        let (subject, other) = &self.of[operation];
        let subject = if subject.is_empty() { "." } else { subject };
        match &recorded.operation {
            Operation::Create { made, .. } => match made.kind {
                FileKind::Directory => format!("mkdir({subject})"),
                FileKind::Symlink => {
                    format!("symlink({} -> {subject})", String::from_utf8_lossy(&made.target))
                }
                FileKind::Regular => format!("create({subject})"),
                _ => format!("mknod({subject})"),
            },
            Operation::Link { .. } => format!("link({other} -> {subject})"),
            Operation::Remove { .. } => format!("unlink({subject})"),
            Operation::Rename { exchange: true, .. } => format!("exchange({other} <-> {subject})"),
            Operation::Rename { .. } => format!("rename({other} -> {subject})"),
            Operation::Write { offset, data, .. } => {
                let bytes = trace.blobs.get(*data).len();
                format!("write({subject}, {bytes} bytes at {offset})")
            }
            Operation::Resize { bytes, .. } => format!("truncate({subject}, {bytes})"),
            Operation::Allocate { offset, bytes, .. } => {
                format!("fallocate({subject}, {bytes} bytes at {offset})")
            }
            Operation::Attrs { perm, .. } => format!("setattr({subject}, mode {perm:o})"),
            Operation::Xattr { name, .. } => {
                format!("setxattr({subject}, {})", String::from_utf8_lossy(name))
            }
            Operation::Sync { kind: SyncKind::Data, .. } => format!("fdatasync({subject})"),
            Operation::Sync { .. } => format!("fsync({subject})"),
            Operation::Close { .. } => format!("close({subject})"),
            Operation::Ack { data, .. } => {
                let text = String::from_utf8_lossy(trace.blobs.get(*data));
                let line: String = text.trim_end().chars().take(40).collect();
                format!("told \"{}\"", line.escape_debug())
            }
        }
    }
}

fn follow_initial(trace: &Trace, places: &mut [Option<Place>]) {
    for (place, ino) in &trace.initial.names {
        if let Some(known) = places.get_mut(ino.index()) {
            *known = Some(place.clone());
        }
    }
}

/// Notes the names that an operation gives.
fn follow(operation: &Operation, places: &mut [Option<Place>]) {
    let mut put = |ino: Ino, at: &Place| {
        if let Some(place) = places.get_mut(ino.index()) {
            *place = Some(at.clone());
        }
    };
    match operation {
        Operation::Create { at, ino, .. } | Operation::Link { at, ino } => put(*ino, at),
        Operation::Rename { from, to, ino, replaced, exchange } => {
            put(*ino, to);
            if let (Some(replaced), true) = (replaced, exchange) {
                put(*replaced, from);
            }
        }
        _ => {}
    }
}

fn path_of_place(places: &[Option<Place>], at: &Place) -> String {
    let dir = path(places, at.dir);
    let name = String::from_utf8_lossy(&at.name);
    if dir.is_empty() { name.into_owned() } else { format!("{dir}/{name}") }
}

fn path(places: &[Option<Place>], ino: Ino) -> String {
    let mut parts = Vec::new();
    let mut next = ino;
    // Directories that hold each other exist in damaged traces only.
    for _ in 0..=places.len() {
        let Some(Some(place)) = places.get(next.index()) else { break };
        parts.push(String::from_utf8_lossy(&place.name).into_owned());
        next = place.dir;
    }
    parts.reverse();
    parts.join("/")
}
