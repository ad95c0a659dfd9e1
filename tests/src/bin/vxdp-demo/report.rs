//! The result as JSON.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use vxdp_lab::{Frames, Mode, Outer, Pinged, TwoHosts};

/// The whole file.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: &'static str,
    hosts: Vec<HostReport>,
    ping: Option<Pinged>,
    wire: Option<Wire>,
    /// Frames of both pings by the path that carried them, both hosts together.
    frames: Frames,
    /// What was on the machine afterwards and not before.
    pub(crate) left_behind: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostReport {
    name: String,
    vtep: Ipv4Addr,
    container: IpAddr,
}

/// The packet that was captured.
#[derive(Debug, Serialize)]
struct Wire {
    outer_len: usize,
    inner_len: usize,
    vni: u32,
    dst_port: u16,
    udp_checksum: u16,
    flags: u8,
}

impl Report {
    /// A report on hosts whose traffic has not been measured yet.
    pub(crate) fn new(mode: Mode, two_hosts: &TwoHosts) -> Result<Self> {
        let hosts = two_hosts.lab().hosts().iter().zip(two_hosts.containers()?);
        let hosts = hosts.map(|(host, (_, container))| HostReport {
            name: host.name().to_owned(),
            vtep: host.ipv4(),
            container: container.into(),
        });
        let hosts = hosts.collect();
        Ok(Self {
            mode: mode.as_str(),
            hosts,
            ping: None,
            wire: None,
            frames: Frames::default(),
            left_behind: Vec::new(),
        })
    }

    /// Adds the ping from the first container to the second, and a packet of it.
    pub(crate) fn measured(&mut self, pinged: &Pinged, outer: &Outer) {
        self.ping = Some(*pinged);
        self.wire = Some(Wire {
            outer_len: outer.outer_len,
            inner_len: outer.inner.len(),
            vni: outer.vni,
            dst_port: outer.ports.1,
            udp_checksum: outer.udp_checksum,
            flags: outer.flags,
        });
    }

    /// Adds which path carried the frames between two looks at both hosts; answers how many the kernel did.
    pub(crate) fn carried(&mut self, before: [Frames; 2], after: [Frames; 2]) -> u64 {
        for (before, after) in before.into_iter().zip(after) {
            self.frames.xdp.encap += after.xdp.encap - before.xdp.encap;
            self.frames.xdp.decap += after.xdp.decap - before.xdp.decap;
            self.frames.kernel.encap += after.kernel.encap - before.kernel.encap;
            self.frames.kernel.decap += after.kernel.decap - before.kernel.decap;
        }
        self.frames.kernel.encap + self.frames.kernel.decap
    }

    /// Frames that userspace carried.
    pub(crate) fn in_userspace(&self) -> u64 {
        self.frames.xdp.encap + self.frames.xdp.decap
    }

    /// Whether userspace was to carry them.
    pub(crate) fn is_xdp(&self) -> bool {
        self.mode != Mode::Kernel.as_str()
    }

    /// Writes it to `path`, or to standard output for `-`.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        if path.as_os_str() == "-" {
            println!("{text}");
            return Ok(());
        }
        std::fs::write(path, text + "\n").with_context(|| format!("while writing {}", path.display()))
    }
}
