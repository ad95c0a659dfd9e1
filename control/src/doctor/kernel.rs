//! The kernel: its version, how it was built, BPF's compiler, and our capabilities.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use flate2::read::GzDecoder;
use nix::sys::utsname::uname;

use super::{Finding, Setting, Severity};
use crate::capability::KEPT;
use crate::engine::Kind;
use crate::engine::forecast::Forecast;
use crate::netns::Netns;

/// The oldest kernel that the tests cover, and the first one with links for tc programs.
const OLDEST: (u32, u32) = (6, 1);
const TC_LINKS: (u32, u32) = (6, 6);

/// As Debian has it.
const NEWER_KERNEL: &str = "apt-get install linux-image-amd64; systemctl reboot";

pub(super) fn examine(host: &Netns, forecasts: &[Forecast], findings: &mut Vec<Finding>) {
    let jit_file = "/proc/sys/net/core/bpf_jit_enable".into();
    findings.extend(jit(Setting { file: jit_file, value: "1".into(), netns: host.clone() }));
    findings.extend(btf(Path::new("/sys/kernel/btf/vmlinux")));
    if let Ok(ours) = caps::read(None, CapSet::Effective) {
        findings.extend(capabilities(&ours));
    }
    let Ok(names) = uname() else { return };
    let release = names.release().to_string_lossy();
    findings.extend(version(&release));
    let files = [
        "/proc/config.gz".to_owned(),
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    // Where none is there, nothing is known.
    if let Some((file, config)) =
        files.iter().find_map(|file| Some((file, build(&std::fs::read(file).ok()?)?)))
    {
        findings.extend(options(file, &config, forecasts, parse(&release)));
    }
}

/// A kernel's version.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn version(release: &str) -> Option<Finding> {
    let version = parse(release)?;
    if version < OLDEST {
        let why = "nothing older than 6.1 is tested, and next hops may not stay resolved";
        return Some(
            Finding::new(Severity::Broken, format!("Linux {release} is too old"), why).command(NEWER_KERNEL),
        );
    }
    let why = "tc programs have no links before Linux 6.6: when the daemon dies, the kernel takes over from the \
               in-kernel engine within five seconds instead of at once";
    (version < TC_LINKS)
        .then(|| Finding::new(Severity::Fine, format!("Linux {release}"), why).command(NEWER_KERNEL))
}

fn jit(setting: Setting) -> Option<Finding> {
    let off = setting.read().as_deref() == Some("0");
    let why = "the kernel interprets BPF programs, several times slower than compiled ones";
    let found = Finding::new(Severity::Slower, "BPF's compiler (JIT) is off", why)
        .command("sysctl -w net.core.bpf_jit_enable=1");
    off.then(|| Finding { setting: Some(setting), ..found })
}

/// The programs carry no relocations that would take the kernel's types.
fn btf(file: &Path) -> Option<Finding> {
    let why = "vxdp does without; `bpftool` and `perf trace`, which show programs and drop reasons, need it";
    let what = "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)";
    (!file.exists())
        .then(|| Finding::new(Severity::Fine, what, why).command(format!("ls {}", file.display())))
}

/// The options that a kernel was built with, from its configuration, packed or not.
fn build(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut text = String::new();
    if GzDecoder::new(bytes).read_to_string(&mut text).is_err() {
        text = std::str::from_utf8(bytes).ok()?.to_owned();
    }
    let set = text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
    let set: BTreeMap<_, _> = set.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (!set.is_empty()).then_some(set)
}

/// Options that are off and that this configuration needs.
fn options(
    file: &str,
    build: &BTreeMap<String, String>,
    forecasts: &[Forecast],
    version: Option<(u32, u32)>,
) -> Vec<Finding> {
    let overlay = "no overlay can be built";
    let mut needed = vec![
        ("VXLAN", overlay),
        ("VETH", overlay),
        ("BRIDGE", overlay),
        ("BPF_SYSCALL", "there is no xdp mode"),
    ];
    if forecasts.iter().any(|forecast| forecast.engine == Kind::Userspace) {
        needed.push(("XDP_SOCKETS", "the userspace engine has no sockets"));
    }
    // From then on tc programs have links, which take neither.
    if forecasts.iter().any(|forecast| !forecast.takes_xdp()) && version.is_some_and(|is| is < TC_LINKS) {
        let why = "the in-kernel engine cannot attach its programs at tc";
        needed.extend([("NET_SCH_INGRESS", why), ("NET_CLS_BPF", why)]);
    }
    let is_off = |name: &str| !matches!(build.get(name).map(String::as_str), Some("y" | "m"));
    let found = |(name, why): (&str, &str)| {
        let severity = if why == overlay { Severity::Broken } else { Severity::Slower };
        let show = if file.ends_with(".gz") { "zgrep" } else { "grep" };
        Finding::new(severity, format!("the kernel is built without CONFIG_{name}"), why)
            .command(format!("{show} -w CONFIG_{name} {file}"))
    };
    needed.into_iter().filter(|(name, _)| is_off(name)).map(found).collect()
}

/// Those that the daemon keeps and could not keep if we started it. Of those without which nothing can be looked at,
/// preflight tells.
fn capabilities(ours: &CapsHashSet) -> Vec<Finding> {
    let told = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];
    let missing =
        KEPT.iter().filter(|(capability, _)| !told.contains(capability) && !ours.contains(capability));
    let found = |(capability, what_for): &(Capability, &str)| {
        let why = format!("the daemon needs it for {what_for}");
        Finding::new(Severity::Slower, format!("{capability} is missing"), why)
            .command("run as root, as in: sudo vxdp doctor")
    };
    missing.map(found).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn kernels_are_judged_by_their_version() {
        let severity = |release| version(release).map(|finding| finding.severity);
        assert_eq!(severity("5.15.0-91-generic"), Some(Severity::Broken));
        assert_eq!(severity("6.1.0-18-amd64"), Some(Severity::Fine));
        assert_eq!(severity("6.12.9"), None);
        assert_eq!(severity("odd"), None);
    }

    #[test]
    fn a_kernel_without_btf_is_only_a_note() {
        assert_eq!(btf(Path::new("/proc/self/status")), None);
        let severity = btf(Path::new("/nonexistent/vmlinux")).map(|finding| finding.severity);
        assert_eq!(severity, Some(Severity::Fine));
    }

    #[test]
    fn a_compiler_that_is_off_is_told_with_its_setting() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let look = |value: &str| {
            std::fs::write(file.path(), value).expect("a write");
            let netns = Netns::current().expect("a namespace");
            jit(Setting { file: file.path().to_owned(), value: "1".into(), netns })
        };
        assert_eq!(look("1\n"), None);
        let found = look("0\n").expect("it is off");
        assert_eq!(found.severity, Severity::Slower);
        assert!(found.setting.is_some_and(|setting| setting.value == "1"));
    }

    #[test]
    fn options_are_read_packed_and_unpacked_and_those_that_are_off_are_told_where_they_matter() {
        let text =
            "# Networking\nCONFIG_VXLAN=m\nCONFIG_VETH=y\n# CONFIG_BRIDGE is not set\nCONFIG_BPF_SYSCALL=y\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).expect("a write");
        let packed = packed.finish().expect("an end");
        let read = build(&packed).expect("options");
        assert_eq!(Some(&read), build(text.as_bytes()).as_ref());
        assert_eq!(build(b"nothing of the kind"), None);
        let forecast = |engine, hook| Forecast { engine, why: None, hook, copy: "no sockets", refusal: None };
        let off = |forecasts: &[Forecast], version| {
            let found = options("/proc/config.gz", &read, forecasts, Some(version)).into_iter();
            found.map(|found| (found.severity, found.command.unwrap_or_default())).collect::<Vec<_>>()
        };
        let bridge = (Severity::Broken, "zgrep -w CONFIG_BRIDGE /proc/config.gz".to_owned());
        let slower = |name| (Severity::Slower, format!("zgrep -w CONFIG_{name} /proc/config.gz"));
        assert_eq!(off(&[forecast(Kind::InKernel, "tc")], (6, 12)), std::slice::from_ref(&bridge));
        assert_eq!(
            off(&[forecast(Kind::InKernel, "tc")], (6, 1)),
            [bridge.clone(), slower("NET_SCH_INGRESS"), slower("NET_CLS_BPF")]
        );
        assert_eq!(off(&[forecast(Kind::Userspace, "driver")], (6, 1)), [bridge, slower("XDP_SOCKETS")]);
    }

    #[test]
    fn every_capability_that_the_daemon_keeps_is_told_when_it_is_missing() {
        let all: CapsHashSet = KEPT.iter().map(|(capability, _)| *capability).collect();
        assert!(capabilities(&all).is_empty());
        let told: Vec<_> =
            capabilities(&CapsHashSet::default()).into_iter().map(|found| found.what).collect();
        assert_eq!(
            told,
            ["CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]
                .map(|name| format!("{name} is missing"))
        );
    }
}
