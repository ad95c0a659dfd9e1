//! Capture: what may be asked for, and how a captured frame is written down, by the daemon and by the command.
//!
//! ```text
//!  workers ──bounded queue──▶ session (daemon) ──pcapng over the API socket──▶ ┐
//!                                                                              ├─▶ vxdp capture ──▶ file
//!  packet sockets on the kernel's path (opened by the command) ──────────────▶ ┘
//! ```
//!
//! Frames that AF_XDP sends or receives pass no packet socket, so each frame is in exactly one of the two.

pub mod pcapng;
pub mod session;

use pcap::{BpfProgram, Capture, Linktype};
use serde::{Deserialize, Serialize};

/// Most bytes of a frame that are kept unless told otherwise: whole frames, also segments in a burst.
pub const SNAP_LENGTH: u32 = 262_144;

/// Which frames somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Names of devices: the underlay's, or those of ports on the bridge. All if empty.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Only this overlay.
    #[serde(default)]
    pub vni: Option<u32>,
    /// Only frames that enter vxdp, or leave it, there.
    #[serde(default)]
    pub direction: Direction,
    /// A filter in tcpdump's syntax (`pcap-filter(7)`), for the frame as it is at the device.
    #[serde(default)]
    pub filter: Option<String>,
    /// Most bytes of a frame to keep.
    #[serde(default = "snap_length")]
    pub snap_length: u32,
}

fn snap_length() -> u32 {
    SNAP_LENGTH
}

/// Which way frames pass a device, seen from vxdp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// From the container or from the network.
    Enters,
    /// To the container or to the network.
    Leaves,
}

/// A filter that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the filter `{filter}` cannot be used: {why}; the syntax is tcpdump's, see pcap-filter(7)")]
pub struct BadFilter {
    filter: String,
    why: String,
}

impl Wanted {
    /// Whether this device is of interest.
    pub fn includes(&self, device: &str, vni: Option<u32>) -> bool {
        let named = self.devices.is_empty() || self.devices.iter().any(|name| name == device);
        named && (self.vni.is_none() || vni.is_none() || self.vni == vni)
    }

    /// The filter for frames of ports.
    pub fn at_ports(&self) -> Option<String> {
        self.filter.clone()
    }

    /// The filter for outer frames.
    pub fn at_underlay(&self) -> Option<String> {
        both(self.vni.map(carries), self.filter.clone())
    }

    /// The filter for whatever passes the underlay, of which the tunnels on these UDP ports are a part.
    pub fn among_all_at_underlay(&self, ports: &[u16]) -> Option<String> {
        let tunnels: Vec<_> = ports.iter().map(|port| format!("udp dst port {port}")).collect();
        // Of a fragmented packet only the first has the ports.
        let tunnels = format!("{} or (ip[6:2] & 0x1fff != 0) or ip6 proto 44", tunnels.join(" or "));
        both(Some(tunnels), self.at_underlay())
    }

    /// Whether the filter can be used.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn check(&self) -> Result<(), BadFilter> {
        // What we add to a filter is right, but the message should show what its author wrote.
        self.filter.as_deref().map_or(Ok(()), |filter| compile(filter).map(drop))
    }
}

/// The VNI stands in the upper three bytes of the second word of the VXLAN header (RFC 7348, section 5).
/// `udp[…]` reads IPv4 alone.
fn carries(vni: u32) -> String {
    format!("(udp[12:4] >> 8 = {vni}) or (ip6 proto 17 and ip6[52:4] >> 8 = {vni})")
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("({one}) and ({other})")),
        (one, other) => one.or(other),
    }
}

/// A filter for Ethernet frames.
///
/// # Errors
/// The first mistake in it.
pub fn compile(filter: &str) -> Result<BpfProgram, BadFilter> {
    let dead = Capture::dead(Linktype::ETHERNET);
    let compiled = dead.and_then(|dead| dead.compile(filter, true));
    compiled.map_err(|error| BadFilter { filter: filter.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(vni: Option<u32>, filter: Option<&str>) -> Wanted {
        let (devices, filter) = (Vec::new(), filter.map(str::to_owned));
        Wanted { devices, vni, direction: Direction::Both, filter, snap_length: SNAP_LENGTH }
    }

    /// An outer frame: IPv4 or IPv6, UDP to this port, VXLAN with this VNI.
    fn outer(six: bool, port: u16, vni: u32) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if six {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 30, 17, 64]);
            frame.extend([0; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend([0; 8]);
        }
        frame.extend([0xc0, 0]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 30, 0, 0, 8, 0, 0, 0]);
        frame.extend((vni << 8).to_be_bytes());
        frame.extend([0; 14]);
        frame
    }

    #[test]
    fn the_underlays_filter_picks_tunnels_and_an_overlay() {
        for six in [false, true] {
            let all = compile(&wanted(None, None).among_all_at_underlay(&[4789, 4790]).expect("one"));
            let all = all.expect("it compiles");
            assert!(all.filter(&outer(six, 4789, 42)) && all.filter(&outer(six, 4790, 43)));
            assert!(!all.filter(&outer(six, 53, 42)));
            let one =
                compile(&wanted(Some(42), Some("udp")).at_underlay().expect("one")).expect("it compiles");
            assert!(one.filter(&outer(six, 4789, 42)) && !one.filter(&outer(six, 4789, 43)));
        }
        let mut fragment = outer(false, 0, 0);
        fragment[20] = 0x01;
        let all = compile(&wanted(None, None).among_all_at_underlay(&[4789]).expect("one"));
        assert!(all.expect("it compiles").filter(&fragment));
    }

    #[test]
    fn a_bad_filter_is_named_with_its_mistake() {
        let error = wanted(None, Some("icmp adn arp")).check().expect_err("no such word").to_string();
        assert!(error.contains("icmp adn arp") && error.contains("syntax error"), "{error}");
        wanted(Some(7), Some("icmp")).check().expect("a good one");
    }

    #[test]
    fn devices_and_overlays_narrow_what_is_captured() {
        let mut one = wanted(Some(42), None);
        assert!(one.includes("veth2", Some(42)) && one.includes("eth0", None));
        assert!(!one.includes("veth3", Some(43)));
        one.devices = vec!["eth0".to_owned()];
        assert!(one.includes("eth0", None) && !one.includes("veth2", Some(42)));
    }
}
