//! Encapsulation: outer headers written in front of a container's frame (RFC 7348, section 5).

use super::ecn::{self, Ecn};
use super::entropy::flow_hash;
use super::unfinished;
use crate::table::{Df, Overlay, Template, Tos, Ttl, UdpChecksum};
use crate::wire::checksum::Sum;
use crate::wire::{EthHeader, Inner, IpProtocol, Ipv4Header, Ipv6Header, Network, UdpHeader, VxlanHeader};
use crate::{DropReason, Family};

const ETH: usize = EthHeader::LEN;
const V4: usize = Family::V4.encap_room();
const V6: usize = Family::V6.encap_room();

/// The fields of the outer headers that the inner packet has a say in.
struct Fields {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    source_port: u16,
}

impl Fields {
    #[inline]
    fn of(frame: &[u8], inner: &Inner, overlay: &Overlay, template: &Template) -> Self {
        let policy = &overlay.policy;
        let dsfield = ecn::dsfield(frame, inner);
        let tos = match policy.tos {
            Tos::Fixed(tos) => tos,
            Tos::Inherit => dsfield.unwrap_or(0),
        };
        let ttl = match policy.ttl {
            Ttl::Auto => template.hop_limit,
            Ttl::Fixed(ttl) => ttl.get(),
            // As in the kernel, an inner ttl of zero counts as none.
            Ttl::Inherit => hop_limit(frame, inner).filter(|ttl| *ttl != 0).unwrap_or(template.hop_limit),
        };
        Self {
            // A frame that is not IP is not capable of ECN (`ip_tunnel_get_dsfield`, include/net/ip_tunnels.h).
            tos: Ecn::encapsulated(Ecn::of(dsfield.unwrap_or(0))).in_byte(tos),
            ttl,
            dont_fragment: match policy.df {
                Df::Unset => false,
                Df::Set => true,
                Df::Inherit => dont_fragment(frame, inner),
            },
            source_port: policy.source_ports.pick(flow_hash(frame, inner)),
        }
    }
}

fn hop_limit(frame: &[u8], inner: &Inner) -> Option<u8> {
    match inner.network {
        Network::V4 { at, .. } => frame.get(at + Ipv4Header::TTL).copied(),
        Network::V6 { at, .. } => frame.get(at + Ipv6Header::HOP_LIMIT).copied(),
        Network::Truncated | Network::Other => None,
    }
}

/// The kernel looks at the frame's own EtherType (`vxlan_xmit_one`, drivers/net/vxlan/vxlan_core.c): a tagged
/// frame inherits nothing.
fn dont_fragment(frame: &[u8], inner: &Inner) -> bool {
    if inner.tags > 0 {
        return false;
    }
    match inner.network {
        Network::V4 { at, .. } => {
            frame.get(at..).and_then(Ipv4Header::parse).is_some_and(|(ip, _)| ip.dont_fragment())
        }
        Network::V6 { .. } => true,
        Network::Truncated | Network::Other => false,
    }
}

/// Whether the kernel would not encapsulate the frame: the fixed header of IP is not whole
/// (`skb_vlan_inet_prepare`, include/net/ip_tunnels.h), or there are no two bytes behind the outermost tag
/// (`skb_vlan_untag`, net/core/skbuff.c).
fn is_cut_short(frame: &[u8], inner: &Inner) -> bool {
    const TAG: usize = 4;
    inner.network == Network::Truncated || (inner.tags > 0 && frame.len() < ETH + TAG + 2)
}

/// Puts the outer headers into the room at the front of `data` and finishes the inner checksum.
/// `ident` becomes the IPv4 identification.
#[inline]
pub(super) fn encap(
    data: &mut [u8],
    family: Family,
    overlay: &Overlay,
    template: &Template,
    ident: u16,
) -> Result<(), DropReason> {
    if data.len() > ETH + usize::from(template.mtu) {
        return Err(DropReason::PktTooBig);
    }
    let (room, frame) = data.split_at_mut_checked(family.encap_room()).ok_or(DropReason::NoHeadroom)?;
    let inner = Inner::parse(frame);
    if is_cut_short(frame, &inner) {
        return Err(DropReason::PktTooSmall);
    }
    unfinished::finish(frame, &inner);
    let fields = Fields::of(frame, &inner, overlay, template);
    match family {
        Family::V4 => v4(room, frame, overlay, template, &fields, ident),
        Family::V6 => v6(room, frame, overlay, template, &fields),
    }
    .ok_or(DropReason::NoHeadroom)
}

#[inline]
fn v4(
    room: &mut [u8],
    frame: &[u8],
    overlay: &Overlay,
    template: &Template,
    fields: &Fields,
    ident: u16,
) -> Option<()> {
    let outer = room.first_chunk_mut::<V4>()?;
    *outer = *template.head::<V4>()?;
    let length = (V4 - ETH + frame.len()) as u16;
    let flags = if fields.dont_fragment { Ipv4Header::DF } else { 0 };
    // The template's sum has zeros in these four words.
    let checksum = template
        .header_sum
        .add_u16(u16::from(fields.tos))
        .add_u16(length)
        .add_u16(ident)
        .add_u16(flags)
        .add_u16(u16::from(fields.ttl) << 8)
        .checksum();
    outer[ETH + Ipv4Header::TOS] = fields.tos;
    put(outer, ETH + Ipv4Header::TOTAL_LENGTH, length.to_be_bytes());
    put(outer, ETH + Ipv4Header::IDENT, ident.to_be_bytes());
    put(outer, ETH + Ipv4Header::FRAGMENT, flags.to_be_bytes());
    outer[ETH + Ipv4Header::TTL] = fields.ttl;
    put(outer, ETH + Ipv4Header::CHECKSUM, checksum);
    udp_and_vxlan(outer, ETH + Ipv4Header::LEN, frame, overlay, template, fields);
    Some(())
}

#[inline]
fn v6(room: &mut [u8], frame: &[u8], overlay: &Overlay, template: &Template, fields: &Fields) -> Option<()> {
    let outer = room.first_chunk_mut::<V6>()?;
    *outer = *template.head::<V6>()?;
    let length = (V6 - ETH - Ipv6Header::LEN + frame.len()) as u16;
    put(outer, ETH, [0x60 | fields.tos >> 4, fields.tos << 4]);
    put(outer, ETH + Ipv6Header::PAYLOAD_LENGTH, length.to_be_bytes());
    outer[ETH + Ipv6Header::HOP_LIMIT] = fields.ttl;
    udp_and_vxlan(outer, ETH + Ipv6Header::LEN, frame, overlay, template, fields);
    Some(())
}

#[inline]
fn put<const N: usize>(outer: &mut [u8; N], at: usize, bytes: [u8; 2]) {
    outer[at..at + 2].copy_from_slice(&bytes);
}

#[inline]
fn udp_and_vxlan<const N: usize>(
    outer: &mut [u8; N],
    udp: usize,
    frame: &[u8],
    overlay: &Overlay,
    template: &Template,
    fields: &Fields,
) {
    let length = UdpHeader::LEN + VxlanHeader::LEN + frame.len();
    put(outer, udp + UdpHeader::SOURCE_PORT, fields.source_port.to_be_bytes());
    put(outer, udp + UdpHeader::DESTINATION_PORT, overlay.port.to_be_bytes());
    put(outer, udp + UdpHeader::LENGTH, (length as u16).to_be_bytes());
    outer[udp + UdpHeader::LEN..][..VxlanHeader::LEN].copy_from_slice(&VxlanHeader::bytes(overlay.vni));
    if overlay.policy.udp_checksum == UdpChecksum::Computed {
        let pseudo = unfinished::pseudo_header(template.address_sum, IpProtocol::UDP, length);
        let checksum = match pseudo.plus(Sum::of(&outer[udp..])).plus(Sum::of(frame)).checksum() {
            // Zero would mean "none" (RFC 768).
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        };
        put(outer, udp + UdpHeader::CHECKSUM, checksum);
    }
}
