//! The kernel learns, and the fast path follows: new MACs, and MACs that move.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use etherparse::PacketBuilder;
use vxdp_lab::{Family, Host, Injector, Lab, Mode, Ping, Segment, config_of, deploy_each, wait_until};

/// Frames in a row that the fast path must carry before it counts as following.
const BURST: u64 = 20;

/// The MAC that wanders: no configuration names it.
const WANDERER: [u8; 6] = [2, 0x99, 0, 0, 0, 1];

/// The container of host number `host` (1, 2, 3).
fn resident(host: usize) -> [u8; 6] {
    [2, 0x42, 10, 0, 0, host as u8]
}

/// Three hosts with a container each that learn everything: nobody is named, everything unknown is flooded.
struct Learners<'a> {
    lab: &'a Lab,
    injectors: Vec<Injector>,
}

impl<'a> Learners<'a> {
    fn deploy(lab: &'a Lab, modes: [Mode; 3]) -> Result<(Vec<vxdp_lab::Daemon>, Self)> {
        let segment =
            (1..=3).fold(Segment::new(42).setting("proxy = false").without_remotes(), |segment, host| {
                let mac = format!("02:42:0a:00:00:0{host}");
                segment.member(host, &format!("c{host}"), &mac, &format!("10.0.0.{host}/24"))
            });
        let config = |number: usize| {
            let others = lab.hosts().iter().enumerate().filter(|(index, _)| index + 1 != number);
            let others =
                others.map(|(_, host)| format!("\"{}\"", host.ipv4())).collect::<Vec<_>>().join(", ");
            let segment = segment.clone().setting(&format!("flood = [{others}]"));
            config_of(lab, Family::V4, &[segment], number)
        };
        let daemons = deploy_each(lab, std::slice::from_ref(&segment), &modes, config)?;
        let mut injectors = Vec::new();
        for number in 0..3 {
            let (place, _) = segment.place(lab, number)?;
            injectors.push(Injector::open(&place, "eth1")?);
            for other in (1..=3).filter(|other| *other != number as u8 + 1) {
                Ping::new(IpAddr::from([10, 0, 0, other])).count(1).expect_all(&place)?;
            }
        }
        Ok((daemons, Self { lab, injectors }))
    }

    fn host(&self, number: usize) -> &Host {
        &self.lab.hosts()[number - 1]
    }

    /// Sends bursts from one host's container to another's, until both hosts carry a whole burst in userspace.
    fn becomes_fast(&self, [from, to]: [usize; 2], source: [u8; 6], destination: [u8; 6]) -> Result<()> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(source, destination)
            .ipv4([10, 0, 0, 200], [10, 0, 0, 201], 64)
            .udp(1000, 1000);
        builder.write(&mut frame, &[0; 18])?;
        let carried = || -> Result<[u64; 2]> {
            Ok([self.host(from).frames()?.xdp.encap, self.host(to).frames()?.xdp.decap])
        };
        let what = format!("userspace carries {source:x?} at h{from} to {destination:x?} at h{to}");
        wait_until(&what, Duration::from_secs(15), || {
            let before = carried()?;
            for _ in 0..BURST {
                self.injectors[from - 1].send(&frame)?;
            }
            let arrived = wait_until("the burst has arrived", Duration::from_millis(500), || {
                let now = carried()?;
                Ok(now.iter().zip(before).all(|(now, before)| now - before >= BURST))
            });
            Ok(arrived.is_ok())
        })
    }

    /// The wanderer speaks from the container of this host, and all find it there.
    fn wanderer_is_at(&self, host: usize) -> Result<()> {
        for other in (1..=3).filter(|other| *other != host) {
            self.becomes_fast([host, other], WANDERER, resident(other))?;
            self.becomes_fast([other, host], resident(other), WANDERER)?;
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs root"]
fn a_new_mac_becomes_fast_and_stays_so_when_it_moves_between_vteps_and_local_ports_and_back() {
    a_wanderer_is_followed([Mode::Xdp; 3], "tc");
}

#[test]
#[ignore = "needs root"]
fn a_mac_that_moves_is_followed_by_hosts_with_different_engines() {
    for hook in ["tc", "xdp"] {
        a_wanderer_is_followed([Mode::InKernel, Mode::InKernel, Mode::Xdp], hook);
    }
}

fn a_wanderer_is_followed(modes: [Mode; 3], hook: &str) {
    Lab::builder("learning").hosts(3).dataplane(&format!("hook = \"{hook}\"")).run(|lab| {
        lab.take_xdp_frames()?;
        let (_daemons, learners) = Learners::deploy(lab, modes)?;
        // For h2 this is a local port, another VTEP, a local port again; for h3 the reverse; for h1 one VTEP, the
        // other, and the first again.
        learners.wanderer_is_at(2)?;
        learners.wanderer_is_at(3)?;
        learners.wanderer_is_at(2)
    });
}
