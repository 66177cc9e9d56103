//! `lanefs mount`.

use std::path::PathBuf;

use fs_core::platform::linux::Inherited;

use super::MountArgs;
use crate::config;
use crate::failure::Failure;
use crate::metrics::server::Address;
use crate::mount::options::{durability, log_bytes};
use crate::mount::restart::state::State;
use crate::mount::{Mount, MountOptions, MountPlan, daemon, preflight};

pub(super) fn run(args: &MountArgs) -> Result<(), Failure> {
    if let Some((state, inherited)) = State::inherited()? {
        return resume(args, state, inherited);
    }
    if !args.daemon {
        return Mount::start(plan(args)?)?.serve();
    }
    if !daemon::is_child() {
        return daemon::start_in_background();
    }
    let started = plan(args).and_then(|plan| {
        daemon::detach()?;
        Mount::start(plan)
    });
    daemon::report(started.as_ref().map(|_| ()));
    started?.serve()
}

fn plan(args: &MountArgs) -> Result<MountPlan, Failure> {
    let (common, options) = (&args.common, options(args)?);
    let (backing, mount_point) = preflight::resolve(&common.backing, &common.mount_point)?;
    let (file, config) = config::load(common.config.as_deref(), usual_file())?;
    let settings = config::settle(options.durability, file, &config, &mount_point)?;
    let directory = std::env::current_dir().unwrap_or_default();
    let metrics = metrics(args)?;
    Ok(MountPlan { backing, mount_point, settings, options, metrics, directory })
}

/// Goes on with a mount in place of another program. The arguments are that one's; what it
/// made of paths and settings is in the state, because the mount does not answer yet and
/// `lanefs set` may have changed them.
fn resume(args: &MountArgs, state: State, inherited: Inherited) -> Result<(), Failure> {
    let directory = PathBuf::from(state.directory.clone());
    // Gone: then nothing relative was found there either.
    let _ = std::env::set_current_dir(&directory);
    let options = options(args)?;
    if args.daemon {
        daemon::detach()?;
    }
    let settings = state.settings.clone().settings()?;
    let (backing, mount_point) = (state.backing.clone().into(), state.mount_point.clone().into());
    let metrics = metrics(args)?;
    let plan = MountPlan { backing, mount_point, settings, options, metrics, directory };
    Mount::resume(plan, state, inherited)?.serve()
}

/// Whether this program could go on with a mount that was made with these arguments.
///
/// # Errors
/// It could not.
pub fn could_resume(args: &MountArgs) -> Result<(), Failure> {
    options(args).and(metrics(args)).map(drop)
}

fn metrics(args: &MountArgs) -> Result<Option<Address>, Failure> {
    args.metrics.as_deref().map(Address::parse).transpose()
}

fn options(args: &MountArgs) -> Result<MountOptions, Failure> {
    let common = &args.common;
    let mut options = MountOptions::default();
    for words in &common.options {
        options.apply(words)?;
    }
    if let Some(mode) = &common.durability {
        options.durability.durability = Some(durability(mode)?);
    }
    if let Some(interval) = &common.commit_interval {
        options.durability.commit_interval = Some(config::commit_interval(interval)?);
    }
    if let Some(path) = &args.log {
        options.log = Some(std::path::absolute(path).map_err(|error| {
            Failure::usage(format!("--log {} is no path: {error}", path.display()))
        })?);
    }
    if let Some(size) = &args.log_size {
        options.log_bytes = log_bytes(size)?;
    }
    options.check()?;
    Ok(options)
}

/// Where settings of mounts are if nobody says otherwise.
pub(super) fn usual_file() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/etc/lanefs.toml"));
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    base.map(|base| base.join("lanefs.toml"))
}
