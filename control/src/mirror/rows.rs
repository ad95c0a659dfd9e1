//! A dump of a namespace's forwarding tables, in a thread of its own, no faster than it is used.
//!
//! In a thread of its own because the kernel puts the next rows together inside our system call, which among a
//! million rows takes longer than a change may take to be published; a runtime with a task that always has something
//! to do looks at its sockets now and then only.
//! `rtnetlink` reads ahead into an unbounded queue: a dump of a million rows grew this process by tens of MiB.

use std::io;
use std::thread;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::message::Row;
use crate::netns::Netns;
use crate::watch::{DATAGRAM, answers};

/// How long the kernel may take for the next rows of a dump, which it puts together when it is asked for them.
const SILENCE: Duration = Duration::from_secs(30);

/// Pieces that are older than a change of which the kernel has told us at most: one that we have not asked for yet,
/// which the kernel puts together when it gives out the one before (`netlink_recvmsg`, net/netlink/af_netlink.c), one
/// in the task's hand, one in the channel. One more, because a vxlan device tells of a row that goes shortly before
/// it takes it away (`vxlan_fdb_destroy`, drivers/net/vxlan/vxlan_core.c).
pub(super) const AHEAD: u64 = 4;

/// How long the end of a dump that is given up is waited for: its thread has one system call to finish.
const LETTING_GO: Duration = Duration::from_secs(1);

/// What a dump gives.
pub(super) enum Piece {
    /// Some rows.
    Rows(Vec<Row>),
    /// There are no more.
    End {
        /// Whether the kernel said that what it gave does not fit together (`NLM_F_DUMP_INTR`).
        torn: bool,
    },
}

/// A dump under way.
pub(super) struct Rows {
    pieces: mpsc::Receiver<io::Result<Piece>>,
    /// Closes when the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Rows {
    /// Asks for all bridge and vxlan rows of a namespace.
    pub(super) fn of(netns: &Netns) -> io::Result<Self> {
        let netns = netns.clone();
        let (sender, pieces) = mpsc::channel(1);
        let (ending, ended) = oneshot::channel();
        thread::Builder::new().name("vxdp-rows".to_owned()).spawn(move || {
            if let Err(error) = netns.run(|| give(&sender)) {
                // Whoever has given it up does not need to know.
                let _ = sender.blocking_send(Err(error));
            }
            drop(netns);
            drop(ending);
        })?;
        Ok(Self { pieces, ended })
    }

    /// A dump that gives nothing.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { pieces: mpsc::channel(1).1, ended: oneshot::channel().1 }
    }

    /// The next piece, up to the end. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// As the socket's, and [`io::ErrorKind::TimedOut`] where neither rows nor an end come.
    pub(super) async fn next(&mut self) -> io::Result<Piece> {
        let lost = || io::Error::other("a dump of rows broke off");
        self.pieces.recv().await.unwrap_or_else(|| Err(lost()))
    }

    /// Gives it up. Its socket would keep the namespace alive, so this waits until it is closed.
    pub(super) async fn end(self) {
        drop(self.pieces);
        let _ = timeout(LETTING_GO, self.ended).await;
    }
}

/// Dumps the rows of the thread's namespace.
fn give(sender: &mpsc::Sender<io::Result<Piece>>) -> io::Result<()> {
    let mut dump = Dump::begin(SILENCE)?;
    dump.ask()?;
    loop {
        let piece = dump.next()?;
        let is_last = matches!(piece, Piece::End { .. });
        if sender.blocking_send(Ok(piece)).is_err() || is_last {
            return Ok(());
        }
    }
}

/// A dump of all bridge and vxlan rows of a namespace.
struct Dump {
    socket: Socket,
    datagram: Vec<u8>,
    /// Whether the kernel said that it is not consistent (`NLM_F_DUMP_INTR`).
    torn: bool,
    ended: bool,
}

impl Dump {
    /// Waits at most for `silence` each time.
    fn begin(silence: Duration) -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(silence))?;
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM), torn: false, ended: false })
    }

    fn ask(&self) -> io::Result<()> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut datagram = vec![0; request.buffer_len()];
        request.serialize(&mut datagram);
        self.socket.send(&datagram, 0).map(drop)
    }

    fn next(&mut self) -> io::Result<Piece> {
        if self.ended {
            return Ok(Piece::End { torn: self.torn });
        }
        self.datagram.clear();
        let received = loop {
            match self.socket.recv(&mut self.datagram, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        received.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "a dump of rows does not go on")
            }
            _ => error,
        })?;
        let mut rows = Vec::new();
        for answer in answers(&self.datagram) {
            self.torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                    rows.extend(Row::read(&message));
                }
                NetlinkPayload::Done(end) if end.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-end.code));
                }
                NetlinkPayload::Done(_) => self.ended = true,
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(Piece::Rows(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_does_not_go_on_is_given_up() {
        // Nobody has asked on this socket, so nothing comes.
        let mut dump = Dump::begin(Duration::from_millis(10)).expect("a socket");
        let piece = dump.next();
        assert!(matches!(&piece, Err(error) if error.kind() == io::ErrorKind::TimedOut));
    }
}
