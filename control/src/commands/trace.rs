//! `vxdp trace`: what would happen to a frame, table by table, from live state and without sending anything.

use std::io::{self, Write as _};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use serde::Serialize;
use vxdp_dataplane::wire::MacAddr;

use crate::api::status::{ContainerStatus, Fdb, OverlayStatus, RowStatus, Status, Table};
use crate::api::{Request, client};
use crate::cli::TraceArgs;
use crate::config::Mode;
use crate::engine::pilot::OverlayMode;
use crate::netns::Netns;
use crate::reach::Reach;

/// What one table says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    /// The table.
    table: &'static str,
    /// What it says.
    says: String,
}

/// What becomes of the frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Trace {
    steps: Vec<Step>,
    /// Whether it arrives, as far as this host can tell.
    arrives: bool,
    /// What the kernel's path makes of it: kernel mode, and whatever the fast path passes.
    kernel: String,
    /// What the userspace engine makes of it.
    userspace: String,
    /// What the in-kernel engine makes of it.
    inkernel: String,
    /// Which of them has the overlay now.
    now: &'static str,
}

/// Asks the daemon and the kernel, and shows the way of the frame.
///
/// # Errors
/// When no daemon answers, or has no such overlay.
pub fn trace(args: &TraceArgs) -> anyhow::Result<()> {
    let socket = args.daemon.socket()?;
    let vni = args.segment.vni.get();
    let status: Status = client::ask(&socket, &Request::Status)?;
    let macs = vec![args.src, args.dst, MacAddr::ZERO];
    let fdb: Fdb = client::ask(&socket, &Request::FdbShow { vni: Some(vni), macs })?;
    let meant = |overlay: &&OverlayStatus| {
        overlay.vni == vni && args.segment.port.is_none_or(|port| port == overlay.port)
    };
    let mut overlays = status.overlays.iter().filter(meant);
    let overlay = match (overlays.next(), overlays.next()) {
        (Some(overlay), None) => overlay,
        (Some(_), _) => bail!("VNI {vni} is used on several UDP ports; say which with --port"),
        (None, _) => bail!("no overlay has VNI {vni} on that port"),
    };
    let rows = Rows { overlay, rows: &fdb.rows };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let host = Netns::current().context("while opening the host's network namespace")?;
    let reach = match rows.vtep(args.dst) {
        Some(vtep) => Some((vtep, runtime.block_on(Reach::of(&host, vtep))?)),
        None => None,
    };
    let mode = status.modes.overlays.iter().find(|mode| (mode.vni, mode.port) == (vni, overlay.port));
    let trace = follow(&status, &rows, mode, args.src, args.dst, reach);
    let text = if args.output.json { serde_json::to_string_pretty(&trace)? + "\n" } else { screen(&trace) };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The rows of one overlay.
struct Rows<'a> {
    overlay: &'a OverlayStatus,
    rows: &'a [RowStatus],
}

impl Rows<'_> {
    fn find(&self, table: Table, mac: MacAddr) -> Option<&RowStatus> {
        let mac = mac.to_string();
        let is_it = |row: &&RowStatus| {
            row.udp_port == self.overlay.port && row.table == table && row.mac.as_deref() == Some(&mac)
        };
        self.rows.iter().find(is_it)
    }

    fn vtep(&self, mac: MacAddr) -> Option<IpAddr> {
        self.find(Table::Vxlan, mac)?.vtep
    }

    /// The container of this host with the MAC, by the bridge's table or by the configuration.
    fn container(&self, mac: MacAddr) -> Option<&ContainerStatus> {
        let device = self.find(Table::Bridge, mac).and_then(|row| row.device.as_deref());
        let is_it = |container: &&ContainerStatus| {
            device.map_or(container.mac == mac, |device| container.host_interface == device)
        };
        self.overlay.containers.iter().find(is_it)
    }
}

fn follow(
    status: &Status,
    rows: &Rows<'_>,
    mode: Option<&OverlayMode>,
    src: MacAddr,
    dst: MacAddr,
    reach: Option<(IpAddr, Reach)>,
) -> Trace {
    let OverlayStatus { vni, port, bridge, vxlan, netns, .. } = rows.overlay;
    let mut steps = Vec::new();
    let mut step = |table, says: String| steps.push(Step { table, says });
    let now = match mode {
        Some(mode) if mode.mode == Mode::Xdp => mode.engine.as_str(),
        _ => "kernel",
    };
    step(
        "overlay",
        format!("VNI {vni} on UDP port {port}, {bridge} and {vxlan} in {netns}; carried by: {now}"),
    );
    let local = rows.container(src);
    let from_tunnel = local.is_none().then(|| rows.vtep(src)).flatten();
    step(
        "source",
        match (local, from_tunnel) {
            (Some(container), _) if container.attached => {
                format!("{src} enters by {}, the port of {}", container.host_interface, container.attach)
            }
            (Some(container), _) => format!("{src} is {}, which is away", container.attach),
            (None, Some(vtep)) => {
                format!("{src} is behind VTEP {vtep}: the frame arrives on {}", status.underlay.device)
            }
            (None, None) => {
                format!("{src} is not known: the kernel learns it from the frame, and no engine carries it")
            }
        },
    );
    let known_source = local.is_some_and(|container| container.attached) || from_tunnel.is_some();
    let bridge_row = rows.find(Table::Bridge, dst);
    let at = bridge_row.and_then(|row| row.device.as_deref());
    step(
        "bridge",
        match at {
            Some(device) => format!("{dst} is behind {device} on {bridge}"),
            None => format!("{bridge} has no row for {dst}, and floods the frame to all its ports"),
        },
    );
    let (arrives, fate) = if dst.is_multicast() {
        let how = match from_tunnel {
            Some(_) => format!("{bridge} floods it to its ports but {vxlan}"),
            None => format!("{bridge} floods it, {vxlan} by its flood list or by proxy"),
        };
        (true, Fate::Passed("multicast", how))
    } else if let Some(container) = rows.container(dst).filter(|_| at != Some(vxlan.as_str())) {
        let there = container.attached;
        let to = format!("{} of {}", container.host_interface, container.attach);
        match (there, from_tunnel) {
            (false, _) => (
                false,
                Fate::Passed("unknown_destination", format!("it is for {}, which is away", container.attach)),
            ),
            (true, Some(_)) => (true, Fate::Carried(format!("decapsulated and sent to {to}"))),
            (true, None) => (true, Fate::Passed("wrong_side", format!("{bridge} hands it to {to}"))),
        }
    } else if from_tunnel.is_some() {
        hairpin(rows, dst, at)
    } else {
        remote(status, rows, dst, reach, &mut step)
    };
    let fate = match fate {
        Fate::Carried(how) if !known_source => Fate::Passed("unknown_source", how),
        other => other,
    };
    let (kernel, engines) = match fate {
        Fate::Carried(how) => (how.clone(), how),
        Fate::Passed(verdict, how) => (how, format!("passed to the kernel ({verdict})")),
    };
    let inkernel = if status.underlay.local.is_ipv6() || rows.overlay.udp_checksum {
        "does not take this overlay: it computes no outer UDP checksums".to_owned()
    } else {
        engines.clone()
    };
    Trace { steps, arrives, kernel, userspace: engines, inkernel, now }
}

enum Fate {
    /// The fast path carries it, and so would the kernel.
    Carried(String),
    /// The programs leave it to the kernel under this verdict; what that makes of it.
    Passed(&'static str, String),
}

/// The way of a frame that came out of the tunnel and is for no container of this host: not into it again.
fn hairpin(rows: &Rows<'_>, dst: MacAddr, at: Option<&str>) -> (bool, Fate) {
    let OverlayStatus { bridge, vxlan, .. } = rows.overlay;
    let how = if at == Some(vxlan.as_str()) {
        format!("{bridge} drops it: it came by {vxlan} and would leave by it (split horizon)")
    } else {
        format!("{bridge} floods it to its ports but {vxlan}, by which it came (split horizon)")
    };
    let known = rows.vtep(dst).is_some();
    (false, Fate::Passed(if known { "wrong_side" } else { "unknown_destination" }, how))
}

/// The way of a frame to another host.
fn remote(
    status: &Status,
    rows: &Rows<'_>,
    dst: MacAddr,
    reach: Option<(IpAddr, Reach)>,
    step: &mut impl FnMut(&'static str, String),
) -> (bool, Fate) {
    let vxlan = &rows.overlay.vxlan;
    let Some((vtep, reach)) = reach else {
        let zero = rows.vtep(MacAddr::ZERO);
        step(
            "vxlan",
            match zero {
                Some(vtep) => format!("{vxlan} has no row for {dst}; its flood list names {vtep}"),
                None => format!("{vxlan} has no row for {dst} and no flood list"),
            },
        );
        let how = match zero {
            Some(_) => format!("{vxlan} floods it"),
            None => format!("{vxlan} drops it and asks for {dst} (l2miss)"),
        };
        return (zero.is_some(), Fate::Passed("unknown_destination", how));
    };
    let row = rows.find(Table::Vxlan, dst);
    let state = row.map_or("", |row| row.state.as_str());
    step("vxlan", format!("{dst} is behind VTEP {vtep} ({state})"));
    let trouble = reach.trouble(vtep);
    let Reach { device, next_hop, mtu, mac, .. } = reach;
    let Some(device) = device else {
        step("route", format!("no route leads to {vtep}"));
        return (false, Fate::Passed("unresolved_vtep", format!("{vxlan} drops it: no route to {vtep}")));
    };
    let narrow = mtu.zip(status.underlay.mtu).is_some_and(|(route, device)| route < device);
    let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    step("route", format!("{vtep} by {next_hop} on {device}{mtu}"));
    match mac {
        Some(mac) => {
            step("neighbour", format!("{next_hop} is {mac}"));
            let how = format!("encapsulated and sent to VTEP {vtep} by {device}");
            // As `engine::compile` admits VTEPs.
            let carried = device == status.underlay.device && !narrow;
            (true, if carried { Fate::Carried(how) } else { Fate::Passed("unresolved_vtep", how) })
        }
        None if trouble.is_some() => {
            step("neighbour", format!("{next_hop} does not answer on {device}"));
            (
                false,
                Fate::Passed(
                    "unresolved_vtep",
                    format!("the kernel asks for {next_hop} in vain, and drops it"),
                ),
            )
        }
        None => {
            step("neighbour", format!("{next_hop} has not been asked for on {device}"));
            (
                true,
                Fate::Passed(
                    "unresolved_vtep",
                    format!("the kernel asks for {next_hop} first, then sends it"),
                ),
            )
        }
    }
}

fn screen(trace: &Trace) -> String {
    let mut text = String::new();
    for Step { table, says } in &trace.steps {
        text += &format!("{table:<10} {says}\n");
    }
    let Trace { kernel, userspace, inkernel, now, arrives, .. } = trace;
    for (name, how) in [("kernel", kernel), ("userspace", userspace), ("inkernel", inkernel)] {
        let mark = if name == *now { "▶" } else { " " };
        text += &format!("{mark} {name:<10} {how}\n");
    }
    let end = if *arrives { "it leaves this host as it should" } else { "it does not arrive" };
    text + end + "\n"
}
