//! Threads that may wait for the disk, so that the rings' own threads need not.
//!
//! - The *committer* leads groups while there are any. It is bound to no processor, unlike
//!   the rings' threads: bound ones (one for each queue) save a lone writer the waking of
//!   another processor, and cost many writers more (docs/decisions/0014).
//! - The *pool* carries out requests that may wait, and syncs past a full queue.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::unbounded;
use fs_core::lane::Duty;
use fs_core::platform::linux::LinuxBacking;

use super::queue::{Queue, Ticket, may_this_thread_wait, tell_by_groups};
use super::serve::serve_waiting;
use crate::skin::Skin;
use crate::skin::apart::Apart;

type LinuxDuty = Duty<LinuxBacking>;

/// The pool.
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
    /// Starts `size` threads and the committer, and has the engine give duties to them.
    pub(super) fn start(
        skin: &Arc<Skin>,
        queues: &[Arc<Queue>],
        size: usize,
    ) -> std::io::Result<Self> {
        let (jobs, received) = unbounded::<Job>();
        let apart = Apart::default();
        let mut threads = Vec::with_capacity(size);
        for number in 0..size {
            let (skin, apart) = (Arc::clone(skin), apart.clone());
            let received = received.clone();
            let work = move || {
                while let Ok(job) = received.recv() {
                    match job {
                        Job::Serve(ticket) => serve_waiting(&skin, &apart, ticket),
                        Job::Sync(duty) => duty.run(&mut || {}),
                        Job::End => return,
                    }
                }
            };
            let name = format!("lanefs-pool-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        let committer = start_committer(queues.to_vec())?;
        let (syncs, queues) = (jobs.clone(), queues.to_vec());
        skin.tree.engine().lead_elsewhere(Box::new(move |duty| {
            // A duty that nobody takes any more is done when it is dropped.
            if may_this_thread_wait() {
                tell_by_groups(&queues, |tell| duty.run(tell));
            } else if duty.is_to_lead() {
                drop(committer.send(duty));
            } else {
                drop(syncs.send(Job::Sync(duty)));
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
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().for_each(|_| drop(self.jobs.send(Job::End)));
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn start_committer(queues: Vec<Arc<Queue>>) -> std::io::Result<Sender<LinuxDuty>> {
    let (sender, duties) = channel::<LinuxDuty>();
    let work = move || {
        for duty in duties {
            tell_by_groups(&queues, |tell| duty.run(tell));
        }
    };
    std::thread::Builder::new().name("lanefs-commit".into()).spawn(work)?;
    Ok(sender)
}
