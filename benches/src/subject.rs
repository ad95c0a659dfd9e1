//! What is measured: two containers, and what joins them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use serde::Serialize;
use vxdp_lab::{Attachment, Daemon, Frames, Lab, Mode, Ping, Place, TwoHosts};

use crate::frame::{ADDRESS1, ADDRESS2, MAC1, MAC2};

/// The containers' device, in every subject.
pub const DEVICE: &str = "eth1";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// vxdp on both hosts, the kernel's vxlan device carries the frames.
    Kernel,
    /// vxdp on both hosts, userspace carries them over AF_XDP.
    Xdp,
    /// vxdp on both hosts, the BPF programs carry them by themselves.
    InKernel,
    /// A veth pair and nothing else: the machine's own limit.
    None,
}

impl Kind {
    /// The modes of vxdp.
    pub const MODES: [Self; 3] = [Self::Kernel, Self::Xdp, Self::InKernel];
    /// What else can stand between the containers.
    pub const PEERS: [Self; 1] = [Self::None];

    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Xdp => "xdp",
            Self::InKernel => "inkernel",
            Self::None => "none",
        }
    }

    /// Where the sink's program runs. The in-kernel engine hands frames to the container's device behind its
    /// driver, so that a program there sees none; the network core's hook costs more, at this subject's expense.
    pub fn sink_mode(self) -> XdpMode {
        match self {
            Self::InKernel => XdpMode::Skb,
            _ => XdpMode::Driver,
        }
    }

    /// Builds it; it stands idle until it is measured.
    pub fn build(self, dataplane: &str) -> Result<Subject> {
        let (lab, daemons, entrance) = match self {
            Self::Kernel => overlay(Mode::Kernel, dataplane)?,
            Self::Xdp => overlay(Mode::Xdp, dataplane)?,
            Self::InKernel => overlay(Mode::InKernel, dataplane)?,
            Self::None => wire()?,
        };
        let containers = match lab.hosts() {
            [h1, h2] => [h1.netns("c1"), h2.netns("c2")],
            _ => [lab.h1().netns("c1"), lab.h1().netns("c2")],
        };
        let mut subject =
            Subject { kind: self, daemons, lab, containers, entrance, regime: Regime::default() };
        subject.warm_up()?;
        subject.regime = subject.look_at_regime(dataplane)?;
        Ok(subject)
    }
}

/// A namespace, and the device in it that container 1's frames come from.
pub type Entrance = (Place, &'static str);

/// What a subject is made of.
type Built = (Lab, Vec<Daemon>, Option<Entrance>);

/// Two containers, joined.
#[derive(Debug)]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// How it works here.
    pub regime: Regime,
    /// The containers.
    pub containers: [Place; 2],
    /// Where container 1's frames enter the host.
    pub entrance: Option<Entrance>,
    // In the order in which they have to go.
    daemons: Vec<Daemon>,
    lab: Lab,
}

/// How a subject works: what a figure of it is worth depends on these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Regime(pub Vec<(String, String)>);

impl Regime {
    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// In one line.
    pub fn line(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
    }
}

impl Subject {
    /// Has each container say something, so that every table knows both.
    ///
    /// Generator and sink never speak for container 2, whose row would age meanwhile.
    pub fn warm_up(&self) -> Result<()> {
        for (place, target) in self.containers.iter().zip([ADDRESS2, ADDRESS1]) {
            Ping::new(target).count(2).interval(Duration::from_millis(10)).expect_all(place)?;
        }
        Ok(())
    }

    /// What each path of host 1 has carried so far; nothing where there is no vxdp.
    pub fn carried(&self) -> Result<Option<Frames>> {
        if self.daemons.is_empty() { Ok(None) } else { self.lab.h1().frames().map(Some) }
    }

    fn look_at_regime(&self, dataplane: &str) -> Result<Regime> {
        let mut regime = Regime::default();
        regime.set("devices", "veth");
        if self.kind != Kind::None {
            regime.set("bridge-nf", "off");
        }
        if matches!(self.kind, Kind::Xdp | Kind::InKernel) {
            let status = self.lab.h1().status()?;
            let engine = &status["modes"]["engine"];
            let device = &engine["devices"][0];
            regime.set("hook", device["regime"].as_str().unwrap_or("none"));
            // The in-kernel engine has neither sockets nor workers.
            if self.kind == Kind::Xdp {
                regime.set("af_xdp", if device["zero_copy"] == true { "zero-copy" } else { "copy" });
                regime.set("workers", engine["workers"].to_string());
            }
            let lines = dataplane.lines().map(str::trim).filter(|line| !line.is_empty());
            let lines = lines.collect::<Vec<_>>();
            regime.set("dataplane", if lines.is_empty() { "default".to_owned() } else { lines.join("; ") });
        }
        regime.set("container offloads", offloads(&self.containers[0])?);
        regime.set("processors", std::thread::available_parallelism()?.to_string());
        Ok(regime)
    }
}

/// Those features of a container's device on which TCP depends, as far as they are on.
fn offloads(container: &Place) -> Result<String> {
    let text = container.exec(["ethtool", "-k", DEVICE])?;
    let on = |feature: &str| text.lines().any(|line| line.starts_with(&format!("{feature}: on")));
    let features = [
        ("tx-checksumming", "tx"),
        ("tcp-segmentation-offload", "tso"),
        ("generic-segmentation-offload", "gso"),
        ("generic-receive-offload", "gro"),
    ];
    let on = features.into_iter().filter(|(feature, _)| on(feature)).map(|(_, short)| short);
    let on = on.collect::<Vec<_>>();
    Ok(if on.is_empty() { "none".to_owned() } else { on.join(" ") })
}

/// Two hosts with vxdp, joined by one veth pair in every mode.
fn overlay(mode: Mode, dataplane: &str) -> Result<Built> {
    let lab = Lab::builder("bench").build()?;
    let mut daemons = Vec::new();
    for (index, host) in lab.hosts().iter().enumerate() {
        host.container(["c1", "c2"][index])?;
        let config = TwoHosts::configs(Attachment::Netns)[index];
        let path = host.write_config(&with_dataplane(config, dataplane))?;
        daemons.push(host.start_vxdp(&path, mode)?);
        // Filtering of bridged packets is on in every new namespace, and none of our business.
        host.netns("overlay").script(
            "cd /proc/sys/net/bridge 2>/dev/null || exit 0
             for hook in iptables ip6tables arptables; do echo 0 > bridge-nf-call-$hook; done",
        )?;
    }
    if mode.is_fast() {
        for host in lab.hosts() {
            host.wait_for_fast_path()?;
        }
    }
    let entrance = lab.h1().netns("overlay");
    Ok((lab, daemons, Some((entrance, "veth2"))))
}

/// `config` with more lines in `[dataplane]`.
fn with_dataplane(config: &str, lines: &str) -> String {
    if lines.is_empty() { config.to_owned() } else { format!("{config}\n[dataplane]\n{lines}\n") }
}

/// One host, and a veth pair between two containers.
fn wire() -> Result<Built> {
    let lab = Lab::builder("bench-wire").hosts(1).build()?;
    let host = lab.h1();
    for name in ["c1", "c2"] {
        host.container(name)?;
    }
    host.script("ip link add eth1 netns c1 mtu 1450 type veth peer name eth1 netns c2 mtu 1450")?;
    for (name, mac, address) in [("c1", MAC1, ADDRESS1), ("c2", MAC2, ADDRESS2)] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let address = address.map(|byte| byte.to_string()).join(".");
        host.script(&format!(
            "ip -n {name} link set eth1 address {mac} up; ip -n {name} address add {address}/24 dev eth1"
        ))?;
    }
    Ok((lab, Vec::new(), None))
}

/// Keeps GRO on while it exists: a veth takes redirected XDP frames only where it polls.
#[derive(Debug)]
pub struct Polling {
    device: Option<Entrance>,
}

impl Polling {
    /// Switches it on where it is off.
    pub fn switch_on(entrance: Option<&Entrance>) -> Result<Self> {
        let Some((place, device)) = entrance else { return Ok(Self { device: None }) };
        let features = place.exec(["ethtool", "-k", device])?;
        let gro = features.lines().find_map(|line| line.strip_prefix("generic-receive-offload: "));
        let on = gro.context("ethtool does not say whether GRO is on")?.starts_with("on");
        if !on {
            place.exec(["ethtool", "-K", device, "gro", "on"])?;
            let features = place.exec(["ethtool", "-k", device])?;
            ensure!(features.contains("generic-receive-offload: on"), "{device} does not switch GRO on");
        }
        Ok(Self { device: (!on).then(|| (place.clone(), *device)) })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some((place, device)) = &self.device {
            // The namespace may be gone already.
            let _ = place.exec(["ethtool", "-K", device, "gro", "off"]);
        }
    }
}
