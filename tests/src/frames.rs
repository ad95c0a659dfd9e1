//! How many frames each path of a host has carried.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::daemon::Mode;
use crate::host::Host;
use crate::lab::Lab;
use crate::ping::Ping;
use crate::place::Place;
use crate::wait::wait_until;

/// Frames by the path that carried them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Userspace, over AF_XDP.
    pub xdp: Directions,
    /// The kernel's vxlan device.
    pub kernel: Directions,
}

/// Frames into and out of tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directions {
    /// Into tunnels.
    pub encap: u64,
    /// Out of tunnels.
    pub decap: u64,
}

impl Host {
    /// What `vxdp status --json` says.
    pub fn status(&self) -> Result<Value> {
        let text = self.vxdp(&["status", "--json"])?.success()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Counts the frames of each path so far; those of userspace since its start.
    pub fn frames(&self) -> Result<Frames> {
        let engine = &self.status()?["modes"]["engine"];
        let userspace = |direction: &str| engine[direction]["frames"].as_u64().unwrap_or(0);
        let text = self.netns("overlay").exec(["ip", "-json", "-statistics", "link", "show", "vxlan1"])?;
        let links: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let device = |direction: &str| links[0]["stats64"][direction]["packets"].as_u64();
        let kernel = |direction: &str| device(direction).context("no counters of vxlan1");
        Ok(Frames {
            xdp: Directions { encap: userspace("encap"), decap: userspace("decap") },
            kernel: Directions { encap: kernel("tx")?, decap: kernel("rx")? },
        })
    }

    /// Counts the frames that the programs left to the kernel because a worker had not run for 100 ms, which on a
    /// machine with more to do than it can is nobody's fault; those of userspace since its start.
    pub fn left_by_starved_workers(&self) -> Result<Directions> {
        let mut left = Directions::default();
        let devices = self.status()?["modes"]["engine"]["devices"].as_array().cloned().unwrap_or_default();
        for device in devices {
            let verdicts = device["verdicts"].as_array().context("a device without verdicts")?;
            let stale = verdicts.iter().filter(|count| count["verdict"] == "stale_heartbeat");
            let stale = stale.filter_map(|count| count["frames"].as_u64()).sum::<u64>();
            // The underlay belongs to no overlay.
            *if device["vni"].is_null() { &mut left.decap } else { &mut left.encap } += stale;
        }
        Ok(left)
    }

    /// Waits until userspace has put `frames` more frames into tunnels; they must be on their way meanwhile.
    pub fn wait_for_userspace(&self, frames: u64) -> Result<()> {
        let mut before = self.frames()?.xdp.encap;
        wait_until(&format!("userspace carries {frames} more frames"), Duration::from_secs(15), || {
            let now = self.frames()?.xdp.encap;
            // A fast path that starts counts from zero.
            before = before.min(now);
            Ok(now - before >= frames)
        })
    }

    /// Waits until userspace carries the frames of every remote container: their VTEPs are resolved.
    ///
    /// A container of this host is known once it has sent a frame, which the kernel carries.
    pub fn wait_for_fast_path(&self) -> Result<()> {
        wait_until("the fast path carries every remote", Duration::from_secs(10), || {
            let engine = &self.status()?["modes"]["engine"];
            let number = |name: &str| engine[name].as_u64().unwrap_or(0);
            Ok(number("remotes") > 0 && number("vteps") > 0 && number("vteps") == number("vteps_resolved"))
        })
    }
}

impl Lab {
    /// Pings from `from` to `address` until the fast path of every host that has one by `modes`, in their order, has
    /// put some of it into tunnels; nothing is sent if none has.
    pub fn expect_fast_path(&self, modes: &[Mode], from: &Place, address: impl Into<IpAddr>) -> Result<()> {
        let fast = self.hosts().iter().zip(modes).filter(|(_, mode)| mode.is_fast());
        let mut fast = fast.map(|(host, _)| host).peekable();
        if fast.peek().is_none() {
            return Ok(());
        }
        let running = Ping::new(address).interval(Duration::from_millis(20)).start(from)?;
        fast.try_for_each(|host| host.wait_for_userspace(3))?;
        running.stop().map(drop)
    }
}
