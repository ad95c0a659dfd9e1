//! The underlay's NIC, and what xdp mode would get of it.

use std::collections::BTreeSet;

use nix::net::if_::if_nametoindex;

use super::{Finding, Severity, kernel};
use crate::api::status::Status;
use crate::config::{Config, Overlay, ZeroCopy};
use crate::engine::forecast::{Forecast, Refusal};
use crate::engine::regime::{self, NicFeatures};
use crate::engine::{self, Kind};
use crate::netns::Netns;
use crate::offload::{self, LRO, TUNNEL_SEGMENTATION};
use crate::xdp::Device;

pub(super) async fn examine(
    config: &Config,
    host: &Netns,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) {
    let device = config.underlay.device.as_str();
    if let (Ok(active), Ok(changeable)) =
        (offload::active(host, device).await, offload::changeable(host, device).await)
    {
        findings.extend(offloads(device, &active, &changeable));
    }
    let features = regime::nic_features(host, device).await;
    let forecasts: Vec<_> =
        config.overlays.iter().map(|overlay| Forecast::of(config, overlay, features)).collect();
    kernel::examine(host, &forecasts, findings);
    let receive = receive_queues(device);
    let would_get = config.overlays.iter().zip(&forecasts);
    findings.extend(would_get.map(|(overlay, forecast)| would_be(config, overlay, forecast, receive)));
    let takes_xdp = forecasts.iter().any(Forecast::takes_xdp);
    findings.extend(nic(config, features, takes_xdp));
    if forecasts.iter().any(|forecast| forecast.engine == Kind::Userspace) {
        findings.extend(queues(device, receive, config.dataplane.workers.max(1)));
    }
    let flies = status.is_some_and(|status| status.modes.engine.is_some());
    if !flies
        && let Some(id) = program_on(host, device)
        && !engine::has_left(&config.control.socket, id)
    {
        let what = format!("{device} has another XDP program already (id {id})");
        let why = "the userspace engine needs its place; the in-kernel engine does not, but at hook xdp";
        let severity = if takes_xdp { Severity::Slower } else { Severity::Fine };
        findings.push(
            Finding::new(severity, what, why)
                .command(format!("bpftool prog show id {id}; ip link set dev {device} xdp off")),
        );
    }
    if let Some(trouble) = status.and_then(|status| status.modes.trouble.as_ref()) {
        let why = "the kernel carries every frame";
        findings.push(
            Finding::new(Severity::Slower, format!("no xdp mode: {trouble}"), why).command("vxdp status"),
        );
    }
}

/// What xdp mode would get for an overlay.
fn would_be(config: &Config, overlay: &Overlay, forecast: &Forecast, receive: Option<u16>) -> Finding {
    let Forecast { engine, why, hook, copy, refusal } = forecast;
    let (device, (vni, port)) = (&config.underlay.device, (overlay.vni, overlay.port));
    let subject = format!("overlay {vni} on port {port} in xdp mode");
    if let Some(Refusal { why, change }) = refusal {
        let what = format!("{subject}: nothing, because {why}");
        return Finding::new(Severity::Slower, what, "the kernel carries every frame").command(change);
    }
    let reason = why.map_or_else(|| "as configured".to_owned(), |why| format!("because {why}"));
    let hook = if *hook == "tc" { "tc".to_owned() } else { format!("XDP ({hook})") };
    let queues = match (engine, receive) {
        (Kind::InKernel, _) => "every receive queue".to_owned(),
        (Kind::Userspace, Some(receive)) => {
            let workers = config.dataplane.workers.max(1);
            format!("{} of {receive} receive queues", workers.min(receive))
        }
        (Kind::Userspace, None) => "receive queues unknown".to_owned(),
    };
    let what = format!("{subject}: {} engine, {reason}", engine.as_str());
    let gets = format!("on {device} it gets {hook}, {copy}, {queues}");
    Finding::new(Severity::Fine, what, gets).command("vxdp status    # what it has got")
}

fn nic(config: &Config, features: Option<NicFeatures>, takes_xdp: bool) -> Option<Finding> {
    let device = config.underlay.device.as_str();
    let show = format!("ethtool -i {device}");
    match features {
        None => {
            let why = "the kernel does not tell what its driver can do (before Linux 6.3, or no such device)";
            Some(Finding::new(Severity::Fine, format!("{device}: features unknown"), why).command(show))
        }
        Some(NicFeatures { native: false, .. }) => {
            let what = format!("{device}: its driver has no native XDP");
            let why = "XDP programs run on finished skbs (generic mode), which gains the userspace engine little; \
                       use `engine = \"inkernel\"`";
            let severity = if takes_xdp { Severity::Slower } else { Severity::Fine };
            Some(Finding::new(severity, what, why).command(show))
        }
        Some(NicFeatures { zero_copy: false, .. }) => {
            let what = format!("{device}: its driver has no AF_XDP zero-copy");
            let why = "the userspace engine copies each frame twice, so `engine = \"auto\"` takes the in-kernel \
                       engine where it can";
            Some(Finding::new(Severity::Fine, what, why).command(show))
        }
        Some(_) if config.dataplane.zero_copy == ZeroCopy::Off => {
            let why = "each frame is copied although the NIC need not be";
            let what = format!("{device}: zero-copy is offered and `zero_copy = \"off\"`");
            Some(Finding::new(Severity::Fine, what, why).command("zero_copy = \"auto\" in [dataplane]"))
        }
        Some(_) => None,
    }
}

/// Receive queues in use, as sysfs has them for the namespace of this process.
fn receive_queues(device: &str) -> Option<u16> {
    let queues = std::fs::read_dir(format!("/sys/class/net/{device}/queues")).ok()?.flatten();
    let receive = queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"));
    u16::try_from(receive.count()).ok()
}

/// The XDP program on a device.
fn program_on(host: &Netns, device: &str) -> Option<u32> {
    let index = host.run(|| Ok(if_nametoindex(device)?)).ok()?;
    let device = Device { netns: host.clone(), index, name: device.to_owned() };
    device.attached().ok()?.map(|attached| attached.program)
}

/// Offloads of the underlay's device that should be the other way round, as far as that can be changed.
fn offloads(device: &str, active: &BTreeSet<String>, changeable: &BTreeSet<String>) -> Vec<Finding> {
    let segmentation = "bulk TCP is cut into packets before the tunnel instead of by the NIC, on the kernel's path and \
                        in the in-kernel engine";
    let lro =
        "the NIC joins packets before XDP programs could see them, and many drivers refuse the programs then";
    let wanted = [(TUNNEL_SEGMENTATION, true, segmentation), (LRO, false, lro)];
    let wrong = wanted
        .into_iter()
        .filter(|(name, on, _)| active.contains(*name) != *on && changeable.contains(*name));
    let found = |(name, on, why): (&str, bool, &str)| {
        let (is, should) = if on { ("off", "on") } else { ("on", "off") };
        Finding::new(Severity::Slower, format!("{device}: {name} is {is}"), why)
            .command(format!("ethtool -K {device} {name} {should}"))
    };
    wrong.map(found).collect()
}

fn queues(device: &str, queues: Option<u16>, workers: u16) -> Option<Finding> {
    let queues = queues?;
    if queues < workers {
        let what = format!("{workers} workers, and {device} has {queues} receive queues");
        let why = "a worker without a queue cannot open its socket, so the userspace engine does not start";
        return Some(
            Finding::new(Severity::Broken, what, why)
                .command(format!("ethtool -L {device} combined {workers}")),
        );
    }
    let what = format!("{device} has {queues} receive queues, and there are {workers} workers");
    let why =
        "in the userspace engine, frames that arrive on a queue without a worker take the kernel's path";
    (queues > workers).then(|| {
        let command = format!("ethtool -L {device} combined {workers}    # or workers = {queues}");
        Finding::new(Severity::Slower, what, why).command(command)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_judged_where_they_can_be_changed() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let all = set(&[TUNNEL_SEGMENTATION, LRO]);
        let found = |active: &[&str], changeable: &BTreeSet<String>| {
            offloads("eth0", &set(active), changeable)
                .into_iter()
                .filter_map(|found| found.command)
                .collect::<Vec<_>>()
        };
        assert!(found(&[TUNNEL_SEGMENTATION], &all).is_empty());
        assert!(found(&[LRO], &set(&[])).is_empty());
        assert_eq!(
            found(&[LRO], &all),
            ["ethtool -K eth0 tx-udp_tnl-segmentation on", "ethtool -K eth0 rx-lro off",]
        );
    }

    #[test]
    fn queues_and_workers_have_to_agree() {
        let severity = |queues_, workers| queues("eth0", queues_, workers).map(|finding| finding.severity);
        assert_eq!(severity(Some(1), 1), None);
        assert_eq!(severity(Some(1), 2), Some(Severity::Broken));
        assert_eq!(severity(Some(4), 2), Some(Severity::Slower));
        assert_eq!(severity(None, 2), None);
    }
}
