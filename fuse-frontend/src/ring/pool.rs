//! Threads that may wait for the disk, so that the rings' own threads need not.
//!
//! One is the committer: it leads groups while there are any. The others carry out
//! requests that may wait, and syncs past a full queue.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::unbounded;
use fs_core::lane::Duty;
use fs_core::platform::linux::LinuxBacking;

use super::queue::{Queue, Ticket, tell_by_groups};
use super::serve::serve_waiting;
use crate::skin::Skin;

type LinuxDuty = Duty<LinuxBacking>;

/// The threads.
pub(super) struct Pool {
    jobs: crossbeam_channel::Sender<Job>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

enum Job {
    Serve(Ticket),
    Sync(LinuxDuty),
    End,
}

impl Pool {
    /// Starts `size` threads and the committer, and has the engine's groups led by it.
    pub(super) fn start(
        skin: &Arc<Skin>,
        queues: &[Arc<Queue>],
        size: usize,
    ) -> std::io::Result<Self> {
        let (jobs, received) = unbounded::<Job>();
        let mut threads = Vec::with_capacity(size);
        for number in 0..size {
            let (skin, received) = (Arc::clone(skin), received.clone());
            let work = move || {
                while let Ok(job) = received.recv() {
                    match job {
                        Job::Serve(ticket) => serve_waiting(&skin, ticket),
                        Job::Sync(duty) => duty.run(&mut || {}),
                        Job::End => return,
                    }
                }
            };
            let name = format!("lanefs-pool-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        let leading = start_committer(queues.to_vec())?;
        let syncs = jobs.clone();
        skin.tree.engine().lead_elsewhere(Box::new(move |duty| {
            // A duty that nobody takes any more is done when it is dropped.
            if duty.is_to_lead() {
                let _ = leading.send(duty);
            } else {
                let _ = syncs.send(Job::Sync(duty));
            }
        }));
        Ok(Self { jobs, threads: Mutex::new(threads) })
    }

    /// Has a request carried out.
    pub(super) fn serve(&self, ticket: Ticket) {
        let _ = self.jobs.send(Job::Serve(ticket));
    }

    /// Ends the threads when they have done what they were given. The committer ends
    /// with the engine, which flushes yet.
    pub(super) fn end(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.iter().for_each(|_| drop(self.jobs.send(Job::End)));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn start_committer(queues: Vec<Arc<Queue>>) -> std::io::Result<Sender<LinuxDuty>> {
    let (leading, duties): (_, Receiver<LinuxDuty>) = channel();
    let work = move || {
        for duty in duties {
            tell_by_groups(&queues, |tell| duty.run(tell));
        }
    };
    std::thread::Builder::new().name("lanefs-commit".into()).spawn(work)?;
    Ok(leading)
}
