//! `lanefs config check`.

use std::path::{Path, PathBuf};

use crate::arguments::ConfigCheckArgs;
use crate::config::{self, ConfigFile, Flags, Settings, shown_interval};
use crate::failure::Failure;
use crate::table::{print, row, table};

/// Says whether the file is in order, and what applies. `usual`: where it is if nobody says
/// otherwise.
///
/// # Errors
/// The file cannot be read, or is not in order.
pub fn check(args: &ConfigCheckArgs, usual: Option<PathBuf>) -> Result<(), Failure> {
    let (file, config) = config::load(args.config.as_deref(), usual)?;
    let mut shown = match &file {
        Some(path) => format!("{} is in order.\n", path.display()),
        None => "There is no file: defaults hold, and what flags and variables say.\n".to_owned(),
    };
    let of =
        |mount_point: &Path| config::settle(Flags::default(), file.clone(), &config, mount_point);
    if args.paths.is_empty() {
        for mount_point in config.mount_points() {
            let settings = of(&resolved(mount_point))?;
            shown.push_str(&format!("\n{}\n{}", mount_point.display(), mount(&settings)));
        }
    }
    for path in &args.paths {
        let place = resolved(path);
        let mount_point = mount_point_of(&config, &place);
        let settings = of(&mount_point)?;
        let below = place.strip_prefix(&mount_point).unwrap_or(Path::new(""));
        shown.push_str(&format!(
            "\n{}\n{}",
            path.display(),
            applied(&settings, &mount_point, below)
        ));
    }
    print(&shown)
}

/// The mount point in the file that a path is at or below; else the path itself: of a mount
/// there the file knows only the top.
fn mount_point_of(config: &ConfigFile, path: &Path) -> PathBuf {
    let above = config.mount_points().map(resolved).filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.components().count()).unwrap_or_else(|| path.to_path_buf())
}

/// What need not exist yet is taken as it is written.
fn resolved(path: &Path) -> PathBuf {
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.canonicalize().unwrap_or_else(|_| absolute())
}

fn mount(settings: &Settings) -> String {
    let mode = settings.policy.default_mode();
    let mut rows = vec![row([&"durability", &format!("{mode} ({})", settings.policy_from)])];
    for rule in settings.policy.rules() {
        rows.push(row([&format!("  {}", rule.pattern), &rule.durability]));
    }
    rows.push(interval(settings));
    table(&rows)
}

fn applied(settings: &Settings, mount_point: &Path, below: &Path) -> String {
    let applied = settings.policy.applied(below);
    let why = match applied.rule {
        Some(rule) => {
            format!("rule {} of the mount: `{}`", rule + 1, settings.policy.rules()[rule].pattern)
        }
        None if settings.policy.rules().is_empty() => settings.policy_from.to_string(),
        None => format!("no rule matches: {}", settings.policy_from),
    };
    table(&[
        row([&"mount", &mount_point.display()]),
        row([&"durability", &applied.durability]),
        row([&"  because of", &why]),
        interval(settings),
    ])
}

fn interval(settings: &Settings) -> Vec<String> {
    let shown = shown_interval(settings.commit_interval);
    row([&"commit-interval", &format!("{shown} ({})", settings.commit_interval_from)])
}
