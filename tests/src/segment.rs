//! Segments that span the hosts of a lab, and the configuration file that each host needs for them.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::daemon::{Daemon, Mode};
use crate::host::Host;
use crate::lab::Lab;
use crate::place::Place;

/// Address family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 192.168.10.0/24.
    V4,
    /// fd00:10::/64.
    V6,
}

/// One VNI and the containers in it, wherever they are.
#[derive(Debug, Clone)]
pub struct Segment {
    vni: u32,
    netns: String,
    settings: String,
    remote_settings: String,
    remotes: Remotes,
    members: Vec<Member>,
}

/// A container of a [`Segment`].
#[derive(Debug, Clone)]
pub struct Member {
    host: usize,
    /// Its network namespace.
    pub netns: String,
    /// Its MAC.
    pub mac: String,
    /// Its address, with the prefix length.
    pub address: String,
}

/// Whether the configuration of a host names the members that live on other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remotes {
    Named,
    Unnamed,
}

impl Segment {
    /// A segment in the namespace `overlay`, without containers.
    pub fn new(vni: u32) -> Self {
        Self {
            vni,
            netns: "overlay".to_owned(),
            settings: String::new(),
            remote_settings: String::new(),
            remotes: Remotes::Named,
            members: Vec::new(),
        }
    }

    /// The scenario's segment: VNI 42, container `c1` on `h1` and `c2` on `h2`.
    pub fn scenario() -> Self {
        Self::new(42).member(1, "c1", "02:42:0a:00:00:02", "10.0.0.2/24").member(
            2,
            "c2",
            "02:42:0a:00:00:03",
            "10.0.0.3/24",
        )
    }

    /// Puts it into another namespace.
    pub fn netns(mut self, netns: &str) -> Self {
        self.netns = netns.to_owned();
        self
    }

    /// Adds a line to `[[overlay]]`.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings += &format!("{line}\n");
        self
    }

    /// Adds a line to each `[[overlay.remote]]`.
    pub fn remote_setting(mut self, line: &str) -> Self {
        self.remote_settings += &format!("{line}\n");
        self
    }

    /// Writes no `[[overlay.remote]]`: hosts learn from traffic.
    pub fn without_remotes(mut self) -> Self {
        self.remotes = Remotes::Unnamed;
        self
    }

    /// Adds the container `netns` on host number `host` (1, 2, …).
    pub fn member(mut self, host: usize, netns: &str, mac: &str, address: &str) -> Self {
        let (netns, mac, address) = (netns.to_owned(), mac.to_owned(), address.to_owned());
        self.members.push(Member { host, netns, mac, address });
        self
    }

    /// The place of member number `index` (0, 1, …), and its address without prefix.
    pub fn place(&self, lab: &Lab, index: usize) -> Result<(Place, IpAddr)> {
        let member = self.members.get(index).context("no such member")?;
        let address = member.address.split('/').next().unwrap_or_default();
        Ok((lab.hosts()[member.host - 1].netns(&member.netns), address.parse()?))
    }

    /// `[[overlay]]` and all below it, for host number `number`.
    fn toml(&self, lab: &Lab, family: Family, number: usize) -> String {
        let (vni, netns, settings) = (self.vni, &self.netns, &self.settings);
        let mut text = format!(
            "\n[[overlay]]\nvni = {vni}\nport = 4789\nnetns = \"{netns}\"\nbridge = \"br0\"\n\
             vxlan = \"vxlan1\"\n{settings}"
        );
        for (index, member) in self.members.iter().enumerate() {
            let (mac, address) = (&member.mac, &member.address);
            if member.host == number {
                let netns = &member.netns;
                // Writing into a string cannot fail.
                let _ = write!(
                    text,
                    "\n[[overlay.container]]\nattach = {{ netns = \"{netns}\" }}\ninterface = \"eth1\"\n\
                     host_interface = \"veth{}\"\nmac = \"{mac}\"\naddress = \"{address}\"\n",
                    index + 2
                );
            } else if self.remotes == Remotes::Named {
                let bare = address.split('/').next().unwrap_or_default();
                let vtep = underlay_address(&lab.hosts()[member.host - 1], family);
                let _ = write!(
                    text,
                    "\n[[overlay.remote]]\nmac = \"{mac}\"\naddress = \"{bare}\"\nvtep = \"{vtep}\"\n{}",
                    self.remote_settings
                );
            }
        }
        text
    }
}

/// The VTEP address of `host`.
pub fn underlay_address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.ipv4().into(),
        Family::V6 => host.ipv6().into(),
    }
}

/// The configuration of host number `number` (1, 2, …) for these segments.
pub fn config_of(lab: &Lab, family: Family, segments: &[Segment], number: usize) -> String {
    let local = underlay_address(&lab.hosts()[number - 1], family);
    let overlays = segments.iter().map(|segment| segment.toml(lab, family, number)).collect::<String>();
    let dataplane = lab.dataplane();
    format!("[underlay]\ndevice = \"eth0\"\nlocal = \"{local}\"\n\n[dataplane]\n{dataplane}{overlays}")
}

/// Creates the containers of `segments`, writes each host's configuration, and starts the daemons; host
/// number `n` runs in `modes[n - 1]`.
pub fn deploy(lab: &Lab, family: Family, segments: &[Segment], modes: &[Mode]) -> Result<Vec<Daemon>> {
    deploy_each(lab, segments, modes, |number| config_of(lab, family, segments, number))
}

/// As [`deploy`], where `config` gives the configuration of each host by its number.
pub fn deploy_each(
    lab: &Lab,
    segments: &[Segment],
    modes: &[Mode],
    config: impl Fn(usize) -> String,
) -> Result<Vec<Daemon>> {
    for member in segments.iter().flat_map(|segment| &segment.members) {
        lab.hosts()[member.host - 1].container(&member.netns)?;
    }
    let mut daemons = Vec::new();
    for (index, (host, mode)) in lab.hosts().iter().zip(modes).enumerate() {
        let path = host.write_config(&config(index + 1))?;
        daemons.push(host.start_vxdp(&path, *mode)?);
    }
    Ok(daemons)
}
