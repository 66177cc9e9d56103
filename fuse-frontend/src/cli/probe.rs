//! `lanefs probe`: what a flush costs here, and what lanefs would do about it.

use std::ffi::OsStr;
use std::time::Duration;

use fs_core::log::inline_bytes_for;
use fs_core::log::probe::{self, ProbeFigures};
use fs_core::platform::linux::{BackingOptions, LinuxBacking};
use fs_core::platform::{Backing, LogStore};
use serde_json::json;

use super::ProbeArgs;
use super::table::{print, row, table};
use crate::failure::Failure;

/// Size of the file that is written and removed again.
const PROBE_BYTES: u64 = 8 << 20;
const PROBE_TIME_MAX: Duration = Duration::from_millis(500);

pub(super) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let shown = args.dir.display();
    let backing = LinuxBacking::open(&args.dir, BackingOptions::default())
        .map_err(|error| Failure::new(error.to_string()))?;
    let figures = measure(&backing)
        .map_err(|error| Failure::new(format!("cannot measure {shown}: {error}")))?;
    let choice = choice(&backing);
    // A segment of the default log.
    let inline = inline_bytes_for(&figures, 4 << 20);
    let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    if args.json {
        let json = json!({
            "directory": args.dir,
            "filesystem": backing.filesystem_name(),
            "flush_us": us(figures.flush),
            "flush_us_p99": us(figures.flush_p99),
            "write_4k_us": us(figures.write_4k),
            "bandwidth_bytes_per_s": figures.bandwidth_bytes_per_s.round(),
            "inline_bytes_max": inline,
            "fence": choice.0,
            "reason": choice.1,
        });
        return print(&format!("{json}\n"));
    }
    let mb = figures.bandwidth_bytes_per_s / 1e6;
    print(&format!(
        "{}\nfence=auto would choose: {}, because {}.\n",
        table(&[
            row([&"filesystem", &backing.filesystem_name()]),
            row([
                &"flush",
                &format!("{} us (p99 {} us)", us(figures.flush), us(figures.flush_p99))
            ]),
            row([&"write of 4 KiB", &format!("{} us", us(figures.write_4k))]),
            row([&"bandwidth", &format!("{mb:.0} MB/s")]),
            row([
                &"new content of a file up to",
                &format!("{} KiB goes through the log", inline >> 10)
            ]),
        ]),
        choice.0,
        choice.1
    ))
}

fn choice(backing: &LinuxBacking) -> (&'static str, String) {
    if let Some(obstacle) = backing.log_obstacle() {
        return ("backing", obstacle);
    }
    ("log", "it saves one of two flushes, and joins those of all programs".to_owned())
}

/// Measures a file that is removed again, also if measuring fails.
fn measure(backing: &LinuxBacking) -> fs_core::error::Result<ProbeFigures> {
    let root = backing.root()?.object;
    let name = format!(".lanefs-probe-{}", std::process::id());
    let name = OsStr::new(&name);
    let store = backing.make_log(&root, name, PROBE_BYTES, &mut |_| {})?;
    let figures = probe::measure(&store, 0..store.bytes(), PROBE_TIME_MAX);
    drop(store);
    backing.unlink(&root, name)?;
    figures
}
