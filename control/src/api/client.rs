//! Asks a running daemon.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Answer, Refusal, Request, read_answer, to_line};

/// How long an answer may take; `down` waits until everything is removed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody serves the socket.
    #[error("no daemon answers at {}; start one with: vxdp run --config FILE", .socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket is there and cannot be used.
    #[error("cannot talk to the daemon at {}", .socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What came back is not an answer.
    #[error("the daemon's answer cannot be read; is it of another version than this program?")]
    Unreadable(#[from] serde_json::Error),
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks the daemon at `socket` and reads its answer.
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, Error> {
    ask_within(PATIENCE, socket, request)
}

/// As [`ask`], with a time in which the answer must come.
pub fn ask_within<T: DeserializeOwned>(
    patience: Duration,
    socket: &Path,
    request: &Request,
) -> Result<T, Error> {
    let line = exchange(patience, socket, request).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NoDaemon { socket: socket.to_owned() }
        }
        _ => Error::Socket { socket: socket.to_owned(), source },
    })?;
    match read_answer(&line)? {
        Answer::Ok(value) => Ok(serde_json::from_value(value)?),
        Answer::Error(refusal) => Err(refusal.into()),
    }
}

fn exchange(patience: Duration, socket: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&to_line(request)?)?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line)?;
    Ok(line)
}
