//! `vxdp status`: the daemon and its overlays on one screen.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use crate::api::status::{ContainerStatus, OverlayStatus, PathStatus, Status, VtepStatus};
use crate::api::{Request, client};
use crate::cli::StatusArgs;
use crate::engine::pilot::ModeReport;
use crate::engine::{Carried, EngineReport, LossCount, VtepReport};

use super::table::{Table, ago, short};

/// Asks the daemon how it is.
///
/// # Errors
/// When no daemon answers.
pub fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status: Status = client::ask(&args.daemon.socket()?, &Request::Status)?;
    let text = if args.output.json {
        let mut text = serde_json::to_string_pretty(&status)?;
        text.push('\n');
        text
    } else {
        screen(&status)
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn screen(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_screen(&mut text, status);
    text
}

fn write_screen(text: &mut String, status: &Status) -> std::fmt::Result {
    let Status {
        version,
        pid,
        uptime_s,
        mode,
        modes,
        underlay,
        overlays,
        reconcile,
        misses,
        metrics,
        vteps,
        errors,
    } = status;
    writeln!(text, "vxdp {version}, pid {pid}, up {}, mode {mode}", ago(*uptime_s))?;
    let mtu = underlay.mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    writeln!(text, "underlay {}, {}{mtu}", underlay.device, underlay.local)?;
    for overlay in overlays {
        write_overlay(text, overlay)?;
    }
    write_modes(text, modes)?;
    write_kernel_vteps(text, vteps)?;
    let counters = &reconcile.counters;
    writeln!(
        text,
        "\nreconciliation {}: {} passes, {} changed something, {} failed",
        reconcile.state, counters.passes, counters.changed, counters.failed
    )?;
    let overflows = reconcile.overflows;
    writeln!(text, "notifications: {} of interest, {overflows} overflows", reconcile.notifications)?;
    writeln!(
        text,
        "misses: {} asked, {} answered, {} unknown, {} held down",
        misses.asked, misses.answered, misses.unknown, misses.held_down
    )?;
    if misses.dropped + misses.failed + misses.overflows > 0 {
        let (dropped, failed, overflows) = (misses.dropped, misses.failed, misses.overflows);
        writeln!(text, "        {dropped} dropped, {failed} failed, {overflows} overflows")?;
    }
    if let Some(trouble) = metrics.as_ref().and_then(|metrics| metrics.trouble.as_ref()) {
        writeln!(text, "no metrics: {trouble}")?;
    }
    if !errors.is_empty() {
        writeln!(text, "\nlatest errors")?;
    }
    for error in errors {
        writeln!(text, "  {} ago, {} times: {}", ago(error.age_s), error.count, error.message)?;
    }
    Ok(())
}

fn write_modes(text: &mut String, modes: &ModeReport) -> std::fmt::Result {
    writeln!(text)?;
    for overlay in &modes.overlays {
        if let Some(why) = &overlay.why {
            writeln!(text, "overlay {}: {} engine, because {why}", overlay.vni, overlay.engine.as_str())?;
        }
    }
    if let Some(trouble) = &modes.trouble {
        writeln!(text, "no xdp mode: {trouble}")?;
    }
    if let Some(engine) = &modes.engine {
        write_engine(text, modes, engine)?;
    }
    for switch in modes.switches.iter().take(3) {
        writeln!(text, "{} ago: {}", ago(switch.age_s), switch.what)?;
    }
    Ok(())
}

fn write_engine(text: &mut String, modes: &ModeReport, engine: &EngineReport) -> std::fmt::Result {
    let EngineReport { kinds, encap, decap, workers, remotes, locals, vteps_resolved, vteps, .. } = engine;
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let kinds = kinds.join(" and ");
    writeln!(
        text,
        "fast path ({kinds}): {} frames in, {} frames out of tunnels",
        encap.frames, decap.frames
    )?;
    writeln!(
        text,
        "  {workers} workers; {remotes} remote and {locals} local MACs; {vteps_resolved} of {vteps} VTEPs resolved"
    )?;
    if engine.netlink.refused > 0 {
        let refused = engine.netlink.refused;
        writeln!(text, "  {refused} times a row was left to the kernel because the tables are full")?;
    }
    if engine.netlink.behind > 0 {
        writeln!(text, "  rows are still being read; the kernel carries what is not known yet")?;
    }
    let mut table = Table::new(["  DEVICE", "VNI", "HOOK", "COPY", "FRAMES", "TO THE KERNEL"]);
    for device in &engine.devices {
        let frames = |redirected: bool| {
            let counted = device.verdicts.iter();
            let counted = counted.filter(|count| (count.verdict == "redirected") == redirected);
            counted.map(|count| count.frames).sum::<u64>().to_string()
        };
        let copy = match device.regime.as_deref() {
            Some("tc") => "none",
            _ if modes.redirects_without_sockets(device) => "none",
            _ if device.zero_copy => "zero-copy",
            _ => "copy",
        };
        table.row([
            format!("  {}", device.device),
            device.vni.map_or_else(String::new, |vni| vni.to_string()),
            device.regime.clone().unwrap_or_else(|| "off".to_owned()),
            copy.to_owned(),
            frames(true),
            frames(false),
        ]);
    }
    writeln!(text, "{table}")?;
    write_vteps(text, &engine.peers)?;
    for device in &engine.devices {
        if let Some(trouble) = &device.trouble {
            writeln!(text, "  {}: {trouble}", device.device)?;
        }
        for limit in &device.limits {
            writeln!(text, "  {}: {limit}", device.device)?;
        }
        for LossCount { loss, frames } in &device.lost {
            writeln!(text, "  {}: lost {frames} frames: {loss}", device.device)?;
        }
        if !device.switched_off.is_empty() {
            writeln!(text, "  {}: switched off for now: {}", device.device, device.switched_off.join(", "))?;
        }
    }
    for drop in &engine.drops {
        writeln!(text, "  dropped {} frames: {}", drop.frames, drop.reason)?;
    }
    Ok(())
}

/// VTEPs that the screen has room for; `--json` has them all.
const SHOWN_VTEPS: usize = 10;

/// The VTEPs that are not resolved first: those are what one looks for.
fn write_vteps(text: &mut String, vteps: &[VtepReport]) -> std::fmt::Result {
    let mut vteps: Vec<_> = vteps.iter().collect();
    vteps.sort_by_key(|vtep| (vtep.next_hop.is_some(), std::cmp::Reverse(vtep.carried.encap.frames)));
    let mut table = Table::new(["  VTEP", "NEXT HOP", "ENCAP", "DECAP"]);
    for vtep in vteps.iter().take(SHOWN_VTEPS) {
        let VtepReport { address, next_hop, carried, .. } = vtep;
        let hop = next_hop.clone().unwrap_or_else(|| "unresolved".to_owned());
        let Carried { encap, decap } = carried;
        table.row([format!("  {address}"), hop, short(encap.frames), short(decap.frames)]);
    }
    if !vteps.is_empty() {
        writeln!(text, "{table}")?;
    }
    for VtepReport { address, why, .. } in vteps.iter().take(SHOWN_VTEPS) {
        if let Some(why) = why {
            writeln!(text, "  {address}: {why}")?;
        }
    }
    write_hidden(text, vteps.len())
}

/// The same on the kernel's path, which does not count by VTEP.
fn write_kernel_vteps(text: &mut String, vteps: &[VtepStatus]) -> std::fmt::Result {
    let mut vteps: Vec<_> = vteps.iter().collect();
    vteps.sort_by_key(|vtep| (vtep.why.is_none(), vtep.reach.mac.is_some()));
    let mut table = Table::new(["  VTEP", "NEXT HOP", "MAC", "STATE"]);
    for vtep in vteps.iter().take(SHOWN_VTEPS) {
        let VtepStatus { address, reach, .. } = vtep;
        let hop = reach.device.as_ref().map_or_else(String::new, |_| reach.next_hop.to_string());
        table.row([
            format!("  {address}"),
            hop,
            reach.mac.clone().unwrap_or_else(|| "unresolved".to_owned()),
            vtep.state().to_owned(),
        ]);
    }
    if !vteps.is_empty() {
        writeln!(text, "{table}")?;
    }
    for VtepStatus { why, .. } in vteps.iter().take(SHOWN_VTEPS) {
        if let Some(why) = why {
            writeln!(text, "  {why}")?;
        }
    }
    write_hidden(text, vteps.len())
}

fn write_hidden(text: &mut String, vteps: usize) -> std::fmt::Result {
    if vteps > SHOWN_VTEPS {
        writeln!(text, "  and {} more VTEPs: --json", vteps - SHOWN_VTEPS)?;
    }
    Ok(())
}

fn write_paths(text: &mut String, paths: &[PathStatus]) -> std::fmt::Result {
    if paths.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["  PATH", "ENCAP", "BYTES", "PER S", "DECAP", "BYTES", "PER S"]);
    for PathStatus { path, carried, rate } in paths {
        let Carried { encap, decap } = carried;
        let [out, home] = [rate.map(|rate| rate.encap), rate.map(|rate| rate.decap)]
            .map(|rate| rate.map_or_else(String::new, |rate| short(rate.frames)));
        table.row([
            format!("  {path}"),
            short(encap.frames),
            short(encap.bytes),
            out,
            short(decap.frames),
            short(decap.bytes),
            home,
        ]);
    }
    writeln!(text, "{table}")
}

fn write_overlay(text: &mut String, overlay: &OverlayStatus) -> std::fmt::Result {
    let OverlayStatus { vni, port, netns, bridge, vxlan, mtu, containers, remotes, paths, .. } = overlay;
    let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    writeln!(text, "\noverlay {vni} on port {port}: {bridge} and {vxlan} in {netns}{mtu}")?;
    writeln!(
        text,
        "  remotes: {} static, {} on miss, {} added",
        remotes.static_, remotes.on_miss, remotes.added
    )?;
    write_paths(text, paths)?;
    let mut table = Table::new(["  CONTAINER", "DEVICE", "MAC", "ADDRESS", "STATE"]);
    for container in containers {
        let ContainerStatus { attach, interface, mac, addresses, attached, .. } = container;
        let state = if *attached { "attached" } else { "away" };
        let addresses = addresses.join("\n");
        table.row([format!("  {attach}"), interface.clone(), mac.to_string(), addresses, state.to_owned()]);
    }
    if !containers.is_empty() {
        writeln!(text, "{table}")?;
    }
    for ContainerStatus { attach, reason, .. } in containers {
        if let Some(reason) = reason {
            writeln!(text, "  {attach}: {reason}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::{ErrorStatus, ReconcileStatus, RemoteCounts, UnderlayStatus};
    use crate::engine::{DeviceReport, Frames, LossCount, VerdictCount};
    use crate::reach::Reach;
    use vxdp_dataplane::wire::MacAddr;

    fn modes() -> ModeReport {
        let frames = |frames| Frames { frames, bytes: 98 * frames };
        let device = |device: &str, vni| DeviceReport {
            device: device.into(),
            vni,
            regime: Some("driver".into()),
            zero_copy: false,
            limits: vec!["copy: veth ports only copy, and share its memory".into()],
            switched_off: vec!["tx-vlan-hw-insert".into()],
            trouble: None,
            verdicts: vec![VerdictCount { verdict: "redirected".into(), frames: 1_234_567_890 }],
            lost: vec![LossCount { loss: "rx_ring_full".into(), frames: 1_234_567_890 }],
            ..DeviceReport::default()
        };
        let peer = |last: u8| VtepReport {
            address: [192, 168, 10, last].into(),
            next_hop: (last != 11).then(|| "02:00:c0:a8:0a:16".into()),
            mtu: None,
            why: (last == 11).then(|| "next hop 192.168.10.11 has no link-layer address yet".into()),
            carried: Carried { encap: frames(12_345_678), decap: frames(7) },
        };
        let engine = EngineReport {
            devices: vec![device("eth0", None), device("veth2", Some(16_777_215))],
            encap: frames(12_345_678_901),
            decap: frames(12_345_678_902),
            vteps_resolved: 1000,
            peers: (0..12).map(peer).collect(),
            vteps: 1000,
            remotes: 1_000_000,
            locals: 12,
            workers: 8,
            ..EngineReport::default()
        };
        ModeReport { engine: Some(engine), ..ModeReport::default() }
    }

    fn status_of(attached: bool) -> Status {
        let container = ContainerStatus {
            attach: "docker test-overlay".into(),
            interface: "eth1".into(),
            host_interface: "veth2".into(),
            mac: MacAddr::new([2, 0x42, 10, 0, 0, 2]),
            addresses: vec!["10.0.0.2/24".into(), "fd42::2/64".into()],
            attached,
            reason: (!attached).then(|| "it is not running".to_owned()),
        };
        Status {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_s: 3725,
            mode: "xdp".into(),
            modes: modes(),
            underlay: UnderlayStatus {
                device: "eth0".into(),
                local: [192, 168, 10, 21].into(),
                mtu: Some(1500),
            },
            overlays: vec![OverlayStatus {
                vni: 42,
                port: 4789,
                netns: "overlay".into(),
                bridge: "br0".into(),
                vxlan: "vxlan1".into(),
                mtu: Some(1450),
                udp_checksum: false,
                containers: vec![container],
                remotes: RemoteCounts { static_: 1, on_miss: 0, added: 0 },
                paths: vec![PathStatus {
                    path: "userspace".into(),
                    carried: Carried {
                        encap: Frames { frames: 1_234_567_890, bytes: u64::MAX },
                        decap: Frames { frames: 1_234_567_890, bytes: u64::MAX },
                    },
                    rate: Some(Carried {
                        encap: Frames { frames: 1_700_000, bytes: 98 },
                        decap: Frames::default(),
                    }),
                }],
            }],
            reconcile: ReconcileStatus {
                state: "settled".into(),
                failures: 0,
                notifications: 17,
                overflows: 0,
                counters: Default::default(),
            },
            misses: Default::default(),
            metrics: None,
            vteps: Vec::new(),
            errors: vec![ErrorStatus { message: "no".into(), count: 3, age_s: 61 }],
        }
    }

    #[test]
    fn the_screen_has_80_columns_and_says_what_matters() {
        let text = screen(&status_of(true));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for word in [
            "mode xdp",
            "1234567890",
            "42",
            "attached",
            "docker test-overlay",
            "fd42::2/64",
            "1m1s",
            "1h2m",
            "1.7M",
            "no link-layer address",
            "and 2 more VTEPs",
        ] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn vteps_of_the_kernels_path_come_with_the_way_there_and_the_worst_first() {
        let vtep = |last: u8, mac: Option<&str>, state: Option<&str>| {
            let address = [203, 0, 113, last].into();
            let reach = Reach {
                device: Some("eth0".into()),
                next_hop: [192, 168, 110, 254].into(),
                mtu: None,
                mac: mac.map(str::to_owned),
                asked: state.is_some(),
                state: state.map(str::to_owned),
            };
            let why = reach.trouble(address).map(|(what, _)| what);
            VtepStatus { address, reach, why }
        };
        let fine = (100..112).map(|last| vtep(last, Some("02:00:c0:a8:0a:16"), Some("reachable")));
        let vteps = fine.chain([vtep(1, None, None), vtep(2, None, Some("failed"))]).collect();
        let text = screen(&Status { modes: ModeReport::default(), vteps, ..status_of(true) });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}\n{text}"));
        assert!(place("failed") < place("not asked") && place("not asked") < place("reachable"), "{text}");
        place("the next hop 192.168.110.254 on eth0 does not answer");
        place("and 4 more VTEPs");
    }

    #[test]
    fn a_container_that_is_away_comes_with_its_reason() {
        let text = screen(&status_of(false));
        assert!(text.contains("away") && text.contains("it is not running"), "{text}");
    }
}
