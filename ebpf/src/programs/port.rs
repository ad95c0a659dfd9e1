//! What a port's program knows of a container's frame: is it a known one, to a known remote MAC?
//!
//! A VLAN tag that the container's end left to the hardware (feature `tx-vlan-hw-insert`, on by default for a
//! veth) is no part of the frame's data: an XDP program sees the frame untagged, and it would arrive untagged.
//! The metadata kfunc that could tell (`bpf_xdp_metadata_rx_vlan_tag`) needs a program bound to its device,
//! which the loader library cannot make; so control switches `tx-vlan-hw-insert` and `tx-vlan-stag-hw-insert`
//! off on the container's end where an XDP program serves it, and tags are ordinary bytes of the frame. A tc
//! program sees the tag beside the data (`tc.rs`).

use vxdp_ebpf::{FdbKey, Place, Port, Row, Settings, Verdict, Vtep};

use super::frame::{Be16, Ethernet, Ipv6, Packet, header};
use super::maps::{FDB, PORT_NUMBER, PORTS, SETTINGS, VTEPS};

const ETHERNET: usize = size_of::<Ethernet>();

/// An 802.1Q or 802.1ad tag behind the MACs: its number, then the EtherType of what it tags.
#[repr(C)]
struct Tag {
    control: Be16,
    ethertype: Be16,
}

/// The start of an ICMPv6 message (RFC 4443, section 2.1).
#[repr(C)]
struct Icmpv6 {
    type_code: Be16,
}

/// A frame that is known completely.
pub(super) struct Departure {
    pub(super) settings: &'static Settings,
    pub(super) port: &'static Port,
    /// The row of its source, with the key of it.
    pub(super) source: (FdbKey, *mut Row),
    /// Where it goes.
    pub(super) vtep_number: u32,
    pub(super) vtep: &'static Vtep,
}

/// Everything but whether somebody carries it. `longest` says whether the frame fits a longest one.
#[inline(always)]
pub(super) fn known<P: Packet>(packet: &P, fits: impl FnOnce(&P, u32) -> bool) -> Result<Departure, Verdict> {
    let settings = SETTINGS.get(0).filter(|settings| settings.enabled != 0).ok_or(Verdict::Disabled)?;
    let number = PORT_NUMBER.load();
    let port = PORTS.get(number).filter(|port| port.enabled != 0).ok_or(Verdict::Disabled)?;
    let frame = header::<Ethernet>(packet, 0).ok_or(Verdict::BadLength)?;
    if frame.destination.is_group() {
        return Err(Verdict::Multicast);
    }
    let destination = FdbKey { overlay: port.overlay, mac: frame.destination.octets() };
    // SAFETY: the map is not preallocated, so a row lives until the program ends.
    let destination = unsafe { FDB.get(destination) }.ok_or(Verdict::UnknownDestination)?;
    let Place::Remote(vtep_number) = destination.place() else {
        return Err(Verdict::WrongSide);
    };
    let key = FdbKey { overlay: port.overlay, mac: frame.source.octets() };
    let source = FDB.get_ptr_mut(key).ok_or(Verdict::UnknownSource)?;
    // SAFETY: as above.
    if !matches!(unsafe { &*source }.place(), Place::Local(at) if at == number) {
        return Err(Verdict::MovedSource);
    }
    if asks_neighbour(packet, frame) {
        return Err(Verdict::Neighbour);
    }
    if !fits(packet, port.max_frame) {
        return Err(Verdict::TooBig);
    }
    let vtep = VTEPS.get(vtep_number).filter(|vtep| vtep.resolved != 0).ok_or(Verdict::UnresolvedVtep)?;
    Ok(Departure { settings, port, source: (key, source), vtep_number, vtep })
}

/// Whether the vxlan device's `proxy` looks at the frame: ARP, or a neighbour solicitation right behind
/// the IPv6 header, unicast ones too (`vxlan_xmit`, drivers/net/vxlan/vxlan_core.c). The kernel has taken
/// one tag off by then, so this looks behind one.
#[inline(always)]
fn asks_neighbour(packet: &impl Packet, frame: &Ethernet) -> bool {
    match frame.ethertype.get() {
        0x8100 | 0x88a8 => match header::<Tag>(packet, ETHERNET) {
            Some(tag) => asks(packet, tag.ethertype.get(), ETHERNET + size_of::<Tag>()),
            // A tag cut short: the kernel drops it.
            None => true,
        },
        ethertype => asks(packet, ethertype, ETHERNET),
    }
}

#[inline(always)]
fn asks(packet: &impl Packet, ethertype: u16, payload: usize) -> bool {
    const NEIGHBOUR_SOLICITATION: u16 = 135 << 8;
    match ethertype {
        0x0806 => true,
        0x86dd => {
            header::<Ipv6>(packet, payload).is_some_and(|ip| ip.next_header_hop_limit.get() >> 8 == 58)
                && header::<Icmpv6>(packet, payload + size_of::<Ipv6>())
                    .is_some_and(|message| message.type_code.get() == NEIGHBOUR_SOLICITATION)
        }
        _ => false,
    }
}
