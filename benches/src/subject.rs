//! What is measured: two containers, and what joins them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vxdp_lab::{
    Attachment, Daemon, Directions, Frames, Host, Lab, Mode, Ovs, OvsHosts, OvsPorts, Ping, Place, Probe,
    TwoHosts,
};

use crate::frame::{ADDRESS1, ADDRESS2, MAC1, MAC2};
use crate::regime::{Regime, offloads};
use crate::report::Machine;
use crate::sink::Hook;

/// The containers' device, in every subject.
pub const DEVICE: &str = "eth1";

/// So many frames that take the wrong path say nothing: whatever a mode does not carry at all goes there.
const STRAY: u64 = 100;
/// From this share on a figure says so.
const STRAY_SHARE: f64 = 0.01;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// vxdp on both hosts, the kernel's vxlan device carries the frames.
    Kernel,
    /// vxdp on both hosts, userspace carries them over AF_XDP.
    Xdp,
    /// vxdp on both hosts, the BPF programs carry them by themselves.
    InKernel,
    /// The same, the programs at XDP (`hook = "xdp"`).
    InKernelXdp,
    /// Open vSwitch on both hosts: AF_XDP ports, each polled without a pause by a thread of its own.
    Ovs,
    /// Open vSwitch on both hosts: AF_XDP ports, served by its main thread, which sleeps.
    OvsNonPmd,
    /// A veth pair and nothing else: the machine's own limit.
    None,
}

impl Kind {
    /// The modes of vxdp.
    pub const MODES: [Self; 4] = [Self::Kernel, Self::Xdp, Self::InKernel, Self::InKernelXdp];
    /// What else can stand between the containers.
    pub const PEERS: [Self; 3] = [Self::Ovs, Self::OvsNonPmd, Self::None];

    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Xdp => "xdp",
            Self::InKernel => "inkernel",
            Self::InKernelXdp => "inkernel-xdp",
            Self::Ovs => "ovs",
            Self::OvsNonPmd => "ovs-nonpmd",
            Self::None => "none",
        }
    }

    /// The mode, if it is one of vxdp's.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::Kernel => Some(Mode::Kernel),
            Self::Xdp => Some(Mode::Xdp),
            Self::InKernel | Self::InKernelXdp => Some(Mode::InKernel),
            Self::Ovs | Self::OvsNonPmd | Self::None => None,
        }
    }

    /// Where the sink's program runs: where the subject hands frames to the container. At tc a frame costs
    /// more, at that subject's expense.
    pub fn sink_hook(self) -> Hook {
        match self {
            Self::InKernel => Hook::Tc,
            _ => Hook::Xdp,
        }
    }

    /// Builds it, modes of vxdp with so many overlays; it stands idle until it is measured.
    pub fn build(self, dataplane: &str, vnis: u32) -> Result<Subject> {
        let Built { lab, daemons, switches, entrance } = match self {
            Self::Kernel => overlay(Mode::Kernel, dataplane, vnis)?,
            Self::Xdp => overlay(Mode::Xdp, dataplane, vnis)?,
            Self::InKernel => overlay(Mode::InKernel, dataplane, vnis)?,
            Self::InKernelXdp => overlay(Mode::InKernel, &format!("hook = \"xdp\"\n{dataplane}"), vnis)?,
            Self::Ovs => ovs(OvsPorts::AfXdp)?,
            Self::OvsNonPmd => ovs(OvsPorts::AfXdpInMainThread)?,
            Self::None => wire()?,
        };
        let containers = match lab.hosts() {
            [h1, h2] => [h1.netns("c1"), h2.netns("c2")],
            _ => [lab.h1().netns("c1"), lab.h1().netns("c2")],
        };
        let mut subject =
            Subject { kind: self, daemons, switches, lab, containers, entrance, regime: Regime::default() };
        subject.warm_up()?;
        subject.regime = subject.look_at_regime(dataplane)?;
        subject.pause()?;
        Ok(subject)
    }
}

/// A namespace, and the device in it that container 1's frames come from.
pub type Entrance = (Place, String);

/// What a subject is made of.
struct Built {
    lab: Lab,
    daemons: Vec<Daemon>,
    switches: Vec<Ovs>,
    entrance: Option<Entrance>,
}

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
    switches: Vec<Ovs>,
    lab: Lab,
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

    /// Whether other frames than its own took the path of a mode of vxdp since it had carried `before`, in words;
    /// an error if none took it.
    pub fn stray(&self, before: &Frames) -> Result<Option<String>> {
        let (Some(after), Some(mode)) = (self.carried()?, self.kind.mode()) else { return Ok(None) };
        stray(mode, before, &after)
    }

    /// Stops what would take processor time from others while it is not measured.
    pub fn pause(&self) -> Result<()> {
        self.switches.iter().try_for_each(Ovs::pause)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.switches.iter().try_for_each(Ovs::resume)
    }

    /// Host 1.
    pub fn h1(&self) -> &Host {
        self.lab.h1()
    }

    /// Host 2.
    pub fn h2(&self) -> &Host {
        self.lab.h2()
    }

    /// Switches host 1 to `mode` while it runs.
    pub fn switch(&self, mode: Mode) -> Result<()> {
        let words = [&["mode"], mode.words()].concat();
        self.h1().vxdp(&words)?.success().map(drop)
    }

    /// Ends the daemon of host 1 with SIGTERM.
    pub fn stop_daemon(&mut self) -> Result<()> {
        self.daemons.remove(0).stop()
    }

    /// Ends the daemon of host 1 with SIGKILL.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemons.remove(0).kill()
    }

    /// Starts the daemon of host 1, which has none.
    pub fn start_daemon(&mut self) -> Result<()> {
        let (h1, mode) = (self.lab.h1(), self.kind.mode().context("no mode of vxdp")?);
        self.daemons.insert(0, h1.start_vxdp(&h1.config_path(), mode)?);
        Ok(())
    }

    /// Starts a daemon that takes over from the one of host 1.
    pub fn take_over_daemon(&mut self) -> Result<()> {
        let (h1, mode) = (self.lab.h1(), self.kind.mode().context("no mode of vxdp")?);
        let new = h1.take_over_vxdp(&h1.config_path(), mode)?;
        let status = std::mem::replace(&mut self.daemons[0], new).wait()?;
        ensure!(status.success(), "the daemon that was taken over from ended with {status}");
        Ok(())
    }

    /// Sends `signal` to the daemon of host 1.
    pub fn signal_daemon(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.daemons[0].pid().cast_signed()), signal)?)
    }

    /// Waits until a mode of vxdp carries what the containers say.
    pub fn wait_until_it_carries(&self) -> Result<()> {
        if !self.kind.mode().is_some_and(Mode::is_fast) {
            return self.warm_up();
        }
        let [c1, c2] = &self.containers;
        let probe = Probe::start(c1, c2, ADDRESS2, Duration::from_millis(2))?;
        let carried = self.lab.hosts().iter().try_for_each(|host| host.wait_for_userspace(20));
        probe.stop()?;
        carried
    }

    fn look_at_regime(&self, dataplane: &str) -> Result<Regime> {
        let mut regime = Regime::default();
        if Machine::here().emulated {
            regime.set("machine", "emulated");
        }
        regime.set("devices", "veth");
        if self.kind.mode().is_some() {
            regime.set("bridge-nf", "off");
        }
        match self.kind {
            Kind::Ovs => regime.set("af_xdp", "copy, polled without a pause"),
            Kind::OvsNonPmd => regime.set("af_xdp", "copy, in the main thread"),
            _ => {}
        }
        if self.kind.mode().is_some_and(Mode::is_fast) {
            regime.set_engine(self.kind, &self.lab.h1().status()?);
            let lines = dataplane.lines().map(str::trim).filter(|line| !line.is_empty());
            let lines = lines.collect::<Vec<_>>();
            regime.set("dataplane", if lines.is_empty() { "default".to_owned() } else { lines.join("; ") });
        }
        regime.set("container offloads", offloads(&self.containers[0], DEVICE)?);
        regime.set("sink", self.kind.sink_hook().as_str());
        regime.set("processors", std::thread::available_parallelism()?.to_string());
        Ok(regime)
    }
}

/// Whether frames took another path than that of `mode` between two counts, in words; an error if none took it.
pub fn stray(mode: Mode, before: &Frames, after: &Frames) -> Result<Option<String>> {
    let moved = |after: Directions, before: Directions| {
        after.encap.saturating_sub(before.encap) + after.decap.saturating_sub(before.decap)
    };
    let (fast, kernel) = (moved(after.xdp, before.xdp), moved(after.kernel, before.kernel));
    let (own, other) = if mode.is_fast() { (fast, kernel) } else { (kernel, fast) };
    if other <= STRAY {
        return Ok(None);
    }
    ensure!(own > 0, "mode {} carried none of {other} frames: the other path did", mode.as_str());
    let share = other as f64 / (own + other) as f64;
    let other = if mode.is_fast() { "the kernel's path" } else { "a fast path" };
    Ok((share > STRAY_SHARE).then(|| format!("{:.0} % of the frames took {other}", share * 100.0)))
}

/// Two hosts with vxdp, joined by one veth pair in every mode.
fn overlay(mode: Mode, dataplane: &str, vnis: u32) -> Result<Built> {
    let lab = Lab::builder("bench").build()?;
    let mut daemons = Vec::new();
    // What the programs of one host send at XDP the other end of the veth must take.
    for host in lab.hosts().iter().filter(|_| dataplane.contains("hook")) {
        host.exec(["ethtool", "-K", "eth0", "gro", "on"])?;
    }
    for (index, host) in lab.hosts().iter().enumerate() {
        host.container(["c1", "c2"][index])?;
        let config = TwoHosts::configs(Attachment::Netns)[index];
        let path = host.write_config(&(with_dataplane(config, dataplane) + &more_overlays(vnis)))?;
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
    Ok(Built { lab, daemons, switches: Vec::new(), entrance: Some((entrance, "veth2".to_owned())) })
}

/// Two hosts with Open vSwitch.
fn ovs(ports: OvsPorts) -> Result<Built> {
    let (switches, lab) = OvsHosts::build(Lab::builder("bench-ovs").build()?, ports)?.into_parts();
    let entrance = lab.h1().place().clone();
    Ok(Built { lab, daemons: Vec::new(), switches, entrance: Some((entrance, "veth2".to_owned())) })
}

/// Overlays beside the scenario's, so that there are `vnis`; nobody is in them.
fn more_overlays(vnis: u32) -> String {
    let overlay = |number: u32| {
        let vni = 1000 + number;
        format!(
            "\n[[overlay]]\nvni = {vni}\nnetns = \"overlay\"\nbridge = \"br{number}\"\nvxlan = \"vni{vni}\"\n"
        )
    };
    (1..vnis).map(overlay).collect()
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
    Ok(Built { lab, daemons: Vec::new(), switches: Vec::new(), entrance: None })
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
        Ok(Self { device: (!on).then(|| (place.clone(), device.clone())) })
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
