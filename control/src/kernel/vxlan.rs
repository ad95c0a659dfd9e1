//! A vxlan device's attributes: wanted from the configuration, seen in a dump, compared, and as netlink.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::link::{InfoVxlan, VxlanDf};
use vxdp_dataplane::wire::Vni;

use crate::config::{Df, Overlay, Tos, Ttl};

/// 136 years stand for "never": the kernel takes 0 for its own default of 300 seconds
/// (`vxlan_config_apply`).
const NEVER: u32 = u32::MAX;

/// The attributes of a vxlan device that the configuration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP destination port.
    pub port: u16,
    /// Source address of the outer packets; a device made without one lets the route decide.
    pub local: Option<IpAddr>,
    /// Underlay group or default remote. We never set one: the flood list is rows.
    pub group: Option<IpAddr>,
    /// Outer time to live; 0 is the kernel's default.
    pub ttl: u8,
    /// Outer time to live is copied from the inner packet.
    pub ttl_inherit: bool,
    /// Outer type of service; 1 means that it is copied from the inner packet.
    pub tos: u8,
    /// Outer don't-fragment bit.
    pub df: Df,
    /// Learn from received frames.
    pub learning: bool,
    /// Seconds until a learned row is dropped.
    pub ageing: u32,
    /// Answer ARP and neighbour solicitations.
    pub proxy: bool,
    /// Report frames without an FDB row.
    pub l2miss: bool,
    /// Report ARP without a neighbour.
    pub l3miss: bool,
    /// Outer UDP checksum over IPv4. Without the attribute the kernel computes it.
    pub udp_checksum: bool,
    /// Send no outer UDP checksum over IPv6.
    pub zero_checksum6_tx: bool,
    /// Accept outer packets without UDP checksum over IPv6.
    pub zero_checksum6_rx: bool,
    /// First and last outer UDP source port; zeros are the kernel's `ip_local_port_range`.
    pub source_ports: (u16, u16),
}

/// One attribute that differs, for messages and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// UDP destination port.
    Port,
    /// Source address.
    Local,
    /// Group.
    Group,
    /// Time to live.
    Ttl,
    /// Whether the time to live is inherited.
    TtlInherit,
    /// Type of service.
    Tos,
    /// Don't-fragment bit.
    Df,
    /// Learning.
    Learning,
    /// Ageing.
    Ageing,
    /// Proxy.
    Proxy,
    /// Layer 2 misses.
    L2Miss,
    /// Layer 3 misses.
    L3Miss,
    /// UDP checksum over IPv4.
    UdpChecksum,
    /// UDP checksum over IPv6, sent.
    ZeroChecksum6Tx,
    /// UDP checksum over IPv6, received.
    ZeroChecksum6Rx,
    /// Source port range.
    SourcePorts,
}

/// What can be done about a [`Field`] that differs on a standing device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The kernel changes it while traffic flows (`vxlan_nl2conf` with `changelink`).
    Live,
    /// Only a new device has it; but it shapes nothing except our own outer header, both values
    /// interoperate, and so a device that somebody else made is left alone.
    RecreateOurs,
    /// Only a new device has it, and without it the overlay does not do what was configured.
    Recreate,
}

impl Vxlan {
    /// The device that `spec` asks for.
    ///
    /// Over IPv6 a missing outer UDP checksum is accepted whatever we send: the peer decides for itself
    /// whether it computes one, and RFC 7348 asks receivers to take zero (RFC 6936 has the conditions).
    pub fn of(spec: &Overlay, local: IpAddr) -> Self {
        let (ttl, ttl_inherit) = match spec.ttl {
            Ttl::Auto => (0, false),
            Ttl::Inherit => (0, true),
            Ttl::Fixed(hops) => (hops.get(), false),
        };
        Self {
            vni: spec.vni,
            port: spec.port,
            local: Some(local),
            group: None,
            ttl,
            ttl_inherit,
            tos: match spec.tos {
                Tos::Inherit => 1,
                Tos::Fixed(tos) => tos,
            },
            df: spec.df,
            learning: spec.learning,
            ageing: if spec.ageing == 0 { NEVER } else { spec.ageing },
            proxy: spec.proxy,
            l2miss: spec.l2miss,
            l3miss: spec.l3miss,
            udp_checksum: spec.udp_checksum,
            zero_checksum6_tx: local.is_ipv6() && !spec.udp_checksum,
            zero_checksum6_rx: local.is_ipv6(),
            source_ports: spec.source_ports,
        }
    }

    /// The device that the kernel reports; `None` if it does not say its VNI (an external-mode device).
    pub(super) fn from_info(info: &[InfoVxlan]) -> Option<Self> {
        let mut seen = Self {
            vni: Vni::MAX,
            port: 0,
            local: None,
            group: None,
            ttl: 0,
            ttl_inherit: false,
            tos: 0,
            df: Df::Unset,
            learning: false,
            ageing: 0,
            proxy: false,
            l2miss: false,
            l3miss: false,
            udp_checksum: true,
            zero_checksum6_tx: false,
            zero_checksum6_rx: false,
            source_ports: (0, 0),
        };
        let mut vni = None;
        for attribute in info {
            match *attribute {
                InfoVxlan::Id(id) => vni = Vni::new(id).ok(),
                InfoVxlan::CollectMetadata(true) => return None,
                InfoVxlan::Port(port) => seen.port = port,
                InfoVxlan::Local(address) => seen.local = Some(address.into()),
                InfoVxlan::Local6(address) => seen.local = Some(address.into()),
                InfoVxlan::Group(address) => seen.group = Some(address.into()),
                InfoVxlan::Group6(address) => seen.group = Some(address.into()),
                InfoVxlan::Ttl(ttl) => seen.ttl = ttl,
                InfoVxlan::TtlInherit(inherit) => seen.ttl_inherit = inherit != 0,
                InfoVxlan::TtlInheritFlag => seen.ttl_inherit = true,
                InfoVxlan::Tos(tos) => seen.tos = tos,
                InfoVxlan::Df(VxlanDf::Set) => seen.df = Df::Set,
                InfoVxlan::Df(VxlanDf::Inherit) => seen.df = Df::Inherit,
                InfoVxlan::Learning(on) => seen.learning = on,
                InfoVxlan::Ageing(seconds) => seen.ageing = seconds,
                InfoVxlan::Proxy(on) => seen.proxy = on,
                InfoVxlan::L2Miss(on) => seen.l2miss = on,
                InfoVxlan::L3Miss(on) => seen.l3miss = on,
                InfoVxlan::UDPCsum(on) => seen.udp_checksum = on,
                InfoVxlan::UDPZeroCsumTX(on) => seen.zero_checksum6_tx = on,
                InfoVxlan::UDPZeroCsumRX(on) => seen.zero_checksum6_rx = on,
                InfoVxlan::PortRange(range) => seen.source_ports = range,
                _ => {}
            }
        }
        vni.map(|vni| Self { vni, ..seen })
    }

    /// Attributes of a new device.
    pub(super) fn info(&self) -> Vec<InfoVxlan> {
        let mut info = vec![
            InfoVxlan::Id(self.vni.get()),
            InfoVxlan::Port(self.port),
            InfoVxlan::Ttl(self.ttl),
            InfoVxlan::Tos(self.tos),
            InfoVxlan::Df(netlink_df(self.df)),
            InfoVxlan::Learning(self.learning),
            InfoVxlan::Ageing(self.ageing),
            InfoVxlan::Proxy(self.proxy),
            InfoVxlan::L2Miss(self.l2miss),
            InfoVxlan::L3Miss(self.l3miss),
            InfoVxlan::UDPCsum(self.udp_checksum),
            InfoVxlan::UDPZeroCsumTX(self.zero_checksum6_tx),
            InfoVxlan::UDPZeroCsumRX(self.zero_checksum6_rx),
            InfoVxlan::PortRange(self.source_ports),
        ];
        info.extend(self.local.map(netlink_local));
        if self.ttl_inherit {
            info.push(InfoVxlan::TtlInheritFlag);
        }
        info
    }

    /// Attributes that change `fields` of a standing device; the kernel refuses those it cannot change
    /// even when their value stays, so no others may be sent.
    pub(super) fn changes(&self, fields: &[Field]) -> Vec<InfoVxlan> {
        let attribute = |field: &Field| match field {
            Field::Ttl => Some(InfoVxlan::Ttl(self.ttl)),
            Field::Tos => Some(InfoVxlan::Tos(self.tos)),
            Field::Df => Some(InfoVxlan::Df(netlink_df(self.df))),
            Field::Learning => Some(InfoVxlan::Learning(self.learning)),
            Field::Ageing => Some(InfoVxlan::Ageing(self.ageing)),
            Field::Local => self.local.map(netlink_local),
            _ => None,
        };
        fields.iter().filter_map(attribute).collect()
    }

    /// The attributes in which `seen` is not as wanted.
    pub(super) fn differences(&self, seen: &Self) -> Vec<Field> {
        let over_ipv6 = self.local.is_some_and(|local| local.is_ipv6());
        let checks = [
            (Field::Port, self.port == seen.port),
            (Field::Local, self.local == seen.local),
            (Field::Group, self.group == seen.group),
            (Field::Ttl, self.ttl == seen.ttl),
            (Field::TtlInherit, self.ttl_inherit == seen.ttl_inherit),
            (Field::Tos, self.tos == seen.tos),
            (Field::Df, self.df == seen.df),
            (Field::Learning, self.learning == seen.learning),
            (Field::Ageing, self.ageing == seen.ageing),
            (Field::Proxy, self.proxy == seen.proxy),
            (Field::L2Miss, self.l2miss == seen.l2miss),
            (Field::L3Miss, self.l3miss == seen.l3miss),
            (Field::UdpChecksum, over_ipv6 || self.udp_checksum == seen.udp_checksum),
            (Field::ZeroChecksum6Tx, !over_ipv6 || self.zero_checksum6_tx == seen.zero_checksum6_tx),
            (Field::ZeroChecksum6Rx, !over_ipv6 || self.zero_checksum6_rx == seen.zero_checksum6_rx),
            (Field::SourcePorts, self.source_ports == seen.source_ports),
        ];
        checks.into_iter().filter(|(_, equal)| !equal).map(|(field, _)| field).collect()
    }

    /// What to do about `field`, given the standing device.
    pub(super) fn remedy(&self, field: Field, seen: &Self) -> Remedy {
        match field {
            Field::Ttl | Field::Tos | Field::Df | Field::Learning | Field::Ageing => Remedy::Live,
            // The address family of a device is fixed; one without local address is an IPv4 device,
            // because the family of an unset address defaults to that.
            Field::Local if seen.local.is_none_or(|local| local.is_ipv4()) => match self.local {
                Some(IpAddr::V4(_)) if seen.local.is_some() || seen.group.is_none() => Remedy::Live,
                _ => Remedy::Recreate,
            },
            Field::Local => match self.local {
                Some(IpAddr::V6(_)) => Remedy::Live,
                _ => Remedy::Recreate,
            },
            Field::UdpChecksum | Field::ZeroChecksum6Tx | Field::SourcePorts | Field::Group => {
                Remedy::RecreateOurs
            }
            _ => Remedy::Recreate,
        }
    }
}

fn netlink_df(df: Df) -> VxlanDf {
    match df {
        Df::Unset => VxlanDf::Unset,
        Df::Set => VxlanDf::Set,
        Df::Inherit => VxlanDf::Inherit,
    }
}

fn netlink_local(local: IpAddr) -> InfoVxlan {
    match local {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "port",
            Self::Local => "local address",
            Self::Group => "group",
            Self::Ttl => "ttl",
            Self::TtlInherit => "ttl inherit",
            Self::Tos => "tos",
            Self::Df => "df",
            Self::Learning => "learning",
            Self::Ageing => "ageing",
            Self::Proxy => "proxy",
            Self::L2Miss => "l2miss",
            Self::L3Miss => "l3miss",
            Self::UdpChecksum => "udp_checksum",
            Self::ZeroChecksum6Tx => "IPv6 UDP checksum sent",
            Self::ZeroChecksum6Rx => "IPv6 UDP checksum accepted",
            Self::SourcePorts => "source_ports",
        })
    }
}
