//! Way 5 to lose data: a damaged group in the middle of the log is not its end.

use super::*;

/// Four files, each synced by a group of its own, and none of it in the journal.
fn written() -> SimBacking {
    let lab = Lab::new();
    for text in ["a", "b", "c", "d"] {
        let (_, file) = lab.create(text);
        lab.write(file, 0, &[7; 5000]);
        assert_eq!(lab.sync(file), Ok(()));
    }
    // As little of the metadata as possible.
    (0..1000)
        .map(|seed| lab.backing.crash(seed))
        .find(|crashed| content(crashed, "a").is_none())
        .expect("a power cut may take all that no journal commit has covered")
}

fn log(backing: &SimBacking) -> SimLog {
    let root = backing.root().expect("a root").object;
    let home = backing.lookup(&root, name(HOME_NAME)).expect("a home").object;
    backing.open_log(&home, name("log")).expect("a log")
}

/// Spoils these groups, of four.
fn spoil(backing: &SimBacking, groups: std::ops::Range<usize>) {
    let log = log(backing);
    let superblock = read_superblock(&log).expect("a superblock");
    let contents = scan(&log, &superblock).expect("a good log");
    assert_eq!(contents.groups.len(), 4);
    let mut zeros = LogBuffer::new();
    zeros.grow(LOG_BLOCK_BYTES);
    for group in &contents.groups[groups] {
        log.write(&zeros, group.offset).expect("a write");
    }
    log.flush().expect("a flush");
}

#[test]
fn a_good_log_brings_everything_back() {
    let disk = written();
    recover(&disk, None, &mut |_| {}).expect("a recovery");
    assert_eq!(content(&disk, "d"), Some(vec![7; 5000]));
}

#[test]
fn damage_is_refused_and_nothing_changed() {
    let disk = written();
    spoil(&disk, 1..2);
    let before = Walk::of(&disk, true).text;
    let refused = recover(&disk, None, &mut |_| {});
    let damaged = matches!(refused, Err(OpenLogError::Log(LogError::Damaged { .. })));
    assert!(damaged, "{refused:?}");
    assert_eq!(Walk::of(&disk, true).text, before);
    // Nothing is lost by trying again.
    assert!(recover(&disk, None, &mut |_| {}).is_err());
}

/// What a reader that takes damage for the end would see, and what that loses.
#[test]
fn damage_taken_for_the_end_is_a_loss() {
    let disk = written();
    spoil(&disk, 1..4);
    recover(&disk, None, &mut |_| {}).expect("a recovery");
    assert_eq!(content(&disk, "a"), Some(vec![7; 5000]));
    assert_eq!(content(&disk, "d"), None, "it had been synced");
}
