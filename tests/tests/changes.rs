//! Changes around a running fast path: link, MTU, MAC, route, container, rows. Traffic follows by itself.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vxdp_lab::{
    Daemon, Family, Host, Lab, Load, Mode, Ping, Place, Probe, Segment, deploy, scenario, wait_until,
};

/// Time in which traffic must flow again after a change that interrupts the kernel's path as well.
const BACK: Duration = Duration::from_secs(10);

const XDP: Mode = Mode::Xdp;
const FAST: [Mode; 2] = [Mode::Xdp, Mode::InKernel];

/// The scenario with a fast path.
struct Scene<'a> {
    lab: &'a Lab,
    daemons: Vec<Daemon>,
    ends: [(Place, IpAddr); 2],
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, mode: Mode) -> Result<Self> {
        let segment = Segment::scenario();
        let modes = vec![mode; lab.hosts().len().min(2)];
        let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        let scene = Self { lab, daemons, ends: [segment.place(lab, 0)?, segment.place(lab, 1)?] };
        lab.hosts()[..2].iter().try_for_each(Host::wait_for_fast_path)?;
        scene.flies("at first")?;
        Ok(scene)
    }

    fn load(&self) -> Result<Load> {
        let [(c1, address1), (c2, address2)] = &self.ends;
        Load::start([(c1, *address1), (c2, *address2)])
    }

    /// Both hosts carry by userspace.
    fn flies(&self, when: &str) -> Result<()> {
        let [(c1, address1), (c2, address2)] = &self.ends;
        for (host, from, to, address) in
            [(self.lab.h1(), c1, c2, *address2), (self.lab.h2(), c2, c1, *address1)]
        {
            let probe = Probe::start(from, to, address, Duration::from_millis(2))
                .with_context(|| format!("{when}, {}", host.name()))?;
            host.wait_for_userspace(100).with_context(|| format!("{when}, {}", host.name()))?;
            probe.stop()?;
        }
        Ok(())
    }

    /// Does `work` under load, which goes on with at most `lost` datagrams lost, one each 2 ms, and flies again.
    fn goes_on(&self, event: &str, lost: usize, work: impl FnOnce(&Load) -> Result<()>) -> Result<()> {
        let load = self.load()?;
        let outcome = work(&load);
        let cost = load.stop().with_context(|| event.to_owned())?;
        eprintln!("{event}: {cost}");
        outcome.with_context(|| event.to_owned())?;
        ensure!(cost.probe.lost <= lost, "{event}: {cost}");
        self.flies(event)
    }

    /// The first container reaches the second one, within bounded time.
    fn comes_back(&self, event: &str) -> Result<()> {
        let begun = Instant::now();
        let (c1, address2) = (&self.ends[0].0, self.ends[1].1);
        wait_until(&format!("traffic flows after {event}"), BACK, || {
            Ok(Ping::new(address2).count(1).run(c1).is_ok_and(|pinged| pinged.received == 1))
        })?;
        eprintln!("{event}: traffic flows after {:.0?}", begun.elapsed());
        self.flies(event)
    }
}

#[test]
#[ignore = "needs root"]
fn the_fast_path_survives_what_happens_to_the_underlay() {
    FAST.into_iter().for_each(survives_what_happens_to_the_underlay);
}

fn survives_what_happens_to_the_underlay(mode: Mode) {
    scenario("underlay", |lab| {
        let scene = Scene::new(lab, mode)?;
        let h1 = lab.h1();
        // An ARP request that is lost while the link comes up is repeated after a second (retrans_time_ms).
        scene.goes_on("the underlay is down for 200 ms", 700, |load| {
            h1.script("ip link set eth0 down; sleep 0.2; ip link set eth0 up")?;
            load.wait_for(100)
        })?;
        scene.goes_on("the underlay's MTU shrinks to 1400 and grows again", 0, |load| {
            lab.hosts().iter().try_for_each(|host| host.script("ip link set eth0 mtu 1400").map(drop))?;
            load.wait_for(200)?;
            lab.hosts().iter().try_for_each(|host| host.script("ip link set eth0 mtu 1500").map(drop))?;
            load.wait_for(200)
        })?;
        // A host whose MAC changes must tell its neighbours; then it is the next hop that changes for them.
        h1.script("echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify")?;
        scene.goes_on("the underlay's MAC changes", 100, |load| {
            h1.script("ip link set eth0 address 02:00:00:00:99:01")?;
            load.wait_for(200)
        })?;
        let told = lab.h2().exec(["ip", "neighbour", "show", "192.168.10.21", "dev", "eth0"])?;
        ensure!(told.contains("02:00:00:00:99:01"), "{told}");
        scene.goes_on("the next hop's entry is flushed", 100, |load| {
            h1.script("ip neighbour flush dev eth0")?;
            load.wait_for(200)
        })?;
        ensure!(h1.status()?["modes"]["mode"] == "xdp", "{}", h1.status()?["modes"]);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn no_frame_is_carried_for_a_vtep_address_that_is_not_ours_any_more() {
    FAST.into_iter().for_each(not_ours_any_more);
}

fn not_ours_any_more(mode: Mode) {
    scenario("address", |lab| {
        let scene = Scene::new(lab, mode)?;
        let (h1, h2) = (lab.h1(), lab.h2());
        let [(c1, address1), (c2, _)] = &scene.ends;
        let probe = Probe::start(c2, c1, *address1, Duration::from_millis(2))?;
        h1.script("ip address del 192.168.10.21/24 dev eth0")?;
        // The other host goes on sending: to it the next hop is still there.
        wait_until("h1 carries none of a hundred frames that h2 sends", Duration::from_secs(10), || {
            let (carried, sent) = (h1.frames()?.xdp, h2.frames()?.xdp.encap);
            wait_until("h2 sends", BACK, || Ok(h2.frames()?.xdp.encap >= sent + 100))?;
            Ok(h1.frames()?.xdp == carried)
        })?;
        h1.script("ip address add 192.168.10.21/24 dev eth0")?;
        probe.stop()?;
        scene.comes_back("our VTEP address was away")
    });
}

#[test]
#[ignore = "needs root"]
fn frames_follow_a_route_through_a_gateway_and_back() {
    let lab = Lab::builder("gateway").hosts(3).build().unwrap_or_else(|error| panic!("no lab: {error:#}"));
    let steps = || -> Result<()> {
        let scene = Scene::new(&lab, XDP)?;
        let [h1, _, router] = lab.hosts() else { panic!("three hosts") };
        router.script(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects
             echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects",
        )?;
        let forwarded = || -> Result<u64> {
            let text = router.exec(["cat", "/proc/net/snmp"])?;
            let line = text.lines().filter(|line| line.starts_with("Ip:")).nth(1).context("no figures")?;
            Ok(line.split(' ').nth(6).context("no ForwDatagrams")?.parse()?)
        };
        ensure!(forwarded()? == 0, "the router forwards already");
        scene.goes_on("the route gets a gateway", 100, |load| {
            h1.script("ip route add 192.168.10.22/32 via 192.168.10.23 src 192.168.10.21")?;
            load.wait_for(200)
        })?;
        let through = forwarded()?;
        ensure!(through > 200, "only {through} packets went through the gateway");
        scene.goes_on("the route loses its gateway", 100, |load| {
            h1.script("ip route del 192.168.10.22/32")?;
            load.wait_for(200)
        })?;
        let after = forwarded()?;
        scene.flies("without a gateway")?;
        ensure!(forwarded()? == after, "packets still go through the gateway");
        Ok(())
    };
    steps().unwrap_or_else(|error| panic!("gateway: {error:#}"));
}

#[test]
#[ignore = "needs root"]
fn a_container_that_is_made_anew_gets_its_fast_path_again() {
    FAST.into_iter().for_each(made_anew);
}

fn made_anew(mode: Mode) {
    scenario("anew", |lab| {
        let scene = Scene::new(lab, mode)?;
        lab.h1().script("ip netns del c1; ip netns add c1; ip -n c1 link set lo up")?;
        scene.comes_back("the container was made anew")?;
        lab.h2().script("ip -n overlay link del veth3")?;
        scene.comes_back("the other container's veth was deleted")?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn rows_that_others_write_are_followed() {
    FAST.into_iter().for_each(rows_are_followed);
}

fn rows_are_followed(mode: Mode) {
    scenario("rows", |lab| {
        let scene = Scene::new(lab, mode)?;
        let overlay = lab.h1().netns("overlay");
        let (c1, address2) = (&scene.ends[0].0, scene.ends[1].1);
        // A container that no configuration names, on h2; c1 knows its address.
        lab.h2().script(
            "ip netns add c9
             ip -n overlay link add veth9 mtu 1450 type veth peer name eth1 netns c9
             ip -n overlay link set veth9 master br0 up
             ip -n c9 link set eth1 address 02:42:0a:00:00:09 mtu 1450 up
             ip -n c9 address add 10.0.0.9/24 dev eth1
             ip -n c9 neighbour add 10.0.0.2 lladdr 02:42:0a:00:00:02 dev eth1",
        )?;
        let remotes =
            || Ok::<_, anyhow::Error>(lab.h1().status()?["modes"]["engine"]["remotes"].as_u64().unwrap_or(0));
        let before = remotes()?;
        overlay.script(
            "ip neighbour add 10.0.0.9 lladdr 02:42:0a:00:00:09 dev vxlan1 nud permanent
             bridge fdb add 02:42:0a:00:00:09 dev vxlan1 master static
             bridge fdb add 02:42:0a:00:00:09 dev vxlan1 self dst 192.168.10.22",
        )?;
        wait_until("the row is known", Duration::from_secs(2), || Ok(remotes()? == before + 1))?;
        let c9 = lab.h2().netns("c9");
        let probe = Probe::start(c1, &c9, [10, 0, 0, 9], Duration::from_millis(2))?;
        lab.h1().wait_for_userspace(100)?;
        ensure!(probe.stop()?.lost == 0, "datagrams to the new container were lost");
        // Nobody is behind that VTEP: what is sent there does not come back.
        overlay.script("bridge fdb replace 02:42:0a:00:00:09 dev vxlan1 self dst 192.168.10.77")?;
        wait_until("the container is out of reach", Duration::from_secs(5), || {
            Ok(Ping::new([10, 0, 0, 9]).count(1).run(c1)?.received == 0)
        })?;
        overlay.script("bridge fdb replace 02:42:0a:00:00:09 dev vxlan1 self dst 192.168.10.22")?;
        wait_until("the container is reached again", Duration::from_secs(5), || {
            Ok(Ping::new([10, 0, 0, 9]).count(1).run(c1)?.received == 1)
        })?;
        overlay.script("bridge fdb del 02:42:0a:00:00:09 dev vxlan1 self")?;
        wait_until("the row is forgotten", Duration::from_secs(2), || Ok(remotes()? == before))?;
        Ping::new(address2).expect_all(c1)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn what_happened_while_the_daemon_could_not_listen_is_found_afterwards() {
    const ROWS: u64 = 50_000;
    scenario("overflow", |lab| {
        let scene = Scene::new(lab, XDP)?;
        let h1 = lab.h1();
        let engine =
            |name: &str| Ok::<_, anyhow::Error>(h1.status()?["modes"]["engine"][name].as_u64().unwrap_or(0));
        let before = engine("remotes")?;
        h1.script(&format!("kill -STOP {}", scene.daemons[0].pid()))?;
        // More notifications than its sockets hold.
        let mut batch = String::new();
        for number in 0..ROWS {
            let [.., a, b, c] = number.to_be_bytes();
            let mac = format!("02:43:00:{a:02x}:{b:02x}:{c:02x}");
            batch += &format!(
                "fdb add {mac} dev vxlan1 master static\nfdb add {mac} dev vxlan1 self dst 192.168.10.22\n"
            );
        }
        let file = lab.dir().join("rows");
        std::fs::write(&file, batch)?;
        h1.netns("overlay").exec(["bridge", "-batch", file.to_str().context("path")?])?;
        h1.script(&format!("kill -CONT {}", scene.daemons[0].pid()))?;
        wait_until(
            "every row is known",
            Duration::from_secs(30),
            || Ok(engine("remotes")? == before + ROWS),
        )?;
        ensure!(engine("overflows")? > 0, "nothing was lost, so nothing was found again");
        scene.flies("after an overflow")?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn learned_rows_live_as_long_as_the_fast_path_uses_them() {
    /// Seconds. The kernel looks for unused rows of a vxlan device every ten seconds (`FDB_AGE_INTERVAL`).
    const AGEING: u64 = 3;
    scenario("ageing", |lab| {
        let segment = Segment::scenario()
            .without_remotes()
            .setting("proxy = false")
            .setting(&format!("ageing = {AGEING}"));
        // Each host floods to the other, and learns from what comes back; each has another engine.
        let mut daemons = Vec::new();
        for (number, other, mode) in [(1, lab.h2(), Mode::Xdp), (2, lab.h1(), Mode::InKernel)] {
            let host = &lab.hosts()[number - 1];
            host.container(&format!("c{number}"))?;
            let own = segment.clone().setting(&format!("flood = [\"{}\"]", other.ipv4()));
            let config = host.write_config(&vxdp_lab::config_of(lab, Family::V4, &[own], number))?;
            daemons.push(host.start_vxdp(&config, mode)?);
        }
        let [(c1, address1), (c2, address2)] = [segment.place(lab, 0)?, segment.place(lab, 1)?];
        let learned = |host: &Host, mac: &str| -> Result<bool> {
            Ok(host.netns("overlay").exec(["bridge", "fdb", "show", "dev", "vxlan1"])?.contains(mac))
        };
        let remotes = [
            (lab.h1(), "02:42:0a:00:00:03 dst 192.168.10.22"),
            (lab.h2(), "02:42:0a:00:00:02 dst 192.168.10.21"),
        ];
        let alive = || -> Result<()> {
            for (host, row) in remotes {
                ensure!(learned(host, row)?, "{}: no {row}, which is in use", host.name());
            }
            Ok(())
        };
        let probe = Probe::start(&c1, &c2, address2, Duration::from_millis(5))?;
        lab.hosts().iter().try_for_each(|host| host.wait_for_userspace(50))?;
        // Through one whole round of the kernel's clean-up, and by the fast path alone.
        let through = Instant::now() + Duration::from_secs(10 + AGEING);
        let before = [lab.h1().frames()?, lab.h2().frames()?];
        while Instant::now() < through {
            probe.wait_for(50)?;
            alive()?;
        }
        for (host, before) in lab.hosts().iter().zip(before) {
            let after = host.frames()?;
            let kernel = after.kernel.encap - before.kernel.encap;
            let fast = after.xdp.encap - before.xdp.encap;
            ensure!(kernel * 20 < fast, "{}: the kernel carried: {before:?} {after:?}", host.name());
        }
        let probed = probe.stop()?;
        ensure!(probed.lost == 0, "{probed:?}");
        for (host, row) in remotes {
            let what = format!("the unused row has aged out on {}", host.name());
            wait_until(&what, Duration::from_secs(30), || Ok(!learned(host, row)?))?;
        }
        // And it is learned again.
        Ping::new(address1).expect_all(&c2)
    });
}
