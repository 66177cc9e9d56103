//! What a simulated filesystem promises across a power cut, and the settings of
//! a simulation.

/// What survives a power cut. The rules follow `research/group-commit.md` 3.5
/// and 3.6 and the table of models in `research/crash-testing.md` 3.4; where
/// sources disagree the weaker promise is taken.
///
/// Common to the three journaling models: every operation on names or
/// attributes is one atomic entry of a journal, in the order of execution. A
/// crash keeps a *prefix* of the journal: everything that a sync has committed,
/// and any number of later entries, because the journal may commit by itself at
/// any time. A sync of an object commits the journal up to the last change *of
/// that object* (ext4 `i_sync_tid`, XFS `ili_commit_seq`), and so everything
/// that was done before that change; what was done after it is not promised,
/// even if the sync came later. An object that has not changed since its last
/// sync makes nothing else durable.
///
/// Common to all: of the pages of a file that were written since they were last
/// synced, any subset survives, each in any of the versions that it has had
/// since. Data that was written out without a sync is in the device's cache: it
/// is as good as lost until the device is flushed, by whomever and for whatever
/// reason. Where there is a journal, an entry that survives was committed after
/// a flush: what had been written out before that entry was made is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DurabilityModel {
    /// ext4 with its defaults: `data=ordered`, delayed allocation, `auto_da_alloc`.
    ///
    /// Blocks are allocated, and the length is extended over them, when their
    /// data is written back: at a sync or at any time, possibly after later
    /// operations on names. The data is on disk before that entry commits, so
    /// new blocks never show anything else than what was written. But an append
    /// within a block that exists already extends the length at once: the tail
    /// of that block may read as zeros (Ferrite's prefix-append). A rename over
    /// an existing name, and a close after a truncation to zero, allocate the
    /// file's blocks first, so that a replace by rename is old or new.
    Ext4Ordered,
    /// XFS: as ext4, but a length is extended only after the data below it that
    /// completed, and a rename waits for nothing: a file replaced by rename
    /// without a sync may come back empty. New blocks below the length whose
    /// data has not arrived read as zeros.
    Xfs,
    /// `data=writeback`: lengths and blocks are journal entries at the time of
    /// the write, with no order towards the data. A new block whose data has
    /// not arrived shows [`STALE_BYTE`] or zeros.
    Writeback,
    /// No more than POSIX words promise. There is no journal: each directory
    /// keeps a prefix of the changes of its own entries, each file a prefix of
    /// the changes of its own inode and, as with `Writeback`, any subset of its
    /// data. fsync of a file makes its data and inode durable but *not its
    /// name*; fsync of a directory makes its entries durable but neither the
    /// content of what they name nor the directory's own name. A rename within
    /// one directory is atomic; between two directories the two halves may
    /// survive separately. An object found under no name is gone; link counts
    /// are set right; a directory found under several names keeps the newest
    /// (what fsck would do). Inode numbers are not reused here.
    PosixMin,
}

/// What a new block shows under the weak models if its data has not arrived.
pub const STALE_BYTE: u8 = 0xdb;

impl DurabilityModel {
    /// All models, the strongest first.
    pub const ALL: [Self; 4] = [Self::Ext4Ordered, Self::Xfs, Self::Writeback, Self::PosixMin];

    /// A short name, for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4Ordered => "ext4",
            Self::Xfs => "xfs",
            Self::Writeback => "writeback",
            Self::PosixMin => "posix-min",
        }
    }

    /// Whether what survives of names and attributes is a prefix of one journal.
    #[must_use]
    pub const fn keeps_prefix(self) -> bool {
        !matches!(self, Self::PosixMin)
    }

    /// Whether new blocks may show what was never written to them.
    #[must_use]
    pub const fn shows_stale_data(self) -> bool {
        matches!(self, Self::Writeback | Self::PosixMin)
    }

    /// Why no log can be kept on it: what [`crate::platform::Backing::log_obstacle`] says.
    pub(super) const fn log_obstacle(self) -> Option<&'static str> {
        match self {
            Self::Ext4Ordered | Self::Xfs => None,
            Self::Writeback => Some("new blocks may show what was never written to them"),
            Self::PosixMin => Some("metadata may survive in another order than it was changed in"),
        }
    }

    /// Whether a replace by rename allocates the blocks of what replaces.
    pub(super) const fn flushes_on_replace(self) -> bool {
        matches!(self, Self::Ext4Ordered)
    }

    /// Whether an append within an allocated block extends the logged length at
    /// the time of the write.
    pub(super) const fn extends_within_blocks_at_once(self) -> bool {
        matches!(self, Self::Ext4Ordered)
    }

    /// Whether blocks and lengths reach the journal at write-back only, their
    /// data first.
    pub(super) const fn delays_allocation(self) -> bool {
        !self.shows_stale_data()
    }
}

/// Settings of a simulated disk and its filesystem.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// What survives a power cut.
    pub model: DurabilityModel,
    /// Pages may survive in parts of 512 bytes, each of another version; else
    /// they survive whole.
    pub torn_sectors: bool,
    /// How many changes share one time stamp: 1 is a clock that tells any two
    /// changes apart (Linux 6.13 and later tell a change from a time that was
    /// read before it), more is the coarse clock of older kernels (4 ms).
    pub changes_per_tick: u64,
    /// Journal entries that may wait; beyond that everything is written back,
    /// as the kernel's flusher does after some seconds. At least 1.
    pub pending_ops_max: usize,
    /// The fencer can make a group durable by one journal commit
    /// ([`FenceMethod::SharedCommit`]). True of every model that keeps a prefix;
    /// with `PosixMin` it is a planted bug, for it commits nothing there.
    ///
    /// [`FenceMethod::SharedCommit`]: crate::platform::FenceMethod::SharedCommit
    pub shared_commit: bool,
    /// Once in so many groups the fencer syncs the whole filesystem instead of
    /// each target. (The engine's own choice would follow the clock.)
    pub whole_fs_one_in: Option<u64>,
    /// Once in so many operations the kernel's flusher writes dirty pages of a
    /// file out, all or some.
    pub flusher_one_in: Option<u64>,
    /// Once in so many operations the journal commits by itself.
    pub commit_one_in: Option<u64>,
    /// Ranges that [`settled`] tells at most.
    ///
    /// [`settled`]: crate::platform::Backing::settled
    pub settled_ranges_max: usize,
    /// New blocks are unwritten extents until their data has arrived, and no commit waits for
    /// it unless somebody waits for the data: a length may be there with zeros below it,
    /// also after a replace by rename. ext4's `dioread_nolock`, the default since Linux 5.6;
    /// of use with [`DurabilityModel::Ext4Ordered`].
    pub length_first: bool,
    /// Logs are on a device of their own: a flush of one flushes nothing else,
    /// and no other flush flushes one.
    pub log_elsewhere: bool,
    /// Logs can be made whatever the model.
    pub log_despite_obstacle: bool,
    /// The system tells one mount from another ([`Backing::mount_id`]).
    ///
    /// [`Backing::mount_id`]: crate::platform::Backing::mount_id
    pub tells_mounts: bool,
    /// A flush of a log that fails may lose data that was written out before and
    /// counts as clean. Else that stays in the device's cache, for a later flush.
    pub failed_flush_loses_data: bool,
    /// A planted bug: once in so many syncs the fencer answers without doing it.
    pub lie_one_in: Option<u64>,
    /// A planted bug: the fencer answers every sync of a directory without
    /// doing it.
    pub drop_dir_syncs: bool,
    /// A planted bug: a log's flush makes its own writes durable and nothing
    /// else, though the log is said to share the device.
    pub log_flush_is_fua: bool,
    /// A planted bug: once in so many flushes a log's flush does nothing.
    pub log_lie_one_in: Option<u64>,
    /// A planted bug: what survives is not a prefix of one journal but of each
    /// inode's own changes, as on a filesystem whose syncs log single inodes.
    /// What a sync has committed stays a prefix. Inode numbers are not reused.
    pub reorder_metadata: bool,
    /// Seed of what is left to chance before a crash: the order of a group's
    /// targets, lies, what the kernel does by itself, what a failure leaves.
    pub seed: u64,
}

impl SimOptions {
    /// An honest filesystem with this model.
    #[must_use]
    pub const fn new(model: DurabilityModel, seed: u64) -> Self {
        Self {
            model,
            torn_sectors: true,
            changes_per_tick: 1,
            pending_ops_max: 4096,
            shared_commit: model.keeps_prefix(),
            whole_fs_one_in: None,
            flusher_one_in: None,
            commit_one_in: None,
            settled_ranges_max: usize::MAX,
            length_first: false,
            log_elsewhere: false,
            log_despite_obstacle: false,
            tells_mounts: true,
            failed_flush_loses_data: false,
            lie_one_in: None,
            drop_dir_syncs: false,
            log_flush_is_fua: false,
            log_lie_one_in: None,
            reorder_metadata: false,
            seed,
        }
    }

    /// Whether what survives is a prefix of one journal.
    pub(super) const fn orders_metadata(&self) -> bool {
        self.model.keeps_prefix() && !self.reorder_metadata
    }
}
