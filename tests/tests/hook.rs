//! The in-kernel engine at XDP (`hook = "xdp"`): traffic, mixed pairings, and what switching and dying cost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxdp_lab::{
    Daemon, Family, Host, Lab, Load, Mode, Ping, Segment, config_of, deploy_each, scenario, tcp_transfer,
    udp_exchange, wait_until,
};

/// Bytes of each TCP transfer: some thousand segments.
const BULK: usize = 4 << 20;

/// The scenario; the first host's in-kernel engine is at XDP, and the second one's if `both`.
fn stand(lab: &Lab, modes: [Mode; 2], both: bool) -> Result<(Vec<Daemon>, Segment)> {
    lab.take_xdp_frames()?;
    let segment = Segment::scenario();
    let config = |number| {
        let text = config_of(lab, Family::V4, std::slice::from_ref(&segment), number);
        let hook = if number == 1 || both { "xdp" } else { "tc" };
        text.replacen("[dataplane]\n", &format!("[dataplane]\nhook = \"{hook}\"\n"), 1)
    };
    let daemons = deploy_each(lab, std::slice::from_ref(&segment), &modes, config)?;
    for (host, _) in lab.hosts().iter().zip(modes).filter(|(_, mode)| mode.is_fast()) {
        host.wait_for_fast_path()?;
    }
    let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
    Ping::new(address2).count(1).expect_all(&c1)?;
    Ping::new(address1).count(1).expect_all(&c2)?;
    Ok((daemons, segment))
}

/// Frames of the first host that its fast path and its kernel have encapsulated.
fn carried(host: &Host) -> Result<[u64; 2]> {
    let frames = host.frames()?;
    Ok([frames.xdp.encap, frames.kernel.encap])
}

fn everything_crosses(name: &str, modes: [Mode; 2], both: bool) {
    scenario(name, |lab| {
        let (_daemons, segment) = stand(lab, modes, both)?;
        let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
        let devices = lab.h1().status()?["modes"]["engine"]["devices"].take();
        ensure!(devices[0]["regime"] == "driver", "{devices}");
        let status = lab.h1().vxdp(&["status"])?.success()?;
        let row = |device: &str| status.lines().find(|line| line.trim_start().starts_with(device));
        let copies_not = |row: &str| row.contains("driver") && row.contains("none");
        ensure!(["eth0", "veth2"].iter().all(|device| row(device).is_some_and(copies_not)), "{status}");
        let captured = lab.h1().vxdp(&["capture", "--write", "/dev/null", "--seconds", "1"])?;
        ensure!(captured.stderr.contains("before packet sockets see them"), "{}", captured.stderr);
        let before = carried(lab.h1())?;
        Ping::new(address2).payload(1422).dont_fragment().expect_all(&c1)?;
        Ping::new(address1).payload(1422).dont_fragment().expect_all(&c2)?;
        udp_exchange(&c1, &c2, address2, &[1, 2, 100, 1001, 1422])?;
        udp_exchange(&c2, &c1, address1, &[1, 2, 100, 1001, 1422])?;
        tcp_transfer(&c1, &c2, address2, BULK)?;
        tcp_transfer(&c2, &c1, address1, BULK)?;
        let after = carried(lab.h1())?;
        let [fast, kernel] = [after[0] - before[0], after[1] - before[1]];
        ensure!(
            fast > 1000 && kernel * 50 < fast,
            "encapsulated: {fast} by the programs, {kernel} by the kernel"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn two_hosts_at_xdp_carry_everything() {
    everything_crosses("hook-xx", [Mode::InKernel; 2], true);
}

#[test]
#[ignore = "needs root"]
fn a_host_at_xdp_understands_every_other() {
    everything_crosses("hook-xk", [Mode::InKernel, Mode::Kernel], false);
    everything_crosses("hook-xt", [Mode::InKernel; 2], false);
    everything_crosses("hook-xu", [Mode::InKernel, Mode::Xdp], false);
}

#[test]
#[ignore = "needs root"]
fn switching_to_and_from_xdp_stopping_and_dying_cost_nothing_and_leave_no_trace() {
    scenario("hook-switch", |lab| {
        let (mut daemons, segment) = stand(lab, [Mode::InKernel; 2], true)?;
        let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
        let load = Load::start([(&c1, address1), (&c2, address2)])?;
        for mode in [Mode::Kernel, Mode::InKernel, Mode::Xdp, Mode::InKernel] {
            for host in lab.hosts() {
                host.vxdp(&[&["mode"], mode.words()].concat())?.success()?;
            }
            load.wait_for(100)?;
        }
        lab.h1().wait_for_userspace(100)?;
        for signal in ["STOP", "CONT"] {
            lab.h1().script(&format!("kill -{signal} {}", daemons[0].pid()))?;
            load.wait_for(200)?;
        }
        daemons.remove(0).kill()?;
        load.wait_for(100)?;
        let again = lab.h1().start_vxdp(&lab.h1().config_path(), Mode::InKernel)?;
        lab.h1().wait_for_userspace(100)?;
        again.stop()?;
        load.wait_for(100)?;
        let cost = load.stop()?;
        eprintln!("switching, SIGSTOP, SIGKILL, SIGTERM: {cost}");
        // What is on its way between two devices when a program goes.
        ensure!(cost.probe.lost <= 10 && cost.probe.gap <= Duration::from_secs(1), "{cost}");
        let features = c1.exec(["ethtool", "-k", "eth1"])?;
        let on = |feature: &str| features.lines().any(|line| line.starts_with(&format!("{feature}: on")));
        ensure!(on("tx-checksumming") && on("tcp-segmentation-offload"), "{features}");
        let status = lab.h2().status().context("the other daemon lives")?;
        ensure!(status["modes"]["mode"] == "xdp", "{status}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_nic_that_stops_taking_frames_from_programs_is_noticed_within_seconds() {
    scenario("hook-refused", |lab| {
        let (_daemons, segment) = stand(lab, [Mode::InKernel, Mode::Kernel], false)?;
        let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
        let load = Load::start([(&c1, address1), (&c2, address2)])?;
        lab.h1().wait_for_userspace(100)?;
        // Without it, and without a program of its own, the other end polls no more.
        lab.hosts()[1].exec(["ethtool", "-K", "eth0", "gro", "off"])?;
        wait_until("the loss is told", Duration::from_secs(10), || {
            Ok(lab.h1().status()?["modes"]["switches"]
                .to_string()
                .contains("takes no frames from XDP programs"))
        })?;
        load.wait_for(100)?;
        let cost = load.stop()?;
        eprintln!("the NIC takes no XDP frames any more: {cost}");
        ensure!(cost.probe.lost <= 1500 && cost.probe.gap <= Duration::from_secs(4), "{cost}");
        Ok(())
    });
}
