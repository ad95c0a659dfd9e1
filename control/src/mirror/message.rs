//! Reads `RTM_NEWNEIGH` and `RTM_DELNEIGH`: bridge rows, vxlan rows and neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use vxdp_dataplane::wire::{MacAddr, Vni};

/// `NDA_NH_ID` (`include/uapi/linux/neighbour.h`): a vxlan row that names a next-hop group.
const NDA_NH_ID: u16 = 13;

/// One row of a forwarding or neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A bridge's row: this MAC is behind that port.
    Bridge(BridgeRow),
    /// A row of a device's own table (`self`): on a vxlan device, this MAC is behind that VTEP.
    Tunnel(TunnelRow),
    /// An ARP or ND entry.
    Neighbour(NeighbourRow),
}

/// A row of a bridge's forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeRow {
    /// Index of the bridge device.
    pub bridge: u32,
    /// Index of the port, or of the bridge itself for its own addresses.
    pub port: u32,
    /// The address.
    pub mac: MacAddr,
    /// VLAN of a VLAN-aware bridge.
    pub vlan: Option<u16>,
    /// How the row came and goes.
    pub life: Life,
}

/// A row of a vxlan device's forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelRow {
    /// Index of the vxlan device.
    pub device: u32,
    /// The inner address; all zero: the flood list.
    pub mac: MacAddr,
    /// Underlay address of the VTEP; absent when a next-hop group stands in its place.
    pub vtep: Option<IpAddr>,
    /// VNI, where it is not the device's own.
    pub vni: Option<Vni>,
    /// UDP port, where it is not the device's own.
    pub port: Option<u16>,
    /// Outgoing device, where the row pins one.
    pub via: Option<u32>,
    /// How the row came and goes.
    pub life: Life,
}

/// An entry of a neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourRow {
    /// Index of the device.
    pub device: u32,
    /// Protocol address.
    pub address: IpAddr,
    /// Link-layer address; absent while unresolved.
    pub mac: Option<MacAddr>,
    /// Whether the kernel itself would send with this entry (`NUD_VALID`).
    pub valid: bool,
    /// Who keeps it valid.
    pub upkeep: Upkeep,
}

/// Who keeps a neighbour entry valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// The kernel, as long as it sends to it itself.
    Use,
    /// The kernel, always (`NTF_MANAGED`).
    Managed,
    /// Whoever wrote it (`NUD_PERMANENT`).
    Permanent,
}

/// How a row came and how it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// An address of the device or the bridge itself, or a row that was added as permanent.
    Permanent,
    /// Added by hand, does not age (`NUD_NOARP`).
    Static,
    /// Learned, ages out when it is not used.
    Dynamic,
}

/// `NUD_PERMANENT` and `NUD_NOARP` (`include/uapi/linux/neighbour.h`).
const PERMANENT: u16 = 0x80;
const NOARP: u16 = 0x40;

impl Life {
    /// A state is a set of bits: `bridge fdb add … self permanent` makes `NUD_NOARP | NUD_PERMANENT`, and
    /// either of them keeps a row of a vxlan device from ageing (`vxlan_cleanup`,
    /// `drivers/net/vxlan/vxlan_core.c`).
    pub(crate) fn of(state: NeighbourState) -> Self {
        let bits = u16::from(state);
        if bits & PERMANENT != 0 {
            Self::Permanent
        } else if bits & NOARP != 0 {
            Self::Static
        } else {
            Self::Dynamic
        }
    }
}

/// The kernel's word for a row's state, as `ip neigh` and `bridge fdb` show it.
pub(crate) fn word(state: NeighbourState) -> &'static str {
    match (Life::of(state), state) {
        (Life::Permanent, _) => "permanent",
        (Life::Static, _) => "static",
        (_, NeighbourState::Incomplete) => "incomplete",
        (_, NeighbourState::Reachable) => "reachable",
        (_, NeighbourState::Stale) => "stale",
        (_, NeighbourState::Delay) => "delay",
        (_, NeighbourState::Probe) => "probe",
        (_, NeighbourState::Failed) => "failed",
        _ => "none",
    }
}

impl Row {
    /// The MAC that a forwarding row is about.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Bridge(row) => Some(row.mac),
            Self::Tunnel(row) => Some(row.mac),
            Self::Neighbour(_) => None,
        }
    }

    /// Reads a message; `None` for what no table of ours holds (multicast list entries, other families).
    pub fn read(message: &NeighbourMessage) -> Option<Self> {
        let fields = Fields::of(message);
        let (device, state) = (message.header.ifindex, message.header.state);
        match message.header.family {
            AddressFamily::Bridge => {
                let mac = fields.mac?;
                let life = Life::of(state);
                if let Some(bridge) = fields.master {
                    return Some(Self::Bridge(BridgeRow {
                        bridge,
                        port: device,
                        mac,
                        vlan: fields.vlan,
                        life,
                    }));
                }
                if fields.address.is_none() && !fields.nexthop_group {
                    return None;
                }
                let vtep = if fields.nexthop_group { None } else { fields.address };
                let (vni, port, via) = (fields.vni, fields.port, fields.via);
                Some(Self::Tunnel(TunnelRow { device, mac, vtep, vni, port, via, life }))
            }
            AddressFamily::Inet | AddressFamily::Inet6 => {
                let valid = matches!(
                    state,
                    NeighbourState::Permanent
                        | NeighbourState::Noarp
                        | NeighbourState::Reachable
                        | NeighbourState::Probe
                        | NeighbourState::Stale
                        | NeighbourState::Delay
                );
                let upkeep = match state {
                    NeighbourState::Permanent => Upkeep::Permanent,
                    _ if fields.managed => Upkeep::Managed,
                    _ => Upkeep::Use,
                };
                let (address, mac) = (fields.address?, fields.mac);
                let valid = valid && mac.is_some();
                Some(Self::Neighbour(NeighbourRow { device, address, mac, valid, upkeep }))
            }
            _ => None,
        }
    }
}

#[derive(Default)]
struct Fields {
    mac: Option<MacAddr>,
    address: Option<IpAddr>,
    master: Option<u32>,
    vlan: Option<u16>,
    vni: Option<Vni>,
    port: Option<u16>,
    via: Option<u32>,
    nexthop_group: bool,
    managed: bool,
}

impl Fields {
    fn of(message: &NeighbourMessage) -> Self {
        let mut fields = Self::default();
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    fields.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr::new);
                }
                NeighbourAttribute::Destination(address) => fields.address = ip_of(address),
                NeighbourAttribute::Controller(index) => fields.master = Some(*index),
                NeighbourAttribute::Vlan(vlan) => fields.vlan = Some(*vlan),
                NeighbourAttribute::Vni(vni) => fields.vni = Vni::new(*vni).ok(),
                NeighbourAttribute::Port(port) => fields.port = Some(*port),
                NeighbourAttribute::IfIndex(index) => fields.via = Some(*index),
                NeighbourAttribute::ExtFlags(flags) => {
                    fields.managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Other(other) => {
                    use netlink_packet_core::Nla;
                    fields.nexthop_group |= other.kind() == NDA_NH_ID;
                }
                _ => {}
            }
        }
        fields
    }
}

/// A bridge-family message does not say the family of `NDA_DST`; its length does.
fn ip_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(bytes) => {
            if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_slice()) {
                return Some(IpAddr::V4(Ipv4Addr::from(octets)));
            }
            let octets = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::neighbour::NeighbourHeader;

    const MAC: [u8; 6] = [2, 0x42, 10, 0, 0, 3];

    fn message(
        family: AddressFamily,
        state: NeighbourState,
        attributes: Vec<NeighbourAttribute>,
    ) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { family, ifindex: 7, state, ..NeighbourHeader::default() };
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_row_with_a_master_is_the_bridges() {
        let read = Row::read(&message(
            AddressFamily::Bridge,
            NeighbourState::Noarp,
            vec![NeighbourAttribute::LinkLayerAddress(MAC.to_vec()), NeighbourAttribute::Controller(3)],
        ));
        let row = BridgeRow { bridge: 3, port: 7, mac: MacAddr::new(MAC), vlan: None, life: Life::Static };
        assert_eq!(read, Some(Row::Bridge(row)));
    }

    #[test]
    fn a_row_with_a_destination_is_the_tunnels_whatever_its_family() {
        for (bytes, ip) in
            [(vec![192, 168, 10, 22], "192.168.10.22"), ([&[0xfd][..], &[0; 14], &[1]].concat(), "fd00::1")]
        {
            let read = Row::read(&message(
                AddressFamily::Bridge,
                NeighbourState::Permanent,
                vec![
                    NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
                    NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)),
                ],
            ));
            let Some(Row::Tunnel(row)) = read else { panic!("{read:?}") };
            assert_eq!(row.vtep, ip.parse().ok());
            assert_eq!(row.life, Life::Permanent);
        }
    }

    #[test]
    fn a_state_of_several_bits_is_as_lasting_as_the_most_lasting() {
        for (bits, life) in [(0xc0, Life::Permanent), (0x42, Life::Static), (0x06, Life::Dynamic)] {
            assert_eq!(Life::of(NeighbourState::from(bits)), life);
        }
    }

    #[test]
    fn a_row_without_master_or_destination_is_nobodys() {
        let attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![0x33, 0x33, 0, 0, 0, 1])];
        assert_eq!(Row::read(&message(AddressFamily::Bridge, NeighbourState::Permanent, attributes)), None);
    }

    #[test]
    fn an_incomplete_neighbour_is_not_valid() {
        let attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into()))];
        let read = Row::read(&message(AddressFamily::Inet, NeighbourState::Incomplete, attributes));
        let Some(Row::Neighbour(row)) = read else { panic!("{read:?}") };
        assert!(!row.valid);
    }
}
