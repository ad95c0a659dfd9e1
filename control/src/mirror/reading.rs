//! Reading a namespace's forwarding tables anew, piece by piece, beside the tables that are in use.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::{Instant, timeout_at};
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::wire::MacAddr;

use super::fdb::{Fdb, Limits};
use super::message::Row;
use super::state::Mirror;
use super::work::Work;
use crate::netns::Netns;
use crate::watch::{DATAGRAM, answers};

/// Most MACs that may change while a reading lasts; about 1 MiB. Where more do, it is out of date when it ends.
const CHANGED: usize = 1 << 16;

/// How long the kernel may take for the next rows of a dump, which it puts together when it is asked for them.
const SILENCE: Duration = Duration::from_secs(30);

/// A dump of all bridge and vxlan rows of a namespace, read no faster than it is used.
///
/// `rtnetlink` reads ahead into an unbounded queue: a dump of a million rows grew this process by tens of MiB.
struct Dump {
    socket: TokioSocket,
    datagram: Vec<u8>,
    /// When the kernel is given up.
    deadline: Instant,
    /// Whether the kernel said that it is not consistent (`NLM_F_DUMP_INTR`).
    torn: bool,
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
        let deadline = Instant::now() + SILENCE;
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM), deadline, torn: false, ended: false })
    }

    /// The next rows; `None` behind the last ones. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// As the socket's, and [`io::ErrorKind::TimedOut`] where neither rows nor an end come.
    async fn next(&mut self) -> io::Result<Option<Vec<Row>>> {
        if self.ended {
            return Ok(None);
        }
        self.datagram.clear();
        let received = timeout_at(self.deadline, self.socket.recv_from(&mut self.datagram)).await;
        received.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "a dump of rows does not go on"))??;
        self.deadline = Instant::now() + SILENCE;
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
        Ok(Some(rows))
    }
}

/// MACs of which the last reading of their tables did not find every row.
///
/// The kernel goes on with a dump by counting rows (`rtnl_fdb_dump`, net/core/rtnetlink.c): when one goes that was
/// read already, another one is passed over. So a row goes out of the mirror on the word of two readings.
#[derive(Debug, Default)]
pub(super) struct Doubts(HashSet<(OverlayId, MacAddr)>);

impl Doubts {
    /// A notification told of this MAC.
    pub(super) fn told(&mut self, overlay: OverlayId, mac: MacAddr) {
        self.0.remove(&(overlay, mac));
    }

    /// Keeps in a table that was read what `used` has beyond it, unless it was missing the last time already;
    /// whether another reading is due to tell. What `is_known` is no doubt.
    fn keep(
        &mut self,
        overlay: OverlayId,
        fresh: &mut Fdb,
        used: &Fdb,
        is_known: impl Fn(MacAddr) -> bool,
    ) -> bool {
        let before: HashSet<_> = self.0.extract_if(|(of, _)| *of == overlay).collect();
        let mut new = false;
        for mac in used.lacking_in(fresh) {
            if is_known(mac) || before.contains(&(overlay, mac)) {
                continue;
            }
            fresh.adopt(mac, used);
            // Those beyond the limit are in doubt again the next time.
            new |= self.0.len() < CHANGED && self.0.insert((overlay, mac));
        }
        new && before.is_empty()
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

    /// Whether the kernel said that what was read does not fit together.
    pub(super) fn is_torn(&self) -> bool {
        self.dump.torn
    }

    /// Keeps what was not found this once; whether another reading is due, because of new doubts.
    pub(super) fn keep_doubtful(&mut self, mirror: &Mirror, doubts: &mut Doubts) -> bool {
        let mut again = false;
        for (&overlay, fresh) in &mut self.fresh {
            if let Some(used) = mirror.fdb(overlay) {
                again |= doubts.keep(overlay, fresh, used, |mac| self.changed.contains(&(overlay, mac)));
            }
        }
        again
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::message::{BridgeRow, Life};
    use vxdp_dataplane::wire::Vni;

    const OVERLAY: OverlayId = OverlayId::new(0);

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([2, 0x42, 10, 0, 0, last])
    }

    /// A table with these MACs behind container ports.
    fn table(macs: &[u8]) -> Fdb {
        let mut fdb = Fdb::new(Vni::from_wire([0, 0, 42]), 4789, 5);
        for last in macs {
            let row = BridgeRow { bridge: 4, port: 6, mac: mac(*last), vlan: None, life: Life::Static };
            fdb.bridge_row(&row);
        }
        fdb
    }

    /// What a reading that found `found` leaves of a table with 1, 2 and 3, and whether another one is due.
    fn kept(doubts: &mut Doubts, found: &[u8], known: &[u8]) -> (Vec<u8>, bool) {
        let mut fresh = table(found);
        let again =
            doubts.keep(OVERLAY, &mut fresh, &table(&[1, 2, 3]), |it| known.iter().any(|k| mac(*k) == it));
        ((1..=3).filter(|last| fresh.knows(mac(*last))).collect(), again)
    }

    #[tokio::test]
    async fn a_dump_that_does_not_go_on_is_given_up() {
        // Nobody has asked on this socket, so nothing comes.
        let socket = TokioSocket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let deadline = Instant::now();
        let mut dump = Dump { socket, datagram: Vec::new(), deadline, torn: false, ended: false };
        assert_eq!(dump.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_row_goes_when_two_readings_in_turn_have_not_found_it() {
        let mut doubts = Doubts::default();
        assert_eq!(kept(&mut doubts, &[1, 2], &[]), (vec![1, 2, 3], true));
        assert_eq!(kept(&mut doubts, &[1, 2], &[]), (vec![1, 2], false));
    }

    #[test]
    fn a_row_that_one_reading_passes_over_stays() {
        let mut doubts = Doubts::default();
        assert_eq!(kept(&mut doubts, &[1, 2], &[]), (vec![1, 2, 3], true));
        // Another one this time, which waits for the next audit: two readings are enough for one.
        assert_eq!(kept(&mut doubts, &[1, 3], &[]), (vec![1, 2, 3], false));
        assert_eq!(kept(&mut doubts, &[1, 2, 3], &[]), (vec![1, 2, 3], false));
        assert_eq!(kept(&mut doubts, &[2, 3], &[]), (vec![1, 2, 3], true));
    }

    #[test]
    fn a_row_that_was_told_of_between_two_readings_is_in_doubt_anew() {
        let mut doubts = Doubts::default();
        kept(&mut doubts, &[1, 2], &[]);
        doubts.told(OVERLAY, mac(3));
        assert_eq!(kept(&mut doubts, &[1, 2], &[]), (vec![1, 2, 3], true));
    }

    #[test]
    fn what_notifications_told_during_a_reading_is_no_doubt() {
        assert_eq!(kept(&mut Doubts::default(), &[1, 2], &[3]), (vec![1, 2], false));
    }
}
