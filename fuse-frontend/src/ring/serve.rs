//! From a decoded request to its answer: one call each.
//!
//! `allow_other` is not judged here: the kernel does not let anybody else in
//! (`fuse_permissible_uidgid`).

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fs_core::engine::{Deed, DirId, Entry, FileId, NodeId, Owed, Tree};
use fs_core::error::{Errno, Result};
use fs_core::platform::RenameMode;
use fs_core::platform::linux::LinuxBacking;
use fs_core::types::Caller;

use super::decode::{Request, decode};
use super::queue::Ticket;
use crate::skin::apart::Apart;
use crate::skin::wire::Body;
use crate::skin::{Fitted, Skin, convert, fit};

/// Answers a request from the kernel, now or when its group is durable; gives it back if
/// that might wait for the disk, for [`serve_waiting`] on another thread.
#[must_use = "a request that is given back is not answered"]
pub(super) fn serve(skin: &Arc<Skin>, ticket: Ticket) -> Option<Ticket> {
    fenced(ticket, |ticket| {
        let request = match decode(ticket.opcode(), ticket.op_in(), ticket.payload()) {
            Ok(request) => request,
            Err(error) => {
                ticket.answer(Err(error));
                return None;
            }
        };
        skin.count(request.op());
        let waits = match request {
            Request::Release { file } => skin.tree.release_may_wait(file),
            ref request => request.may_wait(),
        };
        if waits {
            return Some(ticket);
        }
        let renamed = try_rename(skin, &ticket, &request, Tree::rename_without_waiting);
        finish(skin, ticket, renamed)
    })
}

/// Answers a request that may wait for the disk, by a thread of its own if it waits for a
/// large file: others wait for the pool.
pub(super) fn serve_waiting(skin: &Arc<Skin>, apart: &Apart, ticket: Ticket) {
    let takes_long = fenced(ticket, |ticket| {
        let request = match decode(ticket.opcode(), ticket.op_in(), ticket.payload()) {
            Ok(request) => request,
            Err(error) => {
                ticket.answer(Err(error));
                return None;
            }
        };
        let takes_long = match request {
            Request::Release { file } => skin.tree.release_takes_long(file),
            ref request => request.cuts() && skin.tree.cut_takes_long(ticket.node()),
        };
        if takes_long {
            return Some(ticket);
        }
        let renamed = try_rename(skin, &ticket, &request, Tree::rename_if_quick);
        finish(skin, ticket, renamed)
    });
    let Some(ticket) = takes_long else { return };
    let its = Arc::clone(skin);
    let left = apart.run(ticket, move |ticket| fenced(ticket, |ticket| handle(&its, ticket)));
    if let Some(ticket) = left {
        fenced(ticket, |ticket| handle(skin, ticket));
    }
}

/// A rename that does nothing and says false where it would take too long.
type TryRename =
    fn(&Tree<LinuxBacking>, (NodeId, &OsStr), (NodeId, &OsStr), RenameMode) -> Result<bool>;

/// What came of trying.
enum Tried {
    /// The request is no rename.
    Other,
    TooLong,
    Renamed(Result<Owed<LinuxBacking>>),
}

fn try_rename(skin: &Skin, ticket: &Ticket, request: &Request<'_>, how: TryRename) -> Tried {
    let Request::Rename { name, new_parent, new_name, flags } = *request else {
        return Tried::Other;
    };
    let (source, target) = ((ticket.node(), name), (new_parent, new_name));
    let renamed =
        convert::rename_mode(flags).and_then(|mode| how(&skin.tree, source, target, mode));
    if renamed == Ok(false) {
        return Tried::TooLong;
    }
    let deed = Deed::Moved(source, target);
    Tried::Renamed(renamed.and_then(|_| skin.tree.owed(ticket.caller(), &deed)))
}

/// Answers a request, or gives back a rename that would take too long.
fn finish(skin: &Arc<Skin>, ticket: Ticket, tried: Tried) -> Option<Ticket> {
    match tried {
        Tried::Other => handle(skin, ticket),
        Tried::TooLong => return Some(ticket),
        Tried::Renamed(owed) => settle(skin, ticket, owed, Answer::of(Body::default())),
    }
    None
}

/// A panic fails this request (its ticket, dropped unanswered, answers EIO) and not the
/// thread.
fn fenced<T: Default>(ticket: Ticket, work: impl FnOnce(Ticket) -> T) -> T {
    let opcode = ticket.opcode();
    catch_unwind(AssertUnwindSafe(|| work(ticket))).unwrap_or_else(|_| {
        tracing::error!(opcode, "a handler panicked; the request gets EIO");
        T::default()
    })
}

fn handle(skin: &Arc<Skin>, mut ticket: Ticket) {
    let request = match decode(ticket.opcode(), ticket.op_in(), ticket.payload()) {
        Ok(request) => request,
        Err(error) => return ticket.answer(Err(error)),
    };
    let (caller, node) = (ticket.caller(), ticket.node());
    match request {
        Request::Read { file, offset, bytes } => {
            let read = ticket.room().get_mut(..bytes as usize).ok_or(Errno::INVAL);
            let read = read.and_then(|buffer| skin.tree.read(caller, file, buffer, offset));
            ticket.answer_in_place(read);
        }
        Request::Write(write) => {
            let file = write.file;
            let written = match skin.write(caller, node, &write) {
                Ok(written) => written,
                Err(error) => return ticket.answer(Err(error)),
            };
            let Some(kind) = written.sync else {
                return ticket.answer(Ok(Body::size(written.bytes)));
            };
            let done = move |result: Result<()>| {
                ticket.answer(result.map(|()| Body::size(written.bytes)));
            };
            skin.tree.sync_file(caller, file, kind, skin.watched(caller, node, Box::new(done)));
        }
        Request::Fsync { file, kind } => {
            let done = move |result: Result<()>| ticket.answer(result.map(|()| Body::default()));
            skin.tree.sync_file(caller, file, kind, skin.watched(caller, node, Box::new(done)));
        }
        Request::FsyncDir { dir } => {
            let done = move |result: Result<()>| ticket.answer(result.map(|()| Body::default()));
            skin.tree.sync_dir(caller, dir, skin.watched(caller, node, Box::new(done)));
        }
        request => {
            let answer = match answer(skin, caller, node, &request) {
                Ok(answer) => answer,
                Err(error) => return ticket.answer(Err(error)),
            };
            let opened = answer.file.map(Deed::Opened);
            match opened.or_else(|| request.deed(node)) {
                Some(deed) => {
                    let owed = skin.tree.owed(caller, &deed);
                    settle(skin, ticket, owed, answer);
                }
                None => ticket.answer(Ok(answer.body)),
            }
        }
    }
}

/// An answer, and what it refers to: to be given back if it is an error in the end.
struct Answer {
    body: Body,
    node: Option<NodeId>,
    file: Option<FileId>,
}

impl Answer {
    fn of(body: Body) -> Self {
        Self { body, node: None, file: None }
    }
}

/// Answers when what is owed is settled.
fn settle(skin: &Arc<Skin>, ticket: Ticket, owed: Result<Owed<LinuxBacking>>, answer: Answer) {
    let give_back = |skin: &Skin, ticket: &Ticket, answer: &Answer| {
        if let Some(file) = answer.file {
            skin.release(answer.node.unwrap_or(ticket.node()), file);
        }
        if let Some(node) = answer.node {
            skin.tree.forget(node, 1);
        }
    };
    let owed = match owed {
        Ok(owed) if owed.is_nothing() => return ticket.answer(Ok(answer.body)),
        Ok(owed) => owed,
        Err(error) => {
            give_back(skin, &ticket, &answer);
            return ticket.answer(Err(error));
        }
    };
    let skin = Arc::clone(skin);
    owed.settle(move |settled| {
        if settled.is_err() {
            give_back(&skin, &ticket, &answer);
        }
        ticket.answer(settled.map(|()| answer.body));
    });
}

/// The answer to a request, before what is owed for it.
fn answer(skin: &Skin, caller: Caller, node: NodeId, request: &Request<'_>) -> Result<Answer> {
    let options = &skin.options;
    let entry =
        |entry: Entry| Answer { node: Some(entry.id), ..Answer::of(Body::entry(&entry, options)) };
    match *request {
        Request::Symlink { name, target } => {
            skin.tree.make_symlink(caller, node, name, target).map(entry)
        }
        Request::MkNod { name, new, rdev } => {
            skin.tree.make_node(caller, node, name, new, convert::device(rdev)).map(entry)
        }
        Request::MkDir { name, new } => skin.tree.make_dir(caller, node, name, new).map(entry),
        Request::Link { node: linked, name } => skin.tree.link(linked, node, name).map(entry),
        Request::Open { flags } => {
            let opened = skin.open(caller, node, flags)?;
            let body = Body::opened(&opened);
            Ok(Answer { file: Some(opened.file), ..Answer::of(body) })
        }
        Request::Create { name, new, flags } => {
            let (entry, opened) = skin.create(caller, node, name, new, flags)?;
            let body = Body::created(&entry, &opened, options);
            Ok(Answer { body, node: Some(entry.id), file: Some(opened.file) })
        }
        ref request => simple_answer(skin, caller, node, request).map(Answer::of),
    }
}

/// The answer to a request that gives the kernel no reference to keep.
fn simple_answer(skin: &Skin, caller: Caller, node: NodeId, request: &Request<'_>) -> Result<Body> {
    let (tree, options) = (&skin.tree, &skin.options);
    let entry = |entry| Body::entry(&entry, options);
    let attr = |attr| Body::attr(&attr, options);
    let nothing = |()| Body::default();
    match *request {
        Request::Lookup { name } => {
            Ok(skin.lookup(node, name)?.map_or_else(|| Body::no_entry(options), entry))
        }
        Request::GetAttr => tree.attr(node).map(attr),
        Request::SetAttr { file, ref change } => {
            tree.set_attr(caller, node, file, change).map(attr)
        }
        Request::ReadLink => tree.read_link(node).map(Body::data),
        Request::Unlink { name } => tree.unlink(node, name).map(nothing),
        Request::RmDir { name } => tree.remove_dir(node, name).map(nothing),
        Request::Rename { name, new_parent, new_name, flags } => {
            let mode = convert::rename_mode(flags)?;
            tree.rename((node, name), (new_parent, new_name), mode).map(nothing)
        }
        Request::StatFs => Ok(Body::stats(&tree.stats()?)),
        Request::Flush { .. } => Ok(Body::default()),
        Request::Release { file } => {
            skin.release(node, file);
            Ok(Body::default())
        }
        Request::SetXattr { name, value, flags } => {
            tree.set_xattr(caller, node, name, value, flags).map(nothing)
        }
        Request::GetXattr { name, bytes } => fitted(tree.xattr(node, name)?, bytes),
        Request::ListXattr { bytes } => fitted(tree.xattr_names(caller, node)?, bytes),
        Request::RemoveXattr { name } => tree.remove_xattr(node, name).map(nothing),
        Request::OpenDir => Ok(Body::handle(tree.open_dir(node)?.0)),
        Request::ReadDir { dir, offset, bytes } => read_dir(skin, dir, offset, bytes),
        Request::ReadDirPlus { dir, offset, bytes } => {
            let mut has_room = |listing: &crate::skin::wire::Listing, entry: &_| {
                listing.len_with(entry) <= bytes as usize
            };
            Ok(skin.list(dir, offset, &mut has_room)?.body)
        }
        Request::ReleaseDir { dir } => {
            tree.release_dir(dir);
            Ok(Body::default())
        }
        // Only asked without `default_permissions`, when the mount belongs to
        // its owner alone; ENOSYS once means "allowed" for good (fuse_access).
        Request::Access => Err(Errno::NOSYS),
        Request::Fallocate { file, offset, bytes, mode } => {
            tree.allocate(caller, file, mode, offset, bytes).map(nothing)
        }
        Request::Lseek { file, offset, whence } => {
            skin.seek(caller, file, offset, whence).map(Body::offset)
        }
        Request::CopyFileRange { source, target, bytes } => {
            skin.copy_range(caller, source, target, bytes).map(Body::size)
        }
        Request::Read { .. }
        | Request::Write(_)
        | Request::Fsync { .. }
        | Request::FsyncDir { .. }
        | Request::Symlink { .. }
        | Request::MkNod { .. }
        | Request::MkDir { .. }
        | Request::Link { .. }
        | Request::Open { .. }
        | Request::Create { .. } => {
            unreachable!("answered where the ticket is, or with a reference")
        }
    }
}

fn fitted(value: Vec<u8>, bytes: u32) -> Result<Body> {
    Ok(match fit(value, bytes)? {
        Fitted::Bytes(value) => Body::data(value),
        Fitted::Size(bytes) => Body::size(bytes),
    })
}

fn read_dir(skin: &Skin, dir: DirId, offset: u64, bytes: u32) -> Result<Body> {
    let mut body = Body::default();
    skin.tree.read_dir(dir, offset, &mut |entry| {
        let has_room = body.len_with_dirent(&entry) <= bytes as usize;
        if has_room {
            body.push_dirent(&entry);
        }
        has_room
    })?;
    Ok(body)
}
