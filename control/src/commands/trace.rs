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
        Some(vtep) => Some((vtep, runtime.block_on(Reach::of(&host, status.underlay.local, vtep))?)),
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

/// Where the engines have a MAC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Container,
    Vtep,
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

    /// The device that the bridge has the MAC behind.
    fn device(&self, mac: MacAddr) -> Option<&str> {
        self.find(Table::Bridge, mac)?.device.as_deref()
    }

    /// The container of this host with the MAC, by the bridge's table or by the configuration.
    fn container(&self, mac: MacAddr) -> Option<&ContainerStatus> {
        let device = self.device(mac);
        let is_it = |container: &&ContainerStatus| {
            device.map_or(container.mac == mac, |device| container.host_interface == device)
        };
        self.overlay.containers.iter().find(is_it)
    }

    /// Where the engines have it: only where the kernel's answer is one single thing (`mirror/fdb.rs`).
    fn known(&self, mac: MacAddr) -> Option<Known> {
        let device = self.device(mac)?;
        if device == self.overlay.vxlan {
            return self.vtep(mac).map(|_| Known::Vtep);
        }
        self.container(mac).filter(|container| container.attached).map(|_| Known::Container)
    }

    /// Why engines leave a frame to the kernel, in the order in which the programs look; not whether a VTEP is
    /// resolved, which they look at last.
    fn verdict(&self, from_tunnel: bool, src: MacAddr, dst: MacAddr) -> Option<&'static str> {
        match self.known(dst) {
            _ if dst.is_multicast() => Some("multicast"),
            None => Some("unknown_destination"),
            Some(known) if (known == Known::Vtep) == from_tunnel => Some("wrong_side"),
            Some(_) => self.known(src).is_none().then_some("unknown_source"),
        }
    }
}

/// What becomes of a frame on the kernel's path, and what keeps engines from carrying it as well.
struct Fate {
    arrives: bool,
    how: String,
    /// The last thing that the programs look at.
    unresolved: bool,
}

impl Fate {
    fn new(arrives: bool, how: String) -> Self {
        Self { arrives, how, unresolved: false }
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
    let from_tunnel = rows.container(src).is_none() && rows.vtep(src).is_some();
    step("source", source(status, rows, src));
    let at = rows.device(dst);
    step(
        "bridge",
        match at {
            Some(device) => format!("{dst} is behind {device} on {bridge}"),
            None => format!("{bridge} has no row for {dst}, and floods the frame to all its ports"),
        },
    );
    let local = rows.container(dst).filter(|_| at != Some(vxlan.as_str()));
    let fate = if dst.is_multicast() {
        let how = if from_tunnel {
            format!("{bridge} floods it to its ports but {vxlan}")
        } else {
            format!("{bridge} floods it, {vxlan} by its flood list or by proxy")
        };
        Fate::new(true, how)
    } else if let Some(container) = local {
        to_container(rows, container, from_tunnel, at.is_some())
    } else if let Some(device) = at.filter(|device| device != vxlan) {
        if let Some((vtep, _)) = reach {
            step("vxlan", format!("{dst} is behind VTEP {vtep}, but {bridge} does not send it there"));
        }
        Fate::new(true, format!("{bridge} hands it to {device}, which is no container's"))
    } else if from_tunnel {
        hairpin(rows, at)
    } else {
        remote(status, rows, dst, reach, &mut step)
    };
    let Fate { arrives, how: kernel, unresolved } = fate;
    let passed = rows.verdict(from_tunnel, src, dst).or(unresolved.then_some("unresolved_vtep"));
    let outer_checksum = status.underlay.local.is_ipv6() || rows.overlay.udp_checksum;
    let carried = |passed: Option<&str>| match passed {
        Some(verdict) => format!("passed to the kernel ({verdict})"),
        None => kernel.clone(),
    };
    let userspace = carried(passed);
    let inkernel = carried(passed.or(outer_checksum.then_some("outer_checksum")));
    Trace { steps, arrives, kernel, userspace, inkernel, now }
}

/// Where the frame comes from.
fn source(status: &Status, rows: &Rows<'_>, src: MacAddr) -> String {
    let underlay = &status.underlay.device;
    match (rows.container(src), rows.vtep(src)) {
        (Some(container), _) if container.attached => {
            let enters =
                format!("{src} enters by {}, the port of {}", container.host_interface, container.attach);
            match rows.known(src) {
                Some(_) => enters,
                None => format!("{enters}; {} learns it from the frame", rows.overlay.bridge),
            }
        }
        (Some(container), _) => format!("{src} is {}, which is away", container.attach),
        (None, Some(vtep)) => format!("{src} is behind VTEP {vtep}: the frame arrives on {underlay}"),
        (None, None) => {
            format!("{src} is not known: the kernel learns it from the frame, and no engine carries it")
        }
    }
}

/// The way to a container of this host.
fn to_container(rows: &Rows<'_>, container: &ContainerStatus, from_tunnel: bool, in_table: bool) -> Fate {
    let bridge = &rows.overlay.bridge;
    let to = format!("{} of {}", container.host_interface, container.attach);
    match (container.attached, in_table, from_tunnel) {
        (false, ..) => Fate::new(false, format!("it is for {}, which is away", container.attach)),
        (true, false, _) => Fate::new(true, format!("{bridge} floods it, to {to} as well")),
        (true, true, true) => Fate::new(true, format!("decapsulated and sent to {to}")),
        (true, true, false) => Fate::new(true, format!("{bridge} hands it to {to}")),
    }
}

/// The way of a frame that came out of the tunnel and is for no container of this host: not into it again.
fn hairpin(rows: &Rows<'_>, at: Option<&str>) -> Fate {
    let OverlayStatus { bridge, vxlan, .. } = rows.overlay;
    let how = match at {
        Some(_) => format!("{bridge} drops it: it came by {vxlan} and would leave by it (split horizon)"),
        None => format!("{bridge} floods it to its ports but {vxlan}, by which it came (split horizon)"),
    };
    Fate::new(false, how)
}

/// The way of a frame to another host.
fn remote(
    status: &Status,
    rows: &Rows<'_>,
    dst: MacAddr,
    reach: Option<(IpAddr, Reach)>,
    step: &mut impl FnMut(&'static str, String),
) -> Fate {
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
        return Fate::new(zero.is_some(), how);
    };
    let row = rows.find(Table::Vxlan, dst);
    let state = row.map_or("", |row| row.state.as_str());
    step("vxlan", format!("{dst} is behind VTEP {vtep} ({state})"));
    let unresolved = |arrives, how| Fate { arrives, how, unresolved: true };
    let trouble = reach.trouble(vtep);
    let Reach { device, next_hop, mtu, mac, .. } = reach;
    let Some(device) = device else {
        step("route", format!("no route leads to {vtep}"));
        return unresolved(false, format!("{vxlan} drops it: no route to {vtep}"));
    };
    let narrow = mtu.zip(status.underlay.mtu).is_some_and(|(route, device)| route < device);
    let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    step("route", format!("{vtep} by {next_hop} on {device}{mtu}"));
    let Some(mac) = mac else {
        if trouble.is_some() {
            step("neighbour", format!("{next_hop} does not answer on {device}"));
            return unresolved(false, format!("the kernel asks for {next_hop} in vain, and drops it"));
        }
        step("neighbour", format!("{next_hop} has not been asked for on {device}"));
        return unresolved(true, format!("the kernel asks for {next_hop} first, then sends it"));
    };
    step("neighbour", format!("{next_hop} is {mac}"));
    let how = format!("encapsulated and sent to VTEP {vtep} by {device}");
    // As `engine::compile` admits VTEPs.
    Fate { arrives: true, how, unresolved: device != status.underlay.device || narrow }
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
