//! What one file may look like after a power cut: sector by sector, version by version.
//!
//! The promise is that of fsync: what the file was at the last acknowledged sync, changed by any
//! subset of what was done to it since. So each sector must hold the version that it had at that sync
//! or a later one that had begun, and the length must be one that the file had since then. With a
//! log, truncations are covered by whatever is synced after them ([`Window::covered`]).

use super::contents::{SECTOR_BYTES, sector};

/// A change of a file, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes of this step.
    Write { first: u64, count: u64 },
    /// A new length.
    Truncate { sectors: u64 },
    /// Zeros, the length stays.
    Punch { first: u64, count: u64 },
}

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Never written, or a hole.
    Zero,
    /// Zeros because the file was cut before it.
    Cut,
    /// Bytes of this step.
    Step(u64),
}

/// Which steps count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The last step that synced the file.
    pub synced: u64,
    /// Truncations up to this step are durable too; not less than `synced`.
    pub covered: u64,
    /// The last step that had begun.
    pub begun: u64,
}

/// A length, and what it may be while the step that makes it is under way: a write that extends the
/// file does so page by page, and a truncation that extends it may first show the end of the block
/// that it filled with zeros (XFS: the length on disk follows the writes, `xfs_setfilesize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Length {
    shortest: u64,
    sectors: u64,
    /// Made by a truncation.
    cut: bool,
}

/// Every version of every sector of one file.
#[derive(Clone, Debug, Default)]
pub struct FileHistory {
    /// By sector: what it held from which step on.
    sectors: Vec<Vec<(u64, Version)>>,
    /// The length in sectors, from which step on, and the shortest on the way there. Never empty: 0
    /// from step 0.
    lengths: Vec<(u64, Length)>,
}

impl FileHistory {
    /// An empty file.
    pub fn new() -> Self {
        let length = Length { shortest: 0, sectors: 0, cut: false };
        FileHistory { sectors: Vec::new(), lengths: vec![(0, length)] }
    }

    /// Length in sectors after the last step.
    pub fn length(&self) -> u64 {
        self.lengths.last().expect("never empty").1.sectors
    }

    /// Adds step `step`.
    pub fn apply(&mut self, step: u64, change: Change) {
        match change {
            Change::Write { first, count } => {
                self.set(step, first..first + count, Version::Step(step));
                let shortest = self.length();
                if first + count > shortest {
                    let length = Length { shortest, sectors: first + count, cut: false };
                    self.lengths.push((step, length));
                }
            }
            Change::Punch { first, count } => {
                let end = (first + count).min(self.length());
                self.set(step, first..end, Version::Zero);
            }
            Change::Truncate { sectors } => {
                // What is cut off comes back as zeros.
                self.set(step, sectors..self.sectors.len() as u64, Version::Cut);
                let shortest = self.length().min(sectors);
                self.lengths.push((step, Length { shortest, sectors, cut: true }));
            }
        }
    }

    fn set(&mut self, step: u64, range: std::ops::Range<u64>, version: Version) {
        for index in range {
            let index = usize::try_from(index).expect("files are small");
            if self.sectors.len() <= index {
                self.sectors.resize(index + 1, vec![(0, Version::Zero)]);
            }
            self.sectors[index].push((step, version));
        }
    }

    /// Judges the bytes of a file.
    ///
    /// # Errors
    /// Which sector, or the length, is older than promised or was never written.
    pub fn check(
        &self,
        bytes: &[u8],
        (seed, actor): (u64, u32),
        Window { synced, covered, begun }: Window,
    ) -> Result<(), String> {
        let length = bytes.len() as u64 / SECTOR_BYTES as u64;
        let whole = bytes.len().is_multiple_of(SECTOR_BYTES);
        let from = last_cut(&self.lengths, synced, covered, |length| length.cut);
        let mut allowed = window(&self.lengths, from, begun);
        let sure_length = allowed.next().expect("never empty").sectors;
        let later = allowed.any(|l| (l.shortest..=l.sectors).contains(&length));
        if !whole || !(length == sure_length || later) {
            let since: Vec<_> = window(&self.lengths, from, begun).collect();
            return Err(format!(
                "the file has {} bytes; sectors of 512 since step {from}: {since:?}",
                bytes.len()
            ));
        }
        for (index, found) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let beyond = vec![(0, Version::Zero)];
            let versions = self.sectors.get(index).unwrap_or(&beyond);
            let from = last_cut(versions, synced, covered, |version| *version == Version::Cut);
            let right = window(versions, from, begun).any(|version| match version {
                Version::Zero | Version::Cut => found.iter().all(|byte| *byte == 0),
                Version::Step(step) => found == sector(seed, actor, step, index as u64),
            });
            if !right {
                let since: Vec<_> = window(versions, from, begun).collect();
                let found = identify(versions, found, seed, actor, index as u64);
                return Err(format!(
                    "sector {index} holds {found}; since step {from} it was {since:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The step from which on versions count: the last sync, or a later truncation that is covered.
fn last_cut<T>(
    versions: &[(u64, T)],
    synced: u64,
    covered: u64,
    is_cut: impl Fn(&T) -> bool,
) -> u64 {
    let cuts = versions.iter().filter(|(step, version)| *step <= covered && is_cut(version));
    cuts.map(|(step, _)| *step).max().unwrap_or(0).max(synced)
}

/// The value at step `from` and all later ones up to step `to`.
fn window<T: Copy>(versions: &[(u64, T)], from: u64, to: u64) -> impl Iterator<Item = T> {
    let at = versions.iter().rposition(|(step, _)| *step <= from).unwrap_or(0);
    versions[at..].iter().take_while(move |(step, _)| *step <= to.max(from)).map(|(_, v)| *v)
}

/// For people: what a wrong sector is.
fn identify(
    versions: &[(u64, Version)],
    found: &[u8],
    seed: u64,
    actor: u32,
    index: u64,
) -> String {
    if found.iter().all(|byte| *byte == 0) {
        return "zeros".to_owned();
    }
    let known = versions.iter().rev().find_map(|(_, version)| match version {
        Version::Step(step) if found == sector(seed, actor, *step, index) => Some(*step),
        _ => None,
    });
    known.map_or("nothing that was ever written".to_owned(), |step| format!("step {step}"))
}

#[cfg(test)]
mod tests {
    use super::super::contents::sectors;
    use super::*;

    const WHO: (u64, u32) = (7, 1);

    fn seen(synced: u64, begun: u64) -> Window {
        Window { synced, covered: synced, begun }
    }

    fn file() -> FileHistory {
        let mut history = FileHistory::new();
        history.apply(1, Change::Write { first: 0, count: 4 });
        history.apply(2, Change::Write { first: 1, count: 1 });
        history.apply(3, Change::Truncate { sectors: 2 });
        history.apply(4, Change::Write { first: 3, count: 1 });
        history
    }

    fn bytes(parts: &[(u64, u64)]) -> Vec<u8> {
        let part = |(index, step): (usize, &(u64, u64))| match step.0 {
            0 => vec![0; SECTOR_BYTES],
            step => sectors(WHO.0, WHO.1, step, index as u64, 1),
        };
        parts.iter().enumerate().flat_map(part).collect()
    }

    #[test]
    fn old_versions_are_losses_and_later_ones_are_not() {
        let history = file();
        let check = |steps: &[u64], synced, begun| {
            let parts: Vec<_> = steps.iter().map(|step| (*step, 0)).collect();
            history.check(&bytes(&parts), WHO, seen(synced, begun))
        };
        assert_eq!(check(&[1, 2, 1, 1], 2, 2), Ok(()));
        assert!(check(&[1, 1, 1, 1], 2, 2).is_err(), "step 2 was acknowledged");
        assert_eq!(check(&[1, 1, 1, 1], 1, 2), Ok(()), "step 2 was not");
        assert!(check(&[1, 2, 1, 1], 3, 3).is_err(), "the cut was acknowledged");
        assert_eq!(check(&[1, 2], 3, 3), Ok(()));
        assert!(check(&[1, 2], 2, 2).is_err(), "nothing had begun to cut it");
        assert_eq!(check(&[1, 2, 0, 4], 3, 4), Ok(()));
        assert_eq!(check(&[1, 2, 0, 0], 3, 4), Ok(()), "the length without its bytes");
        assert!(check(&[1, 2, 1, 4], 4, 4).is_err(), "what was cut off must not come back");
    }

    #[test]
    fn a_covered_truncation_counts_and_a_covered_write_does_not() {
        let history = file();
        let check = |steps: &[u64], covered| {
            let parts: Vec<_> = steps.iter().map(|step| (*step, 0)).collect();
            history.check(&bytes(&parts), WHO, Window { synced: 1, covered, begun: 4 })
        };
        assert_eq!(check(&[1, 1, 1, 1], 2), Ok(()), "nothing was cut");
        assert!(check(&[1, 1, 1, 1], 3).is_err());
        assert_eq!(check(&[1, 1], 4), Ok(()), "step 2 and 4 were not synced");
        assert!(check(&[1, 1, 1, 4], 4).is_err(), "what was cut off must not come back");
        assert_eq!(check(&[1, 2, 0, 4], 4), Ok(()));
    }

    #[test]
    fn bytes_from_nowhere_are_a_loss() {
        let mut found = bytes(&[(1, 0), (2, 0), (1, 0), (1, 0)]);
        found[1000] ^= 1;
        let error = file().check(&found, WHO, seen(2, 2)).unwrap_err();
        assert!(error.contains("nothing that was ever written"), "{error}");
        found.truncate(2000);
        assert!(file().check(&found, WHO, seen(2, 2)).is_err());
    }
}
