//! A recording and its findings as one file, `NAME.crash`: all that is needed to see a
//! finding again, without the program.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `LANECRSH` |
//! | 4 | version, little-endian: 1 |
//! | 4 | CRC-32C of the rest |
//! | rest | the contents, in postcard's encoding (docs/crash-lab.md) |
//!
//! A reader trusts nothing: the checksum is for accidents, and [`check`](Artefact::check)
//! for malice, because names in it become paths.

use serde::{Deserialize, Serialize};

use super::judge::Class;
use super::law::{Crash, Law};
use super::state::Torn;
use super::trace::{Actor, Blob, Blobs, Initial, Ino, Operation, Place, Recorded, Trace};

const MAGIC: &[u8; 8] = b"LANECRSH";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// Longest file in a recording, in bytes: 16 TiB, as on ext4.
const FILE_BYTES_MAX: u64 = 1 << 44;

/// Why a file is no artefact of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArtefactError {
    /// It begins otherwise.
    #[error("not a recording of the crash lab")]
    NotOurs,
    /// It is of another version.
    #[error("a recording of version {0}; this lanefs reads version 1")]
    Version(u32),
    /// Its checksum is wrong.
    #[error("the recording is damaged: its checksum is wrong")]
    Damaged,
    /// It says what cannot be.
    #[error("the recording makes no sense: {0}")]
    Nonsense(String),
}

/// A finding that can be seen again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The model.
    pub model: String,
    /// What kind of mistake.
    pub class: Class,
    /// In words.
    pub sentence: String,
    /// The crash: operations before it, ...
    pub at: u64,
    /// ... atoms that were lost, ...
    pub lost: Vec<u32>,
    /// ... and the step that was torn.
    pub torn: Option<(u32, Torn)>,
    /// How many acknowledgements had been given.
    pub told: u32,
}

/// What the file holds.
#[derive(Debug, Clone, Default)]
pub struct Artefact {
    /// The recording.
    pub trace: Trace,
    /// The checker's command.
    pub check: String,
    /// Where the checker starts.
    pub working_directory: Vec<u8>,
    /// The findings, numbered from 1 for people.
    pub findings: Vec<Witness>,
}

#[derive(Serialize, Deserialize)]
struct Contents<'a> {
    command: Vec<String>,
    directory: Vec<u8>,
    working_directory: Vec<u8>,
    check: String,
    initial: Initial,
    operations: Vec<Recorded>,
    actors: Vec<Actor>,
    #[serde(borrow)]
    blobs: Vec<&'a [u8]>,
    findings: Vec<Witness>,
}

impl Witness {
    /// A crash as it is written down.
    #[must_use]
    pub fn new(law: &Law<'_>, crash: &Crash, told: u32, class: Class, sentence: String) -> Self {
        let end = law.rules.end(crash.at);
        let lost = (0..end).filter(|atom| !crash.kept.contains(*atom as usize)).collect();
        let model = law.model.name().to_owned();
        Self { model, class, sentence, at: crash.at as u64, lost, torn: crash.torn, told }
    }

    /// The crash, under the law of its model; none if it is not of this trace.
    #[must_use]
    pub fn crash(&self, law: &Law<'_>) -> Option<Crash> {
        let at = usize::try_from(self.at).ok().filter(|at| *at < law.rules.before.len())?;
        let mut kept = law.prefix(at);
        let end = law.rules.end(at);
        for &atom in &self.lost {
            if atom >= end {
                return None;
            }
            kept.set(atom as usize, false);
        }
        let steps = law.rules.atom_of.len();
        if self.torn.is_some_and(|(step, _)| step as usize >= steps) {
            return None;
        }
        Some(Crash { at, kept, torn: self.torn })
    }
}

impl Artefact {
    /// As bytes of a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let trace = &self.trace;
        let contents = Contents {
            command: trace.command.clone(),
            directory: trace.directory.clone(),
            working_directory: self.working_directory.clone(),
            check: self.check.clone(),
            initial: trace.initial.clone(),
            operations: trace.operations.clone(),
            actors: trace.actors.clone(),
            blobs: trace.blobs.iter().collect(),
            findings: self.findings.clone(),
        };
        let contents = postcard::to_stdvec(&contents).expect("plain values can be encoded");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + contents.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&contents).to_le_bytes());
        bytes.extend_from_slice(&contents);
        bytes
    }

    /// From the bytes of a file.
    ///
    /// # Errors
    /// See [`ArtefactError`]. No bytes make it panic.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let (header, contents) =
            bytes.split_at_checked(HEADER_BYTES).ok_or(ArtefactError::NotOurs)?;
        if &header[..8] != MAGIC {
            return Err(ArtefactError::NotOurs);
        }
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if number(8) != VERSION {
            return Err(ArtefactError::Version(number(8)));
        }
        if number(12) != crc32c::crc32c(contents) {
            return Err(ArtefactError::Damaged);
        }
        Self::from_contents(contents)
    }

    /// From what follows the header: for who wants to try bytes of any kind.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn from_contents(contents: &[u8]) -> Result<Self, ArtefactError> {
        let contents: Contents<'_> = postcard::from_bytes(contents)
            .map_err(|error| ArtefactError::Nonsense(error.to_string()))?;
        let mut blobs = Blobs::default();
        for (number, bytes) in contents.blobs.iter().enumerate() {
            if blobs.add(bytes) != Blob(number as u32) {
                return Err(ArtefactError::Nonsense("the same bytes twice".to_owned()));
            }
        }
        let trace = Trace {
            command: contents.command,
            directory: contents.directory,
            initial: contents.initial,
            operations: contents.operations,
            actors: contents.actors,
            blobs,
        };
        let artefact = Self {
            trace,
            check: contents.check,
            working_directory: contents.working_directory,
            findings: contents.findings,
        };
        artefact.check().map_err(ArtefactError::Nonsense)?;
        Ok(artefact)
    }

    /// Whether numbers name what is there and names are names.
    fn check(&self) -> Result<(), String> {
        let trace = &self.trace;
        let mut objects = trace.initial.nodes.len();
        if objects == 0 {
            return Err("no directory".to_owned());
        }
        let blobs = trace.blobs.iter().len();
        for node in &trace.initial.nodes {
            if node.bytes > FILE_BYTES_MAX {
                return Err("a file is too long".to_owned());
            }
            let mut end = 0;
            for &(offset, blob) in &node.extents {
                if blob.0 as usize >= blobs || offset < end {
                    return Err("bytes that are not there".to_owned());
                }
                end = offset + trace.blobs.get(blob).len() as u64;
                if end > node.bytes {
                    return Err("bytes behind the end of a file".to_owned());
                }
            }
        }
        for (place, ino) in &trace.initial.names {
            check_place(place, objects)?;
            check_object(*ino, objects)?;
        }
        check_tree(&trace.initial)?;
        for recorded in &trace.operations {
            if recorded.actor as usize >= trace.actors.len() {
                return Err("an operation of nobody".to_owned());
            }
            if let Operation::Create { ino, .. } = recorded.operation {
                // In order, each once: a table of them is no longer than the recording.
                if ino.index() != objects {
                    return Err("objects out of order".to_owned());
                }
                objects += 1;
            }
            check_operation(&recorded.operation, objects, blobs)?;
        }
        Ok(())
    }
}

fn check_object(ino: Ino, objects: usize) -> Result<(), String> {
    if ino.index() < objects { Ok(()) } else { Err("an object that is not there".to_owned()) }
}

fn check_place(place: &Place, objects: usize) -> Result<(), String> {
    check_object(place.dir, objects)?;
    let name: &[u8] = &place.name;
    let is_bad = name.is_empty()
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    if is_bad { Err("a name that is none".to_owned()) } else { Ok(()) }
}

/// Each directory has one name, and none holds one above it.
fn check_tree(initial: &Initial) -> Result<(), String> {
    use crate::types::FileKind;
    let mut named = vec![false; initial.nodes.len()];
    named[0] = true;
    for (place, ino) in &initial.names {
        let is_directory = initial.nodes[ino.index()].made.kind == FileKind::Directory;
        // A directory's names come after its own, so that there is no way back.
        if !named[place.dir.index()] || is_directory && named[ino.index()] {
            return Err("directories that hold each other".to_owned());
        }
        named[ino.index()] = true;
    }
    Ok(())
}

fn check_operation(operation: &Operation, objects: usize, blobs: usize) -> Result<(), String> {
    if let Some(ino) = operation.ino() {
        check_object(ino, objects)?;
    }
    let blob = |blob: &Blob| {
        if (blob.0 as usize) < blobs { Ok(()) } else { Err("bytes that are not there".to_owned()) }
    };
    let end = |offset: u64, bytes: u64| match offset.checked_add(bytes) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(()),
        _ => Err("a file is too long".to_owned()),
    };
    match operation {
        Operation::Create { at, .. }
        | Operation::Link { at, .. }
        | Operation::Remove { at, .. } => check_place(at, objects),
        Operation::Rename { from, to, replaced, .. } => {
            check_place(from, objects)?;
            check_place(to, objects)?;
            replaced.map_or(Ok(()), |ino| check_object(ino, objects))
        }
        Operation::Write { offset, data, .. } => {
            blob(data)?;
            end(*offset, u64::from(u32::MAX))
        }
        Operation::Resize { bytes, .. } => end(0, *bytes),
        Operation::Allocate { offset, bytes, .. } => end(*offset, *bytes),
        Operation::Xattr { name, .. } if name.is_empty() || name.contains(&0) => {
            Err("a name that is none".to_owned())
        }
        Operation::Ack { data, .. } => blob(data),
        _ => Ok(()),
    }
}
