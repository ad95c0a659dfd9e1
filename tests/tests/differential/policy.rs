//! The settings under which a container's frames are encapsulated: an overlay for each set of them.

use std::net::IpAddr;

use vxdp_lab::Segment;

/// An overlay and its settings.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) vni: u32,
    pub(crate) netns: &'static str,
    pub(crate) container: &'static str,
    settings: &'static [&'static str],
    /// Whether an IPv4 underlay gets UDP checksums; an IPv6 one does by default.
    pub(crate) udp_checksum: bool,
}

pub(crate) const POLICIES: &[Policy] = &[
    Policy {
        name: "by default",
        vni: 42,
        netns: "overlay",
        container: "c42",
        settings: &[],
        udp_checksum: false,
    },
    Policy {
        name: "all inherited, with checksum",
        vni: 43,
        netns: "overlay43",
        container: "c43",
        settings: &["ttl = \"inherit\"", "tos = \"inherit\"", "df = \"inherit\"", "udp_checksum = true"],
        udp_checksum: true,
    },
    Policy {
        name: "all fixed",
        vni: 44,
        netns: "overlay44",
        container: "c44",
        settings: &["ttl = 9", "tos = 187", "df = \"set\""],
        udp_checksum: false,
    },
];

impl Policy {
    /// The overlay, with two remote containers on h2, whose VTEP `peer` also gets what is flooded.
    pub(crate) fn segment(&self, peer: IpAddr) -> Segment {
        let segment = Segment::new(self.vni)
            .netns(self.netns)
            .setting(&format!("flood = [\"{peer}\"]"))
            .member(1, self.container, "02:42:0a:00:00:02", "10.0.0.2/24")
            .member(2, "remote", "02:42:0a:00:00:03", "10.0.0.3/24")
            .member(2, "forged", "02:42:0a:00:00:05", "10.0.0.5/24");
        self.settings.iter().fold(segment, |segment, line| segment.setting(line))
    }
}
