//! What crosses an overlay that `vxdp run` built, and what does not.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use vxdp_lab::{
    Capture, Family, Frame, Lab, Mode, Outer, Ping, Segment, VXLAN_PORT, deploy, describe, in_each_mode,
    tcp_transfer, udp_exchange, wait_until,
};

/// Bytes of a bulk transfer: hundreds of segments after segmentation, a fraction of a second.
const BULK: usize = 8 << 20;

/// Ping, TCP and UDP between two containers, both ways, with all offloads as veths have them.
fn traffic_crosses(name: &str, family: Family, segment: &Segment) {
    in_each_mode(name, |lab, modes| {
        let _daemons = deploy(lab, family, std::slice::from_ref(segment), &modes)?;
        let (c1, address1) = segment.place(lab, 0)?;
        let (c2, address2) = segment.place(lab, 1)?;
        for (from, to, address) in [(&c1, &c2, address2), (&c2, &c1, address1)] {
            Ping::new(address).expect_all(from)?;
            tcp_transfer(from, to, address, BULK)?;
            udp_exchange(from, to, address, &[0, 1, 1000, 1300])?;
        }
        // The in-kernel engine leaves an IPv6 underlay to the kernel.
        let left = |mode| family == Family::V6 && mode == Mode::InKernel;
        let modes = modes.map(|mode| if left(mode) { Mode::Kernel } else { mode });
        lab.expect_fast_path(&modes, &c1, address2)
    });
}

/// IPv6 addresses inside, on both hosts.
fn ipv6_segment() -> Segment {
    Segment::new(42).member(1, "c1", "02:42:0a:00:00:02", "fd00:42::2/64").member(
        2,
        "c2",
        "02:42:0a:00:00:03",
        "fd00:42::3/64",
    )
}

#[test]
#[ignore = "needs root"]
fn ping_tcp_and_udp_cross_both_ways() {
    traffic_crosses("v4", Family::V4, &Segment::scenario());
}

#[test]
#[ignore = "needs root"]
fn ping_tcp_and_udp_cross_an_ipv6_underlay() {
    traffic_crosses("v4-in-v6", Family::V6, &Segment::scenario());
}

#[test]
#[ignore = "needs root"]
fn ping_tcp_and_udp_cross_with_ipv6_inside() {
    traffic_crosses("v6-in-v4", Family::V4, &ipv6_segment());
}

#[test]
#[ignore = "needs root"]
fn ping_tcp_and_udp_cross_with_ipv6_inside_and_outside() {
    traffic_crosses("v6-in-v6", Family::V6, &ipv6_segment());
}

/// The encapsulated frames among `frames`.
fn encapsulated(frames: &[Frame]) -> Vec<Outer> {
    frames.iter().filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT)).collect()
}

#[test]
#[ignore = "needs root"]
fn arp_is_answered_locally_and_nothing_is_flooded() {
    in_each_mode("arp", |lab, modes| {
        let segment = Segment::scenario();
        let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        let (c1, address1) = segment.place(lab, 0)?;
        let (c2, address2) = segment.place(lab, 1)?;
        let (place, device) = lab.wire();
        let wire = Capture::start(place, device)?;
        Ping::new(address2).expect_all(&c1)?;
        Ping::new(address1).expect_all(&c2)?;
        let neighbour = c1.exec(["ip", "neighbour", "show", "to", "10.0.0.3"])?;
        ensure!(neighbour.contains("02:42:0a:00:00:03"), "{neighbour}");
        // Nobody has this address; a broadcast; and a MAC that nobody has.
        let unknown: IpAddr = [10, 0, 0, 99].into();
        Ping::new(unknown).count(1).run(&c1)?;
        c1.run(["ping", "-b", "-c1", "-W1", "10.0.0.255"], Duration::from_secs(10))?;
        c1.script("ip neighbour add 10.0.0.77 lladdr 02:42:0a:00:00:77 dev eth1 nud permanent")?;
        Ping::new([10, 0, 0, 77]).count(1).run(&c1)?;
        let seen = encapsulated(&wire.stop()?);
        ensure!(seen.len() >= 12, "the pings themselves were not captured: {} frames", seen.len());
        let strange = seen.iter().map(|outer| describe(&outer.inner));
        let strange = strange.filter(|line| {
            let between = line.contains("10.0.0.2 → 10.0.0.3") || line.contains("10.0.0.3 → 10.0.0.2");
            !(between && line.contains("ICMP echo"))
        });
        let strange = strange.collect::<Vec<_>>();
        ensure!(strange.is_empty(), "flooded through the tunnel: {strange:#?}");
        lab.expect_fast_path(&modes, &c1, address2)
    });
}

fn flood_list_reaches_every_vtep(modes: [Mode; 3]) {
    let lab = Lab::builder("flood").hosts(3).build().unwrap();
    let segment =
        (1..=3).fold(Segment::new(42).setting("proxy = false").without_remotes(), |segment, host| {
            let mac = format!("02:42:0a:00:00:0{}", host + 1);
            segment.member(host, &format!("c{host}"), &mac, &format!("10.0.0.{}/24", host + 1))
        });
    // Our own VTEP may not be in the flood list, so the hosts' lists differ.
    let mut daemons = Vec::new();
    for (index, host) in lab.hosts().iter().enumerate() {
        let others = lab.hosts().iter().filter(|other| other.name() != host.name());
        let others = others.map(|other| format!("\"{}\"", other.ipv4())).collect::<Vec<_>>().join(", ");
        host.container(&format!("c{}", index + 1)).unwrap();
        let own = segment.clone().setting(&format!("flood = [{others}]"));
        let text = vxdp_lab::config_of(&lab, Family::V4, &[own], index + 1);
        let config = host.write_config(&text).unwrap();
        daemons.push(host.start_vxdp(&config, modes[index]).unwrap());
    }
    for (from, to) in [(0, 1), (0, 2), (2, 1)] {
        let (source, _) = segment.place(&lab, from).unwrap();
        let (_, address) = segment.place(&lab, to).unwrap();
        Ping::new(address).expect_all(&source).unwrap();
        // The third host has no part in the path of the others.
        let mut involved = [Mode::Kernel; 3];
        [from, to].into_iter().for_each(|index| involved[index] = modes[index]);
        lab.expect_fast_path(&involved, &source, address).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_flood_list_reaches_every_vtep_and_the_rest_is_learned() {
    for modes in [[Mode::Kernel; 3], [Mode::Xdp; 3], [Mode::Xdp, Mode::Kernel, Mode::InKernel]] {
        flood_list_reaches_every_vtep(modes);
    }
}

#[test]
#[ignore = "needs root"]
fn two_overlays_with_equal_macs_stay_apart() {
    in_each_mode("equal-macs", |lab, modes| {
        let red = Segment::scenario();
        let blue = Segment::new(43)
            .netns("overlay43")
            .member(1, "blue1", "02:42:0a:00:00:02", "10.0.0.2/24")
            .member(2, "blue2", "02:42:0a:00:00:03", "10.0.0.3/24");
        let segments = [red, blue];
        let _daemons = deploy(lab, Family::V4, &segments, &modes)?;
        for segment in &segments {
            let (near, _) = segment.place(lab, 0)?;
            let (_, address) = segment.place(lab, 1)?;
            Ping::new(address).expect_all(&near)?;
            lab.expect_fast_path(&modes, &near, address)?;
        }
        // Each sees its own peer only: with one of them silent, nothing comes back in that segment.
        let (blue2, _) = segments[1].place(lab, 1)?;
        // Its address would come back: the daemon keeps it.
        blue2.script("echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all")?;
        let (blue1, address) = (segments[1].place(lab, 0)?.0, segments[1].place(lab, 1)?.1);
        let answered = Ping::new(address).count(2).run(&blue1)?.received;
        ensure!(answered == 0, "the other segment answered");
        Ping::new(address).expect_all(&segments[0].place(lab, 0)?.0)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn several_containers_of_one_overlay_reach_each_other_and_the_gateway() {
    in_each_mode("several", |lab, modes| {
        let segment = Segment::new(42)
            .setting("gateway = \"10.0.0.1/24\"")
            .member(1, "c1", "02:42:0a:00:00:02", "10.0.0.2/24")
            .member(1, "c2", "02:42:0a:00:00:03", "10.0.0.3/24")
            .member(2, "c3", "02:42:0a:00:00:04", "10.0.0.4/24")
            .member(2, "c4", "02:42:0a:00:00:05", "10.0.0.5/24");
        let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        for from in 0..4 {
            let (source, _) = segment.place(lab, from)?;
            // Neighbours on the same host, those behind the tunnel, and the bridge itself.
            for to in (0..4).filter(|to| *to != from) {
                Ping::new(segment.place(lab, to)?.1).count(1).expect_all(&source)?;
            }
            Ping::new([10, 0, 0, 1]).count(1).expect_all(&source)?;
        }
        lab.expect_fast_path(&modes, &segment.place(lab, 0)?.0, segment.place(lab, 2)?.1)
    });
}

#[test]
#[ignore = "needs root"]
fn a_packet_of_the_mtu_arrives_in_one_piece_and_a_larger_one_is_answered() {
    in_each_mode("mtu", |lab, modes| {
        let segment = Segment::scenario();
        let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        let (c1, _) = segment.place(lab, 0)?;
        let (_, address) = segment.place(lab, 1)?;
        lab.expect_fast_path(&modes, &c1, address)?;
        let (place, device) = lab.wire();
        let wire = Capture::start(place, device)?;
        // 20 bytes of IP and 8 of ICMP make it 1450.
        Ping::new(address).count(1).payload(1422).dont_fragment().expect_all(&c1)?;
        let frames = wire.stop()?;
        let requests = encapsulated(&frames);
        let whole = requests.iter().filter(|outer| (outer.outer_len, outer.inner.len()) == (1514, 1464));
        ensure!(whole.count() == 2, "not one whole frame each way: {requests:#?}");
        let too_long = Ping::new(address).count(1).payload(1423).dont_fragment().run(&c1)?;
        ensure!(too_long.received == 0, "1451 bytes passed a device of 1450");
        // The path narrows behind the container's back: the tunnel must answer in the path's stead.
        lab.h1().script("ip route change 192.168.10.0/24 dev eth0 src 192.168.10.21 mtu 1400")?;
        let words = ["ping", "-n", "-c1", "-W2", "-Mdo", "-s1422", "10.0.0.3"];
        // The fast path hears of the route a moment later.
        wait_until("the tunnel answers", Duration::from_secs(10), || {
            let answer = c1.run(words, Duration::from_secs(10))?.stdout;
            Ok(answer.contains("Frag needed and DF set (mtu = 1350)"))
        })
    });
}
