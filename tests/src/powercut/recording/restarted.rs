//! The daemon is replaced by `lanefs restart` again and again while the workload runs: nothing fails,
//! and every promise holds over a power cut at any moment, those between two daemons included.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Events, Stage};
use crate::binary;
use crate::powercut::daemon::Daemon;
use crate::powercut::notes::Notes;
use crate::powercut::snapshot::Snapshot;
use crate::powercut::workload::Parts;

/// Between two restarts: programs must come to something, too.
const BETWEEN: Duration = Duration::from_millis(60);

pub fn run(
    stage: &Stage,
    options: &str,
    workload: &Parts,
    notes: &Notes<'_>,
) -> Result<Events, String> {
    let options = format!("{options},transport=classic");
    let daemon = Daemon::mount(&stage.tree, &options)?;
    let ended = AtomicBool::new(false);
    let (outcome, restarts) = thread::scope(|scope| {
        let restarts = scope.spawn(|| restart_until(daemon.path(), &ended));
        let outcome = workload.run(0, &stage.place(daemon.path()), notes);
        ended.store(true, Ordering::Relaxed);
        (outcome, restarts.join().expect("it does not panic"))
    });
    let restarts = restarts?;
    outcome.map_err(|error| format!("the workload failed under {restarts} restarts: {error}"))?;
    let seen = Snapshot::take(daemon.path()).map_err(|error| format!("looking at it: {error}"))?;
    daemon.unmount()?;
    Ok(Events {
        last_exact: vec![(String::new(), Arc::new(seen))],
        story: vec![format!("the daemon was replaced {restarts} times")],
        ..Events::default()
    })
}

/// Restarts at least once.
fn restart_until(mount_point: &Path, ended: &AtomicBool) -> Result<usize, String> {
    let mut restarts = 0;
    loop {
        let output = Command::new(binary::lanefs()).arg("restart").arg(mount_point).output();
        let output = output.map_err(|error| format!("lanefs restart: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("lanefs restart after {restarts}: {}", said.trim()));
        }
        restarts += 1;
        if ended.load(Ordering::Relaxed) {
            return Ok(restarts);
        }
        thread::sleep(BETWEEN);
    }
}
