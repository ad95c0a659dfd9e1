//! What stays on the underlay's device between two runs, and what comes back as it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxdp_lab::{Family, Host, Lab, Mode, Place, Segment, config_of, deploy, wait_until};

/// The number of the XDP program on `device`, if there is one.
fn program(host: &Place, device: &str) -> Result<Option<u64>> {
    Ok(host.json(["ip", "-json", "-details", "link", "show", device])?[0]["xdp"]["prog"]["id"].as_u64())
}

fn hides_tags(host: &Host, device: &str) -> Result<bool> {
    let features = host.exec(["ethtool", "-k", device])?;
    let line = features.lines().find(|line| line.starts_with("rx-vlan-offload:"));
    Ok(line.context("no such feature")?.contains("on"))
}

#[test]
#[ignore = "needs root"]
fn the_program_of_a_device_that_detaching_resets_is_kept_over_a_restart_until_down() {
    Lab::builder("kept").run(|lab| {
        let host = lab.h1();
        // A tap is no veth: as a NIC, it keeps its program.
        host.script(
            "ip tuntap add tap0 mode tap
             ip address flush dev eth0
             ip address add 192.168.10.21/24 dev tap0
             ip link set tap0 up",
        )?;
        host.container("c1")?;
        let config = config_of(lab, Family::V4, &[Segment::scenario()], 1).replace("\"eth0\"", "\"tap0\"");
        let config = host.write_config(&config)?;
        let first = host.start_vxdp(&config, Mode::Xdp)?;
        let attached = program(host, "tap0")?.context("no program on tap0")?;
        first.stop()?;
        ensure!(program(host, "tap0")? == Some(attached), "the program did not stay");
        ensure!(program(&host.netns("overlay"), "veth2")?.is_none(), "the port's program stayed");
        let path = config.to_str().context("not UTF-8")?;
        let advice = host.vxdp(&["doctor", "--config", path])?.stdout;
        ensure!(advice.contains("tap0") && !advice.contains("another XDP program"), "{advice}");
        let second = host.start_vxdp(&config, Mode::Xdp)?;
        let taken_over = program(host, "tap0")?.context("no program on tap0")?;
        ensure!(taken_over != attached, "the old program is still at work");
        second.kill()?;
        ensure!(program(host, "tap0")? == Some(taken_over), "the program did not survive its process");
        host.vxdp(&["down", "--config", path])?.success()?;
        wait_until("the program is gone", Duration::from_secs(5), || Ok(program(host, "tap0")?.is_none()))
    });
}

#[test]
#[ignore = "needs root"]
fn tags_are_hidden_from_the_program_by_no_offload_and_the_device_is_given_back_as_it_was() {
    Lab::builder("tags").run(|lab| {
        let host = lab.h1();
        ensure!(hides_tags(host, "eth0")?, "a veth has the feature on");
        let segment = Segment::scenario();
        let mut daemons =
            deploy(lab, Family::V4, std::slice::from_ref(&segment), &[Mode::Xdp, Mode::Kernel])?;
        ensure!(!hides_tags(host, "eth0")?, "still on");
        let told = host.vxdp(&["status"])?.success()?;
        ensure!(told.contains("eth0: switched off for now: rx-vlan-hw-parse"), "{told}");
        host.vxdp(&["mode", "kernel"])?.success()?;
        ensure!(hides_tags(host, "eth0")?, "not restored by the switch to kernel mode");
        host.vxdp(&["mode", "xdp"])?.success()?;
        ensure!(!hides_tags(host, "eth0")?, "still on");
        // Killed, it cannot restore anything; the next one can.
        daemons.remove(0).kill()?;
        ensure!(!hides_tags(host, "eth0")?, "who restored it?");
        let next = host.start_vxdp(&host.config_path(), Mode::Xdp)?;
        next.stop()?;
        ensure!(hides_tags(host, "eth0")?, "not restored by the next one");
        host.start_vxdp(&host.config_path(), Mode::Xdp)?.kill()?;
        let path = host.config_path();
        host.vxdp(&["down", "--config", path.to_str().context("not UTF-8")?])?.success()?;
        ensure!(hides_tags(host, "eth0")?, "not restored by down");
        Ok(())
    });
}

/// Filters of tc's on the ingress of the host's `eth0`: the daemon's, and the one of somebody else.
fn filters(host: &Host) -> Result<[usize; 2]> {
    let text = host.exec(["tc", "filter", "show", "dev", "eth0", "ingress"])?;
    let count = |kind: &str| text.lines().filter(|line| line.contains(kind)).count();
    Ok([count(" direct-action "), count(" bytecode ")])
}

/// Before Linux 6.6 there are no links for tc programs. Since then there is no filter at all, and what others have
/// beside it must stay all the same.
#[test]
#[ignore = "needs root"]
fn the_tc_program_of_a_killed_daemon_goes_with_the_next_one_or_with_down_and_others_stay() {
    Lab::builder("filter").run(|lab| {
        let host = lab.h1();
        host.script(
            "tc qdisc add dev eth0 clsact
             tc filter add dev eth0 ingress bpf bytecode '1,6 0 0 0,'",
        )?;
        let segment = Segment::scenario();
        let modes = [Mode::InKernel, Mode::Kernel];
        let mut daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        host.wait_for_fast_path()?;
        let [while_it_runs, others] = filters(host)?;
        ensure!(while_it_runs <= 1 && others == 1, "{while_it_runs} and {others} filters");
        daemons.remove(0).kill()?;
        ensure!(filters(host)? == [while_it_runs, 1], "a filter outlives its process: {:?}", filters(host)?);
        let second = host.start_vxdp(&host.config_path(), Mode::InKernel)?;
        host.wait_for_fast_path()?;
        ensure!(filters(host)? == [while_it_runs, 1], "one takes the other's place: {:?}", filters(host)?);
        second.kill()?;
        // It starts no engine, and stops: the filter is nobody's any more.
        host.start_vxdp(&host.config_path(), Mode::Kernel)?.stop()?;
        ensure!(filters(host)? == [0, 1], "after a daemon in kernel mode: {:?}", filters(host)?);
        host.start_vxdp(&host.config_path(), Mode::InKernel)?.kill()?;
        let path = host.config_path();
        host.vxdp(&["down", "--config", path.to_str().context("not UTF-8")?])?.success()?;
        ensure!(filters(host)? == [0, 1], "after down: {:?}", filters(host)?);
        Ok(())
    });
}
