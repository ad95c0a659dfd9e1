//! What the two sides say to each other: JSON, a line each, over TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vxdp_lab::Mode;

use crate::subject::Kind;

/// No message is longer.
const LONGEST: usize = 16 << 10;
/// How often somebody who waits looks whether to go on.
const LOOK: Duration = Duration::from_millis(100);
/// Seconds without a sign of life before the other side is asked for one, and between more of these.
const ALIVE: u32 = 5;
/// So many questions without an answer, and it is gone. A path under overload may lose some.
const QUESTIONS: u32 = 6;

/// What the measuring side wants of the sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    /// Comes first, and once: who asks, and which container is the other end. The answer is a [`Welcome`].
    Hello {
        /// Version of the benchmark, the same on both sides.
        version: String,
        /// The overlay.
        vni: u32,
        /// The container's address.
        address: Ipv4Addr,
    },
    /// Switches the overlay.
    Mode(Mode),
    /// How the overlay works in this mode of the benchmark, which it is in.
    Regime(Named),
    /// What each path of the overlay has carried so far.
    Carried,
    /// Attaches a sink that counts, for the mode that the overlay is in.
    Count,
    /// Measuring frames so far.
    Frames,
    /// The same when no frame comes any more.
    Drained,
    /// Starts an echo; the answer is its address.
    Echo,
    /// Takes sink and echo away.
    Rest,
}

/// A kind of subject by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named(String);

impl Named {
    pub(super) fn of(kind: Kind) -> Self {
        Self(kind.as_str().to_owned())
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        let found = Kind::MODES.into_iter().find(|kind| kind.as_str() == self.0);
        found.with_context(|| format!("there is no mode `{}`", self.0))
    }
}

/// The other container, as the sink's side has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Its MAC.
    pub(super) mac: [u8; 6],
    /// The machine it is on.
    pub(super) machine: crate::report::Machine,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It was done; the value depends on the request.
    Done(serde_json::Value),
    /// It was not, for this reason.
    Refused(String),
}

/// One side of the connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    /// Over a connection that stands.
    pub(super) fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        // Who is switched off sends no farewell.
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &ALIVE)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &ALIVE)?;
        setsockopt(&stream, sockopt::TcpKeepCount, &QUESTIONS)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends one message.
    pub(super) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(self.stream.write_all(&line)?)
    }

    /// The next message, which must come within `patience` if there is one; nothing when the other side has hung up.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, patience: Option<Duration>) -> Result<Option<T>> {
        let start = Instant::now();
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.drain(..=end).collect::<Vec<_>>();
                return Ok(Some(serde_json::from_slice(&line).context("not a message of this benchmark")?));
            }
            ensure!(self.buffer.len() <= LONGEST, "not a message of this benchmark: it has no end");
            ensure!(!vxdp_lab::interrupted(), "interrupted");
            if let Some(patience) = patience.filter(|patience| start.elapsed() > *patience) {
                bail!("no answer for {patience:?}");
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
