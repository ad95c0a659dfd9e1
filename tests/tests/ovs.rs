//! Open vSwitch as the other VTEP: somebody else's idea of VXLAN must fit ours, in both modes.
//!
//! Of the lab's scenarios these do not run against it: misses, as it asks no one for what it does not know; rows
//! that are kept, programs of others and offloads, which are about our own host alone; all that needs Docker or more
//! than two hosts, proven between hosts of ours only; and the in-kernel engine over IPv6, which leaves to the kernel
//! what has an outer checksum, as all of its frames have.

use std::time::Duration;

use anyhow::{Result, ensure};
use vxdp_lab::{
    Capture, Cost, Daemon, Family, Lab, Load, Mode, Outer, Ovs, OvsHosts, OvsPorts, Ping, Place, Segment,
    VXLAN_PORT, config_of, describe, tcp_transfer, udp_exchange, wait_until,
};

/// Bytes of each TCP transfer: some thousand segments.
const BULK: usize = 4 << 20;

/// Part of the known unicast that userspace must carry: the first frames of a flow may be the kernel's.
const NEARLY_ALL: f64 = 0.98;

/// `vxdp` on h1, Open vSwitch on h2.
struct Pair {
    // In the order in which they have to go.
    ovs: Ovs,
    daemons: Vec<Daemon>,
    lab: Lab,
}

impl Pair {
    fn build(name: &str, mode: Mode, family: Family, segments: &[Segment]) -> Result<Self> {
        // Switched, so that frames can be captured on their way in xdp mode.
        let lab = Lab::builder(name).switched().build()?;
        let ovs = Ovs::start(&lab, 2, OvsPorts::AfXdpInMainThread, family)?;
        lab.h1().container("c1")?;
        lab.h1().container(BLUE)?;
        // Open vSwitch does not see that a checksum was left to the device, and only workers finish it themselves.
        if mode != Mode::Xdp {
            lab.h1().finish_checksums()?;
        }
        let config = lab.h1().write_config(&config_of(&lab, family, segments, 1))?;
        let daemons = vec![lab.h1().start_vxdp(&config, mode)?];
        ovs.wait_for_peer()?;
        if mode.is_fast() {
            lab.h1().wait_for_fast_path()?;
        }
        Ok(Self { ovs, daemons, lab })
    }

    /// The containers, ours first.
    fn containers(&self) -> [Place; 2] {
        [self.lab.h1().netns("c1"), self.lab.h2().netns("c2")]
    }

    fn vxdp_mode(&self, mode: Mode) -> Result<()> {
        self.lab.h1().vxdp(&[&["mode"], mode.words()].concat())?.success().map(drop)
    }

    /// Does `work` under datagrams one way and a stream the other: nothing may be lost, no connection break.
    fn costs_nothing<T>(&self, event: &str, work: impl FnOnce(&Load) -> Result<T>) -> Result<T> {
        self.costs(event, 0, work)
    }

    /// The same where so many datagrams, of one each 2 ms, may be lost.
    fn costs<T>(&self, event: &str, lost: usize, work: impl FnOnce(&Load) -> Result<T>) -> Result<T> {
        let [c1, c2] = self.containers();
        let load = Load::start([(&c1, ADDRESS1.into()), (&c2, ADDRESS2.into())])?;
        let outcome = work(&load);
        let cost = load.stop()?;
        eprintln!("{event}: {cost}");
        let Cost { probe, .. } = cost;
        ensure!(
            probe.lost <= lost && probe.doubled == 0 && probe.gap <= Duration::from_secs(1),
            "{event}: {cost}"
        );
        outcome
    }
}

/// Codepoints of RFC 3168, section 5.
const ECT0: u8 = 2;
const CONGESTION_EXPERIENCED: u8 = 3;

/// Containers of a second segment, on both hosts.
const BLUE: &str = "blue";
const BLUE_VNI: u32 = 43;

const ADDRESS1: [u8; 4] = [10, 0, 0, 2];
const ADDRESS2: [u8; 4] = [10, 0, 0, 3];

/// Builds the pair and does `steps`; a panic while the lab stands makes it report its state.
fn beside_ovs(
    name: &str,
    mode: Mode,
    family: Family,
    segments: &[Segment],
    steps: impl FnOnce(&mut Pair) -> Result<()>,
) {
    let pair = Pair::build(name, mode, family, segments);
    let mut pair = pair.unwrap_or_else(|error| panic!("no lab: {error:#}"));
    steps(&mut pair).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

/// Ping, UDP of every kind of length and TCP, both ways.
fn traffic_crosses(pair: &Pair, mtu: u32) -> Result<()> {
    let [c1, c2] = pair.containers();
    Ping::new(ADDRESS2).expect_all(&c1)?;
    Ping::new(ADDRESS1).expect_all(&c2)?;
    // Filling the overlay's MTU, in one piece.
    Ping::new(ADDRESS2).payload(mtu - 28).dont_fragment().expect_all(&c1)?;
    Ping::new(ADDRESS1).payload(mtu - 28).dont_fragment().expect_all(&c2)?;
    // Around the shortest frames, odd ones, the longest in one piece, and the longest that UDP has.
    let whole = mtu as usize - 28;
    let mut lengths = (0..64).chain((64..whole).step_by(97)).collect::<Vec<_>>();
    lengths.extend([whole - 1, whole, whole + 1, 65507]);
    udp_exchange(&c1, &c2, ADDRESS2, &lengths)?;
    udp_exchange(&c2, &c1, ADDRESS1, &lengths)?;
    tcp_transfer(&c1, &c2, ADDRESS2, BULK)?;
    tcp_transfer(&c2, &c1, ADDRESS1, BULK)
}

/// Userspace carries the known unicast in xdp mode, and nothing in kernel mode.
fn the_right_path_carried_it(pair: &Pair, mode: Mode) -> Result<()> {
    let (frames, starved) = (pair.lab.h1().frames()?, pair.lab.h1().left_by_starved_workers()?);
    eprintln!("{} mode: {frames:?}, {starved:?} by starved workers", mode.as_str());
    for (userspace, kernel, starved) in [
        (frames.xdp.encap, frames.kernel.encap, starved.encap),
        (frames.xdp.decap, frames.kernel.decap, starved.decap),
    ] {
        match mode {
            // The device counts what it sends before segmentation.
            Mode::Kernel => ensure!(userspace == 0 && kernel > 300, "{frames:?}"),
            Mode::Xdp | Mode::InKernel => {
                let unexplained = kernel.saturating_sub(starved);
                let share = userspace as f64 / (userspace + unexplained).max(1) as f64;
                ensure!(userspace > 300 && share > NEARLY_ALL, "{frames:?}");
            }
        }
    }
    Ok(())
}

/// A congestion mark inside shows outside and comes out again, both ways (RFC 6040).
fn marks_are_carried(pair: &Pair) -> Result<()> {
    let [c1, c2] = pair.containers();
    for (from, to, address) in [(&c1, &c2, ADDRESS2), (&c2, &c1, ADDRESS1)] {
        for ecn in 0..4 {
            let (place, device) = pair.lab.wire();
            let wire = Capture::start(place, device)?;
            let inside = Capture::start(to, "eth1")?;
            Ping::new(address).count(1).tos(ecn).expect_all(from)?;
            // A mark of the inner packet is not repeated outside (RFC 3168, section 9.1), by Open vSwitch nor by the
            // kernel; RFC 6040 would copy it. The answer has the request's mark: kernels copy it.
            let outside = if ecn == CONGESTION_EXPERIENCED { ECT0 } else { ecn };
            let outer = wire.stop()?;
            let outer = outer.iter().filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT));
            // Other frames of theirs may be on the wire meanwhile.
            let outer = outer.filter(|outer| describe(&outer.inner).contains("ICMP echo"));
            let outer = outer.map(|outer| outer.tos & 3).collect::<Vec<_>>();
            ensure!(
                outer.len() >= 2 && outer.iter().all(|mark| *mark == outside),
                "{ecn} outside: {outer:?}"
            );
            let arrived = inside.stop()?;
            let arrived = arrived.iter().filter(|frame| describe(&frame.bytes).contains("ICMP echo request"));
            let arrived = arrived.map(|frame| frame.bytes[15] & 3).collect::<Vec<_>>();
            ensure!(arrived == [ecn], "{ecn} inside: {arrived:?}, to {}", to.label());
        }
    }
    Ok(())
}

/// Each side answers ARP for the other's container by itself.
fn arp_stays_at_home(pair: &Pair) -> Result<()> {
    let (place, device) = pair.lab.wire();
    let wire = Capture::start(place, device)?;
    let [c1, c2] = pair.containers();
    for (container, address, mac) in
        [(&c1, ADDRESS2, "02:42:0a:00:00:03"), (&c2, ADDRESS1, "02:42:0a:00:00:02")]
    {
        container.exec(["ip", "neighbour", "flush", "dev", "eth1"])?;
        Ping::new(address).count(2).expect_all(container)?;
        let neighbours = container.exec(["ip", "neighbour", "show", "dev", "eth1"])?;
        ensure!(neighbours.contains(mac), "{}: {neighbours}", container.label());
    }
    let frames = wire.stop()?;
    let inner = frames.iter().filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT));
    let inner = inner.map(|outer| describe(&outer.inner)).collect::<Vec<_>>();
    ensure!(inner.len() >= 8, "the pings themselves were not captured: {inner:?}");
    ensure!(inner.iter().all(|line| line.contains("ICMP echo")), "crossed the underlay: {inner:#?}");
    Ok(())
}

fn everything(name: &str, mode: Mode, family: Family, mtu: u32) {
    beside_ovs(name, mode, family, &[Segment::scenario()], |pair| {
        traffic_crosses(pair, mtu)?;
        the_right_path_carried_it(pair, mode)?;
        marks_are_carried(pair)?;
        arp_stays_at_home(pair)
    });
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_and_kernel_mode_understand_each_other() {
    everything("ovs-k", Mode::Kernel, Family::V4, 1450);
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_and_xdp_mode_understand_each_other() {
    everything("ovs-x", Mode::Xdp, Family::V4, 1450);
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_and_the_inkernel_engine_understand_each_other() {
    everything("ovs-i", Mode::InKernel, Family::V4, 1450);
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_and_kernel_mode_understand_each_other_over_ipv6() {
    everything("ovs-k6", Mode::Kernel, Family::V6, 1430);
}

#[test]
#[ignore = "needs root"]
fn open_vswitch_and_xdp_mode_understand_each_other_over_ipv6() {
    everything("ovs-x6", Mode::Xdp, Family::V6, 1430);
}

#[test]
#[ignore = "needs root"]
fn switching_and_restarting_beside_open_vswitch_loses_nothing_and_breaks_no_connection() {
    // From kernel mode, as that one needs what the build does for it.
    beside_ovs("ovs-switch", Mode::Kernel, Family::V4, &[Segment::scenario()], |pair| {
        for mode in [Mode::Xdp, Mode::Kernel, Mode::InKernel] {
            pair.costs_nothing(&format!("vxdp mode: {mode:?}"), |load| {
                pair.vxdp_mode(mode)?;
                load.wait_for(100)?;
                if mode.is_fast() { pair.lab.h1().wait_for_userspace(100) } else { Ok(()) }
            })?;
        }
        for mode in Mode::ALL {
            let daemon = pair.daemons.remove(0);
            let again = pair.costs_nothing(&format!("SIGTERM, and a new daemon: {mode:?}"), |load| {
                daemon.stop()?;
                load.wait_for(100)?;
                let again = pair.lab.h1().start_vxdp(&pair.lab.h1().config_path(), mode)?;
                load.wait_for(100)?;
                if mode.is_fast() {
                    pair.lab.h1().wait_for_userspace(100)?;
                }
                Ok(again)
            })?;
            pair.daemons.push(again);
        }
        Ok(())
    });
}

/// Hangs, wakes, dies, is started again and gives way to another one. The bounds are those between hosts of ours
/// (`failing.rs`).
fn fails_and_is_taken_over(pair: &mut Pair, mode: Mode) -> Result<()> {
    let carries = |pair: &Pair, load: &Load| {
        load.wait_for(100)?;
        if mode.is_fast() { pair.lab.h1().wait_for_userspace(100) } else { Ok(()) }
    };
    let config = pair.lab.h1().config_path();
    let daemon = pair.daemons.remove(0);
    let signal = |name: &str| pair.lab.h1().script(&format!("kill -{name} {}", daemon.pid())).map(drop);
    pair.costs(&format!("SIGSTOP: {mode:?}"), 100, |load| {
        signal("STOP")?;
        load.wait_for(200)
    })?;
    pair.costs(&format!("SIGCONT: {mode:?}"), 25, |load| {
        signal("CONT")?;
        carries(pair, load)
    })?;
    pair.costs(&format!("SIGKILL: {mode:?}"), 100, |load| {
        daemon.kill()?;
        load.wait_for(200)
    })?;
    let mut first = pair.costs_nothing(&format!("a new daemon after SIGKILL: {mode:?}"), |load| {
        let first = pair.lab.h1().start_vxdp(&config, mode)?;
        carries(pair, load)?;
        Ok(first)
    })?;
    let second = pair.costs_nothing(&format!("vxdp run --takeover: {mode:?}"), |load| {
        let second = pair.lab.h1().take_over_vxdp(&config, mode)?;
        ensure!(first.wait()?.success(), "the first daemon ended badly:\n{}", first.log_text());
        carries(pair, load)?;
        Ok(second)
    })?;
    pair.daemons.push(second);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn traffic_with_open_vswitch_goes_on_when_the_daemon_hangs_wakes_dies_and_is_taken_over() {
    beside_ovs("ovs-fail", Mode::Kernel, Family::V4, &[Segment::scenario()], |pair| {
        for mode in Mode::ALL {
            pair.vxdp_mode(mode)?;
            if mode.is_fast() {
                let [c1, _] = pair.containers();
                pair.lab.expect_fast_path(&[mode], &c1, ADDRESS2)?;
            }
            fails_and_is_taken_over(pair, mode)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn frames_of_one_segment_never_reach_another_with_equal_macs_at_open_vswitch_or_here() {
    let [red, blue] = [Segment::scenario(), Segment::new(BLUE_VNI).netns("overlay43")];
    let blue = blue.member(1, BLUE, "02:42:0a:00:00:02", "10.0.0.2/24");
    let blue = blue.member(2, BLUE, "02:42:0a:00:00:03", "10.0.0.3/24");
    beside_ovs("ovs-apart", Mode::Kernel, Family::V4, &[red, blue], |pair| {
        pair.ovs.add_segment(pair.lab.h2(), BLUE_VNI, BLUE)?;
        let (red, blue) = (pair.containers(), [pair.lab.h1().netns(BLUE), pair.lab.h2().netns(BLUE)]);
        for mode in Mode::ALL {
            pair.vxdp_mode(mode)?;
            for (speaking, silent) in [(&red, &blue), (&blue, &red)] {
                let [here, there] = speaking;
                if mode.is_fast() {
                    pair.lab.expect_fast_path(&[mode], here, ADDRESS2)?;
                }
                let captures = [Capture::start(&silent[0], "eth1")?, Capture::start(&silent[1], "eth1")?];
                for (from, address) in [(here, ADDRESS2), (there, ADDRESS1)] {
                    Ping::new(address).count(50).interval(Duration::from_millis(5)).expect_all(from)?;
                }
                for capture in captures {
                    let seen = capture.stop()?.iter().map(|frame| describe(&frame.bytes)).collect::<Vec<_>>();
                    ensure!(seen.iter().all(|line| !line.contains("ICMP echo")), "{mode:?}: {seen:#?}");
                }
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_mac_learned_from_open_vswitch_becomes_fast() {
    let segment = Segment::scenario().without_remotes().setting("proxy = false");
    let segment = segment.setting("flood = [\"192.168.10.22\"]");
    beside_ovs("ovs-learn", Mode::Kernel, Family::V4, &[segment], |pair| {
        let (host, [c1, c2]) = (pair.lab.h1(), pair.containers());
        for (mode, mac) in [(Mode::Xdp, "02:99:00:00:00:01"), (Mode::InKernel, "02:99:00:00:00:02")] {
            pair.vxdp_mode(mode)?;
            // Nobody knows it before it speaks.
            c2.exec(["ip", "link", "set", "eth1", "address", mac])?;
            c1.exec(["ip", "neighbour", "flush", "dev", "eth1"])?;
            Ping::new(ADDRESS1).count(1).expect_all(&c2)?;
            let rows = host.netns("overlay").exec(["bridge", "fdb", "show", "dev", "vxlan1"])?;
            let learned = |row: &str| row.starts_with(mac) && !row.contains("permanent");
            ensure!(rows.lines().any(|row| learned(row) && row.contains("dst 192.168.10.22")), "{rows}");
            pair.costs_nothing(&format!("a learned MAC: {mode:?}"), |_| {
                host.wait_for_userspace(100)?;
                wait_until("userspace carries what the MAC sends", Duration::from_secs(10), || {
                    Ok(host.frames()?.xdp.decap > 100)
                })
            })?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn two_open_vswitches_carry_the_scenario_with_every_kind_of_port() {
    for ports in [OvsPorts::AfXdp, OvsPorts::AfXdpInMainThread, OvsPorts::AfPacket] {
        let lab = Lab::builder("ovs-ovs").build().unwrap();
        let hosts = OvsHosts::build(lab, ports).unwrap();
        let [(c1, _), (c2, address2)] = hosts.containers();
        let pinged = Ping::new(address2).count(20).interval(Duration::from_millis(100)).run(&c1).unwrap();
        eprintln!("{ports:?}: {pinged:?}");
        Ping::new(address2).expect_all(&c1).unwrap();
        tcp_transfer(&c1, &c2, address2, BULK / 4).unwrap();
    }
}
