//! A sync of what is durable already asks nothing of the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::row::{Requirement, Row, Unit};
use super::{Gate, Lab};
use crate::contest::{Bench, End, Ground};
use crate::filesystem::Filesystem;
use crate::mounted::Mounted;

const FLUSH_TIME: Duration = Duration::from_millis(2);
const SYNCS: u64 = 1000;
/// Longer than the pause between two commits that lanefs makes by itself.
const QUIET: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const STEPS: u64 = 2;

/// 1000 times, for a file and for a directory.
pub(super) fn measure(lab: &mut Lab<'_>) -> Result<(), End> {
    let bench = Bench::in_memory(Filesystem::Ext4, Filesystem::Ext4);
    let bench = bench.map_err(|error| error.to_string())?;
    bench.set_flush_time(FLUSH_TIME);
    let mounted = Mounted::attempt(&bench.lanefs.root(), &lab.options)?;
    let status = mounted.status();
    for (name, make) in [("file", make_file as Make), ("directory", make_directory)] {
        lab.watch.check()?;
        lab.watch.progress.set_message(format!("shared: fsync of an unchanged {name}"));
        let count = |root: &Path, ground: &Ground| {
            requests(make(root), ground).map_err(|error| format!("an unchanged {name}: {error}"))
        };
        let row = Row {
            unit: Unit::DiskRequests,
            bare: Some(count(&bench.bare.root(), &bench.bare)?),
            lanefs: Some(count(mounted.path(), &bench.lanefs)?),
            ..Row::note(Gate::Shared, format!("{SYNCS} x fsync of an unchanged {name}")).of(&status)
        };
        lab.show(&row.judged(Some(Requirement::LanefsMax(0.0))))?;
        lab.watch.progress.inc(1);
    }
    mounted.unmount();
    Ok(())
}

type Make = fn(&Path) -> io::Result<File>;

// Open for writing: it could be changed at any time.
fn make_file(root: &Path) -> io::Result<File> {
    let mut file = File::create(root.join("unchanged"))?;
    file.write_all(b"as it is")?;
    Ok(file)
}

fn make_directory(root: &Path) -> io::Result<File> {
    fs::create_dir(root.join("unchanged.d"))?;
    File::open(root.join("unchanged.d"))
}

// Flushes and writes of the disk during the syncs.
fn requests(object: io::Result<File>, ground: &Ground) -> io::Result<f64> {
    let object = object?;
    object.sync_all()?;
    ground.sync()?;
    if !ground.is_quiet(QUIET, PATIENCE) {
        return Err(io::Error::other("the disk does not come to rest"));
    }
    let before = ground.work();
    (0..SYNCS).try_for_each(|_| object.sync_all())?;
    let after = ground.work();
    Ok((after.flushes - before.flushes + after.writes - before.writes) as f64)
}
