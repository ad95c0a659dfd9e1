//! Open vSwitch as a host of the scenario: a VTEP that others wrote, to interoperate and to compare with.
//!
//! A real `ovsdb-server` and a real `ovs-vswitchd` run in the host's namespaces, with the userspace datapath
//! and a native VXLAN tunnel. Database, sockets and logs lie in the lab's directory; nothing of an Open
//! vSwitch that the machine may run is touched.
//!
//! ```text
//!   container cN                            host hN
//!     eth1 ──veth── veth2 ─ br-int ─ vxlan1 ┄┄(routed to)┄┄ br-phy ─ eth0 ── underlay
//!                                                        VTEP address
//! ```
//!
//! What surprised here:
//! - A veth hands Open vSwitch frames whose TCP and UDP checksums are unfinished. It neither knows nor mends
//!   that (nor does Open vSwitch 3.1 with AF_PACKET), so the container's `eth1` must finish them itself (`tx off`, done here), and so
//!   must the underlay NIC of a peer whose *kernel* encapsulates over a veth ([`Host::finish_checksums`]).
//! - `type=afxdp` ports are polled by threads that never sleep, one core for each `ovs-vswitchd`.
//! - The kernel's `proxy` swallows every ARP frame that a container would answer through the tunnel, so
//!   `br-int` answers ARP for the other container by itself, as a controller would have it do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::host::Host;
use crate::lab::Lab;
use crate::ping::Ping;
use crate::place::Place;
use crate::segment::{Family, underlay_address};
use crate::two_hosts::{VNI, VXLAN_PORT};
use crate::wait::wait_until;

/// The empty database of Open vSwitch's packages.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Time given to Open vSwitch for starting and for opening its ports, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// How Open vSwitch reads and writes the underlay NIC and the container's veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OvsPorts {
    /// AF_XDP, polled without a pause by a thread of its own: Open vSwitch's fastest here, if it has a core
    /// to itself.
    AfXdp,
    /// AF_XDP, served by the main thread, which sleeps when there is nothing to do.
    AfXdpInMainThread,
    /// AF_PACKET, where AF_XDP does not work.
    AfPacket,
}

impl OvsPorts {
    /// As in the `type` column of Open vSwitch's `Interface` table.
    fn interface_type(self) -> &'static str {
        match self {
            Self::AfXdp => "afxdp",
            Self::AfXdpInMainThread => "afxdp-nonpmd",
            Self::AfPacket => "system",
        }
    }
}

/// The scenario's end on one host: a container, its MAC and its address in the overlay.
struct End {
    netns: String,
    mac: String,
    address: Ipv4Addr,
}

impl End {
    /// The container of host number `number` (1 or 2).
    fn of(number: u8) -> Self {
        Self {
            netns: format!("c{number}"),
            mac: format!("02:42:0a:00:00:{:02x}", number + 1),
            address: Ipv4Addr::new(10, 0, 0, number + 1),
        }
    }
}

/// A running Open vSwitch. Dropping it kills it; its container stays.
#[derive(Debug)]
pub struct Ovs {
    // In the order in which they have to go.
    switch: Child,
    database: Child,
    dir: PathBuf,
    place: Place,
    peer: IpAddr,
    number: u8,
    ports: OvsPorts,
}

impl Ovs {
    /// Builds host number `number` (1 or 2) of the scenario out of Open vSwitch: its container `c1` or `c2`,
    /// the bridges, and a tunnel to the other host, over `family`.
    ///
    /// Returns when the ports are open. The underlay crosses `ovs-vswitchd` from then on, and the host's own
    /// addresses are on `br-phy`.
    pub fn start(lab: &Lab, number: u8, ports: OvsPorts, family: Family) -> Result<Self> {
        ensure!((1..=2).contains(&number), "the scenario has no host {number}");
        let (host, other) = (&lab.hosts()[usize::from(number) - 1], &lab.hosts()[2 - usize::from(number)]);
        let dir = lab.dir().join(format!("ovs-{}", host.name()));
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let (file, socket) = (dir.join("conf.db"), dir.join("db.sock"));
        host.exec(["ovsdb-tool", "create", &path(&file), SCHEMA])?;
        let remote = format!("--remote=punix:{}", path(&socket));
        let database = start(host, &dir, "ovsdb-server", &[&path(&file), &remote])?;
        wait_until("the database of Open vSwitch is open", PATIENCE, || Ok(socket.exists()))?;
        let switch = start(host, &dir, "ovs-vswitchd", &[&format!("unix:{}", path(&socket))])?;
        let peer = underlay_address(other, family);
        let ovs = Self { switch, database, dir, place: host.place().clone(), peer, number, ports };
        ovs.configure(host)
            .and_then(|()| ovs.connect(host, &End::of(number), VNI, ["br-int", "veth2", "vxlan1"]))
            .with_context(|| ovs.explain())?;
        Ok(ovs)
    }

    /// Builds on `host`, its own, a further segment with a container `netns`, whose MAC and address are those of
    /// the scenario's.
    pub fn add_segment(&self, host: &Host, vni: u32, netns: &str) -> Result<()> {
        let end = End { netns: netns.to_owned(), ..End::of(self.number) };
        let [bridge, port, tunnel] = ["br", "veth", "vxlan"].map(|kind| format!("{kind}-{vni}"));
        self.connect(host, &end, vni, [&bridge, &port, &tunnel])
    }

    /// Waits until the other end of the tunnel answers through Open vSwitch, which has learned its MAC then.
    pub fn wait_for_peer(&self) -> Result<()> {
        let target = format!("--target={}", path(&self.dir.join("ovs-vswitchd.ctl")));
        let answers = || {
            let answered = Ping::new(self.peer).count(1).run(&self.place)?.received == 1;
            let neighbours = self.tool("ovs-appctl", [&*target, "tnl/neigh/show"])?;
            Ok(answered && neighbours.contains(&format!("{} ", self.peer)))
        };
        wait_until("the other VTEP answers through Open vSwitch", PATIENCE, answers)
            .with_context(|| self.explain())
    }

    /// Stops its processor time, and with it whatever crosses it, until [`resume`](Self::resume): threads that
    /// poll without a pause would distort what is measured beside it.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on. Twice is no harm.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.switch.id().cast_signed()), signal).context("while signalling ovs-vswitchd")
    }

    /// The underlay, where tunnels enter and leave.
    fn configure(&self, host: &Host) -> Result<()> {
        let kind = self.ports.interface_type();
        self.vsctl(&["--no-wait", "init"])?;
        // Two of them beside each other poll on a core each, where the machine has as many.
        let cores = std::thread::available_parallelism()?.get();
        let mask = 1_u128 << (usize::from(self.number - 1) % cores);
        self.transact(&[
            format!("set Open_vSwitch . other_config:pmd-cpu-mask={mask:#x}"),
            "add-br br-phy".to_owned(),
            format!("set bridge br-phy datapath_type=netdev other_config:hwaddr=\"{}\"", host.underlay_mac()),
            "add-port br-phy eth0".to_owned(),
            format!("set interface eth0 type={kind}"),
        ])?;
        self.expect_open(&["eth0", "br-phy"])?;
        // The host's addresses and, with them, the route that the tunnel takes.
        host.script(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/br-phy/accept_dad
             ip address flush dev eth0
             ip address add {}/24 dev br-phy
             ip address add {}/64 dev br-phy
             ip link set br-phy up",
            host.ipv4(),
            host.ipv6()
        ))?;
        Ok(())
    }

    /// A container, its veth, and a bridge that joins them to a tunnel.
    fn connect(&self, host: &Host, end: &End, vni: u32, names: [&str; 3]) -> Result<()> {
        let ([bridge, port, tunnel], peer, kind) = (names, self.peer, self.ports.interface_type());
        make_container(host, end, port, overlay_mtu(peer))?;
        self.transact(&[
            format!("add-br {bridge}"),
            format!("set bridge {bridge} datapath_type=netdev"),
            format!("add-port {bridge} {port}"),
            format!("set interface {port} type={kind}"),
            format!("add-port {bridge} {tunnel}"),
            format!(
                "set interface {tunnel} type=vxlan options:remote_ip=\"{peer}\" options:key={vni} \
                 options:dst_port={VXLAN_PORT}"
            ),
        ])?;
        self.expect_open(&[port, tunnel])?;
        self.answer_arp_for(&End::of(3 - self.number), bridge)
    }

    fn expect_open(&self, ports: &[&str]) -> Result<()> {
        for port in ports {
            let error = self.vsctl(&["get", "interface", port, "error"])?;
            ensure!(error.trim() == "[]", "Open vSwitch cannot open {port}: {error}");
        }
        Ok(())
    }

    /// Has `bridge` answer ARP for `end`, so that no ARP frame enters the tunnel.
    fn answer_arp_for(&self, end: &End, bridge: &str) -> Result<()> {
        let (mac, address) = (&end.mac, end.address);
        let (mac_digits, address_digits) = (mac.replace(':', ""), u32::from(address));
        let flow = format!(
            "priority=100,arp,arp_op=1,arp_tpa={address},\
             actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],mod_dl_src:{mac},load:2->NXM_OF_ARP_OP[],\
             move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],\
             load:0x{mac_digits}->NXM_NX_ARP_SHA[],load:{address_digits:#x}->NXM_OF_ARP_SPA[],in_port"
        );
        let bridge = path(&self.dir.join(format!("{bridge}.mgmt")));
        self.tool("ovs-ofctl", ["add-flow", &bridge, &flow]).map(drop)
    }

    fn transact(&self, steps: &[String]) -> Result<()> {
        let words = steps.iter().flat_map(|step| std::iter::once("--").chain(step.split(' ')));
        self.vsctl(&words.collect::<Vec<_>>()).map(drop)
    }

    fn vsctl(&self, words: &[&str]) -> Result<String> {
        let database = format!("--db=unix:{}", path(&self.dir.join("db.sock")));
        let timeout = format!("--timeout={}", PATIENCE.as_secs());
        self.tool("ovs-vsctl", [&*database, &*timeout].iter().chain(words))
    }

    fn tool<S: AsRef<OsStr>>(&self, program: &str, words: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.place.command([program]);
        command.env("OVS_RUNDIR", &self.dir).args(words);
        command::run(command, PATIENCE)?.success()
    }

    /// The end of its log.
    fn explain(&self) -> String {
        let text = fs::read_to_string(self.dir.join("ovs-vswitchd.log")).unwrap_or_default();
        let lines = text.lines().collect::<Vec<_>>();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("Open vSwitch in {} says:\n{end}", self.place.label())
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.explain());
        }
        for child in [&mut self.switch, &mut self.database] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The scenario with Open vSwitch on both hosts, for comparing with it.
#[derive(Debug)]
pub struct OvsHosts {
    // Goes before the lab.
    switches: Vec<Ovs>,
    lab: Lab,
}

impl OvsHosts {
    /// Builds it on a lab that [`Lab::builder`] made for two hosts; returns when the tunnel's ends have found
    /// each other.
    pub fn build(lab: Lab, ports: OvsPorts) -> Result<Self> {
        let mut switches = Vec::new();
        for number in 1..=2 {
            switches.push(Ovs::start(&lab, number, ports, Family::V4)?);
        }
        switches.iter().try_for_each(Ovs::wait_for_peer)?;
        Ok(Self { switches, lab })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The two Open vSwitches, which have to go first, and the lab.
    pub fn into_parts(self) -> (Vec<Ovs>, Lab) {
        (self.switches, self.lab)
    }

    /// The containers `c1` and `c2` with their addresses in the overlay.
    pub fn containers(&self) -> [(Place, Ipv4Addr); 2] {
        [1, 2].map(|number| {
            let (host, end) = (&self.lab.hosts()[usize::from(number) - 1], End::of(number));
            (host.netns(&end.netns), end.address)
        })
    }
}

impl Host {
    /// Has `eth0` finish the checksums of what the kernel sends, as a NIC does and a veth does not: for a
    /// peer that reads frames off its end of the veth and believes what they say.
    pub fn finish_checksums(&self) -> Result<()> {
        self.exec(["ethtool", "-K", "eth0", "tx", "off"]).map(drop)
    }
}

/// What the outer headers leave of the underlay's 1500 bytes.
fn overlay_mtu(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 1450 } else { 1430 }
}

/// Creates the container and the veth that joins it to the host.
fn make_container(host: &Host, end: &End, port: &str, mtu: u32) -> Result<()> {
    let End { netns, mac, address } = end;
    let container = host.container(netns)?;
    host.script(&format!(
        "ip link add {port} mtu {mtu} type veth peer name eth1 mtu {mtu} netns {netns}
         ip link set {port} up"
    ))?;
    container.script(&format!(
        "ethtool -K eth1 tx off
         ip link set eth1 address {mac} up
         ip address add {address}/24 dev eth1"
    ))?;
    Ok(())
}

/// Starts one of Open vSwitch's daemons, which keeps everything it makes in `dir`.
fn start(host: &Host, dir: &Path, program: &str, words: &[&str]) -> Result<Child> {
    let mut command = host.command([program]);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    let output = File::create(dir.join(format!("{program}.out")))?;
    command
        .args(words)
        .arg(format!("--log-file={}", path(&dir.join(format!("{program}.log")))))
        .arg(format!("--unixctl={}", path(&dir.join(format!("{program}.ctl")))))
        .args(["--no-chdir", "-vconsole:emer"])
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output);
    command.spawn().with_context(|| format!("while starting `{program}`"))
}

/// A path for a command line; the lab's own are all UTF-8.
fn path(path: &Path) -> String {
    path.display().to_string()
}
