//! The host: kernel, BPF, and the underlay's NIC.

use std::collections::BTreeSet;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use nix::sys::utsname::uname;

use super::{Finding, Setting, Severity};
use crate::api::status::Status;
use crate::config::{Config, ZeroCopy};
use crate::engine;
use crate::engine::regime::{self, NicFeatures};
use crate::netns::Netns;
use crate::offload::{self, LRO, TUNNEL_SEGMENTATION};
use crate::xdp::Device;

/// The oldest kernel that the tests cover, and the first one with links for tc programs.
const OLDEST: (u32, u32) = (6, 1);
const TC_LINKS: (u32, u32) = (6, 6);

pub(super) async fn examine(
    config: &Config,
    host: &Netns,
    status: Option<&Status>,
    findings: &mut Vec<Finding>,
) {
    findings.extend(uname().ok().and_then(|names| kernel(&names.release().to_string_lossy())));
    let jit =
        Setting { file: "/proc/sys/net/core/bpf_jit_enable".into(), value: "1".into(), netns: host.clone() };
    if jit.read().as_deref() == Some("0") {
        let why = "the kernel interprets BPF programs, several times slower than compiled ones";
        let found = Finding::new(Severity::Slower, "BPF's compiler (JIT) is off", why);
        findings.push(Finding { setting: Some(jit), ..found.command("sysctl -w net.core.bpf_jit_enable=1") });
    }
    findings.extend(btf(Path::new("/sys/kernel/btf/vmlinux")));
    let device = config.underlay.device.as_str();
    if let (Ok(active), Ok(changeable)) =
        (offload::active(host, device).await, offload::changeable(host, device).await)
    {
        findings.extend(offloads(device, &active, &changeable));
    }
    findings.extend(nic(config, regime::nic_features(host, device).await));
    findings.extend(queues(device, receive_queues(device), config.dataplane.workers.max(1)));
    let flies = status.is_some_and(|status| status.modes.engine.is_some());
    if !flies
        && let Some(id) = program_on(host, device)
        && !engine::has_left(&config.control.socket, id)
    {
        let what = format!("{device} has another XDP program already (id {id})");
        let why = "the userspace engine needs its place; the in-kernel engine does not";
        findings.push(
            Finding::new(Severity::Slower, what, why)
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

fn kernel(release: &str) -> Option<Finding> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    if version < OLDEST {
        let why = "nothing older than 6.1 is tested, and next hops may not stay resolved";
        return Some(Finding::new(Severity::Broken, format!("Linux {release} is too old"), why));
    }
    let why = "tc programs have no links before Linux 6.6: when the daemon dies, the kernel takes over from the \
               in-kernel engine within five seconds instead of at once";
    (version < TC_LINKS).then(|| Finding::new(Severity::Fine, format!("Linux {release}"), why))
}

fn nic(config: &Config, features: Option<NicFeatures>) -> Option<Finding> {
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
            Some(Finding::new(Severity::Slower, what, why).command(show))
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
            Some(Finding::new(Severity::Fine, what, why))
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

/// The programs carry no relocations that would take the kernel's types.
fn btf(file: &Path) -> Option<Finding> {
    let why = "vxdp does without; `bpftool` and `perf trace`, which show programs and drop reasons, need it";
    let what = "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)";
    (!file.exists())
        .then(|| Finding::new(Severity::Fine, what, why).command(format!("ls {}", file.display())))
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
    fn kernels_are_judged_by_their_version() {
        let severity = |release| kernel(release).map(|finding| finding.severity);
        assert_eq!(severity("5.15.0-91-generic"), Some(Severity::Broken));
        assert_eq!(severity("6.1.0-18-amd64"), Some(Severity::Fine));
        assert_eq!(severity("6.12.9"), None);
        assert_eq!(severity("odd"), None);
    }

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
    fn a_kernel_without_btf_is_only_a_note() {
        assert_eq!(btf(Path::new("/proc/self/status")), None);
        let severity = btf(Path::new("/nonexistent/vmlinux")).map(|finding| finding.severity);
        assert_eq!(severity, Some(Severity::Fine));
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
