//! Locks between processes: whole files (flock) and ranges (fcntl).

use std::fs;

use crate::transcript::{root_actor, same_on_both};

#[test]
fn whole_files() {
    same_on_both(|directory, transcript| {
        fs::write(directory.join("file"), "x").expect("a file");
        fs::hard_link(directory.join("file"), directory.join("link")).expect("a link");
        let (mut one, mut two) = (root_actor(), root_actor());
        transcript.ask(&mut one, directory, "flock @file shared");
        transcript.ask(&mut two, directory, "flock @file shared");
        transcript.ask(&mut two, directory, "flock @file exclusive");
        transcript.ask(&mut one, directory, "flock @file unlock");
        transcript.ask(&mut two, directory, "flock @file exclusive");
        transcript.ask(&mut one, directory, "flock @file shared");
        // By another name it is the same file.
        transcript.ask(&mut one, directory, "flock @link shared");
        transcript.ask(&mut two, directory, "close @file");
        transcript.ask(&mut one, directory, "flock @link exclusive");
        transcript.ask(&mut two, directory, "flock @file exclusive");
        // The end of a process ends its locks.
        drop(one);
        transcript.ask(&mut two, directory, "flock @file exclusive");
    });
}

#[test]
fn ranges() {
    same_on_both(|directory, transcript| {
        fs::write(directory.join("file"), "x").expect("a file");
        let (mut one, mut two) = (root_actor(), root_actor());
        transcript.ask(&mut one, directory, "record @file write 0 10");
        transcript.ask(&mut two, directory, "record @file write 10 10");
        transcript.ask(&mut two, directory, "record @file read 5 1");
        transcript.ask(&mut one, directory, "record @file read 0 5");
        transcript.ask(&mut two, directory, "record @file read 0 5");
        transcript.ask(&mut two, directory, "record @file write 0 5");
        transcript.ask(&mut one, directory, "record @file unlock 3 4");
        transcript.ask(&mut two, directory, "record @file write 5 2");
        // Who stands in the way, and where: the kernel names the process.
        let order = format!("conflict {}/file write 0 0", directory.display());
        let first = one.pid().to_string();
        transcript.note("conflict", two.ask(&order).replace(&first, "the first actor"));
        // To the end of the file, however long it becomes.
        transcript.ask(&mut one, directory, "record @file write 1000000 0");
        transcript.ask(&mut two, directory, "record @file write 99999999 1");
        // Closing any descriptor of the file ends a process's range locks: POSIX, alas.
        transcript.ask(&mut one, directory, "read @file");
        transcript.ask(&mut two, directory, "record @file write 99999999 1");
        // Range locks and whole-file locks know nothing of each other.
        transcript.ask(&mut one, directory, "flock @file exclusive");
        drop(two);
        transcript.ask(&mut one, directory, "conflict @file write 0 0");
    });
}
