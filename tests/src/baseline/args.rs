//! The command line, and the grid of cells that it asks for.

use crate::contest::{self, Workload};
use crate::filesystem::Filesystem;

const THREADS_MAX: usize = 256;
/// What the disk is made for; longer flushes would also outlast the slices.
const FLUSH_MS_MAX: f64 = 10.0;
/// Those that lanefs is made for.
const FILESYSTEMS: [Filesystem; 3] =
    [Filesystem::Ext4, Filesystem::Ext4FastCommit, Filesystem::Xfs];

/// Compare durable operations on bare filesystems with the same on lanefs over them.
///
/// The disk below is made of memory, and a flush takes the chosen time. Both sides take turns in
/// slices of about half a second. The whole grid takes about 35 minutes; the options narrow it, and
/// each takes several values: `--threads 1,16`.
#[derive(Clone, Debug, clap::Args)]
pub struct BaselineArgs {
    /// Print one JSON object a line instead of tables, each as soon as it is known.
    #[arg(long)]
    pub json: bool,

    /// The filesystems, bare and below lanefs.
    #[arg(long = "fs", value_name = "NAME", value_enum, value_delimiter = ',')]
    #[arg(default_values_t = FILESYSTEMS)]
    pub filesystems: Vec<Filesystem>,

    /// What the threads do.
    #[arg(long = "workload", value_name = "NAME", value_enum, value_delimiter = ',')]
    #[arg(default_values_t = Workload::BASIC)]
    pub workloads: Vec<Workload>,

    /// How many threads do it at the same time: 1 to 256.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = threads)]
    #[arg(default_values_t = [1, 2, 4, 16, 64])]
    pub threads: Vec<usize>,

    /// How long a flush of the disk takes, in milliseconds: 0 to 10.
    #[arg(long, value_name = "MS", value_delimiter = ',', value_parser = flush_ms)]
    #[arg(default_values_t = [0.1, 0.5, 2.0, 8.0])]
    pub flush_ms: Vec<f64>,

    /// How long to measure each side of each cell, in seconds: 0.5 to 120.
    #[arg(long, value_name = "S", value_parser = contest::seconds, default_value_t = 3.0)]
    pub seconds: f64,
}

impl BaselineArgs {
    /// Flush time and threads of each cell of one filesystem and workload, in the order of the
    /// table.
    pub(super) fn grid(&self) -> impl Iterator<Item = (f64, usize)> + '_ {
        let row = |&flush_ms: &f64| self.threads.iter().map(move |&threads| (flush_ms, threads));
        self.flush_ms.iter().flat_map(row)
    }

    pub(super) fn cell_count(&self) -> usize {
        let cells_of_one = self.threads.len() * self.flush_ms.len();
        self.filesystems.len() * self.workloads.len() * cells_of_one
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=THREADS_MAX).contains(number));
    number.ok_or_else(|| format!("expected a number of threads from 1 to {THREADS_MAX}"))
}

fn flush_ms(text: &str) -> Result<f64, String> {
    contest::between(text, 0.0, FLUSH_MS_MAX, "milliseconds")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: BaselineArgs,
    }

    fn parse(words: &str) -> Result<BaselineArgs, String> {
        let words = std::iter::once("baseline").chain(words.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args).map_err(|e| e.to_string())
    }

    #[test]
    fn without_options_it_is_the_whole_grid() {
        let args = parse("").expect("valid");
        assert_eq!(args.cell_count(), 3 * 4 * 5 * 4);
        assert_eq!(args.grid().next(), Some((0.1, 1)));
        assert!(!args.json);
    }

    #[test]
    fn each_option_takes_several_values() {
        let args =
            parse("--fs xfs,ext4-fast-commit --threads 1,16 --flush-ms 2 --workload varmail");
        let args = args.expect("valid");
        assert_eq!(args.filesystems, [Filesystem::Xfs, Filesystem::Ext4FastCommit]);
        assert_eq!(args.workloads, [Workload::Varmail]);
        assert_eq!(args.grid().collect::<Vec<_>>(), [(2.0, 1), (2.0, 16)]);
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_is() {
        for (words, said) in [
            ("--fs zfs", "[possible values: ext4, ext4-fast-commit, xfs, btrfs]"),
            ("--workload read", "[possible values: append, overwrite, sparse, replace,"),
            ("--threads 0", "expected a number of threads from 1 to 256"),
            ("--threads many", "expected a number of threads from 1 to 256"),
            ("--flush-ms 11", "expected 0 to 10 milliseconds"),
            ("--flush-ms NaN", "expected 0 to 10 milliseconds"),
            ("--flush-ms=-1", "expected 0 to 10 milliseconds"),
            ("--seconds 0", "expected 0.5 to 120 seconds"),
        ] {
            let refusal = parse(words).expect_err(words);
            assert!(refusal.contains(said), "{words}: {refusal}");
        }
    }
}
