//! Asks a running daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Answer, Refusal, Request, read_answer, to_line};
use crate::capture::Wanted;

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
    /// The answer does not come.
    #[error("the daemon at {} has not answered for {patience:?}", .socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        patience: Duration,
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
    let (line, _) =
        exchange(patience, socket, request).map_err(|source| unusable(patience, socket, source))?;
    match read_answer(&line)? {
        Answer::Ok(value) => Ok(serde_json::from_value(value)?),
        Answer::Error(refusal) => Err(refusal.into()),
    }
}

/// Asks for a capture; what is read from the connection is pcapng, as long as it is open.
pub fn capture(socket: &Path, wanted: Wanted) -> Result<impl Read + use<>, Error> {
    let exchanged = exchange(PATIENCE, socket, &Request::Capture(wanted));
    let (line, reader) = exchanged.map_err(|source| unusable(PATIENCE, socket, source))?;
    if let Answer::Error(refusal) = read_answer(&line)? {
        return Err(refusal.into());
    }
    // Frames may be a long time coming.
    reader.get_ref().set_read_timeout(None).map_err(|source| unusable(PATIENCE, socket, source))?;
    Ok(reader)
}

fn unusable(patience: Duration, socket: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NoDaemon { socket: socket.to_owned() }
        }
        // What a socket's time limit gives.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::Silent { socket: socket.to_owned(), patience }
        }
        _ => Error::Socket { socket: socket.to_owned(), source },
    }
}

fn exchange(
    patience: Duration,
    socket: &Path,
    request: &Request,
) -> io::Result<(Vec<u8>, BufReader<UnixStream>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&to_line(request)?)?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream);
    reader.read_until(b'\n', &mut line)?;
    Ok((line, reader))
}
