//! Whole batches through `process`, with tables, against an independent judge and against each frame alone.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::LazyLock;

use vxdp_dataplane::path::unfinished::finish;
use vxdp_dataplane::table::{
    Change, Df, NextHop, Overlay, Policy, Port, PortRange, Tos, Ttl, UdpChecksum, Underlay, Vtep, ZeroUdp6,
};
use vxdp_dataplane::wire::{Inner, MacAddr, Network, Vni};
use vxdp_dataplane::{
    DropReason, Family, Ingress, Local, Nanos, OverlayId, PortId, Slot, Tables, Verdict, VtepId, process,
};

use super::oracle;
use super::script::Script;

/// Containers 1 (here) and 2 (behind the peer), in both segments.
pub(super) const C: [MacAddr; 2] =
    [MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 2]), MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 3])];
/// The NICs of both hosts.
pub(super) const NIC: [MacAddr; 2] =
    [MacAddr::new([2, 0, 0, 0, 0, 0x21]), MacAddr::new([2, 0, 0, 0, 0, 0x22])];
pub(super) const UDP_PORT: u16 = 4789;
/// VNIs of the two segments, whose ports have the same numbers.
pub(super) const VNIS: [u32; 2] = [42, 43];
pub(super) const MTU: usize = 1450;

/// Inner frames that the hosts' tables name for certain.
const LONGEST: u16 = 1600;
const FRAMES: usize = 16;

/// The underlay address of host 0 or 1.
pub(super) fn address(family: Family, host: usize) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 10, 21 + host as u8]),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x21 + host as u16]),
    }
}

fn overlay(segment: usize, policy: Policy) -> Change {
    let vni = Vni::new(VNIS[segment]).expect("small enough");
    let overlay = Overlay { vni, port: UDP_PORT, policy };
    Change::Overlay(OverlayId::new(segment as u16), Some(overlay))
}

/// A host with a container in each of two segments, and the other host's containers behind it.
fn tables(family: Family, host: usize, rows: u32) -> Tables {
    let peer = VtepId::new(0);
    let next_hop = Some(NextHop { mac: NIC[1 - host], mtu: 1500, hop_limit: 64 });
    let mut changes = vec![Change::Vtep(peer, Some(Vtep { address: address(family, 1 - host), next_hop }))];
    for segment in 0..VNIS.len() {
        let (id, port) = (OverlayId::new(segment as u16), PortId::new(segment as u16));
        changes.extend([
            overlay(segment, Policy::default()),
            Change::Port(port, Some(Port { overlay: id, mtu: MTU as u16 })),
            Change::Local { overlay: id, mac: C[host], port: Some(port) },
            Change::Remote { overlay: id, mac: C[1 - host], vtep: Some(peer) },
        ]);
    }
    changes.extend((0..rows).map(|number| {
        let [a, b, c, d] = number.to_be_bytes();
        Change::Remote { overlay: OverlayId::new(0), mac: MacAddr::new([6, 6, a, b, c, d]), vtep: Some(peer) }
    }));
    let underlay = Underlay { local: address(family, host), mac: NIC[host] };
    Tables::new(underlay).with_changes(&changes).expect("valid")
}

/// So many that the tables count as large.
const ROWS: u32 = 20_000;

/// By family, and whether the tables are large; then by host.
static TABLES: LazyLock<[[Tables; 2]; 4]> = LazyLock::new(|| {
    let both = |family, rows| [tables(family, 0, rows), tables(family, 1, rows)];
    [both(Family::V4, 0), both(Family::V6, 0), both(Family::V4, ROWS), both(Family::V6, ROWS)]
});

/// One way of setting things up.
pub(super) struct World {
    pub(super) family: Family,
    pub(super) policy: Policy,
    /// Further MACs behind the peer in the first segment.
    rows: u32,
    /// The host whose batches are looked at, and the other one.
    hosts: [Tables; 2],
}

fn policy(script: &mut Script<'_>) -> Policy {
    let (choice, value) = (script.byte(), script.byte());
    Policy {
        ttl: match choice & 3 {
            0 => Ttl::Auto,
            1 => Ttl::Inherit,
            _ => NonZeroU8::new(value).map_or(Ttl::Auto, Ttl::Fixed),
        },
        tos: if choice & 4 == 0 { Tos::Inherit } else { Tos::Fixed(value) },
        df: [Df::Unset, Df::Set, Df::Inherit, Df::Inherit][usize::from(choice >> 3 & 3)],
        udp_checksum: if choice & 32 == 0 { UdpChecksum::Zero } else { UdpChecksum::Computed },
        zero_udp6: if choice & 64 == 0 { ZeroUdp6::Accept } else { ZeroUdp6::Drop },
        source_ports: PortRange::new(script.word(), script.word()),
    }
}

impl World {
    fn read(script: &mut Script<'_>) -> Self {
        let choice = usize::from(script.byte() & 3);
        let family = if choice & 1 == 0 { Family::V4 } else { Family::V6 };
        let policy = policy(script);
        let with_policy =
            |tables: &Tables| tables.with_changes(&[overlay(0, policy), overlay(1, policy)]).expect("valid");
        let rows = if choice & 2 == 0 { 0 } else { ROWS };
        Self { family, policy, rows, hosts: TABLES[choice].each_ref().map(with_policy) }
    }

    /// Whether a MAC of a segment is behind the peer.
    pub(super) fn is_remote(&self, segment: usize, mac: &[u8]) -> bool {
        let is_row = || match mac {
            [6, 6, rest @ ..] => {
                segment == 0 && rest.first_chunk().is_some_and(|n| u32::from_be_bytes(*n) < self.rows)
            }
            _ => false,
        };
        mac == C[1].octets() || is_row()
    }

    fn room(&self) -> usize {
        self.family.encap_room()
    }

    /// A frame of the peer's, as it would be on the wire; empty where the peer does not send it.
    fn sent_by_peer(&self, segment: u8, frame: &[u8]) -> Vec<u8> {
        let mut data = [&vec![0; self.room()], frame].concat();
        let port = PortId::new(u16::from(segment & 1));
        match alone(&self.hosts[1], Ingress::Port(port), &mut data) {
            Verdict::ToUnderlay { len } => data.truncate(len),
            Verdict::ToPort { .. } | Verdict::Drop(_) => data.clear(),
        }
        data
    }

    /// The next frame of the script.
    fn frame(&self, script: &mut Script<'_>) -> (Ingress, Vec<u8>) {
        let kind = script.byte();
        let bytes = script.bytes(LONGEST);
        let known = |from: usize| [&C[1 - from].octets()[..], &C[from].octets(), bytes].concat();
        let port = Ingress::Port(PortId::new(u16::from(kind >> 4 & 3)));
        match kind & 3 {
            0 => (Ingress::Underlay, bytes.to_vec()),
            1 => (port, bytes.to_vec()),
            2 => (port, [vec![kind; self.room()], known(0)].concat()),
            _ => {
                let mut outer = self.sent_by_peer(kind >> 4, &known(1));
                for _ in 0..kind >> 6 {
                    let (at, byte) = (script.word(), script.byte());
                    if let Some(place) = outer.get_mut(usize::from(at % 160)) {
                        *place = byte;
                    }
                }
                // Otherwise hardly any change would get past the checksum.
                if kind & 4 != 0 {
                    oracle::mend_ipv4_checksum(&mut outer);
                }
                (Ingress::Underlay, outer)
            }
        }
    }
}

fn alone(tables: &Tables, ingress: Ingress, data: &mut [u8]) -> Verdict {
    let mut batch = [Slot::new(ingress, data)];
    process(Nanos(1), &mut batch, tables, &mut Local::new(0));
    batch[0].verdict
}

/// A world and a batch of frames.
pub(super) fn check(input: &[u8]) {
    let mut script = Script::new(input);
    let world = World::read(&mut script);
    let mut frames = Vec::new();
    while !script.is_over() && frames.len() < FRAMES {
        frames.push(world.frame(&mut script));
    }
    let mut done = frames.clone();
    let verdicts = run(&world.hosts[0], &mut done);
    for (((ingress, before), (_, after)), verdict) in frames.iter().zip(&done).zip(verdicts) {
        let mut single = before.clone();
        assert_eq!(alone(&world.hosts[0], *ingress, &mut single), verdict, "alone it is judged otherwise");
        match (*ingress, verdict) {
            (Ingress::Underlay, Verdict::ToUnderlay { .. }) => panic!("a frame from the wire went back"),
            (Ingress::Port(_), Verdict::ToPort { .. }) => panic!("a container's frame went to a container"),
            (Ingress::Underlay, verdict) => world.arrived(before, after, verdict),
            (Ingress::Port(port), verdict) => world.left(port, before, after, verdict),
        }
    }
}

/// Runs a batch and checks that the counters say what the verdicts say.
fn run(tables: &Tables, frames: &mut [(Ingress, Vec<u8>)]) -> Vec<Verdict> {
    let mut local = Local::new(0);
    let mut batch: Vec<_> = frames.iter_mut().map(|(from, data)| Slot::new(*from, data)).collect();
    process(Nanos(1), &mut batch, tables, &mut local);
    let verdicts: Vec<_> = batch.iter().map(|slot| slot.verdict).collect();
    let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count() as u64;
    let stats = local.stats();
    assert_eq!(stats.encap().frames, count(|verdict| matches!(verdict, Verdict::ToUnderlay { .. })));
    assert_eq!(stats.decap().frames, count(|verdict| matches!(verdict, Verdict::ToPort { .. })));
    assert_eq!(stats.all_drops(), count(|verdict| matches!(verdict, Verdict::Drop(_))));
    verdicts
}

impl World {
    /// A frame from the wire is delivered exactly where the judge says so, as the judge says.
    fn arrived(&self, before: &[u8], after: &[u8], verdict: Verdict) {
        let delivered = match verdict {
            Verdict::ToPort { port, len } => Some((port, after[..len].to_vec())),
            Verdict::ToUnderlay { .. } | Verdict::Drop(_) => None,
        };
        assert_eq!(delivered, oracle::judge(self, before), "{verdict:?}");
    }

    /// A container's frame has outer headers that etherparse finds nothing wrong with, and comes back out of
    /// them at the peer.
    fn left(&self, port: PortId, before: &[u8], after: &[u8], verdict: Verdict) {
        let len = match verdict {
            Verdict::ToUnderlay { len } => len,
            Verdict::ToPort { .. } => return,
            Verdict::Drop(reason) => return self.kept(port, before, reason),
        };
        assert_eq!(len, after.len());
        oracle::inspect(self, usize::from(port.get()), after);
        let mut expected = before[self.room()..].to_vec();
        let inner = Inner::parse(&expected);
        finish(&mut expected, &inner);
        assert_eq!(after[self.room()..], expected);
        let mut wire = after.to_vec();
        match alone(&self.hosts[1], Ingress::Underlay, &mut wire) {
            Verdict::ToPort { port: at, len } => {
                assert_eq!((at, &wire[..len]), (port, &expected[..]));
            }
            // Longer than a tagged frame of the port's MTU, and shorter than the underlay's.
            Verdict::Drop(DropReason::PktTooBig) => assert!(expected.len() > MTU + 18),
            Verdict::Drop(
                DropReason::MacInvalidSource | DropReason::UnknownSource | DropReason::LocalMac,
            ) => {
                assert_ne!(expected[6..12], C[0].octets());
            }
            Verdict::Drop(DropReason::UnknownDestination) => assert_ne!(expected[..6], C[1].octets()),
            Verdict::Drop(DropReason::UdpCsum) => {
                assert_eq!(self.family, Family::V6);
                assert_eq!(
                    (self.policy.udp_checksum, self.policy.zero_udp6),
                    (UdpChecksum::Zero, ZeroUdp6::Drop)
                );
            }
            other => panic!("the peer gets {other:?}"),
        }
    }

    /// A container's frame is kept back for a reason that can be seen.
    fn kept(&self, port: PortId, before: &[u8], reason: DropReason) {
        match reason {
            DropReason::UnknownPort => assert!(usize::from(port.get()) >= VNIS.len()),
            DropReason::NoHeadroom => assert!(before.len() < self.room() + 14),
            DropReason::VxlanNoRemote => {
                let destination = &before[self.room()..self.room() + 6];
                assert!(!self.is_remote(usize::from(port.get()), destination));
            }
            DropReason::PktTooBig => assert!(before.len() > 14 + 1500),
            DropReason::PktTooSmall => {
                let frame = &before[self.room()..];
                let inner = Inner::parse(frame);
                assert!(inner.network == Network::Truncated || inner.tags > 0 && frame.len() < 20);
            }
            other => panic!("dropped for {other:?}"),
        }
    }
}
