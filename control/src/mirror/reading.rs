//! Reading a namespace's forwarding tables anew, piece by piece, beside the tables that are in use.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::wire::MacAddr;

use super::fdb::{Fdb, Limits};
use super::message::Row;
use super::state::Mirror;
use super::work::Work;
use crate::netns::Netns;
use crate::watch::{DATAGRAM, payloads};

/// Most MACs that may change while a reading lasts; about 1 MiB. Where more do, it is out of date when it ends.
const CHANGED: usize = 1 << 16;

/// A dump of all bridge and vxlan rows of a namespace, read no faster than it is used.
///
/// `rtnetlink` reads ahead into an unbounded queue: a dump of a million rows grew this process by tens of MiB.
struct Dump {
    socket: TokioSocket,
    datagram: Vec<u8>,
    ended: bool,
}

impl Dump {
    async fn begin(netns: &Netns) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let socket = netns.run(|| {
            let _guard = runtime.enter();
            let mut socket = TokioSocket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            socket.socket_mut().connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        })?;
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut datagram = vec![0; request.buffer_len()];
        request.serialize(&mut datagram);
        socket.send(&datagram).await?;
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM), ended: false })
    }

    /// The next rows; `None` behind the last ones. Cancelling the wait loses nothing.
    async fn next(&mut self) -> io::Result<Option<Vec<Row>>> {
        if self.ended {
            return Ok(None);
        }
        self.datagram.clear();
        self.socket.recv_from(&mut self.datagram).await?;
        let mut rows = Vec::new();
        for payload in payloads(&self.datagram) {
            match payload {
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
        Ok(Some(rows))
    }
}

/// Tables that fill up, to take the place of those in use.
///
/// What changes meanwhile is followed in the tables in use, and those MACs keep what they have there.
pub(super) struct Reading {
    /// Position of the namespace.
    pub(super) namespace: usize,
    dump: Dump,
    fresh: HashMap<OverlayId, Fdb>,
    /// Learned MACs that the tables in use do not have.
    newcomers: HashMap<OverlayId, usize>,
    changed: HashSet<(OverlayId, MacAddr)>,
}

impl Reading {
    /// Begins to read the namespace at this position into these tables, which are empty.
    pub(super) async fn begin(
        namespace: usize,
        netns: &Netns,
        fresh: HashMap<OverlayId, Fdb>,
    ) -> io::Result<Self> {
        let dump = Dump::begin(netns).await?;
        Ok(Self { namespace, dump, fresh, newcomers: HashMap::new(), changed: HashSet::new() })
    }

    /// The next rows; `None` behind the last ones. Cancelling the wait loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<Row>>> {
        self.dump.next().await
    }

    /// Takes a row in, as far as there is room beside what the `mirror` has.
    pub(super) fn take(
        &mut self,
        overlay: OverlayId,
        row: &Row,
        mirror: &Mirror,
        limits: Limits,
        refused: &AtomicU64,
    ) {
        let Some(fdb) = self.fresh.get_mut(&overlay) else { return };
        let used = mirror.fdb(overlay);
        let stays = used.zip(row.mac()).is_some_and(|(used, mac)| used.knows(mac));
        let newcomers = self.newcomers.entry(overlay).or_default();
        // Learned MACs that are mirrored keep their place, and the rest is for others. By the order of the dump
        // alone, a flood of made-up MACs would push known ones out.
        let room = *newcomers < limits.learned.saturating_sub(used.map_or(0, Fdb::learned));
        let limits = Limits { learned: if stays || room { usize::MAX } else { 0 }, ..limits };
        if !fdb.has_room_for(row, limits) {
            refused.fetch_add(1, Relaxed);
            return;
        }
        let learned = fdb.learned();
        match row {
            Row::Bridge(row) => fdb.bridge_row(row),
            Row::Tunnel(row) => fdb.tunnel_row(row),
            Row::Neighbour(_) => None,
        };
        if !stays && fdb.learned() > learned {
            *newcomers += 1;
        }
    }

    /// A notification told of this MAC. Whether the reading is still worth its end.
    pub(super) fn changed(&mut self, overlay: OverlayId, mac: MacAddr) -> bool {
        self.changed.insert((overlay, mac));
        self.changed.len() <= CHANGED
    }

    /// Puts the tables in the place of those in use.
    pub(super) fn finish(mut self, mirror: &mut Mirror, work: &mut Work) {
        for (overlay, mac) in self.changed {
            if let Some((fresh, used)) = self.fresh.get_mut(&overlay).zip(mirror.fdb(overlay)) {
                fresh.adopt(mac, used);
            }
        }
        for (overlay, fdb) in self.fresh {
            work.take(mirror.dumped(overlay, fdb));
        }
    }
}
