//! What a campaign is asked for, and what follows from it.

use std::path::PathBuf;

use super::filesystem::Filesystem;
use super::recording::{Mishap, Subject};
use super::recovery::Recovery;
use super::workload;

/// What `fence=log` is tried with.
const LOGS: [&str; 6] = [
    "log_size=8M",
    "log_size=4M",
    "log_size=4M,checkpoint_ms=20",
    "log_size=16M,checkpoint_ms=150",
    "log_size=64M",
    "log_size=4M,checkpoint_ms=60000",
];

/// Arguments of `powercut`.
#[derive(Debug, clap::Args)]
pub struct PowercutArgs {
    /// Filesystem: ext4, ext4-fast-commit, xfs or btrfs.
    #[arg(long, default_value = "ext4")]
    pub fs: Filesystem,
    /// What makes groups durable on the mount: backing, log or auto. `none`: no lanefs at all.
    #[arg(long, default_value = "auto", value_parser = ["backing", "log", "auto", "none"])]
    pub fence: String,
    /// More mount options, comma-separated. One about the log ends its changing from run to run.
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub mount_options: String,
    /// One workload; all if left out.
    #[arg(long, value_parser = known_workload)]
    pub workload: Option<String>,
    /// Images for each workload, those of --nested included.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub images: u64,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Cut the power again while an image is recovered, up to three levels deep; and kill recoveries.
    #[arg(long)]
    pub nested: bool,
    /// Let the disk fail while the workload runs: errors, no space, not answering.
    #[arg(long, conflicts_with = "kill")]
    pub faults: bool,
    /// Kill the daemon while the workload runs, and mount again.
    #[arg(long)]
    pub kill: bool,
    /// Replace the daemon again and again while the workload runs (`lanefs restart`).
    #[arg(long, conflicts_with_all = ["kill", "faults"])]
    pub restarts: bool,
    /// Demand what the log promises of another fence: must find losses there.
    #[arg(long)]
    pub demand_log: bool,
    /// Demand what the mode `close` promises of a mount in another mode, or of none: must find losses.
    #[arg(long)]
    pub demand_close: bool,
    /// A bug on purpose: the mount answers one sync in N without making it.
    #[arg(long, value_name = "N")]
    pub plant_lie: Option<u32>,
    /// Judge a kept case again.
    #[arg(long, value_name = "DIRECTORY")]
    pub replay: Option<PathBuf>,
    /// With --replay: show the last N steps of each actor, too.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "replay")]
    pub explain: u64,
    /// One JSON object a line for each workload.
    #[arg(long)]
    pub json: bool,
}

impl PowercutArgs {
    /// The options of the mount in run `round`, for `-o`. Logs of several sizes take turns, because
    /// what happens at the end of one and at its checkpoints is seldom seen with a large one.
    pub(super) fn mount_options(&self, round: u64) -> String {
        let mut options = format!("allow_other,fence={}", self.fence);
        if self.fence == "log" && !self.mount_options.contains("log") {
            let turn = usize::try_from(round).unwrap_or(0) % LOGS.len();
            options.push_str(&format!(",{}", LOGS[turn]));
        }
        if !self.mount_options.is_empty() {
            options.push_str(&format!(",{}", self.mount_options));
        }
        if let Some(count) = self.plant_lie {
            options.push_str(&format!(",test_lie_one_in={count}"));
        }
        options
    }

    pub(super) fn subject(&self, round: u64) -> Subject {
        match self.fence.as_str() {
            "none" => Subject::Bare,
            _ => Subject::Lanefs { options: self.mount_options(round) },
        }
    }

    pub(super) fn recovery(&self, round: u64) -> Recovery {
        Recovery::new(&self.fence, &self.mount_options(round))
    }

    pub(super) fn mishap(&self) -> Mishap {
        match (self.faults, self.kill) {
            (true, _) => Mishap::Faults,
            (_, true) => Mishap::Kill,
            _ if self.restarts => Mishap::Restarts,
            _ => Mishap::None,
        }
    }

    pub(super) fn promises_of_log(&self) -> bool {
        self.fence == "log" || self.demand_log
    }

    pub(super) fn promises_at_close(&self) -> bool {
        let modes = ["durability=close", "durability=always"];
        let options = self.mount_options.split(',');
        self.demand_close || options.into_iter().any(|option| modes.contains(&option))
    }

    // ext4 answers an fsync well whose commit was aborted just before it looked: the transaction is
    // gone then, and `jbd2_complete_transaction` takes it for done (Linux 6.18; bare ext4, --faults).
    // With a log it is not ext4 that answers.
    pub(super) fn forgives_shaken(&self) -> bool {
        self.fs.kernel_name() == "ext4" && self.fence != "log"
    }

    /// In words, for a title.
    pub(super) fn describe(&self) -> String {
        let lanefs = match self.fence.as_str() {
            "none" => "no lanefs".to_owned(),
            fence => format!("fence {fence}"),
        };
        let more = [
            (self.nested, "cuts during recovery"),
            (self.faults, "a failing disk"),
            (self.kill, "killed daemons"),
            (self.restarts, "restarts"),
            (self.demand_log, "the log's promises"),
            (self.demand_close, "the promises of close"),
        ];
        let more = more.iter().filter(|(wanted, _)| *wanted).map(|(_, text)| format!(", {text}"));
        format!("{} with {lanefs}{}, seed {}", self.fs, more.collect::<String>(), self.seed)
    }
}

fn known_workload(name: &str) -> Result<String, String> {
    workload::by_name(name, 0).map(|_| name.to_owned())
}
