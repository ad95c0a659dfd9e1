//! Every pairing of modes carries the same traffic, with the veths as the kernel makes them.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use vxdp_lab::{
    Attachment, Capture, Lifetime, Mode, Outer, Ping, TwoHosts, VXLAN_PORT, describe, tcp_transfer,
    udp_exchange,
};

/// Bytes of each TCP transfer: some thousand segments.
const BULK: usize = 4 << 20;

/// Part of the known unicast that the fast path must carry: the first frames of a flow may be the kernel's.
const NEARLY_ALL: f64 = 0.98;

/// Frames of the kernel that are no reason to count parts: what the containers' kernels multicast when a device
/// comes up. Whole bursts count as one frame in the in-kernel engine, so that a test has no more than 200.
const FEW: u64 = 20;

fn pairing(name: &str, modes: [Mode; 2], configs: [String; 2], steps: impl FnOnce(&TwoHosts) -> Result<()>) {
    let hosts = TwoHosts::build_each(name, Attachment::Netns, modes, configs, Lifetime::Bound)
        .unwrap_or_else(|error| panic!("no lab: {error:#}"));
    // A panic while the lab stands makes it report its state.
    steps(&hosts).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

fn over_ipv4() -> [String; 2] {
    TwoHosts::configs(Attachment::Netns).map(str::to_owned)
}

fn over_ipv6() -> [String; 2] {
    over_ipv4()
        .map(|text| text.replace("192.168.10.21", "fd00:10::21").replace("192.168.10.22", "fd00:10::22"))
}

/// Ping, UDP and TCP both ways, filling the overlay's MTU; then who carried it.
fn carries_everything(hosts: &TwoHosts, modes: [Mode; 2], mtu: u32) -> Result<()> {
    let [(c1, address1), (c2, address2)] = hosts.containers()?;
    Ping::new(address2).expect_all(&c1)?;
    Ping::new(address1).payload(mtu - 28).dont_fragment().expect_all(&c2)?;
    let longest = mtu as usize - 28;
    udp_exchange(&c1, &c2, address2, &[1, 2, 100, 1001, longest])?;
    udp_exchange(&c2, &c1, address1, &[1, 2, 100, 1001, longest])?;
    tcp_transfer(&c1, &c2, address2, BULK)?;
    tcp_transfer(&c2, &c1, address1, BULK)?;
    for ((host, frames), mode) in hosts.lab().hosts().iter().zip(hosts.frames()?).zip(modes) {
        let (xdp, kernel) = (frames.xdp, frames.kernel);
        let starved = host.left_by_starved_workers()?;
        eprintln!("{} in {} mode: {frames:?}, {starved:?} by starved workers", host.name(), mode.as_str());
        match mode {
            Mode::Kernel => ensure!(xdp.encap + xdp.decap == 0, "userspace took part: {frames:?}"),
            Mode::Xdp | Mode::InKernel => {
                let nearly_all = |fast: u64, kernel: u64, starved: u64| {
                    // The kernel's device may count several frames as one, so what is left is less than there was.
                    let unexplained = kernel.saturating_sub(starved);
                    unexplained <= FEW || fast as f64 / (fast + unexplained) as f64 > NEARLY_ALL
                };
                let encap = nearly_all(xdp.encap, kernel.encap, starved.encap);
                let decap = nearly_all(xdp.decap, kernel.decap, starved.decap);
                let why = || host.status().map(|status| status["modes"]["engine"]["devices"].to_string());
                ensure!(encap && decap, "on {}: {frames:?}, since {:?}", host.name(), why());
                ensure!(xdp.encap.min(xdp.decap) > 50, "not carried on {}: {frames:?}", host.name());
            }
        }
    }
    Ok(())
}

fn arp_stays_at_home(hosts: &TwoHosts) -> Result<()> {
    let [(c1, _), (_, address2)] = hosts.containers()?;
    let (place, device) = hosts.lab().wire();
    let wire = Capture::start(place, device)?;
    c1.exec(["ip", "neighbour", "flush", "dev", "eth1"])?;
    Ping::new(address2).count(2).expect_all(&c1)?;
    let inner = wire.stop()?.into_iter().filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT));
    let arp = inner.filter(|outer| describe(&outer.inner).to_lowercase().contains("arp")).count();
    ensure!(arp == 0, "{arp} ARP frames crossed the underlay");
    let neighbours = c1.exec(["ip", "neighbour", "show", "dev", "eth1"])?;
    ensure!(neighbours.contains("02:42:0a:00:00:03"), "no answer by proxy: {neighbours}");
    Ok(())
}

/// IPv6 inside. The neighbours are given, since `proxy` answers for IPv6 by its own rows.
fn ipv6_crosses(hosts: &TwoHosts) -> Result<()> {
    let [(c1, _), (c2, _)] = hosts.containers()?;
    let end = |own: u8, other: u8| {
        format!(
            "ip address add fd42::{own}/64 dev eth1 nodad
             ip neighbour replace fd42::{other} lladdr 02:42:0a:00:00:0{other} dev eth1"
        )
    };
    c1.script(&end(2, 3))?;
    c2.script(&end(3, 2))?;
    let six = |last: u16| Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, last);
    Ping::new(six(3)).expect_all(&c1)?;
    tcp_transfer(&c1, &c2, six(3), BULK / 4)?;
    tcp_transfer(&c2, &c1, six(2), BULK / 4)
}

fn whole_matrix_entry(name: &str, modes: [Mode; 2]) {
    pairing(name, modes, over_ipv4(), |hosts| {
        carries_everything(hosts, modes, 1450)?;
        arp_stays_at_home(hosts)?;
        ipv6_crosses(hosts)
    });
}

#[test]
#[ignore = "needs root"]
fn kernel_and_kernel_carry_everything() {
    whole_matrix_entry("par-kk", [Mode::Kernel, Mode::Kernel]);
}

#[test]
#[ignore = "needs root"]
fn xdp_and_xdp_carry_everything() {
    whole_matrix_entry("par-xx", [Mode::Xdp, Mode::Xdp]);
}

#[test]
#[ignore = "needs root"]
fn xdp_and_kernel_carry_everything() {
    whole_matrix_entry("par-xk", [Mode::Xdp, Mode::Kernel]);
}

#[test]
#[ignore = "needs root"]
fn kernel_and_xdp_carry_everything() {
    whole_matrix_entry("par-kx", [Mode::Kernel, Mode::Xdp]);
}

#[test]
#[ignore = "needs root"]
fn inkernel_and_inkernel_carry_everything() {
    whole_matrix_entry("par-ii", [Mode::InKernel, Mode::InKernel]);
}

#[test]
#[ignore = "needs root"]
fn inkernel_and_kernel_carry_everything() {
    whole_matrix_entry("par-ik", [Mode::InKernel, Mode::Kernel]);
    whole_matrix_entry("par-ki", [Mode::Kernel, Mode::InKernel]);
}

#[test]
#[ignore = "needs root"]
fn inkernel_and_xdp_carry_everything() {
    whole_matrix_entry("par-ix", [Mode::InKernel, Mode::Xdp]);
    whole_matrix_entry("par-xi", [Mode::Xdp, Mode::InKernel]);
}

/// The programs compute no outer UDP checksum, which IPv6 asks for.
#[test]
#[ignore = "needs root"]
fn an_ipv6_underlay_is_left_to_the_kernel_by_the_inkernel_engine() {
    pairing("par-isix", [Mode::InKernel; 2], over_ipv6(), |hosts| {
        carries_everything(hosts, [Mode::Kernel; 2], 1430)?;
        for host in hosts.lab().hosts() {
            let status = host.status()?.to_string();
            ensure!(status.contains("\"outer_checksum\""), "{status}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn an_ipv6_underlay_carries_everything_in_every_pairing() {
    for modes in [[Mode::Xdp, Mode::Xdp], [Mode::Xdp, Mode::Kernel], [Mode::Kernel, Mode::Xdp]] {
        pairing("par-six", modes, over_ipv6(), |hosts| carries_everything(hosts, modes, 1430));
    }
}

/// Every tunnel packet of a ping that comes from a VTEP in `without` has no outer UDP checksum, and the others do.
fn checksums_are_as_configured(hosts: &TwoHosts, without: &[IpAddr]) -> Result<()> {
    let [(c1, _), (_, address2)] = hosts.containers()?;
    let (place, device) = hosts.lab().wire();
    let wire = Capture::start(place, device)?;
    Ping::new(address2).count(3).expect_all(&c1)?;
    let frames = wire.stop()?;
    let outer = frames.iter().filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT));
    let echo = outer.filter(|outer| describe(&outer.inner).contains("ICMP echo")).collect::<Vec<_>>();
    ensure!(echo.len() >= 6, "{} packets of the ping captured", echo.len());
    for packet in echo {
        let none = without.contains(&packet.addresses.0);
        ensure!((packet.udp_checksum == 0) == none, "{}", packet.lines());
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn over_ipv6_no_outer_checksum_is_sent_where_it_is_configured_away_and_none_is_asked_for() {
    let vteps = ["fd00:10::21", "fd00:10::22"].map(|vtep| vtep.parse::<IpAddr>().expect("an address"));
    let [kernel, xdp, inkernel] = [Mode::Kernel, Mode::Xdp, Mode::InKernel];
    // The modes, who carries, and how many of the hosts send none.
    let cases = [
        ([kernel, kernel], [kernel, kernel], 2),
        ([xdp, xdp], [xdp, xdp], 2),
        ([xdp, kernel], [xdp, kernel], 1),
        ([kernel, xdp], [kernel, xdp], 1),
        ([inkernel, inkernel], [kernel, kernel], 2),
    ];
    for (modes, carriers, number) in cases {
        let mut configs = over_ipv6();
        for config in &mut configs[..number] {
            *config = config.replace("vni = 42", "vni = 42\nudp_checksum = false");
        }
        pairing("par-none", modes, configs, |hosts| {
            carries_everything(hosts, carriers, 1430)?;
            checksums_are_as_configured(hosts, &vteps[..number])
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_path_that_narrows_is_answered_by_the_kernel() {
    for mode in [Mode::Xdp, Mode::InKernel] {
        narrowing_is_answered(mode);
    }
}

fn narrowing_is_answered(mode: Mode) {
    pairing("par-narrow", [mode; 2], over_ipv4(), |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        Ping::new(address2).expect_all(&c1)?;
        hosts.lab().h1().script("ip route change 192.168.10.0/24 dev eth0 src 192.168.10.21 mtu 1400")?;
        let target = address2.to_string();
        let words = ["ping", "-n", "-c3", "-W1", "-Mdo", "-s1422", target.as_str()];
        let answer = c1.run(words, Duration::from_secs(10))?.stdout;
        ensure!(answer.contains("Frag needed"), "{answer}");
        Ok(())
    });
}
