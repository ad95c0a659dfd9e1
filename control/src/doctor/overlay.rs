//! The overlays: what distorts them, whether their VTEPs can be reached, and what is known of remote MACs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vxdp_dataplane::wire::MacAddr;

use super::rows::{Place, Survey};
use super::{Finding, Setting, Severity};
use crate::api::status::Status;
use crate::config::{Config, Loaded, Overlay};
use crate::kernel::desired::UnderlayFacts;
use crate::netns::Netns;
use crate::reach::Reach;

/// VTEPs that the kernel is asked about.
const ASKED: usize = 10_000;

pub(super) async fn examine(
    loaded: &Loaded,
    host: &Netns,
    facts: Option<UnderlayFacts>,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let config = &loaded.config;
    let spaces: BTreeSet<_> = config.overlays.iter().map(|overlay| overlay.netns.as_str()).collect();
    findings.extend(spaces.into_iter().flat_map(bridge_netfilter));
    let surveys = Survey::of_each(&config.overlays).await;
    for (overlay, survey) in config.overlays.iter().zip(&surveys) {
        findings.extend(misplaced(overlay, survey));
    }
    let mut vteps = vteps(config, &surveys);
    if vteps.len() > ASKED {
        let what = format!("{ASKED} of {} VTEPs were looked at", vteps.len());
        let why = "one that is not reached may be among the others; each takes a question to the kernel";
        findings.push(Finding::new(Severity::Fine, what, why).command("vxdp fdb show"));
        vteps.truncate(ASKED);
    }
    let addresses: Vec<IpAddr> = vteps.iter().map(|(vtep, _)| *vtep).collect();
    let mut routed = Vec::new();
    let reaches = Reach::of_each(host, config.underlay.local, &addresses).await?;
    for ((vtep, vnis), reach) in vteps.into_iter().zip(reaches) {
        let named = vnis.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let why = format!("no frame of VNI {named} gets to the containers behind VTEP {vtep}");
        let narrow = facts.zip(reach.mtu).and_then(|(facts, mtu)| narrow(config, facts, vtep, mtu, &vnis));
        findings.extend(narrow);
        if let Some((what, command)) = reach.trouble(vtep) {
            findings.push(Finding::new(Severity::Broken, what, why).command(command));
        } else if reach.mac.is_none() {
            let what = format!("nothing is known of the next hop {} to VTEP {vtep}", reach.next_hop);
            let why = "nobody has sent there yet: whether it answers shows when somebody does";
            let command = format!("ping -c1 {}", reach.next_hop);
            findings.push(Finding::new(Severity::Fine, what, why).command(command));
        } else if let Some(device) = reach.device.filter(|device| *device != config.underlay.device.as_str())
        {
            let what = format!("the route to VTEP {vtep} leaves by {device}");
            let why =
                format!("the fast path sends by {} only, so the kernel carries it", config.underlay.device);
            let command = format!("ip route get {vtep}    # or device = \"{device}\" in [underlay]");
            findings.push(Finding::new(Severity::Slower, what, why).command(command));
        } else if reach.next_hop != vtep {
            routed.push((vtep, reach.next_hop));
        }
    }
    if let Some((vtep, router)) = routed.first() {
        let others = match routed.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more are behind routers"),
        };
        let what = format!("VTEP {vtep} is behind the router {router}, which answers{others}");
        let why =
            "whether the host itself is there shows only when it is sent something, which doctor does not";
        findings.push(Finding::new(Severity::Fine, what, why).command(format!("ping -c1 {vtep}")));
    }
    for overlay in status.map(|status| status.overlays.as_slice()).unwrap_or_default() {
        for container in overlay.containers.iter().filter(|container| !container.attached) {
            let reason = container.reason.as_deref().unwrap_or("its namespace is not there");
            let what = format!("container {} is away: {reason}", container.attach);
            let why = format!("nobody in VNI {} reaches {}", overlay.vni, container.mac);
            let command = match container.attach.split_once(' ') {
                Some(("docker", name)) => format!("docker start {name}"),
                Some(("netns", name)) => format!("ip netns add {name}"),
                _ => "vxdp status".to_owned(),
            };
            findings.push(Finding::new(Severity::Broken, what, why).command(command));
        }
    }
    Ok(())
}

/// Bridged frames that pass the host's IP tables are re-checked, and may be dropped or rewritten there.
fn bridge_netfilter(space: &str) -> Vec<Finding> {
    let Ok(netns) = Netns::named(space) else { return Vec::new() };
    let setting = |name: &str| Setting {
        file: format!("/proc/sys/net/bridge/bridge-nf-call-{name}").into(),
        value: "0".into(),
        netns: netns.clone(),
    };
    let setting = ["iptables", "ip6tables", "arptables"].map(setting);
    let on = setting.into_iter().filter(|setting| setting.read().as_deref() == Some("1"));
    let found = |setting: Setting| {
        let name =
            setting.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let what = format!("br_netfilter: net.bridge.{name} is on in {space}");
        let why = "frames on the kernel's path pass the namespace's tables there and are slower; those of the fast \
                   path do not";
        let command = format!("ip netns exec {space} sysctl -w net.bridge.{name}=0");
        let found = Finding::new(Severity::Slower, what, why).command(command);
        Finding { setting: Some(setting), ..found }
    };
    on.map(found).collect()
}

/// A route to a VTEP that is narrower than the underlay's device, in bytes of an outer packet.
fn narrow(config: &Config, facts: UnderlayFacts, vtep: IpAddr, route: u32, vnis: &[u32]) -> Option<Finding> {
    let overlays = config.overlays.iter().filter(|overlay| vnis.contains(&overlay.vni.get()));
    let inner = overlays.map(|overlay| facts.overlay_mtu(overlay)).max()?;
    let (room, needed) = (facts.overhead(), inner + facts.overhead());
    if needed > route {
        let fits = route.saturating_sub(room);
        let what = format!(
            "the route to VTEP {vtep} takes packets of {route} bytes; an inner MTU of {inner} and {room} bytes of \
             encapsulation make {needed}"
        );
        let why = "the kernel answers larger packets with \"fragmentation needed\"; who does not heed that, or \
                   has it filtered, hangs. The fast path leaves the VTEP to the kernel";
        let command = format!("mtu = {fits} in [[overlay]], on every host");
        return Some(Finding::new(Severity::Slower, what, why).command(command));
    }
    let what = format!(
        "the route to VTEP {vtep} takes packets of {route} bytes, {} of {}",
        config.underlay.device, facts.mtu
    );
    let why = "the fast path leaves such a VTEP to the kernel";
    (route < facts.mtu)
        .then(|| Finding::new(Severity::Slower, what, why).command(format!("ip route get {vtep}")))
}

/// Each VTEP of the configuration and of the kernel's rows, with the VNIs behind it; those of the configuration first.
fn vteps(config: &Config, surveys: &[Survey]) -> Vec<(IpAddr, Vec<u32>)> {
    let of_remotes = |overlay: &Overlay| overlay.remotes.iter().map(|remote| remote.vtep).collect::<Vec<_>>();
    let of_flood = |overlay: &Overlay| overlay.flood.clone();
    let configured: BTreeSet<IpAddr> = config
        .overlays
        .iter()
        .flat_map(|overlay| [of_remotes(overlay), of_flood(overlay)].concat())
        .collect();
    let mut all: BTreeMap<(bool, IpAddr), BTreeSet<u32>> = BTreeMap::new();
    for (overlay, survey) in config.overlays.iter().zip(surveys) {
        let named = [of_remotes(overlay), of_flood(overlay), survey.vteps.iter().copied().collect()].concat();
        for vtep in named {
            all.entry((!configured.contains(&vtep), vtep)).or_default().insert(overlay.vni.get());
        }
    }
    all.into_iter().map(|((_, vtep), vnis)| (vtep, vnis.into_iter().collect())).collect()
}

/// MACs of the configuration that the kernel has elsewhere.
fn misplaced(overlay: &Overlay, survey: &Survey) -> Vec<Finding> {
    let found = |(mac, place): &(MacAddr, Place)| {
        let configured = overlay.remotes.iter().find(|remote| remote.mac == *mac)?.vtep;
        let (what, command) = match place {
            Place::Vtep(vtep) if *vtep != configured => (
                format!("{mac} is behind VTEP {vtep}; the configuration has it behind {configured}"),
                format!("vxdp fdb del {mac} --vni {}    # what is configured comes back", overlay.vni),
            ),
            Place::Port(device) if device != overlay.vxlan.as_str() => (
                format!(
                    "{mac} is behind the port {device} of this host; the configuration has it behind {configured}"
                ),
                format!("ip netns exec {} bridge fdb del {mac} dev {device} master", overlay.netns),
            ),
            _ => return None,
        };
        let why = "two containers have the MAC, or it has moved: frames for one of them go to the other";
        Some(Finding::new(Severity::Broken, what, why).command(command))
    };
    survey.remotes.iter().filter_map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_route_is_told_with_the_mtu_that_fits() {
        let text = "[underlay]\ndevice = 'eth0'\nlocal = '192.0.2.1'\n[[overlay]]\nvni = 42\nmtu = 1400\n\
                    [[overlay]]\nvni = 43\nbridge = 'br1'\nvxlan = 'vxlan2'\n";
        let loaded = crate::config::parse(std::path::Path::new("f"), text.as_bytes()).expect("valid");
        let facts = UnderlayFacts { ifindex: 2, mtu: 1500, local: [192, 0, 2, 1].into() };
        let told = |route, vnis: &[u32]| narrow(&loaded.config, facts, [192, 0, 2, 2].into(), route, vnis);
        assert_eq!(told(1500, &[42, 43]), None);
        let hint = |route, vnis: &[u32]| told(route, vnis).and_then(|finding| finding.command);
        assert_eq!(hint(1450, &[42]).as_deref(), Some("ip route get 192.0.2.2"));
        assert_eq!(hint(1449, &[42]).as_deref(), Some("mtu = 1399 in [[overlay]], on every host"));
        assert_eq!(hint(1450, &[42, 43]).as_deref(), Some("mtu = 1400 in [[overlay]], on every host"));
    }
}
