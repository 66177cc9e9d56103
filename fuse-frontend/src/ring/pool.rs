//! Threads that may wait for the disk, so that the rings' own threads need not.
//!
//! - A *committer* for each queue leads groups when a request of that queue makes it
//!   necessary. It is bound to the queue's processor: the ring's thread, which has
//!   nothing else to do then, and the committer change places without a word to another
//!   processor. (Waking an idle one costs more than a fast device's flush.)
//! - The *pool* carries out requests that may wait, and syncs past a full queue.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::unbounded;
use fs_core::lane::Duty;
use fs_core::platform::linux::LinuxBacking;

use super::queue::{Queue, Ticket, own_queue, tell_by_groups};
use super::serve::serve_waiting;
use super::thread::pin;
use crate::skin::Skin;

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
    /// Starts `size` threads and the committers, and has the engine give duties to them.
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
        let committers: Vec<_> =
            queues.iter().map(|queue| start_committer(queue, queues)).collect::<Result<_, _>>()?;
        let (syncs, queues) = (jobs.clone(), queues.to_vec());
        skin.tree.engine().lead_elsewhere(Box::new(move |duty| {
            // A duty that nobody takes any more is done when it is dropped.
            match own_queue() {
                Some(number) if duty.is_to_lead() => {
                    drop(committers[usize::from(number)].send(duty));
                }
                Some(_) => drop(syncs.send(Job::Sync(duty))),
                // A thread that may wait.
                None => tell_by_groups(&queues, |tell| duty.run(tell)),
            }
        }));
        Ok(Self { jobs, threads: Mutex::new(threads) })
    }

    /// Has a request carried out.
    pub(super) fn serve(&self, ticket: Ticket) {
        let _ = self.jobs.send(Job::Serve(ticket));
    }

    /// Ends the threads when they have done what they were given. The committers end
    /// with the engine, which flushes yet.
    pub(super) fn end(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().for_each(|_| drop(self.jobs.send(Job::End)));
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn start_committer(queue: &Queue, queues: &[Arc<Queue>]) -> std::io::Result<Sender<LinuxDuty>> {
    let (sender, duties) = channel::<LinuxDuty>();
    let (processor, queues) = (queue.number(), queues.to_vec());
    let work = move || {
        pin(processor);
        for duty in duties {
            tell_by_groups(&queues, |tell| duty.run(tell));
        }
    };
    let name = format!("lanefs-commit-{processor}");
    std::thread::Builder::new().name(name).spawn(work)?;
    Ok(sender)
}
