//! Persistence models: what a filesystem may keep of what was done, when the power fails.
//!
//! A model is a pure function of the steps. It says which steps are kept or lost
//! together (an *atom*), which atoms need which others ([`Rules`]), and what a sync
//! makes durable ([`Model::cover`]). For a crash at moment `e` a set of atoms is legal if
//! it holds all that syncs before `e` have made durable, and with each other atom also
//! what that one needs.
//!
//! Common to all models, because the page cache and every directory work so: writes of
//! one block, lengths of one file, changes of one name and of one attribute survive in
//! order (`Builder` makes these).
//!
//! | model | names and attributes | bytes that make a file longer | rename over a file |
//! | --- | --- | --- | --- |
//! | [`Seq`] | in order with data | in order | in order |
//! | [`PosixMin`] | no order | length may come first | no order |
//! | [`PosixFlush`] | no order; fsync keeps the file's name | length may come first | no order |
//! | [`Ext3Writeback`] | in order | length may come first | without the bytes |
//! | [`Ext3Ordered`] | in order | in order | with the bytes |
//! | [`Ext4`] | in order | later; before the length, but in the last block | with the bytes |
//! | [`Ext4Strict`] | in order | later; length may come first | without the bytes |
//! | [`Xfs`] | in order | later; bytes before length | without the bytes |
//! | [`Btrfs`] | in order, fsynced files ahead of it | later; bytes before length | with the bytes |
//! | [`F2fs`] | in order, fsynced files ahead of it | later; length may come first | without the bytes |
//! | [`LazyFs`] | at once | lost unless synced | at once |
//! | [`LanefsFsync`], [`LanefsClose`] | in order | later; length may come first | with the bytes, as a rewrite in place |

use fixedbitset::FixedBitSet;

use super::steps::Steps;
use super::trace::{Ino, Operation};
use crate::types::SyncKind;

mod btrfs;
mod builder;
mod ext3;
mod ext4;
mod f2fs;
mod lanefs;
mod lazyfs;
mod posix;
mod seq;
mod xfs;

pub use self::btrfs::Btrfs;
pub use self::ext3::{Ext3Ordered, Ext3Writeback};
pub use self::ext4::{Ext4, Ext4Strict};
pub use self::f2fs::F2fs;
pub use self::lanefs::{LanefsClose, LanefsFsync};
pub use self::lazyfs::LazyFs;
pub use self::posix::{PosixFlush, PosixMin};
pub use self::seq::Seq;
pub use self::xfs::Xfs;

/// What a filesystem may keep and lose.
pub trait Model: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// What it says, in one line.
    fn about(&self) -> &'static str;
    /// Where that comes from.
    fn source(&self) -> &'static str;
    /// Atoms, and what each needs.
    fn rules(&self, log: &Steps<'_>) -> Rules;
    /// What a sync makes durable.
    fn cover(&self, log: &Steps<'_>, rules: &Rules, sync: SyncPoint) -> Vec<u32>;
    /// Other operations that make something durable: those that a filesystem or a mount
    /// syncs by itself.
    fn implied_syncs(&self, _log: &Steps<'_>) -> Vec<SyncPoint> {
        Vec::new()
    }
    /// How one block's write may be torn.
    fn tears(&self) -> Tears {
        Tears::Sectors
    }
}

/// How one block's write may be torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tears {
    /// Never.
    Never,
    /// Between sectors of 512 bytes.
    Sectors,
    /// Anywhere, and the bytes may be zeros or somebody else's.
    Anyhow,
}

/// Something that makes something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPoint {
    /// Covers operations before this one.
    pub at: usize,
    /// Holds for crashes at this moment and later: `at + 1` for a sync that is an
    /// operation of its own, or that ends before its operation is answered.
    pub from: usize,
    /// The file or directory.
    pub ino: Ino,
    /// What of it.
    pub kind: SyncKind,
}

/// Steps that are kept or lost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Atom {
    /// Numbers of the steps, in order.
    pub steps: Vec<u32>,
    /// The operation that they are part of.
    pub operation: u32,
}

/// A model's rules for one trace.
#[derive(Debug, Default)]
pub struct Rules {
    /// The atoms, in the order of their operations.
    pub atoms: Vec<Atom>,
    /// What each atom needs, each of them earlier; what those need is not repeated.
    pub needs: Vec<Vec<u32>>,
    /// The opposite direction.
    pub needed_by: Vec<Vec<u32>>,
    /// The atom of each step.
    pub atom_of: Vec<u32>,
    /// Number of atoms of operations before each, and of all.
    pub before: Vec<u32>,
}

impl Rules {
    /// Adds to `set` these atoms and all that they need.
    pub fn close(&self, set: &mut FixedBitSet, atoms: impl IntoIterator<Item = u32>) {
        let mut open: Vec<u32> = atoms.into_iter().collect();
        while let Some(atom) = open.pop() {
            if !set.put(atom as usize) {
                open.extend(&self.needs[atom as usize]);
            }
        }
    }

    /// Takes these atoms from `set`, and all atoms below `end` that need them, except
    /// what is `kept`.
    pub fn drop(&self, set: &mut FixedBitSet, atoms: &[u32], end: u32, kept: &FixedBitSet) {
        let mut open = atoms.to_vec();
        while let Some(atom) = open.pop() {
            if atom < end && set.contains(atom as usize) && !kept.contains(atom as usize) {
                set.set(atom as usize, false);
                open.extend(&self.needed_by[atom as usize]);
            }
        }
    }

    /// Number of atoms of the operations before this one.
    #[must_use]
    pub fn end(&self, operation: usize) -> u32 {
        self.before[operation]
    }
}

/// The syncs of a trace, as recorded.
#[must_use]
pub fn recorded_syncs(log: &Steps<'_>) -> Vec<SyncPoint> {
    let operations = log.trace.operations.iter().enumerate();
    let sync = |(number, recorded): (usize, &super::trace::Recorded)| match recorded.operation {
        Operation::Sync { ino, kind } => {
            Some(SyncPoint { at: number, from: number + 1, ino, kind })
        }
        _ => None,
    };
    operations.filter_map(sync).collect()
}

/// All models, the weakest promises last.
#[must_use]
pub fn all() -> Vec<&'static dyn Model> {
    vec![
        &Seq,
        &Ext3Ordered,
        &Ext4,
        &Ext4Strict,
        &Xfs,
        &Btrfs,
        &F2fs,
        &Ext3Writeback,
        &PosixFlush,
        &PosixMin,
        &LazyFs,
        &LanefsFsync,
        &LanefsClose,
    ]
}

/// The model with a name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Model> {
    all().into_iter().find(|model| model.name() == name)
}
