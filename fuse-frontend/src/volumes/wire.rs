//! What the plugin and the engine say to each other.
//!
//! They are two processes, so that neither takes the other along: containers go on while the plugin is
//! restarted or killed, and a new plugin finds the engine at a socket whose name comes from the
//! root's device and inode number. One line of JSON each way; a connection that asks to
//! `watch` stays open, and its end is the engine's end.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control;
use crate::failure::Failure;

/// Version of what is said; the first field of the answer to [`Request::List`], in every version.
pub(super) const PROTOCOL: u32 = 1;
/// Longest line in bytes.
pub(super) const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long the engine may take: it waits for disks.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A volume to be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Its name.
    pub(super) name: String,
    /// The directory with its files.
    pub(super) source: PathBuf,
    /// Its mode of durability, if it has one of its own.
    pub(super) durability: Option<String>,
    /// Refuse changes.
    pub(super) read_only: bool,
}

/// What the plugin asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(super) enum Request {
    /// Mount a volume; done if it is mounted so already.
    Mount(Order),
    /// Unmount a volume; done if it is not mounted.
    Unmount {
        /// Its name.
        name: String,
    },
    /// Which volumes are mounted.
    List,
    /// Keep the connection: the plugin wants to know of the engine's end.
    Watch,
    /// Make everything durable, unmount what is mounted, end.
    End,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum Response {
    /// It is done.
    Done,
    /// To `List`.
    Volumes {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The engine's version of lanefs.
        version: String,
        /// Its process.
        pid: u32,
        /// What is mounted.
        volumes: Vec<MountedVolume>,
    },
    /// It did not work.
    Failed {
        /// Cause and remedy.
        message: String,
    },
}

/// A volume that is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MountedVolume {
    /// Its name.
    pub(super) name: String,
    /// Device number of the mount, as `major:minor`.
    pub(super) device: String,
}

/// Where the engine of a root listens.
///
/// # Errors
/// The root cannot be looked at.
pub(super) fn socket_path(root: &Path) -> Result<PathBuf, Failure> {
    let stat = root
        .metadata()
        .map_err(|error| Failure::new(format!("cannot look at {}: {error}", root.display())))?;
    let directory = control::make_socket_directory()
        .map_err(|error| Failure::new(format!("cannot make the directory of sockets: {error}")))?;
    Ok(directory.join(format!("volumes-{:x}-{}.sock", stat.dev(), stat.ino())))
}

/// Connects to the engine; `None` if there is none.
///
/// # Errors
/// The socket is there and cannot be used.
pub(super) fn connect(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    match UnixStream::connect(socket) {
        Ok(connection) => Ok(Some(connection)),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(error) => {
            Err(Failure::new(format!("cannot ask the engine at {}: {error}", socket.display())))
        }
    }
}

/// Asks the engine; `None` if there is none, or it died before it answered.
///
/// # Errors
/// It did not answer in time, or said no: then with its words.
pub(super) fn ask(socket: &Path, request: &Request) -> Result<Option<Response>, Failure> {
    let Some(connection) = connect(socket)? else { return Ok(None) };
    let failed =
        |error: std::io::Error| Failure::new(format!("the engine did not answer: {error}"));
    connection.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
    let asked = say(&connection, request).and_then(|()| hear(&connection));
    match asked {
        Ok(Some(Response::Failed { message })) => Err(Failure::new(message)),
        Ok(answer) => Ok(answer),
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Sends one line.
pub(super) fn say(mut connection: &UnixStream, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_string(what).expect("requests and answers are plain data");
    line.push('\n');
    connection.write_all(line.as_bytes())
}

/// Receives one line; `None` if the other side has closed.
pub(super) fn hear<T: for<'de> Deserialize<'de>>(
    connection: &UnixStream,
) -> std::io::Result<Option<T>> {
    let mut line = String::new();
    let bytes = BufReader::new(connection.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    if bytes == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(std::io::Error::other)
}
