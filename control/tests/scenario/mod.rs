//! The scenario's configuration, once for every test that needs one: two hosts with a container each in VNI 42.

use std::path::Path;

/// The file of one host.
pub(crate) struct Scenario<'a> {
    /// 1 or 2.
    pub(crate) number: u8,
    /// Socket of its daemon.
    pub(crate) socket: &'a Path,
    /// Mode of its daemon.
    pub(crate) mode: &'a str,
    /// Namespace of the overlay.
    pub(crate) overlay: &'a str,
    /// Namespace of the container.
    pub(crate) container: &'a str,
    /// How the remote is installed.
    pub(crate) install: &'a str,
}

impl Default for Scenario<'_> {
    fn default() -> Self {
        Self {
            number: 1,
            socket: Path::new("/run/vxdp/vxdp.sock"),
            mode: "kernel",
            overlay: "overlay",
            container: "c1",
            install: "static",
        }
    }
}

impl Scenario<'_> {
    /// The content of the file.
    pub(crate) fn toml(&self) -> String {
        let Self { number, socket, mode, overlay, container, install } = self;
        let (socket, other, own, theirs) = (socket.display(), 3 - number, number + 1, 4 - number);
        format!(
            r#"
[underlay]
device = "eth0"
local = "192.168.10.2{number}"
[dataplane]
mode = "{mode}"
[control]
socket = "{socket}"
[[overlay]]
vni = 42
netns = "{overlay}"
bridge = "br0"
vxlan = "vxlan1"
gateway = "10.0.0.1/24"
[[overlay.container]]
attach = {{ netns = "{container}" }}
interface = "eth1"
host_interface = "veth2"
mac = "02:42:0a:00:00:0{own}"
address = "10.0.0.{own}/24"
[[overlay.remote]]
mac = "02:42:0a:00:00:0{theirs}"
address = "10.0.0.{theirs}"
vtep = "192.168.10.2{other}"
install = "{install}"
"#
        )
    }
}
