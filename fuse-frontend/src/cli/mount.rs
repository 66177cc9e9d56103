//! `lanefs mount`.

use std::path::PathBuf;

use fs_core::platform::linux::Inherited;

use super::MountArgs;
use super::table::print;
use crate::config;
use crate::failure::Failure;
use crate::faults::FaultMount;
use crate::metrics::server::Address;
use crate::mount::options::{durability, log_bytes};
use crate::mount::restart::state::State;
use crate::mount::{Mount, MountOptions, MountPlan, daemon, fstab, preflight};

pub(super) fn run(args: &MountArgs) -> Result<(), Failure> {
    if let Some((state, inherited)) = State::inherited()? {
        return resume(args, state, inherited);
    }
    if args.print_fstab {
        return print_fstab(args);
    }
    if !args.daemon {
        return Served::start(plan(args)?)?.serve();
    }
    if !daemon::is_child() {
        return daemon::start_in_background();
    }
    let started = plan(args).and_then(|plan| {
        daemon::leave_directory()?;
        let mount = Served::start(plan)?;
        daemon::leave_session();
        Ok(mount)
    });
    daemon::report(started.as_ref().map(|_| ()));
    started?.serve()
}

/// A mount, or one that fails on purpose.
enum Served {
    Usual(Box<Mount>),
    Failing(Box<FaultMount>),
}

impl Served {
    fn start(plan: MountPlan) -> Result<Self, Failure> {
        if plan.options.faults {
            return FaultMount::start(plan).map(Box::new).map(Self::Failing);
        }
        Mount::start(plan).map(Box::new).map(Self::Usual)
    }

    fn serve(self) -> Result<(), Failure> {
        match self {
            Self::Usual(mount) => mount.serve(),
            Self::Failing(mount) => mount.serve(),
        }
    }
}

/// Checks what can be checked without mounting.
pub(crate) fn check(args: &MountArgs) -> Result<(), Failure> {
    preflight::check(&plan(args)?)
}

/// The line is only printed if it can be mounted.
fn print_fstab(args: &MountArgs) -> Result<(), Failure> {
    let plan = plan(args)?;
    preflight::check_paths(&plan)?;
    let words = args.common.options.iter().flat_map(|words| words.split(','));
    let mut options: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let mut add = |name: &str, value: Option<String>| {
        options.extend(value.map(|value| format!("{name}={value}")));
    };
    add("durability", args.common.durability.clone());
    add("commit_interval", args.common.commit_interval.clone());
    add("log_size", args.log_size.clone());
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    add("log", args.log.as_ref().and(path(&plan.options.log)));
    add("config", args.common.config.as_ref().and(path(&plan.options.config)));
    let line = fstab::line(&plan.backing, &plan.mount_point, &options)?;
    print(&format!("{line}\n"))
}

fn plan(args: &MountArgs) -> Result<MountPlan, Failure> {
    let (common, options) = (&args.common, options(args)?);
    let (backing, mount_point) = preflight::resolve(&common.backing, &common.mount_point)?;
    let (file, config) = config::load(options.config.as_deref(), usual_file())?;
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
    if let Some(path) = &common.config {
        options.config = Some(std::path::absolute(path).map_err(|error| {
            Failure::usage(format!("--config {} is no path: {error}", path.display()))
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
