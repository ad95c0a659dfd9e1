//! `vxdp status`: the daemon and its overlays on one screen.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use crate::api::status::{ContainerStatus, OverlayStatus, Status};
use crate::api::{Request, client};
use crate::cli::StatusArgs;

use super::table::{Table, ago};

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
    let Status { version, pid, uptime_s, mode, underlay, overlays, reconcile, misses, errors } = status;
    writeln!(text, "vxdp {version}, pid {pid}, up {}, mode {mode}", ago(*uptime_s))?;
    let mtu = underlay.mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    writeln!(text, "underlay {}, {}{mtu}", underlay.device, underlay.local)?;
    for overlay in overlays {
        write_overlay(text, overlay)?;
    }
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
    if !errors.is_empty() {
        writeln!(text, "\nlatest errors")?;
    }
    for error in errors {
        writeln!(text, "  {} ago, {} times: {}", ago(error.age_s), error.count, error.message)?;
    }
    Ok(())
}

fn write_overlay(text: &mut String, overlay: &OverlayStatus) -> std::fmt::Result {
    let OverlayStatus { vni, port, netns, bridge, vxlan, mtu, containers, remotes } = overlay;
    let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
    writeln!(text, "\noverlay {vni} on port {port}: {bridge} and {vxlan} in {netns}{mtu}")?;
    writeln!(
        text,
        "  remotes: {} static, {} on miss, {} added",
        remotes.static_, remotes.on_miss, remotes.added
    )?;
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
    use vxdp_dataplane::wire::MacAddr;

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
            mode: "kernel".into(),
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
                containers: vec![container],
                remotes: RemoteCounts { static_: 1, on_miss: 0, added: 0 },
            }],
            reconcile: ReconcileStatus {
                state: "settled".into(),
                failures: 0,
                notifications: 17,
                overflows: 0,
                counters: Default::default(),
            },
            misses: Default::default(),
            errors: vec![ErrorStatus { message: "no".into(), count: 3, age_s: 61 }],
        }
    }

    #[test]
    fn the_screen_has_80_columns_and_says_what_matters() {
        let text = screen(&status_of(true));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for word in ["kernel", "42", "attached", "docker test-overlay", "fd42::2/64", "1m1s", "1h2m"] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn a_container_that_is_away_comes_with_its_reason() {
        let text = screen(&status_of(false));
        assert!(text.contains("away") && text.contains("it is not running"), "{text}");
    }
}
