//! `lanefs bench`: how fast files are replaced crash-safely in a directory.

use std::fs::File;
use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::arguments::BenchArgs;
use crate::failure::Failure;
use crate::table::{print, row, table};

/// What all writers did.
struct Tally {
    /// How long each replace took, in order.
    took: Vec<Duration>,
    elapsed: Duration,
}

impl Tally {
    fn us(&self, part: f64) -> f64 {
        let at = ((self.took.len() as f64 * part) as usize).min(self.took.len().saturating_sub(1));
        self.took.get(at).map_or(0.0, |took| (took.as_secs_f64() * 1e7).round() / 10.0)
    }

    fn per_s(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Runs the command.
///
/// # Errors
/// A file cannot be made, written, synced or renamed in the directory.
pub fn run(args: &BenchArgs) -> std::result::Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot replace files in {}: {error}", args.dir.display()))
    };
    let place = args.dir.join(format!(".lanefs-bench-{}", std::process::id()));
    std::fs::create_dir(&place).map_err(failed)?;
    let measured = measure(args, &place);
    let removed = std::fs::remove_dir_all(&place);
    let tally = measured.map_err(failed)?;
    removed.map_err(failed)?;
    let (rate, median, late) = (tally.per_s(), tally.us(0.5), tally.us(0.99));
    if args.json {
        let json = json!({
            "directory": args.dir,
            "writers": args.writers,
            "bytes": args.bytes,
            "seconds": tally.elapsed.as_secs_f64(),
            "replaces": tally.took.len(),
            "replaces_per_s": rate,
            "replace_us_p50": median,
            "replace_us_p99": late,
        });
        return print(&format!("{json}\n"));
    }
    print(&table(&[
        row([&"writers, bytes of a file", &format!("{}, {}", args.writers, args.bytes)]),
        row([&"replaces", &tally.took.len()]),
        row([&"replaces/s", &format!("{rate:.0}")]),
        row([&"one takes, p50 / p99", &format!("{median:.0} us / {late:.0} us")]),
    ]))
}

fn measure(args: &BenchArgs, place: &Path) -> Result<Tally> {
    let content = vec![0x5a; args.bytes as usize];
    let start = Instant::now();
    let deadline = start + Duration::from_secs(u64::from(args.seconds));
    let results: Vec<Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let writer = |number: u16| {
            let (content, dir) = (&content, place.join(number.to_string()));
            scope.spawn(move || write(&dir, content, deadline))
        };
        let writers: Vec<_> = (0..args.writers).map(writer).collect();
        let join = |writer: std::thread::ScopedJoinHandle<'_, _>| {
            writer.join().unwrap_or_else(|_| Err(std::io::Error::other("a writer panicked")))
        };
        writers.into_iter().map(join).collect()
    });
    let elapsed = start.elapsed();
    let mut took = Vec::new();
    for result in results {
        took.extend(result?);
    }
    took.sort_unstable();
    Ok(Tally { took, elapsed })
}

/// One writer, in a directory of its own.
fn write(dir: &PathBuf, content: &[u8], deadline: Instant) -> Result<Vec<Duration>> {
    std::fs::create_dir(dir)?;
    let (temporary, name) = (dir.join("new"), dir.join("file"));
    let mut took = Vec::new();
    // One at least, however slow the disk is.
    while took.is_empty() || Instant::now() < deadline {
        let start = Instant::now();
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&temporary, &name)?;
        // Windows opens no directory this way, and has no call for programs that syncs one.
        if let Ok(dir) = File::open(dir) {
            dir.sync_all()?;
        }
        took.push(start.elapsed());
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_replaces_and_nothing_is_left() {
        let place = std::env::temp_dir().join(format!("lanefs-bench-test-{}", std::process::id()));
        std::fs::create_dir(&place).expect("a scratch directory");
        let args = BenchArgs { dir: place.clone(), writers: 3, seconds: 1, bytes: 100, json: true };
        let tally = {
            let below = place.join("x");
            std::fs::create_dir(&below).expect("a directory");
            let tally = measure(&args, &below).expect("a measurement");
            std::fs::remove_dir_all(&below).expect("it goes");
            tally
        };
        assert!(tally.took.len() >= 3, "{}", tally.took.len());
        assert!(tally.us(0.5) <= tally.us(0.99) && tally.per_s() > 0.0);
        run(&args).expect("it runs");
        let left = std::fs::read_dir(&place).expect("the directory").count();
        assert_eq!(left, 0);
        std::fs::remove_dir(&place).expect("it is empty");
    }
}
