//! A directory's names in order, so that a listing can be continued behind any of them.
//!
//! WinFsp continues a listing by the last name that it took. The names are read once when it begins;
//! what else is told of each is asked for when it is its turn, so that a listing of 100,000
//! entries costs memory for the names, and each call the work for what fits its buffer.

use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::OsStrExt;

use fs_core::engine::NodeId;
use fs_core::error::Result;

use super::MountedTree;

/// The names of a directory.
pub(super) struct Listing {
    /// By their units: the order in which markers are found again.
    names: Vec<OsString>,
}

fn units(name: &OsStr) -> Vec<u16> {
    name.encode_wide().collect()
}

impl Listing {
    pub(super) fn read(tree: &MountedTree, dir: NodeId, is_root: bool) -> Result<Self> {
        let open = tree.open_dir(dir)?;
        let mut names = Vec::new();
        let read = tree.read_dir(open, 0, &mut |entry| {
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name);
            }
            true
        });
        tree.release_dir(open);
        read?;
        // The root of a volume has no dots on Windows.
        if !is_root {
            names.extend([OsString::from("."), OsString::from("..")]);
        }
        names.sort_by_cached_key(|name| units(name));
        Ok(Self { names })
    }

    /// The names behind a marker; all without one.
    pub(super) fn after(&self, marker: Option<&[u16]>) -> impl Iterator<Item = &OsStr> {
        let begin = marker.map_or(0, |marker| {
            self.names.partition_point(|name| units(name).as_slice() <= marker)
        });
        self.names[begin..].iter().map(OsString::as_os_str)
    }

    pub(super) fn has_only_dots(&self) -> bool {
        self.names.iter().all(|name| name == "." || name == "..")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call looks for its marker in the order of names, not from the front.
    #[test]
    fn a_hundred_thousand_names_are_listed_in_pieces() {
        let names = (0..100_000).map(|number| OsString::from(format!("{number:06}"))).collect();
        let listing = Listing { names };
        let (mut marker, mut seen): (Option<Vec<u16>>, usize) = (None, 0);
        loop {
            let piece: Vec<&OsStr> = listing.after(marker.as_deref()).take(300).collect();
            let Some(last) = piece.last() else { break };
            assert_eq!(piece[0].to_str(), Some(&*format!("{seen:06}")));
            seen += piece.len();
            marker = Some(units(last));
        }
        assert_eq!(seen, 100_000);
        // A name that is gone is no less a marker.
        let after: Vec<u16> = "000002x".encode_utf16().collect();
        assert_eq!(listing.after(Some(&after)).next(), Some(OsStr::new("000003")));
    }
}
