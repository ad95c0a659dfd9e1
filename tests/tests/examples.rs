//! The configurations in `examples/` that the demo does not run.

use std::path::Path;

use anyhow::Result;
use vxdp_lab::{Mode, Ping, scenario, tcp_transfer, udp_exchange};

/// Two overlays with equal MACs and addresses, three containers on each host, IPv6 underlay.
fn two_overlays(lab: &vxdp_lab::Lab, mode: Mode) -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut daemons = Vec::new();
    for (host, containers) in lab.hosts().iter().zip([["red1", "red2", "blue1"], ["red3", "blue2", "blue3"]])
    {
        for container in containers {
            host.container(container)?;
        }
        let text = std::fs::read_to_string(examples.join(format!("two-overlays-{}.toml", host.name())))?;
        daemons.push(host.start_vxdp(&host.write_config(&text)?, mode)?);
    }
    let (h1, h2) = (lab.h1(), lab.h2());
    let (red1, red2, red3) = (h1.netns("red1"), h1.netns("red2"), h2.netns("red3"));
    let (blue1, blue2, blue3) = (h1.netns("blue1"), h2.netns("blue2"), h2.netns("blue3"));
    for (from, to, address) in [
        (&red1, &red2, [10, 0, 0, 3]),
        (&red1, &red3, [10, 0, 0, 4]),
        (&red3, &red2, [10, 0, 0, 3]),
        (&blue1, &blue2, [10, 0, 0, 3]),
        (&blue1, &blue3, [10, 0, 0, 4]),
        (&blue3, &blue1, [10, 0, 0, 2]),
    ] {
        Ping::new(address).expect_all(from)?;
        tcp_transfer(from, to, address, 1 << 20)?;
    }
    // The blue segment has IPv6 inside as well.
    let inside = ["fd00:43::2", "fd00:43::3"].map(str::parse::<std::net::Ipv6Addr>);
    let [address1, address2] = [inside[0].clone()?, inside[1].clone()?];
    Ping::new(address2).expect_all(&blue1)?;
    udp_exchange(&blue2, &blue1, address1, &[1, 1000])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn two_overlays_with_three_containers_run_over_an_ipv6_underlay() {
    scenario("two-overlays", |lab| two_overlays(lab, Mode::Kernel));
}

#[test]
#[ignore = "needs root"]
fn two_overlays_with_three_containers_run_over_an_ipv6_underlay_in_xdp_mode() {
    scenario("two-overlays", |lab| two_overlays(lab, Mode::Xdp));
}
