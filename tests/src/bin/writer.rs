//! A process in a container that syncs in a loop, for a while that somebody else decides.
//!
//! `writer CONTROL NAME` waits for orders in the directory CONTROL. The file `N.go` (N from 0 up)
//! holds a line `overwrite`, `append`, `replace`, `create` or `deliver` and a directory; it is obeyed until
//! `N.stop` is there. Then `N.NAME.count` gets how many syncs were answered. The file `end` ends it.

//!
//! `writer count DIRECTORY` counts in the file `n` for ever: each number replaces the one before,
//! crash-safe, and then is said. The first error ends it.

use std::fs::{self, File};
use std::io::{self, Error, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const COUNT_INTERVAL: Duration = Duration::from_millis(10);
/// Of the file that is overwritten, as a database overwrites its write-ahead log.
const PAGES: u64 = 64;
const PAGE_BYTES: usize = 4096;
/// A line of a journal.
const LINE_BYTES: usize = 100;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [control, name] = words.as_slice() else { return Err(Error::other("CONTROL NAME")) };
    if control == "count" {
        return count_for_ever(Path::new(name));
    }
    let control = Path::new(control);
    fs::write(control.join(format!("{name}.ready")), "")?;
    for number in 0.. {
        let order = loop {
            if let Ok(order) = fs::read_to_string(control.join(format!("{number}.go"))) {
                break order;
            }
            if control.join("end").exists() {
                return Ok(());
            }
            sleep(LOOK_INTERVAL);
        };
        let stop = control.join(format!("{number}.stop"));
        let count = obey(order.trim(), name, || stop.exists())?;
        // By another name first: whoever reads it reads all of it.
        let (new, done) = (format!("{number}.{name}.new"), format!("{number}.{name}.count"));
        fs::write(control.join(&new), count.to_string())?;
        fs::rename(control.join(new), control.join(done))?;
    }
    Ok(())
}

fn count_for_ever(place: &Path) -> io::Result<()> {
    let text = fs::read_to_string(place.join("n")).unwrap_or_default();
    let first: u64 = text.trim().parse().unwrap_or(0);
    let directory = File::open(place)?;
    for number in first + 1.. {
        let mut file = File::create(place.join("new"))?;
        file.write_all(number.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(place.join("new"), place.join("n"))?;
        directory.sync_all()?;
        println!("{number}");
        sleep(COUNT_INTERVAL);
    }
    Ok(())
}

fn obey(order: &str, name: &str, stop: impl Fn() -> bool) -> io::Result<u64> {
    let (kind, directory) = order.split_once(' ').ok_or_else(|| Error::other("no order"))?;
    let path = Path::new(directory).join(kind);
    let mut count = 0;
    match kind {
        "overwrite" => {
            let file = File::create(path)?;
            file.write_all_at(&vec![1; PAGE_BYTES * PAGES as usize], 0)?;
            file.sync_all()?;
            while !stop() {
                file.write_all_at(&[count as u8; PAGE_BYTES], count % PAGES * PAGE_BYTES as u64)?;
                file.sync_data()?;
                count += 1;
            }
        }
        "append" => {
            let mut file = File::create(path)?;
            while !stop() {
                file.write_all(&[b'x'; LINE_BYTES])?;
                file.sync_data()?;
                count += 1;
            }
        }
        "replace" => {
            fs::create_dir_all(&path)?;
            let directory = File::open(&path)?;
            while !stop() {
                let mut file = File::create(path.join("new"))?;
                file.write_all(&[b'x'; LINE_BYTES])?;
                file.sync_all()?;
                fs::rename(path.join("new"), path.join("file"))?;
                directory.sync_all()?;
                count += 2;
            }
        }
        "create" => {
            fs::create_dir_all(&path)?;
            let directory = File::open(&path)?;
            while !stop() {
                let mut file = File::create(path.join(count.to_string()))?;
                file.write_all(&[b'x'; LINE_BYTES])?;
                file.sync_all()?;
                directory.sync_all()?;
                count += 2;
            }
            // The next order finds an empty one.
            fs::remove_dir_all(&path)?;
        }
        // Into a directory that all writers share, as mail is delivered; the files stay.
        "deliver" => {
            let directory = File::open(directory)?;
            while !stop() {
                let path = path.with_file_name(format!("{name}-{}", count / 2));
                let mut file = File::create(path)?;
                file.write_all(&[b'x'; LINE_BYTES])?;
                file.sync_all()?;
                directory.sync_all()?;
                count += 2;
            }
        }
        _ => return Err(Error::other("no such order")),
    }
    Ok(count)
}
