//! What happens to the overlays during the soak.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use vxdp_lab::{Host, Mode, Ping, Place, wait_until};

use super::Soak;
use super::traffic::PAUSE;

/// Time in which a daemon must have repaired or noticed a change.
const REPAIR: Duration = Duration::from_secs(15);

/// Rows that come and go at once.
const ROWS: u32 = 500;

/// One kind of disturbance.
pub(crate) struct Disturbance {
    /// For messages.
    pub(crate) what: &'static str,
    /// Datagrams that may get lost: none where the kernel can take over in time, and otherwise those of the
    /// time during which there is no way.
    pub(crate) may_lose: u64,
    /// Does it, and undoes it.
    pub(crate) act: fn(&mut Soak<'_>) -> Result<()>,
}

/// No loss is excused.
const NONE: u64 = 0;
/// What is in the rings of a daemon that is killed, with what comes until its sockets are closed: on a busy machine
/// that takes longer than the age of 100 ms at which the programs take a heartbeat for none.
const RINGS: u64 = 25 + 100 / PAUSE.as_millis() as u64;
/// Sent while the way was gone, of some hundred datagrams per second.
const GAP: u64 = 1000;

/// All of them, in the order of a round.
pub(crate) const DISTURBANCES: &[Disturbance] = &[
    Disturbance { what: "rows that come and go", may_lose: NONE, act: rows },
    Disturbance { what: "a peer's row replaced by itself", may_lose: NONE, act: replaced_row },
    Disturbance { what: "a peer's row lost", may_lose: GAP, act: lost_row },
    Disturbance { what: "neighbours forgotten", may_lose: NONE, act: neighbours },
    Disturbance {
        what: "modes switched on one host",
        may_lose: NONE,
        act: |soak| switch(&soak.lab.hosts()[..1], soak.mode),
    },
    Disturbance {
        what: "modes switched on both hosts",
        may_lose: NONE,
        act: |soak| switch(soak.lab.hosts(), soak.mode),
    },
    Disturbance { what: "the peer's daemon restarted", may_lose: NONE, act: restart },
    Disturbance { what: "the peer's daemon killed", may_lose: RINGS, act: kill },
    Disturbance { what: "a container recreated", may_lose: NONE, act: recreate },
    Disturbance { what: "the peer's underlay down and up", may_lose: GAP, act: flap },
];

/// What daemons may say about these, by words in the line.
pub(crate) const CAUSED: &[&str] = &[
    "the container behind veth4 in namespace overlay is away",
    "veth4 is not attached: there is no network namespace `c3`",
    // The container's namespace is being taken down just then; the next try finds it gone.
    "cannot restore offloads: cannot open generic netlink in c3",
    "Peer netns reference is invalid",
];

/// Waits until `address` answers to `from`.
pub(crate) fn reaches(from: &Place, address: [u8; 4]) -> Result<()> {
    wait_until(&format!("{} reaches {address:?}", from.label()), REPAIR, || {
        Ok(Ping::new(address).count(1).run(from).is_ok_and(|pinged| pinged.received == 1))
    })
}

fn remotes(host: &Host) -> Result<u64> {
    host.status()?["modes"]["engine"]["remotes"].as_u64().context("the fast path is not there")
}

fn rows(soak: &mut Soak<'_>) -> Result<()> {
    let (host, vtep) = (soak.lab.h1(), soak.lab.h2().ipv4());
    let before = remotes(host)?;
    for (verb, expected) in [("add", before + u64::from(ROWS)), ("del", before)] {
        let mut batch = String::new();
        for row in 0..ROWS {
            let [.., high, low] = row.to_be_bytes();
            let mac = format!("02:99:00:00:{high:02x}:{low:02x}");
            // The bridge must know it behind the tunnel as well, or it would flood instead of asking there.
            writeln!(batch, "fdb {verb} {mac} dev vxlan1 self dst {vtep}")?;
            writeln!(batch, "fdb {verb} {mac} dev vxlan1 master static")?;
        }
        let file = host.dir().join("rows.batch");
        std::fs::write(&file, batch)?;
        let file = file.to_str().context("the lab's directory is not UTF-8")?;
        host.netns("overlay").exec(["bridge", "-batch", file])?;
        wait_until("the fast path knows the rows", REPAIR, || Ok(remotes(host)? == expected))
            .with_context(|| format!("{verb}: {expected} remotes expected, now {:?}", remotes(host)))?;
    }
    Ok(())
}

fn replaced_row(soak: &mut Soak<'_>) -> Result<()> {
    let vtep = soak.lab.h2().ipv4();
    let row = format!("bridge fdb replace 02:42:0a:00:00:03 dev vxlan1 self dst {vtep} vni 42 port 4789");
    soak.lab.h1().netns("overlay").script(&row).map(drop)
}

fn lost_row(soak: &mut Soak<'_>) -> Result<()> {
    let overlay = soak.lab.h1().netns("overlay");
    overlay.script("bridge fdb del 02:42:0a:00:00:03 dev vxlan1 self")?;
    wait_until("the row is there again", REPAIR, || {
        Ok(overlay.exec(["bridge", "fdb", "show", "dev", "vxlan1"])?.contains("02:42:0a:00:00:03 dst"))
    })
}

/// One deletion each: `ip neighbour flush` goes over the table until it is empty, and with an entry that waits for
/// its answer it deletes the packets that wait with it, in kernel mode too.
fn neighbours(soak: &mut Soak<'_>) -> Result<()> {
    let [h1, h2] = [soak.lab.h1(), soak.lab.h2()];
    h1.script(&format!("ip neighbour del {} dev eth0", h2.ipv4()))?;
    h2.script(&format!("ip neighbour del {} dev eth0", h1.ipv4()))?;
    for (container, peer) in [(soak.c1(), "10.0.0.3"), (soak.c2(), "10.0.0.2")] {
        container.script(&format!("ip neighbour del {peer} dev eth1"))?;
    }
    Ok(())
}

fn switch(hosts: &[Host], fast: Mode) -> Result<()> {
    for mode in [Mode::Kernel, fast] {
        for host in hosts {
            host.vxdp(&[&["mode"], mode.words()].concat())?.success()?;
        }
    }
    Ok(())
}

fn restart(soak: &mut Soak<'_>) -> Result<()> {
    soak.second.take().context("no second daemon")?.stop()?;
    soak.start_second()
}

fn kill(soak: &mut Soak<'_>) -> Result<()> {
    soak.second.take().context("no second daemon")?.kill()?;
    soak.start_second()
}

/// A third container on the first host: it vanishes with its veth, and another one comes under its name.
fn recreate(soak: &mut Soak<'_>) -> Result<()> {
    let host = soak.lab.h1();
    host.script("ip netns del c3")?;
    wait_until("the container's veth is gone", REPAIR, || {
        Ok(!host.netns("overlay").exec(["ip", "-brief", "link"])?.contains("veth4"))
    })?;
    let c3 = host.container("c3")?;
    super::keep_silent(&c3)?;
    reaches(&c3, [10, 0, 0, 3])
}

fn flap(soak: &mut Soak<'_>) -> Result<()> {
    soak.lab.h2().script("ip link set eth0 down; ip link set eth0 up").map(drop)
}
