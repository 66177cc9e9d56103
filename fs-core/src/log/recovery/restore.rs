//! Giving files back what they held before a rewrite that has no end.
//!
//! A rewrite of which the log has the end and the disk the copy has ended, too: then the log's content
//! counts, all of it, also where the disk has blocks ([`super::overlay`]).
//!
//! Done last, after redoing and filling: whatever these did to such a file, its copy has
//! all of it. The copies stay until the log has begun anew, so that an interrupted
//! recovery gives the same back again.

use std::collections::HashMap;

use super::{RecoveryError, RecoveryReport};
use crate::engine::Lsn;
use crate::error::{Errno, Result};
use crate::log::format::LogContents;
use crate::log::home::Home;
use crate::log::marks::OURSELVES;
use crate::log::record::Change;
use crate::log::undo::{Kept, Old, write_all};
use crate::platform::{Backing, ObjectKey, OpenMode};
use crate::types::{SetAttr, SetTime};

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, no_atime: true };

/// The last record of each file's content: rewrites that had begun before have ended.
pub(super) fn ends(contents: &LogContents) -> HashMap<ObjectKey, Lsn> {
    let records = contents.groups.iter().flat_map(|group| &group.records);
    let mut ends = HashMap::new();
    for record in records {
        if let Change::Data { object, .. } | Change::Expire { object } = &record.change {
            let end = ends.entry(*object).or_insert(record.lsn);
            *end = record.lsn.max(*end);
        }
    }
    ends
}

/// The files that there are copies of, with the number of the oldest one's truncation.
pub(super) fn copied(kept: &[Kept]) -> HashMap<ObjectKey, Lsn> {
    kept.iter().rev().map(|copy| (copy.object, copy.lsn)).collect()
}

/// Removes the copies of rewrites that have ended, once all of the new content is durable; says
/// whether there were any.
pub(super) fn forget_ended<B: Backing>(
    backing: &B,
    home: &Home<B>,
    kept: &[Kept],
    ends: &HashMap<ObjectKey, Lsn>,
) -> std::result::Result<bool, RecoveryError> {
    let mut any = false;
    for copy in kept.iter().filter(|copy| has_ended(copy, ends)) {
        any = true;
        let removed = home.undo.forget(backing, copy);
        removed.map_err(|source| RecoveryError::Backing { what: "remove an old copy", source })?;
    }
    Ok(any)
}

fn has_ended(copy: &Kept, ends: &HashMap<ObjectKey, Lsn>) -> bool {
    ends.get(&copy.object).is_some_and(|&end| end > copy.lsn)
}

/// Restores every file whose rewrite has no end.
pub(super) fn restore<B: Backing>(
    backing: &B,
    home: &Home<B>,
    kept: &[Kept],
    ends: &HashMap<ObjectKey, Lsn>,
    report: &mut RecoveryReport,
) -> std::result::Result<(), RecoveryError> {
    let failed = |source| RecoveryError::Backing { what: "restore a file's old content", source };
    for (copy, old) in unended(backing, home, kept, ends).map_err(failed)? {
        match restore_file(backing, &copy.object, &old) {
            Ok(()) => report.rewrites_undone += 1,
            // It was removed later.
            Err(Errno::STALE | Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// The intact copies of rewrites without an end: of each file the latest.
pub(super) fn unended<'a, B: Backing>(
    backing: &B,
    home: &Home<B>,
    kept: &'a [Kept],
    ends: &HashMap<ObjectKey, Lsn>,
) -> Result<Vec<(&'a Kept, Old<B>)>> {
    let mut found: HashMap<ObjectKey, (&Kept, Old<B>)> = HashMap::new();
    // Oldest first. A torn copy means that its truncation was not kept.
    for copy in kept {
        if has_ended(copy, ends) {
            continue;
        }
        if let Some(old) = home.undo.open(backing, copy)? {
            found.insert(copy.object, (copy, old));
        }
    }
    Ok(found.into_values().collect())
}

fn restore_file<B: Backing>(backing: &B, key: &ObjectKey, old: &Old<B>) -> Result<()> {
    let object = backing.by_key(key)?.object;
    let file = backing.open(OURSELVES, &object, READ_WRITE)?;
    old.visit(backing, &mut |piece, offset| write_all(backing, &file, piece, offset))?;
    let change = SetAttr {
        size: Some(old.bytes),
        mtime: Some(SetTime::At(old.mtime)),
        ..SetAttr::default()
    };
    backing.set_attr(OURSELVES, &object, Some(&file), &change).map(drop)
}
