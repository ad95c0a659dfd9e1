//! Taking over from a daemon that serves the same socket: it stops, the kernel's path carries, we begin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::api::client::{self, ask_within};
use crate::api::server::{self, Claim};
use crate::api::{Kind, Request};

/// How long the other daemon may take over its last job and its last frames. It takes tens of milliseconds; one
/// that loads a million rows at the moment takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to do when another daemon serves the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRunning {
    /// Leave it alone, and fail.
    Refuse,
    /// Have it stop, and go on in its place.
    TakeOver,
}

/// Why the other daemon is still there. It goes on as before unless it has said otherwise in its log.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot take over from the vxdp{} that serves {}: {source}\nStop that one by hand (`kill PID`, or `kill -9 PID` \
     if it hangs): its kernel overlay goes on forwarding, and this one adopts it",
    .pid.map_or_else(String::new, |pid| format!(" (pid {pid})")), .socket.display()
)]
pub struct Error {
    socket: PathBuf,
    pid: Option<u32>,
    source: client::Error,
}

/// Claims the socket, from another daemon if that is wanted.
pub(super) fn claim(socket: &Path, if_running: IfRunning) -> Result<Claim, super::Error> {
    let pid = match (Claim::new(socket), if_running) {
        (Err(server::Error::Taken { pid, .. }), IfRunning::TakeOver) => pid,
        (claim, _) => return Ok(claim?),
    };
    tracing::info!(pid, "taking over from the daemon that runs");
    match ask_within::<Value>(PATIENCE, socket, &Request::HandOver) {
        // A daemon that is ending by itself no longer answers, or says that it is stopping.
        Ok(_) | Err(client::Error::NoDaemon { .. }) => {}
        Err(client::Error::Refused(refusal)) if refusal.kind == Kind::Busy => {}
        Err(source) => return Err(Error { socket: socket.to_owned(), pid, source }.into()),
    }
    Ok(claim_from_the_ending(socket)?)
}

/// The other one lets go of the lock before it answers; one that was ending anyway does so soon.
fn claim_from_the_ending(socket: &Path) -> Result<Claim, server::Error> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match Claim::new(socket) {
            Err(server::Error::Taken { .. }) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            claim => return claim,
        }
    }
}
