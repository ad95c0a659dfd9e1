//! Double entry: each frame that a container sends or receives is found again in exactly one counter.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vxdp_lab::{Host, Ping, Place, tcp_transfer, udp_exchange, wait_until};

use super::Soak;

/// Bytes of each TCP transfer.
const BULK: usize = 1 << 20;

/// The counters of one host and its container, at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    /// Frames that the container sent and received.
    sent: u64,
    received: u64,
    /// Frames that the program on the container's veth looked at, and of those the ones for the worker and
    /// the ARP requests, each of which the vxlan device answers.
    looked_at: u64,
    redirected: u64,
    arp: u64,
    /// Frames that the program on the underlay handed to the worker.
    arrived: u64,
    /// The worker's.
    encap: u64,
    decap: u64,
    dropped: u64,
    /// The vxlan device's.
    kernel_sent: u64,
    kernel_received: u64,
}

impl Page {
    fn read(host: &Host, container: &Place, veth: &str) -> Result<Self> {
        let engine = &host.status()?["modes"]["engine"];
        let devices = engine["devices"].as_array().context("the fast path is not there")?;
        let device = |name: &str| devices.iter().find(|device| device["device"] == name).context("no device");
        let (port, underlay) = (device(veth)?, device("eth0")?);
        let drops = engine["drops"].as_array().into_iter().flatten();
        let eth1 = statistics(container, "eth1")?;
        let vxlan1 = statistics(&host.netns("overlay"), "vxlan1")?;
        Ok(Self {
            sent: eth1.0,
            received: eth1.1,
            looked_at: verdicts(port, |_| true),
            redirected: verdicts(port, |verdict| verdict == "redirected"),
            arp: verdicts(port, |verdict| verdict == "neighbour"),
            arrived: verdicts(underlay, |verdict| verdict == "redirected"),
            encap: engine["encap"]["frames"].as_u64().context("no encap")?,
            decap: engine["decap"]["frames"].as_u64().context("no decap")?,
            dropped: drops.filter_map(|drop| drop["frames"].as_u64()).sum(),
            kernel_sent: vxlan1.0,
            kernel_received: vxlan1.1,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            received: self.received - before.received,
            looked_at: self.looked_at - before.looked_at,
            redirected: self.redirected - before.redirected,
            arp: self.arp - before.arp,
            arrived: self.arrived - before.arrived,
            encap: self.encap - before.encap,
            decap: self.decap - before.decap,
            dropped: self.dropped - before.dropped,
            kernel_sent: self.kernel_sent - before.kernel_sent,
            kernel_received: self.kernel_received - before.kernel_received,
        }
    }

    /// What holds on one host.
    fn check(&self) -> Result<()> {
        let came = self.decap + self.kernel_received + self.arp;
        let holds = [
            (self.sent == self.looked_at, "every frame of the container was looked at"),
            (self.redirected == self.encap, "every frame that was redirected was encapsulated"),
            (self.arrived == self.decap, "every frame that arrived was decapsulated"),
            (self.dropped == 0, "nothing was dropped"),
            (
                self.received == came,
                "what the container received came by one of the paths, or answers its ARP",
            ),
        ];
        for (holds, what) in holds {
            ensure!(holds, "does not hold: {what}: {self:?}");
        }
        Ok(())
    }
}

/// Frames with the verdicts that `counts`.
fn verdicts(device: &Value, counts: impl Fn(&str) -> bool) -> u64 {
    let all = device["verdicts"].as_array().into_iter().flatten();
    let counted = all.filter(|count| count["verdict"].as_str().is_some_and(&counts));
    counted.filter_map(|count| count["frames"].as_u64()).sum()
}

/// Frames sent and received.
fn statistics(place: &Place, device: &str) -> Result<(u64, u64)> {
    let links = place.json(["ip", "-json", "-statistics", "link", "show", device])?;
    let count = |way: &str| links[0]["stats64"][way]["packets"].as_u64().context("no counters");
    Ok((count("tx")?, count("rx")?))
}

fn pages(soak: &Soak<'_>) -> Result<[Page; 2]> {
    Ok([Page::read(soak.lab.h1(), &soak.c1(), "veth2")?, Page::read(soak.lab.h2(), &soak.c2(), "veth3")?])
}

/// Waits until nothing moves any more.
fn at_rest(soak: &Soak<'_>) -> Result<[Page; 2]> {
    let mut last = pages(soak)?;
    wait_until("the counters rest", Duration::from_secs(10), || {
        let now = pages(soak)?;
        Ok(std::mem::replace(&mut last, now) == now)
    })?;
    Ok(last)
}

/// Sends known traffic and wants every frame of it in the counters; answers how many there were.
pub(crate) fn balance(soak: &Soak<'_>) -> Result<u64> {
    let before = at_rest(soak)?;
    let (c1, c2) = (soak.c1(), soak.c2());
    let lengths = (0..1422).step_by(7).collect::<Vec<_>>();
    udp_exchange(&c1, &c2, [10, 0, 0, 3], &lengths)?;
    udp_exchange(&c2, &c1, [10, 0, 0, 2], &lengths)?;
    tcp_transfer(&c1, &c2, [10, 0, 0, 3], BULK)?;
    tcp_transfer(&c2, &c1, [10, 0, 0, 2], BULK)?;
    Ping::new([10, 0, 0, 3]).expect_all(&c1)?;
    let after = at_rest(soak)?;
    let [one, two] = [after[0].since(before[0]), after[1].since(before[1])];
    for page in [one, two] {
        page.check()?;
    }
    for (from, to) in [(one, two), (two, one)] {
        // Together, because a worker that a busy machine has kept waiting leaves its frames to the kernel.
        let (left, arrived) = (from.encap + from.kernel_sent, to.arrived + to.kernel_received);
        ensure!(left == arrived, "frames vanished between the hosts: {from:?} → {to:?}");
    }
    Ok(one.sent + two.sent)
}
