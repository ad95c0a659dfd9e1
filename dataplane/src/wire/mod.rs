//! Wire formats: values and headers checked once, then infallible.
//!
//! A header view borrows exactly the bytes of its fixed part, as an array, so that no accessor can run past the
//! end; what a length or version field *says* is the caller's to judge.

pub mod checksum;
mod eth;
mod inner;
mod ipv4;
mod ipv6;
mod mac;
mod udp;
mod vni;
mod vxlan;

pub use eth::{EthHeader, EtherType};
pub use inner::{Inner, Network, Transport};
pub use ipv4::Ipv4Header;
pub use ipv6::{Ipv6Header, Ipv6Payload};
pub use mac::{InvalidMac, MacAddr};
pub use udp::UdpHeader;
pub use vni::{InvalidVni, Vni};
pub use vxlan::VxlanHeader;

/// IP protocol numbers (IANA) that matter here.
pub struct IpProtocol;

impl IpProtocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200, section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200, section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}
