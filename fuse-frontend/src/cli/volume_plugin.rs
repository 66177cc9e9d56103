//! `lanefs volume-plugin`, and the engine that it starts.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_CODES;
use super::mount::usual_file;
use crate::config;
use crate::failure::Failure;
use crate::mount::daemon;
use crate::volumes::driver::Driver;
use crate::volumes::engine::{EngineSettings, VolumeEngine};
use crate::volumes::http;

/// Where Docker looks for plugins by name: this one is called `lanefs`.
const SOCKET_DEFAULT: &str = "/run/docker/plugins/lanefs.sock";

/// Arguments of `lanefs volume-plugin`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLUGIN_TEXT}\n\n{EXIT_CODES}"))]
pub struct VolumePluginArgs {
    /// Directory for volumes, their state and the log they share.
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Where engines find the plugin; a socket that systemd passes wins.
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
    /// Options of `lanefs mount` for the engine that all volumes share, such as log_size=256M.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Settings of mounts [default: /etc/lanefs.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

const PLUGIN_TEXT: &str = "\
Volumes for Docker and Podman whose containers share their fsyncs. Needs root.

  lanefs volume-plugin --root /var/lib/lanefs
  docker volume create -d lanefs db
  docker volume create -d lanefs -o source=/srv/mail -o durability=close mail
  docker run -v db:/var/lib/postgresql postgres
  docker volume inspect db        # Status has live counters

Options of a volume (-o NAME=VALUE):
  source=DIR        a directory of the host instead of ROOT/volumes/NAME; on ROOT's filesystem,
                    and apart from other volumes
  durability=MODE   fsync, close, always or relaxed:MS (default: as lanefs.toml says, or fsync)
  ro                refuse changes
  uid=N, gid=N, mode=OCTAL
                    owner and permissions of the volume's root
  size=SIZE         limit, where the filesystem keeps project quotas; of an empty directory
  purge=true        removing the volume removes its files, which otherwise stay

Podman finds the plugin by containers.conf:
  [engine.volume_plugins]
  lanefs = \"/run/docker/plugins/lanefs.sock\"

The mounts are served by a process of their own. SIGTERM ends the plugin, and that process too unless a
volume is in use; then the next plugin takes it over.";

/// Arguments of the engine.
#[derive(Debug, Args)]
pub struct VolumeEngineArgs {
    /// As for the plugin.
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// As for the plugin.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// As for the plugin.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) fn run(args: VolumePluginArgs) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::usage(
            "volume-plugin mounts for containers of all users: run it as root",
        ));
    }
    let settings = EngineSettings { options: args.options, config: absolute(args.config)? };
    settings.mount_options()?;
    // Before anything is mounted: somebody may listen there.
    let (listener, ours) = listen(&args.socket)?;
    let driver = Driver::start(&args.root, settings)?;
    let failed = |error: std::io::Error| Failure::new(format!("cannot serve: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let served = runtime.block_on(async {
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate()].map(signal).into_iter();
        let (mut interrupt, mut terminate) = (
            ends.next().expect("two signals").map_err(failed)?,
            ends.next().expect("two signals").map_err(failed)?,
        );
        let end = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        tracing::info!(root = %args.root.display(), "the volume plugin answers");
        http::serve(listener, Arc::clone(&driver), end).await
    });
    if let Some(socket) = ours {
        let _ = std::fs::remove_file(socket);
    }
    driver.stop();
    served
}

pub(super) fn run_engine(args: VolumeEngineArgs) -> Result<(), Failure> {
    let settings = EngineSettings { options: args.options, config: args.config };
    let start = || {
        let options = settings.mount_options()?;
        let config = config::load(settings.config.as_deref(), usual_file())?;
        daemon::detach()?;
        VolumeEngine::start(&args.root, options, config)
    };
    let started = start();
    report(started.as_ref().map(|_| ()));
    let (engine, ends) = started?;
    engine.serve(&ends)
}

/// Tells the plugin how the start went. Messages go on to where they go.
fn report(outcome: Result<(), &Failure>) {
    let line = match outcome {
        Ok(()) => "ready\n".to_owned(),
        Err(failure) => format!("{} {}\n", failure.exit_code, failure.message.replace('\n', " ")),
    };
    let mut output = std::io::stdout();
    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|error| {
            Failure::usage(format!("--config {} is no path: {error}", path.display()))
        })
    };
    path.map(absolute).transpose()
}

/// The socket that systemd has opened for us, or one of our own and its path.
fn listen(path: &Path) -> Result<(UnixListener, Option<PathBuf>), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot listen at {}: {error}", path.display()))
    };
    if let Some(listener) = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)? {
        // The engine, which outlives us, must not inherit it.
        let set = rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC);
        set.map_err(|error| failed(error.into()))?;
        return Ok((listener, None));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            return Err(Failure::new(format!(
                "somebody answers at {} already: stop that plugin first, or choose another --socket",
                path.display()
            )));
        }
        // A leftover of a plugin that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {}
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((listener, Some(path.to_owned())))
}
