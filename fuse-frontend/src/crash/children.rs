//! Processes that end with the lab: those that it runs, when the user wants no more.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::Failure;

/// Exit code of a program that SIGINT ended, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

/// The processes that run now.
#[derive(Debug, Default)]
pub struct Children {
    running: Mutex<HashSet<u32>>,
    /// A signal has come: this process is about to exit.
    is_ending: AtomicBool,
}

/// A process is watched as long as this lives.
pub(super) struct Watched<'c> {
    children: &'c Children,
    process: u32,
}

impl Children {
    /// Starts a process and watches it. Under the lock: one that was started and not yet known
    /// would outlive a lab that a signal ends just then.
    pub(super) fn start(&self, command: &mut Command) -> std::io::Result<(Child, Watched<'_>)> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_ending.load(Ordering::SeqCst) {
            drop(running);
            self.wait_for_the_end();
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let child = command.spawn()?;
        running.insert(child.id());
        let process = child.id();
        Ok((child, Watched { children: self, process }))
    }

    /// Returns only if no signal has come.
    fn wait_for_the_end(&self) {
        while self.is_ending.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }

    fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for process in running.iter().filter_map(|process| Pid::from_raw(*process as i32)) {
            // A program leads a group; a checker is process 1 of its namespace.
            let _ = kill_process_group(process, Signal::KILL);
            let _ = kill_process(process, Signal::KILL);
        }
    }

    /// Ends everything at SIGINT, SIGTERM or SIGHUP, and removes the scratch directory.
    ///
    /// # Errors
    /// The system has no thread or no signals to spare.
    pub(super) fn end_at_signals(self: &Arc<Self>, scratch: PathBuf) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("cannot watch signals: {error}"));
        let mut signals =
            signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let children = Arc::clone(self);
        let watch = move || {
            if signals.forever().next().is_some() {
                children.end();
                super::lab::take_down(&scratch);
                std::process::exit(EXIT_INTERRUPTED);
            }
        };
        std::thread::Builder::new().name("lanefs-signals".into()).spawn(watch).map_err(failed)?;
        Ok(())
    }
}

/// Has processes whose parents have ended become children of this one.
///
/// # Errors
/// The kernel's.
pub(super) fn adopt_orphans() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Ends all children of this process: what a program has left in the background, which
/// ends as in a power cut. To be called while there are no others.
pub(super) fn end_orphans() {
    for _ in 0..ROUNDS_MAX {
        let children = children_of_all_threads();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill_process(child, Signal::KILL);
            let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::NOHANG);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    tracing::warn!("the program has left processes that do not end");
}

/// Ending a child may make its own children ours.
const ROUNDS_MAX: usize = 500;

fn children_of_all_threads() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let list = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    let lists: Vec<String> = threads.map(list).collect();
    let numbers = lists.iter().flat_map(|list| list.split_whitespace());
    numbers.filter_map(|number| Pid::from_raw(number.parse().ok()?)).collect()
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // Who was waiting for a process that was ended must not go on with that result, and
        // exit with another code first.
        self.children.wait_for_the_end();
        let mut running = self.children.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.process);
    }
}
