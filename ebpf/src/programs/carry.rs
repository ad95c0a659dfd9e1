//! What the in-kernel engine's programs have in common at either hook.

use vxdp_ebpf::{COUNTED_VTEPS, Family, FdbKey, Flows, Port, Row, Settings, Verdict};

use super::encap::Headers;
use super::frame::{Ethernet, Ipv4, Ipv6, Packet, Udp, header};
use super::inner::ecn;
use super::maps::{HITS, IDENTS, PORT_FLOWS, PORTS, VTEP_FLOWS};
use super::underlay::{self, Arrival};

const ETHERNET: usize = size_of::<Ethernet>();

/// A frame of the tunnel that a program can take out of it, if its length fits: the port it is for, and the inner
/// frame's length.
#[inline(always)]
pub(super) fn arrival(packet: &impl Packet) -> Result<(Arrival, &'static Port, usize), Verdict> {
    let arrival = underlay::known(packet)?;
    if arrival.settings.ethertype != const { Family::V4.ethertype() }
        || header::<Udp>(packet, ETHERNET + size_of::<Ipv4>()).is_none_or(|udp| udp.checksum.get() != 0)
    {
        return Err(Verdict::OuterChecksum);
    }
    // What is behind the datagram would stay behind the inner frame.
    if arrival.end != packet.length() {
        return Err(Verdict::BadLength);
    }
    // A number may have become another segment's port before the row that names it goes.
    let serves = |port: &&Port| port.enabled != 0 && port.overlay == arrival.overlay;
    let port = PORTS.get(arrival.port).filter(serves).ok_or(Verdict::Disabled)?;
    Ok((arrival, port, packet.length() - const { Headers::ROOM }))
}

/// The codepoint that the inner packet must get (RFC 6040, section 4.2, figure 4).
#[inline(always)]
pub(super) fn congestion(packet: &impl Packet, ethertype: u16) -> Result<Option<u8>, Verdict> {
    let at = const { Headers::ROOM + ETHERNET };
    let dsfield = match ethertype {
        0x0800 => header::<Ipv4>(packet, at).ok_or(Verdict::BadLength)?.version_ihl_tos.get() as u8,
        0x86dd => {
            (header::<Ipv6>(packet, at).ok_or(Verdict::BadLength)?.version_class_flow[0].get() >> 4) as u8
        }
        _ => return Err(Verdict::NotPlain),
    };
    let outer = header::<Ipv4>(packet, ETHERNET).ok_or(Verdict::BadLength)?.version_ihl_tos.get() as u8;
    match (outer & ecn::MASK, dsfield & ecn::MASK) {
        (ecn::CE, ecn::NOT_ECT) => Err(Verdict::Congestion),
        (ecn::CE, ecn::ECT_0 | ecn::ECT_1) => Ok(Some(ecn::CE)),
        (ecn::ECT_1, ecn::ECT_0) => Ok(Some(ecn::ECT_1)),
        _ => Ok(None),
    }
}

/// The next IPv4 identification, and `count` of them taken: unlike zero, it lets a packet without DF be
/// fragmented on the way (RFC 6864, section 4.2).
#[inline(always)]
pub(super) fn next_ident(count: usize) -> u16 {
    let Some(next) = IDENTS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is into this CPU's own value, and programs of one kind do not interrupt each other.
    unsafe {
        let ident = *next;
        *next = ident.wrapping_add(count as u32);
        ident as u16
    }
}

/// Tells the daemon, once in an epoch, that traffic comes from there.
#[inline(always)]
pub(super) fn hit((key, row): (FdbKey, *mut Row), settings: &Settings) {
    /// `BPF_RB_NO_WAKEUP`: the daemon comes by itself.
    const NO_WAKEUP: u64 = 1;
    // SAFETY: the map is not preallocated, so a row lives until the program ends; two CPUs that meet here tell
    // the same twice.
    unsafe {
        if (*row).seen != settings.epoch && HITS.output::<FdbKey>(&key, NO_WAKEUP).is_ok() {
            (*row).seen = settings.epoch;
        }
    }
}

/// Counts a frame that was encapsulated, with its VTEP and its port.
#[inline(always)]
pub(super) fn tally_encap(vtep: u32, port: u32, bytes: usize) {
    tally(vtep, port, |flows| {
        flows.encap_frames += 1;
        flows.encap_bytes += bytes as u64;
    });
}

/// Counts a frame that was decapsulated, with its VTEP and its port.
#[inline(always)]
pub(super) fn tally_decap(vtep: u32, port: u32, bytes: usize) {
    tally(vtep, port, |flows| {
        flows.decap_frames += 1;
        flows.decap_bytes += bytes as u64;
    });
}

#[inline(always)]
fn tally(vtep: u32, port: u32, count: impl Fn(&mut Flows)) {
    if vtep < COUNTED_VTEPS
        && let Some(flows) = VTEP_FLOWS.get_ptr_mut(vtep)
    {
        // SAFETY: the pointer is into this CPU's own value, and programs of one kind do not interrupt each other.
        count(unsafe { &mut *flows });
    }
    if let Some(flows) = PORT_FLOWS.get_ptr_mut(port) {
        // SAFETY: as above.
        count(unsafe { &mut *flows });
    }
}
