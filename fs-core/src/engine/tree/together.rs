//! New files put in place of others, and names removed, one after another as one change:
//! what the batches of the library are made of.
//!
//! With a log a power cut leaves all of such a change or nothing of it
//! ([`crate::log::together`]). Without one its parts are applied in order, and a power
//! cut leaves what the backing filesystem keeps.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::describe::{self, nothing};
use super::{FileId, OpenFile, Tree};
use crate::engine::nodes::{Node, NodeId};
use crate::engine::{DirId, Lsn};
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::lane::Completion;
use crate::log::Log;
use crate::log::record::Change;
use crate::log::together::{Step, Together};
use crate::log::tracked::Tracked;
use crate::platform::{Backing, Found, ObjectKey, RenameMode};
use crate::types::{Caller, FileKind, SyncKind};

/// A change of one name.
#[derive(Debug, Clone)]
pub enum NameChange {
    /// A new file gets a name, in place of the file that has it, if one has.
    Replace {
        /// The new file, open for writing and written back
        /// ([`Tree::write_back`]): its content becomes durable with the name. `None` if
        /// it is durable already.
        file: Option<FileId>,
        /// The directory of both names.
        dir: NodeId,
        /// The name that the new file has.
        temporary: OsString,
        /// The name that it gets.
        name: OsString,
    },
    /// A name that is not a directory's is removed. It may be gone already.
    Remove {
        /// The directory.
        dir: NodeId,
        /// The name in it.
        name: OsString,
    },
}

impl NameChange {
    const fn dir(&self) -> NodeId {
        match self {
            Self::Replace { dir, .. } | Self::Remove { dir, .. } => *dir,
        }
    }

    fn name(&self) -> &OsStr {
        match self {
            Self::Replace { name, .. } | Self::Remove { name, .. } => name,
        }
    }
}

/// What [`Tree::change_names`] did.
#[derive(Debug)]
pub struct NamesChanged {
    /// How many changes were made: the first so many.
    pub done: usize,
    /// Why the next one was not, if one was not.
    pub result: Result<()>,
    /// The directories of those that were made.
    dirs: Vec<NodeId>,
    /// Number of the last one.
    lsn: Lsn,
}

/// A sync request, and who is told of its result.
pub type SyncOrder<B> = (SyncRequest<B>, Completion);

/// A change, looked at before it is made.
struct Planned {
    index: usize,
    change: Change,
    /// What the name stands for that is to be removed.
    victim: Option<ObjectKey>,
}

impl<B: Backing> Tree<B> {
    /// Makes changes of names, one after another, and ends with the first that fails.
    /// Nothing is durable by it: see [`Self::orders_for_names`].
    ///
    /// # Errors
    /// Nothing was done.
    pub fn change_names(&self, changes: &[NameChange]) -> Result<NamesChanged> {
        for change in changes {
            self.check_name(&*self.nodes.get(change.dir())?, change.name(), Errno::PERM)?;
        }
        match &self.engine.log {
            Some(log) => self.change_names_by_log(log, changes),
            None => Ok(self.change_names_in_order(changes)),
        }
    }

    /// What is to be submitted so that changes of names become durable; `done` is called
    /// when all of it is.
    pub fn orders_for_names(&self, changed: &NamesChanged, done: Completion) -> Vec<SyncOrder<B>> {
        if self.engine.log.is_some() {
            let through = Some(changed.lsn);
            return vec![(SyncRequest { through, ..SyncRequest::everything() }, done)];
        }
        let all = Countdown::new(changed.dirs.len(), done);
        let mut orders = Vec::new();
        for &dir in &changed.dirs {
            match self.order_for_dir(dir) {
                Ok(Some((request, note))) => {
                    let all = Arc::clone(&all);
                    orders.push((request, Box::new(move |result| all.one(note(result))) as _));
                }
                Ok(None) => {
                    self.engine.lanes.count_skipped();
                    all.one(Ok(()));
                }
                Err(error) => all.one(Err(error)),
            }
        }
        orders
    }

    /// What is to be submitted so that a directory's names become durable, whoever changed
    /// them; with a log, everything done so far.
    pub fn orders_for_dir(&self, dir: NodeId, done: Completion) -> Vec<SyncOrder<B>> {
        let lsn = self.engine.log.as_ref().map_or(0, |log| log.last_lsn());
        let changed = NamesChanged { done: 0, result: Ok(()), dirs: vec![dir], lsn };
        self.orders_for_names(&changed, done)
    }

    /// What is to be submitted so that an open file becomes durable; `None` if `done` was
    /// called with an error instead.
    pub fn order_for_file(
        &self,
        caller: Caller,
        file: FileId,
        kind: SyncKind,
        done: Completion,
    ) -> Option<SyncOrder<B>> {
        match self.sync_request(caller, file, kind) {
            // No kernel keeps a library's file locked meanwhile.
            Ok(request) => Some((SyncRequest { keeps_others_out: false, ..request }, done)),
            Err(error) => {
                done(Err(error));
                None
            }
        }
    }

    /// Submits sync requests, which leave together as far as a group has room. The
    /// calling thread may have to carry them, but no longer than until they are answered;
    /// with `waits` it returns then.
    pub fn submit(&self, caller: Caller, orders: Vec<SyncOrder<B>>, waits: bool) {
        self.engine.submit_own(u64::from(caller.thread), orders, waits);
    }

    /// As [`Self::submit`] from a thread that leads as long as anything is pending: a
    /// worker of a front-end.
    pub fn submit_as_worker(&self, caller: Caller, orders: Vec<SyncOrder<B>>) {
        self.engine.lanes.submit_own(u64::from(caller.thread), orders, false, &|| false);
    }

    /// Makes all that was written back durable where it is, without the lanes: for more
    /// content than should wait for a group.
    pub fn commit_in_place(&self) -> Result<()> {
        match &self.engine.log {
            Some(log) => log.commit_in_place(),
            None => self.backing.sync_all(),
        }
    }

    // ---- without a log ----

    fn change_names_in_order(&self, changes: &[NameChange]) -> NamesChanged {
        let mut changed = NamesChanged { done: 0, result: Ok(()), dirs: Vec::new(), lsn: 0 };
        for change in changes {
            match self.change_name(change) {
                Ok(lsn) => changed.lsn = lsn,
                Err(error) => {
                    changed.result = Err(error);
                    break;
                }
            }
            changed.done += 1;
        }
        changed.dirs = dirs_of(&changes[..changed.done]);
        changed
    }

    fn change_name(&self, change: &NameChange) -> Result<Lsn> {
        let node = self.nodes.get(change.dir())?;
        let apply = || self.apply_name(&node, change).map(drop);
        Ok(self.change_numbered(&[&node], nothing, apply, |_, _, (), _| {})?.1)
    }

    /// Carries a change out; gives what the name stood for.
    fn apply_name(&self, dir: &Node<B>, change: &NameChange) -> Result<Option<Found<B>>> {
        let victim = self.victim(dir, change.name())?;
        if victim.as_ref().is_some_and(|found| found.attr.kind == FileKind::Directory) {
            return Err(Errno::ISDIR);
        }
        self.keeping(victim.as_ref(), || match change {
            NameChange::Replace { temporary, name, .. } => {
                let (from, to) = ((&dir.object, &**temporary), (&dir.object, &**name));
                self.backing.rename(from, to, RenameMode::default())
            }
            NameChange::Remove { name, .. } => match self.backing.unlink(&dir.object, name) {
                Err(Errno::NOENT) => Ok(()),
                other => other,
            },
        })?;
        Ok(victim)
    }

    fn order_for_dir(&self, dir: NodeId) -> Result<Option<(SyncRequest<B>, Note)>> {
        let open: DirId = self.open_dir(dir)?;
        let order = self.dirs.get(open.0).and_then(|open| self.dir_order(&open));
        self.release_dir(open);
        Ok(order?.map(|(target, note)| (SyncRequest::from(target), note)))
    }

    // ---- with a log ----

    fn change_names_by_log(&self, log: &Log<B>, changes: &[NameChange]) -> Result<NamesChanged> {
        let joined = changes.iter().map(|change| self.content_of(log, change));
        let joined = joined.collect::<Result<Vec<_>>>()?;
        loop {
            let planned = self.plan_names(changes)?;
            let records: Vec<_> = planned.iter().map(|plan| plan.change.clone()).collect();
            let prepared = log.prepare_together(&records)?;
            let mut gone = Vec::new();
            let is_as_planned = || planned.iter().all(|plan| self.is_as_planned(changes, plan));
            let applied = log.apply_together(prepared, planned.len(), is_as_planned, |at| {
                let Planned { index, change, .. } = &planned[at];
                let dir = self.nodes.get(changes[*index].dir())?;
                let old = self.apply_name(&dir, &changes[*index])?;
                let mut change = change.clone();
                if let Change::Rename { displaced, .. } = &mut change {
                    *displaced = old.as_ref().map(|found| found.key.portable());
                }
                gone.extend(old);
                Ok(Step { change, joined: joined[*index].clone() })
            })?;
            // Somebody else has changed a name meanwhile: it is looked at again.
            let Some(applied) = applied else { continue };
            gone.iter().for_each(|found| self.forget_removed(Some(found)));
            self.last_change.fetch_max(applied.lsn, Ordering::AcqRel);
            if applied.is_overdue {
                self.engine.submit_overdue();
            }
            let Together { done, result } = applied.value;
            let done = planned.get(done).map_or(changes.len(), |plan| plan.index);
            return Ok(NamesChanged { done, result, dirs: Vec::new(), lsn: applied.lsn });
        }
    }

    /// The file whose content becomes durable with the change, ready to be read by the log.
    fn content_of(&self, log: &Log<B>, change: &NameChange) -> Result<Option<Arc<Tracked<B>>>> {
        let NameChange::Replace { file: Some(file), .. } = change else { return Ok(None) };
        let open: Arc<OpenFile<B>> = self.files.get(file.0)?;
        let (tracked, file) = open.tracked.as_ref().zip(open.file.get()).ok_or(Errno::BADF)?;
        if open.mode.read && open.mode.no_atime {
            tracked.lend_reader(file);
        } else {
            log.reader(tracked, &open.node.object)?;
        }
        Ok(Some(Arc::clone(tracked)))
    }

    /// What will be done, by the objects that the names stand for now, except those that
    /// new files take the place of. What is to be removed and is gone is left out.
    fn plan_names(&self, changes: &[NameChange]) -> Result<Vec<Planned>> {
        let mut planned = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            let dir = self.nodes.get(change.dir())?;
            let (change, victim) = match change {
                NameChange::Replace { file, temporary, name, .. } => {
                    let moved = match file {
                        Some(file) => self.files.get(file.0)?.node.key(),
                        None => self.backing.lookup(&dir.object, temporary)?.key,
                    };
                    let names = ((dir.key(), &**temporary), (dir.key(), &**name));
                    (describe::renamed(names, moved, None, RenameMode::default()), None)
                }
                NameChange::Remove { name, .. } => {
                    let Some(old) = self.victim(&dir, name)? else { continue };
                    (describe::removed(dir.key(), name, &old, false), Some(old.key))
                }
            };
            planned.push(Planned { index, change, victim });
        }
        Ok(planned)
    }

    /// Whether the records that were made still say what will be done. What a new file
    /// takes the place of is seen when it does: recovery follows names by it, but only
    /// those of objects that were made behind the marker. A batch that is found without
    /// its group has none of them: all that was done before it is in front of the marker.
    fn is_as_planned(&self, changes: &[NameChange], plan: &Planned) -> bool {
        let NameChange::Remove { dir, name } = &changes[plan.index] else { return true };
        let found = self.nodes.get(*dir).and_then(|dir| self.victim(&dir, name));
        found.is_ok_and(|found| found.map(|found| found.key) == plan.victim)
    }
}

type Note = Box<dyn FnOnce(Result<()>) -> Result<()> + Send>;

/// Each directory once.
fn dirs_of(changes: &[NameChange]) -> Vec<NodeId> {
    let mut dirs: Vec<_> = changes.iter().map(NameChange::dir).collect();
    dirs.sort_unstable();
    dirs.dedup();
    dirs
}

/// Calls a completion when a number of syncs are done, with the first error.
struct Countdown(Mutex<(usize, Result<()>, Option<Completion>)>);

impl Countdown {
    fn new(left: usize, done: Completion) -> Arc<Self> {
        let done = if left == 0 {
            done(Ok(()));
            None
        } else {
            Some(done)
        };
        Arc::new(Self(Mutex::new((left, Ok(()), done))))
    }

    fn one(&self, result: Result<()>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        state.1 = state.1.and(result);
        let (left, all) = (state.0, state.1);
        let done = if left == 0 { state.2.take() } else { None };
        drop(state);
        if let Some(done) = done {
            done(all);
        }
    }
}
