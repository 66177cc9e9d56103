//! Arguments of the commands that every front-end has, and their help texts.
//!
//! A front-end takes [`Command`] into its own enumeration of commands, and adds what only its
//! platform has: `lanefs mount` has options of the platform, `lanefs demo` a text about it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Exit codes, shown below every help text.
pub const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it failed, standard error says why and what helps; \
2 the command was used wrongly, nothing was tried.";

/// The commands that are the same on every platform.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make everything durable, unmount, end the daemon. Cleans up after a dead daemon too.
    Umount(UmountArgs),
    /// Show a mount's engine, lanes and requests; all mounts without MOUNTPOINT.
    Status(StatusArgs),
    /// Change a running mount: what is durable when.
    Set(SetArgs),
    /// Check the file with settings of mounts.
    Config(ConfigArgs),
    /// Bring a directory up to date after a power cut, without mounting it.
    Recover(RecoverArgs),
    /// Say what `recover` would do; change nothing.
    Check(RecoverArgs),
    /// Measure a directory's device and say which fence lanefs would choose.
    Probe(ProbeArgs),
    /// Measure how fast files are replaced crash-safely in a directory, on a mount or not.
    Bench(BenchArgs),
}

/// What `lanefs mount` takes on every platform.
#[derive(Debug, Args)]
pub struct CommonMountArgs {
    /// Directory that holds the files.
    pub backing: PathBuf,
    /// Where they shall appear; may be BACKING itself where the platform can.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Mount options, comma-separated; listed below.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// What is durable when a call returns: fsync, close, always, or relaxed:MS; same as
    /// -o durability=MODE.
    #[arg(long, value_name = "MODE")]
    pub durability: Option<String>,
    /// Commit what was applied about so often although nobody asks: 1s, 500ms, 0 for never;
    /// same as -o commit_interval=TIME.
    #[arg(long, value_name = "TIME")]
    pub commit_interval: Option<String>,
    /// Settings of mounts [default: the system's lanefs.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `lanefs set`.
#[derive(Debug, Args)]
#[command(after_help = format!("{SET_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct SetArgs {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// durability=MODE, commit-interval=TIME, config=FILE, log-level=LEVEL.
    #[arg(value_name = "SETTING=VALUE", required = true)]
    pub settings: Vec<String>,
}

const SET_EXAMPLES: &str = "\
Examples:
  lanefs set /mnt/data durability=close
  lanefs set /mnt/data durability=relaxed:100 commit-interval=500ms
  lanefs set /mnt/data config=/etc/lanefs.toml     what the file says now, rules included
  lanefs set /mnt/data log-level=debug

Names and attributes follow at once, files from their next opening on. Rules of lanefs.toml
stay unless config= replaces them, all at once: then everything is as if mounted now, with the same
flags. The change ends with the mount.";

/// Arguments of `lanefs config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with the file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the file is in order, and what applies to paths, and why.
    Check(ConfigCheckArgs),
}

/// Arguments of `lanefs config check`.
#[derive(Debug, Args)]
#[command(after_help = format!("{CONFIG_TEXT}\n\n{EXIT_CODES}"))]
pub struct ConfigCheckArgs {
    /// The file [default: as for `lanefs mount`].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say what applies to these; all mount points in the file if left out.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

const CONFIG_TEXT: &str = "\
The file, /etc/lanefs.toml (without root ~/.config/lanefs.toml), or LANEFS_CONFIG, or --config:

  durability = \"fsync\"             # of every mount
  commit-interval = \"1s\"

  [[mount]]
  path = \"/mnt/data\"              # of the mount at this place
  durability = \"close\"

  [[mount.rule]]                   # of a part of it; the last rule that matches wins
  path = \"mail/**\"                # a glob below the mount point; a directory means all below
  durability = \"always\"

A flag of `lanefs mount` wins over LANEFS_DURABILITY and LANEFS_COMMIT_INTERVAL, these over the
file, and in it [[mount]] over the top. Rules hold whatever the mount's mode is.";

/// Arguments of `lanefs recover` and `lanefs check`.
#[derive(Debug, Args)]
#[command(after_help = format!("{RECOVER_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct RecoverArgs {
    /// Directory that holds the files.
    pub backing: PathBuf,
    /// The log, if it lies outside of BACKING.
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const RECOVER_EXAMPLES: &str = "\
Examples:
  lanefs check /srv/data       what would be done
  lanefs recover /srv/data     do it; safe to interrupt and to repeat

A mount does the same before it answers.";

/// Arguments of `lanefs probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// A directory on the filesystem to be measured; needs 8 MiB for a moment.
    pub dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lanefs bench`.
#[derive(Debug, Args)]
#[command(after_help = format!("{BENCH_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct BenchArgs {
    /// The directory; files are made in a scratch directory there, and removed.
    pub dir: PathBuf,
    /// Writers that replace their file in a loop, 1 to 256.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub writers: u16,
    /// Seconds, 1 to 600.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub seconds: u16,
    /// Bytes of each file, 1 to 16 MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub bytes: u32,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  lanefs bench /srv/data     the bare directory
  lanefs bench /mnt/data     the same through the mount

A replace is: write a temporary file, sync it, rename it over the old one, and sync the directory
where the system lets a program do that.";

/// Arguments of `lanefs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mount point.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Detach even while programs have files open; their next use of them fails.
    #[arg(long)]
    pub lazy: bool,
    /// Only clean up if the daemon is gone: a mount that lives is left alone, and no mount at all
    /// is no mistake.
    #[arg(long, conflicts_with = "lazy")]
    pub dead: bool,
}

/// Arguments of `lanefs status`.
#[derive(Debug, Args)]
#[command(after_help = format!("{STATUS_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct StatusArgs {
    /// The mount point; all lanefs mounts if left out. With --durability any path on a mount.
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Say what a power cut now would lose: files and bytes that are not durable, and how old.
    #[arg(long)]
    pub durability: bool,
    /// Print JSON: one object, or with no MOUNTPOINT an array of them.
    #[arg(long)]
    pub json: bool,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  lanefs status
  lanefs status /mnt/data --json
  lanefs status --durability /mnt/data/mail";

/// Arguments of `lanefs demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Make the scratch directories here, and cut no power [default: see below].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Writers that replace their file in a loop, 1 to 256.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub writers: u16,
    /// Seconds for each of the two runs, 1 to 600.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub seconds: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    /// Clap finds names that are used twice only when it runs.
    #[test]
    fn the_definitions_are_consistent() {
        use clap::CommandFactory;
        Line::command().debug_assert();
        let line = Line::try_parse_from(["lanefs", "umount", "--lazy", "/mnt"]).expect("a line");
        assert!(matches!(line.command, Command::Umount(UmountArgs { lazy: true, .. })));
    }
}
