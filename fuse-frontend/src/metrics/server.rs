//! The place where metrics are fetched: HTTP on a TCP address or a Unix socket.
//!
//! As much HTTP as a scraper needs: one GET for each connection, `/metrics` and nothing else. A
//! thread of its own answers one after the other; who is slow is cut off.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use super::exposition;
use crate::control::Status;
use crate::failure::Failure;

/// Longest request in bytes, its header fields included.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// How long a client may take to ask, and to take the answer.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(5);
/// The format, with its version.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addresses) => match addresses.first() {
                Some(address) => address.fmt(f),
                None => f.write_str("no address"),
            },
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// What `--metrics` was given: `HOST:PORT`, `:PORT` for this machine only, or
    /// `unix:PATH`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(path) = text.strip_prefix("unix:") {
            // The daemon leaves the current directory.
            return std::path::absolute(path)
                .map(Self::Unix)
                .map_err(|error| Failure::usage(format!("--metrics {text}: {error}")));
        }
        let local = text.strip_prefix(':').map(|port| format!("127.0.0.1:{port}"));
        let addresses = local.as_deref().unwrap_or(text).to_socket_addrs();
        let addresses: Vec<_> = addresses.into_iter().flatten().collect();
        if addresses.is_empty() {
            return Err(Failure::usage(format!(
                "--metrics {text}: give HOST:PORT, :PORT for this machine only, or unix:PATH"
            )));
        }
        Ok(Self::Tcp(addresses))
    }
}

/// A place that is ready to be asked.
pub struct Listener {
    address: Address,
    from: Source,
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Takes the place.
    ///
    /// # Errors
    /// Somebody else has it, or it cannot be had.
    pub fn bind(address: &Address) -> Result<Self, Failure> {
        let from = match address {
            Address::Tcp(addresses) => TcpListener::bind(addresses.as_slice()).map(Source::Tcp),
            Address::Unix(path) => {
                let is_socket = |meta: std::fs::Metadata| meta.file_type().is_socket();
                // A daemon that was killed leaves its socket behind.
                if std::fs::symlink_metadata(path).is_ok_and(is_socket)
                    && UnixStream::connect(path).is_err()
                {
                    let _ = std::fs::remove_file(path);
                }
                UnixListener::bind(path).map(Source::Unix)
            }
        };
        let from = from
            .map_err(|error| Failure::new(format!("cannot show metrics at {address}: {error}")))?;
        Ok(Self { address: address.clone(), from })
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn serve(self, status: Weak<Status>) -> Result<(), Failure> {
        let address = self.address.to_string();
        tracing::info!(address, "metrics are shown");
        let serve = move || match self.from {
            Source::Tcp(listener) => {
                for client in listener.incoming().flatten() {
                    let _ = client.set_read_timeout(Some(CLIENT_TIME_MAX));
                    let _ = client.set_write_timeout(Some(CLIENT_TIME_MAX));
                    answer(client, &status);
                }
            }
            Source::Unix(listener) => {
                for client in listener.incoming().flatten() {
                    let _ = client.set_read_timeout(Some(CLIENT_TIME_MAX));
                    let _ = client.set_write_timeout(Some(CLIENT_TIME_MAX));
                    answer(client, &status);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lanefs-metrics".into()).spawn(serve);
        thread.map(drop).map_err(|error| Failure::new(format!("cannot show metrics: {error}")))
    }
}

fn answer(mut client: impl Read + Write, status: &Weak<Status>) {
    let asked = asked_for(&mut client);
    let (code, kind, body) = match asked.as_deref() {
        Some("/metrics") => match exposition(status) {
            Some(text) => ("200 OK", CONTENT_TYPE, text),
            None => ("503 Service Unavailable", "text/plain", "the mount is ending\n".to_owned()),
        },
        Some(_) => ("404 Not Found", "text/plain", "ask for /metrics\n".to_owned()),
        None => ("400 Bad Request", "text/plain", "ask by GET for /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // Who has gone away does not want it.
    let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(body.as_bytes()));
}

/// The path of a GET request, without its query; the header fields are read and left alone.
fn asked_for(client: &mut impl Read) -> Option<String> {
    let mut lines = BufReader::new(client.take(REQUEST_BYTES_MAX)).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    loop {
        // A header that is cut off is no request.
        if lines.next()?.ok()?.is_empty() {
            break;
        }
    }
    let path = target.split('?').next()?.to_owned();
    (method == "GET").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(
            Address::parse(":9100").expect("a port"),
            Address::parse("127.0.0.1:9100").expect("an address")
        );
        assert_eq!(
            Address::parse("unix:/run/m").expect("a path"),
            Address::Unix(PathBuf::from("/run/m"))
        );
        for wrong in ["9100", "", "unix:", ":many"] {
            let failure = Address::parse(wrong).expect_err(wrong);
            assert_eq!(failure.exit_code, crate::failure::EXIT_USAGE, "{wrong}");
        }
    }

    #[test]
    fn requests() {
        let path = |text: &str| asked_for(&mut text.as_bytes());
        let metrics = Some("/metrics".to_owned());
        assert_eq!(path("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), metrics);
        assert_eq!(path("GET /metrics?x=y HTTP/1.0\r\n\r\n"), metrics);
        assert_eq!(path("POST /metrics HTTP/1.1\r\n\r\n"), None);
        assert_eq!(path("GET /metrics HTTP/1.1\r\nHost: a\r\n"), None, "it has no end");
        let endless = format!("GET /metrics HTTP/1.1\r\n{}", "a: b\r\n".repeat(5000));
        assert_eq!(path(&endless), None, "it is too long");
    }
}
