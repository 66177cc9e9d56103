//! The artefact: what is written is read; what is damaged, or made by an enemy, is refused.

use fs_core::crash::artefact::{Artefact, ArtefactError};
use fs_core::crash::law::{Law, Subject};
use fs_core::crash::model;
use fs_core::crash::plan::{Budget, plan};
use fs_core::crash::state::Blocks;
use fs_core::crash::trace::{Ino, Operation, Place};
use proptest::prelude::*;

use super::script::Script;

fn artefact() -> Artefact {
    let mut script = Script::new();
    let g = script.initial("g", b"old content");
    let f = script.create("f");
    script.write(f, 0, b"new content");
    script.fsync(f);
    script.rename(f, "f", "g", Some(g));
    script.resize(f, 3);
    Artefact {
        trace: script.trace,
        check: "test -s g".to_owned(),
        working_directory: b"/tmp".to_vec(),
        findings: Vec::new(),
    }
}

#[test]
fn what_is_written_is_read() {
    let written = artefact();
    let read = Artefact::from_bytes(&written.to_bytes()).expect("our own");
    assert_eq!(read.trace.operations, written.trace.operations);
    assert_eq!(read.trace.initial, written.trace.initial);
    assert_eq!(read.check, written.check);
    assert!(read.trace.blobs.iter().eq(written.trace.blobs.iter()));
}

#[test]
fn any_damage_is_noticed() {
    let bytes = artefact().to_bytes();
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        assert!(Artefact::from_bytes(&damaged).is_err(), "byte {place}");
        assert!(Artefact::from_bytes(&bytes[..place]).is_err(), "the first {place} bytes");
    }
    assert_eq!(Artefact::from_bytes(b"ELF").err(), Some(ArtefactError::NotOurs));
}

// Names become paths of files that are laid out: none may lead out of the directory.
#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    for name in ["..", ".", "", "a/b", "a\0b"] {
        let mut bad = artefact();
        let at = Place { dir: Ino::ROOT, name: name.as_bytes().into() };
        bad.trace.operations[0].operation = match bad.trace.operations[0].operation.clone() {
            Operation::Create { ino, made, .. } => Operation::Create { at, ino, made },
            other => other,
        };
        assert!(Artefact::from_bytes(&bad.to_bytes()).is_err(), "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    // Bytes of any kind behind a good checksum: refused, or good enough to be planned.
    #[test]
    fn no_bytes_make_the_reader_panic(
        at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = artefact().to_bytes();
        let mut contents = bytes[16..].to_vec();
        let at = at.index(contents.len());
        for (place, byte) in contents[at..].iter_mut().zip(&with) {
            *place = *byte;
        }
        let _ = Artefact::from_contents(&contents[..cut.index(contents.len())]);
        let Ok(read) = Artefact::from_contents(&contents) else { return Ok(()) };
        let mut blocks = Blocks::default();
        let subject = Subject::new(&read.trace, &mut blocks);
        let laws = [Law::new(model::by_name("posix-flush").expect("a model"), &subject.log)];
        let budget = Budget { states_max: 50, ..Budget::default() };
        let _ = plan(&subject, &laws, &mut blocks, budget);
    }
}
